"""The cache: entries by key in the order of their use, and what may still change them."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import chain

import msgspec

from storage_lib.config.caching import CachingOptions
from storage_lib.layers.caching.entries import Entry
from storage_lib.layers.caching.reading import Reading

seconds: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""A clock that also counts the time for which the machine was asleep, where there is one."""


class CacheCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a caching layer has done since it was made.

    ``hits`` were answered from memory, ``misses`` were not in it, and ``stale`` ones were older than
    their time; these three are all reads. ``unchanged`` of the stale ones cost no body. ``joined`` reads
    waited for one that was under way. ``evictions`` made room. ``entries`` are kept now, in about
    ``bytes``.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    unchanged: int = 0
    joined: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


class Writing:
    """A write under way. ``alone``: meanwhile there was no other write of the key, and no `Cache.clear`."""

    __slots__ = ("alone", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.alone = True


class Cache:
    """Entries within a budget of bytes, and the fences between reads and writes.

    Only what a read has found that began after every write of its key had ended is kept, and of several
    reads what the last one to begin has found. A write removes the entry when it begins and when it
    ends. Of an answer that may be older, such as that of a second store in an outage, nothing is kept. So no
    reader is given from here what was there before a write that has been acknowledged.

    Several threads, each with its event loop, may use it at once.
    """

    def __init__(self, options: CachingOptions, clock: Callable[[], float] = seconds) -> None:
        self.now = clock
        self.ttl = options.ttl
        self.hits = self.misses = self.stale = self.unchanged = self.joined = 0
        self._evictions = 0
        self._max_bytes = options.max_bytes
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self._readings: dict[str, Reading] = {}
        self._writings: dict[str, list[Writing]] = {}
        self.peek = self._entries.get
        """The entry of a key, also a stale one; it does not count as use."""

    def counts(self) -> CacheCounts:
        return CacheCounts(
            hits=self.hits,
            misses=self.misses,
            stale=self.stale,
            unchanged=self.unchanged,
            joined=self.joined,
            evictions=self._evictions,
            entries=len(self._entries),
            bytes=self._bytes,
        )

    def used(self, key: str) -> None:
        """Count a hit. Called without the lock: each step is atomic."""
        self.hits += 1
        try:
            self._entries.move_to_end(key)
        except KeyError:
            return  # Another thread has just removed it.

    def clear(self) -> None:
        """Remove every entry, and keep nothing that is being read or written now."""
        with self._ours():
            self._entries.clear()
            self._readings.clear()
            self._bytes = 0
            for writing in chain.from_iterable(self._writings.values()):
                writing.alone = False

    def forget(self, key: str) -> None:
        """Remove an entry that is known to be outdated, and keep nothing that is being read now."""
        with self._ours():
            self._drop(key)
            self._readings.pop(key, None)

    # -- reads

    def reading(self, key: str) -> Reading | None:
        """The read of a key that is under way and was the last one to begin."""
        return self._readings.get(key)

    def begin_read(self, key: str, reading: Reading) -> None:
        with self._ours():
            self._readings[key] = reading

    def end_read(self, key: str, reading: Reading, entry: Entry | None) -> None:
        """Keep ``entry``, or nothing, unless a write or another read of the key began after
        ``reading``, or what it found may be older."""
        with self._ours():
            if self._readings.get(key) is not reading:
                return
            del self._readings[key]
            if key not in self._writings and not reading.older:
                self._put(key, entry)

    def give_up(self, key: str, reading: Reading) -> None:
        """Leave the entry as it is: it is not known whether it still holds."""
        with self._ours():
            if self._readings.get(key) is reading:
                del self._readings[key]

    # -- writes

    def begin_write(self, key: str) -> Writing:
        writing = Writing(self.now())
        with self._ours():
            if others := self._writings.get(key):
                writing.alone = False
                for other in others:
                    other.alone = False
                others.append(writing)
            else:
                self._writings[key] = [writing]
            self._drop(key)
        return writing

    def end_write(self, key: str, writing: Writing, entry: Entry | None) -> None:
        """Keep ``entry``, which was written, if it is known to be the last."""
        with self._ours():
            others = self._writings.get(key, [])
            if writing in others:  # else the process was forked meanwhile
                others.remove(writing)
                if not others:
                    del self._writings[key]
            self._readings.pop(key, None)
            self._put(key, entry if writing.alone else None)

    # -- under the lock

    def _ours(self) -> threading.Lock:
        if self._pid != os.getpid():  # A thread of the parent may have held the lock.
            self._reset()
        return self._lock

    def _put(self, key: str, entry: Entry | None) -> None:
        self._drop(key)
        if entry is None:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.size
            self._evictions += 1

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._bytes -= entry.size
