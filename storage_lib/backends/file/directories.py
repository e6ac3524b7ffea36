"""The names in a directory, sorted, and kept for a while: a listing by pages would else read a directory of
100,000 names once for every page.

What is kept is used only while the directory is, by its times, the one that was read. Its times change with
every entry that any process makes, renames or removes, but no finer than the clock of the file system (2 s on
the coarsest). So names are kept only if the directory had been left alone for longer than that when its
reading began: a change after that shows. The change time counts too, because programs that unpack archives
set the other one back.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from typing import NamedTuple

from storage_lib.backends.file.folder import Folder

_QUIET_SECONDS = 3
_KEPT_SECONDS = 60
_KEPT_BYTES = 32 * 1024 * 1024
_MIN_NAMES = 500
"""Fewer are read anew as fast as they are looked up."""
_RUN = 4096
"""Names that are sorted at a time: `list.sort` lets no other thread run, for about a millisecond here."""


class Directory(NamedTuple):
    """``path`` is relative to the folder. ``own``: our files in it are objects of this place;
    ``foreign``: other programs' files are."""

    path: bytes
    own: bool = True
    foreign: bool = True


class Names(NamedTuple):
    """``ordered`` may hold a name twice. ``below`` says what the names that end in a slash stand for."""

    ordered: list[str]
    below: dict[str, list[Directory]]


_State = tuple[int, int, int, int]


class Reading:
    """The directories that are being read, as they were before."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._states: dict[bytes, _State] = {}
        self._is_quiet = True

    def begin(self, path: bytes) -> None:
        """Call it before ``path`` is read."""
        state = self._state(path)
        # A system clock that runs behind makes the age negative, which is not quiet.
        if state is None or not time.time() - max(state[2:]) / 1e9 > _QUIET_SECONDS:
            self._is_quiet = False
        else:
            self._states[path] = state

    def can_be_kept(self) -> bool:
        """Whether any change since would show. Looking at more than a few directories saves nothing."""
        return self._is_quiet and 0 < len(self._states) <= 4

    def is_current(self) -> bool:
        return all(self._state(path) == state for path, state in self._states.items())

    def _state(self, path: bytes) -> _State | None:
        try:
            status = self._folder.status(path)
        except OSError:
            return None  # Reading it says what is wrong.
        if status is None:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


class _Kept(NamedTuple):
    names: Names
    reading: Reading
    until: float
    size: int


class KeptNames:
    """At most 32 MiB of names, the last used, each for a minute. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Directory, ...], _Kept] = OrderedDict()
        self._size = 0

    def find(self, directories: tuple[Directory, ...]) -> Names | None:
        with self._lock:
            kept = self._kept.get(directories)
        if kept is None:
            return None
        current = time.monotonic() < kept.until and kept.reading.is_current()
        with self._lock:
            if not current:
                self._drop(directories)
            elif directories in self._kept:
                self._kept.move_to_end(directories)
        return kept.names if current else None

    def keep(self, directories: tuple[Directory, ...], names: Names, size: int, reading: Reading) -> None:
        """:param size: of the names, in bytes, by `size_of`."""
        if len(names.ordered) < _MIN_NAMES or size > _KEPT_BYTES or not reading.can_be_kept():
            return
        with self._lock:
            self._drop(directories)
            self._kept[directories] = _Kept(names, reading, time.monotonic() + _KEPT_SECONDS, size)
            self._size += size
            while self._size > _KEPT_BYTES:
                self._drop(next(iter(self._kept)))

    def _drop(self, directories: tuple[Directory, ...]) -> None:
        kept = self._kept.pop(directories, None)
        if kept is not None:
            self._size -= kept.size


def size_of(name: str) -> int:
    """About how many bytes of memory a name takes."""
    return len(name) + 64


def is_too_large(size: int) -> bool:
    """Whether names of ``size`` bytes will not be kept in any case."""
    return size > _KEPT_BYTES


def in_order(names: list[str]) -> list[str]:
    """``names`` sorted, without keeping other threads from running for longer than a moment."""
    if len(names) <= _RUN:
        return sorted(names)
    sample = sorted(names[:: -(-len(names) // _RUN)])
    bounds = sample[:: max(1, len(sample) * _RUN // len(names) // 2)]
    runs: list[list[str]] = [[] for _ in range(len(bounds) + 1)]
    for name in names:
        runs[bisect_right(bounds, name)].append(name)
    ordered: list[str] = []
    for run in runs:
        run.sort()
        ordered += run
    return ordered
