"""The lives that are over, by the first markers of a store: for listings of stores that do not tell it."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import aclosing

from storage_lib.ports import expiry
from storage_lib.ports.drivers import ListOptions, ObjectDriver
from storage_lib.ports.object_model import ListEntry

_FIRST = 100
"""Markers that are asked for at first; mostly none of them is due."""
_HELD = 1000
"""Keys that are held at most. Of more, each object is looked at instead."""
_FRESH_SECONDS = 1.0
"""For which a look counts: another process may save what ends at once."""


class Endings:
    """Which objects may be over: those of the markers that are due. Whether one is, it tells itself: it
    may have been saved again since.

    :param core: the driver whose markers these are.
    """

    def __init__(self, core: ObjectDriver) -> None:
        self._core = core
        self._keys: list[str] = []
        self._hashes: set[str] = set()
        self._looked: float | None = None
        self._next: float | None = None
        self.too_many = False
        """More markers are due than are held, and any object may be over."""

    async def look(self) -> None:
        """Read the markers that are due, if that may have changed."""
        now = self._core.clock()
        is_fresh = self._looked is not None and 0 <= now - self._looked < _FRESH_SECONDS
        if is_fresh and (self._next is None or now < self._next):
            return
        keys: set[str] = set()
        hashes: set[str] = set()
        following = None
        too_many = False
        due = expiry.end_of(now, 0)
        async with aclosing(self._core.scan(expiry.MARKERS, ListOptions(count=_FIRST))) as markers:
            async for found in markers:
                assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
                if not expiry.is_due(found.key, due):
                    following = int(expiry.told_end(found.key)) / 1000
                    break
                if too_many := len(keys) + len(hashes) == _HELD:
                    break
                if (key := expiry.marked_key(found.key)) is None:
                    hashes.add(found.key.rpartition("/")[2])
                else:
                    keys.add(key)
        self._keys, self._hashes, self.too_many = sorted(keys), hashes, too_many
        self._looked, self._next = now, following

    def may_have(self, name: str) -> bool:
        """Whether the object of this key may be over, or one below a common prefix."""
        if self.too_many:
            return True
        at = bisect_left(self._keys, name)
        if name.endswith("/"):
            return bool(self._hashes) or (at < len(self._keys) and self._keys[at].startswith(name))
        if at < len(self._keys) and self._keys[at] == name:
            return True
        return bool(self._hashes) and expiry.hash_of(name) in self._hashes
