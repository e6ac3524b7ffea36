"""A process ends at any point of its work, as where the platform stops a host or cuts a timer off: another
finishes what it had begun, each effect once, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from devhost.azurite import Azurite
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.queues import QueueMessage
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks import worker as worker_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import PARTITIONS
from storage_lib.tasks.model import (
    EVENT_QUEUE,
    KEY_TABLE,
    POISON_QUEUE,
    TASK_QUEUE,
    TASK_TABLE,
    Priority,
)
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from tests.test_tasks import Clock

HIDDEN = 600.0
LEASE = 60.0
WRITES = {
    "objects": ("put", "delete"),
    "tables": ("write", "batch"),
    "queues": ("send", "receive", "update", "delete"),
}
READS = {"objects": ("get", "head"), "tables": ("get", "query"), "queues": ("peek", "length")}


class CutError(BaseException):
    """The process has ended: none of its code runs on."""


class Process:
    """One that reaches its storage until it has written so often, and then no more."""

    def __init__(self, backend: StorageBackend, clock: Clock, writes: float = float("inf")) -> None:
        self._left = writes
        self._backend = backend
        self._real: list[tuple[Any, str]] = []
        self._received: list[tuple[str, QueueMessage]] = []
        self.clock = clock
        self.storage = StorageManager(backend=backend)
        self.engine = TaskEngine(self.storage, lease_seconds=LEASE, clock=clock)

    @property
    def is_cut(self) -> bool:
        return self._left < 0

    def __enter__(self) -> Process:
        for hooks, is_write in ((WRITES, True), (READS, False)):
            for name, methods in hooks.items():
                store = getattr(self._backend, name).driver
                for method in methods:
                    setattr(store, method, self._around(getattr(store, method), is_write))
                    self._real.append((store, method))
        return self

    def __exit__(self, *_: object) -> None:
        for store, method in self._real:
            delattr(store, method)

    def _around(self, operation: Any, is_write: bool) -> Any:
        async def limited(*arguments: Any, **options: Any) -> Any:
            if is_write:
                self._left -= 1
            # What has written so often neither writes nor reads any more.
            if self._left < 0:
                raise CutError
            result = await operation(*arguments, **options)
            if operation.__name__ == "receive":
                self._received += [(arguments[0], message) for message in result]
            return result

        return limited

    async def release(self) -> None:
        """Show what it had received, where no clock can be moved."""
        if isinstance(self._backend, AzureStorageBackend):
            for queue, message in self._received:
                with suppress(KeyNotFoundError):
                    await self._backend.queues.update(queue, message, visibility_timeout=0)

    # -- what the host does

    async def deliver(self) -> int:
        """Take what is visible, as many at once as the platform, hand it to the app, and delete it."""
        handled = 0
        for priority in Priority:
            for queue in (priority.queue, priority.poison_queue):
                with suppress(KeyNotFoundError):
                    found = await self.storage.backend.queues.receive(
                        queue, max_messages=16, visibility_timeout=HIDDEN
                    )
                    for done in await asyncio.gather(
                        *(self._complete(priority, queue, message) for message in found),
                        return_exceptions=True,
                    ):
                        if done is not None:
                            raise done
                    handled += len(found)
        return handled

    async def _complete(self, priority: Priority, queue: str, message: QueueMessage) -> None:
        await self.handle(priority, queue, message)
        with suppress(KeyNotFoundError):  # It took so long that another has it.
            await self.storage.backend.queues.delete(queue, message)

    async def handle(self, priority: Priority, queue: str, message: QueueMessage) -> None:
        """One invocation."""
        if queue == priority.queue:
            ended = await self.engine.worker.process(
                message.text, queue=queue, dequeue_count=message.dequeue_count
            )
        else:
            ended = await self.engine.worker.process_poison(
                message.text,
                queue=priority.queue,
                message_id=message.id,
                inserted_at=message.inserted_at,
                dequeue_count=message.dequeue_count,
            )
        await self.engine.outbox.publish(ended)

    async def work(self) -> None:
        """Until there is nothing more to do, also for who looks for tasks of other hosts."""
        idle = 0
        for _ in range(100):
            handled = await self.deliver() + await self.engine.repair.take_over(older=True)
            handled += await self.engine.repair.run()
            idle = 0 if handled else idle + 1
            if idle > 2:
                return
            self.clock.now += HIDDEN + 1 if idle else 10
        raise AssertionError("the work does not end")


@pytest.fixture(autouse=True)
def actions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class NoWatch:
        """A process that has ended keeps no leases."""

        def holding(self, *_: object) -> Any:
            return nullcontext()

        def holds(self, _: object) -> bool:
            return False

    monkeypatch.setattr(worker_module, "watch", NoWatch())
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    async def effect(context: TaskContext) -> None:
        await context.update_once(f"effects/{context.task.task_id}", lambda n: n + 1, initial=0)

    patient = RetryPolicy(max_attempts=20, base_seconds=1)

    @task("leaf", retry=patient)
    async def leaf(context: TaskContext, payload: Any) -> Any:
        await effect(context)
        return payload

    @task("fan", retry=patient)
    async def fan(context: TaskContext, payload: Any) -> str:
        await effect(context)
        for n in range(2):
            await context.submit("leaf", n)
        return "large " * 10_000

    @task("flaky", retry=patient)
    async def flaky(context: TaskContext, payload: Any) -> None:
        await effect(context)
        if context.task.first_attempt or context.task.attempts < 2:
            raise RetryTaskError("not yet")

    @task("fails", retry=patient)
    async def fails(context: TaskContext, payload: Any) -> None:
        await effect(context)
        raise ValueError("as asked")

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


type Fresh = Callable[[], Awaitable[StorageBackend]]
"""A storage in which nothing is, as often as it is called."""


@pytest.fixture
async def memory(clock: Clock) -> Fresh:
    async def fresh() -> StorageBackend:
        return MemoryBackend(clock=clock)

    return fresh


@pytest.fixture
async def files(clock: Clock, tmp_path: Path) -> AsyncIterator[Fresh]:
    opened: list[StorageBackend] = []

    async def fresh() -> StorageBackend:
        opened.append(FileStorageBackend(tmp_path / str(len(opened)), clock=clock))
        await opened[-1].open()
        return opened[-1]

    yield fresh
    for backend in opened:
        await backend.close()


@pytest.fixture(scope="module")
async def own_azurite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    """One without the tasks of other tests."""
    async with Azurite(tmp_path_factory.mktemp("cuts")) as server:
        yield server


@pytest.fixture
async def azure(clock: Clock, own_azurite: Azurite) -> AsyncIterator[Fresh]:
    clock.now = time.time()

    async def fresh() -> StorageBackend:
        for queue in (TASK_QUEUE, POISON_QUEUE, EVENT_QUEUE):
            with suppress(KeyNotFoundError):
                await backend.queues.clear(queue)
        for table in (TASK_TABLE, KEY_TABLE):
            with suppress(KeyNotFoundError):
                async for entity in backend.tables.iterate(table):
                    await backend.tables.delete(table, entity.partition_key, entity.row_key)
        async for found in backend.objects.iterate():
            await backend.objects.delete(found if isinstance(found, str) else found.key)
        return backend

    async with AzureStorageBackend(own_azurite.connection_string) as backend:
        yield fresh


BACKENDS = [("memory", 1), ("files", 3), ("azure", 11)]
"""And how many writes lie between two cuts, where each operation takes long."""


@pytest.fixture(params=BACKENDS, ids=lambda param: param[0])
def fresh(request: pytest.FixtureRequest) -> Fresh:
    return request.getfixturevalue(request.param[0])


@pytest.fixture
def stride(fresh: Fresh, request: pytest.FixtureRequest) -> int:
    return request.node.callspec.params["fresh"][1]


class Case:
    """Something that is begun by one process, and cut off."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    async def prepare(self, process: Process) -> None:
        for action in ("fan", "flaky", "fails", "leaf"):
            self.ids[action] = (await process.engine.submit(action, "a")).task_id

    async def run(self, process: Process) -> None:
        await process.work()

    async def again(self, process: Process) -> None:
        """What others do afterwards, without being asked, or the client whose request was cut off."""
        await process.work()

    async def check(self, process: Process) -> None:
        await ended(process, Counter(fan=1, flaky=1, fails=1, leaf=3))


