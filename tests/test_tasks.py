"""The task engine: every delivery, however often and wherever it comes, leads to one right final state."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.backends.memory import MemoryBackend, MemoryQueues, MemoryTables
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.tables import Insert, TableStore, Update
from storage_lib.tasks import context as context_module
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.lease import LeaseExpiredError
from storage_lib.tasks.model import (
    HIGH_QUEUE,
    POISON_QUEUE,
    TASK_QUEUE,
    Priority,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    new_task_id,
)
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import UnknownActionError, task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from storage_lib.tasks.submission import IdempotencyConflictError, NewTask
from storage_lib.tasks.worker import MAX_DELIVERIES


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Add:
    by: int
    note: str = ""


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()  # the built-in ones are registered once, when they are imported
    before = dict(registry_module._actions)

    @task("add", payload=Add)
    async def add(context: TaskContext, payload: Add) -> dict[str, Any]:
        total = await context.storage.update("total", lambda n: n + payload.by, initial=0)
        return {"total": total}

    @task("fail")
    async def fail(context: TaskContext, payload: Any) -> None:
        raise RuntimeError("it broke")

    @task("flaky")
    async def flaky(context: TaskContext, payload: Any) -> str:
        if await context.storage.update("tries", lambda n: n + 1, initial=0) < payload["until"]:
            raise StorageUnavailableError("the store is away")
        return "done"

    @task("unserialisable")
    async def unserialisable(context: TaskContext, payload: Any) -> object:
        return object()

    @task("large")
    async def large(context: TaskContext, payload: Any) -> str:
        return "r" * 100_000

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def engine(clock: Clock) -> TaskEngine:
    storage = StorageManager(backend=MemoryBackend(clock=clock))
    return TaskEngine(storage, clock=clock)


async def process(engine: TaskEngine, text: str, dequeue_count: int = 1) -> Any:
    """One delivery: its event, or None."""
    events = await engine.worker.process(text, queue=TASK_QUEUE, dequeue_count=dequeue_count)
    await engine.outbox.publish(events)
    assert len(events) <= 1
    return events[0] if events else None


def message_of(record: TaskRecord) -> str:
    message = TaskMessage(record.task_id, record.agent_id, record.action, record.payload)
    return message.to_bytes().decode()


async def deliver(engine: TaskEngine, queue: str = TASK_QUEUE) -> list[Any]:
    """Receive all visible messages and hand them to the engine, as the app does; each is then deleted."""
    queues = engine.storage.backend.queues
    events: list[Any] = []
    for message in await queues.receive(queue, max_messages=32):
        if queue == POISON_QUEUE:
            ended = await engine.worker.process_poison(
                message.text, queue=TASK_QUEUE, message_id=message.id, inserted_at=message.inserted_at
            )
        else:
            ended = await engine.worker.process(
                message.text, queue=queue, dequeue_count=message.dequeue_count
            )
        await engine.outbox.publish(ended)
        events += ended
        await queues.delete(queue, message)
    return events


async def given_up(engine: TaskEngine, text: str, **options: Any) -> list[Any]:
    """A delivery of the poison queue, of a message that came there at a certain time."""
    at = datetime(2027, 1, 15, tzinfo=UTC)
    events = await engine.worker.process_poison(
        text, queue=TASK_QUEUE, message_id="m", inserted_at=at, **options
    )
    await engine.outbox.publish(events)
    return events


async def test_a_submitted_task_runs_and_tells_its_result(engine: TaskEngine) -> None:
    submitted = await engine.submit("add", "ceo", {"by": 5}, correlation_id="c-1")
    assert submitted.status is TaskStatus.QUEUED
    (event,) = await deliver(engine)
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.attempts) == (TaskStatus.SUCCEEDED, {"total": 5}, 1)
    assert record.error is None
    assert record.started_at is not None
    assert record.finished_at is not None
    assert json.loads(event.to_json()) == {
        "type": "task.succeeded",
        "task_id": submitted.task_id,
        "agent_id": "ceo",
        "action": "add",
        "status": "succeeded",
        "finished_at": record.finished_at.isoformat().replace("+00:00", "Z"),
        "correlation_id": "c-1",
        "traceparent": record.trace_parent,
        "parent_id": None,
        "error": None,
    }


@pytest.mark.parametrize("encoded", [True, False])
async def test_a_message_of_another_program_is_a_task(engine: TaskEngine, encoded: bool) -> None:
    message = json.dumps(
        {"task_id": "t1", "agent_id": "ceo", "action": "add", "payload": {"by": 2}}, indent=1
    )
    queues = engine.storage.backend.queues
    await (queues.send(TASK_QUEUE, message) if encoded else queues.send_text(TASK_QUEUE, message))
    await deliver(engine)
    record = await engine.records.get("t1")
    assert (record.status, record.result) == (TaskStatus.SUCCEEDED, {"total": 2})


async def test_duplicates_have_no_second_effect(engine: TaskEngine) -> None:
    raw = json.dumps({"task_id": "t1", "agent_id": "ceo", "action": "add", "payload": {"by": 2}})
    assert await process(engine, raw) is not None
    assert await process(engine, raw) is None
    assert await engine.storage.load("total") == 2
    assert await process(engine, raw, dequeue_count=2) is None, "its event is out"
    assert await engine.storage.load("total") == 2


async def test_two_deliveries_at_once_run_once(engine: TaskEngine) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @task("slow")
    async def slow(context: TaskContext, payload: Any) -> None:
        started.set()
        await go_on.wait()
        await context.storage.update("runs", lambda n: n + 1, initial=0)

    raw = message_of(await engine.submit("slow", "a"))
    first = asyncio.ensure_future(process(engine, raw))
    await started.wait()
    assert await process(engine, raw) is None
    go_on.set()
    assert (await first) is not None
    assert await engine.storage.load("runs") == 1


async def test_a_dead_workers_task_is_taken_over_after_its_lease_and_its_late_result_is_dropped(
    engine: TaskEngine, clock: Clock
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    @task("stuck")
    async def stuck(context: TaskContext, payload: Any) -> int:
        runs.append(context.task.fence)
        if len(runs) == 1:
            started.set()
            await go_on.wait()
        return context.task.fence

    submitted = await engine.submit("stuck", "a")
    raw = message_of(submitted)
    await deliver_nothing(engine)
    late = asyncio.ensure_future(process(engine, raw))
    await started.wait()
    clock.now += 61
    assert (await process(engine, raw)) is not None
    go_on.set()
    assert await late is None
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.attempts) == (TaskStatus.SUCCEEDED, 2, 2)


async def deliver_nothing(engine: TaskEngine) -> None:
    await engine.storage.backend.queues.clear(TASK_QUEUE)


async def test_a_delivery_during_a_lease_comes_back_when_the_lease_has_ended(
    engine: TaskEngine, clock: Clock
) -> None:
    submitted = await engine.submit("add", "a", {"by": 1})
    await deliver_nothing(engine)
    record = await engine.records.get(submitted.task_id)
    claimed = await engine.worker._claim(record, "", TASK_QUEUE)  # a worker that dies right after its claim
    assert claimed is not None
    raw = message_of(submitted)
    assert await process(engine, raw) is None
    assert await deliver(engine) == []
    clock.now += 62
    assert [event.status for event in await deliver(engine)] == [TaskStatus.SUCCEEDED]


async def test_a_lease_is_renewed_as_long_as_the_action_runs() -> None:
    engine = TaskEngine(StorageManager(backend=MemoryBackend()), lease_seconds=0.15)
    started = asyncio.Event()
    go_on = asyncio.Event()

    @task("long")
    async def long(context: TaskContext, payload: Any) -> str:
        started.set()
        await go_on.wait()
        return "done"

    submitted = await engine.submit("long", "a")
    running = asyncio.ensure_future(deliver(engine))
    await started.wait()
    first = (await engine.records.get(submitted.task_id)).lease_until
    assert first is not None
    async with asyncio.timeout(120):
        while ((await engine.records.get(submitted.task_id)).lease_until or first) <= first:
            await asyncio.sleep(0.01)
    go_on.set()
    await running
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.SUCCEEDED


async def test_a_lost_lease_stops_the_action(clock: Clock) -> None:
    backend = MemoryBackend()
    engine = TaskEngine(StorageManager(backend=backend), lease_seconds=0.15)
    stopped = asyncio.Event()

    @task("endless")
    async def endless(context: TaskContext, payload: Any) -> None:
        record = await engine.records.get(context.task.task_id)
        await engine.records.change(record, status=TaskStatus.CANCELLED)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    submitted = await engine.submit("endless", "a")
    assert await deliver(engine) == []
    assert stopped.is_set()
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.CANCELLED


@pytest.mark.parametrize(
    ("action", "payload", "code", "words"),
    [
        ("fail", None, "RuntimeError", "it broke"),
        ("unserialisable", None, "serialization-error", "result"),
        ("nobody_knows", None, "unknown-action", "there are: add"),
        ("add", {"by": "many"}, "invalid-argument", "by"),
        ("add", None, "invalid-argument", "by"),
    ],
)
async def test_permanent_failures_fail_at_once_with_their_reason(
    engine: TaskEngine, action: str, payload: Any, code: str, words: str
) -> None:
    message = {"task_id": "t1", "agent_id": "a", "action": action, "payload": payload}
    event = await process(engine, json.dumps(message))
    assert event is not None
    record = await engine.records.get("t1")
    assert record.status is event.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == code
    assert words in record.error.message


async def test_transient_errors_are_tried_again_after_a_while(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 3})
    for attempt in (1, 2):
        assert await deliver(engine) == []
        record = await engine.records.get(submitted.task_id)
        assert (record.status, record.attempts) == (TaskStatus.QUEUED, attempt)
        assert record.error is not None
        assert record.error.code == "storage-unavailable"
        assert record.due_at is not None
        wait = record.due_at.timestamp() - clock.now
        assert 2 ** (attempt - 1) <= wait <= 2**attempt
        assert await deliver(engine) == []  # not before its time
        clock.now += wait + 1
    assert [event.status for event in await deliver(engine)] == [TaskStatus.SUCCEEDED]
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.error) == (TaskStatus.SUCCEEDED, "done", None)
    assert [(a.number, a.outcome, a.error_code) for a in record.history] == [
        (1, "retry", "storage-unavailable"),
        (2, "retry", "storage-unavailable"),
        (3, "succeeded", None),
    ]


async def test_a_delivery_before_its_time_is_put_back(engine: TaskEngine, clock: Clock) -> None:
    """A duplicate of the message does not shorten the wait before a retry, nor multiply the runs."""
    submitted = await engine.submit("flaky", "a", {"until": 2})
    await deliver(engine)
    for _ in range(3):
        assert await process(engine, message_of(submitted)) is None
    assert (await engine.records.get(submitted.task_id)).attempts == 1
    clock.now += 10
    await deliver(engine)
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 2)


async def test_an_exhausted_task_is_dead_with_its_last_error(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 99})
    events: list[Any] = []
    for _ in range(5):
        events += await deliver(engine)
        clock.now += 600
    assert [event.status for event in events] == [TaskStatus.DEAD]
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.DEAD, 5)
    assert record.error is not None
    assert "away" in record.error.message
    assert "StorageUnavailableError" in record.error.traceback
    assert [attempt.outcome for attempt in record.history] == ["retry"] * 4 + ["dead"]
    # The message passes the poison queue and changes nothing there.
    assert await engine.storage.backend.queues.length(POISON_QUEUE) == 1
    assert await deliver(engine, POISON_QUEUE) == []
    assert await process(engine, message_of(submitted)) is None


async def test_the_action_says_when_and_how_often_it_is_tried_again(engine: TaskEngine, clock: Clock) -> None:
    @task("later", retry=RetryPolicy(max_attempts=2))
    async def later(context: TaskContext, payload: Any) -> None:
        raise RetryTaskError("not yet", retry_after=100)

    submitted = await engine.submit("later", "a")
    await deliver(engine)
    record = await engine.records.get(submitted.task_id)
    assert record.due_at is not None
    assert record.due_at.timestamp() == clock.now + 100
    clock.now += 101
    await deliver(engine)
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.DEAD


async def test_running_a_task_costs_three_table_operations(clock: Clock) -> None:
    """Read the record, claim it, end it, with its rows of the index; the queue is only received from and
    deleted from."""
    calls: list[str] = []

    class CountedTables(MemoryTables):
        async def get(self, *arguments: Any) -> Any:
            calls.append("get")
            return await super().get(*arguments)

        async def query(self, *arguments: Any) -> Any:
            calls.append("query")
            return await super().query(*arguments)

        async def batch(self, *arguments: Any) -> Any:
            calls.append("batch")
            return await super().batch(*arguments)

    class CountedQueues(MemoryQueues):
        async def send(self, *arguments: Any) -> str:
            calls.append("send")
            return await super().send(*arguments)

    backend = MemoryBackend(clock=clock)
    backend.tables = TableStore(CountedTables(clock))
    backend.queues = QueueStore(CountedQueues(clock=clock))
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)

    @task("nothing")
    async def nothing(context: TaskContext, payload: Any) -> None:
        return None

    submitted = await engine.submit("nothing", "a")
    assert calls == ["send", "batch"]
    calls.clear()
    await engine.worker.process(message_of(submitted), queue=TASK_QUEUE)
    assert calls == ["get", "batch", "batch"]


async def test_a_message_given_up_for_no_fault_of_its_task_is_queued_again(
    engine: TaskEngine, clock: Clock
) -> None:
    submitted = await engine.submit("add", "a", {"by": 1})
    await deliver_nothing(engine)
    raw = message_of(submitted)
    for _ in range(MAX_DELIVERIES):
        assert await given_up(engine, raw) == []
        assert (await engine.records.get(submitted.task_id)).attempts == 0
        clock.now += 600
    (event,) = await given_up(engine, raw)
    assert event.status is TaskStatus.DEAD
    assert event.error is not None
    assert event.error["code"] == "delivery-exhausted"


@pytest.mark.parametrize("between", ["lost", "misconfigured"])
async def test_what_happens_in_between_does_not_save_a_message_that_is_always_given_up(
    engine: TaskEngine, clock: Clock, between: str
) -> None:
    """Also where more is remembered of it than the history holds."""
    wrong = TaskEngine(engine.storage, registry_module.Registry(["no_such_module"]), clock=clock)
    submitted = await engine.submit("add", "a", {"by": 1})
    await deliver_nothing(engine)
    raw = message_of(submitted)
    for _ in range(MAX_DELIVERIES):
        if between == "misconfigured":
            assert await process(wrong, raw) is None
        else:
            record = await engine.records.get(submitted.task_id)
            await engine.records.change(record, status=TaskStatus.RUNNING)  # a worker that died at once
        clock.now += 600
        assert await given_up(engine, raw) == []
        clock.now += 600
    (event,) = await given_up(engine, raw)
    assert event.status is TaskStatus.DEAD


async def test_an_attempt_or_a_requeue_gives_a_message_all_its_deliveries_again(
    engine: TaskEngine, clock: Clock
) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 2})
    await deliver_nothing(engine)
    raw = message_of(submitted)
    for _ in range(2):
        for _ in range(MAX_DELIVERIES):
            assert await given_up(engine, raw) == []
            clock.now += 600
        await process(engine, raw)  # the first time it fails, and is to be tried again
        clock.now += 600
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.SUCCEEDED
    given = await engine.submit("add", "a", {"by": 1})
    for _ in range(MAX_DELIVERIES + 1):
        events = await given_up(engine, message_of(given))
        clock.now += 600
    assert [event.status for event in events] == [TaskStatus.DEAD]
    await engine.control.requeue(given.task_id)
    assert await given_up(engine, message_of(given)) == []


async def test_a_requeue_whose_message_is_given_up_takes_place_all_the_same(
    engine: TaskEngine, clock: Clock
) -> None:
    submitted = await engine.submit("fail", "a")
    await deliver(engine)
    record = await engine.records.get(submitted.task_id)
    # The requeuer could send its message and no more, and the message was not handled either.
    raw = TaskMessage.of(record, requeue=record.fence).to_bytes().decode()
    assert await given_up(engine, raw) == []
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.QUEUED


async def test_a_task_that_kills_its_worker_each_time_ends_dead(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("add", "a", {"by": 1})
    for _ in range(5):
        record = await engine.records.get(submitted.task_id)
        assert await engine.worker._claim(record, "", TASK_QUEUE) is not None
        clock.now += 61
    (event,) = await deliver(engine)
    assert event.status is TaskStatus.DEAD
    record = await engine.records.get(submitted.task_id)
    assert record.error is not None
    assert record.error.code == "worker-lost"
    assert [attempt.outcome for attempt in record.history] == ["lost"] * 5 + ["dead"]
    assert not await engine.storage.exists("total")


async def test_an_action_that_hangs_is_ended_at_its_deadline(engine: TaskEngine) -> None:
    @task("hangs", timeout=0.05)
    async def hangs(context: TaskContext, payload: Any) -> None:
        assert context.deadline > datetime.fromtimestamp(0, UTC)
        await asyncio.Event().wait()

    submitted = await engine.submit("hangs", "a")
    (event,) = await deliver(engine)
    assert event.status is TaskStatus.FAILED
    record = await engine.records.get(submitted.task_id)
    assert record.error is not None
    assert record.error.code == "deadline-exceeded"
    with pytest.raises(ConfigurationError):
        task("endless", timeout=0)


# -- idempotency


async def test_one_key_is_one_task_also_for_submitters_at_once(engine: TaskEngine, clock: Clock) -> None:
    async def submit(by: int = 1, agent: str = "a", action: str = "add") -> TaskRecord:
        return await engine.submit(action, agent, {"by": by}, idempotency_key="k")

    records = await asyncio.gather(*(submit() for _ in range(8)))
    assert len({record.task_id for record in records}) == 1
    while await deliver(engine):
        pass
    assert await engine.storage.load("total") == 1
    again = await submit()
    assert (again.task_id, again.status) == (records[0].task_id, TaskStatus.SUCCEEDED)
    for different in (submit(by=2), submit(agent="b")):
        with pytest.raises(IdempotencyConflictError):
            await different
    assert (await submit(action="fail")).task_id != again.task_id
    clock.now += 24 * 3600 + 1
    assert (await submit(by=2)).task_id != again.task_id
    assert await engine.submission.expire_keys(100) == 1


async def test_a_submitter_that_stopped_half_way_is_made_good_by_the_next(
    engine: TaskEngine, clock: Clock
) -> None:
    now = datetime.fromtimestamp(clock.now, UTC)
    stopped = NewTask(action="add", agent_id="a", payload={"by": 1}, idempotency_key="k")
    task_id = new_task_id()
    assert (await engine.submission._first_with_key(stopped, task_id, now))[0] == task_id
    record = await engine.submit("add", "a", {"by": 1}, idempotency_key="k")
    assert record.task_id == task_id
    assert len(await deliver(engine)) == 1


# -- cancel, requeue


async def test_a_cancelled_task_never_runs(engine: TaskEngine) -> None:
    submitted = await engine.submit("add", "a", {"by": 1})
    record, events = await engine.worker.cancel(submitted.task_id)
    assert record.status is TaskStatus.CANCELLED
    assert [event.type for event in events] == ["task.cancelled"]
    # Again: whoever cancelled it may have died before anybody was told.
    assert [event.type for event in (await engine.worker.cancel(submitted.task_id))[1]] == ["task.cancelled"]
    await engine.outbox.publish(events)
    assert (await engine.worker.cancel(submitted.task_id))[1] == []
    assert await deliver(engine) == []
    assert not await engine.storage.exists("total")


async def test_a_running_task_is_asked_to_stop(engine: TaskEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_module, "_CHECK_SECONDS", 0)
    tidied = False

    @task("loops")
    async def loops(context: TaskContext, payload: Any) -> None:
        nonlocal tidied
        await context.progress({"step": 1})
        assert (await engine.records.get(context.task.task_id)).progress == {"step": 1}
        await engine.control.cancel(context.task.task_id)
        try:
            await context.checkpoint()
        finally:
            tidied = True

    submitted = await engine.submit("loops", "a")
    (event,) = await deliver(engine)
    assert event.status is TaskStatus.CANCELLED
    assert tidied
    record = await engine.records.get(submitted.task_id)
    assert record.progress == {"step": 1}
    with pytest.raises(TaskStateError):
        await engine.control.cancel((await finished(engine)).task_id)


async def finished(engine: TaskEngine) -> TaskRecord:
    submitted = await engine.submit("add", "a", {"by": 0})
    await deliver(engine)
    return await engine.records.get(submitted.task_id)


@pytest.mark.parametrize("first", ["record", "message"])
async def test_a_failed_task_can_be_run_again(engine: TaskEngine, clock: Clock, first: str) -> None:
    attempts = 0

    @task("second_time")
    async def second_time(context: TaskContext, payload: Any) -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise RuntimeError("not the first time")
        return payload

    large = "p" * 50_000
    submitted = await engine.submit("second_time", "a", large)
    await deliver(engine)
    with pytest.raises(TaskStateError):
        await engine.control.requeue((await finished(engine)).task_id)
    if first == "record":
        requeued = await engine.control.requeue(submitted.task_id)
        assert (requeued.status, requeued.finished_at) == (TaskStatus.QUEUED, None)
        with pytest.raises(TaskStateError):
            await engine.control.requeue(submitted.task_id)
    else:
        # The requeuer was stopped before it could change the record: its message does it.
        revive, engine.control.revive = engine.control.revive, None  # type: ignore[assignment, method-assign]
        with pytest.raises(TypeError):
            await engine.control.requeue(submitted.task_id)
        engine.control.revive = revive  # type: ignore[method-assign]
    queues = engine.storage.backend.queues
    (message,) = await queues.peek(TASK_QUEUE)
    await deliver(engine)
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.error) == (TaskStatus.SUCCEEDED, large, None)
    assert [attempt.outcome for attempt in record.history] == ["failed", "requeued", "succeeded"]
    # The message of the requeue, delivered again, changes nothing any more.
    assert await process(engine, message.text) is None
    assert attempts == 2


async def test_a_requeued_task_has_all_its_attempts_again(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 8})
    for _ in range(5):
        await deliver(engine)
        clock.now += 600
    assert (await engine.records.get(submitted.task_id)).status is TaskStatus.DEAD
    await engine.control.requeue(submitted.task_id)
    for _ in range(3):
        await deliver(engine)
        clock.now += 600
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 8)


@pytest.mark.parametrize("queue", [TASK_QUEUE, HIGH_QUEUE])
async def test_the_message_of_another_program_can_be_put_back_where_it_came_from(
    engine: TaskEngine, queue: str
) -> None:
    queues = engine.storage.backend.queues
    await queues.send_text(queue, "not for us")
    await deliver(engine, queue)
    (message,) = await queues.receive(f"{queue}-poison")
    await engine.worker.process_poison(
        message.text, queue=queue, message_id=message.id, inserted_at=message.inserted_at
    )
    (record,) = (await engine.records.list(status="dead")).records
    requeued = await engine.control.requeue(record.task_id)
    assert requeued.history[-1].outcome == "requeued"
    (message,) = await queues.peek(queue)
    assert message.text == "not for us"


# -- fan-out and join


async def settle(engine: TaskEngine, clock: Clock) -> list[Any]:
    """Deliver until every queue is empty."""
    events: list[Any] = []
    queues = engine.storage.backend.queues
    for _ in range(200):
        for queue in (HIGH_QUEUE, TASK_QUEUE):
            await queues.create_queue(queue)
            events += await deliver(engine, queue)
        if not await queues.length(TASK_QUEUE) and not await queues.length(HIGH_QUEUE):
            return events
        clock.now += 1
    raise AssertionError("the queues do not come to an end")


@pytest.fixture
def fan_out() -> None:
    @task("fan")
    async def fan(context: TaskContext, payload: Any) -> str:
        for child in payload:
            await context.submit(child["action"], child.get("payload"))
        return "own result"


@pytest.mark.usefixtures("fan_out")
async def test_a_parent_ends_when_its_children_have(engine: TaskEngine, clock: Clock) -> None:
    children = [{"action": "add", "payload": {"by": n}} for n in range(12)]
    parent = await engine.submit("fan", "a", children, priority=Priority.HIGH, correlation_id="c")
    await deliver(engine, HIGH_QUEUE)
    waiting = await engine.records.get(parent.task_id)
    assert waiting.status is TaskStatus.RUNNING
    assert waiting.is_waiting
    clock.now += 1000  # no lease is needed to wait
    assert await engine.worker.process(message_of(parent), queue=HIGH_QUEUE) == []
    events = await settle(engine, clock)
    assert [event.task_id for event in events].count(parent.task_id) == 1
    record = await engine.records.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert record.result == {
        "result": "own result",
        "children": {"total": 12, "succeeded": 12, "failed": []},
    }
    listed = (await engine.records.list(parent_id=parent.task_id)).records
    assert len(listed) == 12
    assert {child.correlation_id for child in listed} == {"c"}
    traces = {child.trace_parent.split("-")[1] for child in listed if child.trace_parent}
    assert record.trace_parent is not None
    assert traces == {record.trace_parent.split("-")[1]}
    assert len({child.trace_parent for child in listed}) == 12
    assert await engine.storage.load("total") == sum(range(12))


@pytest.mark.usefixtures("fan_out")
async def test_partial_failures_are_reported_and_run_again_alone(engine: TaskEngine, clock: Clock) -> None:
    broken = True

    @task("sometimes")
    async def sometimes(context: TaskContext, payload: Any) -> None:
        if broken:
            raise RuntimeError("broken")

    children = [
        {"action": "add", "payload": {"by": 1}},
        {"action": "sometimes"},
        {"action": "fan", "payload": []},
    ]
    parent = await engine.submit("fan", "a", children)
    await settle(engine, clock)
    record = await engine.records.get(parent.task_id)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == "children-failed"
    assert (record.result["children"]["total"], record.result["children"]["succeeded"]) == (3, 2)
    (failed,) = record.result["children"]["failed"]
    assert (await engine.records.get(failed)).action == "sometimes"
    broken = False
    await engine.control.requeue(parent.task_id)
    await settle(engine, clock)
    record = await engine.records.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert await engine.storage.load("total") == 1


@pytest.mark.usefixtures("fan_out")
async def test_nested_parents_end_from_the_leaves_up(engine: TaskEngine, clock: Clock) -> None:
    leaf = {"action": "add", "payload": {"by": 1}}
    inner = {"action": "fan", "payload": [leaf, leaf]}
    parent = await engine.submit("fan", "a", [inner, inner, leaf])
    await settle(engine, clock)
    assert (await engine.records.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert await engine.storage.load("total") == 5


@pytest.mark.usefixtures("fan_out")
async def test_children_of_a_cancelled_parent_do_not_run(engine: TaskEngine, clock: Clock) -> None:
    parent = await engine.submit("fan", "a", [{"action": "add", "payload": {"by": 1}}] * 3)
    await deliver(engine)
    assert (await engine.worker.cancel(parent.task_id))[0].status is TaskStatus.CANCELLED
    await settle(engine, clock)
    assert {child.status for child in (await engine.records.list(parent_id=parent.task_id)).records} == {
        TaskStatus.CANCELLED
    }
    assert not await engine.storage.exists("total")


async def test_a_parent_that_is_run_twice_has_its_children_once(engine: TaskEngine, clock: Clock) -> None:
    runs = 0

    @task("retried_fan")
    async def retried_fan(context: TaskContext, payload: Any) -> None:
        nonlocal runs
        runs += 1
        for by in (1, 2):
            await context.submit("add", {"by": by})
        if runs == 1:
            raise RetryTaskError("again")

    parent = await engine.submit("retried_fan", "a")
    await settle(engine, clock)
    assert runs == 2
    assert (await engine.records.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert await engine.storage.load("total") == 3


@pytest.mark.usefixtures("fan_out")
async def test_a_parent_whose_worker_died_before_it_could_look_ends_all_the_same(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All children end while the parent's action still runs; then its worker gets no further than to wait."""

    async def died(*_: Any) -> list[Any]:
        raise StorageUnavailableError("the worker died here")

    child_done = asyncio.Event()

    @task("waits_for_its_child")
    async def waits_for_its_child(context: TaskContext, payload: Any) -> None:
        await context.submit("add", {"by": 1})
        await child_done.wait()

    parent = await engine.submit("waits_for_its_child", "a")
    raise_from = engine.worker._joins.complete
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    running = asyncio.ensure_future(engine.worker.process(message.text, queue=TASK_QUEUE))
    while await engine.storage.backend.queues.length(TASK_QUEUE) < 2:
        await asyncio.sleep(0)
    await deliver(engine)
    monkeypatch.setattr(engine.worker._joins, "complete", died)
    child_done.set()
    with pytest.raises(StorageUnavailableError):
        await running
    monkeypatch.setattr(engine.worker._joins, "complete", raise_from)
    (event,) = await engine.worker.process(message.text, queue=TASK_QUEUE, dequeue_count=2)
    assert (event.task_id, event.status) == (parent.task_id, TaskStatus.SUCCEEDED)


