"""Time to live: when an object expires, and how that is recorded in stores without expiry.

The expiry of an object is in its metadata (``aos-expires``, milliseconds since the epoch) and is checked
on every read. Each such save first writes a small marker, named by the time of expiry: sweeps remove the
objects named by the markers of the past, and listings hide them where a store's own listing has no metadata
(`living`). ETags of such objects include their expiry, so a condition on an expired object fails without a
request.

An upload can take longer than the life of its object, which then appears after a sweep. The writer marks
it again; in case the writer died, a sweep that finds no object leaves a late marker, which tells a sweep
of the next day to look again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime

from storage_lib.arguments import seconds
from storage_lib.errors import InvalidArgumentError, InvalidKeyError, KeyNotFoundError
from storage_lib.keys import SYSTEM_PREFIX, validate_key
from storage_lib.patterns import pattern

METADATA = "aos-expires"
MARKERS = f"{SYSTEM_PREFIX}ttl/"
MAX_TTL_SECONDS = 100 * 365 * 24 * 3600
GRACE_SECONDS = 24 * 3600
"""How long after its expiry an object may still appear: no upload takes longer (a request may take an
hour, and a terabyte takes a day at 100 Mbit/s)."""

_LATE = f"{SYSTEM_PREFIX}late/"
_LATE_HASHED = f"{SYSTEM_PREFIX}late-hashed/"
_END = pattern(r"[0-9]{14}")
_ETAG = pattern(r"(.*)~([0-9]{14})")


def end_of(now: float, ttl: float | datetime) -> str:
    """The moment ``ttl``, or so many seconds from now, as it is stored: 14 digits of milliseconds, so that
    text sorts."""
    if isinstance(ttl, datetime):
        end = round(ttl.timestamp() * 1000) if ttl.tzinfo is not None else -1
        if not 0 <= end <= (now + MAX_TTL_SECONDS) * 1000:
            raise InvalidArgumentError(
                f"ttl is {ttl}", field="ttl", limit="a moment with a time zone, within 100 years from now"
            )
        return f"{end:014}"
    return f"{int((now + seconds('ttl', ttl, 0, MAX_TTL_SECONDS)) * 1000):014}"


def end_in(metadata: Mapping[str, str]) -> float | None:
    """The end in seconds since the epoch; None for an object that stays."""
    text = metadata.get(METADATA)
    return int(text) / 1000 if text is not None and _END.fullmatch(text) else None


def gone(key: str) -> KeyNotFoundError:
    return KeyNotFoundError(f"object {key!r} does not exist: its time to live is over", field="key")


def join_etag(etag: str, metadata: Mapping[str, str]) -> str:
    """The ETag as callers see it."""
    return etag if end_in(metadata) is None else f"{etag}~{metadata[METADATA]}"


def split_etag(etag: str | None) -> tuple[str | None, float | None]:
    """The store's own ETag, and the end that a caller's ETag carries."""
    match = _ETAG.fullmatch(etag) if etag is not None else None
    return (etag, None) if match is None else (match[1], int(match[2]) / 1000)


def marker(key: str, end: str) -> tuple[str, bytes]:
    """Name and content of the marker of an object."""
    return _named(f"{MARKERS}{end}/{key}", f"{MARKERS}{end}/{SYSTEM_PREFIX}", key)


def _named(name: str, hashed: str, key: str) -> tuple[str, bytes]:
    """A key that leaves no room for more in the name is hashed."""
    try:
        validate_key(name)
    except InvalidKeyError:
        name = hashed + hash_of(key)
    return name, key.encode()


def late_marker(name: str, key: str) -> tuple[str, bytes] | None:
    """The marker by which to look once more for an object that is not there; None if ``name`` is one."""
    end, _, rest = name[len(MARKERS) :].partition("/")
    if rest.startswith((_LATE, _LATE_HASHED)):
        return None
    before = f"{MARKERS}{int(end) + GRACE_SECONDS * 1000:014}/"
    return _named(f"{before}{_LATE}{key}", f"{before}{_LATE_HASHED}", key)


def is_due(name: str, now: str) -> bool:
    return told_end(name) <= now


def told_end(name: str) -> str:
    """The end in a marker's name, as `end_of` writes it."""
    return name[len(MARKERS) :].partition("/")[0]


def marked_key(name: str) -> str | None:
    """The key that a marker's name tells; None if its content has to."""
    key = name[len(MARKERS) :].partition("/")[2].removeprefix(_LATE)
    return None if key.startswith(SYSTEM_PREFIX) else key


def hash_of(key: str) -> str:
    """How the name of a marker ends that does not tell its key."""
    return hashlib.sha256(key.encode()).hexdigest()
