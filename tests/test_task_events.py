"""The events of ends: each is published at least once, whoever dies before it is out."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage_lib.config import StorageConfig
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.model import EVENT_QUEUE, POISON_QUEUE, TASK_QUEUE, Priority, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from storage_lib.tasks.submission import NewTask
from tests.task_stores import opened

HOUR = 3600.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(task_store: tuple[str, Any], tmp_path: Path, clock: Clock) -> AsyncIterator[TaskEngine]:
    if task_store[0] == "azure":
        clock.now = time.time()
    async with opened(task_store, tmp_path, clock) as storage:
        yield TaskEngine(storage, clock=clock)


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)  # pyright: ignore[reportPrivateUsage]

    @task("ends")
    async def ends(context: TaskContext, payload: Any) -> Any:
        match payload:
            case "fails":
                raise RuntimeError("it broke")
            case "dies":
                raise RetryTaskError("busy")
            case "asks":
                await context.submit("ends", None)
            case _:
                pass
        return payload

    registry_module._actions["ends"] = registry_module.RegisteredAction(  # pyright: ignore[reportPrivateUsage]
        "ends", ends, None, 60, RetryPolicy(max_attempts=1)
    )
    yield
    registry_module._actions.clear()  # pyright: ignore[reportPrivateUsage]
    registry_module._actions.update(before)  # pyright: ignore[reportPrivateUsage]


async def take(engine: TaskEngine, queue: str = TASK_QUEUE) -> list[str]:
    """The texts of all messages, deleted: as a host that dies with them would leave the queue in the end."""
    queues = engine.storage.backend.queues
    texts: list[str] = []
    for message in await queues.receive(queue, max_messages=32):
        texts.append(message.text)
        await queues.delete(queue, message)
    return texts


async def out(engine: TaskEngine) -> list[str]:
    queues = engine.storage.backend.queues
    found: list[str] = []
    try:
        messages = await queues.receive(EVENT_QUEUE, max_messages=32)
    except KeyNotFoundError:  # The first event makes it.
        return []
    for message in messages:
        assert message.body is not None
        event = json.loads(message.body)
        assert "etag" not in event
        found.append(event["type"])
        await queues.delete(EVENT_QUEUE, message)
    return found


async def run(engine: TaskEngine, payload: Any) -> tuple[str, str, list[TaskEvent]]:
    """A task that has ended, its message, and its events, which nobody has published."""
    record = await engine.submit("ends", "a", payload)
    (text,) = await take(engine)
    return record.task_id, text, await engine.worker.process(text, queue=TASK_QUEUE)


ENDS = pytest.mark.parametrize(
    ("payload", "kind"), [("goes well", "task.succeeded"), ("fails", "task.failed"), ("dies", "task.dead")]
)


@ENDS
async def test_a_second_delivery_publishes_what_the_first_did_not(
    engine: TaskEngine, payload: str, kind: str
) -> None:
    """Also one that was put back by another worker, and is the first of its own message."""
    task_id, text, lost = await run(engine, payload)
    assert [event.type for event in lost] == [kind]
    assert (await engine.records.get(task_id)).event_due
    await engine.outbox.publish(await engine.worker.process(text, queue=TASK_QUEUE, dequeue_count=1))
    assert await out(engine) == [kind]
    assert not (await engine.records.get(task_id)).event_due
    for count in (1, 2):
        assert await engine.worker.process(text, queue=TASK_QUEUE, dequeue_count=count) == []


async def test_what_the_app_sends_lives_until_it_is_taken(engine: TaskEngine) -> None:
    """Not for the seven days of what the host sends."""
    queues = engine.storage.backend.queues
    await engine.submission.submit(NewTask(action="ends", agent_id="a", priority=Priority.HIGH))
    _, _, events = await run(engine, "goes well")
    await engine.outbox.publish(events)
    for queue in (Priority.HIGH.queue, EVENT_QUEUE):
        for message in await queues.peek(queue, max_messages=32):
            assert message.expires_at.year > datetime.now(UTC).year + 50
    await queues.clear(Priority.HIGH.queue)


@ENDS
async def test_the_repair_publishes_what_nobody_did(
    engine: TaskEngine, clock: Clock, payload: str, kind: str
) -> None:
    task_id, _, _ = await run(engine, payload)
    await engine.repair.run()
    assert await out(engine) == [], "whoever ended it may be about to"
    clock.now += 1.1 * HOUR
    await engine.repair.run()
    assert await out(engine) == [kind]
    assert not (await engine.records.get(task_id)).event_due
    clock.now += 1.1 * HOUR
    await engine.repair.run()
    assert await out(engine) == []


@ENDS
async def test_what_is_out_is_not_published_again(
    engine: TaskEngine, clock: Clock, payload: str, kind: str
) -> None:
    _, _, events = await run(engine, payload)
    await engine.outbox.publish(events)
    clock.now += 2 * HOUR
    await engine.repair.run()
    assert await out(engine) == [kind]


async def test_an_end_by_a_cancel_is_published_too(engine: TaskEngine, clock: Clock) -> None:
    record = await engine.submit("ends", "a")
    await engine.worker.cancel(record.task_id)
    clock.now += 1.1 * HOUR
    await engine.repair.run()
    assert await out(engine) == ["task.cancelled"]


async def test_the_end_of_a_family_is_published_too(engine: TaskEngine, clock: Clock) -> None:
    parent, _, _ = await run(engine, "asks")
    (child,) = await take(engine)
    lost = await engine.worker.process(child, queue=TASK_QUEUE)
    assert [event.type for event in lost] == ["task.succeeded"] * 2
    again = await engine.worker.process(child, queue=TASK_QUEUE)
    assert again == lost
    await engine.outbox.publish(again[:1])
    clock.now += 1.1 * HOUR
    await engine.repair.run()
    assert await out(engine) == ["task.succeeded"] * 2
    assert not (await engine.records.get(parent)).event_due


async def test_the_end_of_a_message_that_is_no_task_is_published_too(
    engine: TaskEngine, clock: Clock
) -> None:
    now = datetime.fromtimestamp(clock.now, UTC)
    for _ in range(2):
        lost = await engine.worker.process_poison(
            "garbage", queue=TASK_QUEUE, message_id="m", inserted_at=now
        )
        assert [event.type for event in lost] == ["task.dead"]
    clock.now += 1.1 * HOUR
    await engine.repair.run()
    assert await out(engine) == ["task.dead"]


async def test_a_poison_message_of_a_task_that_has_ended_publishes_its_event(
    engine: TaskEngine, clock: Clock
) -> None:
    """The host died five times just before its event was out."""
    _, text, _ = await run(engine, "goes well")
    now = datetime.fromtimestamp(clock.now, UTC)
    events = await engine.worker.process_poison(text, queue=TASK_QUEUE, message_id="m", inserted_at=now)
    assert [event.type for event in events] == ["task.succeeded"]


async def test_a_dead_task_has_one_event_though_its_message_passes_the_poison_queue(
    engine: TaskEngine, clock: Clock
) -> None:
    _, _, events = await run(engine, "dies")
    await engine.outbox.publish(events)
    (poison,) = await take(engine, POISON_QUEUE)
    now = datetime.fromtimestamp(clock.now, UTC)
    assert await engine.worker.process_poison(poison, queue=TASK_QUEUE, message_id="m", inserted_at=now) == []


async def test_an_event_that_could_not_be_sent_is_still_due(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, text, events = await run(engine, "goes well")

    async def away(*args: Any, **named: Any) -> Any:
        raise StorageUnavailableError("the queue is away")

    with monkeypatch.context() as patch:
        patch.setattr(engine.storage.backend.queues.driver, "send", away)
        with pytest.raises(StorageUnavailableError):
            await engine.outbox.publish(events)
    assert (await engine.records.get(task_id)).event_due
    await engine.outbox.publish(await engine.worker.process(text, queue=TASK_QUEUE))
    assert await out(engine) == ["task.succeeded"]


async def test_a_record_that_was_touched_meanwhile_is_noted_all_the_same(engine: TaskEngine) -> None:
    task_id, _, events = await run(engine, "fails")
    record = await engine.records.get(task_id)
    await engine.records.change(record, updated_at=record.updated_at)
    await engine.outbox.publish(events)
    assert not (await engine.records.get(task_id)).event_due


async def test_the_event_of_an_end_before_a_requeue_does_not_hide_the_next(
    engine: TaskEngine, clock: Clock
) -> None:
    task_id, _, events = await run(engine, "fails")
    clock.now += 1
    await engine.control.requeue(task_id)
    assert not (await engine.records.get(task_id)).event_due
    (text,) = await take(engine)
    clock.now += 1
    await engine.worker.process(text, queue=TASK_QUEUE)
    await engine.outbox.publish(events)  # Late: it tells the first end.
    record = await engine.records.get(task_id)
    assert (record.status, record.event_due) == (TaskStatus.FAILED, True)


async def test_it_costs_one_request_and_none_to_look_for(engine: TaskEngine, tmp_path: Any) -> None:
    async with StorageManager(StorageConfig(storage_type="file", base_path=tmp_path)) as storage:
        filed = TaskEngine(storage)
        task_id, text, events = await run(filed, "goes well")
        calls: list[str] = []
        tables = storage.backend.tables.driver
        for name in ("get", "write", "query", "batch"):
            original = getattr(tables, name)

            def counted(*args: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
                calls.append(_name)
                return _original(*args, **named)

            setattr(tables, name, counted)
        await filed.outbox.publish(events)
        assert len(calls) <= 1, calls
        assert await filed.worker.process(text, queue=TASK_QUEUE, dequeue_count=2) == []
        assert not (await filed.records.get(task_id)).event_due


async def test_events_that_cannot_be_sent_do_not_fill_the_queues(engine: TaskEngine, clock: Clock) -> None:
    """Each look of every host would send a message again, and each of those would be tried again in turn."""
    task_id, _, _ = await run(engine, "goes well")
    sent: list[float] = []
    began = clock.now
    while clock.now < began + 3 * 24 * HOUR:
        clock.now += 20 if clock.now < began + HOUR / 2 else 2 * HOUR
        sent += [clock.now - began] * await engine.repair.take_over(older=True)
        assert await engine.repair.take_over() == 0
        await take(engine)
    assert sent[0] <= 60, "soon"
    assert sum(at < HOUR / 2 for at in sent) <= 6
    assert len(sent) <= 16
    assert (await engine.records.get(task_id)).event_due
    assert sent[-1] > 2 * 24 * HOUR, "and never given up"
