"""Queues over HTTP: messages come back as they were sent, a receipt is the right to delete, and the app's own
queues are nobody's to change."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from storage_lib.config import StorageConfig
from storage_lib.tasks.model import EVENT_QUEUE, HIGH_QUEUE, POISON_QUEUE, TASK_QUEUE
from tests.http_app import AppAnswer, PlatformApp, config_of, serve

JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=["memory", "file", "azurite"])
def store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of store, and its server if it has one."""
    return request.param, request.getfixturevalue("azurite") if request.param == "azurite" else None


@pytest.fixture
async def app(
    store: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(*store, tmp_path)) as app:
        yield app


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        yield app


@pytest.fixture
def queue() -> str:
    return f"q-{uuid4().hex[:12]}"


async def ask(app: PlatformApp, method: str, target: str, document: Any = None) -> AppAnswer:
    body = b"" if document is None else json.dumps(document).encode()
    return await app(method, f"/api/queues/{target}", body, JSON)


def deleted(message: dict[str, Any], *, plus: bool = False) -> str:
    receipt = quote(message["receipt"], safe="+" if plus else "")
    return f"messages/{quote(message['id'], safe='')}?receipt={receipt}"


async def test_the_life_of_a_message(app: PlatformApp, queue: str) -> None:
    sent = await ask(app, "POST", f"{queue}/messages", {"body": "hello"})
    assert sent.status == 201
    assert (await ask(app, "GET", queue)).json == {"queue": queue, "length": 1}
    [peeked] = (await ask(app, "GET", f"{queue}/messages")).json["messages"]
    assert (peeked["id"], peeked["body"], "receipt" in peeked) == (sent.json["id"], "hello", False)
    got = await ask(app, "POST", f"{queue}/receive?visibility_timeout=60")
    [message] = got.json["messages"]
    assert (message["id"], message["body"], message["dequeue_count"]) == (sent.json["id"], "hello", 1)
    assert (await ask(app, "POST", f"{queue}/receive")).json == {"messages": []}
    assert (await ask(app, "GET", f"{queue}/messages")).json == {"messages": []}
    assert (await ask(app, "GET", queue)).json["length"] == 1
    wrong = await ask(app, "DELETE", f"{queue}/{deleted(message | {'receipt': 'AgAAAAMAAAAAAAAA'})}")
    assert (wrong.status, wrong.problem["field"]) == (404, "receipt")
    assert (await ask(app, "DELETE", f"{queue}/{deleted(message)}")).status == 204
    assert (await ask(app, "DELETE", f"{queue}/{deleted(message)}")).status == 404
    assert (await ask(app, "GET", queue)).json["length"] == 0


@pytest.mark.parametrize(
    "body",
    [b"text", b"", "naïve\r\n\t\U0001f600".encode(), b"\0\x01", bytes(range(256)), b'{"a": 1}'],
    ids=repr,
)
async def test_a_message_comes_back_as_it_was_sent(app: PlatformApp, queue: str, body: bytes) -> None:
    encoded = {"body": base64.b64encode(body).decode(), "encoding": "base64"}
    assert (await ask(app, "POST", f"{queue}/messages", encoded)).status == 201
    [found] = (await ask(app, "GET", f"{queue}/messages")).json["messages"]
    is_text = found.get("encoding") is None
    assert (found["body"].encode() if is_text else base64.b64decode(found["body"])) == body
    [stored] = await app.storage.backend.queues.peek(queue)
    assert stored.body == body
    if is_text:
        await app.storage.backend.queues.clear(queue)
        assert (await ask(app, "POST", f"{queue}/messages", {"body": body.decode()})).status == 201
        [stored] = await app.storage.backend.queues.peek(queue)
        assert stored.body == body


async def test_what_another_program_sent_unencoded_is_its_text(app: PlatformApp, queue: str) -> None:
    await app.storage.backend.queues.send_text(queue, "not base64!")
    [found] = (await ask(app, "GET", f"{queue}/messages")).json["messages"]
    assert found["body"] == "not base64!"


async def test_several_are_received_at_once(app: PlatformApp, queue: str) -> None:
    for number in range(5):
        await ask(app, "POST", f"{queue}/messages", {"body": str(number), "ttl_seconds": 3600})
    late = {"body": "late", "delay_seconds": 3600, "ttl_seconds": None}
    assert (await ask(app, "POST", f"{queue}/messages", late)).status == 201
    assert len((await ask(app, "GET", f"{queue}/messages?max_messages=32")).json["messages"]) == 5
    first = (await ask(app, "POST", f"{queue}/receive?max_messages=3")).json["messages"]
    rest = (await ask(app, "POST", f"{queue}/receive?max_messages=32")).json["messages"]
    assert sorted(each["body"] for each in first + rest) == ["0", "1", "2", "3", "4"]
    for message in first + rest:
        assert (await ask(app, "DELETE", f"{queue}/{deleted(message, plus=True)}")).status == 204
    assert (await ask(app, "GET", queue)).json["length"] == 1


async def test_a_queue_that_is_not_there_is_not_found(app: PlatformApp, queue: str) -> None:
    for method, target in (
        ("GET", queue),
        ("HEAD", queue),
        ("GET", f"{queue}/messages"),
        ("POST", f"{queue}/receive"),
        ("DELETE", f"{queue}/messages/a?receipt=b"),
    ):
        assert (await ask(app, method, target)).status == 404, (method, target)
    assert (await ask(app, "POST", f"{queue}/receive", {})).status == 404, (
        "a client that always sends an object"
    )


