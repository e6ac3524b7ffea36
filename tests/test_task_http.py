"""Tasks over HTTP: what can be submitted, searches and counts, repeated requests, waiting, conditions,
deletion and changes of many."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote

import msgspec
import pytest

from storage_lib.config import StorageConfig
from storage_lib.errors import StorageUnavailableError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks import submission
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import key_of
from storage_lib.tasks.model import TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.submission import NewTask
from tests.http_app import AppAnswer, PlatformApp, config_of, serve

if TYPE_CHECKING:
    from decimal import Decimal

JSON = {"Content-Type": "application/json"}


class Payload(TypedDict, total=False):
    fail: bool
    n: int


class Size(msgspec.Struct):
    width: int


class Odd:
    """What neither pydantic nor msgspec knows."""


class OfCheckersOnly(TypedDict):
    n: Decimal


class OfOddOnes(TypedDict, total=False):
    n: Odd


class Custom(msgspec.Struct):
    n: Odd | None = None


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry(["actions"]).names()
    before = dict(registry_module._actions)  # pyright: ignore[reportPrivateUsage]

    @task("work", payload=Payload)
    async def work(context: TaskContext, payload: Payload) -> Any:
        """Do it,
        or fail.

        That is all."""
        if payload.get("fail"):
            raise ValueError("as asked")
        return payload.get("n")

    @task("declared", schema={"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]})
    async def declared(context: TaskContext, payload: Any) -> Any:
        return payload

    @task("annotated", description="Measure.", timeout=5)
    async def annotated(context: TaskContext, payload: Size) -> int:
        return payload.width

    @task("anything")
    async def anything(context: TaskContext, payload: Any) -> Any:
        return payload

    yield
    registry_module._actions.clear()  # pyright: ignore[reportPrivateUsage]
    registry_module._actions.update(before)  # pyright: ignore[reportPrivateUsage]


BOTH = pytest.mark.parametrize("app", ["memory", "file"], indirect=True)


@pytest.fixture
async def app(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[PlatformApp]:
    monkeypatch.delenv("AGENT_STORAGE_ACCESS_POLICY", raising=False)
    async with serve(
        monkeypatch, await config_of(getattr(request, "param", "memory"), None, tmp_path)
    ) as app:
        yield app


async def deliver(app: PlatformApp) -> int:
    """Handle the messages that are there as a host does; how many there were."""
    queues, count = app.storage.backend.queues, 0
    await queues.create_queue(TASK_QUEUE)
    while messages := await queues.receive(TASK_QUEUE, max_messages=32):
        for message in messages:
            await app.state.engine.deliver(message.text, queue=TASK_QUEUE)
            await queues.delete(TASK_QUEUE, message)
        count += len(messages)
    return count


async def post(app: PlatformApp, target: str, body: Any = None, **headers: str) -> AppAnswer:
    sent = b"" if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await app("POST", f"/api/{target}", sent, JSON | named)


async def submitted(app: PlatformApp, **fields: Any) -> str:
    answer = await post(app, "tasks", {"action": "work", "agent_id": "a", "payload": {}, **fields})
    assert answer.status == 202, answer.json
    return answer.json["task_id"]


async def ids(app: PlatformApp, query: str, limit: int = 2) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        more = f"&cursor={quote(cursor, safe='')}" if cursor else ""
        answer = await app("GET", f"/api/tasks?{query}&limit={limit}{more}")
        assert answer.status == 200, answer.json
        found += [each["task_id"] for each in answer.json["tasks"]]
        cursor = answer.json["cursor"]
    return found


# -- actions


async def test_the_actions_that_can_be_submitted_are_told_with_their_payloads(app: PlatformApp) -> None:
    answer = await app("GET", "/api/actions")
    found = {each["name"]: each for each in answer.json["actions"]}
    assert list(found) == sorted(found)
    assert {"analyze_report", "query", "migrate", "work", "declared", "annotated", "anything"} <= found.keys()
    assert found["work"]["description"] == "Do it, or fail."
    assert found["work"]["payload_schema"]["properties"]["n"]["type"] == "integer"
    assert found["work"]["payload_schema"]["additionalProperties"] is False
    assert found["declared"]["payload_schema"]["required"] == ["to"]
    assert found["annotated"]["payload_schema"]["properties"] == {"width": {"type": "integer"}}
    assert found["annotated"]["description"] == "Measure."
    assert found["annotated"]["timeout_seconds"] == 5
    assert found["annotated"]["retry"]["max_attempts"] == 5
    assert found["anything"]["payload_schema"] == {}
    report = found["analyze_report"]["payload_schema"]
    assert report["required"] == ["report"]
    assert report["properties"]["report"]["description"]
    assert answer.json["limits"]["tasks"] == 1000
    assert answer.json["limits"]["body_bytes"] == app.state.max_json_bytes
    for name in ("analyze_report", "query", "migrate"):
        assert found[name]["description"], name


@pytest.mark.parametrize(
    ("action", "payload", "field"),
    [
        ("work", {"n": "x"}, "payload.n"),
        ("work", {"m": 1}, "payload.m"),
        ("declared", {}, "payload.to"),
        ("declared", {"to": 5}, "payload.to"),
        ("declared", 5, "payload"),
        ("annotated", {}, "payload.width"),
        ("annotated", {"width": "x"}, "payload.width"),
        ("annotated", {"width": 1, "height": 2}, "payload.height"),
        ("query", {"sql": "select 1"}, "payload.tables"),
        ("analyze_report", {"report": 5}, "payload.report"),
    ],
)
async def test_a_payload_that_does_not_fit_is_refused_at_submission(
    app: PlatformApp, action: str, payload: Any, field: str
) -> None:
    answer = await post(app, "tasks", {"action": action, "agent_id": "a", "payload": payload})
    assert answer.status == 400
    assert answer.problem["field"] == field
    assert await ids(app, "") == []


async def test_what_an_action_declares_is_what_it_gets(app: PlatformApp) -> None:
    for action, payload, result in (
        ("annotated", {"width": 3}, 3),
        ("declared", {"to": "x"}, {"to": "x"}),
        ("anything", [1], [1]),
    ):
        task_id = await submitted(app, action=action, payload=payload)
        await deliver(app)
        assert (await app("GET", f"/api/tasks/{task_id}")).json["result"] == result


async def test_an_annotation_that_can_check_nothing_refuses_nothing(app: PlatformApp) -> None:
    """It may be for type checkers only."""

    @task("checkers")
    async def checkers(context: TaskContext, payload: OfCheckersOnly) -> Any:
        return payload

    @task("odd_ones")
    async def odd_ones(context: TaskContext, payload: OfOddOnes) -> Any:
        return payload

    @task("declared_odd", payload=OfOddOnes)
    async def declared_odd(context: TaskContext, payload: Any) -> Any:
        return payload

    @task("custom")
    async def custom(context: TaskContext, payload: Custom) -> Any:
        return None

    for action in ("checkers", "odd_ones"):
        task_id = await submitted(app, action=action, payload={"n": 1, "m": 2})
        await deliver(app)
        assert (await app("GET", f"/api/tasks/{task_id}")).json["result"] == {"n": 1, "m": 2}
    answer = await app("GET", "/api/actions")
    assert answer.status == 200, answer.problem
    schemas = {each["name"]: each["payload_schema"] for each in answer.json["actions"]}
    assert schemas["checkers"] == schemas["odd_ones"] == schemas["declared_odd"] == schemas["custom"] == {}


# -- searches and counts


async def some_tasks(app: PlatformApp) -> list[dict[str, Any]]:
    """Of two agents and actions, in several states; newest first."""
    for n in range(12):
        fields: dict[str, Any] = {
            "agent_id": "ab"[n % 2],
            "action": "work" if n % 3 else "anything",
            "payload": {"fail": n % 4 == 1},
        }
        if n % 2:
            fields["correlation_id"] = f"job {n % 4}"
        if n % 5 == 0:
            fields["idempotency_key"] = f"key-{n % 10}"
        if n in (3, 6):
            fields["delay_seconds"] = 3600
        await submitted(app, **fields)
        if n == 8:
            await deliver(app)
    page = await app("GET", "/api/tasks?limit=1000")
    cancelled = [each["task_id"] for each in page.json["tasks"] if each["due_at"]][:1]
    for task_id in cancelled:
        assert (await post(app, f"tasks/{task_id}/cancel")).status == 200
    found = (await app("GET", "/api/tasks?limit=1000")).json["tasks"]
    assert len(found) == 12
    assert len({each["status"] for each in found}) >= 4
    return found


FILTERS: list[dict[str, Any]] = [
    {},
    {"status": "failed"},
    {"status": "failed,cancelled"},
    {"status": "queued,failed"},
    {"status": "succeeded,queued"},
    {"status": "queued,running,succeeded,failed,cancelled,dead"},
    {"agent_id": "a"},
    {"agent_id": "a", "status": "succeeded"},
    {"agent_id": "b", "status": "succeeded,failed"},
    {"agent_id": "b", "status": "queued,failed,dead"},
    {"action": "anything", "status": "queued,succeeded"},
    {"correlation_id": "job 1"},
    {"correlation_id": "job 3", "status": "failed,queued"},
    {"correlation_id": "job 1", "status": "failed"},
    {"correlation_id": "job 1", "status": "succeeded"},
    {"correlation_id": "job 1", "status": "queued"},
    {"correlation_id": "job 1", "action": "work", "agent_id": "b"},
    {"correlation_id": "nothing"},
    {"idempotency_key": "key-0"},
    {"idempotency_key": "key-5", "correlation_id": "job 1"},
    {"idempotency_key": "key-5", "correlation_id": "job 3"},
    {"idempotency_key": "key-0", "status": "succeeded,failed,queued"},
    {"idempotency_key": "nothing"},
    {"created_after": "2001-01-01T00:00:00Z", "status": "failed,queued"},
    {"created_before": "2001-01-01T00:00:00Z"},
]


def wanted(each: dict[str, Any], filters: dict[str, Any]) -> bool:
    if "created_before" in filters:
        return False
    plain = ("agent_id", "action", "correlation_id", "idempotency_key")
    return all(each.get(name) == filters[name] for name in plain if name in filters) and (
        "status" not in filters or each["status"] in filters["status"].split(",")
    )


@BOTH
@pytest.mark.parametrize("searchable", [False, True], ids=["scanned", "indexed"])
async def test_every_filter_finds_and_counts_what_a_look_at_all_tasks_does(
    app: PlatformApp, *, searchable: bool
) -> None:
    tasks = await some_tasks(app)
    if searchable:
        while await app.state.engine.carry_over(10):
            pass
        assert await app.state.engine.records.searchable.is_complete()
    assert await check_index(app.storage.backend.tables) == []
    for filters in FILTERS:
        query = "&".join(f"{name}={quote(value, safe=',')}" for name, value in filters.items())
        expected = [each for each in tasks if wanted(each, filters)]
        assert await ids(app, query) == [each["task_id"] for each in expected], filters
        answer = await app("GET", f"/api/tasks/counts?{query}&by=action")
        assert answer.status == 200, answer.json
        found = answer.json
        statuses = filters.get("status", "queued,running,succeeded,failed,cancelled,dead").split(",")
        counts = {status: sum(each["status"] == status for each in expected) for status in statuses}
        assert found["counts"] == counts, filters
        assert (found["total"], found["at_least"]) == (len(expected), []), filters
        for group in found["groups"]:
            mine = [each for each in expected if each["action"] == group["action"]]
            assert sum(group["counts"].values()) == len(mine), filters
        assert sum(sum(group["counts"].values()) for group in found["groups"]) == len(expected)


@BOTH
async def test_counts_end_at_their_limit_and_say_so(app: PlatformApp) -> None:
    await some_tasks(app)
    whole = (await app("GET", "/api/tasks/counts")).json
    for filters in ("", "agent_id=a&", "correlation_id=job%201&"):
        whole = (await app("GET", f"/api/tasks/counts?{filters}")).json
        for limit in (1, 2, 50):
            found = (await app("GET", f"/api/tasks/counts?{filters}limit={limit}")).json
            assert found["counted_up_to"] == limit
            for status, count in found["counts"].items():
                real = whole["counts"][status]
                assert count == min(real, limit) or status in found["at_least"]
                assert count <= real
                if count < real:
                    assert status in found["at_least"]
    assert (await app("GET", "/api/tasks/counts?by=colour")).problem["field"] == "by"
    assert (await app("GET", "/api/tasks/counts?limit=10001")).problem["field"] == "limit"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=failed,ended", "status"),
        ("status=failed,", "status"),
        ("status=", None),
        ("correlation_id=%00", "correlation_id"),
        ("idempotency_key=" + "x" * 300, "idempotency_key"),
        ("colour=red", "colour"),
    ],
)
@pytest.mark.parametrize("route", ["tasks", "tasks/counts"])
async def test_a_filter_that_makes_no_sense_is_refused(
    app: PlatformApp, route: str, query: str, field: str | None
) -> None:
    answer = await app("GET", f"/api/{route}?{query}")
    if field is None:
        assert answer.status == 200
    else:
        assert answer.status == 400
        assert answer.problem["field"] == field


# -- repeated requests


@BOTH
async def test_a_request_that_comes_again_is_answered_with_the_same_task(app: PlatformApp) -> None:
    body = {"action": "work", "agent_id": "a", "payload": {"n": 1}}
    first = await post(app, "tasks", body, Idempotency_Key='"once"')
    assert first.status == 202
    for key in ('"once"', "once", " once "):
        again = await post(app, "tasks", body, Idempotency_Key=key)
        assert again.status == 202
        assert again.json["task_id"] == first.json["task_id"]
        assert again.headers["location"] == first.headers["location"]
    assert (await post(app, "tasks", body | {"idempotency_key": "once"})).json["task_id"] == first.json[
        "task_id"
    ]
    assert first.json["idempotency_key"] == "once"
    assert await deliver(app) == 1
    again = await post(app, "tasks", body, Idempotency_Key="once", Prefer="wait=1")
    assert (again.status, again.json["status"]) == (200, "succeeded")
    other = await post(app, "tasks", body, Idempotency_Key='"a \\"quoted\\" \\\\ key"')
    assert other.json["idempotency_key"] == 'a "quoted" \\ key'
    assert await ids(app, "idempotency_key=once") == [first.json["task_id"]]


@pytest.mark.parametrize(
    "change",
    [
        {"payload": {"n": 2}},
        {"agent_id": "b"},
        {"action": "anything"},
        {"delay_seconds": 5},
        {"priority": "high"},
        {"correlation_id": "c"},
    ],
    ids=str,
)
async def test_a_key_of_a_request_is_not_for_another(app: PlatformApp, change: dict[str, Any]) -> None:
    body = {"action": "work", "agent_id": "a", "payload": {"n": 1}}
    first = await post(app, "tasks", body, Idempotency_Key="k")
    answer = await post(app, "tasks", body | change, Idempotency_Key="k")
    assert answer.status == 422
    assert (answer.problem["code"], answer.problem["field"]) == ("idempotency-key-reused", "Idempotency-Key")
    assert first.json["task_id"] in answer.problem["detail"]
    assert await ids(app, "") == [first.json["task_id"]]


async def test_both_keys_must_be_the_same(app: PlatformApp) -> None:
    body = {"action": "work", "agent_id": "a", "payload": {}, "idempotency_key": "k"}
    assert (await post(app, "tasks", body, Idempotency_Key="k")).status == 202
    answer = await post(app, "tasks", body, Idempotency_Key="l")
    assert (answer.status, answer.problem["field"]) == (400, "Idempotency-Key")
    for key in ("", "x" * 256, "\x01"):
        answer = await post(app, "tasks", body | {"idempotency_key": None}, Idempotency_Key=key)
        assert answer.status == 400, key
    several = await post(app, "tasks", {"tasks": [body]}, Idempotency_Key="k")
    assert (several.status, several.problem["field"]) == (400, "Idempotency-Key")


@BOTH
async def test_requests_at_once_make_one_task(app: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"action": "work", "agent_id": "a", "payload": {}}
    answers = await asyncio.gather(*(post(app, "tasks", body, Idempotency_Key="k") for _ in range(20)))
    assert {answer.status for answer in answers} <= {202, 409}
    assert len({answer.json["task_id"] for answer in answers if answer.status == 202}) == 1
    for answer in answers:
        if answer.status == 409:
            assert answer.problem["code"] == "idempotency-key-in-use"
            assert answer.headers["retry-after"] == "1"
    assert await deliver(app) == 1


async def test_a_request_under_way_holds_its_key_for_a_while(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was stopped before its record was written."""
    engine = app.state.engine
    stopped = NewTask(action="work", agent_id="a", payload={}, idempotency_key="k", key_of_request=True)
    engine.submission.check(stopped)
    now = engine.submission._now()  # pyright: ignore[reportPrivateUsage]
    await engine.submission._first_with_key(stopped, "the-first", now)  # pyright: ignore[reportPrivateUsage]
    body = {"action": "work", "agent_id": "a", "payload": {}}
    answer = await post(app, "tasks", body, Idempotency_Key="k")
    assert (answer.status, answer.problem["code"]) == (409, "idempotency-key-in-use")
    # A shorter window since then, by which it seems to be of a time to come.
    window = engine.submission._window  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(engine.submission, "_window", window / 2)
    assert (await post(app, "tasks", body, Idempotency_Key="k")).json["task_id"] == "the-first"


