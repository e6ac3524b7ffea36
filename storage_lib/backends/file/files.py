"""Finding and reading the files of objects, synchronously; objects.py decides where that runs.

Readers take no lock: a rename replaces a file whole, and what was opened stays readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime

from storage_lib.backends.file.errors import MISSING, check_there
from storage_lib.backends.file.folder import FILE, Folder, joined
from storage_lib.backends.file.format import (
    READ_AHEAD_BYTES,
    SUFFIX,
    content_type_of,
    damaged,
    data_offset,
    decode_header,
    foreign_etag,
)
from storage_lib.backends.file.layout import Layout
from storage_lib.errors import IntegrityError, TransientStorageError
from storage_lib.ports.drivers import GetOptions
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ObjectInfo, StoredObject, agrees

INLINE_BYTES = 256 * 1024
"""Up to so many bytes a read costs less than handing it to a thread (0.02 ms against 0.1 ms)."""

_ATTEMPTS = 100
_SUFFIX = SUFFIX.encode()


class TooLargeError(Exception):
    """The bytes asked for are more than may be read on the event loop."""


class OpenObject:
    """The file of an object, held open: one version of it, whatever replaces it meanwhile.

    Any thread may read it and any may close it, also while another reads. ``info`` is what `head` gives.
    """

    def __init__(self, fd: int, info: ObjectInfo, offset: int, *, own: bool) -> None:
        self.info = info
        self._fd = fd
        self._offset = offset
        self._own = own
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes of the object from ``start``.

        :raises IntegrityError: the file has become shorter than that.
        :raises TransientStorageError: another program's file, and it has been changed since it was opened.
        """
        self._enter()
        try:
            data = _read_at(self._fd, self._offset + start, size)
            self._check_unchanged()
        finally:
            self._leave()
        if len(data) < size:
            raise damaged(self.info.key, "it has become shorter while it was read")
        return data

    def copy_to(self, fd: int, at: int, start: int, size: int) -> int:
        """Copy up to ``size`` bytes from ``start`` to the offset ``at`` of another file, without moving them
        through this process where the system can. Returns how many. Errors as for `read`."""
        self._enter()
        try:
            copied = _copy_range(self._fd, fd, size, self._offset + start, at)
            self._check_unchanged()
        finally:
            self._leave()
        if copied == 0:
            raise damaged(self.info.key, "it has become shorter while it was copied")
        return copied

    def _check_unchanged(self) -> None:
        # Ours are replaced, never changed.
        if not self._own and foreign_etag(os.fstat(self._fd)) != self.info.etag:
            raise _being_changed(self.info.key)

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise ValueError("the object's file is closed")
            self._readers += 1

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._closed and self._readers == 0:
                os.close(self._fd)

    def close(self) -> None:
        """Close the file, or have the last one who is reading it do so."""
        with self._lock:
            if not self._closed and self._readers == 0:
                os.close(self._fd)
            self._closed = True