ENDS = {"fan": "succeeded", "flaky": "succeeded", "fails": "failed", "leaf": "succeeded"}


async def ended(process: Process, expected: Counter[str]) -> None:
    """Each task has ended as its action demands, had its effect once, and its end was told."""
    records = (await process.engine.records.list(limit=1000)).records
    assert Counter(record.action for record in records) == expected
    assert await check_index(process.storage.backend.tables) == []
    told = set[str]()
    queues = process.storage.backend.queues
    while events := await queues.receive(EVENT_QUEUE, max_messages=32):
        told |= {json.loads(event.body or b"")["task_id"] for event in events}
    for record in records:
        assert not record.event_due
        assert record.task_id in told
        if record.action != "unknown":
            assert record.status == ENDS[record.action], record
            assert await process.storage.load(f"effects/{record.task_id}") == 1


class Deliveries(Case):
    async def prepare(self, process: Process) -> None:
        await super().prepare(process)
        await process.storage.backend.queues.send_text(TASK_QUEUE, "no task")

    async def check(self, process: Process) -> None:
        records = (await process.engine.records.list(action="unknown")).records
        # A message that was put into the poison queue, and not yet deleted, is put there once more.
        assert {record.raw_message for record in records} == {"no task"}
        assert len(records) in (1, 2)
        await ended(process, Counter(fan=1, flaky=1, fails=1, leaf=3, unknown=len(records)))


