"""Requests of listings, sweeps, saves and deletions, counted by a proxy before Azurite and before moto."""

from __future__ import annotations

import asyncio
import http.client
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import local_host
from benchmarks.scale.proxy import Proxies, Proxy
from benchmarks.scale.rows import Row
from benchmarks.scale.servers import moto
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager

PAGE = 1_000
EXPIRED = 6_000
AMONG = 200
"""Of the expired, so many have keys among those of the page."""
DELETED = 1_024
BATCH = 256
"""In one request: Azure takes so many, and S3 a thousand."""
LATENCY = 0.010
CONCURRENCY = 32
TURNS = 15


@dataclass(frozen=True)
class Store:
    """A storage behind a proxy."""

    name: str
    storage: StorageManager
    proxy: Proxy

    async def asked(self, work: Callable[[], Awaitable[object]]) -> tuple[int, float]:
        """Requests and seconds of a work."""
        before, began = self.proxy.count, time.perf_counter()
        await work()
        return self.proxy.count - before, time.perf_counter() - began


def pages_and_sweeps(size: float) -> list[Row]:
    """A page of a listing, before and while expired objects are unswept, and then their sweep."""
    return asyncio.run(_pages_and_sweeps(int(EXPIRED * size)))


def deletions(size: float) -> list[Row]:
    """Plain deletions are free on Azure; a batch costs one write."""
    return asyncio.run(_deletions())


def saves_over_http(size: float) -> list[Row]:
    """PUT of a new object, and of one that is there, by the local host, on Azurite."""
    return asyncio.run(_saves_over_http())


async def _pages_and_sweeps(expired: int) -> list[Row]:
    rows: list[Row] = []
    for opened in (_azurite, _moto):
        async with opened() as store:
            rows += await _page_and_sweep(store, expired)
    return rows


async def _page_and_sweep(store: Store, expired: int) -> list[Row]:
    objects = store.storage.backend.objects
    await _each((f"list/{n:05}" for n in range(PAGE)), lambda key: objects.put(key, b"{}"))
    rows: list[Row] = []

    async def page() -> None:
        found = await objects.list_page("list/", limit=PAGE, details=True)
        assert len(found.entries) == PAGE, len(found.entries)

    await page()
    requests, quiet = await store.asked(page)
    quiet = min(quiet, *[(await store.asked(page))[1] for _ in range(4)])
    what = f"a page of {PAGE:,} keys on {store.name}"
    rows.append(Row(f"{what}: requests", requests, most=1))
    among = int(AMONG * expired / EXPIRED)
    keys = (f"list/{n * 5:05}-expired" if n < among else f"old/{n:05}" for n in range(expired))
    await _each(keys, lambda key: objects.put(key, b"{}", ttl=3600))
    objects.clock = lambda: time.time() + 7200
    heads = store.proxy.requests["HEAD"]
    requests, took = await store.asked(page)
    heads = store.proxy.requests["HEAD"] - heads
    took = min(took, *[(await store.asked(page))[1] for _ in range(4)])
    what = f"{what}, {expired:,} expired and unswept"
    rows.append(Row(f"{what}: requests", requests, most=1))
    rows.append(Row(f"{what}: HEADs", heads, most=0))
    rows.append(Row(f"{what}: time / without these", took / quiet, " x", most=1.5))
    store.proxy.seconds = LATENCY
    swept = 0

    async def sweep() -> None:
        nonlocal swept
        while found := await store.storage.sweep_expired(1000):
            swept += found

    requests, took = await store.asked(sweep)
    store.proxy.seconds = 0
    assert swept == expired, (swept, expired)
    what = f"sweep of {expired:,} objects on {store.name}"
    rows.append(Row(f"{what}: requests an object", requests / swept, most=2))
    rows.append(Row(f"{what}: at {LATENCY * 1000:.0f} ms a request", swept / took, " /s", least=2_000))
    return rows


async def _deletions() -> list[Row]:
    rows: list[Row] = []
    for opened in (_azurite, _moto):
        async with opened() as store:
            rows += await _deleted(store)
    return rows


async def _deleted(store: Store) -> list[Row]:
    *keys, alone = [f"gone/{n:04}" for n in range(DELETED + 1)]
    await _each([*keys, alone], lambda key: store.storage.backend.objects.put(key, b"{}"))
    posts = store.proxy.requests["POST"]
    requests, _ = await store.asked(lambda: store.storage.delete(alone))
    batches = store.proxy.requests["POST"] - posts
    many, _ = await store.asked(lambda: store.storage.delete_many(keys, missing_ok=True))
    return [
        Row(f"delete on {store.name}: requests", requests, most=2),
        Row(f"delete on {store.name}: batches, which cost as a write", batches, most=0),
        Row(f"delete_many of {DELETED} on {store.name}: requests", many, most=DELETED / BATCH),
    ]


async def _saves_over_http() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(Path(folder)) as server:
            with Proxies(server) as proxies:
                settings = {
                    "AGENT_STORAGE_TYPE": "azure",
                    "AgentStorage": proxies.connection_string,
                    "AGENT_STORAGE_CONTAINER": "scale",
                }
                return await asyncio.to_thread(_put_rows, f"{folder}/host", settings, proxies)


def _put_rows(folder: str, settings: dict[str, str], proxies: Proxies) -> list[Row]:
    process, port = local_host.start(folder, settings, backend=None)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        _put(connection, "first")
        counts: dict[str, list[int]] = {"a new object": [], "an object that is there": []}
        for n in range(TURNS):
            for each in counts.values():
                before = proxies.blob.count
                _put(connection, f"bench/{n}")
                each.append(proxies.blob.count - before)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    new, there = (statistics.median(each) for each in counts.values())
    return [
        Row("PUT of a new object over HTTP on Azure: requests", new, most=1),
        # The answer tells whether it was new.
        Row("PUT of an object that is there over HTTP on Azure: requests", there, most=2),
    ]


def _put(connection: http.client.HTTPConnection, key: str) -> None:
    headers = {"Content-Type": "application/json"}
    connection.request("PUT", f"/api/objects/{key}", b'{"name": "ceo"}', headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status in (200, 201, 204), answer.status


async def _each(keys: Iterable[str], work: Callable[[str], Awaitable[object]]) -> None:
    left = iter(keys)

    async def worker() -> None:
        for key in left:
            await work(key)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


@asynccontextmanager
async def _azurite() -> AsyncGenerator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(Path(folder)) as server:
            with Proxies(server) as proxies:
                config = StorageConfig(
                    storage_type="azure", connection_string=proxies.connection_string, container="scale"
                )
                async with StorageManager(config) as storage:
                    await storage.save("first", 1)
                    yield Store("Azure", storage, proxies.blob)


@asynccontextmanager
async def _moto() -> AsyncGenerator[Store]:
    from storage_lib.backends.s3 import S3StorageBackend

    with tempfile.TemporaryDirectory() as folder, moto(Path(folder)) as port, Proxy(port) as proxy:
        backend = S3StorageBackend(
            "scale",
            endpoint=f"http://127.0.0.1:{proxy.port}",
            create_bucket=True,
            access_key_id="key",
            secret_access_key="secret",
            region="us-east-1",
        )
        async with StorageManager(backend=backend) as storage:
            await storage.save("first", 1)
            yield Store("S3", storage, proxy)