@pytest.mark.usefixtures("fan_out")
async def test_a_failed_child_can_be_run_again_after_its_parent(engine: TaskEngine, clock: Clock) -> None:
    broken = True

    @task("sometimes")
    async def sometimes(context: TaskContext, payload: Any) -> None:
        if broken:
            raise RuntimeError("broken")

    parent = await engine.submit("fan", "a", [{"action": "sometimes"}])
    await settle(engine, clock)
    (child,) = (await engine.records.list(parent_id=parent.task_id)).records
    broken = False
    await engine.control.requeue(child.task_id)
    await settle(engine, clock)
    assert (await engine.records.get(child.task_id)).status is TaskStatus.SUCCEEDED
    assert (await engine.records.get(parent.task_id)).status is TaskStatus.FAILED


@pytest.mark.usefixtures("fan_out")
async def test_cancelling_reaches_down_and_up(engine: TaskEngine, clock: Clock) -> None:
    leaf = {"action": "add", "payload": {"by": 1}}
    root = await engine.submit("fan", "a", [{"action": "fan", "payload": [leaf]}])
    await deliver(engine)
    await deliver(engine)  # the middle one waits now
    await engine.worker.cancel(root.task_id)
    await settle(engine, clock)
    assert not await engine.storage.exists("total")
    # A parent whose only child is cancelled ends at once, not when the child's message comes.
    parent = await engine.submit("fan", "a", [leaf])
    await deliver(engine)
    (child,) = (await engine.records.list(parent_id=parent.task_id)).records
    _, events = await engine.worker.cancel(child.task_id)
    assert [event.task_id for event in events] == [child.task_id, parent.task_id]
    assert (await engine.records.get(parent.task_id)).status is TaskStatus.FAILED


