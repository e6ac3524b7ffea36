"""The names that tables and queues were given, where the database has others: mapped, or in lower case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from storage_lib.names import MappedName
from storage_lib.ports.drivers import NamePage

if TYPE_CHECKING:
    from sqlite3 import Connection

PAGE = 1000

Kind = Literal["tables", "queues"]


def make(connection: Connection, kind: Kind, name: str, given: str, *, again: bool = False) -> None:
    """Add a table or queue if there is none.

    :param again: remember what it was given, too, if there is one whose given name is not known.
    """
    made = connection.execute(f"INSERT OR IGNORE INTO {kind} (name) VALUES (?)", (name,))  # noqa: S608
    if given == name or not (again or made.rowcount):
        return
    # Made when it is first needed: versions of this library that do not know it use the same database.
    connection.execute(
        "CREATE TABLE IF NOT EXISTS given_names"
        " (kind TEXT NOT NULL, name TEXT NOT NULL, given TEXT NOT NULL, PRIMARY KEY (kind, name))"
        " WITHOUT ROWID"
    )
    connection.execute("INSERT OR IGNORE INTO given_names VALUES (?, ?, ?)", (kind, name, given))


def page(connection: Connection, kind: Kind, prefix: str, cursor: str | None) -> NamePage:
    """Names in order, the cursor being the last one."""
    rows = connection.execute(
        f"SELECT name FROM {kind} WHERE name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",  # noqa: S608
        (cursor or "", len(prefix), prefix, PAGE),
    )
    names = [name for (name,) in rows]
    given: dict[str, str] = {}
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'given_names'").fetchone():
        for name in names:
            found = connection.execute(
                "SELECT given FROM given_names WHERE kind = ? AND name = ?", (kind, name)
            ).fetchone()
            if found is not None:
                given[name] = found[0]
    return NamePage(
        [MappedName(name, given[name]) if name in given else name for name in names],
        names[-1] if len(names) == PAGE else None,
    )
