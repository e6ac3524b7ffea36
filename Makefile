# The two commands of a newcomer: `make run` and `make test`. Everything is installed into .venv.

PYTHON ?= python3.13
PORT ?= 7071
ARGS ?=
# Tests wait more than they work; those of a file stay together, for they share servers.
PROCESSES ?= 4
PYTEST = $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)
# Not given, the app settings decide (docs/configuration.md).
BACKEND ?=
DATA ?=

VENV := .venv
BIN := $(VENV)/bin
# The project's own files: what a user keeps beside them is not ours to check.
SOURCES := function_app.py functions actions integrations examples storage_lib deployment devhost tests benchmarks README.md CHANGES.md docs

.PHONY: run package lock test soak infra-check lint format bench docs console screenshots clean

# exec, so that what ends make ends the server, and Azurite with it.
# S3 needs botocore, which nothing else does.
run: $(VENV)/run.stamp $(if $(filter s3,$(AGENT_STORAGE_TYPE)),$(VENV)/s3.stamp)
	@exec $(BIN)/python -m devhost $(if $(BACKEND),--backend "$(BACKEND)") $(if $(DATA),--data "$(DATA)") \
	  --port $(PORT) --hints --end-with-parent $(ARGS)

# dist/app.zip, which is deployed as it is; `make lock` after requirements.txt was changed.
package: $(VENV)/python.stamp
	@$(BIN)/python -m deployment.package

lock: $(VENV)/python.stamp
	@$(BIN)/python -m deployment.package --lock

# Hundreds of processes are started by tests: compiled once, modules are read by all of them.
test soak: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/dev.stamp
	@$(PYTEST) || $(BIN)/python -m tests.second_look $$?

soak: $(VENV)/dev.stamp
	SOAK=1 $(PYTEST)

# The templates by Microsoft's compiler, which is used where it is there; make test does so too.
infra-check: $(VENV)/dev.stamp
	$(BIN)/python -m tests.infra_compiler

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(ARGS)

# Strict: a warning, which a link that leads nowhere is too, fails.
docs: $(VENV)/dev.stamp
	$(BIN)/python -m mkdocs build --strict --quiet

# The page of the app, from its source; Node is installed into .venv if there is none.
console: $(VENV)/dev.stamp
	$(BIN)/python -m tests.console_build

# Pictures of its views, of a store that is filled for them, into docs/pictures; ARGS="tasks tables" takes some.
screenshots: $(VENV)/dev.stamp
	$(BIN)/python -m tests.console_pictures $(ARGS)

clean:
	rm -rf $(VENV) dist site .azurite .clients .pytest_cache .ruff_cache .hypothesis

# A stamp says what the environment was made from; whichever file changes makes it again.
$(VENV)/run.stamp: requirements.txt devhost/requirements.txt | $(VENV)/python.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r devhost/requirements.txt
	@touch $@

$(VENV)/s3.stamp: requirements-s3.txt | $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-s3.txt
	@touch $@

$(VENV)/dev.stamp: requirements.txt devhost/requirements.txt requirements-s3.txt requirements-dev.txt | $(VENV)/python.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/run.stamp

$(VENV)/bench.stamp: benchmarks/requirements.txt $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

$(VENV)/python.stamp:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not there: install Python 3.13, or name it with PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 13))' || { \
	  echo "$(PYTHON) is older than Python 3.13: name a newer one with PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
