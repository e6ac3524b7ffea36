"""Leases are kept while the event loop is blocked, and only a fence that moved means that one was lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageUnavailableError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.lease import Lease, stall
from storage_lib.tasks.model import TASK_QUEUE, TaskRecord, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy
from storage_lib.tasks.watch import watch
from tests.conftest import PROJECT

LEASE = 1.5


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)
    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


def config_of(store: str, folder: Path, azurite: Any) -> StorageConfig:
    if store == "file":
        return StorageConfig(base_path=folder)
    return StorageConfig(
        storage_type="azure",
        connection_string=azurite.connection_string,
        container=f"leases-{uuid.uuid4().hex}",
    )


async def serve(engine: TaskEngine, task_id: str) -> None:
    """Be a host whose queue hides a message for no longer than a lease, until the task has ended."""
    queues = engine.storage.backend.queues
    async with asyncio.timeout(120):
        while not (await engine.records.get(task_id)).is_final:
            for message in await queues.receive(TASK_QUEUE, visibility_timeout=LEASE):
                await engine.worker.process(
                    message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count
                )
                with contextlib.suppress(KeyNotFoundError, PreconditionFailedError):
                    await queues.delete(TASK_QUEUE, message)
            await asyncio.sleep(0.05)


def hosts(config: StorageConfig, task_id: str, count: int) -> None:
    """Hosts with an event loop each, in threads."""
    failed: list[BaseException] = []

    async def host() -> None:
        async with StorageManager(config) as storage:
            await serve(TaskEngine(storage, lease_seconds=LEASE), task_id)

    def run() -> None:
        try:
            asyncio.run(host())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed, failed


def spins(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


@pytest.mark.parametrize("blocks", [time.sleep, spins], ids=["waits", "computes"])
@pytest.mark.parametrize("store", ["file", "azure"])
async def test_two_hosts_never_run_what_blocks_the_loop_of_the_first(
    store: str, blocks: Any, tmp_path: Path, azurite: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    @task("blocks")
    async def blocking(context: TaskContext, payload: Any) -> str:
        runs.append(context.task.attempts)
        blocks(LEASE * 3)
        return "done"

    config = config_of(store, tmp_path, azurite)
    async with StorageManager(config) as storage:
        engine = TaskEngine(storage, lease_seconds=LEASE)
        submitted = await engine.submit("blocks", "a")
        await asyncio.to_thread(hosts, config, submitted.task_id, 2)
        record = await engine.records.get(submitted.task_id)
    assert runs == [1]
    assert (record.status, record.result, record.attempts) == (TaskStatus.SUCCEEDED, "done", 1)
    assert [attempt.outcome for attempt in record.history] == ["blocked", "succeeded"]
    told = record.history[0].error_message or ""
    assert "to_thread" in told
    assert LEASE * 2 < float(told.split("blocked for ")[1].split(" s")[0]) < LEASE * 60
    assert "a thread renews the lease; the event loop is at" in caplog.text
    assert told in caplog.text


@pytest.mark.parametrize("store", ["memory", "file", "backend"])
async def test_neighbours_of_what_blocks_keep_their_runs(store: str, tmp_path: Path, azurite: Any) -> None:
    if store == "memory":
        storage = StorageManager(backend=MemoryBackend())
    elif store == "backend":
        storage = StorageManager(backend=FileStorageBackend(tmp_path))
    else:
        storage = StorageManager(config_of(store, tmp_path, azurite))
    engine = TaskEngine(storage, lease_seconds=LEASE)
    other = TaskEngine(storage, lease_seconds=LEASE)
    runs: list[str] = []
    begun, blocked = asyncio.Event(), asyncio.Event()

    @task("neighbour")
    async def neighbour(context: TaskContext, payload: Any) -> str:
        runs.append("neighbour")
        begun.set()
        await blocked.wait()
        if payload:
            await asyncio.sleep(LEASE)  # and goes on after it
        return "done"

    @task("blocks")
    async def blocking(context: TaskContext, payload: Any) -> str:
        runs.append("blocks")
        time.sleep(LEASE * 2)  # noqa: ASYNC251 - what this is about
        blocked.set()
        return "done"

    ids = [(await engine.submit("neighbour", "a", long)).task_id for long in (False, True)]
    texts = [message.text for message in await storage.backend.queues.receive(TASK_QUEUE, max_messages=9)]
    running = [asyncio.create_task(engine.worker.process(text, queue=TASK_QUEUE)) for text in texts]
    await begun.wait()
    while len(runs) < 2:
        await asyncio.sleep(0.01)
    ids.append((await engine.submit("blocks", "a")).task_id)
    (message,) = await storage.backend.queues.receive(TASK_QUEUE)
    running.append(asyncio.create_task(engine.worker.process(message.text, queue=TASK_QUEUE)))
    # The messages come again meanwhile, here and to another engine of the process.
    await blocked.wait()
    again = [engine.worker.process(text, queue=TASK_QUEUE) for text in (*texts, message.text)]
    again += [other.worker.process(text, queue=TASK_QUEUE) for text in (*texts, message.text)]
    async with asyncio.timeout(120):
        await asyncio.gather(*again)
        events = [event for events in await asyncio.gather(*running) for event in events]
    assert len(events) == 3
    assert sorted(runs) == ["blocks", "neighbour", "neighbour"]
    for task_id in ids:
        record = await engine.records.get(task_id)
        assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 1)
        assert [attempt.outcome for attempt in record.history] == ["blocked", "succeeded"]
    await storage.backend.close()


async def test_a_fence_that_moved_while_the_loop_was_blocked_is_a_loss(tmp_path: Path) -> None:
    """Without a store for the thread nobody renews: another process may take over, and has then won."""
    storage = StorageManager(backend=MemoryBackend())
    engine = TaskEngine(storage, lease_seconds=LEASE)
    seen: list[TaskRecord] = []

    @task("blocks", retry=RetryPolicy(max_attempts=2))
    async def blocking(context: TaskContext, payload: Any) -> str:
        time.sleep(LEASE * 2)  # noqa: ASYNC251 - what this is about
        record = await engine.records.get(context.task.task_id)
        # As another process would, for which nobody here holds the lease.
        until = engine.worker._now() + engine.worker._length
        taken = await engine.records.change(
            record, fence=record.fence + 1, attempts=record.attempts + 1, lease_until=until
        )
        seen.append(taken)
        await asyncio.sleep(LEASE)
        return "late"

    submitted = await engine.submit("blocks", "a")
    (message,) = await storage.backend.queues.receive(TASK_QUEUE)
    assert await engine.worker.process(message.text, queue=TASK_QUEUE) == []
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.fence) == (TaskStatus.RUNNING, None, seen[0].fence)
    # And the attempt is given back: it failed by no fault of the task's.
    assert record.attempts == 1
    assert [attempt.outcome for attempt in record.history] == ["blocked"]


HOST = """
import asyncio, sys
from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.lease import Lease
from storage_lib.tasks.registry import task
from tests.test_task_leases import LEASE, serve

