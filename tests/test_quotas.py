"""Quotas: exact in one process, bounded across several, and cheap."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.caching import CachingOptions
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.errors import (
    BackendClosedError,
    KeyNotFoundError,
    PreconditionFailedError,
    QuotaExceededError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.base import Layer, ObjectLayer
from storage_lib.layers.caching import CachingLayer
from storage_lib.layers.validation import ValidationLayer
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import QuotaUsage, StorageBackend, statistics_of
from storage_lib.ports.drivers import ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.object_model import ListEntry, ObjectInfo, ObjectStats, PutResult
from storage_lib.uploads import Uploads
from tests.http_app import config_of, serve


def limited(backend: StorageBackend, refresh: float = 60, **quota: Any) -> StorageManager:
    rule = Rule(**{"prefix": "q/", **quota})
    return StorageManager(
        backend=ValidationLayer(backend, ValidationOptions(rules=(rule,), refresh_seconds=refresh))
    )


def usage(storage: StorageManager) -> QuotaUsage:
    return storage.backend.quotas()[0]


class Slow(ObjectLayer):
    """Objects with turns of the event loop in between."""

    def __init__(self, inner: ObjectDriver, around: Any, watch: Watch) -> None:
        super().__init__(inner, around)
        self.watch = watch

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        await self.watch.turn("put")
        result = await self.inner.put(key, data, options)
        await self.watch.turn("put done")
        return result

    async def head(self, key: str) -> ObjectInfo:
        await self.watch.turn("head")
        return await self.inner.head(key)

    async def fresh_head(self, key: str) -> ObjectInfo:
        return await self.head(key)

    async def delete(self, key: str, if_match: str | None) -> None:
        await self.watch.turn("delete")
        await self.inner.delete(key, if_match)
        await self.watch.turn("delete done")

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        await self.watch.turn("scan")
        async for found in self.inner.scan(prefix, options):
            await self.watch.turn("scanned")
            yield found


class Watch(Layer):
    """Lets other tasks go first, counts, and fails where it is told to."""

    def __init__(self, inner: StorageBackend, seed: int | None = None) -> None:
        self.random = None if seed is None else random.Random(seed)
        self.counts: dict[str, int] = {}
        self.failures: dict[str, Exception] = {}
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return Slow(inner, self.around, self)

    async def turn(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1
        if self.random is not None:
            for _ in range(self.random.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
        if name in self.failures:
            raise self.failures.pop(name)


# -- one process


@pytest.fixture(params=["memory", "file", "moto", "azurite"])
def store(request: pytest.FixtureRequest) -> tuple[str, object]:
    """A kind of backend, and its server if it has one."""
    server = request.param in ("moto", "azurite")
    return request.param, request.getfixturevalue(request.param) if server else None


async def test_a_quota_is_exact_in_one_process(store: tuple[str, object], tmp_path: Path) -> None:
    kind, server = store
    quotas = ValidationOptions(
        rules=(Rule(prefix="q/", quota_objects=5), Rule(prefix="q/b/", quota_bytes=1000, name="bytes"))
    )
    config = (
        StorageConfig(storage_type="memory") if kind == "memory" else await config_of(kind, server, tmp_path)
    )
    async with StorageManager(config) as plain:
        storage = StorageManager(backend=ValidationLayer(plain.backend, quotas))
        await plain.save("q/before", 1)
        for n in range(4):
            await storage.save(f"q/{n}", n)
        with pytest.raises(QuotaExceededError) as caught:
            await storage.save("q/more", 1)
        assert (caught.value.rule, caught.value.limit) == ("q/", "5 objects below 'q/'")
        assert caught.value.remedy
        assert not await storage.exists("q/more")
        await storage.save("q/0", "replaced")
        await storage.update("q/0", lambda _: 7)
        await storage.copy("q/0", "q/1")
        with pytest.raises(PreconditionFailedError):
            await storage.save("q/0", 1, if_absent=True)
        await storage.delete("q/before")
        await storage.save("q/b/x", "x" * 600)
        with pytest.raises(QuotaExceededError) as caught:
            await storage.save("q/b/x", "x" * 1001)
        assert (caught.value.rule, caught.value.limit) == ("bytes", "1000 bytes below 'q/b/'")
        await storage.save("q/b/x", "x" * 1000)
        await storage.delete("q/3")
        with pytest.raises(QuotaExceededError):
            await storage.save("q/b/y", "y")
        await storage.save("q/b/x", "x" * 999)
        await storage.save("q/b/y", "y")
        assert await storage.list_keys("q/") == ["q/0", "q/1", "q/2", "q/b/x", "q/b/y"]
        first, second = storage.backend.quotas()
        assert (first.objects, second.bytes) == (5, 1000)
        await storage.save("elsewhere", 1)


async def test_a_full_quota_keeps_what_is_stored_and_is_emptied_by_deletions() -> None:
    storage = limited(MemoryBackend(), quota_objects=0)
    with pytest.raises(QuotaExceededError):
        await storage.save("q/a", 1)
    backend = MemoryBackend()
    await StorageManager(backend=backend).save("q/a", "x" * 100)
    storage = limited(backend, quota_bytes=50)  # Less than what is there.
    assert await storage.load("q/a") == "x" * 100
    await storage.save("q/a", "x" * 90)
    with pytest.raises(QuotaExceededError):
        await storage.save("q/a", "x" * 91)
    with pytest.raises(QuotaExceededError):
        await storage.save("q/b", "x")
    await storage.save("q/empty", "")
    await storage.delete("q/a")
    await storage.save("q/b", "x" * 50)


async def test_a_stream_is_cut_off_at_the_quota_and_leaves_nothing() -> None:
    storage = limited(MemoryBackend(), quota_bytes=20_000_000)
    taken = 0

    async def source() -> AsyncGenerator[bytes]:
        nonlocal taken
        for _ in range(1000):
            taken += 1_000_000
            yield b"x" * 1_000_000

    with pytest.raises(QuotaExceededError):
        await storage.write_stream("q/a", source())
    assert taken < 45_000_000
    assert await storage.list_keys() == []
    await storage.write_stream("q/a", iter([b"x" * 1_000_000] * 20))
    assert usage(storage).bytes == 20_000_000
    with pytest.raises(QuotaExceededError):
        await storage.save("q/b", "x")


async def test_copies_and_moves_count() -> None:
    storage = limited(MemoryBackend(), quota_objects=2)
    await storage.save("a", 1)
    await storage.copy("a", "q/1")
    await storage.move("a", "q/2")
    await storage.save("b", 1)
    with pytest.raises(QuotaExceededError):
        await storage.move("b", "q/3")
    assert await storage.list_keys() == ["b", "q/1", "q/2"]
    with pytest.raises(QuotaExceededError):  # For a moment there would be three.
        await storage.move("q/1", "q/3")
    await storage.move("q/1", "a")
    await storage.move("b", "q/3")


async def test_reserved_and_expired_objects_do_not_count() -> None:
    backend = MemoryBackend()
    now = 1_000_000.0
    backend.objects.clock = lambda: now
    await backend.objects.put(".system/x", b"1")
    storage = limited(backend, prefix="", quota_objects=2)
    await storage.save("a", 1, ttl=10)
    await storage.save("b", 1)
    with pytest.raises(QuotaExceededError):
        await storage.save("c", 1)
    now += 11
    again = limited(backend, prefix="", quota_objects=2)
    await again.save("c", 1)
    assert usage(again).objects == 2
    with pytest.raises(QuotaExceededError):
        await again.save("a", 1)  # It is gone, so this is one more.


# -- cost


async def test_writes_do_not_list_and_ask_nothing_far_from_the_limit() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=1000, quota_bytes=10**9)
    for n in range(300):
        await storage.save(f"q/{n}", n)
    assert watch.counts["scan"] == 1
    assert "head" not in watch.counts


async def test_a_full_prefix_lists_rarely() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=100)
    for n in range(100):
        await storage.save(f"q/{n}", n)
    for n in range(100):
        with pytest.raises(QuotaExceededError):
            await storage.save(f"q/more{n}", n)
        await storage.delete(f"q/{n}")
        await storage.save(f"q/{n}", n)
    assert watch.counts["scan"] <= 6


async def test_overwriting_does_not_use_a_quota_up() -> None:
    storage = limited(MemoryBackend(), quota_bytes=1000, quota_objects=10)
    for _ in range(50):
        await storage.save("q/a", "x" * 100)
    await storage.save("q/b", "x" * 500)
    await storage.save("q/c", "x" * 400)
    with pytest.raises(QuotaExceededError):
        await storage.save("q/d", "x")


# -- warnings and statistics


async def test_a_warning_is_logged_once_for_each_crossing(caplog: pytest.LogCaptureFixture) -> None:
    storage = limited(MemoryBackend(), quota_objects=10, name="mine")

    def warnings() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.name == "AOS.Storage"]

    with caplog.at_level(logging.WARNING):
        for n in range(7):
            await storage.save(f"q/{n}", n)
        assert warnings() == []
        assert not usage(storage).is_high
        for n in range(7, 10):
            await storage.save(f"q/{n}", n)
        assert len(warnings()) == 1
        assert "'mine'" in warnings()[0]
        assert "80 %" in warnings()[0]
        assert usage(storage).is_high
        assert usage(storage).used == 1
        for n in range(3):
            await storage.delete(f"q/{n}")
        assert not usage(storage).is_high
        await storage.save("q/0", 1)
        assert len(warnings()) == 2


async def test_usage_is_a_statistic() -> None:
    storage = limited(MemoryBackend(), quota_objects=10, quota_bytes=100)
    before = {each.name: each.value for each in statistics_of(storage.backend)}
    assert before["agent_storage.quota.used.objects"] == 0
    assert usage(storage).objects is None
    await storage.save("q/a", "xyz")
    found = {each.name: (each.value, each.tags) for each in statistics_of(storage.backend)}
    assert found.keys() == before.keys()
    assert found["agent_storage.quota.used.bytes"] == (3, (("rule", "q/"),))
    assert found["agent_storage.quota.limit.objects"] == (10, (("rule", "q/"),))


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_open_uploads_have_as_much_room_as_a_quota_allows(kind: str, tmp_path: Path) -> None:
    backend = MemoryBackend() if kind == "memory" else FileStorageBackend(tmp_path)
    storage = limited(backend, quota_bytes=100)
    uploads, other = Uploads(storage, "a"), Uploads(storage, "b", root="q/")
    first, second = await uploads.create("q/a"), await uploads.create("q/b")
    free, foreign = await uploads.create("p"), await other.create("a")

    async def refused(owner: Uploads, upload_id: str, part: int, size: int) -> None:
        with pytest.raises(QuotaExceededError, match="under way below 'q/'") as raised:
            await owner.put(upload_id, part, bytes(size))
        assert raised.value.limit == "100 bytes below 'q/'"
        assert raised.value.remedy is not None

    await uploads.put(first.id, 1, bytes(60))
    await refused(uploads, first.id, 2, 41)
    await refused(uploads, second.id, 1, 41)
    assert await uploads.parts(second.id) == []
    await uploads.put(second.id, 1, bytes(40))
    await uploads.put(first.id, 1, bytes(60))
    await refused(uploads, first.id, 1, 61)
    await uploads.put(free.id, 1, bytes(1000))
    await other.put(foreign.id, 1, bytes(100))
    await refused(other, foreign.id, 2, 1)
    await uploads.abort(second.id)
    await uploads.put(first.id, 2, bytes(40))
    await uploads.complete(first.id, storage)
    await uploads.put((await uploads.create("q/c")).id, 1, bytes(100))


async def test_the_parts_of_an_upload_are_not_counted_for_each_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take longer with each: the last of 10,000 would list all the others."""
    monkeypatch.setattr("storage_lib.uploads._COUNTED_SECONDS", 1e9)
    storage = limited(MemoryBackend(), quota_bytes=100)
    count, counted = storage.backend.objects.stats, list[str]()

    async def stats(prefix: str) -> ObjectStats:
        counted.append(prefix)
        return await count(prefix)

    vars(storage.backend.objects)["stats"] = stats
    upload = await Uploads(storage).create("q/a")
    for part in range(1, 101):
        await Uploads(storage).put(upload.id, part, b"x")
    assert len(counted) == 1
    with pytest.raises(QuotaExceededError):
        await Uploads(storage).put(upload.id, 101, b"x")
    assert len(counted) == 2


