"""Tasks whose message was lost run all the same, once; a delayed one can be seen whatever was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from functions import maintenance
from functions import state as state_module
from functions.state import AppState
from storage_lib.backends.memory import MemoryBackend, MemoryQueues
from storage_lib.config import StorageConfig
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.tables import TableStore
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import (
    HIGH_QUEUE,
    TASK_QUEUE,
    Children,
    Priority,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    new_task_id,
)
from storage_lib.tasks.registry import task
from tests.test_tasks import Clock, NoInserts, deliver, message_of, settle

HOUR = 3600.0


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("add")
    async def add(context: TaskContext, payload: Any) -> None:
        await context.storage.update("total", lambda n: n + 1, initial=0)

    @task("fan")
    async def fan(context: TaskContext, payload: Any) -> str:
        for n in range(payload):
            await context.submit("add", n)
        return "own result"

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> TaskEngine:
    return TaskEngine(StorageManager(backend=MemoryBackend(clock=clock)), clock=clock)


async def lose_messages(engine: TaskEngine, queue: str = TASK_QUEUE) -> None:
    await engine.storage.backend.queues.clear(queue)


# -- delayed tasks


async def without_a_record(clock: Clock) -> tuple[TaskEngine, TaskRecord]:
    """A task with a delay that was accepted, and whose record could not be written."""
    backend = MemoryBackend(clock=clock)
    tables = NoInserts(clock, stored=False)
    backend.tables = TableStore(tables)
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)
    submitted = await engine.submit("add", "a", delay_seconds=10 * HOUR)
    tables.broken = False
    with pytest.raises(KeyNotFoundError):
        await engine.records.get(submitted.task_id)
    return engine, submitted


async def test_a_delayed_task_without_a_record_is_seen_soon_and_can_be_cancelled(clock: Clock) -> None:
    engine, submitted = await without_a_record(clock)
    clock.now += 30
    assert await deliver(engine) == []
    (listed,) = (await engine.records.list(status="queued")).records
    assert (listed.task_id, listed.attempts) == (submitted.task_id, 0)
    cancelled, events = await engine.worker.cancel(submitted.task_id)
    assert cancelled.status is TaskStatus.CANCELLED
    await engine.outbox.publish(events)
    clock.now += 10 * HOUR
    assert await deliver(engine) == []
    assert not await engine.storage.exists("total")


async def test_a_delayed_task_without_a_record_runs_at_its_time(clock: Clock) -> None:
    engine, submitted = await without_a_record(clock)
    clock.now += 30
    await deliver(engine)
    clock.now += 10 * HOUR - 31
    assert await deliver(engine) == []
    clock.now += 2
    assert [event.task_id for event in await deliver(engine)] == [submitted.task_id]


@pytest.mark.parametrize(("delay", "deliveries"), [(20, 1), (100, 2), (5 * 24 * HOUR, 2)])
async def test_a_delay_costs_one_more_delivery_at_most(
    engine: TaskEngine, clock: Clock, delay: float, deliveries: int
) -> None:
    submitted = await engine.submit("add", "a", delay_seconds=delay)
    received = 0
    for after in (30, delay):
        clock.now += after
        received += len(await engine.storage.backend.queues.peek(TASK_QUEUE))
        await deliver(engine)
    assert received == deliveries
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.SUCCEEDED


# -- lost messages


async def test_a_task_whose_message_was_lost_runs_once(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("add", "a", priority=Priority.HIGH)
    await lose_messages(engine, HIGH_QUEUE)
    clock.now += HOUR - 1
    assert await engine.repair.run() == 0  # it may have to wait for its turn
    clock.now += 2
    assert await engine.repair.run() == 1
    assert await engine.repair.run() == 0
    (event,) = await deliver(engine, HIGH_QUEUE)
    assert event.task_id == submitted.task_id
    record = await engine.records.get(submitted.task_id)
    assert [past.outcome for past in record.history] == ["redelivered", "succeeded"]
    clock.now += 100 * HOUR
    assert await engine.repair.run() == 0
    assert await engine.storage.load("total") == 1


async def test_a_message_that_is_lost_again_is_sent_again(engine: TaskEngine, clock: Clock) -> None:
    await engine.submit("add", "a")
    for hours in (1, 2, 4, 8, 16, 24, 24):
        await lose_messages(engine)
        clock.now += hours * HOUR - 10
        assert await engine.repair.run() == 0
        clock.now += 11
        assert await engine.repair.run() == 1
    assert len(await deliver(engine)) == 1


async def test_what_is_due_later_is_left_alone(engine: TaskEngine, clock: Clock) -> None:
    await engine.submit("add", "a", delay_seconds=10 * HOUR)
    clock.now += 10.5 * HOUR
    assert await engine.repair.run() == 0
    await lose_messages(engine)
    clock.now += HOUR
    assert await engine.repair.run() == 1


async def test_a_dead_workers_task_whose_message_was_lost_is_run_by_another(
    engine: TaskEngine, clock: Clock
) -> None:
    submitted = await engine.submit("add", "a")
    claimed = await engine.worker._claim(await engine.records.get(submitted.task_id), "", TASK_QUEUE)
    assert claimed is not None
    await lose_messages(engine)
    clock.now += HOUR + 50
    assert await engine.repair.run() == 0  # its lease ended less than an hour ago
    clock.now += 11
    assert await engine.repair.run() == 1
    await settle(engine, clock)
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 2)
    assert [past.outcome for past in record.history] == ["redelivered", "lost", "succeeded"]


async def test_a_task_that_runs_for_hours_is_left_alone(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("add", "a")
    record = await engine.worker._claim(await engine.records.get(submitted.task_id), "", TASK_QUEUE)
    assert record is not None
    assert record.lease_until is not None
    for _ in range(5):
        clock.now += HOUR
        record = await engine.records.change(record, lease_until=engine.worker._now() + engine.worker._length)
        assert await engine.repair.run() == 0


async def test_a_parent_whose_child_ended_without_telling_ends(engine: TaskEngine, clock: Clock) -> None:
    """The children's workers died between the end of a child and its parent's record."""
    parent = await engine.submit("fan", "a", 3)
    await deliver(engine)
    await lose_messages(engine)
    first, second, third = (await engine.records.list(parent_id=parent.task_id)).records
    assert len(await engine.worker.process(message_of(third), queue=TASK_QUEUE)) == 1
    for child, status in ((first, TaskStatus.SUCCEEDED), (second, TaskStatus.FAILED)):
        await engine.records.change(child, status=status, updated_at=engine.worker._now())
    assert (await engine.records.get(parent.task_id)).is_waiting
    clock.now += HOUR + 61
    assert await engine.repair.run() == 1
    (event,) = await deliver(engine)
    assert (event.task_id, event.status) == (parent.task_id, TaskStatus.FAILED)
    record = await engine.records.get(parent.task_id)
    assert record.result["result"] == "own result"
    assert record.result["children"]["succeeded"] == 2


async def test_a_child_that_was_lost_without_a_record_is_submitted_again(clock: Clock) -> None:
    backend = MemoryBackend(clock=clock)
    tables = NoInserts(clock, stored=False)
    backend.tables = TableStore(tables)
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)
    tables.broken = False
    parent = await engine.submit("fan", "a", 2)
    tables.broken = True
    await deliver(engine)
    tables.broken = False
    await lose_messages(engine)
    assert (await engine.records.get(parent.task_id)).is_waiting
    assert (await engine.records.list(parent_id=parent.task_id)).records == []
    clock.now += HOUR + 61
    assert await engine.repair.run() == 1
    await settle(engine, clock)
    record = await engine.records.get(parent.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 1)
    assert await engine.storage.load("total") == 2


async def test_a_parent_with_children_at_work_is_left_alone(engine: TaskEngine, clock: Clock) -> None:
    """Each child's end is a change of the parent."""
    await engine.submit("fan", "a", 3)
    await deliver(engine)
    for _ in range(2):
        clock.now += 0.6 * HOUR
        (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
        await engine.worker.process(message.text, queue=TASK_QUEUE)
        await engine.storage.backend.queues.delete(TASK_QUEUE, message)
    waiting = (await engine.records.list(action="fan")).records[0]
    clock.now += 0.6 * HOUR
    await engine.repair.run()
    assert (await engine.records.get(waiting.task_id)).history == ()


async def test_a_long_queue_is_not_multiplied(engine: TaskEngine, clock: Clock) -> None:
    for _ in range(60):
        await engine.submit("add", "a")
    queues = engine.storage.backend.queues
    clock.now += HOUR + 1
    lengths: list[int] = []
    for _ in range(6):
        assert await engine.repair.run(limit=10) <= 10
        lengths.append(await queues.length(TASK_QUEUE))
        clock.now += HOUR
    assert lengths[:3] == [70, 80, 90]
    # Those that got one wait longer, so that others have their turn.
    records = (await engine.records.list(status="queued")).records
    assert sum(bool(record.history) for record in records) > 30
    await settle(engine, clock)
    assert await engine.storage.load("total") == 60


async def test_more_than_a_page_is_repaired(engine: TaskEngine, clock: Clock) -> None:
    for _ in range(1100):
        await engine.submit("add", "a")
    await lose_messages(engine)
    clock.now += HOUR + 1
    assert await engine.repair.run() == 1000
    assert await engine.repair.run() == 100
    assert await engine.storage.backend.queues.length(TASK_QUEUE) == 1100


@pytest.mark.parametrize("end", ["cancelled", "claimed", "removed"])
async def test_a_task_that_moves_on_meanwhile_is_left_alone(
    engine: TaskEngine, clock: Clock, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await engine.submit("add", "a")
    await lose_messages(engine)
    clock.now += HOUR + 1
    found = engine.records.overdue

    async def overdue(*arguments: Any, **options: Any) -> Any:
        (record,) = [each async for each in found(*arguments, **options)]
        if end == "claimed":
            await engine.worker._claim(record, "", TASK_QUEUE)
        else:
            await engine.worker.cancel(submitted.task_id)
        if end == "removed":
            assert await engine.records.expire(engine.worker._now() + engine.worker._length, 10) == 1
        yield record

    monkeypatch.setattr(engine.records, "overdue", overdue)
    assert await engine.repair.run() == 0
    assert await engine.storage.backend.queues.length(TASK_QUEUE) == 0
    if end != "removed":
        record = await engine.records.get(submitted.task_id)
        assert "redelivered" not in [past.outcome for past in record.history]


async def test_two_repairs_at_once_send_one_message(engine: TaskEngine, clock: Clock) -> None:
    await engine.submit("add", "a")
    await lose_messages(engine)
    clock.now += HOUR + 1
    assert sum(await asyncio.gather(*(engine.repair.run() for _ in range(4)))) == 1


async def test_a_repair_that_is_broken_off_is_made_up_for_by_the_next(clock: Clock) -> None:
    class Queues(MemoryQueues):
        away = False

        async def send(self, *arguments: Any) -> str:
            if self.away:
                raise StorageUnavailableError("the queue is away")
            return await super().send(*arguments)

    backend = MemoryBackend(clock=clock)
    queues = Queues(clock=clock)
    backend.queues = QueueStore(queues)
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)
    submitted = await engine.submit("add", "a")
    await lose_messages(engine)
    clock.now += HOUR + 1
    queues.away = True
    with pytest.raises(StorageUnavailableError):
        await engine.repair.run()
    queues.away = False
    clock.now += 2 * HOUR + 1
    assert await engine.repair.run() == 1
    await deliver(engine)
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.SUCCEEDED


async def test_a_large_payload_of_another_program_is_sent_again(engine: TaskEngine, clock: Clock) -> None:
    """As its key: in base64 the message as it came would be too large for a queue."""
    message = TaskMessage("t1", "a", "add", payload="p" * 60_000)
    # Its worker died right after it had written the record.
    record = await engine.worker._record_of(message)
    assert record.status is TaskStatus.QUEUED
    clock.now += HOUR + 1
    assert await engine.repair.run() == 1
    await deliver(engine)
    assert (await engine.records.get("t1")).status is TaskStatus.SUCCEEDED


async def test_nothing_was_ever_submitted(engine: TaskEngine) -> None:
    assert await engine.repair.run() == 0


@pytest.mark.parametrize("backend", ["memory", "file", "azure"])
async def test_every_store_finds_what_is_overdue(backend: str, tmp_path: Path, azurite: Any) -> None:
    """The filter rests on what it means that an entity does not have a property."""
    settings: dict[str, str] = {}
    if backend == "azure":
        settings = {"AgentStorage": azurite.connection_string}
    config = StorageConfig.from_env(
        settings | {"AGENT_STORAGE_TYPE": backend, "AGENT_STORAGE_PATH": str(tmp_path)}
    )
    now = datetime(2027, 1, 15, 12, tzinfo=UTC)
    earlier, later = now - timedelta(hours=2), now + timedelta(hours=2)

    def record(status: TaskStatus, updated: datetime, **fields: Any) -> TaskRecord:
        task_id = new_task_id(earlier.timestamp())
        return TaskRecord(task_id, "repair", "add", status, created_at=earlier, updated_at=updated, **fields)

    queued, running = TaskStatus.QUEUED, TaskStatus.RUNNING
    overdue = [
        record(queued, earlier),
        record(queued, earlier, due_at=earlier),
        record(running, earlier, lease_until=earlier),
        record(running, earlier, due_at=later, lease_until=earlier, children=Children(3)),
        replace(record(queued, earlier), task_id=f"of-another-program-{backend}"),
    ]
    fine = [
        record(queued, later),
        record(queued, earlier, due_at=later),
        record(running, earlier, due_at=earlier, lease_until=later),
        record(running, later, lease_until=earlier),
        record(TaskStatus.CANCELLED, earlier, due_at=earlier, lease_until=earlier),
    ]
    async with StorageManager(config) as storage:
        records = TaskEngine(storage).records
        for each in (*overdue, *fine):
            await records.insert(each)
        found = [each.task_id async for each in records.overdue(now)]
    ours = {each.task_id for each in (*overdue, *fine)}
    assert ours & set(found) == {each.task_id for each in overdue}


async def test_the_timer_repairs(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = AppState(StorageConfig(base_path=tmp_path))
    app.__dict__["engine"] = engine = TaskEngine(app.storage, clock=clock)
    monkeypatch.setattr(state_module, "_states", {asyncio.get_running_loop(): app})
    later = await engine.submit("add", "a", delay_seconds=3 * HOUR)
    await engine.submit("add", "a", delay_seconds=100)
    waiting = await engine.submit("add", "a")
    await lose_messages(engine)
    run = maintenance.repair_tasks._function.get_user_function()  # type: ignore[attr-defined]
    for hours, count in ((1, 0), (0.1, 2), (3, 3)):
        clock.now += hours * HOUR - 1
        caplog.clear()
        await run(None)
        sent = [record.args for record in caplog.records if "sent again" in record.msg]
        assert sent == ([(count,)] if count else [])
    for record in (later, waiting):
        assert (await engine.records.get(record.task_id)).history[-1].outcome == "redelivered"
    await app.storage.close()
