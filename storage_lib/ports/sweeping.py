"""The removal of objects whose life is over, many together: a look at each, which tells the version to
remove, then all of those, then their markers. A marker goes last, so that no object is ever left without one.

Where a condition does not heed a save of the same bytes, each is removed right after its look.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import NamedTuple

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageUnavailableError
from storage_lib.ports import expiry
from storage_lib.ports.drivers import PLAIN_GET, ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.hints import OLDER, within
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.ports.streaming import sha256_of

_FAILURES = 16
_MARKERS = 1000
"""How many markers are listed at a time; each listing starts again."""
TOGETHER = 512
"""Objects; how many requests are under way is the driver's to bound."""
_ONE_BY_ONE = 64
"""Objects that are looked at and not yet removed, where that is to be quick: none is to wait for its turn."""
_MARKER_TYPE = "text/plain; charset=utf-8"


class _State(Enum):
    """What became of an object."""

    REMOVED = 1
    REPLACED = 2  # A newer marker tells of its end, if there is one.
    MISSING = 3  # Deleted, or still on its way.
    UNKNOWN = 4  # It may have been saved anew: the next sweep looks again.


class _Alive(NamedTuple):
    """It lives, until the ``end`` as it is stored."""

    end: str | None


type _Outcome = _State | _Alive | BaseException


async def put_marker(core: ObjectDriver, name: str, content: bytes) -> None:
    """Leave a marker (`expiry.marker`)."""
    await core.put(name, content, PutOptions(_MARKER_TYPE, {}, await sha256_of(content)))


async def sweep(core: ObjectDriver, limit: int, seconds: float | None) -> int:
    """`ObjectStore.sweep_expired`, of a store that does not end objects itself."""
    await core.remove_stale()
    removed = 0
    failures: list[BaseException] = []
    now, until = expiry.end_of(core.clock(), 0), time.monotonic() + (math.inf if seconds is None else seconds)
    due: deque[tuple[str, str]] = deque()
    after, more = None, True
    while removed < limit and time.monotonic() < until:
        if not due:
            if not more:
                break
            due.extend([found async for found in due_markers(core, _MARKERS, after, now)])
            more = len(due) == _MARKERS
            if not due:
                break
        batch = [due.popleft() for _ in range(min(len(due), TOGETHER, limit - removed))]
        after = batch[-1][0]
        count, failed = await remove(core, batch)
        removed += count
        failures += failed
        if any(isinstance(failure, StorageUnavailableError) for failure in failed):
            break  # The others would fail alike.
        if len(failures) >= max(limit, _FAILURES):
            break  # What cannot be removed must not make one sweep endless.
    if failures:
        raise failures[0]
    return removed


async def due_markers(
    core: ObjectDriver, limit: int | None, after: str | None = None, now: str | None = None
) -> AsyncIterator[tuple[str, str]]:
    """(marker, key) of what has expired, first the longest gone, behind the marker ``after``.

    :param now: the moment, as `expiry.end_of` writes it, that decides; None takes the clock's.
    """
    now = now or expiry.end_of(core.clock(), 0)
    count = 0
    async for found in core.scan(expiry.MARKERS, ListOptions(after=after, count=limit)):
        assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
        if not expiry.is_due(found.key, now) or count == limit:
            return
        count += 1
        key = expiry.marked_key(found.key)
        if key is None:
            try:
                stored = await core.get(found.key, PLAIN_GET)
            except KeyNotFoundError:
                continue  # Another sweep was here.
            assert stored is not None  # noqa: S101 - only a get with if_none_match answers None
            key = stored.data.decode()
        yield found.key, key


async def remove(core: ObjectDriver, found: Sequence[tuple[str, str]]) -> tuple[int, list[BaseException]]:
    """Remove the objects that are over of these (marker, key), and the markers of all that is settled.

    :return: how many were removed, and why others could not be.
    """
    keys = list(dict.fromkeys(key for _, key in found))
    outcomes = await (_together if core.capabilities.tells_saves else _one_by_one)(core, keys)
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, BaseException)]
    settled = [(marker, key) for marker, key in found if _is_settled(outcomes[key], marker)]
    late = [
        made
        for marker, key in settled
        if outcomes[key] is _State.MISSING and (made := expiry.late_marker(marker, key)) is not None
    ]
    try:
        await asyncio.gather(*(put_marker(core, *made) for made in late))
        await core.discard([marker for marker, _ in settled])
    except Exception as error:
        failures.append(error)
    return list(outcomes.values()).count(_State.REMOVED), failures


async def _together(core: ObjectDriver, keys: Sequence[str]) -> dict[str, _Outcome]:
    looks = await asyncio.gather(*(_look(core, key) for key in keys), return_exceptions=True)
    over = [look for look in looks if isinstance(look, ObjectInfo)]
    ends = await asyncio.gather(*(_remove(core, info) for info in over), return_exceptions=True)
    removed = dict(zip((info.key for info in over), ends, strict=True))
    return {
        key: removed[key] if isinstance(look, ObjectInfo) else look
        for key, look in zip(keys, looks, strict=True)
    }


async def _one_by_one(core: ObjectDriver, keys: Sequence[str]) -> dict[str, _Outcome]:
    turns = asyncio.Semaphore(_ONE_BY_ONE)

    async def settle(key: str) -> _State | _Alive:
        async with turns:
            look = await _look(core, key)
            return await _remove(core, look) if isinstance(look, ObjectInfo) else look

    outcomes = await asyncio.gather(*(settle(key) for key in keys), return_exceptions=True)
    return dict(zip(keys, outcomes, strict=True))


def _is_settled(outcome: _Outcome, marker: str) -> bool:
    """Whether the marker is of no more use."""
    if isinstance(outcome, _Alive):
        # Of one that ends when the marker says, it is needed: clocks differ, and may be set back.
        return outcome.end is None or outcome.end > expiry.told_end(marker)
    return isinstance(outcome, _State) and outcome is not _State.UNKNOWN


async def _look(core: ObjectDriver, key: str) -> ObjectInfo | _State | _Alive:
    older: list[bool] = []
    try:
        with within(OLDER, lambda: older.append(True)):
            info = await core.head(key)
    except KeyNotFoundError:
        return _State.UNKNOWN if older else _State.MISSING
    if older:
        return _State.UNKNOWN
    until = expiry.end_in(info.metadata)
    if until is not None and until <= core.clock():
        return info
    return _Alive(None if until is None else info.metadata[expiry.METADATA])


async def _remove(core: ObjectDriver, info: ObjectInfo) -> _State:
    try:
        await core.remove(info)
    except PreconditionFailedError:
        return _State.REPLACED
    except KeyNotFoundError:
        return _State.MISSING
    except UnknownOutcomeError:
        return _State.UNKNOWN
    return _State.REMOVED