async def test_uploads_that_are_over_take_no_room() -> None:
    storage = limited(MemoryBackend(), quota_bytes=100)
    uploads, objects = Uploads(storage), storage.backend.objects
    upload = await uploads.create("q/a", expires_in=60)
    await uploads.put(upload.id, 1, bytes(100))
    end = upload.expires_at.timestamp()
    objects.clock = lambda: end
    await uploads.put((await uploads.create("q/b")).id, 1, bytes(100))


async def test_http_answers_507_and_readiness_shows_the_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = (Rule(prefix="q/", quota_objects=1),)
    config = StorageConfig(base_path=str(tmp_path), validation=ValidationOptions(rules=rules))
    async with serve(monkeypatch, config) as app:
        headers = {"content-type": "text/plain"}
        assert (await app("PUT", "/api/objects/q/a", b"1", headers)).status == 201
        answer = await app("PUT", "/api/objects/q/b", b"1", headers)
        assert (answer.status, answer.problem["code"]) == (507, "quota-exceeded")
        assert answer.problem["rule"] == "q/"
        assert answer.problem["limit"] == "1 objects below 'q/'"
        assert (await app("PUT", "/api/objects/q/a", b"2", headers)).status == 200
        ready = (await app("GET", "/api/health/ready")).json
        assert ready["status"] == "ready"
        assert ready["quotas"] == [
            {
                "rule": "q/",
                "prefix": "q/",
                "bytes": 1,
                "objects": 1,
                "quota_bytes": None,
                "quota_objects": 1,
                "warn_at": 0.8,
                "is_high": True,
            }
        ]


