from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.errors import AccessDeniedError
from storage_lib.ports.objects import ObjectStore, StoredObject
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract


@pytest.fixture(scope="module")
def backend() -> MemoryBackend:
    return MemoryBackend()


class TestMemoryObjects(ObjectStoreContract):
    race_rounds = 100
    # No other program can put anything into memory.
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]

    @pytest.fixture
    def objects(self, backend: MemoryBackend) -> ObjectStore:
        return backend.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        stored = objects.driver._objects  # type: ignore[attr-defined]
        stored[key] = replace(stored[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await objects.put(key, data, content_type=content_type)
        stored = objects.driver._objects  # type: ignore[attr-defined]
        stored[key] = StoredObject(replace(stored[key].info, sha256=None), data)


class TestMemoryQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: MemoryBackend) -> object:
        return backend.queues


class TestMemoryTables(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: MemoryBackend) -> object:
        return backend.tables


class CountedObjects(MemoryObjects):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.protected = False

    async def get(self, *arguments: Any) -> Any:
        self.calls["get"] += 1
        return await super().get(*arguments)

    async def delete(self, key: str, if_match: str | None) -> None:
        self.calls["delete"] += 1
        if self.protected and not key.startswith(".system/"):
            raise AccessDeniedError("under a legal hold")
        await super().delete(key, if_match)


async def test_markers_of_objects_that_were_deleted_cost_listings_nothing() -> None:
    driver, now = CountedObjects(), time.time()
    objects = ObjectStore(driver)
    objects.clock = lambda: now
    for n in range(50):
        await objects.put(f"short/{n}", b"x", ttl=10)
        await objects.delete(f"short/{n}")
    await objects.put("k", b"x")
    for _ in range(3):  # before the sweep, after it, and when the late markers are due
        now += 20
        driver.calls.clear()
        assert len((await objects.list_page(skip=".system/")).entries) == 1
        assert driver.calls["get"] == 0
        await objects.sweep_expired()
        now += 24 * 3600
    assert [found async for found in objects.iterate(".system/")] == []


async def test_a_sweep_ends_though_nothing_can_be_removed() -> None:
    driver, now = CountedObjects(), time.time()
    objects = ObjectStore(driver)
    objects.clock = lambda: now
    for n in range(300):
        await objects.put(f"k{n}", b"x", ttl=1)
    now += 2
    driver.protected = True
    with pytest.raises(AccessDeniedError):
        await objects.sweep_expired(20)
    assert 20 <= driver.calls["delete"] <= 40


async def test_an_object_that_lands_while_a_sweep_looks_for_it_is_swept_by_the_next() -> None:
    driver, now = CountedObjects(), time.time()
    objects = ObjectStore(driver)
    objects.clock = lambda: now
    head = driver.head

    async def lands(key: str) -> Any:
        try:
            return await head(key)
        finally:
            if key == "late":
                driver.head = head  # type: ignore[method-assign]
                uploaded.set()
                await asyncio.wait([upload])

    begun, uploaded = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"xxx"
        begun.set()
        await uploaded.wait()

    objects.part_bytes = 1
    upload = asyncio.create_task(objects.put_stream("late", slow(), ttl=1))
    await begun.wait()
    now += 2
    driver.head = lands  # type: ignore[method-assign]
    await objects.sweep_expired()
    await upload
    assert (await objects.list_page(skip=".system/")).entries == []
    await objects.sweep_expired()
    assert "late" not in driver._objects


async def test_one_sweep_takes_all_that_heartbeats_leave() -> None:
    driver, now = CountedObjects(), time.time()
    objects = ObjectStore(driver)
    objects.clock = lambda: now
    for _ in range(4000):  # a minute of them
        now += 0.015
        await objects.put("heartbeat", b"alive", ttl=30)
    await objects.put("last", b"x", ttl=1)
    now += 29
    assert await objects.sweep_expired(10) == 1
    left = [found async for found in objects.iterate(".system/ttl/")]
    assert 0 < len(left) < 2500  # those that are not due yet
    assert await objects.sweep_expired(10, seconds=0) == 0
    now += 60
    await objects.put("heartbeat", b"alive", ttl=30)
    assert await objects.sweep_expired(10) == 0
    assert len([found async for found in objects.iterate(".system/ttl/")]) == 1
    assert (await objects.head("heartbeat")).size == 5
