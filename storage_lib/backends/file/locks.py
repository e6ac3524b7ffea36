"""Exclusion of writers of one key, across threads and processes.

256 lock files, a key's by its CRC-32: two keys may share one, which costs waiting and nothing else. Each
holder opens the file anew, because `flock` belongs to the opened file and so excludes threads as well; the
kernel lets go when a process dies.

A lock is held for the moment of a rename. Whoever waits longer waits for a process that was stopped, or for
another program, and is told so after a while. Writes that
have to wait so long do that by themselves (`LateWrites`), so that nothing else waits for them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from storage_lib.backends.file.folder import OWNER, Rights
from storage_lib.errors import TransientStorageError

PATIENCE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 0.005


class LockedError(TransientStorageError):
    """Someone else has held a key's lock for the whole of the time; nothing was changed."""


def name_of(key: str) -> str:
    """The file that is the key's lock."""
    return f"{zlib.crc32(key.encode()) & 0xFF:02x}.lock"


class KeyLocks:
    def __init__(self, directory: str, rights: Rights = OWNER) -> None:
        self._directory = directory
        self._rights = rights

    @contextlib.contextmanager
    def held(self, key: str, patience: float | None = None) -> Generator[None]:
        """Wait for the key's lock and hold it. Never hold two: their order is not defined.

        :param patience: seconds to wait; None means `PATIENCE_SECONDS`.
        :raises LockedError: it was not free in that time.
        """
        name = name_of(key)
        fd = self._open(f"{self._directory}/{name}")
        try:
            _acquire(fd, key, name, PATIENCE_SECONDS if patience is None else patience)
            yield
        finally:
            # A child process forked meanwhile holds a copy of the descriptor: closing ours is not enough.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            fd = os.open(path, flags | os.O_CREAT, self._rights.file)
        self._rights.give(fd, self._rights.file)
        return fd


def _acquire(fd: int, key: str, name: str, patience: float) -> None:
    give_up = time.monotonic() + patience
    pause = 0.00005
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= give_up:
            raise LockedError(
                f"object {key!r}: its lock, system/locks/{name}, has been held by another for {patience:g} s",
                remedy="end or resume the process that holds it (`fuser` or `lslocks` names it); try again",
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


_THREADS = 16


@dataclass(slots=True)
class LateWrite:
    """``finish`` does it, waiting for the lock no longer than it is told."""

    finish: Callable[[float], None]
    until: float = field(default_factory=lambda: time.monotonic() + PATIENCE_SECONDS)


class LateWrites:
    """One thread for each lock: who waits for the same one has nothing to try before that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[LateWrite]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def add(self, key: str, finish: Callable[[float], None]) -> None:
        """Have it finished in a thread of its own; at once, here, if there is none."""
        name, late = name_of(key), LateWrite(finish)
        with self._lock:
            if name in self._lines:
                return self._lines[name].append(late)
            self._lines[name] = deque([late])
            try:
                if not self._closed:
                    self._threads = self._threads or ThreadPoolExecutor(
                        _THREADS, thread_name_prefix="storage-files-late"
                    )
                    self._threads.submit(self._work_off, name)
                    return None
            except RuntimeError:  # no more threads
                pass
        self._work_off(name)
        return None

    def _work_off(self, name: str) -> None:
        while True:
            with self._lock:
                if not (line := self._lines[name]):
                    del self._lines[name]
                    return
                late = line.popleft()
            late.finish(max(late.until - time.monotonic(), 0))

    def close(self) -> None:
        """Wait until all are done."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
