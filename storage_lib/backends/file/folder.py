"""A folder whose contents are reached through no symbolic link: at no level, and without a race.

A link in the middle of a path leads out of the folder: whoever can make one could have this process read,
replace or delete files elsewhere. Looking first and opening then leaves a moment in which one can be put
there. So the kernel is asked to follow none (openat2, Linux 5.6), which costs half a microsecond; where it
cannot be asked, each level is opened from the one above.

Paths are relative to the folder, without ``..``. They are bytes, because names are UTF-8 on the disk whatever
the locale of the process is. The empty path is the folder itself, which may be a link: it is not a key's.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import NamedTuple

from storage_lib.backends.file.errors import MISSING
from storage_lib.errors import ConfigurationError

_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_log = logging.getLogger("AOS.Storage")


@contextmanager
def descriptor(path: str | bytes, flags: int, *, dir_fd: int | None = None) -> Generator[int]:
    """What is at ``path``, open for the block."""
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


class Rights(NamedTuple):
    """Who may read and write the data folder: the modes of what is made, and the group that it belongs to
    (-1: whichever the system chooses).

    Modes are set, not left to the umask. Where a file system has no modes of its own (FAT, a network share),
    its mount options decide; that is logged and no error.
    """

    file: int
    directory: int
    group: int = -1

    def give(self, fd: int, mode: int) -> None:
        """Set what was just made to ``mode``, one of the two, whatever the umask has taken from it."""
        try:
            if self.group >= 0 and os.fstat(fd).st_gid != self.group:
                os.fchown(fd, -1, self.group)  # clears set-group-ID, hence first
            os.fchmod(fd, mode)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise

    def claim(self, directories: list[str]) -> None:
        """Close directories that were there to everybody else. Once one is closed, all in it is out of reach.

        :raises ConfigurationError: they cannot be shared with the group.
        """
        closed: list[str] = []
        for directory in directories:
            with descriptor(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
                before = os.fstat(fd)
                if self._differs(before):
                    self.give(fd, self._wanted(before.st_mode))
                after = os.fstat(fd)
            if self.group >= 0 and self._differs(after):
                raise ConfigurationError(
                    f"{directory} cannot be shared with the group {self.group}",
                    field="shared_group",
                    remedy="have its owner make this process's user a member of the group and run:"
                    f" chgrp -R {self.group} {directory}; chmod -R g+rwX {directory};"
                    f" find {directory} -type d -exec chmod g+s {{}} +",
                )
            if self._differs(after):
                _log.warning(
                    "%s is open to other users of this machine (mode %o) and cannot be closed by this one",
                    directory,
                    stat.S_IMODE(after.st_mode),
                )
            elif before.st_mode & 0o777 & ~self.directory:
                closed.append(directory)
        if closed:
            _log.warning(
                "closed to other users of this machine: %s; set shared_group to let the folder's group in",
                ", ".join(closed),
            )

    def claim_files(self, directory: str) -> None:
        """The same for the files in a directory that is closed already."""
        with os.scandir(directory) as entries:
            for entry in entries:
                # By its name: closing a descriptor of a database drops the locks on it (see sqlite.py).
                try:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if not stat.S_ISREG(status.st_mode) or not self._differs(status):
                            continue
                        if self.group not in (-1, status.st_gid):
                            os.chown(entry.path, -1, self.group, follow_symlinks=False)
                        os.chmod(entry.path, self._wanted(status.st_mode))
                except OSError as error:
                    if error.errno not in _REFUSED:
                        raise

    def _differs(self, status: os.stat_result) -> bool:
        return self._wanted(status.st_mode) != stat.S_IMODE(status.st_mode) or self.group not in (
            -1,
            status.st_gid,
        )

    def _wanted(self, mode: int) -> int:
        """What the owner may stays as it is: somebody may have made it read-only."""
        owner = stat.S_IMODE(mode) & ~0o077
        if self.group < 0:
            return owner
        return owner | (owner & 0o700) >> 3 | (stat.S_ISGID if stat.S_ISDIR(mode) else 0)


OWNER = Rights(0o600, 0o700)


def of_group(group: int) -> Rights:
    """For all members of a group. Set-group-ID hands the group on to what is made below."""
    return Rights(0o660, 0o2770, group)


# O_NONBLOCK: a named pipe in the folder must not hang its reader; it means nothing for regular files.
FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_PASSED = (os.O_PATH if hasattr(os, "O_PATH") else os.O_RDONLY) | os.O_CLOEXEC | os.O_DIRECTORY
"""For a directory that is only gone through, or in which entries are looked at and changed."""

_IS_UTF8 = sys.getfilesystemencoding() == "utf-8"
_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 0x04
_MACHINES = ("x86_64", "aarch64", "riscv64", "s390x", "ppc64le", "loongarch64")
"""Those on which the number of the call is known to be this one."""


class Folder:
    """What is below ``root``, an absolute path. Every method raises `OSError` as the system says it; a link
    in the way is ELOOP or ENOTDIR, as for something that is missing."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._prefix = root + b"/"
        self._openat2 = _openat2()

    def open(self, path: bytes, flags: int = FILE) -> int:
        """A descriptor of the file or (``flags=DIRECTORY``) the directory at ``path``."""
        if b"/" not in path:
            return os.open(self._prefix + path, flags)
        if self._openat2 is not None:
            if (fd := self._openat2(self._prefix + path, flags)) >= 0:
                return fd
            if fd == -errno.ENOENT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(self.full(path)))
        # Also for the reason why it failed, and where what is above the folder has become a link.
        return self._walk(path, flags)

    def _walk(self, path: bytes, flags: int) -> int:
        try:
            fd = os.open(self.root, _PASSED)
            try:
                *above, last = path.split(b"/")
                for name in above:
                    below = os.open(name, _PASSED | os.O_NOFOLLOW, dir_fd=fd)
                    fd, _ = below, os.close(fd)
                return os.open(last, flags, dir_fd=fd)
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = os.fsdecode(self.full(path))
            raise

    def full(self, path: bytes) -> bytes:
        """The absolute path, for messages."""
        return self._prefix + path

    @contextmanager
    def above(self, path: bytes) -> Generator[tuple[int, bytes]]:
        """The directory that ``path`` is in, open, and its name there."""
        directory, _, name = path.rpartition(b"/")
        fd = self.open(directory, _PASSED | os.O_NOFOLLOW)
        try:
            yield fd, name
        except OSError as error:
            error.filename = os.fsdecode(self.full(path))
            raise
        finally:
            os.close(fd)

    def status(self, path: bytes) -> os.stat_result | None:
        """What is at ``path``, a link as such; None if there is nothing."""
        try:
            if not path:
                return os.stat(self.root)
            with self.above(path) as (fd, name):
                return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in MISSING:
                return None
            raise

    def entries(self, directory: bytes) -> Generator[tuple[str, os.DirEntry[str]]]:
        """The entries of a directory, each with its name as text; what is no UTF-8 has surrogates in it."""
        fd = self.open(directory, DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    yield _text(entry.name), entry
        finally:
            os.close(fd)

    def spells(self, directory: bytes, path: bytes) -> bool:
        """Whether ``path``, below ``directory``, is spelled so on the disk: some file systems find a file by
        more names than the one that it has."""
        names = path[len(directory) :].lstrip(b"/").split(b"/")
        for name in names:
            if (text := name.decode("utf-8", "surrogateescape")) not in {
                name for name, _ in self.entries(directory)
            }:
                return False
            directory = joined(directory, text)
        return True

    def make(self, directory: bytes, rights: Rights) -> None:
        """Make a directory. :raises FileExistsError: something is there."""
        with self.above(directory) as (above, name):
            os.mkdir(name, rights.directory, dir_fd=above)
            with descriptor(name, DIRECTORY, dir_fd=above) as fd:
                rights.give(fd, rights.directory)

    def unlink(self, path: bytes) -> bool:
        """Remove a file; False if there is none."""
        try:
            with self.above(path) as (fd, name):
                os.unlink(name, dir_fd=fd)
        except OSError as error:
            if error.errno in MISSING:
                return False
            raise
        return True

    def sync(self, directory: bytes) -> None:
        """Wait until the directory's entries are on the disk."""
        while True:
            try:
                fd = self.open(directory, DIRECTORY)
            except OSError as error:
                if error.errno not in MISSING or not directory:
                    raise
                # Emptied and pruned by another meanwhile: what has to be durable is that it is gone.
                directory = parent(directory)
                continue
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            return

    def prune(self, directory: bytes) -> None:
        """Remove ``directory`` and its parents as long as they are empty."""
        while directory:
            try:
                with self.above(directory) as (fd, name):
                    os.rmdir(name, dir_fd=fd)
            except OSError:
                return
            directory = parent(directory)


def joined(directory: bytes, names: str) -> bytes:
    below = names.encode("utf-8", "surrogateescape")
    return directory + b"/" + below if directory else below


def parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def _text(name: str) -> str:
    if _IS_UTF8 or name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "surrogateescape")


