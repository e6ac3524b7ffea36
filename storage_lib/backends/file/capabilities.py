"""What the file system must be able to do for the promises of this backend, tried before it is used."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from storage_lib.errors import ConfigurationError

_REFUSED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM, errno.EACCES}
    | {errno.EISDIR, errno.ENOLCK}
)


def check_capabilities(base: str, file: str, directories: list[str]) -> None:
    """Sync a file and the directories of a data folder, and try a lock. All of it changes nothing.

    :raises ConfigurationError: one of them is refused.
    """
    with _opened(file) as fd, _needed(base, "sync a file (fsync)"):
        os.fsync(fd)
    for directory in directories:
        with _opened(directory) as fd, _needed(base, "sync a directory (fsync)"):
            os.fsync(fd)
    with _opened(file) as fd, _needed(base, "lock a file (flock)"), suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


@contextmanager
def _opened(path: str) -> Generator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _needed(base: str, what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            return  # It can be read.
        if error.errno not in _REFUSED:
            raise
        raise ConfigurationError(
            f"the file system of {base} cannot {what}: {error.strerror}",
            field="base_path",
            remedy="keep the data folder on a local file system (ext4, XFS, Btrfs, APFS), or mount the"
            " network file system so that it can",
        ) from error