async def test_a_task_that_was_asked_to_stop_does_not_wait_for_its_children(
    engine: TaskEngine, clock: Clock
) -> None:
    @task("deaf")
    async def deaf(context: TaskContext, payload: Any) -> None:
        await context.submit("add", {"by": 1}, delay_seconds=1000)
        await engine.worker.cancel(context.task.task_id)

    parent = await engine.submit("deaf", "a")
    (event,) = await deliver(engine)
    assert (event.task_id, event.type) == (parent.task_id, "task.cancelled")


async def test_the_result_shown_is_the_last_whatever_its_size(engine: TaskEngine, clock: Clock) -> None:
    results: list[Any] = ["small", RuntimeError("first"), "l" * 50_000, None]

    @task("varies")
    async def varies(context: TaskContext, payload: Any) -> Any:
        result = results[payload]
        if isinstance(result, Exception):
            raise result
        await context.submit("add", {"by": 0})
        return result

    for n, result in ((0, "small"), (2, "l" * 50_000), (3, None)):
        parent = await engine.submit("varies", "a", n)
        await settle(engine, clock)
        assert (await engine.records.get(parent.task_id)).result["result"] == result
    nearly = await engine.submit("varies", "a", 1)
    await settle(engine, clock)
    results[1] = "x" * 16_370  # alone it is kept in the record, with the summary around it no more
    await engine.control.requeue(nearly.task_id)
    await settle(engine, clock)
    assert (await engine.records.get(nearly.task_id)).result["result"] == "x" * 16_370


