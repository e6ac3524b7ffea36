"""Saving and deleting objects, many at once.

Every write takes its key's lock, unconditional ones as well, or a racing compare-and-set would lose an
update. What is durable only together is synced together: a batch of new files costs the file system's
journal one commit, and so do their renames, instead of two for each object.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from storage_lib.backends.file.durable import TemporaryFiles
from storage_lib.backends.file.errors import check_there, os_errors
from storage_lib.backends.file.files import ObjectFiles, check_etag
from storage_lib.backends.file.folder import DIRECTORY, parent
from storage_lib.backends.file.layout import Layout
from storage_lib.backends.file.locks import KeyLocks, LockedError, name_of
from storage_lib.backends.file.writes import Delete, Put, PutCopy, PutParts, Write, upload_name
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.ports import expiry
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ANY_VERSION, PutResult

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
        self._temporary = TemporaryFiles(layout.temporary, layout.rights)
        self._locks = KeyLocks(layout.locks, layout.rights)

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
        kept = self._temporary.kept(upload_name(key, upload))
        sizes = [size - int(room) for room, size in kept if room.isdecimal()]
        return max(*sizes, 0) // part_bytes if sizes else 0

    def give_up(self, key: str, upload: str) -> None:
        """Remove what there is of an upload, unless another process goes on with it."""
        self._temporary.drop(upload_name(key, upload))

    def begin(self, put: PutParts, start: int = 0) -> None:
        """Make the file that parts are appended to before it is `run`.

        :param start: how many bytes of its upload are there already.
        :raises PreconditionFailedError: the object is already not as ``put`` demands.
        """
        with os_errors(put.key):
            self._check(put)
            put.begin(self._temporary, start)

    def remove_stale(self) -> None:
        """Remove what crashed processes left of what they were writing."""
        self._temporary.remove_stale()

    def _stage(self, put: Put) -> None:
        self._check(put)  # Without the lock: what has failed already need not be written first.
        put.stage(self._temporary)

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

    def _apply(self, write: Write, patience: float | None = None) -> None:
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
