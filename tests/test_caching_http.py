"""The caching layer behind HTTP: what a client may insist on, and conditions that are never held against
memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage_lib.config import StorageConfig
from storage_lib.config.caching import CachingOptions
from storage_lib.manager import StorageManager
from tests.http_app import PlatformApp, serve

KEY = "/api/objects/k"


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[PlatformApp]:
    config = StorageConfig(base_path=tmp_path, caching=CachingOptions(ttl=3600))
    async with serve(monkeypatch, config) as app:
        yield app


@pytest.fixture
async def others(tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as others:
        yield others


@pytest.mark.parametrize(
    "fresh", ["no-cache", "No-Cache", "max-age=0", "no-transform, no-cache", "max-age = 0"]
)
async def test_a_client_that_refuses_what_is_in_memory(
    app: PlatformApp, others: StorageManager, fresh: str
) -> None:
    await app("PUT", KEY, b"old")
    old = await app("GET", KEY)
    new = await others.write("k", b"newer")
    assert (await app("GET", KEY)).body == b"old"
    assert (await app("GET", KEY, headers={"Cache-Control": "max-age=10"})).body == b"old"
    assert (await app("HEAD", KEY)).headers["etag"] == old.headers["etag"]
    head = await app("HEAD", KEY, headers={"Cache-Control": fresh})
    assert head.headers["etag"] == f'"{new.etag}"'
    known = {"If-None-Match": old.headers["etag"], "Cache-Control": fresh}
    assert (await app("GET", KEY, headers=known)).body == b"newer"
    newest = await others.write("k", b"newest")
    part = await app("GET", KEY, headers={"Range": "bytes=3-", "Cache-Control": fresh})
    assert (part.status, part.body) == (206, b"est")
    assert part.headers["etag"] == f'"{newest.etag}"'
    assert (await app("GET", KEY)).body == b"newest"


async def test_who_has_a_newer_one_than_the_memory_is_not_given_the_older(
    app: PlatformApp, others: StorageManager
) -> None:
    await app("PUT", KEY, b"old")
    assert (await app("GET", KEY)).body == b"old"
    new = await others.write("k", b"new")
    assert (await app("GET", KEY, headers={"If-None-Match": f'"{new.etag}"'})).status == 304
    assert (await app("GET", KEY)).body == b"new"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("part", [None, "bytes=0-"], ids=["whole", "part"])
@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"If-Match": "{new}"}, 200),
        ({"If-Match": '"other", {new}'}, 200),
        ({"If-Match": "{old}"}, 412),
        ({"If-None-Match": '"other", {new}'}, 304),
        ({"If-None-Match": "{new}"}, 304),
        ({"If-Match": "{new}", "If-None-Match": "{old}"}, 200),
        ({"If-Range": "{new}"}, 200),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
async def test_who_names_what_memory_does_not_know_is_answered_by_the_store(
    app: PlatformApp,
    others: StorageManager,
    method: str,
    part: str | None,
    condition: dict[str, str],
    status: int,
) -> None:
    await app("PUT", KEY, b"old")
    old = (await app("GET", KEY)).headers["etag"]
    await app("HEAD", KEY)
    new = f'"{(await others.write("k", b"newer")).etag}"'
    headers = {name: text.format(old=old, new=new) for name, text in condition.items()}
    if part is not None:
        headers["Range"] = part
    answer = await app(method, KEY, headers=headers)
    if "If-Range" in headers and (part is None or method == "HEAD"):
        return  # It says nothing then.
    assert answer.status == (206 if status == 200 and part and method == "GET" else status)
    if status < 400:
        assert answer.headers["etag"] == new
    if status == 200 and method == "GET":
        assert answer.body == b"newer"


async def test_a_range_behind_the_end_tells_the_size_that_the_object_has_now(
    app: PlatformApp, others: StorageManager
) -> None:
    await app("PUT", KEY, b"old")
    await app("GET", KEY)
    await others.write("k", b"newest")
    refused = await app("GET", KEY, headers={"Range": "bytes=100-", "Cache-Control": "no-cache"})
    assert (refused.status, refused.headers["content-range"]) == (416, "bytes */6")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_conditions_of_a_write_are_held_against_the_store(
    app: PlatformApp, others: StorageManager, method: str
) -> None:
    await app("PUT", KEY, b"old")
    old = (await app("GET", KEY)).headers["etag"]
    new = await others.write("k", b"new")
    listed = f'"other", "{new.etag}"'
    assert (await app(method, KEY, b"mine", {"If-Match": f'"other", {old}'})).status == 412
    assert (await app("GET", KEY, headers={"Cache-Control": "max-age=10"})).body == b"new"
    await others.write("k", b"newer")
    assert (await app(method, KEY, b"mine", {"If-Match": listed})).status == 412
    newest = await others.write("k", b"newest")
    listed = f'"other", "{newest.etag}"'
    assert (await app(method, KEY, b"mine", {"If-Match": listed})).status in (200, 204)
