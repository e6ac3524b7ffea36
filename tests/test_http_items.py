"""JSON of many small items, which takes long to build: no request holds up the others by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from functions.bodies import ITEM_BYTES, MAX_ITEMS, MAX_RAW_ITEMS
from storage_lib.json_text import has_more_items
from storage_lib.tasks import registry
from storage_lib.tasks.context import TaskContext
from tests.http_app import AppAnswer, PlatformApp
from tests.test_mcp import message

JSON = {"Content-Type": "application/json"}
SHAPES: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda n: b"[" + b"[]," * n + b"0]",
    "empty objects": lambda n: b"[" + b"{}," * n + b"0]",
    "deep lists": lambda n: b"[" + (b"[" * 50 + b"]" * 50 + b",") * (n // 50 + 1) + b"0]",
    "names": lambda n: b"{" + b",".join(b'"%x":1' % i for i in range(n)) + b"}",
    "objects of one": lambda n: b"[" + b'{"":0},' * (n // 2 + 1) + b"0]",
}


async def posted(app: PlatformApp, route: str, value: bytes) -> AppAnswer:
    """Send a value to where a route takes one."""
    method, target, body, headers = {
        "tasks": (
            "POST",
            "/api/tasks",
            b'{"action":"analyze_report","agent_id":"a","payload":{"x":' + value + b"}}",
            JSON,
        ),
        "many tasks": ("POST", "/api/tasks", b'{"tasks":' + value + b"}", JSON),
        "conversations": (
            "POST",
            "/api/conversations/c/messages",
            b'{"messages":[{"role":"user","x":' + value + b"}]}",
            JSON,
        ),
        "tables": ("POST", "/api/tables/t", b'{"x":' + value + b"}", JSON),
        "queues": ("POST", "/api/queues/q/messages", b'{"x":' + value + b"}", JSON),
        "touch": ("PATCH", "/api/objects/o", b'{"metadata":' + value + b"}", JSON),
        "merge": (
            "PATCH",
            "/api/objects/o",
            b'{"x":' + value + b"}",
            {"Content-Type": "application/merge-patch+json"},
        ),
        "links": ("POST", "/api/links/o", b'{"method":' + value + b"}", JSON),
        "uploads": ("POST", "/api/uploads/o", b'{"metadata":' + value + b"}", JSON),
        "prefixes": ("POST", "/api/prefixes/delete", b'{"prefix":' + value + b"}", JSON),
        "batch": (
            "POST",
            "/api/batch",
            b'{"operations":[{"op":"save","key":"b","value":' + value + b"}]}",
            JSON,
        ),
        "mcp": _call(value),
    }[route]
    return await app(method, target, body, headers)


def _call(value: bytes) -> tuple[str, str, bytes, dict[str, str]]:
    body, headers = message("tools/call", {"name": "save_object", "arguments": {"key": "m", "value": "V"}})
    return "POST", "/api/mcp", body.replace(b'"V"', value), headers


ROUTES = [
    "tasks",
    "many tasks",
    "conversations",
    "tables",
    "queues",
    "touch",
    "merge",
    "links",
    "uploads",
    "prefixes",
    "batch",
    "mcp",
]


@pytest.mark.parametrize("route", ROUTES)
async def test_a_body_of_too_many_items_is_refused_unread(route: str, platform: PlatformApp) -> None:
    most = MAX_RAW_ITEMS if route == "batch" else MAX_ITEMS
    for name, made in SHAPES.items():
        if (route, name) == ("batch", "names"):
            continue  # So few in their bytes that a batch may have them up to its limit.
        is_fixed = route in ("merge", "mcp")
        value = made(most + 1 if is_fixed else 3 * most if name == "names" else 2 * most)
        problem = (await posted(platform, route, value)).problem
        assert (problem["status"], problem["code"], problem["field"]) == (413, "object-too-large", "body")
        told = int(problem["limit"].removesuffix(" of them together").replace(",", ""))
        more = 0 if is_fixed else len(value) // ITEM_BYTES
        assert most + more <= told <= most + more + 20
        assert problem["remedy"]


async def test_ordinary_documents_are_taken_up_to_the_limit_of_their_bytes(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many messages, and as many tasks, as a request may have."""
    registry.Registry(["actions"]).names()
    monkeypatch.setattr(registry, "_actions", dict(registry._actions))  # pyright: ignore[reportPrivateUsage]

    @registry.task("anything")
    async def anything(context: TaskContext, payload: Any) -> Any:
        return payload

    assert anything
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"q": 1}'}}
    turn = {"role": "assistant", "content": "Let me look that up.", "tool_calls": [call]}
    messages = json.dumps({"messages": [turn] * 5000}).encode()
    answer = await platform("POST", "/api/conversations/c/messages", messages, JSON)
    assert answer.status == 200, answer.body
    payload = {f"field_{n}": n for n in range(100)}
    task = {"action": "anything", "agent_id": "a", "payload": payload}
    answer = await posted(platform, "many tasks", json.dumps([task] * 500).encode())
    assert answer.status == 202, answer.body


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_object_of_its_own_may_have_any_number_of_items(shape: str, platform: PlatformApp) -> None:
    body = SHAPES[shape](MAX_ITEMS + 1)
    assert (await platform("PUT", "/api/objects/o", body, JSON)).status == 201
    assert (await platform("GET", "/api/objects/o")).body == body


