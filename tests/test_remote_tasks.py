"""The tasks of an app, through its HTTP API."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage_lib.config import StorageConfig
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageUnavailableError,
)
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, Priority, TaskStatus
from storage_lib.tasks.registry import UnknownActionError
from storage_lib.tasks.remote import RemoteTasks
from storage_lib.tasks.submission import IdempotencyConflictError, NewTask
from tests.http_store import ServedApp, served
from tests.stub_service import Answer, Request, StubService

PAYLOAD = {"report": "reports/none.csv"}


@pytest.fixture
async def app() -> AsyncIterator[ServedApp]:
    async with served(StorageConfig(storage_type="memory")) as app:
        yield app


@pytest.fixture
async def tasks(app: ServedApp) -> AsyncIterator[RemoteTasks]:
    async with RemoteTasks.of(StorageConfig(storage_type="http", http_url=app.url)) as tasks:
        yield tasks


def engine(app: ServedApp) -> TaskEngine:
    return app.app.state.engine


async def run_all(app: ServedApp) -> None:
    queues = app.app.storage.backend.queues
    for _ in range(20):
        for message in await queues.receive(TASK_QUEUE):
            await engine(app).deliver(message.text, queue=TASK_QUEUE)
            await queues.delete(TASK_QUEUE, message)


async def test_a_task_from_its_submission_to_its_end(app: ServedApp, tasks: RemoteTasks) -> None:
    submitted = await tasks.submit(
        "analyze_report", "ceo", PAYLOAD, correlation_id="c", priority=Priority.NORMAL
    )
    assert (submitted.status, submitted.payload) == (TaskStatus.QUEUED, PAYLOAD)
    found = await tasks.get(submitted.task_id)
    own = await engine(app).get(submitted.task_id)
    internal = ("fence", "lease_until", "payload_key", "first_attempt", "parent_fence", "etag", "event_due")
    for field in dataclasses.fields(own):
        if field.name not in internal:
            assert getattr(found, field.name) == getattr(own, field.name), field.name
    await run_all(app)
    failed = await tasks.wait_for(submitted.task_id, 5)
    assert (failed.status, failed.is_final, failed.attempts) == (TaskStatus.FAILED, True, 1)
    assert failed.error is not None
    assert failed.error.code == "key-not-found"
    assert len(failed.history) == 1
    assert (await tasks.requeue(submitted.task_id)).status == TaskStatus.QUEUED
    with pytest.raises(TaskStateError):
        await tasks.requeue(submitted.task_id)
    assert (await tasks.cancel(submitted.task_id)).status == TaskStatus.CANCELLED
    waiting = await tasks.submit("analyze_report", "ceo", PAYLOAD, delay_seconds=60)
    assert (await tasks.wait_for(waiting.task_id, 0)).status == TaskStatus.QUEUED


async def test_tasks_are_listed_with_filters(app: ServedApp, tasks: RemoteTasks) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=1)
    new = [NewTask(action="analyze_report", agent_id=agent, payload=PAYLOAD) for agent in ("a", "b", "a & c")]
    submitted = await tasks.submit_many(new)
    ids = [getattr(each, "task_id", None) for each in submitted]
    assert None not in ids
    await tasks.cancel(str(ids[0]))
    page = await tasks.list(limit=2)
    rest = await tasks.list(limit=2, cursor=page.cursor)
    assert sorted(each.task_id for each in page.records + rest.records) == sorted(map(str, ids))
    assert rest.cursor is None
    for filters, expected in (
        ({"status": "cancelled"}, {ids[0]}),
        ({"agent_id": "a & c"}, {ids[2]}),
        ({"action": "analyze_report", "created_after": begun}, set(ids)),
        ({"created_before": begun}, set()),
    ):
        found = await tasks.list(**filters)  # type: ignore[arg-type]
        assert {each.task_id for each in found.records} == expected


async def test_what_filters_find_is_counted_and_changed(app: ServedApp, tasks: RemoteTasks) -> None:
    submit = [
        NewTask(action="analyze_report", agent_id=agent, payload=PAYLOAD, correlation_id=f"of {agent}")
        for agent in ("a", "a", "b & c")
    ]
    ids = [getattr(each, "task_id", "") for each in await tasks.submit_many(submit)]
    found = await tasks.count(by="agent_id")
    assert (found.counts["queued"], found.at_least) == (3, [])
    assert found == await engine(app).count(by="agent_id")
    assert found.groups == {"a": {"queued": 2}, "b & c": {"queued": 1}}
    assert (await tasks.count(correlation_id="of b & c", status=["queued", "dead"])).counts == {
        "dead": 0,
        "queued": 1,
    }
    assert [each.task_id for each in (await tasks.list(correlation_id="of b & c")).records] == ids[2:]
    dry = await tasks.cancel_matching(agent_id="a", dry_run=True)
    assert {task_id for task_id, _ in dry.changed} == set(ids[:2])
    first = await tasks.cancel_matching(agent_id="a", limit=1)
    assert len(first.changed) == 1
    rest = await tasks.cancel_matching(agent_id="a", limit=1, cursor=first.cursor)
    assert {*first.changed, *rest.changed} == {(each, TaskStatus.CANCELLED) for each in ids[:2]}
    listed = await tasks.list(status=["failed", "cancelled"])
    assert {each.task_id for each in listed.records} == set(ids[:2])
    again = await tasks.requeue_matching(created_after=datetime(2001, 1, 1, tzinfo=UTC), status="cancelled")
    assert (len(again.changed), again.failed) == (2, [])
    with pytest.raises(InvalidArgumentError):
        await tasks.cancel_matching()
    with pytest.raises(TaskStateError):
        await tasks.delete(ids[0])
    await tasks.cancel(ids[0])
    await tasks.delete(ids[0])
    with pytest.raises(KeyNotFoundError):
        await tasks.delete(ids[0])
    assert {each["name"] for each in await tasks.actions()} >= {"analyze_report", "query"}
    assert await tasks.actions() == await engine(app).actions()


async def test_errors_are_those_of_the_engine(app: ServedApp, tasks: RemoteTasks) -> None:
    with pytest.raises(UnknownActionError):
        await tasks.submit("unheard_of", "a")
    with pytest.raises(InvalidArgumentError) as refused:
        await tasks.submit("analyze_report", "a", PAYLOAD, delay_seconds=-1)
    assert refused.value.field == "delay_seconds"
    with pytest.raises(KeyNotFoundError):
        await tasks.get("0190a1b2-0000-7000-8000-000000000000")
    with pytest.raises(InvalidArgumentError):
        await tasks.get("../health/live")
    await tasks.submit("analyze_report", "a", PAYLOAD, idempotency_key="k")
    with pytest.raises(IdempotencyConflictError):
        await tasks.submit("analyze_report", "b", PAYLOAD, idempotency_key="k")
    with pytest.raises(ConfigurationError):
        RemoteTasks.of(StorageConfig(storage_type="memory"))


@pytest.mark.parametrize("method", ["submit", "requeue", "cancel"])
async def test_a_lost_answer_is_no_second_task_and_no_conflict(
    app: ServedApp, tasks: RemoteTasks, method: str
) -> None:
    task_id = (await tasks.submit("analyze_report", "a", PAYLOAD)).task_id
    if method == "requeue":
        await tasks.cancel(task_id)
    lost: list[int] = []

    def after(request: Request, answer: Answer) -> Answer:
        if request.method != "POST" or lost:
            return answer
        lost.append(answer.status)
        return Answer(502)

    app.after = after
    match method:
        case "submit":
            task_id = (await tasks.submit("analyze_report", "b", PAYLOAD)).task_id
            assert [each.task_id for each in (await tasks.list(agent_id="b")).records] == [task_id]
        case "requeue":
            assert (await tasks.requeue(task_id)).status == TaskStatus.QUEUED
        case _:
            assert (await tasks.cancel(task_id)).status == TaskStatus.CANCELLED
    assert len(lost) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"payload": {"report": b"a.csv"}}, "payload.report"),
        ({"payload": {"report": "a.csv", "options": [math.nan]}}, "payload.options[0]"),
        ({"payload": object()}, "payload"),
        ({"payload": "\ud800"}, "payload"),
        ({"agent_id": "\ud800"}, "agent_id"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"correlation_id": ""}, "correlation_id"),
    ],
    ids=["bytes", "nan", "object", "surrogate", "agent", "key", "correlation"],
)
async def test_what_json_cannot_hold_is_refused_and_not_changed(
    app: ServedApp, tasks: RemoteTasks, options: dict[str, Any], field: str
) -> None:
    task = NewTask(**{"action": "analyze_report", "agent_id": "a", "payload": PAYLOAD, **options})
    for submit in (engine(app).submit_new, tasks.submit_new, lambda task: tasks.submit_many([task])):
        with pytest.raises(InvalidArgumentError) as refused:
            await submit(task)
        assert refused.value.field == field
    assert (await tasks.list()).records == []


async def test_who_waits_for_a_task_asks_seldom(
    app: ServedApp, tasks: RemoteTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = (await tasks.submit("analyze_report", "a", PAYLOAD)).task_id
    monkeypatch.setattr(engine(app).waiting, "_most", 0)  # Others wait already: each is answered at once.
    seen = len(app.seen)
    assert (await tasks.wait_for(task_id, 0.5)).status == TaskStatus.QUEUED
    assert len(app.seen) - seen <= 3
    waiting = asyncio.ensure_future(tasks.wait_for(task_id, math.inf))
    await tasks.cancel(task_id)
    assert (await asyncio.wait_for(waiting, 120)).status == TaskStatus.CANCELLED
    with pytest.raises(InvalidArgumentError, match="nan"):
        await tasks.wait_for(task_id, math.nan)


async def test_what_is_no_app_is_told() -> None:
    for answer, error in (
        (Answer(404), ConfigurationError),
        (Answer(401), AccessDeniedError),
        (Answer(200, b"{}"), StorageUnavailableError),
    ):
        async with StubService(lambda request, answer=answer: answer) as service:
            async with RemoteTasks(f"{service.endpoint}/api", key="k", retry_attempts=1) as tasks:
                with pytest.raises(error):
                    await tasks.get("t-1")
                with pytest.raises(error):
                    await tasks.list()
            assert {request.headers["x-functions-key"] for request in service.seen} == {"k"}
