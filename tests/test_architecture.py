"""The walls between the layers, read from the imports themselves."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.conftest import PROJECT

ROOMS = [
    ("storage_lib.config", "storage_lib.metrics"),
    ("storage_lib.ports",),
    ("storage_lib.backends", "storage_lib.layers", "storage_lib.testing"),
    ("storage_lib.factory",),
    (
        "storage_lib.links",
        "storage_lib.manager",
        "storage_lib.object_methods",
        "storage_lib.prefixes",
        "storage_lib.uploads",
        "storage_lib.versioning",
    ),
    ("storage_lib.blocking", "storage_lib.sync"),
    ("storage_lib.tasks",),
    ("storage_lib", "storage_lib.testing.conversations"),
    ("actions",),
    ("integrations",),
    ("functions",),
    ("function_app",),
    ("devhost",),
]
"""From the inside out: a module may import what stands on its own line or before, never behind. Before all of
them stand the files of storage_lib that import none of them (`foundation`)."""

ROOMS_OF_STRANGERS = {"storage_lib.backends": ("cloud",), "storage_lib.layers": ("base", "transforming")}
"""Folders whose parts do not know each other, and the parts that they share."""

SHARED_PACKAGES = ("msgspec", "azure")
"""What backends may import like everyone else; Azure's SDK has entries of its own."""

VENDOR_HOMES = {
    "azure.functions": ("functions", "function_app", "devhost"),
    "azure_functions_runtime": ("devhost",),
    "azure.storage": ("storage_lib.backends.azure",),
    "azure.data": ("storage_lib.backends.azure",),
    "azure.identity": ("storage_lib.azure_credential",),
    "azure.core": ("storage_lib.backends.azure", "storage_lib.layers.encryption.vault"),
    "azure.keyvault": ("storage_lib.layers.encryption.vault",),
    "obstore": ("storage_lib.backends.azure", "storage_lib.backends.s3"),
    "aiohttp": (
        "devhost",
        "storage_lib.backends.azure",
        "storage_lib.backends.s3",
        "storage_lib.backends.http",
        "storage_lib.backends.cloud",
    ),
    "botocore": ("storage_lib.backends.s3",),
    "httptools": ("storage_lib.backends.cloud",),
    "opentelemetry": (
        "storage_lib.metrics.opentelemetry",
        "storage_lib.tracing",
        "functions.monitor",
    ),
    "mcp": ("functions.mcp",),
    "mcp_types": ("functions.mcp",),
    "jsonschema": ("storage_lib.layers.validation",),
    "jwt": ("storage_lib.access",),
    "referencing": ("storage_lib.layers.validation",),
    "sqlite3": ("storage_lib.backends.file",),
    "pytest": ("storage_lib.testing",),
    "rich": ("storage_lib.cli",),
    "typer": ("storage_lib.cli",),
}


@cache
def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for top in ("storage_lib", "actions", "integrations", "functions", "devhost"):
        for path in (PROJECT / top).rglob("*.py"):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found["function_app"] = PROJECT / "function_app.py"
    return found


