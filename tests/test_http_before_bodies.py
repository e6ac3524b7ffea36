"""What can be refused without the body is refused before anything looks at it: nobody without rights causes
work in proportion to what they send."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from functions import batch, bodies, objects, prefixes, tasks, versions
from storage_lib.config import StorageConfig
from tests.http_app import PlatformApp, serve

MAY: dict[str, dict[str, list[str]]] = {
    "nothing": {},
    "reader": {"load": [""], "list": [""]},
    "other": {"save": ["other/"], "tasks": ["other"], "tables": ["other"], "queues": ["other"]},
}


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    policy = {
        "keys": {name: hashlib.sha256(name.encode()).hexdigest() for name in MAY},
        "principals": {f"key:{name}": {"may": rights} for name, rights in MAY.items()},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    monkeypatch.setenv("AGENT_STORAGE_ACCESS_POLICY", str(tmp_path / "policy.json"))
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        await app.storage.save("mine/a", {"n": 1})
        yield app


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to bodies."""
    done: list[str] = []

    def noticed(module: Any, name: str) -> None:
        real = getattr(module, name)

        def noting(*args: Any, **options: Any) -> Any:
            done.append(name)
            return real(*args, **options)

        monkeypatch.setattr(module, name, noting)

    noticed(bodies, "body_of")
    for module, name in (
        (objects, "body_of"),
        (objects, "check_digest"),
        (batch, "json_text"),
        (tasks, "json_body"),
        (prefixes, "json_body"),
        (versions, "body_of"),
        (versions, "json_body"),
    ):
        noticed(module, name)
    return done


@pytest.mark.parametrize("who", [*MAY, None])
@pytest.mark.parametrize(
    ("method", "target", "content_type"),
    [
        ("PUT", "/api/objects/mine/a", "text/plain"),
        ("PUT", "/api/objects?key=mine/a", "application/json"),
        ("PATCH", "/api/objects/mine/a", "application/json"),
        ("PATCH", "/api/objects/mine/a", "application/merge-patch+json"),
        ("POST", "/api/batch", "application/json"),
        ("POST", "/api/prefixes/delete", "application/json"),
        ("POST", "/api/prefixes/move", "application/json"),
        ("POST", "/api/versions/mine/a", "text/plain"),
        ("POST", "/api/versions?key=mine/a", "application/json"),
        ("PATCH", "/api/versions/mine/a", "application/json"),
        ("POST", "/api/tasks", "application/json"),
        ("POST", "/api/tables/mine", "application/json"),
        ("PUT", "/api/tables/mine/p/r", "application/json"),
        ("PATCH", "/api/tables/mine/p/r", "application/json"),
        ("POST", "/api/queues/mine/messages", "application/json"),
    ],
)
async def test_without_rights_no_body_is_looked_at(
    app: PlatformApp, looked_at: list[str], who: str | None, method: str, target: str, content_type: str
) -> None:
    body = b'{"not json' + b" " * 10_000
    headers = {"Content-Type": content_type, "Repr-Digest": "sha-256=:AAAA:"}
    answer = await app(method, target, body, headers | ({} if who is None else {"x-functions-key": who}))
    some = {
        "/api/batch": ("reader", "other"),
        "/api/tasks": ("other",),
        "/api/prefixes/delete": ("reader",),
        "/api/prefixes/move": ("reader",),
    }
    if who in some.get(target, ()):
        assert answer.status == 400  # They may do some of what a body can say.
    else:
        assert (answer.status, answer.problem["code"]) == (403, "forbidden")
        assert looked_at == []


async def test_who_may_do_nothing_is_told_so_whatever_is_sent(app: PlatformApp, looked_at: list[str]) -> None:
    """On every route that takes a body: the answer is not about the body."""
    asked = [each for each in app.every_route() if each[0] in ("PUT", "PATCH", "POST")]
    assert len(asked) > 20
    for method, path in asked:
        for content_type in ("application/json", "text/plain"):
            headers = {"Content-Type": content_type, "x-functions-key": "nothing"}
            of_keys = (
                "/api/objects",
                "/api/conversations",
                "/api/conversation-edits",
                "/api/versions",
                "/api/links",
                "/api/uploads",
            )
            query = "?key=a" if path in of_keys else ""
            if path == "/api/tables/a" and method != "POST":
                query = "?partition=a&row=a"
            answer = await app(method, path + query, b'{"not json', headers)
            # A task that one may not see does not exist.
            assert answer.status in (403, 404), (method, path, content_type, answer)
    assert looked_at == []


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("PUT", "/api/objects/a", {"Content-Encoding": "br"}, 415),
        ("PUT", "/api/objects/a", {"Content-Range": "bytes 0-1/2"}, 400),
        ("PUT", "/api/objects/a//b", {}, 400),
        ("PUT", "/api/objects/a?unknown=1", {}, 400),
        ("PUT", "/api/objects/a", {"x-ttl-seconds": "soon"}, 400),
        ("POST", "/api/tasks", {"Content-Type": "text/plain"}, 415),
        ("POST", "/api/tables/t", {"Content-Type": "text/plain"}, 415),
        ("POST", "/api/queues/q-a/messages", {"Content-Type": "text/plain"}, 415),
    ],
)
async def test_headers_are_refused_before_the_bytes_are_digested_or_parsed(
    platform: PlatformApp,
    looked_at: list[str],
    method: str,
    target: str,
    headers: dict[str, str],
    status: int,
) -> None:
    given = {"Content-Type": "application/json", "Repr-Digest": "sha-256=:AAAA:"} | headers
    assert (await platform(method, target, b'{"not json', given)).status == status
    assert "check_digest" not in looked_at


async def test_a_body_that_is_too_large_is_refused_before_it_is_digested(
    platform: PlatformApp, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(platform.state), "max_body_bytes", 1000)
    headers = {"Content-Type": "text/plain", "Repr-Digest": "sha-256=:AAAA:"}
    assert (await platform("PUT", "/api/objects/a", b"x" * 1001, headers)).status == 413
    assert looked_at == ["body_of"]
