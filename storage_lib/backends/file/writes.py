"""Saving and deleting objects, many at once.

A save first makes a temporary file that holds the whole of the new object, each kind (of bytes at hand, of a
stream, of another object's bytes) in its own way. How such a file becomes the object is the same for all.

Every write takes its key's lock, unconditional ones as well, or a racing compare-and-set would lose an
update. What is durable only together is synced together: a batch of new files costs the file system's
journal one commit, and so do their renames, instead of two for each object.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from storage_lib.backends.file import layout
from storage_lib.backends.file.errors import check_there, os_errors
from storage_lib.backends.file.files import (
    INLINE_BYTES,
    ObjectFiles,
    OpenObject,
    check_etag,
    start_writeback,
    write_all,
    write_all_at,
)
from storage_lib.backends.file.folder import DIRECTORY, parent
from storage_lib.backends.file.format import Header, block_aligned, encode_header
from storage_lib.backends.file.layout import Layout, LockedError, TemporaryFiles, name_of
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.ports import expiry
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ANY_VERSION, PutResult
from storage_lib.ports.streaming import LATE_BYTES, Digest, Parts
from storage_lib.threads import Job

_COPY_BYTES = 64 * 1024 * 1024
"""How much is copied between two looks whether anyone still wants the copy."""
_READ_BYTES = 1024 * 1024


class AbandonedError(Exception):
    """Whoever asked for this write was cancelled, and nothing was changed."""


class Write(Job):
    """One save or delete on its way; its ``result`` is that of a save."""

    is_large = False
    """Whether it takes so long that others should not wait for it in one batch."""

    def __init__(self, key: str, if_match: str | None = None) -> None:
        super().__init__()
        self.key = key
        self.if_match = if_match
        self.changed: list[bytes] = []
        """Directories, below that of the objects, whose entries it changed."""

    def check_wanted(self) -> None:
        """Called with the key's lock held, before anything is changed: whoever writes the key after a
        cancelled write takes the lock later, so a cancelled write can never overwrite what came after it.

        :raises AbandonedError: its caller has been cancelled.
        """
        if self.cancelled:
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
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(temporary)


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


def _new_etag() -> str:
    return os.urandom(16).hex()


_ATTEMPTS = 100
_SYNCED_BESIDE = 5
"""Threads that sync files of a batch, beside the one whose batch it is."""
_MOMENT_SECONDS = 0.05
"""How long the writes of a batch wait for the lock of some of them."""
_log = logging.getLogger("AOS.Storage")


class ObjectWriter:
    def __init__(
        self, layout: Layout, files: ObjectFiles, submit: Callable[[Callable[[], None]], Future[None]]
    ) -> None:
        """:param submit: has something done in another thread."""
        self._submit = submit
        self._root = layout.objects
        self._rights = layout.rights
        self._files = files
        self._folder = files.folder
        self.temporary = layout.temporary
        self._locks = layout.locks

    def run(self, writes: list[Write]) -> list[Write]:
        """Do them all and set ``result`` or ``error`` of each; what fails leaves what was there.

        :return: those whose keys are locked by others, still to be done by `finish`: the rest need not wait.
        """
        late: list[Write] = []
        try:
            puts = [write for write in writes if isinstance(write, Put)]
            _each(puts, self._stage)
            self._sync(puts)
            busy: set[str] = set()
            _each(writes, lambda write: self._try(write, busy))
            late = [write for write in writes if isinstance(write.error, LockedError)]
            self._make_durable([write for write in writes if write not in late])
        except BaseException:
            late = []
            raise
        finally:
            for write in writes:
                if write not in late:
                    _discard(write)
        return late

    def finish(self, write: Write, patience: float | None = None) -> None:
        """Do one that `run` has returned.

        :param patience: seconds to wait for its lock; None means all that there is.
        """
        try:
            write.error = None
            _each([write], lambda write: self._apply(write, patience))
            self._make_durable([write])
        finally:
            _discard(write)

    def uploaded(self, key: str, upload: str, part_bytes: int) -> int:
        """How many whole parts there are of an upload."""
        kept = self.temporary.kept(upload_name(key, upload))
        return max([size - int(room) for room, size in kept if room.isdecimal()], default=0) // part_bytes

    def begin(self, put: PutParts, start: int = 0) -> None:
        """Make the file that parts are appended to before it is `run`.

        :param start: how many bytes of its upload are there already.
        :raises PreconditionFailedError: the object is already not as ``put`` demands.
        """
        with os_errors(put.key):
            self._check(put)
            put.begin(self.temporary, start)

    def _stage(self, put: Put) -> None:
        self._check(put)  # Without the lock: what has failed already need not be written first.
        put.stage(self.temporary)

    def _sync(self, puts: list[Put]) -> None:
        """Several at a time: the disk is told once to keep what it has for all who wait for that."""
        waiting = deque(puts)
        synced = threading.Semaphore(0)

        def work() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    put = waiting.popleft()
                    try:
                        _each([put], lambda put: os.fsync(put.fd))
                    finally:
                        synced.release()

        helpers: list[Future[None]] = []
        # None to be had: then by this one alone. One that is told so may do it all the same.
        with contextlib.suppress(RuntimeError, StorageError):
            while len(helpers) < min(len(puts) - 1, _SYNCED_BESIDE):
                helpers.append(self._submit(work))
        work()
        for helper in helpers:
            helper.cancel()
        for _ in puts:
            synced.acquire()

    def _try(self, write: Write, busy: set[str]) -> None:
        """:param busy: the locks that have been waited for already."""
        name = name_of(write.key)
        try:
            self._apply(write, 0 if name in busy else _MOMENT_SECONDS)
        except LockedError:
            busy.add(name)
            raise

    def _apply(self, write: Write, patience: float | None) -> None:
        if isinstance(write, Put):
            write.result = self._replace(write, patience)
        else:
            self._delete(write, patience)

    def _replace(self, put: Put, patience: float | None) -> PutResult:
        key, path = put.key, self._files.path(put.key)
        assert put.temporary is not None  # noqa: S101 - told to the type checker
        directory, _, name = path.rpartition(b"/")
        for _ in range(_ATTEMPTS):
            fd = self._open_directory(put, directory)
            try:
                with self._locks.held(key, patience):
                    self._check(put)
                    exists, others = self._files.there(key, fd)
                    if exists and put.if_match is None:
                        put.replaces_until = self._end_of(key)
                    put.check_wanted()
                    try:
                        os.replace(put.temporary, name, dst_dir_fd=fd)
                    except (FileNotFoundError, NotADirectoryError):
                        continue  # another writer's delete has pruned the directory just now
                    except OSError as error:
                        error.filename2 = os.fsdecode(self._folder.full(path))
                        raise
                    put.temporary = None
                    put.changed.append(directory)
                    for other in others:
                        self._folder.unlink(other)
            finally:
                os.close(fd)
            return PutResult(key, put.header.etag, put.header.size, not exists)
        check_there(self._root)
        raise TransientStorageError(f"object {key!r}: its directory is removed as often as it is made")

    def _check(self, put: Put) -> None:
        """:raises PreconditionFailedError: the object is not as ``put`` demands."""
        key = put.key
        if put.if_absent or put.if_match == ANY_VERSION:
            is_there = self._files.is_regular(self._files.path(key)) or bool(self._files.foreign_files(key))
            if is_there == put.if_absent:
                raise unmet(key, put.if_match)
        elif put.if_match is not None:
            try:
                info = self._files.head(key)
            except KeyNotFoundError as error:
                raise unmet(key, put.if_match) from error
            check_etag(info, put.if_match)

    def _end_of(self, key: str) -> float | None:
        """When the life of the object that is there ends, if that can be told."""
        try:
            return expiry.end_in(self._files.head(key).metadata)
        except (KeyNotFoundError, IntegrityError):
            return None

    def _delete(self, delete: Write, patience: float | None) -> None:
        key, path = delete.key, self._files.path(delete.key)
        with self._locks.held(key, patience):
            exists, others = self._files.there(key)
            if not exists:
                check_there(self._root)
                raise missing(key)
            if delete.if_match is not None:
                check_etag(self._files.head(key), delete.if_match)
            delete.check_wanted()
            # Ours is the newer one: a crash in between must not bring the older one back.
            for name in (*others, path):
                if self._folder.unlink(name):
                    delete.changed.append(parent(name))

    def _make_durable(self, writes: list[Write]) -> None:
        waiting: dict[bytes, list[Write]] = {}
        for write in writes:
            for directory in write.changed:
                waiting.setdefault(directory, []).append(write)
        for directory, of_directory in waiting.items():
            try:
                with os_errors(of_directory[0].key):
                    self._folder.sync(directory)
            except StorageError as error:
                for write in of_directory:
                    write.error = write.error or error
        for write in writes:
            if write.changed and (isinstance(write, Delete) or write.error is not None):
                for directory in {*write.changed, parent(self._files.path(write.key))}:
                    self._folder.prune(directory)

    def _open_directory(self, put: Put, path: bytes) -> int:
        """The directory of the put's file, open; made if it is missing."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return self._folder.open(path, DIRECTORY)
            self._make_directories(put, path)
        check_there(self._root)
        raise TransientStorageError(f"object {put.key!r}: its directory is removed as often as it is made")

    def _make_directories(self, put: Put, path: bytes) -> None:
        names = path.split(b"/")
        for count in range(1, len(names) + 1):
            step = b"/".join(names[:count])
            status = self._folder.status(step)
            if status is not None and stat.S_ISREG(status.st_mode):
                self._adopt(step)
            elif status is not None and not stat.S_ISDIR(status.st_mode):
                raise AccessDeniedError(
                    f"object {put.key!r} cannot be saved below {os.fsdecode(self._folder.full(step))},"
                    " which is no directory",
                    field="key",
                    remedy="symbolic links inside objects/ are not followed; remove it, or use another key",
                )
            if status is None or not stat.S_ISDIR(status.st_mode):
                with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
                    self._folder.make(step, self._rights)  # others make and prune
                    put.changed.append(parent(step))

    def _adopt(self, path: bytes) -> None:
        """Turn another program's file into an object of ours, so that its name is free for a directory."""
        key = self._files.paths.key_of(path.decode("utf-8", "surrogateescape"))
        if key is None:
            return
        try:
            found = self._files.open(key)
        except KeyNotFoundError:
            return  # another writer was faster
        if found.info.sha256 is not None:
            found.close()
            # A crash came between renaming ours into place and removing the other: ours is the object.
            with self._locks.held(key):
                if self._files.is_regular(self._files.path(key)):
                    for other in self._files.foreign_files(key):
                        self._folder.unlink(other)
            return
        put = PutCopy(found, key, found.info.etag, if_absent=False)
        for late in self.run([put]):
            self.finish(late)
        if put.error is not None and not isinstance(put.error, PreconditionFailedError):
            raise put.error


