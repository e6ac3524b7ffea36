"""Namespaces: several apps or environments share the tables and queues of one store.

In the namespace ``dev`` the queue ``agent-tasks`` is stored as ``dev-agent-tasks`` and the table ``tasks`` as
``n03devtasks``: tables have letters and digits only, so the length of the namespace (two digits) says where
their own name begins. No two namespaces share a name. A name that becomes longer than the 63 characters of
Azure is cut, with ten hex digits of its SHA-256 at its end, as in names.py.

Without a namespace names are used as they are, and whoever has none sees the names of all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress

from storage_lib.errors import ConfigurationError, InvalidKeyError
from storage_lib.names import (
    MAX_STORED_CHARACTERS,
    MappedName,
    given_name,
    listed_name,
    queue_name,
    table_name,
)
from storage_lib.patterns import pattern

SETTING = "AGENT_STORAGE_NAMESPACE"
MAX_NAMESPACE_CHARACTERS = 20
RESERVED = ("agent", "azure")
"""Queues of an app without a namespace begin with ``agent-``, those of the platform with ``azure-``."""

_DIGITS = 10
_NAMESPACE = pattern(rf"[a-z][a-z0-9]{{0,{MAX_NAMESPACE_CHARACTERS - 1}}}")


def check_namespace(namespace: object, field: str = "namespace") -> str:
    """Return a valid namespace; an empty one is none.

    :raises ConfigurationError: it cannot be one.
    """
    if isinstance(namespace, str) and (
        not namespace or (_NAMESPACE.fullmatch(namespace) and namespace not in RESERVED)
    ):
        return namespace
    raise ConfigurationError(
        f"{field} is {str(namespace)[:40]!r}",
        field=field,
        limit=f"a small letter, then small letters and digits, at most {MAX_NAMESPACE_CHARACTERS} characters;"
        f" not {' or '.join(RESERVED)}",
        remedy="name the app or the environment, such as dev or team2, or leave it empty",
    )


def namespace_of(environ: Mapping[str, str] | None = None) -> str:
    """That of the environment; empty if there is none.

    :raises ConfigurationError: it cannot be one.
    """
    return check_namespace((os.environ if environ is None else environ).get(SETTING, ""), SETTING)


def queue_in(namespace: str, queue: str) -> str:
    """What a queue of a namespace is called in the store.

    :param queue: as `names.queue_name` returns it.
    """
    return _stored(before_queues(namespace), queue, queue_name, "-x") if namespace else queue


def table_in(namespace: str, table: str) -> str:
    """What a table of a namespace is called in the store.

    :param table: as `names.table_name` returns it.
    """
    return _stored(before_tables(namespace), table, table_name, "x") if namespace else table


def queues_of(namespace: str, stored: Iterable[str]) -> list[str]:
    """Those of the queues with these names in the store that are in the namespace, as in `queue_in`."""
    return list(_within(before_queues(namespace), stored, queue_name, "-x"))


def tables_of(namespace: str, stored: Iterable[str]) -> list[str]:
    """Likewise for tables, as in `table_in`."""
    return list(_within(before_tables(namespace), stored, table_name, "x"))


def before_queues(namespace: str) -> str:
    """How the names of its queues begin in the store."""
    return f"{namespace}-"


def before_tables(namespace: str) -> str:
    """How the names of its tables begin in the store."""
    return f"n{len(namespace):02}{namespace}"


def _stored(prefix: str, name: str, mapping: Callable[[str], str], mark: str) -> str:
    room = MAX_STORED_CHARACTERS - len(prefix)
    stored = name
    if len(name) > room:
        # In small letters: two tables whose names differ in case only are one.
        tail = mark + hashlib.sha256(name.lower().encode()).hexdigest()[:_DIGITS]
        stored = name[: room - len(tail)].rstrip("-") + tail
    if stored is name and not isinstance(name, MappedName):
        return prefix + name
    return MappedName(prefix + stored, listed_name(name, mapping))


def _within(prefix: str, stored: Iterable[str], mapping: Callable[[str], str], mark: str) -> Generator[str]:
    for name in stored:
        if not name.lower().startswith(prefix):
            continue
        given = given_name(name)
        if given.lower() == name.lower():
            yield given[len(prefix) :]  # It is remembered for its capital letters.
            continue
        with suppress(InvalidKeyError):
            mapped = mapping(given)
            if _stored(prefix, mapped, mapping, mark).lower() == name.lower():
                yield mapped
                continue
        yield name[len(prefix) :]
