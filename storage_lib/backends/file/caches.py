"""What listings keep for a while: the names in directories (`KeptNames`) and what was read of files
(`KnownEntries`). A listing by pages would else read a directory of 100,000 names once for every page.

Where the kernel tells what changes in a directory (`Watches`), names that are kept are brought up to date by
that. Elsewhere they are used only while the directory is, by its times, the one that was read. Its times
change with every entry that any process makes, renames or removes, but no finer than the clock of the file
system (2 s on the coarsest). So names are kept only if the directory had been left alone for longer than that
when its reading began: a change after that shows. The change time counts too, because programs that unpack
archives set the other one back. The same holds for files.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from storage_lib.backends.file.files import ObjectFiles
from storage_lib.backends.file.folder import DIRECTORY, Folder
from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.ports import hidden
from storage_lib.ports.object_model import ListEntry, ObjectInfo

if TYPE_CHECKING:
    import ctypes

MAX_CHANGES = 1000
"""Of one directory between two listings: to read it again costs less than to look at more."""

_EVENT = struct.Struct("iIII")
_BUFFER = 64 * 1024
_CHANGES = 0x40 | 0x80 | 0x100 | 0x200 | 0x01000000
"""IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE of a directory (IN_ONLYDIR)."""
_OVERFLOW = 0x4000
_LOST = _OVERFLOW | 0x8000 | 0x2000
"""IN_Q_OVERFLOW, IN_IGNORED, IN_UNMOUNT: what changes from now on, or has changed already, is not told."""
_LOCAL = {
    0xEF53,  # ext2 to ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0xCA451A4E,  # bcachefs
    0xF2F52010,  # F2FS
    0x2FC12FC1,  # ZFS
    0x01021994,  # tmpfs
    0x794C7630,  # overlayfs
}


class Changes:
    """The names that have changed in one directory since `Watches.take` was called last."""

    def __init__(self, watch: int) -> None:
        self.watch = watch
        self.names: set[bytes] = set()
        self.lost = False
        """Whether there may be others."""


class Watches:
    """What changes in directories, by the kernel's word (inotify), whichever process changes it.

    The kernel queues a change before the call that made it returns: what was saved before a listing began is
    known to it. It tells nothing of what other machines do on a network file system, so only the file systems
    of one machine are watched. Without inotify, or where the system allows no more of it, nothing is watched.
    Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._watched: dict[int, list[Changes]] = {}

    def begin(self, folder: Folder, path: bytes) -> Changes | None:
        """Watch the directory at ``path``; None where that cannot be. Whoever begins it ends it."""
        calls = _calls()
        if calls is None:
            return None
        try:
            directory = folder.open(path, DIRECTORY)
        except OSError:
            return None  # Reading it says what is wrong.
        try:
            with self._lock:
                if not calls.is_local(directory):
                    return None
                if self._fd is None and (fd := calls.init(os.O_NONBLOCK | os.O_CLOEXEC)) >= 0:
                    self._fd = fd
                if self._fd is None:
                    return None
                # By its descriptor, because a path could be another directory's by now.
                watch = calls.add(self._fd, b"/proc/self/fd/%d" % directory, _CHANGES)
                if watch < 0:
                    return None
                changes = Changes(watch)
                self._watched.setdefault(watch, []).append(changes)
                return changes
        finally:
            os.close(directory)

    def take(self, changes: Changes) -> set[bytes] | None:
        """The names of all that has changed since the last time; None if they are not known."""
        with self._lock:
            self._read()
            if changes.lost:
                return None
            names, changes.names = changes.names, set()
            return names

    def end(self, changes: Changes) -> None:
        with self._lock:
            self._lose(changes)

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            for changes in [changes for sharing in self._watched.values() for changes in sharing]:
                changes.lost = True
            self._watched.clear()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    __del__ = close

    def _lose(self, changes: Changes) -> None:
        """Keep nothing more of it: it may never be taken, while others are taken for ever."""
        changes.lost = True
        changes.names.clear()
        sharing = self._watched.get(changes.watch, [])
        if changes in sharing:
            sharing.remove(changes)
            if not sharing:
                self._forget(changes.watch)

    def _forget(self, watch: int) -> None:
        del self._watched[watch]
        if self._fd is not None and (calls := _calls()) is not None:
            calls.remove(self._fd, watch)

    def _read(self) -> None:
        while self._fd is not None:
            try:
                events = os.read(self._fd, _BUFFER)
            except BlockingIOError:
                return
            at = 0
            while at < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                name = events[at - length : at].rstrip(b"\0")
                sharing = self._watched.values() if mask & _OVERFLOW else [self._watched.get(watch, [])]
                for changes in [changes for some in sharing for changes in some]:
                    changes.names.add(name)
                    if mask & _LOST or len(changes.names) > MAX_CHANGES:
                        self._lose(changes)


