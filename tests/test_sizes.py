"""What is stored below each prefix: the series, its bounds, and many hosts at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.caching import CachingOptions
from storage_lib.errors import SerializationError, StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.sizes import KEY, MAX_DAILY, MAX_PREFIXES, MAX_RECENT, OTHERS, Sample, Series, Sizes
from tests.http_app import config_of

HOUR = timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now

    def pass_(self, time: timedelta) -> None:
        self.now += time.total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(any_store: tuple[str, object], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*any_store, tmp_path)) as found:
        yield found


async def test_objects_and_bytes_of_each_first_level_prefix(storage: StorageManager, clock: Clock) -> None:
    await storage.write("reports/2026/q3", b"x" * 10)
    await storage.write("reports/2026/q4", b"x" * 5)
    await storage.write("notes/a", b"x" * 3)
    await storage.write("notes", b"x" * 2)
    sizes = Sizes(storage, clock)
    assert (await sizes.read()).newest is None
    first = await sizes.measure(HOUR)
    assert first is not None
    found = {prefix: of for prefix, of in first.prefixes.items() if not prefix.startswith(".")}
    assert found == {"reports/": (2, 15), "notes/": (1, 3), "": (1, 2)}
    # What the store keeps for itself is there too: the claim of this measurement.
    assert first.prefixes[".system/"][0] >= 1
    assert (await sizes.read()).newest == first
    # None of it is the user's.
    assert [key async for key in storage.list_keys()] == [
        "notes",
        "notes/a",
        "reports/2026/q3",
        "reports/2026/q4",
    ]


async def test_growth_is_that_of_a_day(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    sizes = Sizes(storage, clock)
    await storage.write("a/1", b"x" * 100)
    await storage.write("gone/1", b"x" * 7)
    assert await sizes.measure(HOUR)
    assert (await sizes.read()).growth() == {}
    clock.pass_(timedelta(days=1))
    await storage.write("a/2", b"x" * 50)
    await storage.write("new/1", b"x" * 5)
    await storage.delete("gone/1")
    assert await sizes.measure(HOUR)
    grown = (await sizes.read()).growth()
    assert (grown["a/"], grown["new/"], grown["gone/"]) == (50, 5, -7)


async def test_nothing_is_listed_before_the_period_is_over(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    sizes = Sizes(storage, clock)
    assert await sizes.measure(HOUR)
    clock.pass_(timedelta(minutes=30))
    assert await sizes.measure(HOUR) is None
    clock.pass_(timedelta(minutes=29))  # timers are not exact
    assert await sizes.measure(HOUR)
    assert await sizes.measure(24 * HOUR) is None
    clock.pass_(23 * HOUR)  # the hourly timer runs again before the day is over
    assert await sizes.measure(24 * HOUR) is None
    clock.pass_(HOUR)
    assert await sizes.measure(24 * HOUR)
    # A clock that is set back does not stop the series for as long.
    clock.pass_(-timedelta(days=30))
    assert await sizes.measure(HOUR)


async def test_of_many_hosts_one_measures(storage: StorageManager, clock: Clock) -> None:
    await storage.write("a/1", b"x")
    found = await asyncio.gather(*(Sizes(storage, clock).measure(HOUR) for _ in range(8)))
    assert len([sample for sample in found if sample is not None]) == 1
    assert len((await Sizes(storage, clock).read()).recent) == 1


async def test_hosts_that_keep_objects_in_memory_measure_in_turn(tmp_path: Path, clock: Clock) -> None:
    config = StorageConfig(storage_type="file", base_path=tmp_path, caching=CachingOptions(ttl=7 * 86_400))
    async with StorageManager(config) as one, StorageManager(config) as other:
        for storage in (one, other, one, other):
            assert await Sizes(storage, clock).measure(HOUR)
            assert (await Sizes(storage, clock).read()).newest
            clock.pass_(HOUR)
        assert len((await Sizes(one, clock).read()).recent) == 4


async def test_a_host_that_was_stopped_holds_nobody_up_for_long(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    sizes, listing = Sizes(storage, clock), asyncio.Event()

    async def stuck(*_: Any) -> Any:
        listing.set()
        await asyncio.Event().wait()

    stopped = Sizes(storage, clock)
    stopped._listed = stuck  # type: ignore[method-assign]
    running = asyncio.create_task(stopped.measure(HOUR))
    await listing.wait()
    assert await sizes.measure(HOUR) is None
    clock.pass_(timedelta(minutes=16))
    assert await sizes.measure(HOUR)
    # It goes on after all: what the other wrote stays.
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len((await sizes.read()).recent) == 1


async def test_a_failure_is_no_sample_and_the_next_run_tries_again(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    sizes = Sizes(storage, clock)
    listed = sizes._listed

    async def away() -> Any:
        raise StorageUnavailableError("away")

    sizes._listed = away  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailableError):
        await sizes.measure(HOUR)
    sizes._listed = listed  # type: ignore[method-assign]
    assert await sizes.measure(HOUR)


async def test_prefixes_are_bounded_and_none_is_forgotten_in_the_sum(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    count = 6 * MAX_PREFIXES
    for n in range(count):
        await storage.write(f"p{n:04}/x", b"x" * (n + 1))
    sample = await Sizes(storage, clock).measure(HOUR)
    assert sample is not None
    assert len(sample.prefixes) <= MAX_PREFIXES + 1
    ours = {name: of for name, of in sample.prefixes.items() if name != ".system/"}
    assert sum(objects for objects, _ in ours.values()) >= count
    assert sum(size for _, size in ours.values()) >= count * (count + 1) // 2
    assert sample.prefixes[OTHERS][0] >= count - MAX_PREFIXES
    assert f"p{count - 1:04}/" in sample.prefixes


async def test_a_large_prefix_among_many_small_ones_is_told_exactly(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend())
    first = 4 * MAX_PREFIXES - 5  # About where the small ones before it are added up.
    for n in range(first + 10):
        await storage.write(f"p{n:04}/x", b"x" * 50)
        # Without a prefix, and between all that have one.
        await storage.write(f"p{n:04}", b"x" * (1000 if n >= first + 8 else 0))
    for n in range(first, first + 10):
        for name in range(20):
            await storage.write(f"p{n:04}/x{name}", b"x" * 9)
    sample = await Sizes(storage, clock).measure(HOUR)
    assert sample is not None
    assert [sample.prefixes[f"p{n:04}/"] for n in range(first, first + 10)] == [(21, 230)] * 10
    assert sample.prefixes[""] == (first + 10, 2000)


def test_the_series_is_bounded_and_keeps_one_sample_of_each_day() -> None:
    at, series = datetime(2026, 1, 1, tzinfo=UTC), Series()
    for n in range(24 * (MAX_DAILY + 30)):
        series = series.with_sample(Sample(at + n * HOUR, {"a/": (n, n)}))
    assert len(series.recent) == MAX_RECENT
    assert len(series.daily) == MAX_DAILY
    assert {sample.at.hour for sample in series.daily} == {0}
    assert series.daily[-1].at - series.daily[0].at == timedelta(days=MAX_DAILY - 1)
    assert series.growth() == {"a/": 24}
    # Of a month ago there are samples of days only.
    assert 24 * 27 <= series.growth(timedelta(days=30))["a/"] <= 24 * 30


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"v": 2}', b"\xff"])
async def test_a_damaged_series_is_an_error_with_a_remedy(clock: Clock, damaged: bytes) -> None:
    storage = StorageManager(backend=MemoryBackend())
    await storage.backend.objects.put(KEY, damaged)
    for asked in (Sizes(storage, clock).read(), Sizes(storage, clock).measure(HOUR)):
        with pytest.raises(SerializationError, match=r"sizes\.json"):
            await asked
