"""What the operations on objects cost, in requests to the service."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from storage_lib.azure_backend import AzureStorageBackend
from storage_lib.ports import endings
from storage_lib.ports.backend import ListEntry, ObjectStore, StorageBackend
from storage_lib.s3_backend import S3StorageBackend
from tests.counting_proxy import Passed, counted
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY


class Place(NamedTuple):
    name: str
    backend: StorageBackend
    passed: Passed

    @property
    def objects(self) -> ObjectStore:
        return self.backend.objects


@pytest.fixture(params=["azurite", "moto"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def place(server: Any) -> AsyncIterator[Place]:
    unique = f"c-{uuid.uuid4().hex[:12]}"
    if hasattr(server, "connection_string"):
        parts = dict(part.split("=", 1) for part in server.connection_string.split(";") if part)
        async with (
            counted(parts["BlobEndpoint"]) as (url, passed),
            AzureStorageBackend(server.connection_string, blob_endpoint=url, container=unique) as azure,
        ):
            await azure.objects.put("warm", b"")
            passed.seen.clear()
            yield Place("azure", azure, passed)
        return
    async with (
        counted(server.endpoint) as (url, passed),
        S3StorageBackend(
            unique,
            endpoint=url,
            region=REGION,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            create_bucket=True,
        ) as s3,
    ):
        await s3.objects.put("warm", b"")
        passed.seen.clear()
        yield Place("moto", s3, passed)


async def keys(objects: ObjectStore, prefix: str, **options: Any) -> list[str]:
    page = await objects.list_page(prefix, **options)
    return [entry.key for entry in page.entries] + page.prefixes


async def test_a_page_costs_one_request_whatever_is_unswept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3, whose listings have no metadata, another one for the markers, and a look at what they name."""
    monkeypatch.setattr(endings, "_FIRST", 4)
    monkeypatch.setattr(endings, "_HELD", 8)
    objects, now = place.objects, objects_clock(place.objects, monkeypatch)
    for n in range(12):
        await objects.put(f"a/{n:02}", b"x")
    place.passed.taken()
    assert len(await keys(objects, "a/")) == 12
    assert place.passed.taken() == {"GET": 1 if place.name == "azure" else 2}
    # Expired elsewhere, few and many.
    for n in range(3):
        await objects.put(f"b/{n:02}", b"x", ttl=1)
    now[0] += 2
    place.passed.taken()
    assert len(await keys(objects, "a/")) == 12
    assert place.passed.taken() == {"GET": 1 if place.name == "azure" else 2}
    for n in range(12):
        await objects.put(f"a/{n:02}x", b"x", ttl=1)
    now[0] += 2
    place.passed.taken()
    assert await keys(objects, "a/", limit=30) == [f"a/{n:02}" for n in range(12)]
    taken = place.passed.taken()
    if place.name == "azure":
        assert taken == {"GET": 1}
    else:
        assert taken["HEAD"] == 24
        assert taken["GET"] <= 6
    details = await objects.list_page("a/", limit=30, details=True)
    assert len(details.entries) == 12
    assert place.passed.taken() == ({"GET": 1} if place.name == "azure" else {"GET": 1, "HEAD": 24})
    # Folded: what is below the prefixes is looked at together.
    assert await keys(objects, "", delimiter="/", skip=".system/") == ["warm", "a/"]
    if place.name == "azure":
        assert place.passed.taken() == {"GET": 2}


async def test_a_page_reads_no_more_than_it_shows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, now = place.objects, objects_clock(place.objects, monkeypatch)
    for n in range(9):
        await objects.put(f"a/{n}", b"x", ttl=1 if n == 3 else 100)
    now[0] += 2
    place.passed.taken()
    page = await objects.list_page("a/", limit=7)
    assert [entry.key for entry in page.entries] == [f"a/{n}" for n in (0, 1, 2, 4, 5, 6, 7)]
    assert place.passed.taken() == ({"GET": 1} if place.name == "azure" else {"GET": 2, "HEAD": 1})
    rest = await objects.list_page("a/", limit=7, cursor=page.cursor)
    assert [entry.key for entry in rest.entries] == ["a/8"]
    assert place.passed.taken() == {"GET": 1 if place.name == "azure" else 2}


def objects_clock(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock to be turned."""
    now = [objects.clock()]
    monkeypatch.setattr(objects, "clock", lambda: now[0])
    return now


async def test_what_was_folded_is_shown_where_a_life_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, now = place.objects, objects_clock(place.objects, monkeypatch)
    for n in range(30):
        await objects.put(f"over/{n:02}", b"x", ttl=1)
        await objects.put(f"mixed/{n:02}", b"x", ttl=1)
    await objects.put("mixed/30", b"x", ttl=1000)
    now[0] += 2
    found = [one async for one in objects.iterate(delimiter="/", skip=".system/")]
    assert [one.key if isinstance(one, ListEntry) else one for one in found] == ["mixed/", "warm"]


async def test_what_is_skipped_costs_one_request_at_most(place: Place) -> None:
    objects = place.objects
    names = ["!", "a", "b.system/c", "b.system0", "d"]
    for name in (*names, *(f".system/{n}" for n in range(30))):
        await objects.put(name, b"x")
    for limit in (1, 2, 3, 7):
        seen: list[str] = []
        cursor = None
        while True:
            place.passed.taken()
            page = await objects.list_page(limit=limit, cursor=cursor, skip=".system/")
            seen += [entry.key for entry in page.entries]
            if place.name == "azure":
                assert place.passed.taken()["GET"] <= (1 if page.entries[0].key > "a" else 2)
            if (cursor := page.cursor) is None:
                break
        assert seen == [*names, "warm"]
    assert await objects.list_page(".sys", skip=".system/") == await objects.list_page("nothing")
    place.passed.taken()
    assert await keys(objects, "", skip=".system/") == [*names, "warm"]
    assert place.passed.taken() == {"GET": 1 if place.name == "azure" else 3}
