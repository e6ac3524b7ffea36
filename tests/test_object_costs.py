"""What the operations on objects cost, in requests to the service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from storage_lib.azure_backend import AzureStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.ports import listing
from storage_lib.ports.backend import ListEntry, ObjectStore, StorageBackend
from storage_lib.s3_backend import S3StorageBackend
from tests.counting_proxy import Passed, counted
from tests.http_app import PlatformApp, config_of, serve
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY


@asynccontextmanager
async def proxied(server: Any) -> AsyncGenerator[tuple[Any, Passed]]:
    """The server behind a proxy that counts what objects are asked for."""
    if not hasattr(server, "connection_string"):
        async with counted(server.endpoint) as (url, passed):
            yield SimpleNamespace(endpoint=url), passed
        return
    parts = dict(part.split("=", 1) for part in server.connection_string.split(";") if part)
    async with counted(parts["BlobEndpoint"]) as (url, passed):
        yield (
            SimpleNamespace(
                connection_string=";".join(
                    f"{name}={value}" for name, value in (parts | {"BlobEndpoint": url}).items()
                )
            ),
            passed,
        )


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
    async with proxied(server) as (behind, passed):
        name = "azure" if hasattr(behind, "connection_string") else "moto"
        backend = (
            AzureStorageBackend(behind.connection_string, container=unique)
            if name == "azure"
            else S3StorageBackend(
                unique,
                endpoint=behind.endpoint,
                region=REGION,
                access_key_id=ACCESS_KEY_ID,
                secret_access_key=SECRET_ACCESS_KEY,
                create_bucket=True,
            )
        )
        async with backend:
            await backend.objects.put("warm", b"")
            passed.seen.clear()
            yield Place(name, backend, passed)


@pytest.fixture
async def app(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[PlatformApp, Passed]]:
    async with proxied(server) as (behind, passed):
        kind = "azurite" if hasattr(behind, "connection_string") else "moto"
        async with serve(monkeypatch, await config_of(kind, behind, tmp_path)) as app:
            await app.storage.save("warm", 1)
            passed.seen.clear()
            yield app, passed


async def keys(objects: ObjectStore, prefix: str, **options: Any) -> list[str]:
    page = await objects.list_page(prefix, **options)
    return [entry.key for entry in page.entries] + page.prefixes


async def test_a_page_costs_one_request_whatever_is_unswept(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On S3, whose listings have no metadata, another one for the markers, and a look at what they name."""
    monkeypatch.setattr(listing, "_FIRST", 4)
    monkeypatch.setattr(listing, "_HELD", 8)
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


async def test_a_new_object_is_one_request_over_http(app: tuple[PlatformApp, Passed]) -> None:
    client, passed = app
    put = await client("PUT", "/api/objects/k", b"x")
    assert (put.status, passed.taken()) == (201, {"PUT": 1})
    put = await client("PUT", "/api/objects/k", b"y")
    assert (put.status, passed.taken()) == (200, {"HEAD": 1, "PUT": 1})
    for condition, status in (("*", 412), (put.headers["etag"], 412)):
        again = await client("PUT", "/api/objects/k", b"z", {"If-None-Match": condition})
        assert again.status == status
    passed.taken()
    large = b"x" * (8 * 1024 * 1024 + 1)
    assert (await client("PUT", "/api/objects/large", large)).status == 201
    assert passed.taken() == {"HEAD": 1, "PUT": 1}
    assert (await client("PUT", "/api/objects/new", b"", {"If-None-Match": "*"})).status == 201
    assert passed.taken() == {"PUT": 1}


