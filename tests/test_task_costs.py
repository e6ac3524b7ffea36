"""What a task costs: requests to the store, counted at its drivers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from functions.state import AppState
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.model import (
    EVENT_QUEUE,
    TASK_QUEUE,
    TaskRecord,
    TaskStatus,
    child_task_id,
    new_task_id,
)
from storage_lib.tasks.records import record_keys
from storage_lib.tasks.registry import task
from storage_lib.tasks.submission import NewTask
from tests.counting import Requests
from tests.http_app import PlatformApp, serve
from tests.task_stores import opened
from tests.virtual_time import VirtualTime


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)  # pyright: ignore[reportPrivateUsage]

    @task("echo_costs")
    async def echo(context: TaskContext, payload: Any) -> Any:
        return payload

    yield
    registry_module._actions.clear()  # pyright: ignore[reportPrivateUsage]
    registry_module._actions.update(before)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
async def engine(task_store: tuple[str, Any], tmp_path: Path) -> AsyncIterator[TaskEngine]:
    """Of an app with the settings' defaults."""
    async with opened(task_store, tmp_path) as storage:
        yield TaskEngine(storage, events=False, remembered=32)


async def deliver_all(engine: TaskEngine, count: int = 16) -> int:
    """Handle one batch of messages as a host does; how many there were."""
    queues = engine.storage.backend.queues
    messages = await queues.receive(TASK_QUEUE, max_messages=count)

    async def one(message: Any) -> None:
        await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
        await queues.delete(TASK_QUEUE, message)

    await asyncio.gather(*map(one, messages))
    return len(messages)


async def events(engine: TaskEngine) -> list[dict[str, Any]]:
    try:
        found = await engine.storage.backend.queues.peek(EVENT_QUEUE, max_messages=32)
    except KeyNotFoundError:
        return []
    return [json.loads(message.body) for message in found if message.body]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["submitted-here", "submitted-elsewhere"])
async def test_a_task_that_does_nothing_costs_few_requests(engine: TaskEngine, *, elsewhere: bool) -> None:
    """The message, the record, its claim and its end, the message's removal; a process that did not submit it
    reads it, too. One poll gives 16 messages."""
    await engine.submit("echo_costs", "a")  # makes table and queue
    await deliver_all(engine)
    requests = Requests(engine.storage.backend)
    worker = TaskEngine(engine.storage, events=False) if elsewhere else engine
    records = await engine.submit_many(
        [NewTask(action="echo_costs", agent_id="a", payload=n) for n in range(16)]
    )
    assert await deliver_all(worker) == 16
    assert requests.total() == 16 * (6 if elsewhere else 5) + 1, requests
    for n, record in enumerate(records):
        assert not isinstance(record, Exception)
        found = await engine.get(record.task_id)
        assert (found.status, found.result, found.event_due) == (TaskStatus.SUCCEEDED, n, False)
    assert await events(engine) == []


async def test_no_more_records_are_kept_in_memory_than_told(engine: TaskEngine) -> None:
    await asyncio.gather(*(engine.submit("echo_costs", "a", n) for n in range(40)))
    requests = Requests(engine.storage.backend)
    while await deliver_all(engine, 20):
        pass
    assert requests["tables.get"] == 40 - 32


async def test_a_record_that_was_changed_elsewhere_is_not_taken_for_the_remembered_one(
    engine: TaskEngine,
) -> None:
    record = await engine.submit("echo_costs", "a")
    await TaskEngine(engine.storage, events=False).cancel(record.task_id)
    await deliver_all(engine)
    assert (await engine.get(record.task_id)).status is TaskStatus.CANCELLED


async def test_what_a_caller_does_to_its_payload_changes_no_task(engine: TaskEngine) -> None:
    payload = {"n": [1]}
    record = await engine.submit("echo_costs", "a", payload)
    payload["n"].append(2)
    await deliver_all(engine)
    assert (await engine.get(record.task_id)).result == {"n": [1]}


async def test_events_that_were_due_before_they_were_switched_off_do_not_stay_due(engine: TaskEngine) -> None:
    with_events = TaskEngine(engine.storage)
    record = await with_events.submit("echo_costs", "a")
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    await with_events.worker.process(message.text, queue=TASK_QUEUE)  # and dies before it publishes
    assert (await engine.get(record.task_id)).event_due
    await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=2)
    assert not (await engine.get(record.task_id)).event_due
    assert await events(engine) == []