class _Calls:
    """Those of Linux that Python does not have."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.init = library.inotify_init1
        self.add = library.inotify_add_watch
        self.remove = library.inotify_rm_watch
        self._status = library.fstatfs

    def is_local(self, fd: int) -> bool:
        """Whether only this machine changes the file system that ``fd`` is on."""
        import ctypes

        status = (ctypes.c_long * 64)()  # begins with the type, and is longer than the system fills
        return self._status(fd, status) == 0 and status[0] & 0xFFFFFFFF in _LOCAL


@cache
def _calls() -> _Calls | None:
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        return _Calls(ctypes.CDLL(None))
    except (ImportError, OSError, AttributeError):
        return None


_QUIET_SECONDS = 3
_KEPT_SECONDS = 60
_KEPT_BYTES = 32 * 1024 * 1024
_MIN_NAMES = 500
"""Fewer are read anew as fast as they are looked up."""
_RUN = 4096
"""Names that are sorted at a time: `list.sort` lets no other thread run, for about a millisecond here."""
_WATCHED_BYTES = 4096
"""A directory of more bytes than this may have enough names to be kept; most file systems give each directory
a block at least."""


class Directory(NamedTuple):
    """``path`` is relative to the folder. ``own``: our files in it are objects of this place;
    ``foreign``: other programs' files are."""

    path: bytes
    own: bool = True
    foreign: bool = True


class Names(NamedTuple):
    """``ordered`` may hold a name twice. ``below`` says what the names that end in a slash stand for.
    ``size`` is that of the names in bytes, by `size_of`."""

    ordered: list[str]
    below: dict[str, list[Directory]]
    size: int


type _State = tuple[int, int, int, int]
"""Of a directory device, inode and both times in nanoseconds; of a file inode, size and both times."""


class Reading:
    """The directories that are being read, as they were before.

    :param watches: None where a change of an entry does not say which names it changes.
    """

    def __init__(self, folder: Folder, watches: Watches | None) -> None:
        self._folder = folder
        self._watches = watches
        self._states: dict[bytes, _State] = {}
        self._changes: dict[bytes, Changes | None] = {}
        self._is_quiet = True

    def begin(self, path: bytes, *, whole: bool = True) -> None:
        """Call it before ``path`` is read. ``whole``: what is in it are segments, not parts of one."""
        self._changes[path] = None
        state, size = self._state(path)
        if state is None:
            self._is_quiet = False
            return
        # A system clock that runs behind makes the age negative, which is not quiet.
        if not time.time() - max(state[2:]) / 1e9 > _QUIET_SECONDS:
            self._is_quiet = False
        self._states[path] = state
        if self._watches is not None and whole and size > _WATCHED_BYTES:
            self._changes[path] = self._watches.begin(self._folder, path)

    def can_be_kept(self) -> bool:
        """Whether any change since would show. Looking at more than a few directories saves nothing."""
        return 0 < len(self._states) <= 4 and (self._is_quiet or self._is_watched())

    def changed(self) -> list[tuple[bytes, bytes]] | None:
        """The paths of directories, and the names in them, that have changed since it was asked last; None if
        they have to be read again."""
        if not self._is_watched():
            current = all(self._state(path)[0] == state for path, state in self._states.items())
            return [] if current else None
        if any((self._state(path)[0] or ())[:2] != state[:2] for path, state in self._states.items()):
            return None
        found: list[tuple[bytes, bytes]] = []
        for path, changes in self._changes.items():
            names = self._watches.take(changes) if self._watches and changes else None
            if names is None:
                return None
            found += [(path, name) for name in names]
        return found

    def end(self) -> None:
        for changes in self._changes.values():
            if self._watches and changes:
                self._watches.end(changes)

    def _is_watched(self) -> bool:
        return all(changes is not None for changes in self._changes.values())

    def _state(self, path: bytes) -> tuple[_State | None, int]:
        try:
            status = self._folder.status(path)
        except OSError:
            return None, 0  # Reading it says what is wrong.
        if status is None:
            return None, 0
        return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns), status.st_size


type Update = Callable[[Names, list[tuple[bytes, bytes]]], Names | None]
"""Other names after changes (see `Reading.changed`); None where they have to be read again."""


class _Kept:
    def __init__(self, names: Names, reading: Reading) -> None:
        self.names = names
        self.reading = reading
        self.counted = 0
        """Bytes that `KeptNames` counts for it."""
        self._until = time.monotonic() + _KEPT_SECONDS
        self._lock = threading.Lock()

    def current(self, update: Update) -> Names | None:
        """The names as they are now; None if they have to be read again."""
        with self._lock:  # Nobody else may take them for current while they are brought up to date.
            changed = self.reading.changed() if time.monotonic() < self._until else None
            if changed is not None and (names := update(self.names, changed) if changed else self.names):
                self.names = names
                return names
            self._until = 0.0
            return None