@task("slow")
async def slow(context, payload):
    print("running", flush=True)
    await asyncio.sleep(LEASE * 2)
    return "done"

async def main():
    async with StorageManager(StorageConfig(base_path=sys.argv[1])) as storage:
        await serve(TaskEngine(storage, lease_seconds=LEASE), sys.argv[2])

asyncio.run(main())
"""


async def test_a_suspended_process_goes_on_with_its_run(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        engine = TaskEngine(storage)

        @task("slow")
        async def slow(context: TaskContext, payload: Any) -> None: ...

        submitted = await engine.submit("slow", "a")
        host = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOST, str(tmp_path), submitted.task_id),
            cwd=PROJECT,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert host.stdout is not None
            assert await host.stdout.readline() == b"running\n"
            host.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE * 2.5)  # A suspension has a length.
            host.send_signal(signal.SIGCONT)
            async with asyncio.timeout(120):
                assert await host.stdout.read() == b""  # It ran once.
                assert await host.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                host.kill()
            await host.wait()
        record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.attempts) == (TaskStatus.SUCCEEDED, "done", 1)
    assert [attempt.outcome for attempt in record.history] == ["suspended", "succeeded"]
    assert "stood still" in (record.history[0].error_message or "")


def test_what_held_a_loop_up_is_told_apart() -> None:
    assert stall(10, 9.5, 0)[0] == "blocked"
    assert stall(10, 0, 9)[0] == "blocked"
    assert stall(10, 0, 0.1)[0] == "suspended"
    assert "10.0 s" in stall(10, 0, 0)[1]
    assert "12.0 s" in stall(10, 12, 0)[1]


async def test_the_thread_ends_when_nothing_runs_and_comes_again() -> None:
    engine = TaskEngine(StorageManager(backend=MemoryBackend()), lease_seconds=LEASE)

    @task("noop")
    async def noop(context: TaskContext, payload: Any) -> None: ...

    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "task-leases"]

    for _ in range(2):
        await engine.submit("noop", "a")
        (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
        await engine.worker.process(message.text, queue=TASK_QUEUE)
        await engine.storage.backend.queues.delete(TASK_QUEUE, message)
        assert len(threads()) == 1
        async with asyncio.timeout(120):
            while threads():
                await asyncio.sleep(0.05)
    assert watch._held == {}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_process_has_a_watch_of_its_own(tmp_path: Path) -> None:
    engine = TaskEngine(StorageManager(backend=MemoryBackend()), lease_seconds=LEASE)

    @task("forks")
    async def forks(context: TaskContext, payload: Any) -> int:
        child = os.fork()
        if child == 0:
            fresh = watch._held == {} and watch._thread is None and watch._lock.acquire(timeout=1)
            os._exit(0 if fresh else 1)
        return await asyncio.to_thread(lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    submitted = await engine.submit("forks", "a")
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    await engine.worker.process(message.text, queue=TASK_QUEUE)
    assert (await engine.records.get(submitted.task_id)).result == 0


async def test_a_run_whose_loop_was_closed_under_it_is_nobodys(tmp_path: Path) -> None:
    """No thread keeps its lease until the action's time limit: another worker runs it."""

    @task("left")
    async def left(context: TaskContext, payload: Any) -> str:
        return "done"

    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        engine = TaskEngine(storage, lease_seconds=LEASE)
        submitted = await engine.submit("left", "a")
        (message,) = await storage.backend.queues.receive(TASK_QUEUE)
        claimed = await engine.worker._claim(await engine.records.get(submitted.task_id), "", TASK_QUEUE)
        assert claimed is not None
        held = watch.holding(
            Lease(engine.records, claimed, engine.worker._length, engine.worker._now), engine.worker._place
        )

        async def begin() -> None:
            held.__enter__()

        await asyncio.to_thread(asyncio.run, begin())
        try:
            async with asyncio.timeout(120):
                while (await engine.records.get(submitted.task_id)).status is not TaskStatus.SUCCEEDED:
                    await engine.worker.process(message.text, queue=TASK_QUEUE)
                    await asyncio.sleep(0.05)
        finally:
            held.__exit__(None, None, None)
        assert (await engine.records.get(submitted.task_id)).attempts == 2


