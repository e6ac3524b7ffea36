"""What listings have read of files, so that the next listing need not open each of them again.

A file of ours is never changed, only replaced by another: an entry holds as long as the inode, the size and
both times of the file are those that were read. Its times are no finer than the clock of the file system, so
an entry is kept only if the file had been left alone for longer than that when it was read; a change after
that shows.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import NamedTuple

from storage_lib.backends.file.files import ObjectFiles
from storage_lib.backends.file.folder import DIRECTORY
from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.ports import hidden
from storage_lib.ports.object_model import ListEntry, ObjectInfo

_KEPT = 10_000
"""Entries, of about 1 KiB each: ten pages of a listing. Of more, the first that came goes first."""
_QUIET_SECONDS = 3

type _State = tuple[int, int, int, int]


class _Known(NamedTuple):
    """An entry, of a file as it was; the names of its directory and of the file there.

    ``has_metadata``: callers may change the dict of an entry, so each gets its own. Of an empty one that
    would take too long: whether it is still empty is seen.
    """

    entry: ListEntry
    has_metadata: bool
    state: _State
    directory: bytes
    file: bytes


class KnownEntries:
    """For any thread."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def entries(self, files: ObjectFiles, names: list[str]) -> list[ListEntry | str]:
        """What a listing tells of these keys, and the common prefixes among them as they are. An object that
        has gone is left out; of one that is damaged there is the key alone: it must not hide the others, and
        loading it says what is wrong."""
        found: list[ListEntry | str] = []
        known, above, fd = self._known, b"", -1
        now = time.time()  # before a file is read, for that may take any time
        try:
            for name in names:
                if (kept := known.get(name)) is not None:
                    entry, has_metadata, state, directory, file = kept
                    if fd < 0 or directory != above:
                        if fd >= 0:
                            os.close(fd)
                        above, fd = directory, _opened(files, directory)
                    try:
                        if fd >= 0 and _state(os.stat(file, dir_fd=fd, follow_symlinks=False)) == state:
                            if has_metadata:
                                found.append(_own(entry))
                                continue
                            if entry.info is not None and not entry.info.metadata:
                                found.append(entry)
                                continue
                    except OSError:
                        pass  # Reading the object says what is wrong.
                if name.endswith("/"):
                    found.append(name)
                    continue
                directory, _, file = files.path(name).rpartition(b"/")
                if fd < 0 or directory != above:
                    if fd >= 0:
                        os.close(fd)
                    above, fd = directory, _opened(files, directory)
                try:
                    info, status = (files.told_at(fd, file, name) if fd >= 0 else None) or files.told(name)
                    found.append(self._kept(info, status, directory, file, now))
                except KeyNotFoundError:
                    continue  # deleted since its directory was read
                except IntegrityError:
                    found.append(ListEntry(name))
        finally:
            if fd >= 0:
                os.close(fd)
        return found

    def _kept(
        self, info: ObjectInfo, status: os.stat_result | None, directory: bytes, file: bytes, now: float
    ) -> ListEntry:
        key, entry = info.key, hidden.entry(info)
        if status is None or now - max(status.st_mtime, status.st_ctime) <= _QUIET_SECONDS:
            return entry
        with self._lock:
            if len(self._known) >= _KEPT and key not in self._known:
                del self._known[next(iter(self._known))]
            self._known[key] = _Known(entry, bool(info.metadata), _state(status), directory, file)
        return _own(entry) if info.metadata else entry


def _own(entry: ListEntry) -> ListEntry:
    """An equal entry with a dict of its own."""
    assert entry.info is not None  # noqa: S101 - or it would not be kept
    return replace(entry, info=replace(entry.info, metadata=dict(entry.info.metadata)))


def _opened(files: ObjectFiles, directory: bytes) -> int:
    """A descriptor of a directory; -1 if it cannot be opened, which reading an object in it will explain."""
    try:
        return files.folder.open(directory, DIRECTORY)
    except OSError:
        return -1


def _state(status: os.stat_result) -> _State:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
