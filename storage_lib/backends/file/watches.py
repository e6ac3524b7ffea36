"""What has changed in a directory, by the kernel's word (inotify), whichever process changed it.

The kernel queues a change before the call that made it returns: what was saved before a listing began is
known to it. It tells nothing of what other machines do on a network file system, so only the file systems of
one machine are watched. Without inotify, or where the system allows no more of it, nothing is watched.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING

from storage_lib.backends.file.folder import DIRECTORY, Folder

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
    """Directories that are watched. For any thread."""

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
