"""The tables and queues that belong to the library, and not to those who use it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from storage_lib.arguments import several
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, UnsupportedOperationError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.names import table_name
from storage_lib.ports.backend import StorageBackend, layers_of
from storage_lib.tasks.model import EVENT_QUEUE, KEY_TABLE, TASK_TABLE
from storage_lib.tasks.queues import NAMES

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

CONVERSATIONS = "conversationlog"
"""The table of conversations, which callers reach by `storage_lib.conversations` alone: what it allows is not
by table. Otherwise it is a table like those of users, and copied like one."""
MESSAGES = f"{SYSTEM_PREFIX}conversations/"
"""Where the objects are that rows of conversations refer to: they are copied together."""
TASKS = "tasks"
AUDIT = "audit log"
EVENTS = "events"
_TABLES = frozenset({TASK_TABLE, KEY_TABLE})
_QUEUES = {
    **dict.fromkeys(NAMES, TASKS),
    EVENT_QUEUE: EVENTS,
}


def owner_of_queue(name: str) -> str | None:
    """What of the library a queue belongs to, in any namespace; None if to its users."""
    return _QUEUES.get(name) or _QUEUES.get(name.partition("-")[2])


def owners_of_tables(names: Iterable[str], *stores: StorageManager) -> dict[str, str]:
    """What of the library tables belong to, in any namespace; those of users are left out. Those of an audit
    log are known by the configuration of the stores, and by their default names."""
    logs = audit_tables(*(storage.backend for storage in stores))
    return {name: owner for name in names if (owner := owner_of_table(name, logs)) is not None}


def owner_of_table(name: str, logs: Container[str]) -> str | None:
    """What of the library a table belongs to, in any namespace; None if to its users.

    :param name: as it was given, or as the store calls it.
    :param logs: see `audit_tables`.
    """
    # A name in the form of a mapped one may be either.
    names = {name.lower(), table_name(name).lower()}
    names |= {_without_namespace(each) for each in names}
    if any(each in logs for each in names):
        return AUDIT
    return TASKS if names & _TABLES else None


def has_conversations(name: str) -> bool:
    """Whether it is the table of conversations, in any namespace.

    :param name: as the store calls it, in small letters.
    """
    return CONVERSATIONS in (name, _without_namespace(name))


def audit_tables(*backends: StorageBackend) -> frozenset[str]:
    """The tables of audit logs as stores call them, in small letters: those of these stores, and those with
    default names."""
    from storage_lib.config import AuditOptions
    from storage_lib.layers.audit.layer import AuditLayer
    from storage_lib.layers.audit.tables import head_table

    audited = {AuditOptions().table}
    for backend in backends:
        audited.update(layer.options.table for layer in layers_of(backend) if isinstance(layer, AuditLayer))
    return frozenset(table_name(name).lower() for table in audited for name in (table, head_table(table)))


def _without_namespace(table: str) -> str:
    """The name of a table in its namespace; see namespaces.py."""
    length = table[1:3]
    return table[3 + int(length) :] if table[:1] == "n" and length.isdecimal() else table


class Tables(NamedTuple):
    """The tables that are meant; ``left_out`` are those of the library that were not named."""

    names: list[str]
    left_out: list[str]


async def meant_tables(wanted: Sequence[str] | None, *stores: StorageManager, tasks: bool = False) -> Tables:
    """The tables that are wanted, of those that any of ``stores`` has; the parameters and the other errors
    are those of `chosen_tables`.

    :raises UnsupportedOperationError: some are wanted, and the stores have no tables.
    """
    there: set[str] = set()
    refusal: UnsupportedOperationError | None = None
    for storage in stores:
        try:
            there.update(await storage.list_tables())
        except UnsupportedOperationError as error:
            refusal = error
    if wanted and not there and refusal is not None:
        raise refusal
    owners = owners_of_tables(there, *stores)
    names = chosen_tables(wanted, sorted(there), owners, tasks=tasks)
    return Tables(names, sorted(owners.keys() - set(names)))


def chosen_tables(
    wanted: Sequence[str] | None, there: Sequence[str], owners: dict[str, str], *, tasks: bool = False
) -> list[str]:
    """The tables that are wanted of those that are there, in order.

    :param wanted: names, and patterns with ``*``, ``?`` and ``[a-z]``; None means all. What belongs to the
        library is meant only by its name.
    :param tasks: whether the records of tasks can be wanted.
    :raises KeyNotFoundError: there is no table with a name.
    :raises InvalidArgumentError: a name is that of task records, or none.
    """
    free = [name for name in there if name not in owners]
    if wanted is None:
        return free
    by_stored = {table_name(name).lower(): name for name in there}
    found: set[str] = set()
    for each in several("tables", wanted):
        exact = by_stored.get(table_name(each).lower())
        if exact is not None:
            if owners.get(exact) == TASKS and not tasks:
                raise InvalidArgumentError(
                    f"the table {each!r} has the records of tasks, which mean nothing without their messages",
                    field="tables",
                    remedy="let the tasks end, and submit what is still to be done to the other app",
                )
            found.add(exact)
        elif is_pattern(each):
            found.update(name for name in free if fnmatchcase(name, each))
        else:
            raise KeyNotFoundError(f"table {each!r} does not exist", field="tables")
    return sorted(found)


def is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")
