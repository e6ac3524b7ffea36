"""What deletes leave unused in the database's file, given back to the file system while nobody writes.

A step moves the last pages of the file into unused ones, in a transaction of its own of about 10 ms, and a
pause follows in which others get the file: SQLite's own wait for a lock is shorter. A crash at any moment
undoes a step or keeps it whole (SQLite's "incremental vacuum").

A file has to be made for it. One that was not is made anew, once and in one transaction, if that takes no
longer than a few steps; else `python -m storage_lib.backends.file.anew FILE` does it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

IDLE_SECONDS = 1.0
"""Without a write, before the first step."""
PAUSE_SECONDS = 0.05
STEP_SECONDS = 0.01
_MIN_STEP, _MAX_STEP = 64, 512
MIN_PAGES = 256
"""Unused pages (of 4 KiB) that are worth it, if they are also an eighth of the file: what is written soon
takes them again."""
MAX_MOVED_PAGES = 4096
"""About so many, until all of the log is moved into the file: while somebody reads what was there before,
that waits, and the log only grows."""
MAX_SMALL_PAGES = 1000
"""Used pages of a file that is made anew by the way, in about 30 ms."""


class UnusedSpace:
    """Of one connection, which is in no transaction and belongs to the caller."""

    def __init__(self) -> None:
        self._step = 128
        self._under_way = False
        self._moved = 0

    def give_back(self, connection: Connection) -> float | None:
        """Do a step. Returns the seconds until the next one; None where there is nothing more to do.

        :raises sqlite3.Error: not even that can be done now; nothing was changed.
        """
        import sqlite3

        (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout=0")
        try:
            return self._give_back(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return IDLE_SECONDS  # Somebody writes.
            raise
        finally:
            connection.execute(f"PRAGMA busy_timeout={patience}")

    def _give_back(self, connection: Connection) -> float | None:
        unused, pages = _number(connection, "freelist_count"), _number(connection, "page_count")
        is_worth_it = unused >= max(MIN_PAGES, pages / 8)
        if not self._under_way and not is_worth_it and _pages_of_file(connection) - pages < MIN_PAGES:
            return None
        self._under_way = True
        if not _can_shrink(connection):
            if pages - unused > MAX_SMALL_PAGES:
                self._under_way = False
                return None
            make_anew(connection)
        elif unused:
            if self._moved >= MAX_MOVED_PAGES:
                is_busy, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if is_busy or done < pages:
                    return IDLE_SECONDS
                self._moved = 0
            self._moved += self._step
            started = time.monotonic()
            connection.execute(f"PRAGMA incremental_vacuum({self._step})").fetchall()
            taken = time.monotonic() - started
            if taken > STEP_SECONDS:
                self._step = max(self._step // 2, _MIN_STEP)
            elif taken < STEP_SECONDS / 2:
                self._step = min(self._step * 2, _MAX_STEP)
            return PAUSE_SECONDS
        # The file itself shrinks when the log is moved into it, most of it without keeping anyone out. That
        # waits for those who still read what was there before.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._under_way = bool(is_busy)
        return IDLE_SECONDS if is_busy else None


def prepare(connection: Connection) -> None:
    """Have the file, before anything is written to it, made so that it can shrink by steps. It waits for
    whoever writes to it."""
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")


def _can_shrink(connection: Connection) -> bool:
    return _number(connection, "auto_vacuum") == 2


def _pages_of_file(connection: Connection) -> int:
    """More than by its log, where a process was killed before the file was cut off."""
    (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
    return os.stat(path).st_size // _number(connection, "page_size")


def make_anew(connection: Connection) -> None:
    prepare(connection)
    connection.execute("VACUUM")


def _number(connection: Connection, pragma: str) -> int:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]