# -- leases under trouble


async def test_a_lease_that_can_not_be_renewed_has_the_message_delivered_again() -> None:
    """Whether the store is away or does not answer at all: no second worker runs beside the first, and the
    task is not lost."""
    for hangs in (False, True):

        class Away(MemoryTables):
            away = False

            async def batch(self, table: str, pk: str, operations: Any) -> Any:
                if not isinstance(operations[0], Update):
                    return await super().batch(table, pk, operations)
                if self.away and self.__class__.hanging:
                    await asyncio.Event().wait()
                if self.away:
                    raise StorageUnavailableError("away")
                return await super().batch(table, pk, operations)

            hanging = False

        Away.hanging = hangs
        backend = MemoryBackend()
        tables = Away()
        backend.tables = TableStore(tables)
        engine = TaskEngine(StorageManager(backend=backend), lease_seconds=0.3)
        stopped = asyncio.Event()

        @task(f"long_{hangs}".lower())
        async def long(
            context: TaskContext, payload: Any, tables: Away = tables, stopped: asyncio.Event = stopped
        ) -> None:
            if context.task.attempts == 1:
                tables.away = True
                try:
                    await asyncio.Event().wait()
                finally:
                    stopped.set()

        submitted = await engine.submit(f"long_{hangs}".lower(), "a")
        raw = message_of(submitted)
        with pytest.raises(LeaseExpiredError):
            await engine.worker.process(raw, queue=TASK_QUEUE)
        assert stopped.is_set()
        tables.away = False
        async with asyncio.timeout(120):
            while not (events := await engine.worker.process(raw, queue=TASK_QUEUE)):
                await asyncio.sleep(0.05)
        assert events[0].status is TaskStatus.SUCCEEDED