async def test_what_another_made_is_replaced_over_http(
    app: tuple[PlatformApp, Passed], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, passed = app
    objects = client.storage.backend.objects
    await client.storage.write("k", b"x")
    passed.taken()
    put = await client("PUT", "/api/objects/k", b"y")
    assert (put.status, (await client("GET", "/api/objects/k")).body) == (200, b"y")
    now = objects_clock(objects, monkeypatch)
    await client.storage.write("ended", b"x", ttl=1)
    await client("PUT", "/api/objects/known", b"x", {"x-ttl-seconds": "1"})
    now[0] += 2
    for key in ("ended", "known"):
        put = await client("PUT", f"/api/objects/{key}", b"y")
        assert (put.status, (await client("GET", f"/api/objects/{key}")).body) == (201, b"y")
        assert (await client("PUT", f"/api/objects/{key}", b"z")).status == 200
    await client("DELETE", "/api/objects/k")
    assert (await client("PUT", "/api/objects/k", b"again")).status == 201
    # Of many at once, one creates.
    puts = [client("PUT", "/api/objects/raced", b"%d" % n) for n in range(8)]
    statuses = sorted(put.status for put in await asyncio.gather(*puts))
    assert statuses == [*[200] * 7, 201]


async def test_a_save_whose_answer_was_lost_tells_what_it_did_over_http(
    app: tuple[PlatformApp, Passed], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, passed = app
    lost: list[str] = []

    def choose(method: str, target: str) -> str | None:
        if method != "PUT" or not lost or not target.partition("?")[0].endswith(lost[0]):
            return None
        lost.pop()
        return "reset after"

    monkeypatch.setattr(passed, "choose", choose)
    for status in (201, 200):
        lost.append("/k")
        put = await client("PUT", "/api/objects/k", b"%d" % status)
        assert (put.status, lost) == (status, [])
        assert (await client("GET", "/api/objects/k")).body == b"%d" % status
    await client("DELETE", "/api/objects/k")
    assert (await client("PUT", "/api/objects/k", b"")).status == 201


async def test_what_has_metadata_that_are_no_text_is_replaced_over_http(
    moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(monkeypatch, await config_of("moto", moto, tmp_path)) as client:
        await client.storage.save("warm", 1)
        driver: Any = client.storage.backend.objects.driver.core
        headers = {"x-amz-meta-n": "\u00e9"}
        answer = await driver.inner._bucket.client.request("PUT", "odd", headers=headers)
        assert answer.status == 200
        put = await client("PUT", "/api/objects/odd", b"y")
        assert (put.status, (await client("GET", "/api/objects/odd")).body) == (200, b"y")


async def test_a_sweep_is_two_requests_an_object_at_most(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, now = place.objects, objects_clock(place.objects, monkeypatch)
    count = 120
    for n in range(count):
        await objects.put(f"over/{n:03}", b"x", ttl=n / 100)
    await objects.put("again/1", b"x", ttl=1)
    await objects.put("again/1", b"x", ttl=50)
    await objects.put("again/2", b"x", ttl=1)
    await objects.put("again/2", b"x")
    now[0] += 2
    place.passed.taken()
    assert await objects.sweep_expired() == count
    taken = place.passed.taken()
    if place.name == "azure":
        assert taken == {"GET": 1, "HEAD": count + 2, "POST": 2}
    else:
        assert taken.total() - taken["HEAD"] - taken["DELETE"] <= 4
        assert (taken["HEAD"], taken["DELETE"]) <= (count + 2, count + 2)
    assert len([entry async for entry in objects.iterate(".system/ttl/")]) == 1
    assert await keys(objects, "", skip=".system/") == ["again/1", "again/2", "warm"]
    now[0] += 50
    assert await objects.sweep_expired() == 1
    assert [entry async for entry in objects.iterate(".system/ttl/")] == []


async def test_a_page_is_one_request_also_where_some_of_it_is_over(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, now = place.objects, objects_clock(place.objects, monkeypatch)
    for n in range(96):
        await objects.put(f"a/{n:02}", b"x", ttl=1 if n % 6 == 0 else 100)
    now[0] += 2
    place.passed.taken()
    page = await objects.list_page("a/", limit=79)
    assert len(page.entries) == 79
    assert page.cursor is not None
    if place.name == "azure":
        assert place.passed.taken() == {"GET": 1}


@pytest.mark.parametrize("operation", ["head", "delete"])
async def test_a_sweep_does_many_at_a_time(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many that the requests under way are bounded by the backend alone."""
    objects = MemoryBackend().objects
    call, most, under_way = getattr(objects.driver, operation), 0, 0

    async def counting(*arguments: Any) -> Any:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await call(*arguments)

    for n in range(600):
        await objects.put(f"k{n}", b"x", ttl=0)
    monkeypatch.setattr(objects.driver, operation, counting)
    assert await objects.sweep_expired() == 600
    assert most >= 256
    # One that ended while it was saved has two markers, and may leave one for the next day's sweep.
    assert await keys(objects, "k") == []


async def test_a_delete_is_a_plain_one_and_many_share_a_batch(place: Place) -> None:
    objects, storage = place.objects, StorageManager(backend=place.backend)
    names = [f"k{n:03}" for n in range(300)]
    await asyncio.gather(*(objects.put(name, b"x") for name in (*names, "alone")))
    place.passed.taken()
    await objects.driver.delete("alone", None)
    assert "POST" not in (taken := place.passed.taken())
    if place.name == "azure":
        assert taken == {"DELETE": 1}
    await objects.put("alone", b"x")
    place.passed.taken()
    await objects.delete("alone")
    # One look tells that there is one, and that it lives.
    assert place.passed.taken() == {"HEAD": 1, "DELETE": 1}
    missing = ["no1", "no2"]
    done = await storage.delete_many([*names, *missing])
    assert [key for key, error in done.items() if error is not None] == missing
    assert all(isinstance(done[key], KeyNotFoundError) for key in missing)
    if place.name == "azure":
        taken = place.passed.taken()
        assert (taken["POST"], taken["DELETE"]) == (2, 0)
        assert taken["HEAD"] == 302
    await asyncio.gather(*(objects.put(name, b"x") for name in names))
    place.passed.taken()
    done = await storage.delete_many([*names, *missing], missing_ok=True)
    assert not any(done.values())
    if place.name == "azure":
        assert place.passed.taken() == {"POST": 2}
    assert await keys(objects, "k") == []
