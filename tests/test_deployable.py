"""What is deployed starts by itself: requirements.txt and what .funcignore leaves, in an empty environment.

Microsoft's runtime is the platform's there, not the app's, so it lies on a path of its own here, with
`devhost.runtime` to drive it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import azure_functions_runtime
import pathspec
import pytest

from tests.conftest import PROJECT
from tests.test_bindings import bindings

DRIVER = """
import asyncio, importlib.util, json, os, sys, time
from pathlib import Path

os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
banned = [name for name in json.loads(sys.argv[2]) if importlib.util.find_spec(name)]
started = time.perf_counter()
import function_app
imported = time.perf_counter() - started

from devhost.runtime import http_datum, invoke, load_app
started = time.perf_counter()
index = load_app(Path(sys.argv[1]))
indexed = time.perf_counter() - started

async def ask(name, method, path, body=b"", **route):
    headers = {"Content-Type": "application/json"}
    request = http_datum(method, "http://app/api/" + path, headers, {}, route, body)
    found = await invoke(index[name], [("req", request)])
    assert found.ok, found.error + found.traceback
    answer = found.return_value.value
    return [answer["status_code"].value, answer["body"].value.decode()]

async def all():
    key = "configs/ceo.json"
    answers = [
        await ask("health_live", "GET", "health/live"),
        await ask("save_object", "PUT", "objects/" + key, b'{"name": "ceo"}', key=key),
        await ask("load_object", "GET", "objects/" + key, key=key),
    ]
    await function_app.shutdown()
    return answers

print(json.dumps({
    "answers": asyncio.run(all()),
    "banned": banned,
    "functions": [function.name for function in index.functions],
    "imported": imported,
    "indexed": indexed,
    "files": sorted({str(getattr(m, "__file__", None) or "") for m in list(sys.modules.values())}),
}))
"""


def deployed() -> Iterator[Path]:
    """The files that a deployment takes, by .funcignore, which is written like .gitignore."""
    spec = pathspec.GitIgnoreSpec.from_lines((PROJECT / ".funcignore").read_text().splitlines())
    for folder, subfolders, names in PROJECT.walk():
        here = folder.relative_to(PROJECT)
        subfolders[:] = [name for name in subfolders if not spec.match_file(f"{here / name}/")]
        yield from (here / name for name in names if not spec.match_file(here / name))


def own_modules() -> set[Path]:
    """Modules beside function_app.py, where the README puts actions of one's own: they are deployed too."""
    return {path.relative_to(PROJECT) for path in PROJECT.glob("*.py")} - {Path("function_app.py")}


def distributions(requirements: Path) -> set[str]:
    """The names in a file of requirements, and in those that it takes in."""
    found: set[str] = set()
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            found |= distributions(requirements.parent / line[3:])
        elif name := re.match(r"[A-Za-z0-9][\w.-]*", line):
            found.add(name[0].lower())
    return found


def development_modules() -> list[str]:
    """What can be imported here by requirements-dev.txt and must not be needed there."""
    extra = distributions(PROJECT / "requirements-dev.txt") - distributions(PROJECT / "requirements.txt")
    extra -= {"azure-functions-runtime"}
    extra -= {"cryptography"}  # azure-identity brings it there too
    of = importlib.metadata.packages_distributions()
    modules = {module for module, names in of.items() if {name.lower() for name in names} & extra}
    named = {module for module in modules if module.isidentifier() and not module.startswith("_")}
    return sorted(named | {"tests", "benchmarks", "pip", "setuptools"})


def test_only_the_app_is_deployed() -> None:
    files = set(deployed())
    whole = {Path(name) for name in ("function_app.py", "host.json", "requirements.txt")}
    assert whole <= files
    for path in files - whole - own_modules():
        assert path.parts[0] in ("functions", "actions", "storage_lib"), path
        assert path.suffix == ".py" or path.name == "py.typed", path
        assert "testing" not in path.parts, path
    for folder in ("functions", "actions", "storage_lib"):
        sources = {p.relative_to(PROJECT) for p in (PROJECT / folder).rglob("*.py")}
        assert {p for p in sources - files if "testing" not in p.parts} == set()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as a deployment would lay it out: through a zip."""
    home = tmp_path_factory.mktemp("deployed")
    with zipfile.ZipFile(home / "app.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(deployed()):
            archive.write(PROJECT / path, path)
    with zipfile.ZipFile(home / "app.zip") as archive:
        archive.extractall(home / "app")
    return home


@pytest.mark.timeout(600)
def test_it_starts_in_a_clean_environment(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment, platform, app = package / "environment", package / "platform", package / "app"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "-r", app / "requirements.txt"], check=True)
    installed = time.perf_counter() - started
    dependencies = size_of(environment)

    runtime = Path(azure_functions_runtime.__file__).parent
    shutil.copytree(runtime, platform / runtime.name)
    shutil.copytree(runtime.parent / "azurefunctions", platform / "azurefunctions")
    (platform / "devhost").mkdir()
    for name in ("__init__.py", "errors.py", "runtime.py"):
        shutil.copy(PROJECT / "devhost" / name, platform / "devhost")
    driver = package / "driver.py"
    driver.write_text(DRIVER)

    settings = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(platform),
        "AGENT_STORAGE_TYPE": "file",
        "AGENT_STORAGE_PATH": str(package / "data"),
    }
    banned = development_modules()
    assert {"croniter", "hypothesis", "numpy", "pytest", "tests"} <= set(banned)
    command = [python, "-P", "-W", "error", driver, app, json.dumps(banned)]
    run = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    told: dict[str, Any] = json.loads(run.stdout)

    assert told["banned"] == []
    strangers = [f for f in told["files"] if f.startswith(str(PROJECT)) or f"{sys.prefix}{os.sep}" in f]
    assert strangers == [], "it used something of the development environment"
    assert sorted(told["functions"]) == sorted(bindings())
    live, saved, loaded = told["answers"]
    assert live == ["200", '{"status":"live"}']
    assert saved[0] == "201"
    assert json.loads(saved[1])["key"] == "configs/ceo.json"
    assert loaded == ["200", '{"name": "ceo"}']
    with capsys.disabled():
        print(
            f"\ndeployed: zip {(package / 'app.zip').stat().st_size / 1e3:.0f} kB,"
            f" app {size_of(app) / 1e6:.1f} MB, requirements {dependencies / 1e6:.0f} MB"
            f" installed in {installed:.0f} s; import {told['imported'] * 1e3:.0f} ms,"
            f" index of {len(told['functions'])} functions {told['indexed'] * 1e3:.0f} ms"
        )


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_zip_of_the_documentation_has_the_same_files(tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "deploy.md").read_text()
    command = re.search(r"^zip -qr app\.zip (?:.*\\\n)*.*", text, re.MULTILINE)
    assert command
    target = tmp_path / "app.zip"
    packing = command[0].replace("app.zip", str(target), 1)
    subprocess.run(["bash", "-ec", packing], cwd=PROJECT, check=True)
    with zipfile.ZipFile(target) as archive:
        packed = {Path(name) for name in archive.namelist() if not name.endswith("/")}
    assert packed == set(deployed()) - own_modules()
