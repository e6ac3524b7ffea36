"""Deleting records: of families, of tasks whose event is due, by several at once, and cut off half-way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import PARTITIONS, key_of
from storage_lib.tasks.model import EVENT_QUEUE, TASK_QUEUE, TaskStatus
from storage_lib.tasks.records import TaskRemovedError
from storage_lib.tasks.registry import UnknownActionError, task
from tests.task_worker import Clock


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)  # pyright: ignore[reportPrivateUsage]

    @task("same_again")
    async def same_again(context: TaskContext, payload: Any) -> Any:
        return payload

    @task("some_children")
    async def some_children(context: TaskContext, payload: int) -> None:
        for n in range(payload):
            await context.submit("same_again", n, delay_seconds=60)

    yield
    registry_module._actions.clear()  # pyright: ignore[reportPrivateUsage]
    registry_module._actions.update(before)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(clock: Clock) -> AsyncIterator[TaskEngine]:
    async with StorageManager(backend=MemoryBackend(clock=clock)) as storage:
        yield TaskEngine(storage, clock=clock)


async def deliver(engine: TaskEngine) -> None:
    queues = engine.storage.backend.queues
    while messages := await queues.receive(TASK_QUEUE, max_messages=32):
        for message in messages:
            await engine.deliver(message.text, queue=TASK_QUEUE)
            await queues.delete(TASK_QUEUE, message)


async def test_a_child_goes_after_its_parent_and_a_parent_after_the_ends_of_its_children(
    engine: TaskEngine, clock: Clock
) -> None:
    parent = (await engine.submit("some_children", "a", 2)).task_id
    await deliver(engine)
    children = [each.task_id for each in (await engine.list(parent_id=parent)).records]
    assert len(children) == 2
    await engine.cancel(parent)
    with pytest.raises(TaskStateError, match="children that have not ended"):
        await engine.delete(parent)
    clock.now += 120
    await deliver(engine)
    assert {(await engine.get(each)).is_final for each in children} == {True}
    for child in children:
        with pytest.raises(TaskStateError, match="is a child of"):
            await engine.delete(child)
    await engine.delete(parent)
    assert await check_index(engine.storage.backend.tables) == []
    for child in children:
        await engine.delete(child)
    assert (await engine.list()).records == []
    assert await check_index(engine.storage.backend.tables) == []


async def test_an_event_that_is_due_is_sent_before_its_record_goes(engine: TaskEngine) -> None:
    record = await engine.submit("same_again", "a", 1)
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    await engine.worker.process(message.text, queue=TASK_QUEUE)  # and dies before it publishes
    assert (await engine.get(record.task_id)).event_due
    await engine.delete(record.task_id)
    (event,) = await engine.storage.backend.queues.peek(EVENT_QUEUE)
    assert event.body is not None
    assert json.loads(event.body)["task_id"] == record.task_id


async def test_of_several_who_delete_at_once_each_is_done_or_finds_nothing(engine: TaskEngine) -> None:
    record = await engine.submit("same_again", "a", 1)
    await deliver(engine)
    outcomes = await asyncio.gather(
        *(engine.delete(record.task_id) for _ in range(8)), return_exceptions=True
    )
    assert outcomes.count(None) >= 1
    assert {type(each) for each in outcomes if each is not None} <= {TaskRemovedError}
    with pytest.raises(KeyNotFoundError):
        await engine.get(record.task_id)


async def test_contents_that_could_not_be_removed_are_removed_the_next_time(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await engine.submit("same_again", "a", "x" * 50_000)
    await deliver(engine)
    objects = engine.storage.backend.objects

    async def fails(*_: Any, **__: Any) -> None:
        raise StorageUnavailableError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(objects, "delete", fails)
        with pytest.raises(StorageUnavailableError):
            await engine.delete(record.task_id)
    assert [each async for each in objects.iterate(".system/tasks/")]
    with pytest.raises(KeyNotFoundError):
        await engine.delete(record.task_id)
    assert [each async for each in objects.iterate(".system/tasks/")] == []


async def test_what_is_left_of_a_deleted_record_expires(engine: TaskEngine, clock: Clock) -> None:
    record = await engine.submit("same_again", "a", 1, idempotency_key="k", correlation_id="c")
    await engine.cancel(record.task_id)
    await engine.delete(record.task_id)
    rows = engine.storage.backend.tables
    clock.now += 40 * 24 * 3600
    gone, _ = await engine.expire(datetime.fromtimestamp(clock.now - 30 * 24 * 3600, UTC), 100)
    assert gone == 1
    for _ in PARTITIONS:  # Each run tidies the spans of one.
        await engine.expire(datetime.fromtimestamp(clock.now - 30 * 24 * 3600, UTC), 100)
    left = [each.row_key async for each in rows.iterate("tasks") if each.partition_key in PARTITIONS]
    assert left == []
    assert await check_index(rows) == []


async def test_the_record_of_a_requeued_task_expires_with_all_its_rows(
    engine: TaskEngine, clock: Clock
) -> None:
    record = await engine.submit("same_again", "a", 1, idempotency_key="k", correlation_id="c")
    await engine.cancel(record.task_id)
    await engine.requeue(record.task_id)
    await engine.cancel(record.task_id)
    clock.now += 40 * 24 * 3600
    before = datetime.fromtimestamp(clock.now - 30 * 24 * 3600, UTC)
    for _ in range(1 + len(PARTITIONS)):  # Each run tidies the spans of one.
        await engine.expire(before, 100)
    rows = engine.storage.backend.tables
    left = [each.row_key async for each in rows.iterate("tasks") if each.partition_key in PARTITIONS]
    assert left == []
    assert await check_index(rows) == []


async def test_a_task_that_was_requeued_meanwhile_is_not_deleted(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await engine.submit("same_again", "a", 1)
    await engine.cancel(record.task_id)
    remove = engine.records.remove

    async def late(*arguments: Any) -> None:
        monkeypatch.undo()
        await engine.requeue(record.task_id)
        await remove(*arguments)

    monkeypatch.setattr(engine.records, "remove", late)
    with pytest.raises(TaskStateError):
        await engine.delete(record.task_id)
    assert (await engine.get(record.task_id)).status is TaskStatus.QUEUED


async def test_a_task_that_is_requeued_while_its_event_is_sent_is_not_deleted(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await engine.submit("same_again", "a", 1)
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    with monkeypatch.context() as patched:
        patched.setattr(engine.registry, "get", _fails)
        await engine.worker.process(message.text, queue=TASK_QUEUE)  # and dies before it publishes
    found = await engine.get(record.task_id)
    assert (found.status, found.event_due) == (TaskStatus.FAILED, True)
    publish = engine.outbox.publish

    async def late(*arguments: Any) -> None:
        monkeypatch.undo()
        await publish(*arguments)
        await engine.requeue(record.task_id)

    monkeypatch.setattr(engine.outbox, "publish", late)
    with pytest.raises(TaskStateError, match="is queued"):
        await engine.delete(record.task_id)
    assert (await engine.get(record.task_id)).status is TaskStatus.QUEUED


def _fails(name: str) -> Any:
    raise UnknownActionError(f"injected: {name}")


async def test_a_child_whose_record_is_not_written_yet_does_not_run_once_its_parent_is_deleted(
    engine: TaskEngine, clock: Clock
) -> None:
    parent = (await engine.submit("some_children", "a", 1)).task_id
    await deliver(engine)
    (child,) = (await engine.list(parent_id=parent)).records
    rows = engine.storage.backend.tables
    for row in [each async for each in rows.iterate("tasks") if key_of(child.task_id) in each.row_key]:
        await rows.delete("tasks", row.partition_key, row.row_key)
    await engine.cancel(parent)
    await engine.delete(parent)
    clock.now += 120
    await deliver(engine)
    assert (await engine.get(child.task_id)).status is TaskStatus.CANCELLED
    # Whoever asks for it by its id gets what is asked for.
    await engine.requeue(child.task_id)
    await deliver(engine)
    assert (await engine.get(child.task_id)).status is TaskStatus.SUCCEEDED
