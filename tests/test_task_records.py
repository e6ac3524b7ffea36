"""Task records in a table that answers as Azure's does, and ids that are of another time than their task."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend, MemoryObjects, MemoryTables
from storage_lib.errors import InvalidArgumentError
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import EntityPage
from storage_lib.ports.drivers import QueryOptions
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.odata import compile_filter
from storage_lib.ports.tables import TableStore
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import POISON_QUEUE, TASK_QUEUE, TaskStatus, new_task_id
from storage_lib.tasks.records import RecordPage
from storage_lib.tasks.registry import task
from storage_lib.tasks.repair import OVERDUE

DAY = 24 * 3600


class SparseTables(MemoryTables):
    """Looks at one entity a request, as Azure may: pages without any, and with more behind them ("Query
    timeout and pagination": at a partition's end, or after five seconds)."""

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        one = QueryOptions(compile_filter(None, {}), None, 1, options.cursor)
        page = await super().query(table, one)
        return EntityPage([entity for entity in page.entities if options.filter(entity)], page.cursor)


class CountedObjects(MemoryObjects):
    listed = 0

    def scan(self, *arguments: Any) -> Any:
        self.listed += 1
        return super().scan(*arguments)


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(clock: Clock) -> AsyncIterator[TaskEngine]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("note")
    async def note(context: TaskContext, payload: Any) -> Any:
        return payload

    @task("family")
    async def family(context: TaskContext, payload: Any) -> None:
        await context.submit("note", "child")

    backend = MemoryBackend(clock=clock)
    backend.tables = TableStore(SparseTables(clock))
    backend.objects = ObjectStore(CountedObjects(clock))
    yield TaskEngine(StorageManager(backend=backend), clock=clock)
    registry_module._actions.clear()
    registry_module._actions.update(before)


async def deliver(engine: TaskEngine) -> None:
    for message in await engine.storage.backend.queues.receive(TASK_QUEUE, max_messages=32):
        await engine.worker.process(message.text, queue=TASK_QUEUE)
        await engine.storage.backend.queues.delete(TASK_QUEUE, message)


def moment(clock: Clock, seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(clock.now + seconds, UTC)


async def every(engine: TaskEngine, **filters: Any) -> list[str]:
    found: list[str] = []
    page = RecordPage([], "")
    while page.cursor is not None:
        page = await engine.records.list(**filters, cursor=page.cursor or None)
        found += [record.task_id for record in page.records]
    return found


async def test_old_records_and_keys_go_however_many_young_ones_stand_before_them(
    engine: TaskEngine, clock: Clock
) -> None:
    for n in range(5):
        await engine.submit("note", "a", n, idempotency_key=f"old-{n}")
    await deliver(engine)
    clock.now += 40 * DAY
    young = [(await engine.submit("note", "a", n, idempotency_key=f"young-{n}")).task_id for n in range(5)]
    before = moment(clock, -30 * DAY)
    assert await engine.records.expire(before, 3) == 3
    assert await engine.records.expire(before, 100) == 2
    assert await engine.submission.expire_keys(3) == 3
    assert await engine.submission.expire_keys(100) == 2
    assert sorted(await every(engine)) == sorted(young)
    for n in range(5):
        again = await engine.submit("note", "a", n, idempotency_key=f"young-{n}")
        assert again.task_id == young[n]


async def test_overdue_tasks_are_found_behind_others(engine: TaskEngine, clock: Clock) -> None:
    lost = (await engine.submit("note", "a")).task_id
    clock.now += DAY + OVERDUE.total_seconds()
    for _ in range(3):
        await engine.submit("note", "a")
    await engine.storage.backend.queues.clear(TASK_QUEUE)
    assert await engine.repair.run() == 1
    assert await engine.storage.backend.queues.length(TASK_QUEUE) == 1
    await deliver(engine)
    assert (await engine.records.get(lost)).status is TaskStatus.SUCCEEDED


async def test_a_late_child_is_found_by_the_time_at_which_it_was_made(
    engine: TaskEngine, clock: Clock
) -> None:
    parent = await engine.submit("family", "a")
    clock.now += 3 * DAY
    await deliver(engine)
    (child,) = await every(engine, parent_id=parent.task_id)
    assert await every(engine, created_after=moment(clock, -60)) == [child]
    assert await every(engine, created_before=moment(clock, -60)) == [parent.task_id]


@pytest.mark.parametrize("days", [-4000, -2, 0, 0.9])
async def test_ids_of_others_may_tell_another_time(engine: TaskEngine, clock: Clock, days: float) -> None:
    """A clock that is wrong, or a message that waited long, costs nothing: the task is found, and goes."""
    task_id = new_task_id(clock.now + days * DAY)
    message = json.dumps({"task_id": task_id, "agent_id": "a", "action": "note"})
    await engine.worker.process(message, queue=TASK_QUEUE)
    assert (await engine.records.get(task_id)).status is TaskStatus.SUCCEEDED
    assert await every(engine, created_after=moment(clock, -1), created_before=moment(clock, 1)) == [task_id]
    clock.now += DAY
    assert await engine.records.expire(moment(clock), 10) == 1
    assert await every(engine) == []


@pytest.mark.parametrize("days", [2.1, 400, 2_000_000])
async def test_an_id_of_a_time_to_come_is_refused_with_a_reason(
    engine: TaskEngine, clock: Clock, days: float
) -> None:
    task_id = new_task_id(clock.now + days * DAY)
    text = json.dumps({"task_id": task_id, "agent_id": "a", "action": "note"})
    await engine.worker.process(text, queue=TASK_QUEUE)
    (poisoned,) = await engine.storage.backend.queues.receive(POISON_QUEUE)
    await engine.worker.process_poison(
        poisoned.text, queue=TASK_QUEUE, message_id="m", inserted_at=moment(clock)
    )
    (dead,) = (await engine.records.list(status="dead")).records
    assert dead.raw_message == text
    assert dead.error is not None
    assert dead.error.code == InvalidArgumentError.code
    for words in (task_id, "a time to come", "at most a day ahead", "UUID of version 4"):
        assert words in dead.error.message


async def test_a_time_to_come_is_refused_before_anything_is_stored(engine: TaskEngine, clock: Clock) -> None:
    record = await engine.submit("note", "a", "x" * 100_000)
    ahead = new_task_id(clock.now + timedelta(days=3).total_seconds())
    large = json.dumps({"task_id": ahead, "agent_id": "a", "action": "note", "payload": "x" * 30_000})
    await engine.worker.process(large, queue=TASK_QUEUE)
    found = [entry async for entry in engine.storage.backend.objects.iterate(".system/tasks/")]
    assert len(found) == 1
    assert record.task_id in str(found[0])


async def test_only_what_may_have_contents_is_searched_for_them(engine: TaskEngine, clock: Clock) -> None:
    objects = engine.storage.backend.objects
    driver = objects.driver
    assert isinstance(driver, CountedObjects)
    for n in range(10):
        await engine.submit("note", "a", n)
    await deliver(engine)
    await engine.submit("note", "a", "x" * 100_000)
    await deliver(engine)
    clock.now += DAY
    driver.listed = 0
    assert await engine.records.expire(moment(clock), 100) == 11
    assert driver.listed == 1
    assert [entry async for entry in objects.iterate(".system/tasks/")] == []
