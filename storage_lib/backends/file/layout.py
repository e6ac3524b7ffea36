"""The data folder: what lies where, made on first use and only checked ever after.

::

    objects/               the objects, see paths.py
    system/tmp             files being written
    system/locks           see locks.py
    system/store.db        tables and queues, see sqlite.py
    system/layout.json     {"version":1,"fold_case":false}
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import msgspec

from storage_lib.backends.file.durable import TemporaryFiles, sync_directory
from storage_lib.backends.file.errors import check_there, os_errors
from storage_lib.backends.file.folder import OWNER, Rights, descriptor, of_group
from storage_lib.backends.file.paths import PathMap
from storage_lib.errors import ConfigurationError

VERSION = 1


class _Description(msgspec.Struct):
    version: int
    fold_case: bool


@dataclass(frozen=True, slots=True)
class Layout:
    base: str
    objects: str
    temporary: str
    locks: str
    database: str
    paths: PathMap
    rights: Rights


def prepare(base_path: str, *, shared_group: bool = False) -> Layout:
    """Make the folder or check the one that is there, and clear what crashed processes left.

    Whether its file system ignores case is found out once, when the folder is made: it decides how keys are
    spelled, so a folder that is moved between file systems keeps its spelling.

    :param shared_group: whether the members of the folder's group may read and write it, not its owner alone.
    :raises ConfigurationError: the folder was made by a later version, or made where case matters and
        moved to where it does not; its file system cannot keep what this backend promises; it cannot be
        shared; or its path cannot be spelled in this process's locale.
    """
    _check_spelling(base_path)
    base = os.path.realpath(base_path)
    temporary, locks = f"{base}/system/tmp", f"{base}/system/locks"
    ours = [f"{base}/objects", f"{base}/system", temporary, locks]
    with os_errors(None):
        missing = _missing(f"{base}/objects")
        try:
            rights = _make_base(base, shared_group)
            for directory in ours:
                _make(directory, rights)
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigurationError(
                f"{base_path!r} cannot be a data folder: a file is in its way ({error.filename})",
                field="base_path",
                remedy="choose another base_path, or move that file",
            ) from error
        rights.claim(ours)
        for directory in (f"{base}/system", locks):
            rights.claim_files(directory)
        files = TemporaryFiles(temporary, rights)
        described = f"{base}/system/layout.json"
        is_new = not os.path.exists(described)
        _try(base, files if is_new else described)
        files.remove_stale()
        for directory in missing:
            sync_directory(os.path.dirname(directory))
        if is_new:
            with files.written(b"") as probe:
                name = os.path.basename(probe)
                fold_case = os.path.exists(f"{temporary}/{name.upper()}")
            text = msgspec.json.encode(_Description(VERSION, fold_case))
            with files.written(text) as written:
                os.replace(written, described)
            sync_directory(f"{base}/system")
        fold_case = _described_fold_case(described)
        if not fold_case and os.path.exists(f"{base}/system/LAYOUT.JSON"):
            raise ConfigurationError(
                f"{base} was made on a file system where case matters; here it does not",
                field="base_path",
                remedy="keep it on a case-sensitive file system, or copy its objects into a new folder",
            )
    return Layout(
        base=base,
        objects=os.path.realpath(f"{base}/objects"),
        temporary=temporary,
        locks=locks,
        database=f"{base}/system/store.db",
        paths=PathMap(fold_case),
        rights=rights,
    )


def _check_spelling(path: str) -> None:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"base_path {path!a} cannot be spelled in this process's locale ({error.encoding})",
            field="base_path",
            remedy="set PYTHONUTF8=1 or a UTF-8 locale, or choose an ASCII path",
        ) from error


def _make_base(base: str, shared_group: bool) -> Rights:
    """The folder itself, whose modes are left as they are if it was there: other things may be in it."""
    if not os.path.isdir(base):
        os.makedirs(os.path.dirname(base), exist_ok=True)
        _make(base, of_group(-1) if shared_group else OWNER)
    return of_group(os.stat(base).st_gid) if shared_group else OWNER


def _make(directory: str, rights: Rights) -> None:
    try:
        os.mkdir(directory, rights.directory)
    except FileExistsError:
        if not os.path.isdir(directory):
            raise
        return
    with descriptor(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        rights.give(fd, rights.directory)


def _try(base: str, file: str | TemporaryFiles) -> None:
    directories = [f"{base}/objects", f"{base}/system"]
    if isinstance(file, str):
        return check_capabilities(base, file, directories)
    fd, path = file.create()
    os.close(fd)
    try:
        check_capabilities(base, path, directories)
    finally:
        os.unlink(path)


def _missing(directory: str) -> list[str]:
    """Those of a directory and its parents that are not there."""
    found: list[str] = []
    while not os.path.exists(directory):
        found.append(directory)
        directory = os.path.dirname(directory)
    return found


def check(layout: Layout) -> None:
    """Check a folder that was prepared before. It is never made again: what stands in its place would be
    empty, and taken for it.

    :raises StorageUnavailableError: it is gone.
    :raises ConfigurationError: another one is there, which the layout does not fit.
    """
    described = f"{layout.base}/system/layout.json"
    with os_errors(None):
        for path in (described, layout.objects, layout.temporary, layout.locks):
            check_there(path)
        if _described_fold_case(described) != layout.paths.fold_case:
            raise ConfigurationError(
                f"{layout.base} has been replaced by a data folder that spells keys in another way",
                field="base_path",
                remedy="restart this process",
            )


def _described_fold_case(path: str) -> bool:
    with open(path, "rb") as file:
        text = file.read()
    try:
        described = msgspec.json.decode(text, type=_Description)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"{path!r} is not readable: {error}", field="base_path") from error
    if described.version != VERSION:
        raise ConfigurationError(
            f"{path!r} says version {described.version}; this library knows version {VERSION}",
            field="base_path",
            remedy="use the version of this library that made the folder, or a later one",
        )
    return described.fold_case


_REFUSED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EPERM, errno.EACCES}
    | {errno.EISDIR, errno.ENOLCK}
)


def check_capabilities(base: str, file: str, directories: list[str]) -> None:
    """Sync a file and the directories of a data folder, and try a lock. All of it changes nothing.

    :raises ConfigurationError: one of them is refused.
    """
    with descriptor(file, os.O_RDONLY) as fd, _needed(base, "sync a file (fsync)"):
        os.fsync(fd)
    for directory in directories:
        with descriptor(directory, os.O_RDONLY) as fd, _needed(base, "sync a directory (fsync)"):
            os.fsync(fd)
    with descriptor(file, os.O_RDONLY) as fd, _needed(base, "lock a file (flock)"), suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


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
