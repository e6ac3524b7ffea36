"""Files that survive a crash: whole or not at all, and on the disk before anyone is told.

The order that POSIX and ext4, XFS, Btrfs and APFS agree on: write a temporary file, fsync it, rename it into
place, fsync the directory. A crash before the rename leaves the old file, after it the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from itertools import count

from storage_lib.backends.file.folder import OWNER, Rights, descriptor

_STALE_SECONDS = 60
_KEPT_SUFFIX = ".part"
_KEPT_SECONDS = 7 * 24 * 3600


class TemporaryFiles:
    """Temporary files in a directory of their own, each locked by whoever writes it."""

    def __init__(self, directory: str, rights: Rights = OWNER) -> None:
        self._directory = directory
        self._rights = rights
        self._new_names()

    def _new_names(self) -> None:
        self._prefix = f"{self._directory}/{os.urandom(8).hex()}"
        self._numbers = count()

    def create(self) -> tuple[int, str]:
        """A new file, open for writing, and its path. `remove_stale` spares it until it is closed."""
        while True:
            path = f"{self._prefix}-{next(self._numbers)}.tmp"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._rights.file)
                break
            except FileExistsError:  # of a process that was forked from this one
                self._new_names()
        try:
            self._rights.give(fd, self._rights.file)
            with contextlib.suppress(OSError):  # without locks its age alone spares it
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            os.unlink(path)
            raise
        return fd, path

    def continued(self, name: str) -> tuple[int, str] | None:
        """A file that outlives its process, open as an earlier one left it; None if another process writes it
        at this moment. `remove_stale` spares it for a week."""
        path = f"{self._directory}/{name}{_KEPT_SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self._rights.file)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it locked may have renamed it just now.
            if not os.path.exists(path) or not os.path.samestat(os.stat(path), os.fstat(fd)):
                raise BlockingIOError
            self._rights.give(fd, self._rights.file)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd, path

    def kept(self, name: str) -> list[tuple[str, int]]:
        """What follows ``name`` in the names of `continued` files, and their sizes."""
        found: list[tuple[str, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith(name) and entry.name.endswith(_KEPT_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        size = entry.stat(follow_symlinks=False).st_size
                        found.append((entry.name[len(name) : -len(_KEPT_SUFFIX)], size))
        return found

    def drop(self, name: str, spared: str | None = None) -> None:
        """Remove the `continued` files whose names begin with ``name``, but none that begins with ``spared``,
        and none that a process writes at this moment."""
        for rest, _ in self.kept(name):
            if spared is None or not (name + rest).startswith(spared):
                with contextlib.suppress(OSError):
                    _unlink_unlocked(f"{self._directory}/{name}{rest}{_KEPT_SUFFIX}")

    @contextlib.contextmanager
    def written(self, data: bytes) -> Generator[str]:
        """The path of a file that holds ``data`` and is on the disk. Gone at the end unless renamed."""
        fd, path = self.create()
        try:
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def remove_stale(self) -> None:
        """Remove what crashed processes left: files that nobody holds locked any more, a minute after they
        were written to last.

        The kernel lets go of a lock when its holder dies, which tells the dead from the living in other
        containers too, where process ids mean nothing. The minute is for a file that is just being made.
        """
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith((".tmp", _KEPT_SUFFIX)):
                    with contextlib.suppress(OSError):
                        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                        if age > (_STALE_SECONDS if entry.name.endswith(".tmp") else _KEPT_SECONDS):
                            _unlink_unlocked(entry.path)


def _unlink_unlocked(path: str) -> None:
    """:raises OSError: the file is locked, gone, or no file."""
    with descriptor(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)


def write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a signal, or more than the 2 GiB that one call takes
        with memoryview(data) as view, view[written:] as rest:
            written += os.write(fd, rest)


def write_all_at(fd: int, data: bytes, offset: int) -> None:
    with memoryview(data) as view:
        written = 0
        while written < len(data):
            with view[written:] as rest:
                written += os.pwrite(fd, rest, offset + written)


def start_writeback(fd: int, offset: int = 0, size: int = 0) -> None:
    """Ask the system to begin writing the file's data (``size`` bytes from ``offset``; 0: to the end),
    without waiting.

    Files that are all on their way when the first of them is synced share one commit of the file system's
    journal. Only a hint: what is promised is promised by fsync.
    """
    if hasattr(os, "posix_fadvise"):
        # On Linux this begins the writeback of what is dirty, which cannot be dropped.
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


def sync_directory(directory: str) -> None:
    with descriptor(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