@cache
def imports(path: Path, *, for_types: bool = False) -> set[str]:
    """Every module that a file imports, anywhere in it.

    :param for_types: also what it imports for the eyes of a type checker only.
    """
    tree = ast.parse(path.read_text())
    unseen: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not for_types:
            unseen.update(child for statement in node.body for child in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in unseen:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def module_of(imported: str) -> str | None:
    """The module of this project that an import names, or whose part it names."""
    while imported and imported not in modules():
        imported = imported.rpartition(".")[0]
    return imported or None


@cache
def foundation() -> set[str]:
    """The files of storage_lib that import nothing but each other."""
    found = {name for name in modules() if name.count(".") == 1 and modules()[name].name != "__init__.py"}
    found = {name for name in found if name.startswith("storage_lib.")}
    while outer := {
        name
        for name in found
        if any(
            module not in found for imported in imports(modules()[name]) if (module := module_of(imported))
        )
    }:
        found -= outer
    return found


def rank(name: str) -> int:
    """The line of the most specific entry that ``name`` belongs to."""
    if module_of(name) in foundation():
        return -1
    best = max((entry for line in ROOMS for entry in line if below(name, (entry,))), key=len)
    return next(n for n, line in enumerate(ROOMS) if best in line)


def below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def every_import() -> Iterator[tuple[str, str]]:
    """Each module with each of its imports."""
    for name, path in sorted(modules().items()):
        for imported in sorted(imports(path)):
            yield name, imported


def test_imports_run_one_way() -> None:
    tops = ("storage_lib", "actions", "integrations", "functions", "devhost", "function_app")
    assert [
        f"{name} imports {imported}"
        for name, imported in every_import()
        if below(imported, tops) and rank(imported) > rank(name)
    ] == []


def test_a_vendor_stays_in_its_own_house() -> None:
    assert [
        f"{name} imports {imported}"
        for name, imported in every_import()
        for vendor, homes in VENDOR_HOMES.items()
        if below(imported, (vendor,)) and not below(name, homes)
    ] == []


def test_what_only_backends_need_is_imported_by_them_alone() -> None:
    """So that whoever uses one backend installs and loads the packages of no other."""
    backends = ("storage_lib.backends",)
    own = {imported.partition(".")[0] for name, imported in every_import() if below(name, backends)}
    packages = own - {"storage_lib", "__future__", *SHARED_PACKAGES} - sys.stdlib_module_names
    assert {"obstore", "aiohttp", "botocore"} <= packages
    assert [
        f"{name} imports {imported}"
        for name, imported in every_import()
        if not below(name, (*backends, "devhost")) and imported.partition(".")[0] in packages
    ] == []


def test_backends_and_layers_do_not_know_each_other() -> None:
    """A layer knows the ports only, and what is around a backend is not its business."""
    wrong: list[str] = []
    for name, imported in every_import():
        room = next((room for room in ROOMS_OF_STRANGERS if below(name, (room,))), None)
        if room is not None and below(imported, tuple(ROOMS_OF_STRANGERS)):
            own = tuple(f"{room}.{part}" for part in (name.split(".")[2:3] or [""]))
            shared = tuple(f"{room}.{part}" for part in ROOMS_OF_STRANGERS[room])
            if not below(imported, (*own, *shared)):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_an_adapter_of_a_framework_is_imported_by_nobody() -> None:
    """Whoever uses one framework installs no other, and the app needs none. An adapter may be a folder."""
    assert [
        f"{name} imports {imported}"
        for name, imported in every_import()
        if module_of(imported) not in (None, "integrations")
        and not below(imported, (".".join(name.split(".")[:2]),))
        and below(imported, ("integrations",))
    ] == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Nor for the eyes of a type checker."""
    inner: dict[str, set[str]] = {
        name: {
            module
            for imported in imports(path, for_types=True)
            if (module := module_of(imported)) not in (None, name)
        }
        for name, path in modules().items()
    }
    # Whatever imports nothing that is left is in no circle.
    while free := [name for name, imported in inner.items() if not imported & inner.keys()]:
        for name in free:
            del inner[name]
    # What is left is in a circle, or imports one: leave out what nobody left imports.
    while unused := inner.keys() - set().union(*inner.values()):
        for name in unused:
            del inner[name]
    assert sorted(inner) == []


def test_the_composition_root_is_small() -> None:
    assert len((PROJECT / "function_app.py").read_text().splitlines()) < 60


PARTS_OF_THE_ENGINE = {"control", "outbox", "records", "repair", "submission", "worker"}


def test_tasks_are_reached_through_the_engine_alone() -> None:
    wrong: list[str] = []
    for name, path in sorted(modules().items()):
        if name.startswith(("functions", "actions")):
            reached = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("engine")
            }
            wrong += [f"{name} reaches {part}" for part in sorted(reached & PARTS_OF_THE_ENGINE)]
    assert wrong == []


def test_the_engine_knows_no_action() -> None:
    code = (
        "from storage_lib.tasks.engine import Registry; print(Registry().names());"
        "from functions.state import task_registry; print(task_registry().names())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    none, known = run.stdout.splitlines()
    assert none == "[]"
    assert "analyze_report" in known


COLD_START_BANNED = ("azure.storage", "azure.data", "azure.identity", "aiohttp", "numpy", "cryptography")


def test_a_cold_start_imports_only_what_it_needs() -> None:
    code = "import sys, function_app; print('\\n'.join(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = run.stdout.split()
    assert "function_app" in loaded
    wrong = [name for name in loaded if below(name, (*COLD_START_BANNED, "obstore", "sqlite3", "sly"))]
    assert wrong == []


FIRST_USED = ("storage_lib.ports.backend", "storage_lib.ports.object_model", "storage_lib.ports.table_model")
"""Loaded with the storage, by the first invocation that needs it."""


def test_a_cold_start_generates_and_compiles_next_to_nothing() -> None:
    """A dataclass costs half a millisecond of a cold start, a regular expression a third of one."""
    code = """
import dataclasses, json, re._compiler, sys
import azure.functions, pydantic, glob
made, compiled = [], []
process, compile = dataclasses._process_class, re._compiler.compile

def processed(cls, *arguments):
    made.append(f"{cls.__module__}.{cls.__qualname__}")
    return process(cls, *arguments)

def compiled_by(pattern, flags=0):
    compiled.append(str(pattern))
    return compile(pattern, flags)

dataclasses._process_class, re._compiler.compile = processed, compiled_by
import function_app
print(json.dumps([made, compiled, list(sys.modules)]))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    made, compiled, loaded = json.loads(run.stdout)
    assert [name for name in loaded if below(name, FIRST_USED)] == []
    own = [name for name in made if not name.startswith("storage_lib.tasks.model.")]
    assert own == ["storage_lib.config.storage.StorageConfig"]
    assert len(made) < 10
    assert compiled == []
