"""What a task costs: requests to the store, counted at its drivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from functions.state import AppState
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, KeyNotFoundError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import EVENT_QUEUE, TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.submission import NewTask
from tests.counting import Requests
from tests.http_app import PlatformApp, serve
from tests.task_stores import opened


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
        requests, time = Requests(storage.backend), Time(monkeypatch)
        reads: list[float] = []
        get = engine.records.get

        async def noted(*args: Any, **named: Any) -> Any:
            reads.append(time.passed)
            return await get(*args, **named)

        monkeypatch.setattr(engine.records, "get", noted)
        assert (await engine.wait_for(record.task_id, 30)).status is TaskStatus.QUEUED
        assert time.passed == pytest.approx(30)
        pauses = [round(later - sooner, 6) for sooner, later in pairwise(reads)]
        assert max(pauses) == pytest.approx(3)
        assert pauses[:-1] == sorted(pauses[:-1])
        assert len(reads) == requests.total() <= 15


async def test_the_end_of_a_task_that_ran_here_is_known_at_once(tmp_path: Path) -> None:
    async with opened(("memory", None), tmp_path) as storage:
        engine = TaskEngine(storage)
        record = await engine.submit("echo_costs", "a")
        requests = Requests(storage.backend)
        waiting = [asyncio.create_task(engine.wait_for(record.task_id, 30)) for _ in range(5)]
        while requests["tables.get"] < 5:
            await asyncio.sleep(0)
        async with asyncio.timeout(0.09):  # before the next read
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
