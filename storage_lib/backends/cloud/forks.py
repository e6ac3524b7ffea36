"""Network clients do not survive a fork: their threads stay in the parent, and whoever waits for one in the
child waits for ever. obstore has one runtime per process, so a new backend there would wait as well."""

from __future__ import annotations

import os

from storage_lib.errors import StorageError


class _Process:
    """``used``: it has sent a request. ``spoiled``: it was forked from one that had."""

    used = False
    spoiled = False


def use_process() -> None:
    """Note that this process sends requests.

    :raises StorageError: it was forked from a process that already had.
    """
    if _Process.spoiled:
        raise StorageError(
            "this process was forked from one that already used Azure or S3, whose clients do not survive a"
            " fork",
            remedy="start processes with the 'spawn' method of multiprocessing, or use Azure and S3 only"
            " after the fork",
        )
    _Process.used = True


def _after_fork() -> None:
    _Process.spoiled = _Process.spoiled or _Process.used


os.register_at_fork(after_in_child=_after_fork)