@pytest.mark.parametrize(
    ("method", "target", "document", "field", "status"),
    [
        ("POST", "q-a/messages", {}, "body", 400),
        ("POST", "q-a/messages", {"body": {"a": 1}}, "body", 400),
        ("POST", "q-a/messages", {"body": "YQ", "encoding": "base64"}, "body", 400),
        ("POST", "q-a/messages", {"body": "a", "encoding": "utf-8"}, "encoding", 400),
        ("POST", "q-a/messages", {"body": "a", "delay": 1}, "delay", 400),
        ("POST", "q-a/messages", {"body": "a", "delay_seconds": -1}, "delay_seconds", 400),
        ("POST", "q-a/messages", {"body": "a", "delay_seconds": "1"}, "delay_seconds", 400),
        ("POST", "q-a/messages", {"body": "a", "delay_seconds": 10, "ttl_seconds": 5}, "ttl_seconds", 400),
        ("POST", "q-a/messages", {"body": "a", "ttl_seconds": True}, "ttl_seconds", 400),
        ("POST", "q-a/messages", {"body": "x" * 65537}, "body", 413),
        ("POST", "q-a/receive?max_messages=33", None, "max_messages", 400),
        ("POST", "q-a/receive?visibility_timeout=0", None, "visibility_timeout", 400),
        ("POST", "q-a/receive", {"max_messages": 5}, "body", 400),
        ("POST", "q-a/receive?max_messages=5", [], "body", 400),
        ("GET", "q-a/messages?max_messages=0", None, "max_messages", 400),
        ("GET", "q-a/messages?visibility_timeout=1", None, "visibility_timeout", 400),
        ("DELETE", "q-a/messages/a", None, "receipt", 400),
        ("GET", "q%2Fa", None, "queue", 400),
    ],
)
async def test_what_cannot_be_meant_names_what_is_wrong(
    memory: PlatformApp, method: str, target: str, document: Any, field: str, status: int
) -> None:
    refused = await ask(memory, method, target, document)
    assert (refused.status, refused.problem["field"]) == (status, field)
    assert await memory.storage.backend.queues.list_queues() == []


@pytest.mark.parametrize("name", [TASK_QUEUE, HIGH_QUEUE, POISON_QUEUE, EVENT_QUEUE, f"alpha-{TASK_QUEUE}"])
async def test_the_apps_own_queues_are_read_only(memory: PlatformApp, name: str) -> None:
    """Without a policy everyone may see how the app works, and nobody may change it."""
    queues = memory.storage.backend.queues
    await queues.send(name, "task")
    [message] = await queues.receive(name, visibility_timeout=1)
    await queues.update(name, message, visibility_timeout=0)
    for method, target, document in (
        ("POST", f"{name}/messages", {"body": "a"}),
        ("POST", f"{name}/receive", None),
        ("DELETE", f"{name}/messages/{message.id}?receipt={message.pop_receipt}", None),
    ):
        refused = await ask(memory, method, target, document)
        assert (refused.status, refused.problem["code"]) == (403, "forbidden"), target
        assert "the app's own" in refused.problem["detail"], "no right opens it"
        assert "access policy" not in refused.problem.get("remedy", "")
    assert (await ask(memory, "GET", name)).json["length"] == 1
    assert (await ask(memory, "GET", f"{name}/messages")).json["messages"][0]["body"] == "task"


async def test_a_policy_says_who_uses_which_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may = {"some": {"queues": ["mine"]}, "all": {"queues": ["*"]}, "ops": {"operate": ["*"]}}
    policy = {
        "keys": {name: hashlib.sha256(name.encode()).hexdigest() for name in may},
        "principals": {f"key:{name}": {"may": rights} for name, rights in may.items()},
    }
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(path))
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        queues = app.storage.backend.queues
        for name in ("mine", "others", TASK_QUEUE):
            await queues.send(name, "there")

        async def statuses(key: str | None, name: str) -> list[int]:
            headers = JSON | ({} if key is None else {"x-functions-key": key})
            found: list[int] = []
            for method, target, body in (
                ("GET", name, b""),
                ("GET", f"{name}/messages", b""),
                ("POST", f"{name}/messages", b'{"body": "a"}'),
                ("POST", f"{name}/receive", b""),
                ("DELETE", f"{name}/messages/a?receipt=a", b""),
            ):
                answer = await app(method, f"/api/queues/{target}", body, headers)
                assert answer.status != 403 or b"there" not in answer.body
                found.append(answer.status)
            return found

        fine, none, reads = [200, 200, 201, 200, 404], [403] * 5, [200, 200, 403, 403, 403]
        for name, wanted in (
            ("mine", {"some": fine, "all": fine, "ops": none, None: none}),
            ("others", {"some": none, "all": fine, "ops": none, None: none}),
            ("absent", {"some": none, "ops": none, None: none}),
            (TASK_QUEUE, {"some": none, "all": none, "ops": reads, None: none}),
        ):
            for key, expected in wanted.items():
                assert await statuses(key, name) == expected, (key, name)
