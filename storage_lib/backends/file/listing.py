"""Walking the folder in the order of keys. Holds one directory's names at each level, nothing more.

Keys are ordered by their UTF-8 bytes, which for valid text is the order of Python's strings. A directory
``a`` holds keys that begin with ``a/``, so it is ordered as ``a/``: behind ``a`` and ``a-b``, before ``a0``.
A segment cut into several names (format.py) is put together first and ordered as what it spells.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from storage_lib.backends.file.caches import (
    Directory,
    KeptNames,
    Names,
    Reading,
    in_order,
    is_too_large,
    size_of,
)
from storage_lib.backends.file.errors import MISSING, check_there
from storage_lib.backends.file.files import ObjectFiles
from storage_lib.backends.file.folder import joined
from storage_lib.backends.file.format import CONTINUED, SUFFIX, composed
from storage_lib.errors import InvalidKeyError
from storage_lib.keys import validate_key
from storage_lib.ports.drivers import ListOptions
from storage_lib.ports.object_model import is_after
from storage_lib.ports.unlisted import collector, leave_out


class _Node(NamedTuple):
    base: str
    """The key prefix of everything below: empty, or ending in a slash."""
    names: Iterator[str]
    directories: dict[str, list[Directory]]


class Walk:
    """Keys and common prefixes behind ``after``, as `ObjectStore._scan` describes them. Iterate it once."""

    def __init__(self, files: ObjectFiles, prefix: str, options: ListOptions, kept: KeptNames) -> None:
        self._folder = files.folder
        self._paths = files.paths
        self._kept = kept
        self._unlisted = collector()  # here, for it is iterated in other threads
        self._prefix = prefix
        self._delimiter = options.delimiter
        self._after = options.after

    def __iter__(self) -> Iterator[str]:
        """Keys, and common prefixes, which end in a slash."""
        base = self._prefix[: self._prefix.rfind("/") + 1]
        start = [Directory(b"")]
        for segment in base.split("/")[:-1]:
            start = self._descend(start, segment)
        if not start:
            check_there(os.fsdecode(self._folder.root))
        stack = [self._read(base, start)]
        while stack:
            node = stack[-1]
            for name in node.names:
                key = node.base + name
                if not name.endswith("/"):
                    # Without a collector, `_names` has left out what is not.
                    if self._unlisted is None or _is_valid(key):
                        yield key
                    else:
                        self._leave_out(key)
                elif self._delimiter is None:
                    stack.append(self._read(key, node.directories[name]))
                    break
                elif self._has_object(key, node.directories[name]):
                    yield key
            else:
                stack.pop()

    def _wanted(self, key: str) -> bool:
        after = self._after
        if not key.endswith("/"):
            return key.startswith(self._prefix) and is_after(key, after)
        if not (key.startswith(self._prefix) or self._prefix.startswith(key)):
            return False
        if after is None or after == key:
            return after is None
        if self._delimiter is not None:
            return is_after(key, after)
        return key > after or after.startswith(key)

    def _read(self, base: str, directories: list[Directory]) -> _Node:
        names: Names | None = None
        if self._unlisted is None:
            names = self._kept.find(tuple(directories), partial(self._updated, base, directories))
        if names is None:
            names = self._names(base, directories)
        return _Node(base, self._select(base, names.ordered), names.below)

    def _names(self, base: str, directories: list[Directory]) -> Names:
        """All the names in ``directories``; only those wanted if they are too many to be kept."""
        names: list[str] = []
        below: dict[str, list[Directory]] = {}
        size = 0
        # Where case is folded, the name of a change says too little of what it is a spelling of.
        reading = self._kept.reading(self._folder, watched=not self._paths.fold_case)
        try:
            for directory in directories:
                for segment, found in self._entries(directory, reading, base=base):
                    name = segment if found is None else segment + "/"
                    if found is None and self._unlisted is None and not _is_valid(base + name):
                        continue
                    if not is_too_large(size):
                        size += size_of(name)
                        if is_too_large(size):
                            names = [name for name in names if self._wanted(base + name)]
                    elif not self._wanted(base + name):
                        continue
                    names.append(name)
                    if found is not None:
                        below.setdefault(name, []).append(found)
        except BaseException:
            reading.end()
            raise
        found_names = Names(in_order(names), below, size)
        self._kept.keep(tuple(directories), found_names, reading)
        return found_names

    def _updated(
        self, base: str, directories: list[Directory], names: Names, changed: list[tuple[bytes, bytes]]
    ) -> Names | None:
        """``names`` after these entries have changed, in whatever way; None if they have to be read again."""
        segments: set[str] = set()
        for _, raw in changed:
            name = raw.decode("utf-8", "surrogateescape")
            if name.endswith(CONTINUED):
                return None
            if name.startswith(".") or not _is_text(name):
                continue
            name = name.removesuffix(SUFFIX)
            segment = composed(self._paths.decode((name,)) or name)
            if segment is not None:
                segments.add(segment)
        # Copies, because other listings go on with those that there are.
        ordered, below, size = names.ordered.copy(), names.below, names.size
        try:
            for segment in segments:
                name = segment + "/"
                found = self._descend(directories, segment)
                if found != below.get(name, []):
                    below = {**below, name: found}
                size += _put(ordered, name, there=bool(found))
                is_there = _is_valid(base + segment) and self._is_object(directories, segment)
                size += _put(ordered, segment, there=is_there)
        except OSError:
            return None  # Reading them says what is wrong.
        return Names(ordered, below, size)

    def _is_object(self, directories: list[Directory], segment: str) -> bool:
        ours = [name + SUFFIX for name in self._paths.own_forms(segment)]
        theirs = list(self._paths.foreign(segment))
        for path, own, foreign in directories:
            for name in [*(ours if own else ()), *(theirs if foreign else ())]:
                status = self._folder.status(joined(path, name))
                if status is not None and stat.S_ISREG(status.st_mode):
                    return True
        return False

    def _select(self, base: str, ordered: list[str]) -> Iterator[str]:
        """Of sorted names those that are wanted, each once."""
        prefix, after = self._prefix[len(base) :], self._after
        first = prefix
        if after is not None and after.startswith(base):
            segment, slash, _ = after[len(base) :].partition("/")
            first = max(prefix, segment + slash)
        start = bisect_left(ordered, first)
        last = None
        # Of sorted names, what follows one that is behind `after`, and not below it, is so, too.
        is_behind = after is None
        for name in islice(ordered, start, None):
            if not name.startswith(prefix):
                return
            if name != last and (is_behind or self._wanted(base + name)):
                yield name
            if not is_behind and after is not None:
                key = base + name
                is_behind = key > after and not key.startswith(after)
            last = name

    def _has_object(self, base: str, directories: list[Directory]) -> bool:
        """Looks no further than the first: directories left empty by a crash are no common prefix."""
        below: list[tuple[str, Directory]] = []
        for directory in directories:
            for segment, found in self._entries(directory):
                if found is not None:
                    below.append((f"{base}{segment}/", found))
                elif _is_valid(base + segment):
                    return True
        return any(self._has_object(key, [directory]) for key, directory in below)

    def _entries(
        self,
        directory: Directory,
        reading: Reading | None = None,
        names: tuple[str, ...] = (),
        *,
        base: str = "",
    ) -> Iterator[tuple[str, Directory | None]]:
        """The segments in ``directory``, with the directory below or None for an object. ``base`` is the key
        prefix of all of them."""
        decode, (path, own, foreign) = self._paths.decode, directory
        continued: list[str] = []
        if reading is not None:
            reading.begin(path, whole=not names)
        try:
            for name, entry in self._folder.entries(path):
                if name.startswith("."):
                    continue
                if not _is_text(name):
                    self._leave_out(base + name)
                    continue
                if name.endswith(SUFFIX):
                    if own and entry.is_file(follow_symlinks=False):
                        segment = decode((*names, name[: -len(SUFFIX)]))
                        if segment is not None and (segment := composed(segment)) is not None:
                            yield segment, None
                        else:
                            self._leave_out(base + name)
                    elif entry.is_dir(follow_symlinks=False):
                        self._leave_out(f"{base}{name}/…")
                elif entry.is_dir(follow_symlinks=False):
                    if name.endswith(CONTINUED):
                        continued.append(name)
                    else:
                        yield from self._directory(directory, names, name, base)
                elif foreign and entry.is_file(follow_symlinks=False):
                    segment = decode((*names, name))
                    if segment is None and not names and self._paths.stands_for_itself(name):
                        segment = name
                    if segment is not None and (segment := composed(segment)) is not None:
                        yield segment, None
                    else:
                        self._leave_out(base + name)
        except OSError as error:
            if error.errno not in MISSING:  # removed while we were on our way
                raise
            check_there(os.fsdecode(self._folder.root))
        for name in continued:
            below = Directory(joined(path, name), own, foreign)
            yield from self._entries(below, reading, (*names, name), base=base)

    def _directory(
        self, parent: Directory, names: tuple[str, ...], name: str, base: str
    ) -> Iterator[tuple[str, Directory]]:
        path, own, foreign = parent
        below = joined(path, name)
        segment = self._paths.decode((*names, name))
        if segment is not None:
            if (segment := composed(segment)) is not None:
                yield segment, Directory(below, own, foreign)
            else:
                self._leave_out(f"{base}{name}/…")
            return
        if (
            foreign
            and not names
            and self._paths.stands_for_itself(name)
            and (segment := composed(name)) is not None
        ):
            yield segment, Directory(below, own=False)
        elif foreign and not self._paths.fold_case:
            self._leave_out(f"{base}{name}/…")
        if own and self._paths.fold_case:
            # Made by another program as `Docs`: our directory `docs` is the same one on this file system.
            segment = self._paths.decode((*names, name.casefold()))
            if segment is not None:
                yield segment, Directory(below, foreign=False)

    def _leave_out(self, name: str) -> None:
        if self._unlisted is not None:
            shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if unicodedata.normalize("NFC", shown).startswith(self._prefix):
                leave_out(shown, self._unlisted)

    def _descend(self, directories: list[Directory], segment: str) -> list[Directory]:
        """The directories for one segment of the prefix, found without reading their siblings."""
        found: list[Directory] = []
        for path, own, foreign in directories:
            for spelled, ours in self._paths.spellings(segment):
                below = joined(path, spelled)
                status = self._folder.status(below)
                if status is None or not stat.S_ISDIR(status.st_mode):
                    continue
                theirs = not self._paths.fold_case or self._folder.spells(path, below)
                if (own and ours) or (foreign and theirs):
                    found.append(Directory(below, own and ours, foreign and theirs))
        return found


def _put(ordered: list[str], name: str, *, there: bool) -> int:
    """Put ``name`` into sorted names, or out of them; by how many bytes their size changes."""
    start = bisect_left(ordered, name)
    end = bisect_right(ordered, name, start)
    if there and start == end:
        ordered.insert(start, name)
        return size_of(name)
    if not there:
        del ordered[start:end]
        return (start - end) * size_of(name)
    return 0


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8 on the disk; one that is not spells no key, nor does anything below it."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_valid(key: str) -> bool:
    try:
        validate_key(key)
    except InvalidKeyError:
        return False
    return True