class LostMessages(Case):
    """An hourly timer."""

    async def prepare(self, process: Process) -> None:
        await super().prepare(process)
        await process.storage.backend.queues.clear(TASK_QUEUE)
        process.clock.now += 2 * 3600

    async def run(self, process: Process) -> None:
        await process.engine.repair.run()


class TakeOver(Case):
    """A timer, and what each host does now and then."""

    async def prepare(self, process: Process) -> None:
        await super().prepare(process)
        with Process(process.storage.backend, process.clock, 10) as killed, pytest.raises(CutError):
            await killed.work()
        process.clock.now += LEASE + 1

    async def run(self, process: Process) -> None:
        await process.engine.repair.take_over(older=True)


class Sift(Case):
    """What each host does with messages that no function takes."""

    async def prepare(self, process: Process) -> None:
        await super().prepare(process)
        queues = process.storage.backend.queues
        for text in ("no task", "no task", *[m.text for m in await queues.peek(TASK_QUEUE, max_messages=4)]):
            await queues.send_text(POISON_QUEUE, text)

    async def run(self, process: Process) -> None:
        await process.engine.sift(Priority.NORMAL)

    async def check(self, process: Process) -> None:
        await ended(process, Counter(fan=1, flaky=1, fails=1, leaf=3, unknown=2))


class Expiry(Case):
    """A timer: of what has ended long ago nothing is left, and all else stays."""

    async def prepare(self, process: Process) -> None:
        await super().prepare(process)
        await process.engine.submit("leaf", "a", "keyed", idempotency_key="k")
        await process.work()
        await process.storage.backend.queues.clear(TASK_QUEUE)
        process.clock.now += 60 * 24 * 3600
        await process.engine.submit("fan", "a", "new")

    async def run(self, process: Process) -> None:
        before = datetime.fromtimestamp(process.clock(), UTC) - timedelta(days=30)
        for _ in range(2):  # Children after their parents.
            await process.engine.records.expire(before, 1000)
        await process.engine.submission.expire_keys(1000)

    async def again(self, process: Process) -> None:
        await self.run(process)
        await process.work()

    async def check(self, process: Process) -> None:
        for _ in PARTITIONS:  # Spans are tidied in one at a time.
            await self.run(process)
        await ended(process, Counter(fan=1, leaf=2))
        (record,) = (await process.engine.records.list(action="fan")).records
        objects = process.storage.backend.objects
        async for found in objects.iterate(".system/tasks/"):
            key = found if isinstance(found, str) else found.key
            assert record.task_id in key


class Sweep(Case):
    """A timer."""

    async def prepare(self, process: Process) -> None:
        for n in range(3):
            await process.storage.save(f"gone/{n}", n, ttl=0)
            await process.storage.save(f"kept/{n}", n)
        await process.storage.save("kept/anew", 1, ttl=0)
        await process.storage.save("kept/anew", 2)
        process.clock.now += 1

    async def run(self, process: Process) -> None:
        await process.storage.sweep_expired(1000)

    async def again(self, process: Process) -> None:
        await self.run(process)

    async def check(self, process: Process) -> None:
        keys = [key async for key in process.storage.list_keys("")]
        assert sorted(keys) == ["kept/0", "kept/1", "kept/2", "kept/anew"]
        assert await process.storage.load("kept/anew") == 2


class Submit(Case):
    """A request whose client repeats it."""

    async def prepare(self, process: Process) -> None:
        await process.storage.backend.queues.create_queue(TASK_QUEUE)

    async def run(self, process: Process) -> None:
        await process.engine.submit("fan", "a", "p" * 50_000, idempotency_key="k")

    async def again(self, process: Process) -> None:
        await self.run(process)
        await process.work()

    async def check(self, process: Process) -> None:
        await ended(process, Counter(fan=1, leaf=2))


