"""`/api/conversations`: what the library knows of conversations, over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_app import AppAnswer, PlatformApp, config_of, serve

JSON = {"Content-Type": "application/json"}
AT = "/api/conversations/boardroom/session_001"


@pytest.fixture(params=["memory", "file"])
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as app:
        yield app


async def sent(app: PlatformApp, method: str, target: str, body: Any, **headers: str) -> AppAnswer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return await app(method, target, json.dumps(body).encode(), JSON | named)


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "ceo", "content": text} for text in texts]}


async def test_a_life_of_a_conversation(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    assert (await app("GET", AT)).problem["code"] == "key-not-found"
    none = await sent(app, "POST", AT, said("one"), If_Match="*")
    assert (none.status, none.problem["field"]) == (412, "If-Match")
    for method, body in (("PATCH", {"topic": "x"}), ("DELETE", None)):  # A 404 without the condition, too.
        assert (await sent(app, method, AT, body, If_Match="*")).status == 404
    edits = AT.replace("conversations", "conversation-edits")
    for body in ({"do": "pop"}, {"do": "clear"}, {"do": "compact", "until": 1, "message": {"summary": "x"}}):
        assert (await sent(app, "POST", edits, body, If_Match="*")).problem["code"] == "key-not-found"
    first = await sent(
        app, "POST", AT, {**said("one"), "participants": ["ceo"], "topic": "t"}, If_Match='"0"'
    )
    assert (first.status, first.json["position"], first.json["added"]) == (200, 1, 1)
    assert first.headers["etag"] == f'"{first.json["etag"]}"'
    stale = await sent(app, "POST", AT, said("x"), If_Match='"0"')
    assert (stale.status, stale.problem["field"]) == (412, "If-Match")
    assert (await sent(app, "POST", AT, said("x"), If_Match='"none"')).status == 412
    assert (await sent(app, "POST", AT, said("two"), If_Match=first.headers["etag"])).json["position"] == 2
    assert (await sent(app, "POST", AT, said("three", "four"), If_Match='"2"')).json["positions"] == [3, 4]

    found = await app("GET", f"{AT}?last=2")
    assert [each["message"]["content"] for each in found.json["entries"]] == ["three", "four"]
    assert (found.json["conversation"]["count"], found.json["conversation"]["topic"]) == (4, "t")
    same = await app("GET", AT, headers={"If-None-Match": found.headers["etag"]})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", found.headers["etag"])
    assert (await app("GET", AT, headers={"If-Match": '"3"'})).status == 412
    assert (await app("GET", AT, headers={"If-Match": '"4"'})).status == 200
    between = await app("GET", f"{AT}?after=1&limit=2")
    assert [each["position"] for each in between.json["entries"]] == [2, 3]

    listed = (await app("GET", "/api/conversations?participant=ceo&prefix=boardroom/")).json
    assert [each["id"] for each in listed["conversations"]] == ["boardroom/session_001"]
    assert (await app("GET", "/api/conversations?topic=none")).json == {"conversations": [], "cursor": None}
    by_query = await app("GET", "/api/conversations?key=boardroom/session_001&last=1")
    assert [each["position"] for each in by_query.json["entries"]] == [4]

    changed = await sent(
        app, "PATCH", AT, {"topic": None, "metadata": {"a": 1}}, If_Match=found.headers["etag"]
    )
    assert (changed.json["topic"], changed.json["metadata"]) == (None, {"a": 1})
    assert (await sent(app, "PATCH", AT, {"topic": "x"}, If_Match=found.headers["etag"])).status == 412

    popped = await sent(app, "POST", edits, {"do": "pop"}, If_Match='"4"')
    assert (popped.json["entry"]["message"]["content"], popped.json["conversation"]["count"]) == ("four", 3)
    compacted = await sent(
        app, "POST", edits, {"do": "compact", "until": 2, "message": {"summary": "1 and 2"}}
    )
    assert (compacted.json["removed"], compacted.json["entry"]["position"]) == (2, 2)
    copy = await sent(app, "POST", edits, {"do": "fork", "to": "boardroom/copy"})
    assert (copy.status, copy.headers["location"]) == (201, "/api/conversations/boardroom/copy")
    assert (await sent(app, "POST", edits, {"do": "fork", "to": "boardroom/copy"})).status == 412
    cleared = await sent(app, "POST", edits, {"do": "clear"})
    assert (cleared.json["removed"], cleared.json["conversation"]["position"]) == (2, 4)
    read = (await app("GET", copy.headers["location"])).json["entries"]
    assert [each["message"] for each in read] == [{"summary": "1 and 2"}, said("three")["messages"][0]]

    assert (await app("DELETE", AT, headers={"If-Match": '"3"'})).status == 412
    assert (await app("DELETE", AT, headers={"If-Match": '"4"'})).status == 204
    assert (await app("DELETE", AT)).status == 404


async def test_an_append_may_be_sent_again(app: PlatformApp) -> None:
    body = {"messages": [{"id": "m1", "n": 1}, {"n": 2}]}
    first = await sent(app, "POST", AT, body, If_Match='"0"', Idempotency_Key="k1")
    again = await sent(app, "POST", AT, body, If_Match='"0"', Idempotency_Key="k1")
    assert (again.status, again.json["positions"], again.json["added"]) == (200, [1, 2], 0)
    assert again.json["ids"] == first.json["ids"]
    other = await sent(app, "POST", AT, {"messages": [{"id": "m1", "n": 1}, {"n": 2}]}, Idempotency_Key="k2")
    assert (other.json["positions"], other.json["added"]) == ([1, 3], 1)
    named = {"messages": [{"n": 3}, {"n": 4}], "ids": [None, "m4"]}
    third = await sent(app, "POST", AT, named, Idempotency_Key="k3")
    assert (await sent(app, "POST", AT, named, Idempotency_Key="k3")).json["ids"] == third.json["ids"]
    numbered = {"messages": [{"id": 7, "n": 5}]}
    fourth = await sent(app, "POST", AT, numbered, Idempotency_Key="k4")
    assert (fourth.json["ids"], (await sent(app, "POST", AT, numbered)).json["added"]) == (["7"], 0)
    clash = await sent(app, "POST", AT, {"messages": [{"id": "m1", "n": 5}]})
    assert (clash.status, clash.problem["field"]) == (412, "messages[0].id")


@pytest.mark.parametrize(
    ("target", "body", "status", "field"),
    [
        (AT, {}, 400, "messages"),
        (AT, {"messages": "x"}, 400, "messages"),
        (AT, {"messages": [1]}, 400, "messages[0]"),
        (AT, {"messages": [], "topics": "x"}, 400, None),
        (AT, {"messages": [], "participants": [1]}, 400, "participants[0]"),
        (AT, {"messages": [], "ttl_seconds": -1}, 400, "ttl_seconds"),
        ("/api/conversations/.system/x", {"messages": []}, 400, "key"),
        ("/api/conversation-edits/c", {"do": "x"}, 400, "do"),
        ("/api/conversation-edits/c", {"do": "fork"}, 400, "to"),
        ("/api/conversation-edits/c", {"do": "pop", "to": "x"}, 400, None),
        ("/api/conversation-edits/c", {"do": "compact", "until": "1", "message": {}}, 400, "until"),
        ("/api/conversation-edits/c", {"do": "fork", "to": "a//b"}, 400, None),
    ],
    ids=str,
)
async def test_what_cannot_be_is_refused(
    app: PlatformApp, target: str, body: Any, status: int, field: str | None
) -> None:
    answer = await sent(app, "POST", target, body)
    assert answer.status == status, answer.body
    assert field is None or answer.problem["field"] == field
    assert (await app("GET", "/api/conversations")).json["conversations"] == []


async def test_queries_are_of_a_list_or_of_a_conversation(app: PlatformApp) -> None:
    for target, field in (
        ("/api/conversations?last=1", "last"),
        ("/api/conversations?key=a&topic=x", "topic"),
        (f"{AT}?last=1&limit=1", "limit"),
        (f"{AT}?last=1001", "last"),
        ("/api/conversations?limit=0", "limit"),
        ("/api/conversations?cursor=x", "cursor"),
    ):
        answer = await app("GET", target)
        assert (answer.status, answer.problem["field"]) == (400, field), target


async def test_its_table_is_nobodys_to_change(app: PlatformApp) -> None:
    await sent(app, "POST", AT, said("one"))
    own = {"PartitionKey": "p", "RowKey": "r"}
    assert (await sent(app, "POST", "/api/tables/conversationlog", own)).status == 403
    assert (await sent(app, "POST", "/api/tables/conversations", own)).status == 201