async def test_odd_ends_of_actions_are_ends(engine: TaskEngine, clock: Clock) -> None:
    @task("no_text")
    async def no_text(context: TaskContext, payload: Any) -> None:
        raise OSError("caf\udce9.txt")

    @task("cancels_itself")
    async def cancels_itself(context: TaskContext, payload: Any) -> None:
        raise asyncio.CancelledError

    @task("misconfigured")
    async def misconfigured(context: TaskContext, payload: Any) -> None:
        raise ConfigurationError("of the payload")

    for action, code in (
        ("no_text", "OSError"),
        ("cancels_itself", "RuntimeError"),
        ("misconfigured", "configuration-error"),
    ):
        submitted = await engine.submit(action, "a")
        (event,) = await deliver(engine)
        assert event.status is TaskStatus.FAILED
        record = await engine.records.get(submitted.task_id)
        assert record.error is not None
        assert record.error.code == code


async def test_a_payload_that_is_gone_fails_its_own_task(engine: TaskEngine) -> None:
    submitted = await engine.submit("add", "a", {"by": 1, "note": "n" * 50_000})
    record = await engine.records.get(submitted.task_id, contents=False)
    assert record.payload_key is not None
    await engine.storage.backend.objects.delete(record.payload_key)
    (event,) = await deliver(engine)
    assert (event.task_id, event.status) == (submitted.task_id, TaskStatus.FAILED)
    assert event.error is not None
    assert event.error["code"] == "key-not-found"