class ObjectFiles:
    def __init__(self, layout: Layout) -> None:
        self.root = layout.objects
        self.folder = Folder(os.fsencode(layout.objects))
        self.paths = layout.paths

    def path(self, key: str) -> bytes:
        """The file that this library keeps ``key`` in."""
        return self.paths.own(key).encode()

    def read(self, key: str, options: GetOptions, *, limit: int | None = None) -> StoredObject | None:
        """As `ObjectDriver.get`. :raises TooLargeError: more than ``limit`` bytes would have to be read."""
        byte_range = options.byte_range
        for _ in range(_ATTEMPTS):
            fd, status, own = self._open(key)
            try:
                whole = byte_range is None and status.st_size <= INLINE_BYTES
                info, offset, start = _info(fd, status, key, own, status.st_size if whole else 0)
                check_etag(info, options.if_match)
                if info.etag == options.if_none_match:
                    return None
                first, end = (0, info.size) if byte_range is None else byte_range.resolve(info.size)
                if limit is not None and end - first > limit:
                    raise TooLargeError
                if offset + end <= len(start):
                    data = start[offset + first : offset + end]
                else:
                    data = _read_at(fd, offset + first, end - first)
                if own or foreign_etag(os.fstat(fd)) == info.etag:
                    return StoredObject(info, data, first)
            finally:
                os.close(fd)
        raise _being_changed(key)

    def open(self, key: str, if_match: str | None = None) -> OpenObject:
        """The object's file, to be read bit by bit. Whoever opens it closes it."""
        fd, status, own = self._open(key)
        try:
            info, offset, _ = _info(fd, status, key, own, 0)
            check_etag(info, if_match)
        except BaseException:
            os.close(fd)
            raise
        return OpenObject(fd, info, offset, own=own)

    def head(self, key: str) -> ObjectInfo:
        return self.told(key)[0]

    def told(self, key: str) -> tuple[ObjectInfo, os.stat_result | None]:
        """What `head` gives, and the status of the file if it is where this library keeps ``key``."""
        fd, status, own = self._open(key)
        try:
            return _info(fd, status, key, own, 0)[0], status if own else None
        finally:
            os.close(fd)

    def told_at(self, directory: int, name: bytes, key: str) -> tuple[ObjectInfo, os.stat_result] | None:
        """`told`, of a file in an open directory; None if it cannot be read, which `told` explains.
        From there a listing opens each of many files in half the time."""
        try:
            fd = os.open(name, FILE, dir_fd=directory)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            return (_info(fd, status, key, True, 0)[0], status) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(fd)

    def _open(self, key: str) -> tuple[int, os.stat_result, bool]:
        own = self.path(key)
        if (found := self._open_regular(own)) is not None:
            return (*found, True)
        others = self.foreign_files(key)
        self.check_one(key, others)
        for path in others:
            if (found := self._open_regular(path)) is not None:
                return (*found, path.endswith(_SUFFIX))
        # A save that replaces another program's file renames ours in before it removes the other.
        if (found := self._open_regular(own)) is not None:
            return (*found, True)
        check_there(self.root)
        raise missing(key)

    def _open_regular(self, path: bytes) -> tuple[int, os.stat_result] | None:
        try:
            fd = self.folder.open(path)
        except OSError as error:
            if error.errno in MISSING:
                return None
            raise
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return fd, status
        os.close(fd)
        return None

    def is_regular(self, path: bytes) -> bool:
        status = self.folder.status(path)
        return status is not None and stat.S_ISREG(status.st_mode)

    def foreign_files(self, key: str) -> list[bytes]:
        """Where a file of another program that stands for ``key`` is, best first; nearly always none.

        Files of ours whose names another program has decomposed are among them, and come first.
        """
        *above, last = key.split("/")
        if not self.paths.fold_case and (path := self.paths.only_foreign(key)) is not None:
            return [path.encode()] if self._is_there(b"", path, stat.S_ISREG) else []
        directories = [b""]
        for segment in above:
            directories = [
                joined(directory, name)
                for directory in directories
                for name in self.paths.foreign(segment)
                if self._is_there(directory, name, stat.S_ISDIR)
            ]
        ours = [] if key.isascii() else self.paths.own_forms(last)
        names = [*(name + SUFFIX for name in ours), *self.paths.foreign(last)]
        found = [
            joined(directory, name)
            for name in names
            for directory in directories
            if self._is_there(directory, name, stat.S_ISREG)
        ]
        if not any(path.endswith(_SUFFIX) for path in found):
            return found
        own = self._identity(self.path(key))  # Some file systems find a file by either form of its name.
        return [path for path in found if self._identity(path) != own]

    def there(self, key: str, directory: int | None = None) -> tuple[bool, list[bytes]]:
        """Whether there is an object, and the files of other programs that go when it is replaced or deleted.

        :param directory: a descriptor of the one in which the object's file is, which saves opening it.
        :raises IntegrityError: the object is another program's, in two files.
        """
        path = self.path(key)
        if directory is not None and not self.paths.fold_case and self.paths.only_foreign(key) is not None:
            name = path.rpartition(b"/")[2]
            is_own = _is_regular_at(directory, name)
            others = [path.removesuffix(_SUFFIX)] if _is_regular_at(directory, name[: -len(_SUFFIX)]) else []
            return is_own or bool(others), others
        is_own, others = self.is_regular(path), self.foreign_files(key)
        if not is_own:
            self.check_one(key, others)
        return is_own or bool(others), others

    def check_one(self, key: str, found: list[bytes]) -> None:
        """:raises IntegrityError: of the files that stand for ``key``, the best is in two normal forms."""
        if len(found) < 2:
            return
        texts = [unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape")) for path in found]
        rivals = [path for path, text in zip(found, texts, strict=True) if text == texts[0]]
        if len({self._identity(path) for path in rivals}) > 1:
            raise IntegrityError(
                f"object {key!r} is ambiguous: {' and '.join(ascii(path.decode()) for path in rivals)} in"
                " objects/ differ in nothing but their Unicode normalisation",
                field="key",
                remedy="rename or remove one of the files",
            )

    def _identity(self, path: bytes) -> tuple[int, int] | None:
        status = self.folder.status(path)
        return None if status is None else (status.st_dev, status.st_ino)

    def _is_there(self, directory: bytes, names: str, want: Callable[[int], bool]) -> bool:
        path = joined(directory, names)
        try:
            status = self.folder.status(path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            return False
        if status is None or not want(status.st_mode):
            return False
        return not self.paths.fold_case or self.folder.spells(directory, path)


def check_etag(info: ObjectInfo, if_match: str | None) -> None:
    if not agrees(info.etag, if_match):
        raise unmet(info.key, if_match)


def _being_changed(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"object {key!r} is being changed by another program", remedy="read it again when that has ended"
    )


def _is_regular_at(directory: int, name: bytes) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _info(fd: int, status: os.stat_result, key: str, own: bool, ahead: int) -> tuple[ObjectInfo, int, bytes]:
    """The object's info, where its data begins, and what was read on the way: the first bytes of the file,
    at least ``ahead`` of them."""
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    if not own:
        return ObjectInfo(key, status.st_size, foreign_etag(status), modified, content_type_of(key)), 0, b""
    start = os.pread(fd, min(max(ahead, READ_AHEAD_BYTES), status.st_size), 0)
    offset = data_offset(start, key)
    if offset > len(start):
        start = _read_at(fd, 0, offset)
    if offset > len(start):
        raise damaged(key, "it ends within its header")
    header = decode_header(start, offset, key, status.st_size)
    info = ObjectInfo(
        key, header.size, header.etag, modified, header.content_type, header.metadata, header.sha256
    )
    return info, offset, start


def _read_at(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) == size:
        return data
    parts = [data]
    while data and (size := size - len(data)) > 0:  # one call gives at most 2 GiB
        offset += len(data)
        data = os.pread(fd, size, offset)
        parts.append(data)
    return b"".join(parts)


def _copy_range(source: int, target: int, size: int, start: int, at: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, target, size, start, at)
        except OSError:
            pass  # Refused between some file systems, and by some altogether; reading says what is wrong.
    data = _read_at(source, start, min(size, 1024 * 1024))
    write_all_at(target, data, at)
    return len(data)


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
