"""What the operating system and SQLite say, in the words of errors.py: the one place that translates them."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from types import TracebackType
from typing import Never

from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    InvalidKeyError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.ports.errors import missing

MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_RESTORE = "mount or restore the data folder; to begin with an empty one, restart this process"
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOLCK})


class os_errors:  # noqa: N801 - used as a statement, like contextlib's
    """``with os_errors(key):`` raises every `OSError` inside as the `StorageError` it means.

    :param key: the object in question, or None where the folder itself is.
    :param absent: whether a missing file means that the object does not exist.
    """

    __slots__ = ("absent", "key")

    def __init__(self, key: str | None, *, absent: bool = False) -> None:
        self.key = key
        self.absent = absent

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            _raise(error, self.key, absent=self.absent)


def check_process(pid: int) -> None:
    """Threads do not come along into a forked process: whoever waits for one there waits for ever.

    :raises StorageError: this is not the process with that id.
    """
    if os.getpid() != pid:
        raise StorageError(
            "the backend was made before this process was forked", remedy="make a new one in each process"
        )


@contextlib.contextmanager
def thread_errors() -> Generator[None]:
    """:raises TransientStorageError: there can be no more threads at the moment."""
    try:
        yield
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise TransientStorageError(
            f"the data folder: {error}", remedy="raise the limit of threads"
        ) from error


def check_there(path: str) -> os.stat_result:
    """The status of a part of the data folder. Asked where something is missing, before anyone is told so: a
    folder that was removed, or unmounted, shows no objects any more, but they are not gone.

    :raises StorageUnavailableError: ``path``, a part of the data folder since it was made, is missing.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno not in MISSING:
            raise
        raise StorageUnavailableError(
            f"the data folder is gone: {path!r} was there and is not any more",
            remedy=_RESTORE,
        ) from error


def _raise(error: OSError, key: str | None, *, absent: bool) -> Never:
    code = error.errno
    about = f"object {key!r}" if key is not None else "the data folder"
    words = error.strerror or str(error)
    if absent and key is not None and code in MISSING:
        raise missing(key) from error
    if code in _DENIED:
        raise AccessDeniedError(
            f"{about}: {words} ({error.filename})",
            remedy="give this process the right to read and write the data folder; where several users share"
            " it, set shared_group (AGENT_STORAGE_SHARED_GROUP) and make them members of its group",
        ) from error
    if code in _FULL:
        raise StorageUnavailableError(
            f"{about}: the disk is full ({words}); nothing was changed",
            remedy="the disk of the data folder is full: free some space, or raise the quota",
        ) from error
    if code in _EXHAUSTED:
        raise TransientStorageError(
            f"{about}: {words}", remedy="fewer operations at once, or a higher limit of open files"
        ) from error
    if code == errno.EISDIR and key is not None:
        place = error.filename2 or error.filename
        raise AccessDeniedError(
            f"{about} cannot be saved where a directory of another program is ({place})",
            field="key",
            remedy="directories inside objects/ may not end in .obj; remove it, or use another key",
        ) from error
    if code == errno.EFBIG:
        raise ObjectTooLargeError(
            f"{about} is larger than the file system or the process's limit allows: {words}", field="data"
        ) from error
    if code == errno.ENAMETOOLONG:
        raise InvalidKeyError(
            f"{about}: its path is longer than the file system allows",
            field="key",
            remedy="shorten the key, or use a data folder with a shorter path",
        ) from error
    if code == errno.EXDEV:
        raise ConfigurationError(
            f"{about}: objects/ and system/ are on different file systems, so that no save can be atomic",
            field="base_path",
            remedy="keep the whole data folder on one file system",
        ) from error
    raise StorageUnavailableError(
        f"{about}: {words} ({error.filename})", remedy=_RESTORE if code in MISSING else None
    ) from error


class sqlite_errors:  # noqa: N801 - used as a statement, like contextlib's
    """Raise what sqlite3 raises as the `StorageError` it means: the one place that translates it."""

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        import sqlite3

        if not isinstance(error, sqlite3.Error):
            return
        code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
        words = f"tables and queues (system/store.db): {error}"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise TransientStorageError(
                words, remedy="another process holds the database; try again"
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise StorageUnavailableError(
                f"{words}; the disk is full and nothing was changed",
                remedy="the disk of the data folder is full: free some space, or raise the quota",
            ) from error
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise IntegrityError(words, remedy="restore system/store.db from a backup") from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            raise AccessDeniedError(
                words, remedy="give this process the right to write the data folder"
            ) from error
        raise StorageUnavailableError(words) from error
