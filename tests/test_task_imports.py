"""Modules of actions: imported again after they failed, run as a script too, exiting, defined twice."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib.errors import ConfigurationError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.model import TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import Registry, task
from tests.conftest import PROJECT
from tests.task_worker import Worker


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    Registry().names()
    before = dict(registry_module._actions)
    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


class Module:
    def __init__(self, folder: Path) -> None:
        self.name = f"actions_{uuid.uuid4().hex}"
        self.path = folder / f"{self.name}.py"

    def write(self, text: str) -> None:
        # Another size, so that no byte code of before is taken for it.
        self.path.write_text(f"from storage_lib.tasks.registry import task\n{text}\n")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    monkeypatch.syspath_prepend(tmp_path)
    return Module(tmp_path)


GOOD = """
@task("imported")
async def imported(context, payload):
    return "{0}"
"""


@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        ("raise ValueError('no model')", "no model"),
        ("import no_such_library", "no_such_library"),
        ("raise KeyError", "KeyError"),
        ("def broken(:", "invalid syntax"),
        ("import sys; sys.exit(0)", "exited while it was imported (0)"),
        ("raise SystemExit", "exited while it was imported (None)"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("import asyncio; raise asyncio.CancelledError", "raised CancelledError"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", ": E"),
    ],
)
def test_an_import_that_failed_may_succeed_later(module: Module, fails: str, reason: str) -> None:
    module.write(GOOD.format("first") + fails)
    registry = Registry([module.name])
    for _ in range(3):
        with pytest.raises(ConfigurationError) as refused:
            registry.get("imported")
        assert reason in refused.value.message  # the same each time
        assert module.name in refused.value.message
        assert refused.value.field == "AGENT_TASK_MODULES"
    if "exited" in reason:
        assert "__main__" in str(refused.value.remedy)
    module.write(GOOD.format("now it works, and its source is longer than any before"))
    importlib.invalidate_caches()
    run: Any = registry.get("imported").run
    assert asyncio.run(run(None, None)) == "now it works, and its source is longer than any before"


def test_a_module_that_was_not_there_is_found_later(module: Module) -> None:
    registry = Registry([module.name])
    with pytest.raises(ConfigurationError, match="No module named"):
        registry.names()
    module.write(GOOD.format("here"))
    assert "imported" in registry.names()


async def test_a_task_waits_for_its_module_and_then_runs(module: Module) -> None:
    module.write(GOOD.format("x") + "import sys; sys.exit(0)")
    worker = Worker(Registry([module.name]))
    await worker.engine.worker.process(
        '{"task_id": "t", "agent_id": "a", "action": "imported"}', queue=TASK_QUEUE
    )
    record = await worker.get("t")
    assert (record.status, record.attempts) == (TaskStatus.QUEUED, 0)
    assert record.error is not None
    assert "exited" in record.error.message
    module.write(GOOD.format("mended, at last"))
    importlib.invalidate_caches()
    worker.clock.now += 61
    await worker.run(await worker.take())
    assert (await worker.get("t")).result == "mended, at last"


def test_a_script_that_is_a_task_module_too_is_the_same(module: Module) -> None:
    module.write(
        GOOD.format("script")
        + "if __name__ == '__main__':\n"
        + "    from storage_lib.tasks.registry import Registry\n"
        + f"    print(Registry(['{module.name}']).get('imported').run.__module__)\n"
    )
    for path in (str(module.path), os.path.relpath(module.path, PROJECT)):
        run = subprocess.run(
            [sys.executable, path],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": f"{PROJECT}:{module.path.parent}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.stdout.strip(), run.stderr) == (module.name, "")


def cell(text: str, number: int, namespace: dict[str, Any]) -> None:
    exec(compile(text, f"<cell-{number}>", "exec"), namespace)  # noqa: S102 - as a notebook does


def test_a_cell_that_is_run_twice_is_the_same_and_the_later_counts() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "task": task}
    for number in range(3):
        cell(GOOD.format(f"run {number}"), number, namespace)
    run: Any = registry_module._actions["imported"].run
    assert asyncio.run(run(None, None)) == "run 2"


def test_a_module_that_is_reloaded_is_the_same(module: Module) -> None:
    module.write(GOOD.format("before"))
    Registry([module.name]).names()
    module.write("\n\n" + GOOD.format("after, and further down"))
    importlib.invalidate_caches()
    importlib.reload(sys.modules[module.name])
    run: Any = Registry([module.name]).get("imported").run
    assert asyncio.run(run(None, None)) == "after, and further down"


def test_two_of_one_name_are_still_two(module: Module) -> None:
    module.write(GOOD.format("one") + GOOD.format("two"))
    with pytest.raises(ConfigurationError, match="two actions are named 'imported'") as refused:
        Registry([module.name]).names()
    assert refused.value.remedy
    del registry_module._actions["imported"]
    namespace: dict[str, Any] = {"__name__": "__main__", "task": task}
    cell(GOOD.format("one"), 1, namespace)
    with pytest.raises(ConfigurationError, match="two actions"):
        cell(GOOD.format("one").replace("def imported", "def another"), 2, namespace)

    def make(n: int) -> Any:
        async def run(context: Any, payload: Any) -> int:
            return n

        return task("made")(run)

    make(1)
    with pytest.raises(ConfigurationError, match="two actions"):
        make(2)


def test_partials_and_objects_have_a_place_too() -> None:
    async def run(n: int, context: Any, payload: Any) -> int:
        return n

    class Callable:
        async def __call__(self, context: Any, payload: Any) -> None:
            return None

    task("partial")(functools.partial(run, 1))
    with pytest.raises(ConfigurationError, match=r"partials_and_objects.*run and .*Callable"):
        task("partial")(Callable())


def test_the_app_says_why_it_cannot_start_and_does_not_exit_with_0(module: Module, tmp_path: Path) -> None:
    module.write("import sys; sys.exit(0)")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "devhost", "--port", "0", "--data", str(tmp_path / "data")),
        ],
        cwd=PROJECT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("A")},
            "AGENT_TASK_MODULES": module.name,
            "PYTHONPATH": f"{PROJECT}:{module.path.parent}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode != 0
    assert "exited while it was imported" in run.stdout + run.stderr
