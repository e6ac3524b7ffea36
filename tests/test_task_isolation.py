"""Functions that run in a process of their own: what comes back, and that they can always be ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage_lib.config import StorageConfig
from storage_lib.errors import InvalidArgumentError, SerializationError, TransientStorageError
from storage_lib.manager import StorageManager
from storage_lib.tasks import isolation
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.isolation import IsolatedError, MemoryExceededError, ProcessDiedError, run
from storage_lib.tasks.model import TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import Registry
from tests import isolated_functions as functions
from tests.conftest import PROJECT

MOST_SECONDS = 600.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(MOST_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def announced(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text().isdecimal()


def gone(pid: int) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    return check


@pytest.mark.parametrize(
    "value",
    [None, {"a": [1, 2.5, "x", True]}, "text", b"\x00" * 5_000_000, (1, {2}), datetime.now(UTC), 10**300],
)
async def test_a_value_comes_back_as_it_went(value: Any) -> None:
    assert await run(functions.same, value) == value
    assert await run(functions.same, 1, named=value) == (1 if value is None else [1, value])


async def test_processes_are_used_again_and_there_are_only_a_few() -> None:
    found = await asyncio.gather(*(run(functions.process_id) for _ in range(50)))
    assert os.getpid() not in found
    assert len(set(found)) <= (os.process_cpu_count() or 1)
    assert await run(functions.process_id) in found


async def test_an_idle_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = isolation._Pool(2, idle_seconds=0.2)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(isolation, "_pool", lambda _: pool)  # pyright: ignore[reportUnknownLambdaType]
    pid = await run(functions.process_id)
    await until(gone(pid))
    assert await run(functions.process_id) != pid


async def test_it_gets_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AgentStorage", "AccountKey=secret")
    pool = isolation._Pool(1, idle_seconds=0.2)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(isolation, "_pool", lambda _: pool)  # pyright: ignore[reportUnknownLambdaType]
    assert "secret" not in str(await run(functions.settings))


async def test_its_errors_are_its_own() -> None:
    with pytest.raises(InvalidArgumentError) as bad:
        await run(functions.fail, "storage")
    assert (bad.value.message, bad.value.field, bad.value.limit, bad.value.remedy) == ("bad", "f", "l", "r")
    assert "isolated_functions.py" in str(bad.value.__cause__)
    with pytest.raises(TransientStorageError) as later:
        await run(functions.fail, "transient")
    assert later.value.retry_after == 7.5
    with pytest.raises(LookupError, match="nothing"):
        await run(functions.fail, "builtin")
    with pytest.raises(ValueError, match="UnicodeDecodeError: 'utf-8' codec"):
        await run(functions.fail, "unicode")
    with pytest.raises(IsolatedError, match="OwnError: 1 and 2"):
        await run(functions.fail, "own")
    with pytest.raises(ValueError, match="text cannot be had"):
        await run(functions.fail, "silent")
    with pytest.raises(IsolatedError, match="SystemExit: 3"):
        await run(functions.fail, "exit")
    with pytest.raises(ValueError, match=r"\\ud800"):
        await run(functions.fail, "surrogate")
    with pytest.raises(SerializationError, match="object"):
        await run(functions.fail, "result")


async def test_its_death_is_told_and_the_next_call_goes_well() -> None:
    with pytest.raises(ProcessDiedError, match="signal 9"):
        await run(functions.fail, "killed")
    with pytest.raises(ProcessDiedError, match="exit code 5"):
        await run(functions.fail, "gone")
    assert await run(functions.same, 1) == 1


async def test_what_it_prints_harms_nobody() -> None:
    assert await run(functions.chatter) == ""
    assert await run(functions.same, 1) == 1


async def test_a_function_that_cannot_be_imported_is_refused() -> None:
    def local() -> None: ...

    for function in (local, lambda: None, functions.asynchronous):
        with pytest.raises(InvalidArgumentError) as error:
            await run(function)
        assert (error.value.field, bool(error.value.remedy)) == ("function", True)
    with pytest.raises(InvalidArgumentError, match="cannot be sent"):
        await run(functions.same, lambda: None)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
async def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_memory", lambda: 1)
    pool = isolation._Pool(1, idle_seconds=0.2)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(isolation, "_pool", lambda _: pool)  # pyright: ignore[reportUnknownLambdaType]
    with pytest.raises(MemoryExceededError) as error:
        await run(functions.grow)
    assert error.value.limit == "512 MiB"
    assert await run(functions.same, 1) == 1


async def test_cancelling_ends_the_process_and_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    running = asyncio.create_task(run(functions.spin, str(file)))
    await until(announced(file))
    for _ in range(10):
        await asyncio.sleep(0.01)  # Nothing holds the interpreter of this process, or this would not end.
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(gone(int(file.read_text())))
    assert await run(functions.same, 1) == 1


async def test_many_waiting_calls_can_be_cancelled(tmp_path: Path) -> None:
    calls = [asyncio.create_task(run(functions.spin, str(tmp_path / f"{n}"))) for n in range(20)]
    await until(announced(tmp_path / "0"))
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert await run(functions.same, 1) == 1
    assert len(list(tmp_path.iterdir())) <= (os.process_cpu_count() or 1)


async def submitted(
    engine: TaskEngine, storage: StorageManager, action: str, payload: Any
) -> tuple[str, str]:
    record = await engine.submit(action, "agent", payload)
    message = (await storage.backend.queues.receive(TASK_QUEUE))[0]
    return record.task_id, message.text


async def test_a_task_ends_at_its_time_limit_with_its_process(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        engine = TaskEngine(storage, Registry(["tests.isolated_functions"]))
        file = tmp_path / "pid"
        task_id, text = await submitted(engine, storage, "spin_isolated", {"announce": str(file)})
        await engine.worker.process(text, queue=TASK_QUEUE)
        record = await engine.records.get(task_id)
        assert record.status is TaskStatus.FAILED
        assert record.error is not None
        assert record.error.code == "deadline-exceeded"
        if file.exists() and file.read_text():  # Under load it may not even have begun.
            await until(gone(int(file.read_text())))


async def test_a_task_that_is_cancelled_ends_with_its_process(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        engine = TaskEngine(storage, Registry(["tests.isolated_functions"]))
        file = tmp_path / "pid"
        task_id, text = await submitted(engine, storage, "spin_isolated_long", {"announce": str(file)})
        processing = asyncio.create_task(engine.worker.process(text, queue=TASK_QUEUE))
        await until(announced(file))
        await engine.worker.cancel(task_id)
        async with asyncio.timeout(MOST_SECONDS):
            await processing
        assert (await engine.records.get(task_id)).status is TaskStatus.CANCELLED
        await until(gone(int(file.read_text())))


async def test_leases_are_renewed_meanwhile(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        engine = TaskEngine(storage, Registry(["tests.isolated_functions"]), lease_seconds=3)
        file = tmp_path / "pid"
        payload = {"announce": str(file), "seconds": 6}
        task_id, text = await submitted(engine, storage, "spin_isolated_long", payload)
        await engine.worker.process(text, queue=TASK_QUEUE)
        record = await engine.records.get(task_id)
        assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_it_ends_with_the_host(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "pid"
    program = (
        "import asyncio; from storage_lib.tasks.isolation import run;"
        "from tests.isolated_functions import spin;"
        f"asyncio.run(run(spin, {str(file)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, start_new_session=True) as host:  # noqa: ASYNC220
        try:
            await until(announced(file))
        finally:
            host.send_signal(number)
    await until(gone(int(file.read_text())))


def test_reports_of_one_event_loop_after_another(tmp_path: Path) -> None:
    """As many at once as have to wait for each other."""

    async def profiled(folder: Path) -> list[TaskStatus]:
        async with StorageManager(StorageConfig(base_path=folder)) as storage:
            engine = TaskEngine(storage, Registry(["actions"]))
            ids: list[str] = []
            for n in range(4):
                await storage.save(f"{n}.csv", "a,b\n1,2\n", content_type="text/csv")
                ids.append((await engine.submit("analyze_report", "a", {"report": f"{n}.csv"})).task_id)
            messages = await storage.backend.queues.receive(TASK_QUEUE, max_messages=4)
            await asyncio.gather(
                *(engine.worker.process(message.text, queue=TASK_QUEUE) for message in messages)
            )
            return [(await engine.records.get(task_id)).status for task_id in ids]

    for n in range(2):
        assert asyncio.run(profiled(tmp_path / str(n))) == [TaskStatus.SUCCEEDED] * 4
