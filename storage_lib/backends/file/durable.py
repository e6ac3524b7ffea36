"""Files that survive a crash: whole or not at all, and on the disk before anyone is told.

The order that POSIX and ext4, XFS, Btrfs and APFS agree on: write a temporary file, fsync it, rename it into
place, fsync the directory. A crash before the rename leaves the old file, after it the new one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator

_STALE_SECONDS = 3600


class TemporaryFiles:
    """Temporary files in a directory of their own, named after the process that writes them."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def create(self) -> tuple[int, str]:
        """A new file, open for writing, and its path."""
        path = f"{self._directory}/{os.getpid()}-{os.urandom(8).hex()}.tmp"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path

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
        """Remove what crashed processes left: old, and of a process that is not there any more.

        Both must hold: another process, or one in another container, may be writing right now.
        """
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                pid = entry.name.partition("-")[0]
                if not (entry.name.endswith(".tmp") and pid.isdecimal()):
                    continue
                with contextlib.suppress(OSError):
                    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    if age > _STALE_SECONDS and not _is_running(int(pid)):
                        os.unlink(entry.path)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a signal, or more than the 2 GiB that one call takes
        with memoryview(data) as view, view[written:] as rest:
            written += os.write(fd, rest)


def start_writeback(fd: int) -> None:
    """Ask the system to begin writing the file's data, without waiting.

    Files that are all on their way when the first of them is synced share one commit of the file system's
    journal. Only a hint: what is promised is promised by fsync.
    """
    if hasattr(os, "posix_fadvise"):
        # On Linux this begins the writeback of what is dirty, which can not be dropped.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(directory: str) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        # Emptied and pruned by another meanwhile: what has to be durable is that it is gone.
        return sync_directory(os.path.dirname(directory))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prune(directory: str, root: str) -> None:
    """Remove ``directory`` and its parents below ``root`` as long as they are empty."""
    while len(directory) > len(root):
        try:
            os.rmdir(directory)
        except OSError:
            return
        directory = os.path.dirname(directory)