class Requeue(Case):
    """A request whose client repeats it, and may hear that the task is queued already."""

    async def prepare(self, process: Process) -> None:
        self.ids["fails"] = (await process.engine.submit("fails", "a")).task_id
        await process.work()

    async def run(self, process: Process) -> None:
        await process.engine.control.requeue(self.ids["fails"])

    async def again(self, process: Process) -> None:
        with suppress(TaskStateError):
            await self.run(process)
        await process.work()

    async def check(self, process: Process) -> None:
        await ended(process, Counter(fails=1))
        record = await process.engine.records.get(self.ids["fails"])
        assert [past.outcome for past in record.history].count("failed") in (2, 3)


class Cancel(Case):
    """A request whose client repeats it, of a task that waits for its children."""

    async def prepare(self, process: Process) -> None:
        self.ids["fan"] = (await process.engine.submit("fan", "a")).task_id
        (message,) = await process.storage.backend.queues.receive(TASK_QUEUE)
        await process.engine.worker.process(message.text, queue=TASK_QUEUE)
        await process.storage.backend.queues.delete(TASK_QUEUE, message)

    async def run(self, process: Process) -> None:
        _, events = await process.engine.worker.cancel(self.ids["fan"])
        await process.engine.outbox.publish(events)

    async def again(self, process: Process) -> None:
        await self.run(process)
        await process.work()

    async def check(self, process: Process) -> None:
        records = (await process.engine.records.list()).records
        assert [record.status for record in records] == ["cancelled"] * 3
        assert not any(record.event_due for record in records)


CASES = [Deliveries, TakeOver, LostMessages, Sift, Expiry, Sweep, Submit, Requeue, Cancel]


@pytest.mark.parametrize("case", CASES)
async def test_cut_off_anywhere(
    case: type[Case], fresh: Fresh, stride: int, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage_lib.tasks.engine.SIFT_PAUSE", 0)
    for writes in range(stride // 3, 500, stride):
        backend, made = await fresh(), case()
        await made.prepare(Process(backend, clock))
        with Process(backend, clock, writes) as first, suppress(CutError):
            await made.run(first)
        clock.now += HIDDEN + 1
        await first.release()
        second = Process(backend, clock)
        await made.again(second)
        await made.check(second)
        if not first.is_cut:
            break
    else:
        raise AssertionError("it does not end")


@pytest.mark.parametrize("seed", range(40))
async def test_process_after_process_is_cut_off(seed: int, memory: Fresh, clock: Clock) -> None:
    """Each of them takes up what the ones before it left."""
    chance, backend, made = random.Random(seed), await memory(), Deliveries()
    await made.prepare(Process(backend, clock))
    for _ in range(chance.randrange(2, 12)):
        with Process(backend, clock, chance.randrange(1, 40)) as process, suppress(CutError):
            await process.work()
        clock.now += chance.choice([1, LEASE / 2, LEASE + 1, HIDDEN + 1])
    last = Process(backend, clock)
    await last.work()
    records = (await last.engine.records.list(action="unknown")).records
    assert {record.raw_message for record in records} == {"no task"}
    await ended(last, Counter(fan=1, flaky=1, fails=1, leaf=3, unknown=len(records)))


@pytest.mark.parametrize("writes", range(1, 40, 3))
async def test_a_worker_is_ended_with_all_that_it_does(writes: int, memory: Fresh, clock: Clock) -> None:
    """As where one function exceeds functionTimeout: the host goes on. It releases the messages of all that
    failed, gives them up after five times, and leaves those of the poison queue hidden."""
    backend, made = await memory(), Deliveries()
    queues = backend.queues
    await made.prepare(Process(backend, clock))
    for _ in range(8):
        for queue in (TASK_QUEUE, POISON_QUEUE):
            with suppress(KeyNotFoundError):
                found = await queues.receive(queue, max_messages=16, visibility_timeout=HIDDEN)
                with Process(backend, clock, writes) as worker:
                    handled = await asyncio.gather(
                        *(worker.handle(Priority.NORMAL, queue, message) for message in found),
                        return_exceptions=True,
                    )
                for message, failure in zip(found, handled, strict=True):
                    if failure is None:
                        await queues.delete(queue, message)
                    elif queue == TASK_QUEUE and message.dequeue_count == 5:
                        await queues.send_text(POISON_QUEUE, message.text)
                        await queues.delete(queue, message)
                    elif queue == TASK_QUEUE:
                        await queues.update(queue, message, visibility_timeout=10)
        clock.now += 11
    last = Process(backend, clock)
    await last.work()
    records = (await last.engine.records.list(action="unknown")).records
    assert {record.raw_message for record in records} == {"no task"}
    await ended(last, Counter(fan=1, flaky=1, fails=1, leaf=3, unknown=len(records)))
