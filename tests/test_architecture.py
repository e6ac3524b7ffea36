"""The walls between the layers, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

LAYERS = [
    (
        "storage_lib.arguments",
        "storage_lib.buffers",
        "storage_lib.codecs",
        "storage_lib.codings",
        "storage_lib.errors",
        "storage_lib.json_text",
        "storage_lib.model_keys",
        "storage_lib.keys",
        "storage_lib.names",
        "storage_lib.npy",
        "storage_lib.packing",
        "storage_lib.patterns",
        "storage_lib.pickling",
        "storage_lib.sameness",
        "storage_lib.spelling",
        "storage_lib.structure",
        "storage_lib.threads",
        "storage_lib.values",
    ),
    ("storage_lib.config",),
    ("storage_lib.ports",),
    ("storage_lib.backends", "storage_lib.layers", "storage_lib.testing"),
    ("storage_lib.factory",),
    ("storage_lib.manager",),
    ("storage_lib.tasks",),
    ("storage_lib",),
    ("actions",),
    ("functions",),
    ("function_app",),
    ("devhost",),
]
"""From the inside out: a module may import what stands on its own line or before, never behind."""

VENDOR_HOMES = {
    "azure.functions": ("functions", "function_app", "devhost"),
    "azure_functions_runtime": ("devhost",),
    "azure.storage": ("storage_lib.backends.azure",),
    "azure.data": ("storage_lib.backends.azure",),
    "azure.identity": ("storage_lib.backends.azure",),
    "azure.core": ("storage_lib.backends.azure",),
    "obstore": ("storage_lib.backends.azure", "storage_lib.backends.s3"),
    "aiohttp": (
        "devhost",
        "storage_lib.backends.azure",
        "storage_lib.backends.s3",
        "storage_lib.backends.cloud",
    ),
    "botocore": ("storage_lib.backends.s3",),
    "sqlite3": ("storage_lib.backends.file",),
    "pytest": ("storage_lib.testing",),
}


def modules() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for top in ("storage_lib", "actions", "functions", "devhost"):
        for path in (PROJECT / top).rglob("*.py"):
            parts = path.relative_to(PROJECT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found["function_app"] = PROJECT / "function_app.py"
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it, except for the eyes of a type checker only."""
    tree = ast.parse(path.read_text())
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for_types.update(child for statement in node.body for child in ast.walk(statement))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def rank(name: str) -> int:
    """The line of the most specific entry that ``name`` belongs to."""
    best = max(
        (entry for line in LAYERS for entry in line if name == entry or name.startswith(entry + ".")), key=len
    )
    return next(n for n, line in enumerate(LAYERS) if best in line)


def below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_run_one_way(name: str) -> None:
    for imported in imports(modules()[name]):
        if not below(imported, ("storage_lib", "actions", "functions", "devhost", "function_app")):
            continue
        assert rank(imported) <= rank(name), f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_vendor_stays_in_its_own_house(name: str) -> None:
    for imported in imports(modules()[name]):
        for vendor, homes in VENDOR_HOMES.items():
            if below(imported, (vendor,)):
                assert below(name, homes), f"{name} imports {imported}"


@pytest.mark.parametrize("name", [n for n in sorted(modules()) if n.startswith("storage_lib.backends.")])
def test_backends_do_not_know_each_other(name: str) -> None:
    kinds = {path.stem for path in (PROJECT / "storage_lib/backends").iterdir()} - {
        "__init__",
        "__pycache__",
        "cloud",
    }
    own = name.split(".")[2]
    if own not in kinds:
        return
    for imported in imports(modules()[name]):
        parts = imported.split(".")
        if parts[:2] == ["storage_lib", "backends"] and parts[2] in kinds:
            assert parts[2] == own, f"{name} imports {imported}"


@pytest.mark.parametrize(
    "name", [n for n in sorted(modules()) if below(n, ("storage_lib.backends", "storage_lib.layers"))]
)
def test_layers_and_backends_do_not_know_each_other(name: str) -> None:
    """A layer knows the ports only, and what is around a backend is not its business."""
    for imported in imports(modules()[name]):
        if below(name, ("storage_lib.layers",)):
            assert not below(imported, ("storage_lib.backends",)), f"{name} imports {imported}"
        else:
            assert not below(imported, ("storage_lib.layers",)), f"{name} imports {imported}"


def test_the_composition_root_is_small() -> None:
    assert len((PROJECT / "function_app.py").read_text().splitlines()) < 60


PARTS_OF_THE_ENGINE = {"control", "outbox", "records", "repair", "submission", "worker"}


@pytest.mark.parametrize("name", [n for n in sorted(modules()) if n.startswith(("functions", "actions"))])
def test_tasks_are_reached_through_the_engine_alone(name: str) -> None:
    tree = ast.parse(modules()[name].read_text())
    reached = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("engine")
    }
    assert reached.isdisjoint(PARTS_OF_THE_ENGINE)


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