async def test_as_many_items_as_are_allowed_are_taken_everywhere(platform: PlatformApp) -> None:
    value = b"[" + b"[]," * (MAX_ITEMS - 200) + b"0]"
    assert (await posted(platform, "conversations", value)).status == 200
    assert (await posted(platform, "mcp", value)).json["result"]["structuredContent"]["status"] == 201
    assert (await posted(platform, "merge", value)).status == 404
    assert (await platform("PUT", "/api/objects/o", b"{}", JSON)).status == 201
    assert (await posted(platform, "merge", value)).status == 200
    assert (await platform("GET", "/api/objects/o")).body == b'{"x":' + value + b"}"


async def test_brackets_within_texts_are_no_items(platform: PlatformApp) -> None:
    text = '[a](b): {"c": \\"d\\"} \\\\' * MAX_ITEMS
    value = json.dumps(text).encode()
    assert (await posted(platform, "conversations", value)).status == 200
    batch = await posted(platform, "batch", value)
    assert batch.json["results"][0]["status"] == 201
    assert json.loads((await platform("GET", "/api/objects/b")).body) == text


@pytest.mark.parametrize("more", [0, 5_000], ids=["few", "many"])
@pytest.mark.parametrize("size", [1, 20_000], ids=["small", "large"])
async def test_unknown_names_of_a_batch_are_refused(size: int, more: int, platform: PlatformApp) -> None:
    others = b"".join(b',"name %06d":1' % i for i in range(more))
    unknown = b'"valeu":"' + b"x" * size + b'"' + others
    problem = (await platform("POST", "/api/batch", b'{"operations":[],' + unknown + b"}", JSON)).problem
    assert (problem["status"], problem["code"], problem["field"]) == (400, "invalid-argument", "valeu")
    assert (problem["limit"], problem["remedy"]) == ("operations", "leave it out")
    operation = b'{"op":"save","key":"k",' + unknown + b"}"
    answer = await platform("POST", "/api/batch", b'{"operations":[' + operation + b"]}", JSON)
    (result,) = answer.json["results"]
    assert (result["status"], result["problem"]["field"]) == (400, "valeu")
    assert result["problem"]["detail"] == "unknown field of save 'valeu'"
    assert result["problem"]["remedy"] == "did you mean 'value'?"


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ({"a": [1, {"b": "[{:"}], "c": 'x"[y\\'}, 6),
        ([], 1),
        ([[[]]], 3),
        ({"[": {"{": ":"}}, 4),
        ("[{:" * 10, 0),
        ({"": ""}, 2),
        (['\\"[', "\\", "[\\"], 1),
    ],
    ids=repr,
)
def test_items_are_lists_objects_and_names(value: Any, items: int) -> None:
    # White space, so that the text is long enough to be counted.
    text = json.dumps(value).encode() + b" " * 100
    assert not has_more_items(text, items)
    assert items == 0 or has_more_items(text, items - 1)
