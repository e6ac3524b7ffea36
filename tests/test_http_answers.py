"""Every answer is whole as the function gives it: the host repairs nothing. `PlatformApp` checks the lengths,
names and values of each one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from functions import state as state_module
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    InvalidArgumentError,
    StorageUnavailableError,
)
from tests.http_app import AppAnswer, PlatformApp

JSON = {"Content-Type": "application/json"}
TASK = b'{"action": "analyze_report", "agent_id": "ceo", "payload": {"report": "r"}}'


async def with_contents(platform: PlatformApp) -> str:
    """An object ``a/b`` and a task; the task's id."""
    await platform(
        "PUT", "/api/objects/a/b", b"12345", {"Content-Type": "text/plain", "x-meta-author": "Zo%C3%AB"}
    )
    return (await platform("POST", "/api/tasks", TASK, JSON)).json["task_id"]


async def test_every_route_answers_whole(platform_anywhere: PlatformApp) -> None:
    platform = platform_anywhere
    task_id = await with_contents(platform)
    seen = set[str]()
    for method, target, status in (
        ("PUT", "/api/objects/new", 201),
        ("PUT", "/api/objects/new", 200),
        ("PUT", "/api/objects?key=new2", 201),
        ("PUT", "/api/objects/a//b", 400),
        ("GET", "/api/objects/a/b", 200),
        ("HEAD", "/api/objects/a/b", 200),
        ("GET", "/api/objects/none", 404),
        ("HEAD", "/api/objects/none", 404),
        ("GET", "/api/objects", 200),
        ("HEAD", "/api/objects", 200),
        ("GET", "/api/objects?limit=0", 400),
        ("PATCH", "/api/objects/new", 200),
        ("PATCH", "/api/objects?key=new2", 200),
        ("PATCH", "/api/objects/none", 404),
        ("DELETE", "/api/objects/new", 204),
        ("DELETE", "/api/objects/new", 404),
        ("DELETE", "/api/objects?key=new2", 204),
        ("POST", "/api/tasks", 202),
        ("GET", "/api/tasks", 200),
        ("HEAD", "/api/tasks", 200),
        ("GET", f"/api/tasks/{task_id}", 200),
        ("HEAD", f"/api/tasks/{task_id}", 200),
        ("GET", "/api/tasks/nobody", 404),
        ("HEAD", "/api/tasks/nobody", 404),
        ("POST", f"/api/tasks/{task_id}/cancel", 200),
        ("POST", f"/api/tasks/{task_id}/requeue", 202),
        ("POST", f"/api/tasks/{task_id}/requeue", 409),
        ("DELETE", f"/api/tasks/{task_id}", 409),
        ("DELETE", "/api/tasks/nobody", 404),
        ("GET", "/api/tasks/counts", 200),
        ("HEAD", "/api/tasks/counts", 200),
        ("POST", "/api/tasks/cancel", 200),
        ("POST", "/api/tasks/requeue", 200),
        ("GET", "/api/actions", 200),
        ("HEAD", "/api/actions", 200),
        ("GET", "/api/health/live", 200),
        ("HEAD", "/api/health/live", 200),
        ("GET", "/api/health/ready", 200),
        ("HEAD", "/api/health/ready", 200),
        ("POST", "/api/batch", 200),
        ("POST", "/api/prefixes/copy", 200),
        ("POST", "/api/prefixes/move", 200),
        ("POST", "/api/prefixes/delete", 200),
        ("POST", "/api/versions/a/b", 201),
        ("POST", "/api/versions?key=a/b", 201),
        ("GET", "/api/versions/a/b", 200),
        ("HEAD", "/api/versions?key=a/b", 200),
        ("GET", "/api/versions/a/b?version=1", 200),
        ("GET", "/api/versions/a/b?version=none", 404),
        ("HEAD", "/api/versions/a/b?version=none", 404),
        ("PATCH", "/api/versions/a/b", 200),
        ("PATCH", "/api/versions?key=a/b", 200),
        ("DELETE", "/api/versions/a/b?keep_last=1", 200),
        ("DELETE", "/api/versions?key=a/b&keep_last=1", 200),
        ("POST", "/api/conversations/a/b", 200),
        ("POST", "/api/conversations?key=c", 200),
        ("GET", "/api/conversations/a/b", 200),
        ("HEAD", "/api/conversations/a/b", 200),
        ("GET", "/api/conversations/none", 404),
        ("GET", "/api/conversations", 200),
        ("HEAD", "/api/conversations?key=a/b", 200),
        ("PATCH", "/api/conversations/a/b", 200),
        ("PATCH", "/api/conversations?key=c", 200),
        ("POST", "/api/conversation-edits/a/b", 200),
        ("POST", "/api/conversation-edits?key=none", 404),
        ("DELETE", "/api/conversations/a/b", 204),
        ("DELETE", "/api/conversations?key=c", 204),
        ("POST", "/api/tables/runs", 201),
        ("PUT", "/api/tables/runs/p/r", 200),
        ("PATCH", "/api/tables/runs/p/r", 200),
        ("PUT", "/api/tables/runs?partition=p&row=r", 200),
        ("PATCH", "/api/tables/runs?partition=p&row=r", 200),
        ("GET", "/api/tables/runs", 200),
        ("HEAD", "/api/tables/runs", 200),
        ("GET", "/api/tables/runs/p/r", 200),
        ("HEAD", "/api/tables/runs/p/r", 200),
        ("DELETE", "/api/tables/runs/p/r", 204),
        ("DELETE", "/api/tables/runs?partition=p&row=r", 404),
        ("POST", "/api/queues/runs/messages", 201),
        ("GET", "/api/queues/runs/messages", 200),
        ("HEAD", "/api/queues/runs/messages", 200),
        ("GET", "/api/queues/runs", 200),
        ("HEAD", "/api/queues/runs", 200),
        ("POST", "/api/queues/runs/receive", 200),
        ("DELETE", "/api/queues/runs/messages/a?receipt=b", 404),
        ("POST", "/api/links/a/b", 201),
        ("POST", "/api/links?key=a/b", 201),
        ("GET", "/api/signed/a/b", 403),
        ("HEAD", "/api/signed/a/b", 403),
        ("PUT", "/api/signed/a/b", 403),
        ("GET", "/api/signed?key=a/b", 403),
        ("PUT", "/api/signed?key=a/b", 403),
        ("POST", "/api/uploads/new", 201),
        ("POST", "/api/uploads?key=new", 201),
        ("GET", "/api/uploads", 200),
        ("HEAD", "/api/uploads", 200),
        ("PUT", "/api/uploads/new?upload_id=none&part=1", 404),
        ("PUT", "/api/uploads?key=new&upload_id=none&part=1", 404),
        ("GET", "/api/uploads/new?upload_id=none", 404),
        ("DELETE", "/api/uploads/new?upload_id=none", 404),
        ("DELETE", "/api/uploads?key=new&upload_id=none", 404),
        ("POST", "/api/mcp", 200),
        ("GET", "/api/mcp", 405),
        ("HEAD", "/api/mcp", 405),
        ("DELETE", "/api/mcp", 405),
        ("GET", "/api/metrics", 501),  # They are off.
        ("HEAD", "/api/metrics", 501),
        ("GET", "/api/sizes", 200),
        ("HEAD", "/api/sizes?limit=1", 200),
        ("GET", "/api/openapi.json", 200),
        ("HEAD", "/api/docs", 200),
        ("GET", "/api/tables", 200),
        ("HEAD", "/api/tables", 200),
        ("GET", "/api/queues", 200),
        ("HEAD", "/api/queues", 200),
        ("GET", "/api/me", 200),
        ("HEAD", "/api/me", 200),
        ("GET", "/api/console", 200),
        ("GET", "/api/console/console.js", 200),
        ("GET", "/api/console/none.js", 404),
    ):
        bodies = {
            "POST /api/tasks": TASK,
            "POST /api/batch": b'{"operations": [{"op": "exists", "key": "a/b"}]}',
            "POST /api/mcp": b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}',
            "POST /api/prefixes/copy": b'{"prefix": "a/", "to": "c/"}',
            "POST /api/prefixes/move": b'{"prefix": "c/", "to": "d/"}',
            "POST /api/prefixes/delete": b'{"prefix": "d/"}',
            "POST /api/tasks/cancel": b'{"action": "none"}',
            "POST /api/tasks/requeue": b'{"action": "none"}',
            "POST /api/tables/runs": b'{"PartitionKey": "p", "RowKey": "r"}',
            "POST /api/conversations/a/b": b'{"messages": [{"role": "ceo"}]}',
            "POST /api/conversations?key=c": b'{"messages": []}',
            "POST /api/conversation-edits/a/b": b'{"do": "pop"}',
            "POST /api/conversation-edits?key=none": b'{"do": "clear"}',
            "POST /api/queues/runs/messages": b'{"body": "a"}',
            "POST /api/links/a/b": b'{"method": "GET"}',
            "POST /api/links?key=a/b": b'{"method": "GET"}',
        }
        of_method = {"PUT": b"{}" if "/tables/" in target else b"x", "PATCH": b"{}"}
        body = bodies.get(f"{method} {target}") or of_method.get(method, b"")
        answer = await platform(method, target, body, JSON if body.startswith(b"{") else {})
        assert answer.status == status, (method, target, answer)
        assert answer.headers["x-content-type-options"] == "nosniff"
        is_object = method in ("GET", "HEAD") and status == 200
        is_object &= target.startswith(("/api/objects/", "/api/tables/runs/")) or "version=" in target
        if status != 204:
            stays = ("openapi_document", "docs_page", "console_page", "console_asset")
            is_kept = is_object or (answer.function in stays and status == 200)
            wanted = "private, no-cache" if is_kept else "no-store"
            assert answer.headers["cache-control"] == wanted
        seen.add(answer.function)
    assert seen == {function.name for function in platform.functions}


