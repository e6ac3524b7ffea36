"""Requests of listings, sweeps, saves and deletions, counted by a proxy before Azurite and before moto."""

from __future__ import annotations

import asyncio
import http.client
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import local_host
from benchmarks.scale.folders import folder
from benchmarks.scale.processor import spent
from benchmarks.scale.proxy import Proxies, Proxy
from benchmarks.scale.rows import Row
from benchmarks.scale.servers import moto
from benchmarks.scale.stand_in import StandIn, stand_in
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager

PAGE = 1_000
EXPIRED = 6_000
AMONG = 200
"""Of the expired, so many have keys among those of the page; of fewer a part."""
FEW = 250
"""Keys of a page, and expired objects, where a server is too slow for more: requests are counted."""
DELETED = 512
BATCH = 256
"""In one request: Azure takes so many, and S3 a thousand."""
LATENCY = 0.010
CONCURRENCY = 32
SWEPT_A_SECOND = 2_000
NO_METADATA = "S3 lists no metadata, so details take a HEAD each, and ends of lives a look at the markers"
TURNS = 5


@dataclass(frozen=True)
class Store:
    """A storage behind a proxy."""

    name: str
    storage: StorageManager
    proxy: Proxy | StandIn

    async def asked(self, work: Callable[[], Awaitable[object]]) -> tuple[int, float]:
        """Requests of a work, and seconds of this process's processor."""
        before, began = self.proxy.requests.total(), time.process_time()
        await work()
        took = time.process_time() - began
        return self.proxy.requests.total() - before, took


def pages_and_sweeps(size: float) -> list[Row]:
    """A page of a listing, before and while expired objects are unswept, and then their sweep, where no
    server is the limit."""
    return asyncio.run(_at_full_speed(int(EXPIRED * size)))


def on_azurite(size: float) -> list[Row]:
    """The same requests where a server of Microsoft's checks them, and deletions of one and of many."""
    return asyncio.run(_counted(_azurite))


def on_moto(size: float) -> list[Row]:
    """The same on S3."""
    return asyncio.run(_counted(_moto, NO_METADATA))


def saves_over_http(size: float) -> list[Row]:
    """PUT of a new object, and of one that is there, by the local host, on Azurite."""
    return asyncio.run(_saves_over_http())


async def _at_full_speed(expired: int) -> list[Row]:
    with stand_in() as service:
        config = StorageConfig(
            storage_type="azure", connection_string=service.connection_string, container="scale"
        )
        async with StorageManager(config) as storage:
            store = Store("a blob service", storage, service)
            quiet = await _quiet_page(store)
            return [*await _page(store, PAGE, expired, quiet), *await _quick_sweep(store, service, expired)]


async def _counted(
    opened: Callable[[], AbstractAsyncContextManager[Store]], no_metadata: str = ""
) -> list[Row]:
    async with opened() as store:
        return [
            *await _page(store, FEW, FEW, {}, no_metadata),
            *await _sweep(store, FEW),
            *await _deleted(store),
        ]


async def _quiet_page(store: Store) -> dict[bool, float]:
    """Processor seconds of a page of names and of one with details, while nothing is unswept."""
    await _fill(store, PAGE)
    return {details: (await _cost(store, PAGE, details, TURNS))[2] for details in (False, True)}


async def _page(
    store: Store, size: int, expired: int, quiet: Mapping[bool, float], outside: str = ""
) -> list[Row]:
    """A page of names and one with details, while expired objects are unswept; times only where ``quiet`` has
    some to compare with."""
    objects = store.storage.backend.objects
    if not quiet:
        await _fill(store, size)
    among = max(int(AMONG * expired / EXPIRED), 2)
    keys = (f"list/{n * 2:05}-expired" if n < among else f"old/{n:05}" for n in range(expired))
    await _each(keys, lambda key: objects.put(key, b"{}", ttl=3600))
    objects.clock = lambda: time.time() + 7200
    rows: list[Row] = []
    for details in (False, True):
        requests, heads, took = await _cost(store, size, details, TURNS if quiet else 1)
        what = f"a page of {size:,} keys{' with details' if details else ''} on {store.name}"
        what += f", {expired:,} expired and unswept"
        rows.append(Row(f"{what}: requests", requests, most=1, outside=outside))
        rows.append(Row("  of these HEADs", heads, most=0, outside=outside))
        if quiet:
            rows.append(Row("  processor time / without these", took / quiet[details], " x", most=1.5))
    return rows


