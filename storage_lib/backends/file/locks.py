"""Exclusion of writers of one key, across threads and processes.

256 lock files, a key's by its CRC-32: two keys may share one, which costs waiting and nothing else. Each
holder opens the file anew, because `flock` belongs to the opened file and so excludes threads as well; the
kernel lets go when a process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Generator


class KeyLocks:
    def __init__(self, directory: str) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def held(self, key: str) -> Generator[None]:
        """Wait for the key's lock and hold it. Never hold two: their order is not defined."""
        shard = zlib.crc32(key.encode()) & 0xFF
        fd = os.open(f"{self._directory}/{shard:02x}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            # A child process forked meanwhile holds a copy of the descriptor: closing ours is not enough.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
