"""How much is stored below each first-level prefix, and how that grew: a series of bounded length.

The series is one object of the store itself. Any number of hosts may measure; one at a time does, and
nothing that another wrote is lost.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, SerializationError, StorageError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.manager import StorageManager
from storage_lib.ports.drivers import ListOptions
from storage_lib.ports.object_model import ListEntry

KEY = f"{SYSTEM_PREFIX}metrics/sizes.json"
MAX_PREFIXES = 100
"""Of the largest; the sum of the others is that of `OTHERS`."""
OTHERS = "*"
"""Not a prefix: those end with a ``/``, or are empty."""
MAX_RECENT = 48
MAX_DAILY = 400
CLAIM = timedelta(minutes=15)
"""How long others wait for one that measures; it may have been stopped."""
_EARLY = timedelta(minutes=5)
"""How much of a period may be missing: timers are a little late, or early."""
_NEAR = 0.9
"""Of the age of a sample to compare with: there may be none that is older."""
_VERSION = 1


class Sample(msgspec.Struct, frozen=True):
    """What was stored at a time: the objects and bytes below each prefix, which ends with a ``/``; that of
    keys without one is empty."""

    at: datetime
    prefixes: dict[str, tuple[int, int]]

    @property
    def total(self) -> tuple[int, int]:
        return sum(n for n, _ in self.prefixes.values()), sum(size for _, size in self.prefixes.values())


class Series(msgspec.Struct, frozen=True):
    """The latest samples, and the first one of each day; oldest first."""

    v: int = _VERSION
    measuring_since: datetime | None = None
    recent: tuple[Sample, ...] = ()
    daily: tuple[Sample, ...] = ()

    @property
    def newest(self) -> Sample | None:
        return self.recent[-1] if self.recent else None

    def growth(self, over: timedelta = timedelta(days=1)) -> dict[str, int]:
        """By how many bytes each prefix has grown since the sample that is next to so much older than the
        newest one; empty if there is none. A prefix that was not there then has grown by all it has."""
        newest = self.newest
        if newest is None:
            return {}
        aged = [(newest.at - sample.at, sample) for sample in (*self.daily, *self.recent)]
        older = [(abs(age - over), sample) for age, sample in aged if age >= over * _NEAR]
        if not older:
            return {}
        _, nearest = min(older, key=lambda each: each[0])
        before, now = nearest.prefixes, newest.prefixes
        return {
            prefix: now.get(prefix, (0, 0))[1] - before.get(prefix, (0, 0))[1]
            for prefix in before.keys() | now.keys()
        }

    def with_sample(self, sample: Sample) -> Series:
        begins_day = not self.daily or self.daily[-1].at.date() < sample.at.date()
        daily = (*self.daily, sample) if begins_day else self.daily
        return Series(recent=(*self.recent, sample)[-MAX_RECENT:], daily=daily[-MAX_DAILY:])


class Sizes:
    """The series of a storage.

    :param clock: seconds since the epoch; tests inject their own.
    """

    def __init__(self, storage: StorageManager, clock: Callable[[], float] = time.time) -> None:
        self._objects = storage.backend.objects
        self._clock = clock

    async def read(self) -> Series:
        """The series; an empty one before the first measurement.

        :raises SerializationError: it is not one that this version understands.
        """
        return (await self._found())[0]

    async def measure(self, period: timedelta) -> Sample | None:
        """List everything and add a sample, if the newest one is older than ``period`` and nobody else is
        measuring.

        :return: the sample; None if there was nothing to do, or another was faster.
        :raises StorageError: the store cannot be listed; the next call tries again.
        """
        series, etag = await self._found()
        now = self._now()
        newest, since = series.newest, series.measuring_since
        if newest is not None and newest.at <= now < newest.at + period - _EARLY:
            return None
        if since is not None and since <= now < since + CLAIM:
            return None
        try:
            etag = await self._write(msgspec.structs.replace(series, measuring_since=now), etag)
            try:
                sample = Sample(now, await self._listed())
            except BaseException:
                # Otherwise the next measurement waits until the claim is over, which does no harm.
                with contextlib.suppress(StorageError):
                    await self._write(msgspec.structs.replace(series, measuring_since=None), etag)
                raise
            await self._write(series.with_sample(sample), etag)
        except PreconditionFailedError:
            return None
        return sample

    async def _listed(self) -> dict[str, tuple[int, int]]:
        # Round the layers, which may know another size only at the price of a request for each object.
        core = self._objects.driver.core
        counts, sizes = Counter[str](), Counter[str]()
        async for found in core.scan("", ListOptions(details=not core.capabilities.lists_sizes)):
            if isinstance(found, ListEntry):
                first, slash, _ = found.key.partition("/")
                prefix = first + slash if slash else ""
                if prefix not in counts and len(counts) > 4 * MAX_PREFIXES:
                    # All others are complete: keys with a prefix follow each other. Those without do not.
                    _fold(counts, sizes, keep="")
                counts[prefix] += 1
                sizes[prefix] += found.size or 0
        if len(counts) > MAX_PREFIXES:
            _fold(counts, sizes)
        return {prefix: (count, sizes[prefix]) for prefix, count in sorted(counts.items())}

    async def _found(self) -> tuple[Series, str | None]:
        try:
            found = await self._objects.get(KEY, fresh=True)  # Other hosts write it, too.
        except KeyNotFoundError:
            found = None
        if found is None:
            return Series(), None
        try:
            series = msgspec.json.decode(found.data, type=Series)
        except msgspec.DecodeError as error:
            raise SerializationError(f"{KEY} is no series: {error}", remedy=f"delete {KEY}") from error
        if series.v != _VERSION:
            raise SerializationError(f"{KEY} has the version {series.v}", limit=str(_VERSION))
        return series, found.info.etag

    async def _write(self, series: Series, etag: str | None) -> str:
        options: dict[str, Any] = {"if_absent": True} if etag is None else {"if_match": etag}
        data = msgspec.json.encode(series)
        return (await self._objects.put(KEY, data, content_type="application/json", **options)).etag

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _fold(counts: Counter[str], sizes: Counter[str], keep: str = OTHERS) -> None:
    """Add the smallest prefixes up, so that at most `MAX_PREFIXES`, ``keep`` and `OTHERS` are left."""
    ranked = sorted(counts.keys() - {OTHERS, keep}, key=lambda prefix: (sizes[prefix], prefix), reverse=True)
    for prefix in ranked[MAX_PREFIXES:]:
        counts[OTHERS] += counts.pop(prefix)
        sizes[OTHERS] += sizes.pop(prefix)
