"""Who may read and write the data folder: its owner alone, or the folder's group as well.

Modes are set, not left to the umask. Where a file system has no modes of its own (FAT, a network share), its
mount options decide; that is logged and no error.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from storage_lib.errors import ConfigurationError

_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_log = logging.getLogger("AOS.Storage")


class Rights(NamedTuple):
    """The modes of what is made, and the group that it belongs to (-1: whichever the system chooses)."""

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
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            try:
                before = os.fstat(fd)
                if self._differs(before):
                    self.give(fd, self._wanted(before.st_mode))
                after = os.fstat(fd)
            finally:
                os.close(fd)
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