class KeptNames:
    """At most 32 MiB of names, the last used, each for a minute. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Directory, ...], _Kept] = OrderedDict()
        self._size = 0
        self._watches = Watches()

    def reading(self, folder: Folder, *, watched: bool) -> Reading:
        return Reading(folder, self._watches if watched else None)

    def find(self, directories: tuple[Directory, ...], update: Update) -> Names | None:
        """The names as they are now; None if they have to be read."""
        with self._lock:
            kept = self._kept.get(directories)
        if kept is None:
            return None
        names = kept.current(update)
        with self._lock:
            if self._kept.get(directories) is kept:
                if names is None:
                    self._drop(directories)
                else:
                    self._count(kept, names)
                    self._kept.move_to_end(directories)
                    self._limit()
        return names

    def keep(self, directories: tuple[Directory, ...], names: Names, reading: Reading) -> None:
        if len(names.ordered) < _MIN_NAMES or is_too_large(names.size) or not reading.can_be_kept():
            reading.end()
            return
        kept = _Kept(names, reading)
        with self._lock:
            self._drop(directories)
            self._kept[directories] = kept
            self._count(kept, names)
            self._limit()

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._size = 0
            self._watches.close()

    def _count(self, kept: _Kept, names: Names) -> None:
        self._size += names.size - kept.counted
        kept.counted = names.size

    def _limit(self) -> None:
        while self._size > _KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, directories: tuple[Directory, ...]) -> None:
        kept = self._kept.pop(directories, None)
        if kept is not None:
            self._size -= kept.counted
            kept.reading.end()


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


_KEPT_ENTRIES = 10_000
"""Entries, of about 1 KiB each: ten pages of a listing. Of more, the first that came goes first."""


class _Known(NamedTuple):
    """An entry, of a file as it was; the names of its directory and of the file there.

    ``has_metadata``: callers may change the dict of an entry, so each gets its own. Of an empty one that
    would take too long: whether it is still empty is seen.
    """

    entry: ListEntry
    has_metadata: bool
    state: _State
    directory: bytes
    file: bytes


class KnownEntries:
    """What listings have read of files, so that the next one need not open each of them again.

    A file of ours is never changed, only replaced by another: an entry holds as long as the inode, the size
    and both times of the file are those that were read. Its times are no finer than the clock of the file
    system, so an entry is kept only if the file had been left alone for longer than that when it was read; a
    change after that shows. Any thread may use it.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def entries(self, files: ObjectFiles, names: list[str]) -> list[ListEntry | str]:
        """What a listing tells of these keys, and the common prefixes among them as they are. An object that
        has gone is left out; of one that is damaged there is the key alone: it must not hide the others, and
        loading it says what is wrong."""
        found: list[ListEntry | str] = []
        known, above, fd = self._known, b"", -1
        now = time.time()  # before a file is read, for that may take any time
        try:
            for name in names:
                if (kept := known.get(name)) is not None:
                    entry, has_metadata, state, directory, file = kept
                    if fd < 0 or directory != above:
                        if fd >= 0:
                            os.close(fd)
                        above, fd = directory, _opened(files, directory)
                    try:
                        if fd >= 0 and _state(os.stat(file, dir_fd=fd, follow_symlinks=False)) == state:
                            if has_metadata:
                                found.append(_own(entry))
                                continue
                            if entry.info is not None and not entry.info.metadata:
                                found.append(entry)
                                continue
                    except OSError:
                        pass  # Reading the object says what is wrong.
                if name.endswith("/"):
                    found.append(name)
                    continue
                directory, _, file = files.path(name).rpartition(b"/")
                if fd < 0 or directory != above:
                    if fd >= 0:
                        os.close(fd)
                    above, fd = directory, _opened(files, directory)
                try:
                    info, status = (files.told_at(fd, file, name) if fd >= 0 else None) or files.told(name)
                    found.append(self._kept(info, status, directory, file, now))
                except KeyNotFoundError:
                    continue  # deleted since its directory was read
                except IntegrityError:
                    found.append(ListEntry(name))
        finally:
            if fd >= 0:
                os.close(fd)
        return found

    def _kept(
        self, info: ObjectInfo, status: os.stat_result | None, directory: bytes, file: bytes, now: float
    ) -> ListEntry:
        key, entry = info.key, hidden.entry(info)
        if status is None or now - max(status.st_mtime, status.st_ctime) <= _QUIET_SECONDS:
            return entry
        with self._lock:
            if len(self._known) >= _KEPT_ENTRIES and key not in self._known:
                del self._known[next(iter(self._known))]
            self._known[key] = _Known(entry, bool(info.metadata), _state(status), directory, file)
        return _own(entry) if info.metadata else entry


def _own(entry: ListEntry) -> ListEntry:
    """An equal entry with a dict of its own."""
    assert entry.info is not None  # noqa: S101 - or it would not be kept
    return replace(entry, info=replace(entry.info, metadata=dict(entry.info.metadata)))


def _opened(files: ObjectFiles, directory: bytes) -> int:
    """A descriptor of a directory; -1 if it cannot be opened, which reading an object in it will explain."""
    try:
        return files.folder.open(directory, DIRECTORY)
    except OSError:
        return -1


def _state(status: os.stat_result) -> _State:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