@cache
def _openat2() -> Callable[[bytes, int], int] | None:
    """The call, by an absolute path and flags; where it failed, its error as a negative number. None where it
    is missing.

    By way of ctypes, with all arguments but the path made before: anything else costs three times as much.
    """
    if sys.platform != "linux" or os.uname().machine not in _MACHINES:
        return None
    try:
        import ctypes
    except ImportError:  # a Python that was built without it
        return None

    class How(ctypes.Structure):
        _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]

    known = (FILE, DIRECTORY, _PASSED | os.O_NOFOLLOW)
    hows = {flags: How(flags, 0, _RESOLVE_NO_SYMLINKS) for flags in known}
    arguments = {flags: ctypes.c_void_p(ctypes.addressof(how)) for flags, how in hows.items()}
    number, nowhere = ctypes.c_long(_OPENAT2), ctypes.c_long(-100)
    size = ctypes.c_size_t(ctypes.sizeof(How))
    syscall = ctypes.CDLL(None, use_errno=True)["syscall"]
    syscall.restype = ctypes.c_int

    def openat2(path: bytes, flags: int, _kept: object = hows) -> int:
        fd: int = syscall(number, nowhere, path, arguments[flags], size)
        return fd if fd >= 0 else -(ctypes.get_errno() or errno.EIO)

    fd = openat2(b"/", DIRECTORY)
    if fd < 0:
        return None
    os.close(fd)
    return openat2