async def test_what_holds_a_run_up_again_and_again_is_one_note(tmp_path: Path) -> None:
    """Or the history, which has room for twenty, would say nothing of the attempts before."""
    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        engine = TaskEngine(storage)

        @task("slow")
        async def slow(context: TaskContext, payload: Any) -> None: ...

        submitted = await engine.submit("slow", "a")
        claimed = await engine.worker._claim(await engine.records.get(submitted.task_id), "", TASK_QUEUE)
        assert claimed is not None
        lease = Lease(engine.records, claimed, engine.worker._length, engine.worker._now)
        for n in range(30):
            lease._notes.append(("suspended" if n == 10 else "blocked", f"for {n} s"))
            await lease.change(progress=n)
        found = await engine.records.get(submitted.task_id)
    assert [(past.outcome, past.error_message) for past in found.history] == [
        ("blocked", "for 9 s"),
        ("suspended", "for 10 s"),
        ("blocked", "for 29 s"),
    ]


@pytest.mark.parametrize("store", ["memory", "file"])
@pytest.mark.parametrize("fails", [False, True], ids=["slow", "fails"])
async def test_a_renewal_that_was_under_way_when_the_loop_was_blocked_loses_nothing(
    store: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    under_way = asyncio.Event()

    @task("blocks")
    async def blocking(context: TaskContext, payload: Any) -> str:
        runs.append(context.task.attempts)
        await under_way.wait()
        time.sleep(LEASE * 2)  # noqa: ASYNC251 - that is what it is about
        return "done"

    backend = MemoryBackend() if store == "memory" else FileStorageBackend(tmp_path)
    async with StorageManager(backend=backend) as storage:
        engine = TaskEngine(storage, lease_seconds=LEASE)
        change = engine.records.change

        async def slow(record: TaskRecord, **changes: Any) -> TaskRecord:
            if "status" not in changes and "lease_until" in changes and not under_way.is_set():
                under_way.set()
                await asyncio.sleep(0.3)
                if fails:
                    raise StorageUnavailableError("the connection broke meanwhile")
            return await change(record, **changes)

        monkeypatch.setattr(engine.records, "change", slow)
        # The thread would keep the lease; that it cannot is what happens in memory, and under a held GIL.
        monkeypatch.setattr(engine.worker._place, "is_reachable", False)
        submitted = await engine.submit("blocks", "a")
        (message,) = await storage.backend.queues.receive(TASK_QUEUE)
        await engine.worker.process(message.text, queue=TASK_QUEUE)
        record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.attempts, runs) == (TaskStatus.SUCCEEDED, "done", 1, [1])
    assert [past.outcome for past in record.history] == ["blocked", "succeeded"]