@pytest.mark.parametrize(
    "target",
    [
        "/api/objects/a/b",
        "/api/objects?key=a/b",
        "/api/objects?prefix=a/",
        "/api/objects?limit=x",
        "/api/objects/none",
        "/api/objects/..%2f",
        "/api/tasks",
        "/api/tasks/{id}",
        "/api/tasks/none",
        "/api/tasks?limit=x",
        "/api/health/live",
        "/api/health/ready",
        "/api/metrics",
    ],
)
async def test_head_is_get_without_the_body(platform: PlatformApp, target: str) -> None:
    target = target.replace("{id}", await with_contents(platform))
    got, headed = await platform("GET", target), await platform("HEAD", target)
    assert (headed.status, dict(headed.headers), headed.body) == (got.status, dict(got.headers), b"")
    assert int(headed.headers["content-length"]) == len(got.body) > 0


async def test_every_get_route_declares_head(platform: PlatformApp) -> None:
    declared: dict[str, set[str]] = {}
    for function in platform.functions:
        declared.setdefault(str(function.trigger["route"]), set()).update(function.trigger["methods"])
    assert all("HEAD" in methods for methods in declared.values() if "GET" in methods)


async def test_what_another_program_named_is_sent_as_ascii(platform: PlatformApp, monkeypatch: Any) -> None:
    """Its texts are not ours to refuse: the object is served."""
    await with_contents(platform)
    objects = platform.storage.backend.objects
    plain = objects._presented

    def foreign(info: Any) -> Any:
        from dataclasses import replace

        metadata = {"Under_Score": "ü\n", "under_score": "2", "naïve": "x", "a b": "\u2028"}
        return replace(plain(info), content_type="text/plain; n=ü\r\n\x7f", metadata=metadata, etag="é")

    monkeypatch.setattr(objects, "_presented", foreign)
    for method in ("GET", "HEAD"):
        answer = await platform(method, "/api/objects/a/b")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; n=%C3%BC%0D%0A%7F"
        assert answer.headers["x-meta-under_score"] == "%C3%BC%0A"
        assert answer.headers["x-meta-na%c3%afve"] == "x"
        assert answer.headers["etag"] == '"%C3%A9"'


