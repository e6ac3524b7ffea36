"""What a listing over HTTP tells, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from storage_lib.access import confined
from storage_lib.access.policy import Grant
from storage_lib.backends.memory import MemoryBackend
from storage_lib.backends.s3.objects import S3Objects
from storage_lib.config.compression import CompressionOptions
from storage_lib.manager import StorageManager
from storage_lib.ports.drivers import ListOptions
from storage_lib.ports.object_model import ListEntry
from tests.http_app import PlatformApp, config_of, serve

BASIC = {"key", "size", "etag", "last_modified"}


async def listed(app: PlatformApp, query: str = "") -> list[dict[str, Any]]:
    answer = await app("GET", f"/api/objects?prefix=l/{query}")
    assert answer.status == 200
    return answer.json["objects"]


async def test_a_listing_tells_more_only_when_asked(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    is_s3 = app.state.config.storage_type == "s3"
    saved: dict[str, str] = {}
    for n in range(3):
        headers = {"Content-Type": "text/plain", "x-meta-m": "1", "x-ttl-seconds": "600"} if n else {}
        saved[f"l/{n}"] = (await app("PUT", f"/api/objects/l/{n}", b"x" * n, headers)).headers["etag"]
    for entry, n in zip(await listed(app), range(3), strict=True):
        assert entry.keys() == (BASIC - {"etag"} if is_s3 else BASIC)
        assert (entry["key"], entry["size"]) == (f"l/{n}", n)
        assert is_s3 or f'"{entry["etag"]}"' == saved[entry["key"]]
        full = (await app("HEAD", f"/api/objects/l/{n}")).headers
        assert entry["last_modified"][:4] in full["last-modified"]
    for entry, n in zip(await listed(app, "&include=metadata"), range(3), strict=True):
        assert f'"{entry["etag"]}"' == saved[entry["key"]]
        if n:
            assert (entry["content_type"], entry["metadata"]) == ("text/plain", {"m": "1"})
            assert entry["expires_at"].endswith("Z")
        assert len(entry["sha256"]) == 64
    folded = (await app("GET", "/api/objects?delimiter=/&include=metadata")).json
    assert (folded["objects"], folded["prefixes"]) == ([], ["l/"])
    await app("PUT", "/api/objects/l/gone", b"x", {"x-ttl-seconds": "0"})
    for query in ("", "&include=metadata", "&limit=2"):
        assert "l/gone" not in [each["key"] for each in await listed(app, query)]


@pytest.mark.parametrize("wrong", ["Metadata", "all", "metadata,etag"])
async def test_what_else_it_could_tell_is_named(platform: PlatformApp, wrong: str) -> None:
    refused = (await platform("GET", f"/api/objects?include={wrong}")).problem
    assert (refused["status"], refused["field"], refused["limit"]) == (400, "include", "metadata")


async def test_on_s3_it_asks_for_no_object_unless_it_has_to(
    moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await config_of("moto", moto, tmp_path)
    with_details = S3Objects._with_details  # pyright: ignore[reportPrivateUsage]
    looked: list[int] = []

    async def counting(self: S3Objects, batch: list[Any]) -> Any:
        looked.append(len(batch))
        return await with_details(self, batch)

    monkeypatch.setattr(S3Objects, "_with_details", counting)
    async with serve(monkeypatch, config) as app:
        for n in range(3):
            await app.storage.write(f"l/{n}", b"x" * n)
        assert [entry["size"] for entry in await listed(app)] == [0, 1, 2]
        assert sum(looked) == 0
        entries = await listed(app, "&include=metadata")
        assert [entry["content_type"] for entry in entries] == ["application/octet-stream"] * 3
        assert sum(looked) == 3
    looked.clear()
    packing = replace(config, compression=CompressionOptions(min_bytes=1))
    async with serve(monkeypatch, packing) as app:
        await app.storage.write("l/3", b"text " * 1000, content_type="text/plain")
        entries = await listed(app)
        # What the store lists is the size of what the layer has made of it, which is nobody's business.
        assert [sorted(entry) for entry in entries] == [["key", "last_modified"]] * 4
        assert sum(looked) == 0
        assert (await listed(app, "&include=metadata"))[3]["size"] == 5000
        page = await app.storage.list_page("l/", details=True, cheap=True)
        assert [entry.info for entry in page.entries] == [None] * 4


@pytest.mark.parametrize("knows_sizes", [True, False])
async def test_a_caller_who_sees_some_areas_lists_them_as_cheaply(knows_sizes: bool) -> None:
    memory = MemoryBackend()
    storage = StorageManager(backend=memory)
    for key in ("a/1", "b/1", "c/1"):
        await storage.write(key, b"x")
    driver = memory.objects.driver
    driver.capabilities = replace(driver.capabilities, asks_for_details=True, lists_sizes=knows_sizes)
    scan = driver.scan

    async def sized(prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        async for found in scan(prefix, msgspec.structs.replace(options, details=True)):
            assert isinstance(found, ListEntry)
            yield found if options.details else ListEntry(found.key, found.size)

    vars(driver)["scan"] = sized  # As S3 does.
    mine = confined(storage, Grant("p", "", {"list": ["a/", "c/"]}))
    for details, has_info in (({"cheap": True}, False), ({}, True)):
        page = await mine.list_page(details=True, **details)
        assert [entry.key for entry in page.entries] == ["a/1", "c/1"]
        assert [entry.info is not None for entry in page.entries] == [has_info, has_info]
        # What a store lists below a layer that compresses is no size that anybody knows.
        assert [entry.size for entry in page.entries] == [1 if knows_sizes or has_info else None] * 2
