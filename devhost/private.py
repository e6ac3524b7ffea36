"""Folders and files that only this user can read, whatever the umask is."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import IO


def make_folder(path: Path) -> None:
    """Make a folder of ours, or close one that was there to other users.

    :raises OSError: it cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    close(path)


def open_file(path: Path, mode: str) -> IO[bytes]:
    """As ``path.open(mode)``, for a file that others cannot read. :raises OSError: as that."""
    file = open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115 - its caller closes it
    close(path)
    return file


def close(path: Path) -> None:
    """Take from others what they may do with a file or folder; where that is not ours to say it stays."""
    with contextlib.suppress(PermissionError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & ~0o077)
