"""The removal of objects whose life is over, many together: a look at each, which tells the version to
remove, then all of those, then their markers. A marker goes last, so that no object is ever left without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.ports import expiry
from storage_lib.ports.drivers import ObjectDriver, PutOptions
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.object_model import ObjectInfo
from storage_lib.ports.older import told
from storage_lib.ports.streaming import sha256_of

TOGETHER = 512
"""Objects; how many requests are under way is the driver's to bound."""
_MARKER_TYPE = "text/plain; charset=utf-8"


class _State(Enum):
    """What became of an object."""

    REMOVED = 1
    ALIVE = 2  # Saved anew; a newer marker tells of its end, if there is one.
    MISSING = 3  # Deleted, or still on its way.
    UNKNOWN = 4  # It may have been saved anew: the next sweep looks again.


type _Outcome = _State | BaseException


async def put_marker(core: ObjectDriver, name: str, content: bytes) -> None:
    """Leave a marker (`expiry.marker`)."""
    await core.put(name, content, PutOptions(_MARKER_TYPE, {}, await sha256_of(content)))


async def remove(core: ObjectDriver, found: Sequence[tuple[str, str]]) -> tuple[int, list[BaseException]]:
    """Remove the objects that are over of these (marker, key), and the markers of all that is settled.

    :return: how many were removed, and why others could not be.
    """
    keys = list(dict.fromkeys(key for _, key in found))
    looks = await asyncio.gather(*(_look(core, key) for key in keys), return_exceptions=True)
    over = [look for look in looks if isinstance(look, ObjectInfo)]
    ends = await asyncio.gather(*(_remove(core, info) for info in over), return_exceptions=True)
    removed = dict(zip((info.key for info in over), ends, strict=True))
    outcomes: dict[str, _Outcome] = {
        key: removed[key] if isinstance(look, ObjectInfo) else look
        for key, look in zip(keys, looks, strict=True)
    }
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, BaseException)]
    settled = [
        (marker, key)
        for marker, key in found
        if isinstance(state := outcomes[key], _State) and state is not _State.UNKNOWN
    ]
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
    return ends.count(_State.REMOVED), failures


async def _look(core: ObjectDriver, key: str) -> ObjectInfo | _State:
    older: list[bool] = []
    try:
        with told(lambda: older.append(True)):
            info = await core.head(key)
    except KeyNotFoundError:
        return _State.UNKNOWN if older else _State.MISSING
    if older:
        return _State.UNKNOWN
    until = expiry.end_in(info.metadata)
    return info if until is not None and until <= core.clock() else _State.ALIVE


async def _remove(core: ObjectDriver, info: ObjectInfo) -> _State:
    try:
        await core.remove(info)
    except PreconditionFailedError:
        return _State.ALIVE
    except KeyNotFoundError:
        return _State.MISSING
    except UnknownOutcomeError:
        return _State.UNKNOWN
    return _State.REMOVED
