"""The data folder: what lies where, made on first use and only checked ever after.

::

    objects/               the objects, see format.py
    system/tmp             files being written, see `TemporaryFiles`
    system/locks           see `KeyLocks`
    system/store.db        tables and queues, see sqlite.py
    system/layout.json     {"version":1,"fold_case":false}

Files survive a crash whole or not at all, and are on the disk before anyone is told, by the order that POSIX
and ext4, XFS, Btrfs and APFS agree on: write a temporary file, fsync it, rename it into place, fsync the
directory. A crash before the rename leaves the old file, after it the new one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count

import msgspec

from storage_lib.backends.file.errors import check_there, os_errors
from storage_lib.backends.file.folder import OWNER, Rights, descriptor, of_group
from storage_lib.backends.file.format import PathMap
from storage_lib.errors import ConfigurationError, TransientStorageError

VERSION = 1


class _Description(msgspec.Struct):
    version: int
    fold_case: bool


@dataclass(frozen=True, slots=True)
class Layout:
    base: str
    objects: str
    temporary: TemporaryFiles
    locks: KeyLocks
    database: str
    paths: PathMap
    rights: Rights


class DataFolder:
    """The folder, made on first use and only checked ever after. It does not know its backend, so that a
    thread that knows it keeps nothing alive."""

    def __init__(self, base_path: str, shared_group: bool) -> None:
        self._base_path = base_path
        self._shared_group = shared_group
        self._layout: Layout | None = None
        self._lock = threading.Lock()

    def prepare(self) -> Layout:
        """Errors as for `_prepare` and `_check`."""
        with self._lock:
            if self._layout is None:
                self._layout = _prepare(self._base_path, self._shared_group)
            else:
                _check(self._layout)
            return self._layout


def _prepare(base_path: str, shared_group: bool) -> Layout:
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
        # What is tried changes nothing.
        probe = None
        if is_new:
            fd, probe = files.create()
            os.close(fd)
        try:
            _check_capabilities(base, probe or described)
        finally:
            if probe is not None:
                os.unlink(probe)
        files.remove_stale()
        for directory in missing:
            _sync(os.path.dirname(directory))
        if is_new:
            with files.written(b"") as probe:
                name = os.path.basename(probe)
                fold_case = os.path.exists(f"{temporary}/{name.upper()}")
            text = msgspec.json.encode(_Description(VERSION, fold_case))
            with files.written(text) as written:
                os.replace(written, described)
            _sync(f"{base}/system")
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
        temporary=files,
        locks=KeyLocks(locks, rights),
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


def _sync(path: str) -> None:
    with descriptor(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def _missing(directory: str) -> list[str]:
    """Those of a directory and its parents that are not there."""
    found: list[str] = []
    while not os.path.exists(directory):
        found.append(directory)
        directory = os.path.dirname(directory)
    return found


def _check(layout: Layout) -> None:
    """Check a folder that was prepared before. It is never made again: what stands in its place would be
    empty, and taken for it.

    :raises StorageUnavailableError: it is gone.
    :raises ConfigurationError: another one is there, which the layout does not fit.
    """
    described = f"{layout.base}/system/layout.json"
    with os_errors(None):
        for path in (described, layout.objects, layout.temporary.directory, layout.locks.directory):
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


def _check_capabilities(base: str, file: str) -> None:
    """Sync a file and the directories of a data folder, and try a lock. All of it changes nothing.

    :raises ConfigurationError: one of them is refused.
    """
    for path, what in ((file, "file"), (f"{base}/objects", "directory"), (f"{base}/system", "directory")):
        with descriptor(path, os.O_RDONLY) as fd, _needed(base, f"sync a {what} (fsync)"):
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


_STALE_SECONDS = 60
_KEPT_SUFFIX = ".part"
_KEPT_SECONDS = 7 * 24 * 3600


class TemporaryFiles:
    """Temporary files in a directory of their own, each locked by whoever writes it."""

    def __init__(self, directory: str, rights: Rights = OWNER) -> None:
        self.directory = directory
        self._rights = rights
        self._new_names()

    def _new_names(self) -> None:
        self._prefix = f"{self.directory}/{os.urandom(8).hex()}"
        self._numbers = count()

    def create(self) -> tuple[int, str]:
        """A new file, open for writing, and its path. `remove_stale` spares it until it is closed."""
        while True:
            path = f"{self._prefix}-{next(self._numbers)}.tmp"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self._rights.file)
                break
            except FileExistsError:  # of a process that was forked from this one
                self._new_names()
        try:
            self._rights.give(fd, self._rights.file)
            with contextlib.suppress(OSError):  # without locks its age alone spares it
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            os.unlink(path)
            raise
        return fd, path

    def continued(self, name: str) -> tuple[int, str] | None:
        """A file that outlives its process, open as an earlier one left it; None if another process writes it
        at this moment. `remove_stale` spares it for a week."""
        path = f"{self.directory}/{name}{_KEPT_SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self._rights.file)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it locked may have renamed it just now.
            if not os.path.exists(path) or not os.path.samestat(os.stat(path), os.fstat(fd)):
                raise BlockingIOError
            self._rights.give(fd, self._rights.file)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return fd, path

    def kept(self, name: str) -> list[tuple[str, int]]:
        """What follows ``name`` in the names of `continued` files, and their sizes."""
        found: list[tuple[str, int]] = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.startswith(name) and entry.name.endswith(_KEPT_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        size = entry.stat(follow_symlinks=False).st_size
                        found.append((entry.name[len(name) : -len(_KEPT_SUFFIX)], size))
        return found

    def drop(self, name: str, spared: str | None = None) -> None:
        """Remove the `continued` files whose names begin with ``name``, but none that begins with ``spared``,
        and none that a process writes at this moment."""
        for rest, _ in self.kept(name):
            if spared is None or not (name + rest).startswith(spared):
                with contextlib.suppress(OSError):
                    _unlink_unlocked(f"{self.directory}/{name}{rest}{_KEPT_SUFFIX}")

    @contextlib.contextmanager
    def written(self, data: bytes) -> Generator[str]:
        """The path of a file that holds ``data`` and is on the disk. Gone at the end unless renamed."""
        fd, path = self.create()
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def remove_stale(self) -> None:
        """Remove what crashed processes left: files that nobody holds locked any more, a minute after they
        were written to last.

        The kernel lets go of a lock when its holder dies, which tells the dead from the living in other
        containers too, where process ids mean nothing. The minute is for a file that is just being made.
        """
        with contextlib.suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.endswith((".tmp", _KEPT_SUFFIX)):
                    with contextlib.suppress(OSError):
                        age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                        if age > (_STALE_SECONDS if entry.name.endswith(".tmp") else _KEPT_SECONDS):
                            _unlink_unlocked(entry.path)


def _unlink_unlocked(path: str) -> None:
    """:raises OSError: the file is locked, gone, or no file."""
    with descriptor(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)


PATIENCE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 0.005


class LockedError(TransientStorageError):
    """Someone else has held a key's lock for the whole of the time; nothing was changed."""