# -- bodies


@pytest.mark.parametrize(
    "announced",
    [{"Transfer-Encoding": "chunked"}, {"Transfer-Encoding": "gzip, chunked"}, {"Content-Length": "5"}],
)
@pytest.mark.parametrize(
    ("method", "target"),
    [("PUT", "/api/objects/a/b"), ("PUT", "/api/objects?key=a/b"), ("POST", "/api/tasks")],
)
async def test_a_body_that_can_not_have_come_is_refused(
    platform_anywhere: PlatformApp, announced: dict[str, str], method: str, target: str
) -> None:
    platform = platform_anywhere
    await with_contents(platform)
    tasks = (await platform("GET", "/api/tasks")).body
    for headers in (announced, announced | JSON, announced | {"If-Match": "*"}):
        answer = await platform(method, target, b"", headers)
        assert (answer.status, answer.problem["code"]) == (411, "length-required")
        assert answer.problem["field"] in announced
        assert "Content-Length" in answer.problem["remedy"]
    assert (await platform("GET", "/api/objects/a/b")).body == b"12345"
    assert (await platform("GET", "/api/tasks")).body == tasks


async def test_an_empty_body_that_says_so_is_taken(platform: PlatformApp) -> None:
    for headers in ({}, {"Content-Length": "0"}):
        assert (await platform("PUT", "/api/objects/empty", b"", headers)).status in (200, 201)
    task_id = await with_contents(platform)
    for route in ("cancel", "requeue"):  # they take no body
        target = f"/api/tasks/{task_id}/{route}"
        assert (await platform("POST", target, b"", {"Transfer-Encoding": "chunked"})).status in (200, 202)