async def test_only_our_own_messages_say_what_is_whose(engine: TaskEngine) -> None:
    done = await finished(engine)
    foreign = {"task_id": done.task_id, "agent_id": "a", "action": "add", "payload": {"by": 0}}
    for fields in ({"requeue": done.fence}, {"v": 1, "requeue": done.fence}, {"parent_id": done.task_id}):
        assert await process(engine, json.dumps(foreign | fields)) is None
    assert (await engine.records.get(done.task_id)).attempts == 1
    own = {
        "task_id": "t",
        "agent_id": "a",
        "action": "add",
        "payload": {"by": 0},
        "parent_id": "t",
        "child_index": 0,
    }
    assert (await process(engine, json.dumps(own))).status is TaskStatus.SUCCEEDED


async def test_the_order_of_names_is_no_difference_for_a_key(engine: TaskEngine) -> None:
    first = await engine.submit("fail", "a", {"a": 1, "b": {"c": 2, "d": 3}}, idempotency_key="k")
    again = await engine.submit("fail", "a", {"b": {"d": 3, "c": 2}, "a": 1}, idempotency_key="k")
    assert again.task_id == first.task_id


# -- many, priority, retention, traces


async def test_many_are_submitted_or_none(engine: TaskEngine) -> None:
    good = NewTask(action="add", agent_id="a", payload={"by": 1})
    with pytest.raises(InvalidArgumentError) as refused:
        await engine.submission.submit_many([good, NewTask(action="add", agent_id="a", payload={})])
    assert refused.value.field == "tasks[1].payload.by"
    with pytest.raises(InvalidArgumentError):
        await engine.submission.submit_many([])
    assert (await engine.records.list()).records == []
    results = await engine.submission.submit_many([good] * 20)
    assert all(isinstance(result, TaskRecord) for result in results)
    assert len((await engine.records.list()).records) == 20


