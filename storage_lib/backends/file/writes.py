"""The kinds of writes: a save of bytes at hand, of a stream or of another object's bytes, and a delete.

A save first makes a temporary file that holds the whole of the new object, each kind in its own way. How such
a file becomes the object is the same for all of them and stands in writer.py.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable

import msgspec

from storage_lib.backends.file.durable import TemporaryFiles, start_writeback, write_all, write_all_at
from storage_lib.backends.file.errors import MISSING, os_errors
from storage_lib.backends.file.files import INLINE_BYTES, OpenObject
from storage_lib.backends.file.format import Header, block_aligned, encode_header
from storage_lib.errors import StorageError, TransientStorageError
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.object_model import PutResult
from storage_lib.ports.streaming import LATE_BYTES, Digest, Parts

_COPY_BYTES = 64 * 1024 * 1024
"""How much is copied between two looks whether anyone still wants the copy."""
_READ_BYTES = 1024 * 1024


class AbandonedError(Exception):
    """Whoever asked for this write was cancelled, and nothing was changed."""


class Write:
    """One save or delete on its way."""

    is_large = False
    """Whether it takes so long that others should not wait for it in one batch."""

    def __init__(self, key: str, if_match: str | None = None) -> None:
        self.key = key
        self.if_match = if_match
        self.is_abandoned: Callable[[], bool] = bool
        """Whether its caller has been cancelled and must not be surprised by it any more."""
        self.result: PutResult | None = None
        self.error: BaseException | None = None
        self.changed: list[bytes] = []
        """Directories, below that of the objects, whose entries it changed."""

    def check_wanted(self) -> None:
        """Called with the key's lock held, before anything is changed: whoever writes the key after a
        cancelled write takes the lock later, so a cancelled write can never overwrite what came after it.

        :raises AbandonedError: its caller has been cancelled.
        """
        if self.is_abandoned():
            raise AbandonedError

    def discard(self) -> None:
        """Let go of what it holds, once it is done or will not be done."""


class Delete(Write):
    """Removal of what is there when it takes effect."""


class Put(Write):
    """A save. ``header`` is what the object will be, its bytes lie in ``temporary``, open as ``fd``."""

    def __init__(self, key: str, if_match: str | None, *, if_absent: bool, header: Header) -> None:
        super().__init__(key, if_match)
        self.if_absent = if_absent
        self.header = header
        self.is_large = header.size > INLINE_BYTES
        self.fd = -1
        self.temporary: str | None = None
        self.replaces_until: float | None = None
        """When the life of the object that it has replaced ends or ended."""

    def stage(self, files: TemporaryFiles) -> None:
        """Make the temporary file, whole, but not yet safely on the disk."""
        raise NotImplementedError

    def discard(self) -> None:
        fd, temporary = self.fd, self.temporary
        self.fd, self.temporary = -1, None  # whatever fails below, not twice
        try:
            if fd >= 0:
                os.close(fd)
        finally:
            if temporary is not None:
                unlink_if_there(temporary)


class PutBytes(Put):
    def __init__(self, key: str, data: bytes, options: PutOptions) -> None:
        header = Header(key, options.content_type, options.metadata, options.sha256, _new_etag(), len(data))
        super().__init__(key, options.if_match, if_absent=options.if_absent, header=header)
        self._data = data

    def stage(self, files: TemporaryFiles) -> None:
        header = encode_header(self.header)
        if self.is_large:
            header = encode_header(self.header, pad_to=block_aligned(len(header)))
        self.fd, self.temporary = files.create()
        if len(self._data) <= 64 * 1024:
            write_all(self.fd, header + self._data)
        else:
            write_all(self.fd, header)
            write_all(self.fd, self._data)
        start_writeback(self.fd)


class PutParts(Put):
    """A save whose bytes come bit by bit: `begin`, `append` …, `finish`, all before it is staged.

    The file begins with room for a header; size, checksum and late metadata are known, and it is written,
    at the end.
    Each step may run in another thread, and `discard` while one is running.
    """

    def __init__(self, key: str, options: PutOptions, *, is_late: bool = False) -> None:
        longest = Header(key, options.content_type, options.metadata, "0" * 64, _new_etag(), sys.maxsize)
        super().__init__(key, options.if_match, if_absent=options.if_absent, header=longest)
        self._room = block_aligned(len(encode_header(longest)) + (LATE_BYTES if is_late else 0))
        self._size = 0
        self._upload = options.upload
        self.is_kept = False
        """Whether another process is to continue it: then its file outlives `discard`."""
        self._lock = threading.Lock()
        self._discarded = False

    def begin(self, files: TemporaryFiles, start: int) -> None:
        """:param start: how many bytes of its upload there must be already."""
        with self._lock:
            if self._discarded:
                raise AbandonedError
            found = None
            if self._upload is not None:
                name = upload_name(self.key, self._upload)
                # The room belongs to the name: a header of another length would shift the data.
                found = files.continued(f"{name}{self._room}")
                files.drop(upload_name(self.key), spared=name)
            self.fd, self.temporary = found or files.create()
            if os.fstat(self.fd).st_size < self._room + start and start:
                self.is_kept = found is not None
                raise TransientStorageError(
                    f"object {self.key!r} is being uploaded by another process", remedy="try again"
                )
            os.ftruncate(self.fd, self._room + start)
            self._size = start

    def digest(self) -> Digest:
        """The SHA-256 of what was there when it was begun, read from the disk."""
        digest = hashlib.sha256()
        for done in range(0, self._size, _READ_BYTES):
            with self._lock, os_errors(self.key):
                if self._discarded:
                    raise AbandonedError
                data = os.pread(self.fd, min(_READ_BYTES, self._size - done), self._room + done)
            digest.update(data)
        return digest

    def append(self, part: bytes) -> None:
        """Never raises: the first failure is kept in ``error`` and undoes what is appended after it."""
        with self._lock:
            if self.fd < 0 or self.error is not None:
                return
            try:
                with os_errors(self.key):
                    write_all_at(self.fd, part, self._room + self._size)
                    start_writeback(self.fd, self._room + self._size, len(part))
                self._size += len(part)
            except Exception as error:
                self.error = error

    def finish(self, parts: Parts) -> None:
        """:param parts: all that was appended."""
        metadata = parts.complete(self.header.metadata)
        self.header = msgspec.structs.replace(
            self.header, metadata=metadata, sha256=parts.sha256, size=self._size
        )
        if self.error is not None:
            raise self.error
        header = encode_header(self.header, pad_to=self._room)
        if len(header) > self._room:  # It would overwrite the data.
            raise StorageError(
                f"object {self.key!r}: a layer adds too much metadata", limit=f"{LATE_BYTES} bytes"
            )
        with self._lock, os_errors(self.key):
            write_all_at(self.fd, header, 0)

    def stage(self, files: TemporaryFiles) -> None:
        start_writeback(self.fd, 0, self._room)

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self.is_kept:
                self.temporary = None
            super().discard()


class PutCopy(Put):
    """A save of the bytes of ``source``, with its type and checksum, and its own ``metadata`` or others.

    What another program put there has no checksum; it is taken while copying.
    """

    def __init__(
        self,
        source: OpenObject,
        key: str,
        if_match: str | None,
        *,
        if_absent: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> None:
        info = source.info
        kept = dict(info.metadata) if metadata is None else metadata
        header = Header(key, info.content_type, kept, info.sha256 or "0" * 64, _new_etag(), info.size)
        super().__init__(key, if_match, if_absent=if_absent, header=header)
        self._source = source

    def stage(self, files: TemporaryFiles) -> None:
        size = self.header.size
        header = encode_header(self.header)
        room = block_aligned(len(header)) if self.is_large else len(header)
        self.fd, self.temporary = files.create()
        if self._source.info.sha256 is None:
            self._copy_hashed(room, size)
        else:
            self._copy(room, size)
        write_all_at(self.fd, encode_header(self.header, pad_to=room), 0)
        start_writeback(self.fd)

    def _copy(self, room: int, size: int) -> None:
        done = 0
        while done < size:
            self.check_wanted()
            copied = self._source.copy_to(self.fd, room + done, done, min(_COPY_BYTES, size - done))
            start_writeback(self.fd, room + done, copied)
            done += copied

    def _copy_hashed(self, room: int, size: int) -> None:
        digest = hashlib.sha256()
        for done in range(0, size, _READ_BYTES):
            self.check_wanted()
            data = self._source.read(done, min(_READ_BYTES, size - done))
            digest.update(data)
            write_all_at(self.fd, data, room + done)
        self.header = msgspec.structs.replace(self.header, sha256=digest.hexdigest())

    def discard(self) -> None:
        self._source.close()
        super().discard()


def upload_name(key: str, upload: str | None = None) -> str:
    """How the name of the file of an upload begins; or those of all uploads for a key."""
    texts = [key] if upload is None else [key, upload]
    return "".join(f"{hashlib.sha256(text.encode()).hexdigest()[:32]}-" for text in texts)


def unlink_if_there(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno in MISSING:
            return False
        raise
    return True


def _new_etag() -> str:
    return os.urandom(16).hex()