@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff\0"])
async def test_a_body_that_the_host_parses_has_a_lower_limit(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch, before: bytes
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_MAX_JSON_BYTES", "1000")
    body = before + b"{" + b"x" * 1000
    for content_type in ("application/octet-stream", "text/csv"):
        answer = await platform("PUT", "/api/objects/large", body, {"Content-Type": content_type})
        assert (answer.status, answer.problem["code"], answer.problem["field"]) == (
            413,
            "object-too-large",
            "body",
        )
        assert answer.problem["limit"].startswith("1000 bytes")
        assert "AGENT_STORAGE_MAX_JSON_BYTES" in answer.problem["remedy"]
    assert (await platform("PUT", "/api/objects/large", body[:1000])).status == 201
    for other in (b"[" + body, b"x" * 2000, b" " * 2000):
        assert (await platform("PUT", "/api/objects/large", other)).status == 200


async def test_the_remedy_for_many_tasks_is_fewer(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_MAX_JSON_BYTES", "100")
    answer = await platform("POST", "/api/tasks", TASK + b" " * 100, JSON)
    assert answer.status == 413
    assert answer.problem["remedy"].startswith("submit fewer tasks")


async def test_the_limit_of_such_bodies_is_4_mib_unless_it_is_set(platform_anywhere: PlatformApp) -> None:
    platform = platform_anywhere
    for size, status in ((4 * 1024 * 1024, 201), (4 * 1024 * 1024 + 1, 413)):
        body = b'{"a": "' + b"x" * (size - 9) + b'"}'
        assert (await platform("PUT", "/api/objects/large", body, JSON)).status == status


async def test_a_byte_order_mark_is_no_part_of_json(platform: PlatformApp) -> None:
    for body in (TASK, b"\xef\xbb\xbf" + TASK):
        assert (await platform("POST", "/api/tasks", body, JSON)).status == 202
        assert (await platform("PUT", "/api/objects/bom", body, JSON)).status in (200, 201)
        assert (await platform("GET", "/api/objects/bom")).body == body


@pytest.mark.parametrize(
    ("coding", "taken"),
    [("", True), (" ", True), ("identity", True), ("Identity, ,identity", True), (",", True)]
    + [(each, False) for each in ("gzip", "GZIP", "identity, gzip", "br,", "aws-chunked", "x\ud800", "*")],
)
async def test_content_encodings(platform: PlatformApp, coding: str, taken: bool) -> None:
    headers = JSON | {"Content-Encoding": coding}
    put = await platform("PUT", "/api/objects/coded", TASK, headers)
    posted = await platform("POST", "/api/tasks", TASK, headers)
    if taken:
        assert (put.status, posted.status) == (201, 202)
        assert "content-encoding" not in (await platform("GET", "/api/objects/coded")).headers
    else:
        for answer in (put, posted):
            assert (answer.status, answer.problem["field"]) == (415, "Content-Encoding")
        assert (await platform("GET", "/api/objects/coded")).status == 404


@pytest.mark.parametrize("ttl", [".5", "5.", "5.0", "0005", " 5 ", "5.123456789", "3153600000"])
async def test_times_to_live(platform: PlatformApp, ttl: str) -> None:
    assert (await platform("PUT", "/api/objects/short", b"x", {"x-ttl-seconds": ttl})).status == 201


@pytest.mark.parametrize(
    "ttl", ["", ".", "-1", "+5", "1e3", "5,5", "0x5", "inf", "nan", "\u0665", "3153600001", "1_0", "5 5"]
)
async def test_what_is_no_time_to_live(platform: PlatformApp, ttl: str) -> None:
    answer = await platform("PUT", "/api/objects/short", b"x", {"x-ttl-seconds": ttl})
    assert (answer.status, answer.problem["field"]) == (400, "x-ttl-seconds")
    assert answer.problem["detail"].startswith("x-ttl-seconds is '")
    assert "seconds" in answer.problem["limit"]
    assert (await platform("HEAD", "/api/objects/short")).status == 404


# -- names that nobody knows


@pytest.mark.parametrize(
    ("method", "target", "field", "nearest"),
    [
        ("GET", "/api/objects?prefx=a", "prefx", "prefix"),
        ("GET", "/api/objects?Limit=5", "Limit", "limit"),
        ("GET", "/api/objects?page=5", "page", None),
        ("GET", "/api/objects/a/b?versionid=5", "versionid", None),
        ("HEAD", "/api/objects/a/b?x=5", "x", None),
        ("PUT", "/api/objects/a/b?ttl=5", "ttl", None),
        ("DELETE", "/api/objects/a/b?recursive=1", "recursive", None),
        ("PUT", "/api/objects?kex=a", "kex", "key"),
        ("POST", "/api/tasks?wait=1", "wait", None),
        ("GET", "/api/tasks?agent=ceo", "agent", "agent_id"),
        ("GET", "/api/tasks?Status=dead", "Status", "status"),
        ("GET", "/api/tasks/x?waits=1", "waits", "wait"),
        ("POST", "/api/tasks/x/cancel?force=1", "force", None),
        ("POST", "/api/tasks/x/requeue?force=1", "force", None),
        ("GET", "/api/health/live?x=1", "x", None),
        ("GET", "/api/health/ready?x=1", "x", None),
        # The host hands over no parameter that has no value.
        ("GET", "/api/objects?prefx=", "prefx", "prefix"),
        ("GET", "/api/objects?limit=5&recursive", "recursive", None),
        ("DELETE", "/api/objects/a/b?dry_run", "dry_run", None),
        ("GET", "/api/tasks?agent=&status=dead", "agent", "agent_id"),
    ],
)
async def test_an_unknown_query_parameter_is_refused(
    platform: PlatformApp, method: str, target: str, field: str, nearest: str | None
) -> None:
    await with_contents(platform)
    answer = await platform(method, target, b"x")
    assert answer.status == 400
    if method != "HEAD":
        assert (answer.problem["code"], answer.problem["field"]) == ("invalid-argument", field)
        assert field in answer.problem["detail"]
        assert (f"{nearest!r}" if nearest else "leave it out") in answer.problem["remedy"]
    assert (await platform("GET", "/api/objects/a/b")).body == b"12345"


@pytest.mark.parametrize("query", ["key=", "key", "code=secret&key="])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_empty_key_is_no_listing(platform: PlatformApp, method: str, query: str) -> None:
    answer = await platform(method, f"/api/objects?{query}", b"x")
    assert (answer.status, answer.problem["code"], answer.problem["field"]) == (400, "invalid-key", "key")


@pytest.mark.parametrize("target", ["/api/objects/a/b", "/api/objects/none"])
async def test_a_malformed_condition_is_refused_whatever_is_there(platform: PlatformApp, target: str) -> None:
    await with_contents(platform)
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        assert (await platform(method, target, b"x", {"If-Match": "a"})).status == 400


async def test_the_names_of_the_host_are_known(platform: PlatformApp) -> None:
    for query in ("code=secret", "CODE=secret&clientId=default"):
        assert (await platform("GET", f"/api/objects?{query}")).status == 200
        assert (await platform("PUT", f"/api/objects/a?{query}", b"x")).status in (200, 201)


@pytest.mark.parametrize(
    ("fields", "field", "nearest"),
    [
        ({"acton": "x"}, "acton", "action"),
        ({"Priority": "high"}, "Priority", "priority"),
        ({"delay": 3}, "delay", "delay_seconds"),
        ({"zzz": 3}, "zzz", None),
        ({"x\u2028y": 3}, "x\\u2028y", None),
    ],
)
async def test_an_unknown_field_is_refused(
    platform: PlatformApp, fields: dict[str, Any], field: str, nearest: str | None
) -> None:
    task = json.loads(TASK) | fields
    for document, where in ((task, field), ({"tasks": [json.loads(TASK), task]}, f"tasks[1].{field}")):
        answer = await platform("POST", "/api/tasks", json.dumps(document).encode(), JSON)
        assert (answer.status, answer.problem["field"]) == (400, where)
        assert (f"{nearest!r}" if nearest else "leave it out") in answer.problem["remedy"]
    assert (await platform("GET", "/api/tasks")).json["tasks"] == []


@pytest.mark.parametrize(
    ("payload", "field", "nearest"),
    [
        ({"report": "r", "outptu": "x"}, "payload.outptu", "output"),
        ({"report": "r", "Overwrite": True}, "payload.Overwrite", "overwrite"),
        ({"report": "r", "zzz": None}, "payload.zzz", None),
    ],
)
async def test_an_unknown_field_of_a_payload_is_refused(
    platform: PlatformApp, payload: dict[str, Any], field: str, nearest: str | None
) -> None:
    task = json.loads(TASK) | {"payload": payload}
    for document, where in ((task, field), ({"tasks": [task]}, f"tasks[0].{field}")):
        answer = await platform("POST", "/api/tasks", json.dumps(document).encode(), JSON)
        assert (answer.status, answer.problem["field"]) == (400, where)
        assert (f"{nearest!r}" if nearest else "leave it out") in answer.problem["remedy"]
    assert (await platform("GET", "/api/tasks")).json["tasks"] == []


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/api/objects?prefix=a&prefix=b", "prefix"),
        ("/api/objects?prefix=&Prefix=b", "prefix"),
        ("/api/objects?key=a&%6Bey=b", "key"),
        ("/api/tasks?status=dead&limit=1&status=queued", "status"),
    ],
)
async def test_a_parameter_is_given_once(platform: PlatformApp, target: str, field: str) -> None:
    """The host joins them by a comma, which would be another value."""
    answer = await platform("GET", target)
    assert (answer.status, answer.problem["field"], answer.problem["remedy"]) == (400, field, "give it once")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("agent_id", "%00"),
        ("agent_id", "x" * 129),
        ("action", "A-B"),
        ("parent_id", "a%2Fb"),
        ("status", "x"),
    ],
)
async def test_a_filter_that_no_task_can_meet_is_refused(
    platform: PlatformApp, name: str, value: str
) -> None:
    answer = await platform("GET", f"/api/tasks?{name}={value}")
    assert (answer.status, answer.problem["field"]) == (400, name)
    assert answer.problem["limit"]