async def test_a_request_that_was_stopped_goes_on_after_a_while(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = app.state.engine
    stopped = NewTask(action="work", agent_id="a", payload={}, idempotency_key="k", key_of_request=True)
    now = engine.submission._now()  # pyright: ignore[reportPrivateUsage]
    await engine.submission._first_with_key(stopped, "the-first", now)  # pyright: ignore[reportPrivateUsage]
    body = {"action": "work", "agent_id": "a", "payload": {}}
    monkeypatch.setattr(submission, "IN_USE_SECONDS", 0)
    assert (await post(app, "tasks", body, Idempotency_Key="k")).json["task_id"] == "the-first"


@BOTH
@pytest.mark.parametrize("sent", [False, True], ids=["lost", "sent"])
async def test_a_request_that_failed_may_come_again_at_once(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch, *, sent: bool
) -> None:
    send = app.storage.backend.queues.send

    async def fails(*arguments: Any, **options: Any) -> None:
        if sent:
            await send(*arguments, **options)
        raise StorageUnavailableError("injected")

    body = {"action": "work", "agent_id": "a", "payload": {"n": 1}}
    with monkeypatch.context() as patched:
        patched.setattr(app.storage.backend.queues, "send", fails)
        for _ in range(2):
            assert (await post(app, "tasks", body, Idempotency_Key="k")).status == 503
    answer = await post(app, "tasks", body, Idempotency_Key="k")
    assert answer.status == 202, answer.problem
    assert await deliver(app) == (3 if sent else 1)
    assert await ids(app, "") == [answer.json["task_id"]]
    found = await app("GET", f"/api/tasks/{answer.json['task_id']}")
    assert (found.json["status"], found.json["attempts"]) == ("succeeded", 1)


# -- waiting


async def test_a_submission_waits_for_the_end_if_it_is_asked_to(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"action": "work", "agent_id": "a", "payload": {"n": 7}}
    waiting = asyncio.ensure_future(post(app, "tasks", body, Prefer="respond-async, wait=20"))
    while not await deliver(app):
        await asyncio.sleep(0.01)
    answer = await waiting
    assert (answer.status, answer.json["result"]) == (200, 7)
    assert answer.headers["preference-applied"] == "wait=20, respond-async"
    assert answer.headers["etag"] == f'"{answer.json["etag"]}"'
    assert "location" in answer.headers
    slow = await post(app, "tasks", body, Prefer="wait=1")
    assert (slow.status, slow.json["status"]) == (202, "queued")
    assert slow.headers["preference-applied"] == "wait=1"
    assert slow.headers["retry-after"] == "1"
    monkeypatch.setattr("storage_lib.tasks.waiting.FIRST_PAUSE_SECONDS", None)  # To wait would be an error.
    for ignored in ("wait", "wait=x", "wait=-1", "return=minimal", "", "respond-async"):
        answer = await post(app, "tasks", body, Prefer=ignored)
        assert answer.status == 202
        assert answer.headers.get("preference-applied") == ("respond-async" if "async" in ignored else None)


async def test_a_submission_that_cannot_be_waited_for_is_accepted_nevertheless(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise StorageUnavailableError("injected")

    body = {"action": "work", "agent_id": "a", "payload": {"n": 7}}
    with monkeypatch.context() as patched:
        # Its record is written when its message is delivered.
        patched.setattr(app.storage.backend.tables, "insert", fails)
        answer = await post(app, "tasks", body, Prefer="wait=20")
    assert (answer.status, answer.json["status"]) == (202, "queued")
    assert answer.headers.get("preference-applied") is None
    await deliver(app)
    found = await app("GET", f"/api/tasks/{answer.json['task_id']}")
    assert (found.json["status"], found.json["result"]) == ("succeeded", 7)


async def test_a_get_waits_as_the_client_prefers(app: PlatformApp) -> None:
    task_id = await submitted(app)
    answer = await app("GET", f"/api/tasks/{task_id}", headers={"Prefer": "wait=1"})
    assert (answer.status, answer.json["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"
    await deliver(app)
    answer = await app("GET", f"/api/tasks/{task_id}", headers={"Prefer": "wait=30"})
    assert (answer.status, answer.json["status"]) == (200, "succeeded")
    # The query comes first, and then the answer is 200 in any state.
    task_id = await submitted(app)
    answer = await app("GET", f"/api/tasks/{task_id}?wait=0", headers={"Prefer": "wait=30"})
    assert (answer.status, answer.headers.get("preference-applied")) == (200, None)


async def test_nobody_waits_where_enough_do_already(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.engine.waiting, "_most", 0)
    body = {"action": "work", "agent_id": "a", "payload": {}}
    answer = await post(app, "tasks", body, Prefer="wait=30")
    assert (answer.status, answer.headers.get("preference-applied")) == (202, None)
    task_id = answer.json["task_id"]
    answer = await app("GET", f"/api/tasks/{task_id}", headers={"Prefer": "wait=30"})
    assert (answer.status, answer.headers.get("preference-applied")) == (200, None)
    etag = answer.headers["etag"]
    same = await app("GET", f"/api/tasks/{task_id}?wait=30", headers={"If-None-Match": etag})
    assert (same.status, same.headers.get("retry-after")) == (304, "1")


async def test_a_record_that_changes_is_answered_at_once_and_one_that_does_not_in_the_end(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await submitted(app)
    first = await app("GET", f"/api/tasks/{task_id}")
    etag = first.headers["etag"]
    same = await app("GET", f"/api/tasks/{task_id}", headers={"If-None-Match": etag})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", etag)
    same = await app("GET", f"/api/tasks/{task_id}?wait=1", headers={"If-None-Match": f'W/{etag}, "x"'})
    assert same.status == 304
    assert (await app("GET", f"/api/tasks/{task_id}", headers={"If-None-Match": '"x"'})).status == 200
    assert (await app("GET", f"/api/tasks/{task_id}", headers={"If-None-Match": "x"})).status == 400
    waiting = asyncio.ensure_future(
        app("GET", f"/api/tasks/{task_id}?wait=30", headers={"If-None-Match": etag})
    )
    await asyncio.sleep(0)
    assert (await post(app, f"tasks/{task_id}/cancel")).status == 200
    changed = await asyncio.wait_for(waiting, 120)
    assert (changed.status, changed.json["status"]) == (200, "cancelled")
    assert changed.headers["etag"] != etag
    # Nothing more will happen: nobody waits.
    monkeypatch.setattr("storage_lib.tasks.waiting.FIRST_PAUSE_SECONDS", None)
    etag = changed.headers["etag"]
    done = await app("GET", f"/api/tasks/{task_id}?wait=30", headers={"If-None-Match": etag})
    assert done.status == 304


async def test_every_state_of_a_record_has_its_own_etag_and_lists_say_the_same(app: PlatformApp) -> None:
    task_id = await submitted(app, payload={"fail": True})
    seen: list[str] = []
    for step in ("", "run", "requeue", "cancel"):
        if step == "run":
            await deliver(app)
        elif step:
            await post(app, f"tasks/{task_id}/{step}")
        answer = await app("GET", f"/api/tasks/{task_id}")
        assert answer.headers["etag"] == (await app("HEAD", f"/api/tasks/{task_id}")).headers["etag"]
        (listed,) = (await app("GET", "/api/tasks")).json["tasks"]
        assert listed["etag"] == answer.json["etag"] == answer.headers["etag"].strip('"')
        seen.append(answer.headers["etag"])
    assert len(set(seen)) == 4


async def test_events_of_a_task_are_told_to_browsers(app: PlatformApp) -> None:
    task_id = await submitted(app, payload={"n": 3})
    sse = {"Accept": "text/event-stream"}

    def parsed(answer: AppAnswer) -> tuple[str, Any]:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = dict(line.split(": ", 1) for line in answer.body.decode().splitlines() if line)
        assert lines["retry"].isdigit()
        assert answer.body.endswith(b"\n\n")
        return lines.get("id", ""), json.loads(lines.get("data", "null"))

    last, data = parsed(await app("GET", f"/api/tasks/{task_id}", headers=sse))
    assert data["status"] == "queued"
    nothing = await app("GET", f"/api/tasks/{task_id}?wait=1", headers=sse | {"Last-Event-ID": last})
    assert parsed(nothing) == ("", None)
    waiting = asyncio.ensure_future(
        app("GET", f"/api/tasks/{task_id}?wait=30", headers=sse | {"Last-Event-ID": last})
    )
    await asyncio.sleep(0)
    await deliver(app)
    last, data = parsed(await asyncio.wait_for(waiting, 120))
    while data["status"] == "running":
        last, data = parsed(await app("GET", f"/api/tasks/{task_id}", headers=sse | {"Last-Event-ID": last}))
    assert (data["status"], data["result"]) == ("succeeded", 3)
    # EventSource asks no more after this.
    assert (await app("GET", f"/api/tasks/{task_id}", headers=sse | {"Last-Event-ID": last})).status == 204
    assert (await app("GET", "/api/tasks/none", headers=sse)).status == 404


# -- conditions and deletion


@BOTH
@pytest.mark.parametrize("what", ["cancel", "requeue", "delete"])
async def test_a_record_that_has_changed_is_not_touched(app: PlatformApp, what: str) -> None:
    task_id = await submitted(app, payload={"fail": True})
    if what != "cancel":
        await deliver(app)

    async def ask(**headers: str) -> AppAnswer:
        if what == "delete":
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await app("DELETE", f"/api/tasks/{task_id}", headers=named)
        return await post(app, f"tasks/{task_id}/{what}", **headers)

    before = await app("GET", f"/api/tasks/{task_id}")
    etag = before.headers["etag"]
    for stale in ('"x"', f"W/{etag}", '"x", "y"'):
        answer = await ask(If_Match=stale)
        assert (answer.status, answer.problem["field"]) == (412, "If-Match")
        assert (await app("GET", f"/api/tasks/{task_id}")).json == before.json
    assert (await ask(If_Match="x")).status == 400
    assert (await ask(If_Match=f'"x", {etag}')).status in (200, 202, 204)


@BOTH
async def test_a_deleted_task_is_gone_with_all_it_held(app: PlatformApp) -> None:
    key = {"idempotency_key": "k", "correlation_id": "c"}
    task_id = await submitted(app, action="anything", payload={"text": "x" * 50_000}, **key)
    answer = await app("DELETE", f"/api/tasks/{task_id}")
    assert (answer.status, answer.problem["code"]) == (409, "task-state")
    (message,) = await app.storage.backend.queues.peek(TASK_QUEUE)
    await deliver(app)
    objects = app.storage.backend.objects
    assert [found async for found in objects.iterate(".system/tasks/")]
    answer = await app("DELETE", f"/api/tasks/{task_id}")
    assert (answer.status, answer.body) == (204, b"")
    assert [found async for found in objects.iterate(".system/tasks/")] == []
    for method, target in (
        ("GET", f"tasks/{task_id}"),
        ("DELETE", f"tasks/{task_id}"),
        ("POST", f"tasks/{task_id}/cancel"),
        ("POST", f"tasks/{task_id}/requeue"),
    ):
        assert (await app(method, f"/api/{target}")).problem["code"] == "key-not-found"
    for query in ("", "status=succeeded", "agent_id=a", "idempotency_key=k", "correlation_id=c"):
        assert await ids(app, query) == []
        assert (await app("GET", f"/api/tasks/counts?{query}")).json["total"] == 0
    assert await check_index(app.storage.backend.tables) == []
    # A message that comes again, as after a killed host, does not run it again.
    await app.storage.backend.queues.send_text(TASK_QUEUE, message.text)
    await deliver(app)
    assert await ids(app, "") == []
    # The key is free.
    assert await submitted(app, action="anything", **key) != task_id


async def test_a_cancelled_task_that_was_deleted_does_not_run_when_it_is_due(app: PlatformApp) -> None:
    task_id = await submitted(app)
    assert (await post(app, f"tasks/{task_id}/cancel")).status == 200
    assert (await app("DELETE", f"/api/tasks/{task_id}")).status == 204
    assert await deliver(app) == 1
    assert await ids(app, "") == []
    assert await app.state.engine.queue_length("agent-tasks-poison") == 0


# -- many at once


@BOTH
async def test_tasks_are_cancelled_by_a_filter(app: PlatformApp) -> None:
    mine = [await submitted(app, delay_seconds=60, correlation_id="c") for _ in range(7)]
    other = await submitted(app, delay_seconds=60)
    # Newest first; of one millisecond, in any order.
    mine = sorted(mine, key=key_of)
    dry = await post(app, "tasks/cancel", {"correlation_id": "c", "dry_run": True})
    assert dry.status == 200
    assert [each["task_id"] for each in dry.json["tasks"]] == mine
    assert dry.json["dry_run"] is True
    assert sorted(await ids(app, "status=queued")) == sorted([other, *mine])
    found: list[str] = []
    cursor = None
    for _ in range(4):
        answer = await post(app, "tasks/cancel", {"correlation_id": "c", "limit": 3, "cursor": cursor})
        assert answer.json["failed"] == []
        assert len(answer.json["tasks"]) <= 3
        assert {each["status"] for each in answer.json["tasks"]} <= {"cancelled"}
        found += [each["task_id"] for each in answer.json["tasks"]]
        if (cursor := answer.json["cursor"]) is None:
            break
    assert found == mine
    assert await ids(app, "status=queued") == [other]


async def test_tasks_are_requeued_by_a_filter_and_those_that_cannot_be_are_named(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [await submitted(app, payload={"fail": True}) for _ in range(3)]
    cancelled = await submitted(app)
    await post(app, f"tasks/{cancelled}/cancel")
    await deliver(app)
    list_page = app.state.engine.list

    async def and_one_is_requeued(**options: Any) -> Any:
        page = await list_page(**options)
        await app.state.engine.requeue(tasks[1])
        return page

    with monkeypatch.context() as patched:
        patched.setattr(app.state.engine, "list", and_one_is_requeued)
        answer = await post(app, "tasks/requeue", {"agent_id": "a"})
    assert {each["task_id"] for each in answer.json["tasks"]} == {tasks[2], tasks[0]}
    (failed,) = answer.json["failed"]
    assert failed["task_id"] == tasks[1]
    assert failed["problem"]["status"] == 409
    assert {each["status"] for each in answer.json["tasks"]} == {"queued"}
    assert (await app("GET", f"/api/tasks/{cancelled}")).json["status"] == "cancelled"
    answer = await post(app, "tasks/requeue", {"status": "cancelled"})
    assert [each["task_id"] for each in answer.json["tasks"]] == [cancelled]


@pytest.mark.parametrize(
    ("route", "filters", "ends"),
    [
        ("cancel", {"status": "queued"}, "running"),
        ("requeue", {"status": "failed"}, "cancelled"),
        ("requeue", {"agent_id": "a"}, "cancelled"),
    ],
    ids=str,
)
async def test_a_task_that_is_by_now_in_a_state_that_was_not_named_is_left_alone(
    app: PlatformApp, monkeypatch: pytest.MonkeyPatch, route: str, filters: dict[str, Any], ends: str
) -> None:
    task_id = await submitted(app, payload={"fail": route == "requeue"})
    engine = app.state.engine
    if route == "requeue":
        await deliver(app)
    list_page = engine.list

    async def and_it_changes(**options: Any) -> Any:
        page = await list_page(**options)
        if route == "requeue":
            await engine.requeue(task_id)
            await engine.cancel(task_id)
        else:
            found = await engine.get(task_id)
            await engine.records.change(found, status=TaskStatus.RUNNING, updated_at=datetime.now(UTC))
        return page

    with monkeypatch.context() as patched:
        patched.setattr(engine, "list", and_it_changes)
        answer = await post(app, f"tasks/{route}", filters)
    assert answer.json["tasks"] == []
    (failed,) = answer.json["failed"]
    assert (failed["task_id"], failed["problem"]["status"]) == (task_id, 409)
    found = await engine.get(task_id)
    assert found.status == ends
    assert found.is_final or not found.cancel_requested


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("cancel", {}, "status"),
        ("cancel", {"limit": 5}, "status"),
        ("cancel", {"status": "failed"}, "status"),
        ("cancel", {"status": ["queued", "dead"]}, "status"),
        ("cancel", {"status": 5}, "status"),
        ("cancel", {"status": []}, "status"),
        ("cancel", {"status": [5]}, "status"),
        ("requeue", {"status": "succeeded"}, "status"),
        ("requeue", {"agent_id": 5}, "agent_id"),
        ("requeue", {"agent_id": "a", "limit": 0}, "limit"),
        ("requeue", {"agent_id": "a", "limit": True}, "limit"),
        ("requeue", {"agent_id": "a", "limit": 1001}, "limit"),
        ("requeue", {"agent_id": "a", "dry_run": "yes"}, "dry_run"),
        ("requeue", {"agent_id": "a", "cursor": 5}, "cursor"),
        ("requeue", {"agent_id": "a", "cursor": "x"}, "cursor"),
        ("requeue", {"created_after": "yesterday"}, "created_after"),
        ("requeue", {"agent": "a"}, "agent"),
    ],
    ids=str,
)
async def test_a_selection_that_makes_no_sense_changes_nothing(
    app: PlatformApp, route: str, body: dict[str, Any], field: str
) -> None:
    task_id = await submitted(app, delay_seconds=60)
    answer = await post(app, f"tasks/{route}", body)
    assert (answer.status, answer.problem["field"]) == (400, field)
    assert (await app("GET", f"/api/tasks/{task_id}")).json["status"] == "queued"


# -- under an access policy


@pytest.fixture
async def confined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[PlatformApp]:
    """A caller for one agent, one for two, one for none and one for all."""
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("one", "two", "none", "all")}
    policy = {
        "keys": keys,
        "principals": {
            "key:one": {"may": {"tasks": ["a"]}},
            "key:two": {"may": {"tasks": ["a", "b"]}},
            "key:none": {"may": {"load": [""]}},
            "key:all": {
                "may": {"*": [""], "tasks": ["*"], "tables": ["*"], "queues": ["*"], "operate": ["*"]}
            },
        },
    }
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    monkeypatch.delenv("WEBSITE_AUTH_ENABLED", raising=False)
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        yield app


async def test_nobody_sees_or_touches_tasks_of_agents_that_are_not_its_own(confined: PlatformApp) -> None:
    app = confined

    async def ask(who: str, method: str, target: str, body: Any = None, **headers: str) -> AppAnswer:
        sent = b"" if body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await app(method, f"/api/{target}", sent, JSON | named | {"x-functions-key": who})

    made: dict[str, str] = {}
    for agent in ("a", "b", "c"):
        body = {"action": "anything", "agent_id": agent, "payload": 1, "correlation_id": "x"}
        answer = await ask("all", "POST", "tasks", body, Idempotency_Key=f"k{agent}")
        made[agent] = answer.json["task_id"]
    sees = {"one": "a", "two": "ba", "none": "", "all": "cba"}
    for who, agents in sees.items():
        expected = sorted((made[agent] for agent in agents), key=key_of)
        for query in ("", "correlation_id=x", "status=queued,failed"):
            answer = await ask(who, "GET", f"tasks?{query}")
            counted = await ask(who, "GET", f"tasks/counts?{query}&by=agent_id")
            if not agents:
                assert (answer.status, counted.status) == (403, 403)
                continue
            assert [each["task_id"] for each in answer.json["tasks"]] == expected
            assert counted.json["total"] == len(expected)
            assert {each["agent_id"] for each in counted.json["groups"]} == set(agents)
        for route in ("cancel", "requeue"):
            answer = await ask(who, "POST", f"tasks/{route}", {"correlation_id": "x", "dry_run": True})
            if not agents:
                assert answer.status == 403
            else:
                found = [each["task_id"] for each in answer.json["tasks"]]
                assert found == (expected if route == "cancel" else [])
        for agent, task_id in made.items():
            if agent in agents:
                continue
            for method, target in (
                ("GET", f"tasks/{task_id}"),
                ("DELETE", f"tasks/{task_id}"),
                ("POST", f"tasks/{task_id}/cancel"),
                ("POST", f"tasks/{task_id}/requeue"),
            ):
                answer = await ask(who, method, target)
                assert (answer.status, answer.problem["code"]) == (404, "key-not-found")
            for target in (f"tasks?agent_id={agent}", f"tasks/counts?agent_id={agent}"):
                assert (await ask(who, "GET", target)).status == 403
            assert (await ask(who, "POST", "tasks/cancel", {"agent_id": agent})).status == 403
            answer = await ask(who, "GET", f"tasks/{task_id}", Accept="text/event-stream")
            assert answer.status == 404
    # What one sender's keys stand for, another does not learn.
    body = {"action": "anything", "agent_id": "a", "payload": 1, "correlation_id": "x"}
    answer = await ask("one", "POST", "tasks", body, Idempotency_Key="ka")
    assert answer.status == 202
    assert answer.json["task_id"] != made["a"]
    found = await ask("one", "GET", "tasks?idempotency_key=kb")
    assert found.json["tasks"] == []
    # What needs the whole store is not for those who have a part of it.
    assert (await ask("none", "GET", "actions")).status == 403
    names = {
        who: {each["name"] for each in (await ask(who, "GET", "actions")).json["actions"]}
        for who in ("one", "all")
    }
    assert names["all"] - names["one"] == {"migrate", "migrate_range", "migrate_tables"}
    body = {"action": "migrate", "agent_id": "a", "payload": {}}
    for sent, field in ((body, "action"), ({"tasks": [body]}, "tasks[0].action")):
        answer = await ask("one", "POST", "tasks", sent)
        assert (answer.status, answer.problem["field"]) == (403, field)
    # And what is changed is changed for its own agents only.
    await ask("two", "POST", "tasks/cancel", {"status": "queued"})
    statuses = {agent: (await ask("all", "GET", f"tasks/{made[agent]}")).json["status"] for agent in made}
    assert statuses == {"a": "cancelled", "b": "cancelled", "c": "queued"}


async def test_on_azurite_too(azurite: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lean: the rows of an older store, a search, counts, a deletion, a condition."""
    monkeypatch.delenv("AGENT_STORAGE_ACCESS_POLICY", raising=False)
    config = await config_of("azurite", azurite, tmp_path)
    async with serve(monkeypatch, config) as app:
        first = await submitted(app, correlation_id="on azurite", idempotency_key="k-azurite")
        while await app.state.engine.carry_over(10):
            pass
        second = await submitted(app, correlation_id="on azurite", delay_seconds=600)
        assert set(await ids(app, "correlation_id=on%20azurite")) == {second, first}
        assert await ids(app, "idempotency_key=k-azurite") == [first]
        answer = await app("GET", "/api/tasks/counts?correlation_id=on%20azurite&by=agent_id")
        assert answer.json["counts"]["queued"] == 2
        answer = await post(app, f"tasks/{second}/cancel", If_Match='"x"')
        assert answer.status == 412
        answer = await post(app, "tasks/cancel", {"correlation_id": "on azurite"})
        assert len(answer.json["tasks"]) == 2
        assert await ids(app, "correlation_id=on%20azurite&status=cancelled,failed") != []
        for task_id in (first, second):
            assert (await app("DELETE", f"/api/tasks/{task_id}")).status == 204
            assert (await app("GET", f"/api/tasks/{task_id}")).status == 404
        assert await ids(app, "correlation_id=on%20azurite") == []
        await deliver(app)