async def test_a_life_longer_than_a_message_can_wait(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("add", "a", {"by": 1}, delay_seconds=20 * 24 * 3600)
    for _ in range(2):
        clock.now += 7 * 24 * 3600 + 1
        assert await deliver(engine) == []
        assert (await engine.records.get(submitted.task_id)).attempts == 0
    clock.now += 6 * 24 * 3600 + 1
    assert len(await deliver(engine)) == 1


async def test_old_records_are_removed_with_what_they_hold(engine: TaskEngine, clock: Clock) -> None:
    await engine.submit("add", "a", {"by": 1, "note": "n" * 50_000})
    await engine.submit("large", "a")
    await deliver(engine)
    await process(engine, json.dumps({"task_id": "other", "agent_id": "a", "action": "fail"}))
    clock.now += 40 * 24 * 3600
    young = await finished(engine)
    waiting = await engine.submit("add", "a", {"by": 1}, delay_seconds=100)
    before = datetime.fromtimestamp(clock.now, UTC) - timedelta(days=30)
    assert await engine.records.expire(before, 100) == 3
    assert await engine.records.expire(before, 100) == 0
    left = (await engine.records.list()).records
    assert {record.task_id for record in left} == {young.task_id, waiting.task_id}
    assert [entry async for entry in engine.storage.backend.objects.iterate(".system/tasks/")] == []


async def test_listing_by_time(engine: TaskEngine, clock: Clock) -> None:
    start = clock.now
    ids: list[str] = []
    for n in range(6):
        ids.append((await engine.submit("add", "a", {"by": n})).task_id)
        clock.now += 40_000
    await process(engine, json.dumps({"task_id": "other", "agent_id": "a", "action": "fail"}))

    async def between(after: float | None, before: float | None) -> list[str]:
        def moment(n: float | None) -> datetime | None:
            return None if n is None else datetime.fromtimestamp(start + n * 40_000, UTC)

        page = await engine.records.list(created_after=moment(after), created_before=moment(before))
        return [record.task_id for record in page.records]

    assert await between(2, 4) == [ids[3], ids[2]]
    assert await between(4, None) == [ids[5], ids[4], "other"]
    assert await between(None, 1) == [ids[0]]
    assert await between(50, None) == []


async def test_a_trace_goes_on_from_the_submitter(engine: TaskEngine) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    submitted = await engine.submit("add", "a", {"by": 1}, trace_parent=trace)
    (event,) = await deliver(engine)
    assert submitted.trace_parent == event.traceparent == trace
    for malformed in (None, "x", "00-" + "0" * 32 + "-b7ad6b7169203331-01"):
        other = await engine.submit("add", "a", {"by": 1}, trace_parent=malformed)
        assert other.trace_parent is not None
        assert other.trace_parent != malformed
    await process(
        engine, json.dumps({"task_id": "t", "agent_id": "a", "action": "fail", "traceparent": trace})
    )
    assert (await engine.records.get("t")).trace_parent == trace


async def test_an_effect_is_applied_once_however_often_the_task_is_run(
    engine: TaskEngine, clock: Clock
) -> None:
    @task("effect", retry=RetryPolicy(max_attempts=3, base_seconds=0))
    async def effect(context: TaskContext, payload: Any) -> None:
        await context.update_once("effects/mine", lambda n: n + 1, initial=0)
        if context.task.attempts < 3:
            raise RetryTaskError("after the effect")

    await engine.submit("effect", "a")
    await settle(engine, clock)
    assert await engine.storage.load("effects/mine") == 1


async def test_progress_is_small_json(engine: TaskEngine) -> None:
    @task("talks")
    async def talks(context: TaskContext, payload: Any) -> None:
        await context.progress(object() if payload else "p" * 10_000)

    for payload in (True, False):
        submitted = await engine.submit("talks", "a", payload)
        await deliver(engine)
        record = await engine.records.get(submitted.task_id)
        assert record.error is not None
        assert record.error.code == "serialization-error"


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize(
    ("raw", "code", "words"),
    [
        (b"garbage!", "serialization-error", "not JSON"),
        (b"\xff\xfe", "serialization-error", "not JSON"),
        (b"[1]", "serialization-error", "not an object"),
        (b"{}", "invalid-argument", "task_id is missing"),
        (b'{"task_id": "../x", "agent_id": "a", "action": "add"}', "invalid-argument", "task_id"),
        (b'{"task_id": "t", "agent_id": "a", "action": "Bad Name"}', "invalid-argument", "action"),
        (b'{"task_id": "t", "agent_id": 5, "action": "add"}', "invalid-argument", "agent_id"),
        (b'{"v": 99, "task_id": "t", "agent_id": "a", "action": "add"}', "serialization-error", "version"),
        (
            b'{"v": 1, "task_id": "t", "agent_id": "a", "action": "add", "payload_key": ".system/tasks/u/x"}',
            "invalid-argument",
            "payload_key",
        ),
        (
            b'{"v": 1, "task_id": "t", "agent_id": "a", "action": "add",'
            b' "payload_key": ".system/tasks/t/../../x"}',
            "invalid-argument",
            "payload_key",
        ),
        (b'{"task_id": "t.", "agent_id": "a", "action": "add"}', "invalid-argument", "task_id"),
    ],
)
async def test_a_malformed_message_becomes_an_inspectable_dead_record(
    engine: TaskEngine, raw: bytes, code: str, words: str, encoded: bool
) -> None:
    queues = engine.storage.backend.queues
    if encoded:
        await queues.send(TASK_QUEUE, raw)
    else:
        await queues.send_text(TASK_QUEUE, raw.decode(errors="replace"))
    await deliver(engine)
    (poisoned,) = await queues.peek(POISON_QUEUE)
    assert poisoned.text == (queues.encode(raw) if encoded else raw.decode(errors="replace"))
    (event,) = await deliver(engine, POISON_QUEUE)
    assert event.status is TaskStatus.DEAD
    (record,) = (await engine.records.list(status="dead")).records
    assert (record.agent_id, record.action, record.created_at) == ("unknown", "unknown", poisoned.inserted_at)
    assert record.error is not None
    assert record.error.code == code
    assert words in record.error.message
    assert record.raw_message == poisoned.text


async def test_the_event_of_a_dead_message_is_given_until_it_is_out(engine: TaskEngine) -> None:
    at = datetime(2027, 1, 15, tzinfo=UTC)
    for count in (1, 1, 2):
        options: dict[str, Any] = {"message_id": "m", "inserted_at": at, "dequeue_count": count}
        assert len(await engine.worker.process_poison("garbage", queue=TASK_QUEUE, **options)) == 1
    for count, events in ((1, 1), (1, 0), (2, 0)):
        assert len(await given_up(engine, "garbage", dequeue_count=count)) == events


async def test_dead_messages_of_others_are_listed_among_the_tasks_newest_first(
    engine: TaskEngine, clock: Clock
) -> None:
    """By the time at which they came, however late they were looked at."""
    start = datetime.fromtimestamp(clock.now, UTC)
    expected: list[str | None] = []
    for n in range(3):
        expected += [(await engine.submit("add", "a", {"by": n})).task_id, f"garbage {n}"]
        clock.now += 80_000
    for n in range(3):
        at = start + timedelta(seconds=80_000 * n + 1)
        text = f"garbage {n}"
        await engine.worker.process_poison(text, queue=TASK_QUEUE, message_id=f"m{n}", inserted_at=at)
    page = await engine.records.list()
    assert [each.raw_message or each.task_id for each in page.records] == expected[::-1]
    page = await engine.records.list(status="dead", created_after=start + timedelta(seconds=10))
    assert [each.raw_message for each in page.records] == ["garbage 2", "garbage 1"]


async def test_a_wrong_configuration_costs_a_task_nothing(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend(clock=clock))
    good = TaskEngine(storage, clock=clock)
    wrong = TaskEngine(storage, registry_module.Registry(["no_such_module"]), clock=clock)
    submitted = await good.submit("add", "a", {"by": 1})
    for _ in range(10):
        assert await deliver(wrong) == []
        record = await good.records.get(submitted.task_id)
        assert (record.status, record.attempts) == (TaskStatus.QUEUED, 0)
        assert record.error is not None
        assert record.error.code == "configuration-error"
        clock.now += 100
    assert [event.status for event in await deliver(good)] == [TaskStatus.SUCCEEDED]


async def test_a_reused_task_id_does_not_touch_the_first_task(engine: TaskEngine) -> None:
    first = {"task_id": "t1", "agent_id": "a", "action": "add", "payload": {"by": 1}}
    await process(engine, json.dumps(first))
    await process(engine, json.dumps(first | {"payload": {"by": 50}}))
    (event,) = await deliver(engine, POISON_QUEUE)
    assert event.error["code"] == "task-id-taken"
    assert await engine.storage.load("total") == 1
    assert (await engine.records.get("t1")).payload == {"by": 1}


async def test_large_payloads_results_and_messages_are_kept_whole(engine: TaskEngine) -> None:
    payload = {"by": 1, "note": "p" * 100_000}
    added = await engine.submit("add", "a", payload)
    large = await engine.submit("large", "a")
    await deliver(engine)
    assert (await engine.records.get(added.task_id)).payload == payload
    assert (await engine.records.get(large.task_id)).result == "r" * 100_000
    garbage = b"g" * 49_000
    await engine.storage.backend.queues.send(TASK_QUEUE, garbage)
    await deliver(engine)
    await deliver(engine, POISON_QUEUE)
    (dead,) = (await engine.records.list(status="dead")).records
    assert (await engine.records.get(dead.task_id)).raw_message == b64encode(garbage).decode()
    # What tasks keep in the object store is not the users' to see.
    assert [key async for key in engine.storage.list_keys()] == ["total"]


async def test_stopping_the_host_gives_the_task_back(engine: TaskEngine) -> None:
    started = asyncio.Event()

    @task("waits")
    async def waits(context: TaskContext, payload: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    submitted = await engine.submit("waits", "a")
    running = asyncio.ensure_future(process(engine, message_of(submitted)))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    record = await engine.records.get(submitted.task_id)
    assert record.status is TaskStatus.QUEUED
    assert record.error is not None
    assert record.error.code == "interrupted"
    queues = engine.storage.backend.queues
    assert len(await queues.receive(TASK_QUEUE, max_messages=5)) == 2


async def test_tasks_are_listed_newest_first_and_by_what_they_are(engine: TaskEngine, clock: Clock) -> None:
    ids: list[str] = []
    for n in range(6):
        ids.append((await engine.submit("add", f"agent-{n % 2}", {"by": n})).task_id)
        clock.now += 40_000  # over several days
    await process(engine, json.dumps({"task_id": "other", "agent_id": "agent-0", "action": "fail"}))
    everything = (await engine.records.list()).records
    assert [record.task_id for record in everything] == [*reversed(ids), "other"]
    seen: list[str] = []
    cursor = None
    while True:
        page = await engine.records.list(limit=2, cursor=cursor)
        seen += [record.task_id for record in page.records]
        if (cursor := page.cursor) is None:
            break
    assert seen == [*reversed(ids), "other"]
    of_one = (await engine.records.list(agent_id="agent-0", status="queued")).records
    assert [record.task_id for record in of_one] == [ids[4], ids[2], ids[0]]
    assert (await engine.records.list(action="fail")).records[0].status is TaskStatus.FAILED
    with pytest.raises(InvalidArgumentError) as refused:
        await engine.records.list(status="finished")
    assert refused.value.field == "status"


async def test_what_can_not_be_submitted_leaves_nothing(engine: TaskEngine) -> None:
    for action, agent, payload, options, field in (
        ("nope", "a", None, {}, "action"),
        ("add", "a", {"by": "x"}, {}, "payload.by"),
        ("add", "a", [], {}, "payload"),
        ("add", "", {"by": 1}, {}, "agent_id"),
        ("add", "a\n", {"by": 1}, {}, "agent_id"),
        ("add", "a", {"by": 1}, {"delay_seconds": -1}, "delay_seconds"),
        ("add", "a", {"by": 1}, {"delay_seconds": 40_000_000}, "delay_seconds"),
        ("add", "a", {"by": 1}, {"correlation_id": "x" * 129}, "correlation_id"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await engine.submit(action, agent, payload, **options)
        assert refused.value.field == field
    assert (await engine.records.list()).records == []
    with pytest.raises(KeyNotFoundError):
        await engine.storage.backend.queues.length(TASK_QUEUE)


class NoInserts(MemoryTables):
    """A table store that takes no new entity, or takes it and breaks down before it says so."""

    def __init__(self, clock: Clock, *, stored: bool) -> None:
        super().__init__(clock)
        self.stored = stored
        self.broken = True

    async def batch(self, table: str, pk: str, operations: Any) -> Any:
        if not self.broken or not isinstance(operations[0], Insert):
            return await super().batch(table, pk, operations)
        if self.stored:
            await super().batch(table, pk, operations)
        raise StorageUnavailableError("the table is away")


@pytest.mark.parametrize("stored", [True, False])
async def test_an_accepted_task_runs_even_if_its_record_could_not_be_written(
    clock: Clock, stored: bool
) -> None:
    backend = MemoryBackend(clock=clock)
    tables = NoInserts(clock, stored=stored)
    backend.tables = TableStore(tables)
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)
    small = await engine.submit("add", "a", {"by": 1})
    large = await engine.submit("add", "a", {"by": 2, "note": "n" * 100_000})
    tables.broken = False
    await deliver(engine)
    for submitted in (small, large):
        record = await engine.records.get(submitted.task_id)
        assert (record.status, record.payload) == (TaskStatus.SUCCEEDED, submitted.payload)
    assert await engine.storage.load("total") == 3


async def test_a_task_whose_message_could_not_be_sent_is_not_recorded(clock: Clock) -> None:
    class NoSends(MemoryQueues):
        async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
            raise StorageUnavailableError("the queue is away")

    backend = MemoryBackend(clock=clock)
    backend.queues = QueueStore(NoSends(clock=clock))
    engine = TaskEngine(StorageManager(backend=backend), clock=clock)
    with pytest.raises(StorageUnavailableError):
        await engine.submit("add", "a", {"by": 1})
    assert (await engine.records.list()).records == []


async def test_a_delayed_task_runs_later(engine: TaskEngine, clock: Clock) -> None:
    await engine.submit("add", "a", {"by": 1}, delay_seconds=100)
    assert await deliver(engine) == []
    clock.now += 101
    assert len(await deliver(engine)) == 1


def test_an_action_has_one_owner() -> None:
    async def other(context: TaskContext, payload: Any) -> None:
        return None

    with pytest.raises(ConfigurationError, match="two actions"):
        task("add")(other)
    with pytest.raises(InvalidArgumentError):
        task("Not A Name")
    with pytest.raises(ConfigurationError, match="no_such_module"):
        registry_module.Registry(["no_such_module"]).get("add")
    with pytest.raises(UnknownActionError, match="unknown action"):
        registry_module.Registry().get("missing")


@given(st.integers(0, 2**45), st.integers(0, 2**45))
def test_the_order_of_our_ids_is_the_order_of_time_newest_first(a: int, b: int) -> None:
    first, second = new_task_id(a / 1000), new_task_id(b / 1000)
    assert first[14] == "7"
    if a // 1 != b // 1 and abs(a - b) > 1:
        assert (record_keys(first)[1] < record_keys(second)[1]) == (a > b)
    assert record_keys(first)[1] < record_keys("any-other")[1]


def test_a_new_id_tells_the_time() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    assert int(new_task_id(moment).replace("-", "")[:12], 16) == int(moment * 1000)