def name_of(key: str) -> str:
    """The file that is the key's lock."""
    return f"{zlib.crc32(key.encode()) & 0xFF:02x}.lock"


class KeyLocks:
    """Exclusion of writers of one key, across threads and processes.

    256 lock files, a key's by its CRC-32: two keys may share one, which costs waiting and nothing else. Each
    holder opens the file anew, because `flock` belongs to the opened file and so excludes threads as well;
    the kernel lets go when a process dies.

    A lock is held for the moment of a rename. Whoever waits longer waits for a process that was stopped, or
    for another program, and is told so after a while. Writes that have to wait so long do that by themselves
    (`LateWrites`), so that nothing else waits for them.
    """

    def __init__(self, directory: str, rights: Rights = OWNER) -> None:
        self.directory = directory
        self._rights = rights

    @contextlib.contextmanager
    def held(self, key: str, patience: float | None = None) -> Generator[None]:
        """Wait for the key's lock and hold it. Never hold two: their order is not defined.

        :param patience: seconds to wait; None means `PATIENCE_SECONDS`.
        :raises LockedError: it was not free in that time.
        """
        name = name_of(key)
        fd = self._open(f"{self.directory}/{name}")
        try:
            _acquire(fd, key, name, PATIENCE_SECONDS if patience is None else patience)
            yield
        finally:
            # A child process forked meanwhile holds a copy of the descriptor: closing ours is not enough.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            fd = os.open(path, flags | os.O_CREAT, self._rights.file)
        self._rights.give(fd, self._rights.file)
        return fd


def _acquire(fd: int, key: str, name: str, patience: float) -> None:
    give_up = time.monotonic() + patience
    pause = 0.00005
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= give_up:
            raise LockedError(
                f"object {key!r}: its lock, system/locks/{name}, has been held by another for {patience:g} s",
                remedy="end or resume the process that holds it (`fuser` or `lslocks` names it); try again",
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
