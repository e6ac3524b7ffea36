"""What docs/integrations.md says was run is what runs: its versions are installed, its tests are there."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.metadata import version

import pytest

from tests.conftest import PROJECT
from tests.environments import PINS
from tests.framework_table import pinned_versions, table

FILES = {
    "LangGraph": ("test_langgraph.py", "test_langgraph_store.py", "test_langgraph_agent.py"),
    "py-key-value": ("test_key_value.py",),
    "fsspec": ("test_fsspec.py",),
    "zarr": ("test_zarr.py",),
    "Microsoft Agent Framework": tuple(
        f"test_agent_framework_{part}.py" for part in ("checkpoints", "files", "history", "sessions")
    ),
    "OpenAI Agents SDK": ("test_openai_agents.py", "test_openai_agents_example.py"),
    "Pydantic AI": ("test_pydantic_ai.py",),
    "Temporal": ("test_temporal.py",),
}
OF_A_STORE = {"fsspec": "fsspec file", "zarr": "zarr TestFiles"}
"""Whose suite is collected: how `COUNT` names its tests on files. LangGraph's is counted where it runs."""
IN_ENVIRONMENTS = {
    "FastMCP": "fastmcp",
    "Hugging Face datasets": "datasets",
    "Strands Agents": "strands",
    "Google ADK": "google_adk",
}
"""Whose tests compare what they ran with the table."""

COUNT = """
import sys
import pytest

class Collected:
    def pytest_collection_finish(self, session):
        for item in session.items:
            place = item.callspec.params.get("kind", "") if hasattr(item, "callspec") else ""
            place = item.cls.__name__ if item.cls and not place else place
            origin = item.function.__module__.partition(".")[0]
            print("COLLECTED", item.path.name, origin, place, sep="\\t")

options = ["-q", "--collect-only", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*options, *sys.argv[1:]], plugins=[Collected()]))
"""


@pytest.fixture(scope="module")
def collected() -> Counter[tuple[str, str, str]]:
    """How many tests there are, by their file, the package that has written them, and their store."""
    paths = [str(PROJECT / "tests" / name) for names in FILES.values() for name in names]
    command = [sys.executable, "-c", COUNT, *paths]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    lines = [line.split("\t")[1:] for line in run.stdout.splitlines() if line.startswith("COLLECTED\t")]
    return Counter((name, origin, place) for name, origin, place in lines)


def test_every_framework_of_the_table_is_checked() -> None:
    assert table().keys() == FILES.keys() | IN_ENVIRONMENTS.keys()


@pytest.mark.parametrize("framework", FILES)
def test_the_table_has_the_numbers_of_what_runs(
    framework: str, collected: Counter[tuple[str, str, str]]
) -> None:
    told = table()[framework]
    own = {key: count for key, count in collected.items() if key[0] in FILES[framework]}
    assert sum(count for (_, origin, _), count in own.items() if origin == "tests") == told.ours
    if framework in OF_A_STORE:
        origin, place = OF_A_STORE[framework].split()
        found = sum(count for key, count in own.items() if key[1:] == (origin, place))
        assert found == told.suite
    elif framework != "LangGraph":
        assert told.suite == 0


@pytest.mark.parametrize("framework", sorted({*FILES, *IN_ENVIRONMENTS}))
def test_the_table_has_the_versions_of_what_runs(framework: str) -> None:
    versions, pinned = table()[framework].versions, pinned_versions() | {"duckdb": version("duckdb")}
    assert versions
    assert versions == {name: pinned[name] for name in versions}
    if framework in FILES:
        assert versions == {name: version(name) for name in versions}
    else:
        pins = (PINS / f"{IN_ENVIRONMENTS[framework]}.txt").read_text().splitlines()
        assert {f"{name}=={number}" for name, number in versions.items()} <= set(pins)