# -- failures


async def test_a_write_whose_outcome_is_unknown_counts() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=2)
    await storage.save("q/a", 1)
    watch.failures["put done"] = TransientStorageError("the response was lost")
    with pytest.raises(TransientStorageError):
        await storage.save("q/b", 1)
    with pytest.raises(QuotaExceededError):
        await storage.save("q/c", 1)
    assert await storage.list_keys() == ["q/a", "q/b"]


async def test_a_write_that_failed_gives_its_room_back() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=1)
    for error in (TransientStorageError("busy", refused=True), TransientStorageError("lost")):
        watch.failures["put"] = error
        with pytest.raises(TransientStorageError):
            await storage.save("q/a", 1)
    with pytest.raises(PreconditionFailedError):
        await storage.save("q/a", 1, if_match="none")
    await storage.save("q/a", 1)


async def test_a_usage_that_cannot_be_listed_is_an_error() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=1)
    watch.failures["scan"] = StorageUnavailableError("down")
    results = await asyncio.gather(*(storage.save(f"q/{n}", 1) for n in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [StorageUnavailableError] * 3
    assert await storage.list_keys() == []
    await storage.save("q/a", 1)
    await storage.delete("q/a")


async def test_closing_ends_a_listing_and_the_layer_can_be_opened_again() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=2)
    started = asyncio.Event()

    async def never(name: str) -> None:
        if name == "scan":
            started.set()
            await asyncio.Event().wait()

    turn, watch.turn = watch.turn, never  # type: ignore[method-assign]
    saving = asyncio.ensure_future(storage.save("q/a", 1))
    await started.wait()
    await storage.backend.close()
    with pytest.raises(BackendClosedError):
        await saving
    watch.turn = turn  # type: ignore[method-assign]
    await storage.backend.open()
    await storage.save("q/a", 1)


async def test_a_cancelled_writer_does_not_end_the_listing_that_others_wait_for() -> None:
    watch = Watch(MemoryBackend())
    storage = limited(watch, quota_objects=5)
    started, go = asyncio.Event(), asyncio.Event()
    turn = watch.turn

    async def held(name: str) -> None:
        if name == "scan":
            started.set()
            await go.wait()
        await turn(name)

    watch.turn = held  # type: ignore[method-assign]
    first, second = (asyncio.ensure_future(storage.save(f"q/{n}", 1)) for n in range(2))
    await started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go.set()
    await second
    assert await storage.list_keys() == ["q/1"]


# -- laws


@settings(max_examples=3000 if os.environ.get("SOAK") == "1" else 60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    quota_objects=st.none() | st.integers(0, 8),
    quota_bytes=st.none() | st.integers(0, 60),
    keys=st.integers(1, 10),
    refresh=st.sampled_from([60.0, 0.05]),
)
def test_one_process_never_exceeds_a_quota_however_its_operations_interleave(
    seed: int, quota_objects: int | None, quota_bytes: int | None, keys: int, refresh: float
) -> None:
    if quota_objects is None and quota_bytes is None:
        quota_objects = 3
    asyncio.run(_interleaved(seed, quota_objects, quota_bytes, keys, refresh))


async def _interleaved(
    seed: int, quota_objects: int | None, quota_bytes: int | None, keys: int, refresh: float
) -> None:
    chance = random.Random(seed)
    memory = MemoryBackend()
    storage = limited(Watch(memory, seed), refresh, quota_objects=quota_objects, quota_bytes=quota_bytes)

    def used() -> tuple[int, int]:
        stored: Any = memory.objects.driver
        return len(stored._objects), sum(len(each.data) for each in stored._objects.values())

    def check() -> None:
        objects, size = used()
        assert quota_objects is None or objects <= quota_objects
        assert quota_bytes is None or size <= quota_bytes

    async def worker(number: int) -> None:
        mine = random.Random(seed + number)
        for _ in range(12):
            key = f"q/{mine.randrange(keys)}"
            try:
                match mine.choice(["put", "put", "put", "delete", "update", "copy"]):
                    case "put":
                        await storage.write(key, b"x" * mine.randrange(12))
                    case "delete":
                        await storage.delete(key)
                    case "update":
                        await storage.write(key, b"y" * mine.randrange(12), if_match="*")
                    case _:
                        await storage.copy(key, f"q/{mine.randrange(keys, keys + 3)}")
            except (QuotaExceededError, KeyNotFoundError, PreconditionFailedError):
                pass
            check()

    await asyncio.gather(*(worker(n) for n in range(chance.choice([1, 2, 5]))))
    # When all is quiet, what fits is stored, and nothing else.
    objects, size = used()
    room = min(9 if quota_bytes is None else quota_bytes - size, 9)
    fits = quota_objects is None or objects < quota_objects
    if fits:
        await storage.write("q/last", b"z" * room)
    else:
        with pytest.raises(QuotaExceededError):
            await storage.write("q/last", b"z" * room)
    check()
    objects, size = used()
    if quota_bytes is not None and room < 9:
        with pytest.raises(QuotaExceededError):
            await storage.write("q/last", b"z" * (room + 1))


async def test_contended_updates_in_a_full_prefix_are_not_refused() -> None:
    storage = limited(Watch(MemoryBackend(), 1), quota_objects=1)
    await storage.save("q/n", 0)
    await asyncio.gather(*(storage.update("q/n", lambda n: n + 1) for _ in range(20)))
    assert await storage.load("q/n") == 20


def test_threads_with_event_loops_of_their_own_share_a_quota() -> None:
    storage = limited(MemoryBackend(), quota_objects=40)
    stored: list[str] = []

    async def fill(number: int) -> None:
        for n in range(30):
            try:
                await storage.save(f"q/{number}-{n}", n)
            except QuotaExceededError:
                return
            stored.append(f"{number}-{n}")

    workers = [threading.Thread(target=lambda n=n: asyncio.run(fill(n))) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(stored) == 40


# -- several processes

PROCESSES = 2


def _fill(folder: str, number: int, count: int) -> int:
    async def fill() -> int:
        stored = 0
        async with StorageManager(StorageConfig(base_path=folder)) as plain:
            storage = limited(plain.backend, 60, quota_objects=30)
            for n in range(count):
                try:
                    await storage.save(f"q/{number}/{n}", n)
                except QuotaExceededError:
                    continue
                stored += 1
        return stored

    return asyncio.run(fill())


async def test_several_processes_exceed_a_quota_by_what_was_free_at_their_listings_at_most(
    tmp_path: Path,
) -> None:
    async with StorageManager(StorageConfig(base_path=str(tmp_path))) as plain:
        for n in range(20):
            await plain.save(f"q/before/{n}", n)
        with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(loop.run_in_executor(pool, _fill, str(tmp_path), n, 30) for n in range(PROCESSES))
            )
        there = (await plain.stats("q/")).count
        assert 30 <= there <= 30 + (PROCESSES - 1) * 10
        storage = limited(plain.backend, quota_objects=30)
        with pytest.raises(QuotaExceededError):
            await storage.save("q/more", 1)


async def test_what_others_delete_is_given_back_after_a_refresh() -> None:
    backend = MemoryBackend()
    storage, others = limited(backend, 0.05, quota_objects=2), StorageManager(backend=backend)
    await storage.save("q/a", 1)
    await storage.save("q/b", 1)
    await others.delete("q/a")
    await _until(lambda: storage.save("q/c", 1), QuotaExceededError)
    await others.save("q/d", 1)
    await others.save("q/e", 1)

    async def refused() -> None:
        with pytest.raises(QuotaExceededError):
            await storage.save("q/f", 1)

    await refused()


async def _until(work: Callable[[], Any], error: type[Exception]) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                return await work()
            except error:
                await asyncio.sleep(0.001)


async def test_what_a_write_replaces_is_asked_of_the_store_and_not_of_a_cache() -> None:
    memory = MemoryBackend()
    storage = limited(CachingLayer(memory, CachingOptions()), quota_bytes=1000)
    await storage.write("q/kept", b"x" * 900)
    await storage.read("q/kept")  # From now on it is in memory.
    async with StorageManager(backend=memory) as other:
        await other.write("q/kept", b"")
        await other.write("q/more", b"x" * 900)
    with pytest.raises(QuotaExceededError):
        await storage.write("q/kept", b"x" * 900)
    async with StorageManager(backend=memory) as other:
        assert (await other.stats("q/")).bytes == 900


async def test_the_record_of_the_current_version_is_counted_and_not_refused() -> None:
    storage = limited(MemoryBackend(), quota_objects=1)
    assert await storage.save_versioned("q/a", "first") == 1
    assert await storage.load_version("q/a") == "first"
    assert usage(storage).objects == 2
    with pytest.raises(QuotaExceededError):
        await storage.save_versioned("q/a", "second")
    assert [version.number for version in await storage.list_versions("q/a")] == [1]