def _discard(write: Write) -> None:
    """Also where one cannot be removed the others are; what is left is removed by `remove_stale`."""
    try:
        write.discard()
    except OSError as error:
        _log.warning("a temporary file of %r stays for a while: %s", write.key, error)


def _each[W: Write](writes: Iterable[W], action: Callable[[W], object]) -> None:
    """One write's failure is its own: it is kept for its caller, and the others go on."""
    for write in writes:
        if write.error is None:
            try:
                with os_errors(write.key):
                    action(write)
            except Exception as error:
                write.error = error


_LATE_THREADS = 16


class LateWrites:
    """One thread for each lock: who waits for the same one has nothing to try before that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[tuple[Callable[[float], None], float]]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def add(self, key: str, finish: Callable[[float], None]) -> None:
        """Have it finished in a thread of its own; at once, here, if there is none.

        :param finish: does it, waiting for the lock no longer than it is told.
        """
        name, late = layout.name_of(key), (finish, time.monotonic() + layout.PATIENCE_SECONDS)
        with self._lock:
            if name in self._lines:
                return self._lines[name].append(late)
            self._lines[name] = deque([late])
            try:
                if not self._closed:
                    self._threads = self._threads or ThreadPoolExecutor(
                        _LATE_THREADS, thread_name_prefix="storage-files-late"
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
                finish, until = line.popleft()
            finish(max(until - time.monotonic(), 0))

    def close(self) -> None:
        """Wait until all are done."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
