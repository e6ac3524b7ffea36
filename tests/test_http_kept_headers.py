"""Headers that an object is saved with and served under."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage_lib.ports.kept_headers import GIVEN
from tests.http_app import PlatformApp, config_of, serve

HEADERS = {
    "Cache-Control": "public, max-age=60",
    "Content-Disposition": "attachment; filename=\"a b.txt\"; filename*=UTF-8''%c3%bc.txt",
    "Content-Language": "de, en-GB",
}
FIELDS = {name.lower().replace("-", "_"): name for name in HEADERS}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of("file", None, tmp_path)) as found:
        yield found


async def served(app: PlatformApp, target: str, method: str = "GET") -> dict[str, str]:
    answer = await app(method, target)
    assert answer.status == 200
    return {name: value for name in GIVEN if (value := answer.headers.get(name.lower())) is not None}


async def test_headers_are_kept_served_listed_and_changed(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    target = "/api/objects/kept/a.txt"
    assert (await app("PUT", target, b"x", HEADERS | {"Content-Type": "text/plain"})).status == 201
    assert await served(app, target) == await served(app, target, "HEAD") == HEADERS
    listed = (await app("GET", "/api/objects?prefix=kept/&include=metadata")).json["objects"][0]
    assert {name: listed[field] for field, name in FIELDS.items()} == HEADERS
    etag = (await app("GET", target)).headers["etag"]
    not_modified = await app("GET", target, headers={"If-None-Match": etag})
    assert (not_modified.status, not_modified.headers["cache-control"]) == (304, HEADERS["Cache-Control"])

    change = {"cache_control": "no-store", "content_language": None}
    touched = await app("PATCH", target, json.dumps(change).encode(), JSON | {"If-Match": etag})
    assert touched.status == 200
    left = {"Content-Disposition": HEADERS["Content-Disposition"], "Cache-Control": "no-store"}
    found = await app("GET", target, headers={"If-Match": touched.headers["etag"]})
    assert (found.body, found.headers["content-type"]) == (b"x", "text/plain")
    assert await served(app, target) == left
    assert (await app("PUT", target, b"y")).status == 200
    assert await served(app, target) == {"Cache-Control": "private, no-cache"}, "a save replaces all"


async def test_no_cache_gives_to_others_what_it_may_keep(app: PlatformApp) -> None:
    """Whatever says who asks is named, App Service Authentication's own header included."""
    await app("PUT", "/api/objects/a", b"x", HEADERS)
    vary = (await app("GET", "/api/objects/a")).headers["vary"].lower().split(", ")
    assert {"authorization", "cookie", "x-functions-key", "x-zumo-auth"} <= set(vary)


async def test_the_value_changes_and_the_headers_stay(app: PlatformApp) -> None:
    await app("PUT", "/api/objects/a.json", b"[1]", HEADERS | JSON)
    await app.storage.update("a.json", lambda value: [*value, 2])
    assert await served(app, "/api/objects/a.json") == HEADERS
    assert (await app("GET", "/api/objects/a.json")).json == [1, 2]
    patch = {"Content-Type": "application/merge-patch+json"}
    assert (await app("PATCH", "/api/objects/a.json", b'{"n": 1}', patch)).status == 200
    assert await served(app, "/api/objects/a.json") == HEADERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Cache-Control", "no-store\r\nx-evil: 1"),
        ("Cache-Control", "max-age=60\x00"),
        ("Cache-Control", "x" * 1025),
        ("Content-Disposition", 'attachment; filename="ü.txt"'),
        ("Content-Disposition", 'filename="a.txt"'),
        ("Content-Language", "de;q=1"),
        ("Content-Language", "deutschsprachig"),
    ],
)
async def test_what_no_header_can_say_is_refused(app: PlatformApp, name: str, value: str) -> None:
    refused = (await app("PUT", "/api/objects/a", b"x", {name: value})).problem
    assert (refused["status"], refused["code"]) == (400, "invalid-argument")
    assert refused["field"] in (name, "headers")
    assert refused["limit"]
    assert (await app("GET", "/api/objects/a")).status == 404
    await app("PUT", "/api/objects/a", b"x")
    field = name.lower().replace("-", "_")
    for wrong in (value, 1, [], ""):
        body = json.dumps({field: wrong}).encode()
        refused = (await app("PATCH", "/api/objects/a", body, JSON)).problem
        assert refused["status"] == 400
        assert refused["field"] in (f"body.{field}", "headers")
    assert await served(app, "/api/objects/a") == {"Cache-Control": "private, no-cache"}


async def test_an_empty_header_is_none(app: PlatformApp) -> None:
    await app("PUT", "/api/objects/a", b"x", dict.fromkeys(HEADERS, " "))
    assert await served(app, "/api/objects/a") == {"Cache-Control": "private, no-cache"}


async def test_a_repeated_save_with_another_header_is_another_save(app: PlatformApp) -> None:
    headers = {"If-None-Match": "*", "Idempotency-Key": "k1", "Content-Language": "de"}
    assert (await app("PUT", "/api/objects/a", b"x", headers)).status == 201
    assert (await app("PUT", "/api/objects/a", b"x", headers)).status == 201
    assert (await app("PUT", "/api/objects/a", b"x", headers | {"Content-Language": "en"})).status == 412
