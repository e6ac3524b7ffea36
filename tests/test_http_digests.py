"""Digests of bodies: checked when they are sent, given when they are asked for (RFC 9530, RFC 1864)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.http_app import PlatformApp

BODY = b'{"a": 1}' + b" " * 300_000
JSON = {"Content-Type": "application/json"}


def sf(algorithm: str, data: bytes) -> str:
    digest = hashlib.new(algorithm.replace("-", ""), data).digest()
    return f"{algorithm}=:{base64.b64encode(digest).decode()}:"


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def sent(data: bytes) -> list[dict[str, str]]:
    """Every way to say what a body is."""
    found = [
        {name: value}
        for name in ("Content-Digest", "Repr-Digest")
        for value in (
            sf("sha-256", data),
            sf("sha-512", data),
            f"{sf('sha-256', data)}, {sf('sha-512', data)}",
            f"md5=:{md5(b'other')}:, {sf('sha-512', data)};x=1 , unixsum=:aaaa:",
        )
    ]
    return [
        *found,
        {"Content-MD5": md5(data)},
        {"Content-Digest": sf("sha-256", data), "Content-MD5": md5(data)},
    ]


@pytest.mark.parametrize("size", [0, 8, len(BODY)])
async def test_a_body_that_is_the_digested_one_is_taken(platform: PlatformApp, size: int) -> None:
    body = BODY[:size]
    for headers in sent(body):
        assert (await platform("PUT", "/api/objects/a", body, headers)).status in (200, 201), headers
    assert (await platform("GET", "/api/objects/a")).body == body


@pytest.mark.parametrize("size", [8, len(BODY)])
async def test_another_body_stores_nothing(platform: PlatformApp, size: int) -> None:
    body = BODY[:size]
    for headers in sent(body + b"x"):
        refused = (await platform("PUT", "/api/objects/a", body, headers)).problem
        assert (refused["status"], refused["code"]) == (400, "digest-mismatch")
        assert refused["field"] in headers
    both = f"{sf('sha-256', body)}, {sf('sha-512', b'other')}"
    refused = (await platform("PUT", "/api/objects/a", body, {"Content-Digest": both})).problem
    assert refused["code"] == "digest-mismatch"
    assert (await platform("GET", "/api/objects/a")).status == 404


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Digest", f"sha-256={hashlib.sha256(BODY).hexdigest()}"),
        ("Content-Digest", "sha-256=:AAAA:"),
        ("Content-Digest", "sha-256=::"),
        ("Content-Digest", "sha-512"),
        ("Repr-Digest", "sha-256=:not base64!:"),
        ("Repr-Digest", 'sha-256="x"'),
        ("Content-MD5", hashlib.md5(BODY, usedforsecurity=False).hexdigest()),
        ("Content-MD5", ""),
        ("Content-MD5", "====" * 8000),
    ],
)
async def test_what_is_no_digest_is_refused(platform: PlatformApp, name: str, value: str) -> None:
    refused = (await platform("PUT", "/api/objects/a", BODY, {name: value})).problem
    assert (refused["status"], refused["code"], refused["field"]) == (400, "invalid-argument", name)
    assert refused["limit"]
    assert (await platform("GET", "/api/objects/a")).status == 404


async def test_of_other_algorithms_nothing_is_said(platform: PlatformApp) -> None:
    for value in ("md5=:AAAA:", "sha=:AAAA:", "x", "", ",,", "sha-256-x=:AAAA:", "a=" * 16_000):
        answer = await platform("PUT", "/api/objects/a", b"x", {"Content-Digest": value})
        assert answer.status in (200, 201), value


REQUESTS: list[tuple[str, str, Any]] = [
    ("PATCH", "/api/objects/a.json", {"metadata": {"m": "1"}}),
    ("POST", "/api/tasks", {"action": "copy", "agent_id": "a", "payload": {}}),
    ("POST", "/api/batch", {"operations": [{"op": "save", "key": "b", "value": 1}]}),
]


@pytest.mark.parametrize(("method", "target", "document"), REQUESTS, ids=lambda each: str(each)[:20])
async def test_every_body_is_checked(platform: PlatformApp, method: str, target: str, document: Any) -> None:
    await platform("PUT", "/api/objects/a.json", b"1", JSON)
    body = json.dumps(document).encode()
    for name in ("Content-Digest", "Repr-Digest"):
        refused = (await platform(method, target, body, JSON | {name: sf("sha-256", b"x")})).problem
        assert (refused["code"], refused["field"]) == ("digest-mismatch", name)
        answer = await platform(method, target, body, JSON | {name: sf("sha-512", body)})
        assert b"digest" not in answer.body
    assert (await platform("GET", "/api/objects/b")).status in (200, 404)


QUERIES = {
    "/api/objects": "?key=a",
    "/api/versions": "?key=a",
    "/api/links": "?key=a",
    "/api/conversations": "?key=a",
    "/api/conversation-edits": "?key=a",
    "/api/uploads": "?key=a",
    "PUT /api/uploads": "?key=a&upload_id=0&part=1",
    "PUT /api/uploads/a": "?upload_id=0&part=1",
    "PUT /api/tables/a": "?partition=a&row=a",
    "PATCH /api/tables/a": "?partition=a&row=a",
}
"""Without which a route does not come as far as the body."""
WITHOUT_BODY = ("/api/tasks/a/cancel", "/api/tasks/a/requeue", "/api/queues/a/receive")


async def test_no_route_takes_a_body_that_is_not_the_digested_one(platform: PlatformApp) -> None:
    link = await platform("POST", "/api/links/a", b'{"method": "PUT"}', JSON)
    asked = [("PUT", "/api/signed" + link.json["url"].partition("/api/signed")[2])]
    for method, path in platform.every_route():
        if method in ("PUT", "PATCH", "POST") and path not in WITHOUT_BODY and "/signed" not in path:
            asked.append((method, path + (QUERIES.get(f"{method} {path}") or QUERIES.get(path, ""))))
    assert len(asked) > 25
    for method, target in asked:
        for name in ("Content-Digest", "Repr-Digest"):
            refused = await platform(method, target, b"{}", JSON | {name: sf("sha-512", b"x")})
            assert refused.problem["code"] == "digest-mismatch", (method, target, refused)
            assert refused.problem["field"] == name
    assert await platform.storage.list_keys() == []


async def test_a_body_that_did_not_arrive_is_that_and_no_other(platform: PlatformApp) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Digest": sf("sha-256", b"x")}
    assert (await platform("PUT", "/api/objects/a", b"x", headers)).status == 411


WANTED = [
    ("sha-256=1", "sha-256"),
    ("sha-512=1", "sha-512"),
    ("sha-256=3, sha-512=10", "sha-512"),
    ("sha-512=3,sha-256=10", "sha-256"),
    ("sha-256=5, sha-512=5", "sha-256"),
    ("md5=10, sha-512=1", "sha-512"),
    ("sha-256=0, sha-512=1", "sha-512"),
    ("sha-512=1;x=2", "sha-512"),
    ("sha-256=0", None),
    ("md5=10", None),
    ("", None),
    ("sha-256", None),
    ("sha-256=high", None),
    ("sha-256=-1", None),
]


@pytest.mark.parametrize(("text", "algorithm"), WANTED)
async def test_the_digest_that_is_preferred(platform: PlatformApp, text: str, algorithm: str | None) -> None:
    await platform("PUT", "/api/objects/a", BODY)

    async def digests(want: str, method: str = "GET", **headers: str) -> Callable[[str], str | None]:
        answer = await platform(method, "/api/objects/a", headers={want: text, **headers})
        assert answer.status in (200, 206)
        return answer.headers.get

    given = await digests("Want-Content-Digest")
    assert given("content-digest") == (algorithm and sf(algorithm, BODY))
    assert given("repr-digest") == sf("sha-256", BODY)
    given = await digests("Want-Repr-Digest")
    assert given("repr-digest") == (algorithm and sf(algorithm, BODY))
    assert given("content-digest") is None

    part = await digests("Want-Content-Digest", Range="bytes=3-7")
    assert part("content-digest") == (algorithm and sf(algorithm, BODY[3:8]))
    assert part("repr-digest") == sf("sha-256", BODY)
    # Of a part that is read alone, the digest of the whole is the one that is stored, or none.
    part = await digests("Want-Repr-Digest", Range="bytes=3-7")
    assert part("repr-digest") == (algorithm and sf("sha-256", BODY) if "sha-256=0" not in text else None)


async def test_answers_that_are_no_objects_have_digests_too(platform: PlatformApp) -> None:
    want = {"Want-Content-Digest": "sha-512=1"}
    for target in ("/api/objects", "/api/objects/none", "/api/tasks", "/api/health/live"):
        answer = await platform("GET", target, headers=want)
        assert answer.headers["content-digest"] == sf("sha-512", answer.body), target
    several = want | {"Range": "bytes=0-1,4-5"}
    await platform("PUT", "/api/objects/a", b"0123456789")
    answer = await platform("GET", "/api/objects/a", headers=several)
    assert answer.headers["content-digest"] == sf("sha-512", answer.body)
    head = await platform("HEAD", "/api/objects/a", headers={"Want-Content-Digest": "sha-256=1"})
    assert head.headers["content-digest"] == sf("sha-256", b"0123456789")
    etag = head.headers["etag"]
    not_modified = await platform("GET", "/api/objects/a", headers=want | {"If-None-Match": etag})
    assert (not_modified.status, "content-digest" in not_modified.headers) == (304, False)
