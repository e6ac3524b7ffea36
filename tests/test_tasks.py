"""The task engine: every delivery, however often and wherever it comes, leads to one right final state."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.backends.memory import MemoryBackend, MemoryQueueStore, MemoryTableStore
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import MAX_ATTEMPTS, TaskEngine
from storage_lib.tasks.model import (
    POISON_QUEUE,
    TASK_QUEUE,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    new_task_id,
)
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import UnknownActionError, task


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


def message_of(record: TaskRecord) -> str:
    message = TaskMessage(record.task_id, record.agent_id, record.action, record.payload)
    return message.to_bytes().decode()


async def deliver(engine: TaskEngine, queue: str = TASK_QUEUE) -> list[Any]:
    """Receive all visible messages and hand them to the engine, as a host does; each is then deleted."""
    queues = engine.storage.backend.queues
    events: list[Any] = []
    for message in await queues.receive(queue, max_messages=32):
        if queue == POISON_QUEUE:
            events.append(await engine.process_poison(message.text, message_id=message.id))
        else:
            events.append(await engine.process(message.text, dequeue_count=message.dequeue_count))
        await queues.delete(queue, message)
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
    assert await engine.process(raw) is not None
    assert await engine.process(raw) is None
    assert await engine.storage.load("total") == 2
    # The same message again, after a host that died before it could publish: the event is not lost.
    again = await engine.process(raw, dequeue_count=2)
    assert again is not None
    assert again.status is TaskStatus.SUCCEEDED
    assert await engine.storage.load("total") == 2


async def test_two_deliveries_at_once_run_once(engine: TaskEngine) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @task("slow")
    async def slow(context: TaskContext, payload: Any) -> None:
        started.set()
        await go_on.wait()
        await context.storage.update("runs", lambda n: n + 1, initial=0)

    raw = message_of(await engine.submit("slow", "a"))
    first = asyncio.ensure_future(engine.process(raw))
    await started.wait()
    assert await engine.process(raw) is None
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
    late = asyncio.ensure_future(engine.process(raw))
    await started.wait()
    clock.now += 61
    assert (await engine.process(raw)) is not None
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
    claimed = await engine._claim(record, "", TASK_QUEUE)  # a worker that dies right after its claim
    assert claimed is not None
    raw = message_of(submitted)
    assert await engine.process(raw) is None
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
    async with asyncio.timeout(10):
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
    assert await deliver(engine) == [None]
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
    event = await engine.process(json.dumps(message))
    assert event is not None
    record = await engine.records.get("t1")
    assert record.status is event.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == code
    assert words in record.error.message


async def test_transient_errors_are_for_the_host_to_deliver_again(engine: TaskEngine) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 3})
    raw = message_of(submitted)
    for attempt in (1, 2):
        with pytest.raises(StorageUnavailableError):
            await engine.process(raw, dequeue_count=attempt)
        record = await engine.records.get(submitted.task_id)
        assert (record.status, record.attempts) == (TaskStatus.QUEUED, attempt)
        assert record.error is not None
        assert record.error.code == "storage-unavailable"
    assert await engine.process(raw, dequeue_count=3) is not None
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.result, record.error) == (TaskStatus.SUCCEEDED, "done", None)


async def test_an_exhausted_task_is_dead_with_its_last_error(engine: TaskEngine) -> None:
    submitted = await engine.submit("flaky", "a", {"until": 99})
    raw = message_of(submitted)
    for attempt in range(MAX_ATTEMPTS):
        with pytest.raises(StorageUnavailableError):
            await engine.process(raw, dequeue_count=attempt + 1)
    event = await engine.process_poison(raw, message_id="m1")
    assert event is not None
    assert event.status is TaskStatus.DEAD
    record = await engine.records.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.DEAD, MAX_ATTEMPTS)
    assert record.error is not None
    assert "away" in record.error.message
    assert await engine.process(raw, dequeue_count=1) is None
    assert await engine.process_poison(raw, message_id="m1") is None


async def test_a_task_that_kills_its_worker_each_time_ends_dead(engine: TaskEngine, clock: Clock) -> None:
    submitted = await engine.submit("add", "a", {"by": 1})
    for _ in range(MAX_ATTEMPTS):
        record = await engine.records.get(submitted.task_id)
        assert await engine._claim(record, "", TASK_QUEUE) is not None
        clock.now += 61
    await deliver(engine)
    (event,) = await deliver(engine, POISON_QUEUE)
    assert event.status is TaskStatus.DEAD
    assert not await engine.storage.exists("total")


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
            b'{"task_id": "t", "agent_id": "a", "action": "add", "payload_key": ".system/tasks/u/payload-1"}',
            "invalid-argument",
            "payload_key",
        ),
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
    assert record.task_id == f"poison-{poisoned.id}"
    assert record.error is not None
    assert record.error.code == code
    assert words in record.error.message
    assert record.raw_message == poisoned.text


async def test_a_reused_task_id_does_not_touch_the_first_task(engine: TaskEngine) -> None:
    first = {"task_id": "t1", "agent_id": "a", "action": "add", "payload": {"by": 1}}
    await engine.process(json.dumps(first))
    await engine.process(json.dumps(first | {"payload": {"by": 50}}))
    (event,) = await deliver(engine, POISON_QUEUE)
    assert event.error.code == "task-id-taken"
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
    running = asyncio.ensure_future(engine.process(message_of(submitted)))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    record = await engine.records.get(submitted.task_id)
    assert record.status is TaskStatus.QUEUED
    assert record.error is not None
    assert record.error.code == "interrupted"


async def test_tasks_are_listed_newest_first_and_by_what_they_are(engine: TaskEngine, clock: Clock) -> None:
    ids: list[str] = []
    for n in range(6):
        ids.append((await engine.submit("add", f"agent-{n % 2}", {"by": n})).task_id)
        clock.now += 40_000  # over several days
    await engine.process(json.dumps({"task_id": "other", "agent_id": "agent-0", "action": "fail"}))
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
        ("add", "a", {"by": 1}, {"delay_seconds": 700_000}, "delay_seconds"),
        ("add", "a", {"by": 1}, {"correlation_id": "x" * 129}, "correlation_id"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await engine.submit(action, agent, payload, **options)
        assert refused.value.field == field
    assert (await engine.records.list()).records == []
    with pytest.raises(KeyNotFoundError):
        await engine.storage.backend.queues.length(TASK_QUEUE)


class NoInserts(MemoryTableStore):
    """A table store that takes no new entity, or takes it and breaks down before it says so."""

    def __init__(self, clock: Clock, *, stored: bool) -> None:
        super().__init__(clock)
        self.stored = stored
        self.broken = True

    async def _insert(self, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str:
        if not self.broken:
            return await super()._insert(table, pk, rk, properties)
        if self.stored:
            await super()._insert(table, pk, rk, properties)
        raise StorageUnavailableError("the table is away")


@pytest.mark.parametrize("stored", [True, False])
async def test_an_accepted_task_runs_even_if_its_record_could_not_be_written(
    clock: Clock, stored: bool
) -> None:
    backend = MemoryBackend(clock=clock)
    backend.tables = tables = NoInserts(clock, stored=stored)
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
    class NoSends(MemoryQueueStore):
        async def _send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
            raise StorageUnavailableError("the queue is away")

    backend = MemoryBackend(clock=clock)
    backend.queues = NoSends(clock=clock)
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
        assert (record_keys(first) < record_keys(second)) == (a > b)
    assert record_keys(first) < record_keys("any-other")


def test_a_new_id_tells_the_time() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    assert int(new_task_id(moment).replace("-", "")[:12], 16) == int(moment * 1000)
