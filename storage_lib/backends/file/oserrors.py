"""What the operating system says, in the words of errors.py: the one place that translates `OSError`."""

from __future__ import annotations

import errno
from types import TracebackType
from typing import Never

from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectTooLargeError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)

MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
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


def not_found(key: str) -> KeyNotFoundError:
    return KeyNotFoundError(f"object {key!r} does not exist", field="key")


def _raise(error: OSError, key: str | None, *, absent: bool) -> Never:
    code = error.errno
    about = f"object {key!r}" if key is not None else "the data folder"
    words = error.strerror or str(error)
    if absent and key is not None and code in MISSING:
        raise not_found(key) from error
    if code in _DENIED:
        raise AccessDeniedError(
            f"{about}: {words} ({error.filename})",
            remedy="give this process the right to read and write the data folder",
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
    raise StorageUnavailableError(f"{about}: {words} ({error.filename})") from error
