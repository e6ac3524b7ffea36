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
from collections.abc import Callable, Iterable

from storage_lib.backends import expiry
from storage_lib.backends.file.durable import TemporaryFiles, prune, sync_directory
from storage_lib.backends.file.files import ObjectFiles, check_etag, is_regular
from storage_lib.backends.file.layout import Layout
from storage_lib.backends.file.locks import KeyLocks
from storage_lib.backends.file.oserrors import check_there, not_found, os_errors
from storage_lib.backends.file.writes import Delete, Put, PutCopy, PutParts, Write, unlink_if_there
from storage_lib.backends.objects import ANY_VERSION, PutResult, unmet
from storage_lib.errors import (
    AccessDeniedError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)

_ATTEMPTS = 100
_log = logging.getLogger("AOS.Storage")


class ObjectWriter:
    def __init__(self, layout: Layout, files: ObjectFiles) -> None:
        self._root = layout.objects
        self._files = files
        self._temporary = TemporaryFiles(layout.temporary)
        self._locks = KeyLocks(layout.locks)

    def run(self, writes: list[Write]) -> None:
        """Do them all and set ``result`` or ``error`` of each; what fails leaves what was there."""
        puts = [write for write in writes if isinstance(write, Put)]
        try:
            _each(puts, self._stage)
            _each(puts, lambda put: os.fsync(put.fd))
            _each(writes, self._apply)
            self._make_durable(writes)
        finally:
            for write in writes:
                _discard(write)

    def begin(self, put: PutParts) -> None:
        """Make the file that parts are appended to before it is `run`.

        :raises PreconditionFailedError: the object is already not as ``put`` demands.
        """
        with os_errors(put.key):
            self._check(put)
            put.begin(self._temporary)

    def remove_stale(self) -> None:
        """Remove what crashed processes left of what they were writing."""
        self._temporary.remove_stale()

    def _stage(self, put: Put) -> None:
        self._check(put)  # Without the lock: what has failed already need not be written first.
        put.stage(self._temporary)

    def _apply(self, write: Write) -> None:
        if isinstance(write, Put):
            write.result = self._replace(write)
        else:
            self._delete(write)

    def _replace(self, put: Put) -> PutResult:
        key, path = put.key, self._files.path(put.key)
        assert put.temporary is not None  # noqa: S101 - told to the type checker
        for _ in range(_ATTEMPTS):
            put.changed += self._make_parents(key)
            with self._locks.held(key):
                self._check(put)
                others = self._files.foreign_files(key)
                exists = bool(others) or is_regular(path)
                if exists and put.if_match is None:
                    put.replaces_until = self._end_of(key)
                put.check_wanted()
                try:
                    os.replace(put.temporary, path)
                except (FileNotFoundError, NotADirectoryError):
                    continue  # another writer's delete has pruned the directory just now
                put.temporary = None
                put.changed.append(os.path.dirname(path))
                for other in others:
                    unlink_if_there(other)
            return PutResult(key, put.header.etag, put.header.size, not exists)
        check_there(self._root)
        raise TransientStorageError(f"object {key!r}: its directory is removed as often as it is made")

    def _check(self, put: Put) -> None:
        """:raises PreconditionFailedError: the object is not as ``put`` demands."""
        key = put.key
        if put.if_absent or put.if_match == ANY_VERSION:
            is_there = is_regular(self._files.path(key)) or bool(self._files.foreign_files(key))
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

    def _delete(self, delete: Write) -> None:
        key, path = delete.key, self._files.path(delete.key)
        with self._locks.held(key):
            others = self._files.foreign_files(key)
            if not others and not is_regular(path):
                check_there(self._root)
                raise not_found(key)
            if delete.if_match is not None:
                check_etag(self._files.head(key), delete.if_match)
            delete.check_wanted()
            # Ours is the newer one: a crash in between must not bring the older one back.
            for name in (*others, path):
                if unlink_if_there(name):
                    delete.changed.append(os.path.dirname(name))

    def _make_durable(self, writes: list[Write]) -> None:
        waiting: dict[str, list[Write]] = {}
        for write in writes:
            for directory in write.changed:
                waiting.setdefault(directory, []).append(write)
        for directory, of_directory in waiting.items():
            try:
                with os_errors(of_directory[0].key):
                    sync_directory(directory)
            except StorageError as error:
                for write in of_directory:
                    write.error = write.error or error
        for write in writes:
            if write.changed and (isinstance(write, Delete) or write.error is not None):
                for directory in {*write.changed, os.path.dirname(self._files.path(write.key))}:
                    prune(directory, self._root)

    def _make_parents(self, key: str) -> Iterable[str]:
        """Make the directories above the key's file; gives those in which one was made."""
        directory = os.path.dirname(self._files.path(key))
        steps: list[str] = []
        while len(directory) > len(self._root):
            steps.append(directory)
            directory = os.path.dirname(directory)
        changed: list[str] = []
        for step in reversed(steps):
            try:
                mode = os.lstat(step).st_mode
            except FileNotFoundError:
                mode = 0
            if mode and stat.S_ISREG(mode):
                self._adopt(step)
            elif mode and not stat.S_ISDIR(mode):
                raise AccessDeniedError(
                    f"object {key!r} can not be saved below {step}, which is no directory",
                    field="key",
                    remedy="symbolic links inside objects/ are not followed; remove it, or use another key",
                )
            if not stat.S_ISDIR(mode):
                with contextlib.suppress(FileExistsError, FileNotFoundError):  # others make and prune
                    os.mkdir(step)
                    changed.append(os.path.dirname(step))
        return changed

    def _adopt(self, path: str) -> None:
        """Turn another program's file into an object of ours, so that its name is free for a directory."""
        key = self._files.paths.key_of(path[len(self._root) + 1 :])
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
                if is_regular(self._files.path(key)):
                    for other in self._files.foreign_files(key):
                        unlink_if_there(other)
            return
        put = PutCopy(found, key, found.info.etag, if_absent=False)
        self.run([put])
        if put.error is not None and not isinstance(put.error, PreconditionFailedError):
            raise put.error


def _discard(write: Write) -> None:
    """Also where one can not be removed the others are; what is left is removed by `remove_stale`."""
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
