"""The law of the caching layer, in random races: a reader is never given what was there before a write
of this process that had been acknowledged, nor what another process replaced longer ago than the time to
keep it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.caching import CachingOptions
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.caching import CachingLayer
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ByteRange, StorageBackend

SOAK = os.environ.get("SOAK") == "1"
SEEDS = 2000 if SOAK else 60
KEYS = ("a", "b")
TTL = 7.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class History(Layer):
    """Tells in which order the store has done the writes, and takes its time at random."""

    def __init__(self, inner: StorageBackend, clock: Clock, chance: random.Random) -> None:
        super().__init__(inner)
        self.clock = clock
        self.chance = chance
        self.values: dict[str, list[tuple[float, str | None]]] = {key: [(0.0, None)] for key in KEYS}

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        await self._turns()
        answer = await call()  # Memory does it in one go.
        if operation.name in ("put", "delete"):
            # The place of a value is known by itself: no two are alike.
            found = self.inner.objects.driver._objects.get(operation.target)  # type: ignore[attr-defined]
            self.values[operation.target].append(
                (self.clock(), None if found is None else found.data.decode())
            )
        await self._turns()
        return answer

    async def _turns(self) -> None:
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(0)


async def _value(reading: Awaitable[Any]) -> str | None:
    try:
        found = await reading
    except KeyNotFoundError:
        return None
    data = getattr(found, "data", found)
    return data.decode() if isinstance(data, bytes) else data


async def _streamed(storage: StorageManager, key: str) -> str:
    async with storage.open_reader(key) as reader:
        return (await reader.read()).decode()


@pytest.mark.parametrize("keep_writes", [True, False], ids=["kept", "not kept"])
async def test_no_reader_is_given_what_it_must_not_be(keep_writes: bool) -> None:
    for seed in range(SEEDS):
        await _race(random.Random(seed), keep_writes, seed)


async def _race(chance: random.Random, keep_writes: bool, seed: int) -> None:
    clock = Clock()
    history = History(MemoryBackend(), clock, chance)
    options = CachingOptions(
        ttl=TTL,
        negative_ttl=chance.choice([0.0, 2.0, TTL]),
        max_bytes=chance.choice([3000, 100_000]),
        max_object_bytes=chance.choice([0, 2000]),
        keep_writes=keep_writes,
    )
    ours = StorageManager(backend=CachingLayer(history, options, clock=clock))
    others = StorageManager(backend=history)
    acknowledged = dict.fromkeys(KEYS, 0)
    numbers = iter(range(10**6))

    def place(key: str, value: str | None) -> int:
        """The last place of a value: that there was none may have many."""
        places = [n for n, (_, found) in enumerate(history.values[key]) if found == value]
        assert places, f"seed {seed}: {key} was never {value}"
        return places[-1]

    async def write(storage: StorageManager) -> None:
        key = chance.choice(KEYS)
        before = len(history.values[key])
        try:
            kind = chance.randrange(5)
            if kind == 0:
                await storage.delete(key)
            elif kind == 1:
                await storage.save(key, str(next(numbers)), if_absent=True)
            else:
                await storage.save(key, str(next(numbers)))
        except (KeyNotFoundError, PreconditionFailedError):
            return
        if storage is ours:
            # It is one of those that were done meanwhile; at the least the first.
            acknowledged[key] = max(acknowledged[key], before)

    async def read() -> None:
        key = chance.choice(KEYS)
        begun, least = clock(), acknowledged[key]
        kind = chance.randrange(5)
        fresh = kind == 0
        limit = begun if fresh else begun - TTL
        for n, (moment, _) in enumerate(history.values[key]):
            if moment <= limit:
                least = max(least, n)
        reading: Awaitable[Any]
        if kind == 1:
            reading = _streamed(ours, key)
        elif kind == 2:
            reading = ours.read(key)
        else:
            reading = ours.load(key, fresh=fresh)
        value = await _value(reading)
        assert place(key, value) >= least, f"seed {seed}: {key} is {value}, older than {least}"

    async def worker() -> None:
        for _ in range(12):
            what = chance.random()
            if what < 0.25:
                await write(ours)
            elif what < 0.35:
                await write(others)
            elif what < 0.4:
                clock.now += chance.choice([0.5, 2.0, 4.0, 8.0])
            elif what < 0.45:
                reading = asyncio.ensure_future(read())
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            else:
                await read()

    await asyncio.gather(*(worker() for _ in range(6)))
    clock.now += TTL
    for key in KEYS:
        assert await _value(ours.load(key)) == history.values[key][-1][1], f"seed {seed}"


async def test_two_managers_on_one_folder_are_never_staler_than_their_time(tmp_path: Any) -> None:
    """Each writes at random; what the other one has written is seen after the time to keep it at the
    latest, and what it has written itself at once."""
    for seed in range(60 if SOAK else 6):
        chance = random.Random(seed)
        clock = Clock()
        managers = [
            StorageManager(
                backend=CachingLayer(
                    FileStorageBackend(tmp_path / str(seed)), CachingOptions(ttl=TTL), clock=clock
                )
            )
            for _ in range(2)
        ]
        written: dict[str, list[tuple[float, int, str | None]]] = {key: [(0.0, 0, None)] for key in KEYS}
        for n in range(150):
            which, key = chance.randrange(2), chance.choice(KEYS)
            storage = managers[which]
            what = chance.random()
            if what < 0.2:
                await storage.save(key, str(n))
                written[key].append((clock(), which, str(n)))
            elif what < 0.25:
                try:
                    await storage.delete(key)
                    written[key].append((clock(), which, None))
                except KeyNotFoundError:
                    assert written[key][-1][2] is None
            elif what < 0.5:
                clock.now += chance.choice([0.5, 2.0, 4.0])
            else:
                part = await _value(storage.load(key))
                least = max(
                    place
                    for place, (moment, writer, _) in enumerate(written[key])
                    if place == 0 or writer == which or moment <= clock() - TTL
                )
                assert part in [value for _, _, value in written[key][least:]], (seed, n, key, part)
        for storage in managers:
            for key in KEYS:
                assert await _value(storage.load(key, fresh=True)) == written[key][-1][2]
            await storage.backend.close()


async def test_ranges_and_infos_agree_with_the_version_that_they_tell() -> None:
    """Bytes and ETag are always of one version, whatever changes meanwhile."""
    for seed in range(SEEDS // 3):
        chance = random.Random(seed)
        clock = Clock()
        history = History(MemoryBackend(), clock, chance)
        ours = StorageManager(backend=CachingLayer(history, CachingOptions(ttl=TTL), clock=clock))
        others = StorageManager(backend=history)
        versions: dict[str, str] = {}

        async def write(n: int) -> None:
            storage = chance.choice([ours, others])  # noqa: B023
            put = await storage.save("a", f"{n:06}")
            versions[put.etag] = f"{n:06}"  # noqa: B023

        await write(0)

        async def worker(first: int) -> None:
            for n in range(first, first + 10):
                what = chance.random()  # noqa: B023
                if what < 0.2:
                    await write(n)
                elif what < 0.3:
                    clock.now += 3  # noqa: B023
                elif what < 0.6:
                    part = await ours.read("a", byte_range=ByteRange(3))  # noqa: B023
                    found.append((part.info.etag, part.data.decode(), 3))  # noqa: B023
                elif what < 0.8:
                    whole = await ours.read("a")  # noqa: B023
                    found.append((whole.info.etag, whole.data.decode(), 0))  # noqa: B023
                else:
                    async with ours.open_reader("a") as reader:  # noqa: B023
                        found.append((reader.info.etag, (await reader.read()).decode(), 0))  # noqa: B023

        found: list[tuple[str, str, int]] = []
        await asyncio.gather(*(worker(10 * n) for n in range(1, 5)))
        assert found
        for etag, text, start in found:
            assert versions[etag][start:] == text, seed
