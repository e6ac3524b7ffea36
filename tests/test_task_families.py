"""Parents and children, stores that fail once and hosts that stop: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.lease import _CONCLUDE_TRIES
from storage_lib.tasks.model import TASK_QUEUE, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy
from storage_lib.tasks.worker import MAX_DELIVERIES
from tests.task_worker import Worker

DAY = 24 * 3600
ONCE = RetryPolicy(max_attempts=1)


@dataclass
class World:
    """What the actions look at and leave behind."""

    mended: bool = False
    ran: list[Any] = field(default_factory=list[Any])
    started: asyncio.Event = field(default_factory=asyncio.Event)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture(autouse=True)
def world() -> Iterator[World]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)
    world = World()

    @task("leaf", retry=ONCE)
    async def leaf(context: TaskContext, payload: Any) -> Any:
        world.ran.append(payload)
        return payload

    @task("mended_only", retry=ONCE)
    async def mended_only(context: TaskContext, payload: Any) -> None:
        world.ran.append(payload)
        if not world.mended:
            raise ValueError("bad")

    @task("gathers")
    async def gathers(context: TaskContext, payload: int) -> None:
        await asyncio.gather(*(context.submit("leaf", n) for n in range(payload)))

    @task("has")
    async def has(context: TaskContext, payload: list[tuple[str, float]]) -> None:
        for action, delay in payload:
            await context.submit(action, delay_seconds=delay)

    @task("mended_then_has")
    async def mended_then_has(context: TaskContext, payload: str) -> None:
        if not world.mended:
            raise ValueError("not yet")
        await context.submit(payload)

    @task("stays", retry=ONCE)
    async def stays(context: TaskContext, payload: Any) -> None:
        await context.submit("leaf")
        world.ran.append("stays")
        if not world.mended:
            world.started.set()
            await asyncio.Event().wait()

    yield world
    registry_module._actions.clear()
    registry_module._actions.update(before)


def fail(
    store: Any, method: str, *, at: int = 1, times: int = 1, after: bool = False, only: Any = None
) -> None:
    """Make some calls of a method of a store fail: from number ``at``, of those that ``only`` chooses.

    :param after: the call is made, and its answer is lost.
    """
    real, count = getattr(store, method), 0

    async def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        if only is None or only(*arguments):
            count += 1
            if at <= count < at + times:
                if after:
                    await real(*arguments, **options)
                raise StorageUnavailableError("away")
        return await real(*arguments, **options)

    setattr(store, method, failing)


def to_status(status: TaskStatus) -> Any:
    return lambda table, pk, rk, properties: properties.get("status") == status


async def pump(worker: Worker, rounds: int = 20, seconds: float = 2) -> list[TaskEvent]:
    """Deliver as a host does: a message is deleted when it was handled, and comes again if not."""
    events: list[TaskEvent] = []
    queues = worker.backend.queues
    for _ in range(rounds):
        for message in await queues.receive(TASK_QUEUE, max_messages=32, visibility_timeout=10):
            try:
                events += await worker.engine.worker.process(
                    message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count
                )
            except StorageUnavailableError:
                continue
            await queues.delete(TASK_QUEUE, message)
        worker.clock.now += seconds
    return events


# -- several children at once


@pytest.mark.parametrize("store", ["memory", "file"])
async def test_children_that_are_submitted_at_once_all_run(store: str, tmp_path: Path, world: World) -> None:
    worker = Worker()
    if store == "file":
        backend: StorageBackend = FileStorageBackend(tmp_path, clock=worker.clock)
        worker.backend = backend  # type: ignore[assignment]
        worker.engine = TaskEngine(StorageManager(backend=backend), clock=worker.clock)
    else:
        real = worker.backend.tables.get

        async def get(*keys: Any, **options: Any) -> Any:
            await asyncio.sleep(0)  # as a store that is not in this process answers
            return await real(*keys, **options)

        worker.backend.tables.get = get  # type: ignore[method-assign]
    parent = await worker.engine.submit("gathers", "a", 20)
    await worker.settle(4)
    record = await worker.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert record.result["children"] == {"total": 20, "succeeded": 20, "failed": []}
    assert sorted(world.ran) == list(range(20))
    for index in range(20):
        child = await worker.get(child_task_id(parent.task_id, parent.created_at, index))
        assert child.payload == index, "the order is that of the calls"
    await worker.engine.storage.close()


async def test_an_action_that_goes_on_without_a_child_is_run_again(worker: Worker, world: World) -> None:
    """The child may be there or not: nobody could say how many the task has to wait for."""

    @task("careless")
    async def careless(context: TaskContext, payload: Any) -> str:
        for n in range(3):
            try:
                await context.submit("leaf", n)
            except StorageUnavailableError:
                world.ran.append("careless")
        return "done"

    parent = await worker.engine.submit("careless", "a")
    fail(worker.backend.queues, "send", at=2)
    await worker.settle()
    record = await worker.get(parent.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 2)
    assert record.result["children"]["total"] == 3
    assert sorted(map(str, world.ran)) == ["0", "1", "2", "careless", "careless"]


async def test_an_action_may_go_on_without_a_child_that_can_not_be(worker: Worker, world: World) -> None:
    @task("tolerant")
    async def tolerant(context: TaskContext, payload: Any) -> None:
        with pytest.raises(InvalidArgumentError):
            await context.submit("no_such_action")
        await context.submit("leaf", 1)

    parent = await worker.engine.submit("tolerant", "a")
    await worker.settle()
    record = await worker.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert record.result["children"]["total"] == 1


# -- a parent that is requeued


async def test_a_requeued_parent_runs_what_had_failed_whatever_the_clocks_say(
    worker: Worker, world: World
) -> None:
    """The host that takes the requeue is behind the one on which the child failed a moment ago."""
    behind = TaskEngine(StorageManager(backend=worker.backend), clock=lambda: worker.clock.now - 2)
    parent = await worker.engine.submit("has", "a", [("mended_only", 0)])
    await worker.run(await worker.take())
    await worker.run(await worker.take())
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
    world.mended = True
    await behind.control.requeue(parent.task_id)
    await worker.settle()
    assert (await worker.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert len(world.ran) == 2


async def test_an_end_after_the_requeue_counts_whatever_the_clocks_say(worker: Worker, world: World) -> None:
    """The host that runs the parent is ahead of the one on which its new child fails."""
    ahead = TaskEngine(StorageManager(backend=worker.backend), clock=lambda: worker.clock.now + 1)
    parent = await worker.engine.submit("mended_then_has", "a", "leaf_that_fails")

    @task("leaf_that_fails", retry=ONCE)
    async def leaf_that_fails(context: TaskContext, payload: Any) -> None:
        raise ValueError("bad")

    await worker.settle()
    world.mended = True
    await ahead.control.requeue(parent.task_id)
    for text in await worker.take():
        await ahead.worker.process(text, queue=TASK_QUEUE)
    await worker.settle()
    record = await worker.get(parent.task_id)
    assert record.status is TaskStatus.FAILED
    assert record.error is not None
    assert record.error.code == "children-failed"


@pytest.mark.parametrize("fails", [True, False], ids=["which fails", "which succeeds"])
async def test_a_child_that_somebody_else_requeues_meanwhile_is_waited_for(
    worker: Worker, world: World, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await worker.engine.submit("has", "a", [("mended_only", 0)])
    await worker.settle()
    world.mended = not fails
    await worker.engine.control.requeue(parent.task_id)
    real = worker.engine.control.requeue

    async def requeue(task_id: str, **options: Any) -> TaskRecord:
        monkeypatch.undo()
        await real(task_id)  # between the parent's look at the child and its own requeue
        return await real(task_id, **options)

    monkeypatch.setattr(worker.engine.control, "requeue", requeue)
    await worker.settle()
    record = await worker.get(parent.task_id)
    assert record.status is (TaskStatus.FAILED if fails else TaskStatus.SUCCEEDED)
    assert len(world.ran) == 2, "once before, once again"


async def test_a_child_that_succeeded_is_remembered_until_its_parent_ends(
    worker: Worker, world: World
) -> None:
    """And for as long as the parent can be run again: else it would be done twice."""
    parent = await worker.engine.submit("has", "a", [("leaf", 0), ("mended_only", 40 * DAY)])
    await worker.settle()
    for _ in range(45):
        worker.clock.now += DAY
        await worker.settle(2)
        await worker.engine.records.expire(before(worker, 30), 1000)
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
    world.mended = True
    await worker.engine.control.requeue(parent.task_id)
    await worker.settle()
    assert (await worker.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert len(world.ran) == 3, "the first child once, the second twice"
    worker.clock.now += 40 * DAY
    passes = [await worker.engine.records.expire(before(worker, 30), 1000) for _ in range(3)]
    assert sum(passes) == 3, "in the end they go, none before the parent"


async def test_grandchildren_that_succeeded_are_remembered_too(worker: Worker, world: World) -> None:
    @task("middle")
    async def middle(context: TaskContext, payload: Any) -> None:
        await context.submit("leaf", "paid")
        await context.submit("mended_only")

    top = await worker.engine.submit("has", "a", [("middle", 0), ("leaf", 40 * DAY)])
    await worker.settle()
    for _ in range(45):
        worker.clock.now += DAY
        await worker.settle(2)
        await worker.engine.records.expire(before(worker, 30), 1000)
    assert (await worker.get(top.task_id)).status is TaskStatus.FAILED
    world.mended = True
    await worker.engine.control.requeue(top.task_id)
    await worker.settle()
    assert (await worker.get(top.task_id)).status is TaskStatus.SUCCEEDED
    assert world.ran.count("paid") == 1


async def test_an_action_that_submits_again_itself_loses_no_child(worker: Worker, world: World) -> None:
    @task("stubborn")
    async def stubborn(context: TaskContext, payload: Any) -> None:
        for name in "ab":
            for _ in range(3):
                try:
                    await context.submit("leaf", name)
                    break
                except StorageUnavailableError:
                    continue
            else:
                raise StorageUnavailableError("given up")

    parent = await worker.engine.submit("stubborn", "a")
    fail(worker.backend.queues, "send")
    await worker.settle()
    record = await worker.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert sorted(world.ran) == ["a", "b"]


@pytest.mark.parametrize("step", ["touch", "send", "revive"])
@pytest.mark.parametrize("fails", [True, False], ids=["which fails", "which succeeds"])
async def test_a_requeue_of_a_child_that_fails_half_way_is_made_good(
    worker: Worker, world: World, step: str, fails: bool
) -> None:
    parent = await worker.engine.submit("has", "a", [("mended_only", 0)])
    await worker.settle()
    await worker.engine.control.requeue(parent.task_id)
    world.mended = not fails
    child = await worker.child(parent, "mended_only")
    ours = lambda *call: child.task_id in str(call)  # noqa: E731
    if step == "touch":
        fail(
            worker.backend.tables,
            "update",
            only=lambda t, p, r, given: is_of(child, r) and "status" not in given,
        )
    elif step == "send":
        fail(worker.backend.queues, "send", only=ours)
    else:
        queued = to_status(TaskStatus.QUEUED)
        fail(worker.backend.tables, "update", only=lambda *call: is_of(child, call[2]) and queued(*call))
    await worker.settle(30)
    record = await worker.get(parent.task_id)
    assert record.status is (TaskStatus.FAILED if fails else TaskStatus.SUCCEEDED)
    assert len(world.ran) == 2, "once before, once again"


def is_of(record: TaskRecord, row_key: str) -> bool:
    return record_keys(record.task_id)[1] == row_key


async def test_a_requeued_parent_whose_child_fails_again_fails_again(worker: Worker, world: World) -> None:
    parent = await worker.engine.submit("has", "a", [("mended_only", 0)])
    for runs in range(1, 4):
        await worker.settle()
        assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
        assert len(world.ran) == runs
        await worker.engine.control.requeue(parent.task_id)


async def test_a_record_that_an_older_message_makes_meanwhile_is_adopted(
    worker: Worker, world: World
) -> None:
    """The run before had sent the child, and could not record it."""

    @task("again")
    async def again(context: TaskContext, payload: Any) -> None:
        await context.submit("mended_only")
        if not context.task.requeue_fence:
            raise ValueError("not yet")

    parent = await worker.engine.submit("again", "a")
    child = child_task_id(parent.task_id, parent.created_at, 0)
    insert = lambda table, pk, rk, properties: properties.get("task_id") == child  # noqa: E731
    fail(worker.backend.tables, "insert", only=insert)
    await worker.run(await worker.take())
    old = await worker.take()  # the message of the child, under way
    await worker.engine.control.requeue(parent.task_id)
    real = worker.backend.queues.send

    async def send(*arguments: Any, **options: Any) -> Any:
        worker.backend.queues.send = real  # type: ignore[method-assign]
        await worker.run(old)
        return await real(*arguments, **options)

    (text,) = await worker.take()
    worker.backend.queues.send = send  # type: ignore[method-assign]
    await worker.run([text])
    await worker.settle()
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
    assert len(world.ran) >= 1


def before(worker: Worker, days: float) -> datetime:
    return datetime.fromtimestamp(worker.clock.now, UTC) - timedelta(days=days)


# -- a store that fails once, or a host that stops


async def test_a_look_at_the_parent_that_fails_costs_no_attempt(worker: Worker, world: World) -> None:
    parent = await worker.engine.submit("has", "a", [("leaf", 0)])
    await worker.run(await worker.take())
    fail(worker.backend.tables, "get", at=2)
    await worker.settle()
    child = await worker.child(parent, "leaf")
    assert (child.status, child.attempts) == (TaskStatus.SUCCEEDED, 1)
    assert [past.outcome for past in child.history] == ["undeliverable", "succeeded"]
    assert (await worker.get(parent.task_id)).status is TaskStatus.SUCCEEDED


async def test_a_payload_that_can_not_be_loaded_yet_costs_no_attempt(worker: Worker, world: World) -> None:
    submitted = await worker.engine.submit("leaf", "a", "x" * 30_000)
    fail(worker.backend.objects, "get")
    await worker.settle()
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts, record.result) == (TaskStatus.SUCCEEDED, 1, "x" * 30_000)


async def test_a_task_that_never_gets_to_its_action_is_dead_in_the_end(worker: Worker, world: World) -> None:
    submitted = await worker.engine.submit("leaf", "a", "x" * 30_000)
    fail(worker.backend.objects, "get", times=10_000, only=lambda key, *rest: "payload" in key)
    for _ in range(MAX_DELIVERIES + 5):
        await worker.settle(1)
        worker.clock.now += 60
    record = await worker.engine.records.get(submitted.task_id, contents=False)
    assert record.status is TaskStatus.DEAD
    assert record.error is not None
    assert record.error.code == "storage-unavailable"
    assert world.ran == []


@pytest.mark.parametrize("lost", [False, True], ids=["not written", "written, the answer lost"])
async def test_an_end_whose_write_fails_once_is_written_all_the_same(
    worker: Worker, world: World, lost: bool
) -> None:
    submitted = await worker.engine.submit("leaf", "a", 1)
    fail(worker.backend.tables, "update", only=to_status(TaskStatus.SUCCEEDED), after=lost)
    events = await pump(worker)
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts, record.result) == (TaskStatus.SUCCEEDED, 1, 1)
    assert [event.type for event in events] == ["task.succeeded"]
    assert world.ran == [1]


async def test_an_end_that_was_written_is_not_taken_for_lost_while_it_can_not_be_read(
    worker: Worker, world: World
) -> None:
    submitted = await worker.engine.submit("leaf", "a", 1)
    fail(worker.backend.tables, "update", only=to_status(TaskStatus.SUCCEEDED), after=True)
    fail(worker.backend.tables, "get", at=2, times=2)
    events = await pump(worker)
    assert [event.type for event in events] == ["task.succeeded"]
    assert (await worker.get(submitted.task_id)).attempts == 1


@pytest.mark.parametrize("lost", [False, True], ids=["not written", "written, the answer lost"])
async def test_a_retry_whose_write_fails_once_comes_all_the_same(
    worker: Worker, world: World, lost: bool
) -> None:
    @task("second_time")
    async def second_time(context: TaskContext, payload: Any) -> None:
        if context.task.attempts == 1:
            raise ConnectionError("the model's endpoint was reset")

    submitted = await worker.engine.submit("second_time", "a")
    fail(worker.backend.tables, "update", only=to_status(TaskStatus.QUEUED), after=lost)
    await pump(worker)
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 2)
    assert [past.outcome for past in record.history] == ["retry", "succeeded"]


async def test_an_end_that_is_written_late_is_not_taken_for_a_loss(worker: Worker, world: World) -> None:
    """The client gave up, looked, tried again; and then the service carried out the first try."""
    parent = await worker.engine.submit("has", "a", [("leaf", 0)])
    await worker.run(await worker.take())
    update, get = worker.backend.tables.update, worker.backend.tables.get
    late: list[tuple[Any, Any]] = []

    async def slow(*arguments: Any, **options: Any) -> Any:
        if arguments[3].get("status") == TaskStatus.SUCCEEDED and not late:
            late.append((arguments, options))
            raise StorageUnavailableError("no answer in time")
        return await update(*arguments, **options)

    async def looks(*keys: Any, **named: Any) -> Any:
        found = await get(*keys, **named)
        if late:
            worker.backend.tables.get = get  # type: ignore[method-assign]
            arguments, options = late[0]
            await update(*arguments, **options)
        return found

    worker.backend.tables.update, worker.backend.tables.get = slow, looks  # type: ignore[method-assign]
    events = await pump(worker, 3)
    assert [event.type for event in events] == ["task.succeeded", "task.succeeded"]
    assert (await worker.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert len(world.ran) == 1


async def test_a_dead_task_is_not_put_back_by_a_failure_after_its_end(worker: Worker, world: World) -> None:
    parent = await worker.engine.submit("has", "a", [("leaf", 0)])
    await worker.run(await worker.take())
    (text,) = await worker.take()
    child = await worker.child(parent, "leaf")
    gone = {"status": "running", "attempts": 1, "fence": 1, "lease_until": moment(worker)}
    await worker.backend.tables.update("tasks", *record_keys(child.task_id), gone)
    worker.clock.now += 1
    seen: list[str] = []
    update = worker.backend.tables.update

    async def noting(*arguments: Any, **options: Any) -> Any:
        if is_of(child, arguments[2]) and "status" in arguments[3]:
            seen.append(arguments[3]["status"])
        return await update(*arguments, **options)

    worker.backend.tables.update = noting  # type: ignore[method-assign]
    fail(worker.backend.tables, "get", at=3)
    with pytest.raises(StorageUnavailableError):
        await worker.engine.worker.process(text, queue=TASK_QUEUE)
    await worker.engine.worker.process(text, queue=TASK_QUEUE, dequeue_count=2)
    assert seen == ["running", "dead"]
    assert (await worker.get(child.task_id)).status is TaskStatus.DEAD
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED


def moment(worker: Worker) -> datetime:
    return datetime.fromtimestamp(worker.clock.now, UTC)


async def test_an_end_that_can_not_be_written_comes_again(worker: Worker, world: World) -> None:
    """The action ran and runs once more: the worker says so, and does not wait for ever."""
    submitted = await worker.engine.submit("leaf", "a", 1)
    fail(
        worker.backend.tables,
        "update",
        times=_CONCLUDE_TRIES,
        only=to_status(TaskStatus.SUCCEEDED),
    )
    (text,) = await worker.take()
    with pytest.raises(StorageUnavailableError):
        await worker.engine.worker.process(text, queue=TASK_QUEUE)
    assert (await worker.get(submitted.task_id)).status is TaskStatus.RUNNING


async def test_a_host_that_stops_gives_an_attempt_back_though_a_child_was_counted_meanwhile(
    worker: Worker, world: World
) -> None:
    submitted = await worker.engine.submit("stays", "a")
    (text,) = await worker.take()
    running = asyncio.create_task(worker.engine.worker.process(text, queue=TASK_QUEUE))
    await world.started.wait()
    await worker.run(await worker.take())
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.QUEUED, 0)
    world.mended = True
    await worker.settle()
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts) == (TaskStatus.SUCCEEDED, 1)


# -- cancelling


async def test_a_cancel_that_was_interrupted_can_be_repeated(worker: Worker, world: World) -> None:
    top = await worker.engine.submit("has", "a", [("has_a_late_one", 0)])

    @task("has_a_late_one")
    async def has_a_late_one(context: TaskContext, payload: Any) -> None:
        await context.submit("leaf", delay_seconds=DAY)

    await worker.settle()
    middle = await worker.child(top, "has_a_late_one")
    fail(worker.backend.tables, "get", at=2)
    with pytest.raises(StorageUnavailableError):
        await worker.engine.worker.cancel(middle.task_id)
    for _ in range(2):  # whoever repeated it may have died as well, before its events were out
        record, events = await worker.engine.worker.cancel(middle.task_id)
        assert record.status is TaskStatus.CANCELLED
        assert [event.type for event in events] == ["task.cancelled", "task.failed"]
    assert (await worker.get(top.task_id)).status is TaskStatus.FAILED


@pytest.mark.parametrize("poison", [False, True])
async def test_a_cancel_is_kept_by_a_task_that_began_to_wait(
    worker: Worker, world: World, poison: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @task("asked_to_stop")
    async def asked_to_stop(context: TaskContext, payload: Any) -> None:
        await context.submit("leaf", delay_seconds=600)
        await worker.engine.control.cancel(context.task.task_id)

    submitted = await worker.engine.submit("asked_to_stop", "a")
    (text,) = await worker.take()

    async def dies(task_id: str) -> Any:
        raise StorageUnavailableError("the host was gone before it could end it")

    monkeypatch.setattr(worker.engine.worker, "cancel", dies)
    with pytest.raises(StorageUnavailableError):
        await worker.engine.worker.process(text, queue=TASK_QUEUE)
    monkeypatch.undo()
    assert (await worker.get(submitted.task_id)).is_waiting
    if poison:
        now = moment(worker)
        events = await worker.engine.worker.process_poison(
            text, queue=TASK_QUEUE, message_id="m", inserted_at=now, dequeue_count=1
        )
    else:
        events = await worker.engine.worker.process(text, queue=TASK_QUEUE, dequeue_count=2)
    assert [event.type for event in events] == ["task.cancelled"]
    assert (await worker.get(submitted.task_id)).status is TaskStatus.CANCELLED
    worker.clock.now += 700
    await worker.settle()
    assert world.ran == []


# -- expiry


@pytest.mark.parametrize("size", [1, 30_000])
async def test_what_is_requeued_is_not_removed_under_it(
    worker: Worker, world: World, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await worker.engine.submit("mended_only", "a", "x" * size)
    await worker.settle()
    worker.clock.now += 31 * DAY
    world.mended = True
    real = worker.backend.queues.send

    async def send(*arguments: Any, **options: Any) -> Any:
        assert await worker.engine.records.expire(before(worker, 30), 10) == 0
        return await real(*arguments, **options)

    monkeypatch.setattr(worker.backend.queues, "send", send)
    await worker.engine.control.requeue(submitted.task_id)
    monkeypatch.undo()
    await worker.settle()
    record = await worker.get(submitted.task_id)
    assert (record.status, record.payload) == (TaskStatus.SUCCEEDED, "x" * size)
    assert [past.outcome for past in record.history] == ["failed", "requeued", "succeeded"]


async def test_what_was_removed_first_is_not_run(
    worker: Worker, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = await worker.engine.submit("mended_only", "a")
    await worker.settle()
    worker.clock.now += 31 * DAY
    world.mended = True
    real = worker.backend.tables.get

    async def get(*keys: Any, **options: Any) -> Any:
        found = await real(*keys, **options)
        monkeypatch.undo()
        assert await worker.engine.records.expire(before(worker, 30), 10) == 1
        return found

    monkeypatch.setattr(worker.backend.tables, "get", get)
    with pytest.raises(KeyNotFoundError):
        await worker.engine.control.requeue(submitted.task_id)
    assert await worker.engine.storage.backend.queues.length(TASK_QUEUE) == 0
    assert len(world.ran) == 1


# -- what is told and refused


@pytest.mark.parametrize("letter", ["x", "報", "\0"])
async def test_the_event_of_an_end_fits_into_a_message_whatever_the_error_says(
    worker: Worker, letter: str
) -> None:
    @task("talks")
    async def talks(context: TaskContext, payload: Any) -> None:
        raise ValueError(letter * 100_000)

    await worker.engine.submit("talks", "a")
    events = await pump(worker, 1)
    assert [event.type for event in events] == ["task.failed"]
    MemoryBackend().queues.encode(events[0].to_json())
    assert events[0].error is not None
    assert events[0].error["message"].startswith(letter * 1000)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), TimeoutError(), BrokenPipeError()])
async def test_a_connection_of_an_action_that_breaks_is_transient(worker: Worker, error: Exception) -> None:
    @task("calls_a_model")
    async def calls_a_model(context: TaskContext, payload: Any) -> str:
        if context.task.attempts < 3:
            raise error
        return "an answer"

    submitted = await worker.engine.submit("calls_a_model", "a")
    await pump(worker)
    record = await worker.get(submitted.task_id)
    assert (record.status, record.attempts, record.result) == (TaskStatus.SUCCEEDED, 3, "an answer")


def test_an_action_has_to_be_async() -> None:
    with pytest.raises(ConfigurationError, match="not an async function") as refused:

        @task("plain")  # type: ignore[arg-type]
        def plain(context: TaskContext, payload: Any) -> None: ...

    assert "to_thread" in str(refused.value.remedy)

    class Callable:
        async def __call__(self, context: TaskContext, payload: Any) -> None: ...

    task("an_object")(Callable())
    registry_module._actions.pop("an_object")