async def test_a_run_that_another_has_taken_over_before_it_began_does_not_begin(tmp_path: Path) -> None:
    """The loop was blocked between the claim and the action for longer than the lease."""
    runs: list[int] = []

    @task("counts")
    async def counts(context: TaskContext, payload: Any) -> None:
        runs.append(context.task.attempts)

    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        engine = TaskEngine(storage, lease_seconds=LEASE)
        submitted = await engine.submit("counts", "a")
        (message,) = await storage.backend.queues.receive(TASK_QUEUE)
        claimed = await engine.worker._claim(await engine.records.get(submitted.task_id), "", TASK_QUEUE)
        assert claimed is not None
        time.sleep(LEASE * 1.2)  # noqa: ASYNC251 - that is what it is about
        other = TaskEngine(storage, lease_seconds=LEASE)
        await other.worker.process(message.text, queue=TASK_QUEUE)
        late = Lease(engine.records, claimed, engine.worker._length, engine.worker._now)
        with watch.holding(late, engine.worker._place):
            assert await engine.worker._run(late, message.text, TASK_QUEUE, None) == []
        record = await engine.records.get(submitted.task_id)
    assert (runs, record.status, record.attempts) == ([2], TaskStatus.SUCCEEDED, 2)


@pytest.mark.parametrize("times", [1, 3])
async def test_what_blocks_in_turn_is_told_as_one_block(times: int) -> None:
    """The run that waits has no turn between them."""

    @task("waits")
    async def waits(context: TaskContext, payload: Any) -> str:
        loop = asyncio.get_running_loop()

        def block(more: int) -> None:
            time.sleep(LEASE * 2 / times)
            if more:
                loop.call_soon(block, more - 1)

        loop.call_later(0.1, block, times - 1)
        await asyncio.sleep(LEASE)
        return "done"

    engine = TaskEngine(StorageManager(backend=MemoryBackend()), lease_seconds=LEASE)
    submitted = await engine.submit("waits", "a")
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    await engine.worker.process(message.text, queue=TASK_QUEUE)
    record = await engine.records.get(submitted.task_id)
    assert [past.outcome for past in record.history] == ["blocked", "succeeded"]