async def test_a_task_is_read_once(engine: TaskEngine) -> None:
    record = await engine.submit("echo_costs", "a", "x" * 100)
    requests = Requests(engine.storage.backend)
    assert (await engine.wait_for(record.task_id, 0)).payload == "x" * 100
    assert requests == {"tables.get": 1}
    await deliver_all(engine)
    requests.clear()
    assert (await engine.wait_for(record.task_id, 30)).result == "x" * 100
    assert requests == {"tables.get": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("event_seconds", value) for value in (0, -1, 1e12, float("nan"), "1")),
        *(("remembered", value) for value in (-1, 1.5, None)),
        *(("max_waiters", value) for value in (-1, float("nan"))),
    ],
)
def test_an_engine_that_could_not_publish_remember_or_wait_is_not_made(field: str, value: Any) -> None:
    """Otherwise each task would end, and its delivery fail."""
    storage = StorageManager(backend=MemoryBackend())
    settings: dict[str, Any] = {field: value}
    with pytest.raises(InvalidArgumentError) as caught:
        TaskEngine(storage, **settings)
    assert caught.value.field == field


class Time:
    """The time of a loop that has nothing else to do than to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        loop = asyncio.get_running_loop()
        began, wait = loop.time(), asyncio.wait

        async def at_once(waited: Any, *, timeout: float) -> Any:
            self.passed += timeout
            return await wait(waited, timeout=0)

        monkeypatch.setattr("storage_lib.tasks.waiting.asyncio.wait", at_once)
        monkeypatch.setattr(loop, "time", lambda: began + self.passed)


async def test_waiting_reads_less_and_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(("memory", None), tmp_path) as storage:
        engine = TaskEngine(storage)
        record = await engine.submit("echo_costs", "a")
        requests, waited = Requests(storage.backend), Time(monkeypatch)
        reads: list[float] = []
        get = engine.records.get

        async def noted(*args: Any, **named: Any) -> Any:
            reads.append(waited.passed)
            return await get(*args, **named)

        monkeypatch.setattr(engine.records, "get", noted)
        assert (await engine.wait_for(record.task_id, 30)).status is TaskStatus.QUEUED
        assert waited.passed == pytest.approx(30)
        pauses = [round(later - sooner, 6) for sooner, later in pairwise(reads)]
        assert max(pauses) == pytest.approx(3)
        assert pauses[:-1] == sorted(pauses[:-1])
        assert len(reads) == requests.total() <= 15


async def test_the_end_of_a_task_that_ran_here_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(("memory", None), tmp_path) as storage:
        engine = TaskEngine(storage)
        record = await engine.submit("echo_costs", "a")
        requests = Requests(storage.backend)
        waiting = [asyncio.create_task(engine.wait_for(record.task_id, 30)) for _ in range(5)]
        while requests["tables.get"] < 5:
            await asyncio.sleep(0)
        with monkeypatch.context() as still:
            # Time stands still, so that none of them comes to read again.
            now = asyncio.get_running_loop().time()
            still.setattr(asyncio.get_running_loop(), "time", lambda: now)
            await deliver_all(engine)
            assert {found.status for found in await asyncio.gather(*waiting)} == {TaskStatus.SUCCEEDED}


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    monkeypatch.setenv("AGENT_TASK_WAITERS", "2")
    async with serve(monkeypatch, StorageConfig(storage_type="memory", base_path=tmp_path)) as app:
        yield app


async def test_those_who_wait_leave_places_to_other_requests(app: PlatformApp) -> None:
    body = json.dumps({"action": "echo_costs", "agent_id": "a"}).encode()
    task_id = (await app("POST", "/api/tasks", body, {"content-type": "application/json"})).json["task_id"]
    waiting = [asyncio.create_task(app("GET", f"/api/tasks/{task_id}?wait=30")) for _ in range(3)]
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (early,) = [each.result() for each in done]
    assert (early.status, early.json["status"], early.headers["retry-after"]) == (200, "queued", "1")
    await deliver_all(app.state.engine)
    assert {(await each).json["status"] for each in left} == {"succeeded"}


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 100_000),
        ({"WEBSITE_SKU": "FlexConsumption"}, 4),
        ({"WEBSITE_SKU": "FlexConsumption", "AGENT_TASK_WAITERS": "9"}, 9),
    ],
    ids=["anywhere", "flex", "flex-by-setting"],
)
async def test_how_many_may_wait(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], most: float
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert AppState(StorageConfig(storage_type="memory")).max_waiters == most


@pytest.mark.parametrize(
    ("events_setting", "environment", "ttl"),
    [
        (None, "", ...),
        ("false", "", ...),
        ("true", "", None),
        ("on", "Development", 86_400),
        ("1", "Production", None),
    ],
    ids=["by-default", "off", "on", "on-locally", "on-in-production"],
)
async def test_events_are_published_if_the_app_is_set_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, events_setting: str | None, environment: str, ttl: Any
) -> None:
    monkeypatch.setenv("AZURE_FUNCTIONS_ENVIRONMENT", environment)
    monkeypatch.delenv("AGENT_TASK_EVENTS", raising=False)
    if events_setting is not None:
        monkeypatch.setenv("AGENT_TASK_EVENTS", events_setting)
    async with serve(monkeypatch, StorageConfig(storage_type="memory", base_path=tmp_path)) as app:
        engine = app.state.engine
        ttls: list[float | None] = []
        queues = engine.storage.backend.queues
        send = queues.driver.send

        async def sent(queue: str, text: str, delay: float, ttl: float | None) -> str:
            ttls.extend([ttl] if queue == EVENT_QUEUE else [])
            return await send(queue, text, delay, ttl)

        monkeypatch.setattr(queues.driver, "send", sent)
        await engine.submit("echo_costs", "a")
        await engine.cancel((await engine.submit("echo_costs", "a")).task_id)
        await deliver_all(engine)
        assert ttls == ([] if ttl is ... else [ttl] * 2)
        assert len(await events(engine)) == len(ttls)


async def test_a_wrong_setting_of_events_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TASK_EVENTS", "maybe")
    with pytest.raises(ConfigurationError, match="AGENT_TASK_EVENTS is 'maybe'"):
        AppState(StorageConfig(storage_type="memory")).check_settings()


async def ended(
    engine: TaskEngine, count: int, *, parent: str | None = None, day: int = 0, apart: float = 0
) -> list[str]:
    """Records of tasks that ended long ago, children of that one or nobody's; their ids.

    :param apart: seconds between two of them.
    """
    made: list[str] = []
    start = LONG_AGO + timedelta(days=day)
    for n in range(count):
        end = start + timedelta(seconds=n * apart)
        task_id = new_task_id(end.timestamp()) if parent is None else child_task_id(parent, end, n)
        record = TaskRecord(
            task_id,
            "a",
            "echo_costs",
            TaskStatus.SUCCEEDED,
            created_at=end,
            updated_at=end,
            finished_at=end,
            fence=1,
            parent_id=parent,
            child_index=None if parent is None else n,
        )
        await engine.records.insert(record)
        made.append(task_id)
    return made


LONG_AGO = datetime(2026, 1, 2, 12, tzinfo=UTC)
NOW = LONG_AGO + timedelta(days=40)


async def left(engine: TaskEngine) -> set[str]:
    found, cursor = set[str](), None
    while True:
        page = await engine.list(limit=1000, cursor=cursor)
        found |= {record.task_id for record in page.records}
        if (cursor := page.cursor) is None:
            return found


async def test_ended_tasks_expire_in_batches(engine: TaskEngine) -> None:
    """Families, over two days, and others, with their rows of the index."""
    for day in range(2):
        for (parent,) in [await ended(engine, 1, day=day) for _ in range(2)]:
            await ended(engine, 60, parent=parent, day=day)
    await ended(engine, 1900, apart=7)
    young = (await engine.submit("echo_costs", "a")).task_id
    requests, removed = Requests(engine.storage.backend), 0
    while some := await engine.records.expire(NOW, 1000):
        removed += some
    assert removed == 2 * 2 * 61 + 1900
    print(f"{requests.total() / removed:.4f} requests a record")
    assert requests.total() <= 0.07 * removed, requests
    assert await left(engine) == {young}
    for _ in range(16):  # Spans are tidied in one partition at a time.
        assert await engine.records.expire(datetime.now(UTC) + timedelta(hours=1), 1000) == 0
    assert await check_index(engine.storage.backend.tables) == []


def test_expiry_is_as_fast_as_its_batches(tmp_path: Path) -> None:
    """2,000 records a second at 8 ms a request: half a second for a thousand. What the machine computes
    meanwhile does not count."""

    async def expired() -> None:
        async with opened(("memory", None), tmp_path) as storage:
            engine = TaskEngine(storage)
            await ended(engine, 1000, apart=20)
            requests = Requests(storage.backend, seconds=0.008)
            began = asyncio.get_running_loop().time()
            assert await engine.records.expire(NOW, 1000) == 1000
            waited = asyncio.get_running_loop().time() - began
            print(f"{waited / 0.008:.0f} times, one after the other, and {requests.total()} requests")
            assert 0.008 <= waited <= 0.5
            assert requests.total() <= 50

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(expired())


async def test_many_records_expire_in_few_requests(tmp_path: Path) -> None:
    """However many are kept."""
    async with opened(("memory", None), tmp_path) as storage:
        engine = TaskEngine(storage)
        await ended(engine, 8000, apart=20)
        requests = Requests(storage.backend)
        assert [await engine.records.expire(NOW, 1000) for _ in range(8)] == [1000] * 8
        print(f"{requests.total() / 8000:.4f} requests a record")
        assert requests.total() <= 0.03 * 8000, requests


async def test_a_record_that_changes_meanwhile_stays_and_the_others_of_its_batch_go(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parent,) = await ended(engine, 1)
    children = await ended(engine, 3, parent=parent)
    others = await ended(engine, 5)
    batch = engine.storage.backend.tables.batch
    touched: list[str] = []

    async def raced(*args: Any, **named: Any) -> Any:
        if not touched:
            touched.append(parent)
            for task_id in (parent, others[0]):
                await engine.records.change(await engine.records.get(task_id), progress="touched")
            await engine.storage.backend.tables.delete("tasks", *record_keys(others[1]))
        return await batch(*args, **named)

    monkeypatch.setattr(engine.storage.backend.tables, "batch", raced)
    await engine.records.expire(NOW, 100)
    assert await left(engine) == {parent, others[0], *children}, "children stay as long as their parent"
    assert await engine.records.expire(NOW, 100) == 5
    assert await left(engine) == set()


async def test_at_most_as_many_records_as_asked_for_are_removed(engine: TaskEngine) -> None:
    await ended(engine, 5)
    assert [await engine.records.expire(NOW, limit) for limit in (0, 2, 2, 2)] == [0, 2, 2, 1]


async def test_grandchildren_go_with_their_parents_and_no_sooner(engine: TaskEngine) -> None:
    (top,) = await ended(engine, 1)
    below = await ended(engine, 2, parent=top)
    last = [each for child in below for each in await ended(engine, 2, parent=child)]
    await engine.records.change(await engine.records.get(top), updated_at=NOW)  # as a requeue does
    assert await engine.records.expire(NOW, 100) == 0
    assert await left(engine) == {top, *below, *last}
    assert await engine.records.expire(NOW + timedelta(days=1), 100) == 7


@pytest.mark.parametrize("limit", [1, 7, 20])
async def test_no_more_expire_than_asked_for(engine: TaskEngine, limit: int) -> None:
    (parent,) = await ended(engine, 1)
    await ended(engine, 9, parent=parent)
    await ended(engine, 9)
    removed = [await engine.records.expire(NOW, limit) for _ in range(40)]
    assert max(removed) <= limit
    assert sum(removed) == 19


async def test_idempotency_keys_expire_in_batches(task_store: tuple[str, Any], tmp_path: Path) -> None:
    clock = time.time()
    async with opened(task_store, tmp_path) as storage:
        engine = TaskEngine(storage, key_window_seconds=60, clock=lambda: clock)
        again = NewTask(action="echo_costs", agent_id="a", idempotency_key="0")
        first = await engine.submit_new(again)
        assert not isinstance(first, Exception)
        await engine.submit_new(NewTask(action="echo_costs", agent_id="a", idempotency_key="1"))
        clock += 61
        assert (await engine.submit_new(again)).task_id != first.task_id
        assert await engine.submission.expire_keys(100) >= 1
        assert await engine.submission.expire_keys(100) == 0


CHILDREN = 200


@pytest.fixture
def fans() -> None:
    @task("fan_costs")
    async def fan(context: TaskContext, payload: Any) -> str:
        await asyncio.gather(*(context.submit("echo_costs", n) for n in range(payload)))
        return "own"


async def serve_all(engines: list[TaskEngine], count: int) -> None:
    """Handle that many messages as hosts do: each takes 16 at a time, and more when half of them are done."""
    left = count

    async def host(engine: TaskEngine) -> None:
        nonlocal left
        queues, running = engine.storage.backend.queues, set[asyncio.Task[None]]()

        async def one(message: Any) -> None:
            nonlocal left
            await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
            await queues.delete(TASK_QUEUE, message)
            left -= 1

        while left > 0:
            if len(running) <= 8:
                received = await queues.receive(TASK_QUEUE, max_messages=16)
                running |= {asyncio.create_task(one(message)) for message in received}
            if running:
                done, running = await asyncio.wait(running, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
            else:
                await asyncio.sleep(0.002)
        await asyncio.gather(*running)

    async with asyncio.timeout(600):
        await asyncio.gather(*map(host, engines))


@pytest.mark.usefixtures("fans")
@pytest.mark.parametrize("hosts", [1, 3])
async def test_a_child_costs_few_requests(engine: TaskEngine, hosts: int) -> None:
    """Its message, its record, which is read, its claim, a look at its parent, its end, a look at the other
    children, and the removal of its message; the parent and the polls are little."""
    engines = [TaskEngine(engine.storage, events=False) for _ in range(hosts)]
    parent = await engine.submit("fan_costs", "a", 48)
    requests = Requests(engine.storage.backend)
    await deliver_all(engines[0])
    while await deliver_all(engines[0]):
        engines.append(engines.pop(0))
    record = await engine.get(parent.task_id)
    assert record.result == {"result": "own", "children": {"total": 48, "succeeded": 48, "failed": []}}
    print(f"{requests.total() / 48:.2f} requests a child")
    assert requests.total() <= 8 * 48, requests


@pytest.mark.usefixtures("fans")
@pytest.mark.parametrize("hosts", [1, 4])
async def test_a_child_costs_few_requests_also_where_each_runs_by_itself(
    engine: TaskEngine, hosts: int
) -> None:
    """Children that do not run at the same time share little. The polls depend on the host, which receives up
    to 16 messages in one."""
    engines = [engine, *(TaskEngine(engine.storage, events=False) for _ in range(hosts - 1))]
    children = 40

    @task("fan_one_by_one")
    async def fan(context: TaskContext, payload: Any) -> None:
        for n in range(children):
            await context.submit("echo_costs", n)
            assert await deliver_all(engines[n % hosts]) == 1

    requests = Requests(engine.storage.backend)
    parent = await engine.submit("fan_one_by_one", "a")
    await deliver_all(engine)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    a_child = (requests.total() - requests["queues.receive"]) / children
    print(f"{hosts} hosts: {a_child:.2f} requests a child, and the polls")
    assert a_child + 1 / 16 < 8, requests


@pytest.mark.usefixtures("fans")
@pytest.mark.parametrize("hosts", [1, 4])
def test_children_are_about_as_fast_as_tasks_by_themselves(tmp_path: Path, hosts: int) -> None:
    """At 20 ms a request, which is all that takes time here."""

    async def compared() -> None:
        loop = asyncio.get_running_loop()
        async with opened(("memory", None), tmp_path) as storage:
            engines = [TaskEngine(storage, events=False) for _ in range(hosts)]
            Requests(storage.backend, seconds=0.02)
            new = [NewTask(action="echo_costs", agent_id="a", payload=n) for n in range(CHILDREN)]
            began = loop.time()
            await asyncio.gather(engines[0].submit_many(new), serve_all(engines, CHILDREN))
            alone, began = loop.time() - began, loop.time()
            parent = await engines[0].submit("fan_costs", "a", CHILDREN)
            await serve_all(engines, CHILDREN + 1)
            ratio = alone / (loop.time() - began)
            assert (await engines[0].get(parent.task_id)).status is TaskStatus.SUCCEEDED
            print(f"{hosts} hosts: children have {ratio:.2f} of the speed of tasks by themselves")
            assert ratio >= 0.7

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(compared())