async def test_a_cursor_of_another_listing_is_refused(platform: PlatformApp) -> None:
    for n in range(3):
        await platform("PUT", f"/api/objects/a/{n}", b"x")
        await platform("PUT", f"/api/objects/b/{n}", b"x")
        await platform("POST", "/api/tasks", TASK, JSON)
    for route, queries in (
        ("objects", ["", "prefix=a/", "prefix=b/", "prefix=a/&delimiter=/"]),
        (
            "tasks",
            ["", "agent_id=ceo", "status=queued", "agent_id=ceo&status=queued", "created_after=2001-01-01"],
        ),
    ):
        cursors = [
            (await platform("GET", f"/api/{route}?limit=1&{query}")).json["cursor"] for query in queries
        ]
        assert all(cursors)
        for query in queries:
            for given_by, cursor in zip(queries, cursors, strict=True):
                answer = await platform("GET", f"/api/{route}?{query}&cursor={cursor}")
                if given_by == query:
                    assert len(answer.json[route]) > 0
                else:
                    assert (answer.status, answer.problem["field"]) == (400, "cursor")
                    assert "filters" in answer.problem["remedy"]


# -- problems


@pytest.mark.parametrize(
    ("error", "status", "told", "hidden"),
    [
        (
            StorageUnavailableError(
                "the data folder is gone: '/srv/my data/objects' and /srv/x: were there",
                remedy="mount '/srv/x y'",
            ),
            503,
            "the data folder is gone",
            ("/srv", "/objects"),
        ),
        (
            AccessDeniedError("object 'a/b': denied (/home/me/the data/a b.obj)"),
            500,
            "object 'a/b': denied",
            ("/home", "b.obj"),
        ),
        (IntegrityError('"/var/lib/x" is not readable'), 500, "is not readable", ("/var",)),
        (
            ConfigurationError("/etc/x: bad", field="base_path", limit="below /srv"),
            500,
            "bad",
            ("/etc", "/srv"),
        ),
        (
            StorageUnavailableError("GET https://x.example:443/c/k: refused"),
            503,
            "https://x.example:443/c/k: refused",
            ("a path of",),
        ),
        (
            InvalidArgumentError(
                "key '/a' is not if_match='if_match' content_type \"ttl\" x-ttl-seconds",
                field="if_absent",
            ),
            400,
            "key '/a' is not If-Match='if_match' Content-Type \"ttl\" x-ttl-seconds",
            ("if_absent",),
        ),
    ],
)
async def test_a_problem_is_in_the_words_of_http(
    platform: PlatformApp,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    told: str,
    hidden: tuple[str, ...],
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(platform.storage, "read", fail)
    answer = await platform("GET", "/api/objects/a")
    assert answer.status == status
    assert told in answer.problem["detail"]
    for text in hidden:
        assert text not in answer.body.decode()


@pytest.mark.parametrize(
    ("method", "target", "headers", "body"),
    [
        ("PUT", "/api/objects/e%CC%81", {}, b""),
        ("PUT", "/api/objects/a", {"Content-Type": "x"}, b""),
        ("PUT", "/api/objects/a", {"Content-Type": "text/plain; charset=none"}, b"x"),
        ("PUT", "/api/objects/a", {"Content-Type": "application/json"}, b"{"),
        ("PUT", "/api/objects/a", {"Content-Type": "application/json"}, b'{"n": 1e400}'),
        ("PUT", "/api/objects/a", {"Content-Type": "application/x-npy"}, b"x"),
        ("PUT", "/api/objects/a", {"Content-Type": "application/vnd.agent-storage.value+msgpack"}, b"\xc1"),
        ("PUT", "/api/objects/a", {"x-meta-a": "x" * 2000}, b""),
        ("PUT", "/api/objects/a", {"x-meta-A_b": "x"}, b""),
        ("PUT", "/api/objects/a", {"x-ttl-seconds": "1e9"}, b""),
        ("PUT", "/api/objects/a", {"If-Match": '"x"'}, b""),
        ("GET", "/api/objects?limit=0", {}, b""),
        ("GET", "/api/objects?prefix=a//", {}, b""),
        ("GET", "/api/objects?cursor=x", {}, b""),
        ("POST", "/api/tasks", JSON, b'{"action": "analyze_report", "agent_id": "", "payload": {}}'),
        ("POST", "/api/tasks", JSON, b'{"action": "analyze_report", "agent_id": "a", "delay_seconds": -1}'),
    ],
)
async def test_no_problem_speaks_python(
    platform: PlatformApp, method: str, target: str, headers: dict[str, str], body: bytes
) -> None:
    answer = await platform(method, target, body, headers)
    assert 400 <= answer.status < 500
    told = " ".join(str(answer.problem.get(name, "")) for name in ("detail", "limit", "remedy", "field"))
    for word in (
        "if_match",
        "if_absent",
        "content_type",
        "ttl=",
        "metadata=",
        "unicodedata",
        "load(",
        "read(",
    ):
        assert word not in told
    assert "()" not in told


async def test_an_error_that_nobody_foresaw_tells_nothing(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret /srv/data")

    monkeypatch.setattr(platform.storage, "read", fail)
    answer: AppAnswer = await platform("GET", "/api/objects/a?code=key")
    assert (answer.status, answer.problem["code"]) == (500, "internal-error")
    assert "secret" not in answer.body.decode()
    assert "secret" in caplog.text
    assert "code=key" not in caplog.text


async def test_a_setting_that_can_not_work_names_the_setting(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_states", {})
    monkeypatch.setenv("AGENT_STORAGE_TYPE", "nonsense")
    answer = await platform("GET", "/api/objects/a")
    assert (answer.status, answer.problem["field"]) == (500, "AGENT_STORAGE_TYPE")