async def _fill(store: Store, size: int) -> None:
    await _each(
        (f"list/{n:05}" for n in range(size)), lambda key: store.storage.backend.objects.put(key, b"{}")
    )


async def _cost(store: Store, size: int, details: bool, turns: int) -> tuple[int, int, float]:
    """Requests of a page, how many of them are HEADs, and the least processor seconds of some turns."""

    async def page() -> None:
        found = await store.storage.backend.objects.list_page("list/", limit=size, details=details)
        assert len(found.entries) == size, len(found.entries)

    heads = store.proxy.requests["HEAD"]
    requests, took = await store.asked(page)
    heads = store.proxy.requests["HEAD"] - heads
    for _ in range(turns - 1):
        took = min(took, (await store.asked(page))[1])
    return requests, heads, took


async def _quick_sweep(store: Store, service: StandIn, expired: int) -> list[Row]:
    """One at `LATENCY`, and how fast."""
    service.hold(LATENCY)
    served = service.cpu
    with spent(service.process) as span:
        rows = await _sweep(store, expired)
    served = service.cpu - served
    outside = span.told()
    if not outside and served / expired > 1 / SWEPT_A_SECOND:
        outside = f"the service itself takes {served / expired * 1000:.2f} ms for each"
    return [
        *rows,
        Row(
            f"  at {LATENCY * 1000:.0f} ms a request",
            expired / span.seconds,
            " /s",
            least=SWEPT_A_SECOND,
            outside=outside,
        ),
        Row(
            "  by a processor of its own, from this process's time",
            expired / span.cpu,
            " /s",
            least=SWEPT_A_SECOND,
        ),
    ]


async def _sweep(store: Store, expired: int) -> list[Row]:
    swept, before = 0, Counter(store.proxy.requests)

    async def sweep() -> None:
        nonlocal swept
        while found := await store.storage.sweep_expired(1000):
            swept += found

    requests, _ = await store.asked(sweep)
    assert swept == expired, (swept, expired)
    each = sum((store.proxy.requests - before)[method] for method in ("HEAD", "DELETE"))
    what = f"sweep of {expired:,} objects on {store.name}: requests for each"
    return [
        Row(what, each / swept, most=2),
        Row("  for all: listings of markers, batches", requests - each),
    ]


async def _deleted(store: Store) -> list[Row]:
    alone, *keys = [f"gone/{n:04}" for n in range(DELETED + 1)]
    await _each([alone, *keys], lambda key: store.storage.backend.objects.put(key, b"{}"))
    posts = store.proxy.requests["POST"]
    requests, _ = await store.asked(lambda: store.storage.delete(alone))
    posts, listings = store.proxy.requests["POST"] - posts, store.proxy.requests["GET"]
    many, _ = await store.asked(lambda: store.storage.delete_many(keys, missing_ok=True))
    listings = store.proxy.requests["GET"] - listings
    what = f"delete_many of {DELETED} on {store.name}"
    return [
        Row(f"delete on {store.name}: requests, one of them a look", requests, most=2),
        Row("  batches, which cost as a write", posts, most=0),
        Row(f"{what}: requests that delete", many - listings, most=DELETED / BATCH),
        Row("  listings, of what may be kept beside them", listings),
    ]


async def _saves_over_http() -> list[Row]:
    with folder() as path:
        async with Azurite(Path(path)) as server:
            with Proxies(server) as proxies:
                settings = {
                    "AGENT_STORAGE_TYPE": "azure",
                    "AgentStorage": proxies.connection_string,
                    "AGENT_STORAGE_CONTAINER": "scale",
                }
                return await asyncio.to_thread(_put_rows, f"{path}/host", settings, proxies)


def _put_rows(path: str, settings: dict[str, str], proxies: Proxies) -> list[Row]:
    process, port = local_host.start(path, settings, backend=None)
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
    with folder() as path:
        async with Azurite(Path(path)) as server:
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

    with folder() as path, moto(Path(path)) as port, Proxy(port) as proxy:
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
            await storage.delete("first")  # The server is asked once whether it heeds conditions.
            yield Store("S3", storage, proxy)
