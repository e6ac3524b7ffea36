"""Names of queues, tables and containers: one rule for all backends, so that names work on each of them.

A name that Azure accepts is used as it is. Any other (``agent_tasks``, ``Sensitive Data``, ``ab``) is mapped
to its slug, a mark and ten hex digits of its SHA-256: ``agent-tasks-x30a1…`` for queues and containers,
``sensitivedatax9c22…`` for tables, whose names have letters and digits only. Two different names never share
storage: the digits (40 bits) distinguish names with the same slug, and a name that a user writes in exactly
this form, ending in the mark and ten hex digits, is mapped like an invalid one, so it cannot collide.

A store remembers which name was mapped, and lists it as it was given. One whose origin it does not know, for
an older version made it, is listed as ``=`` and the mapped name (``=agent-tasks-x30a1…``), which reaches it.

Refused with `InvalidKeyError`: an empty name, more than 255 characters, ``/``, control characters and lone
surrogates.

Table names are case-insensitive on every backend, as on Azure. Invalid table names that differ only in
case are different tables, because their digits differ.

Source: "Naming Queues and Metadata", "Understanding the Table Service Data Model", "Naming and Referencing
Containers, Blobs, and Metadata" (Azure Storage REST).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Self

from storage_lib.errors import InvalidKeyError
from storage_lib.patterns import pattern

MAX_NAME_CHARACTERS = 255
"""Of the name that a user gives a queue, table or container; the mapped name has at most 63."""
MAX_STORED_CHARACTERS = 63
"""Of the name in the store, on every backend, as on Azure."""

_DIGITS = 10
_DASHED = pattern(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_CONTAINER = pattern(rf"{_DASHED.pattern}|\$(?:root|web)")
_TABLE = pattern(r"(?![Tt][Aa][Bb][Ll][Ee][Ss]\Z)[A-Za-z][A-Za-z0-9]{2,62}")
_MAPPED_DASHED = pattern(rf".*-x[0-9a-f]{{{_DIGITS}}}")
_MAPPED_TABLE = pattern(rf".*x[0-9a-f]{{{_DIGITS}}}", re.IGNORECASE)
_FORBIDDEN = pattern(r"[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class MappedName(str):
    """What a store has instead of the name that was given; the store remembers that for its listings."""

    __slots__ = ("given",)
    given: str

    def __new__(cls, name: str, given: str) -> Self:
        mapped = super().__new__(cls, name)
        mapped.given = given
        return mapped

    def __getnewargs__(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return str(self), self.given


def given_name(name: str) -> str:
    """What the caller called it."""
    return name.given if isinstance(name, MappedName) else name


def listed_name(stored: str, mapping: Callable[[str], str]) -> str:
    """The name by which callers reach what is stored under ``stored``.

    :param mapping: `table_name` or `queue_name`.
    """
    for name in (given_name(stored), str(stored)):
        try:
            if mapping(name).lower() == stored.lower():
                return name
        except InvalidKeyError:
            continue
    return f"={stored}"


def queue_name(name: str) -> str:
    """The queue for ``name``: the name itself, or the mapped name.

    :raises InvalidKeyError: it cannot name a queue.
    """
    return _mapped("queue", name, _DASHED, _MAPPED_DASHED, "-")


def container_name(name: str) -> str:
    """The blob container for ``name``, by the rule for queues; ``$root`` and ``$web``, which have a
    meaning on Azure, are used as they are.

    :raises InvalidKeyError: it cannot name a container.
    """
    return _mapped("container", name, _CONTAINER, _MAPPED_DASHED, "-")


def table_name(name: str) -> str:
    """The table for ``name``: the name itself, or the mapped name. Azure reserves ``tables``, so it is
    mapped.

    :raises InvalidKeyError: it cannot name a table.
    """
    return _table_name(name) if type(name) is str else _mapped("table", name, _TABLE, _MAPPED_TABLE, "")


@lru_cache(256)
def _table_name(name: str) -> str:
    """A program has few tables."""
    return _mapped("table", name, _TABLE, _MAPPED_TABLE, "")


def validate_queue_name(name: str) -> str:
    """Return ``name`` if Azure accepts it as it is: 3 to 63 of a-z, 0-9 and single hyphens between them.
    This is for names passed to Azure's own software, which does not know the mapping.

    :raises InvalidKeyError: Azure does not accept it.
    """
    if not _DASHED.fullmatch(name):
        raise InvalidKeyError(
            f"queue name {name[:80]!a} is not valid",
            field="queue",
            limit="3 to 63 of a-z, 0-9 and single hyphens inside",
        )
    return name


def _mapped(kind: str, name: str, valid: re.Pattern[str], mapped: re.Pattern[str], hyphen: str) -> str:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidKeyError(f"a {kind} name must be a str, not {type(name).__name__}", field=kind)
    if valid.fullmatch(name) and not mapped.fullmatch(name):
        return name
    if not name or len(name) > MAX_NAME_CHARACTERS or _FORBIDDEN.search(name):
        raise InvalidKeyError(
            f"{kind} name {name[:80]!a} is not valid",
            field=kind,
            limit=f"1 to {MAX_NAME_CHARACTERS} characters, no '/', control characters or surrogates",
        )
    if name[0] == "=" and valid.fullmatch(name[1:]) and mapped.fullmatch(name[1:]):
        return name[1:]
    tail = f"{hyphen}x{hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]}"
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", hyphen, plain).strip("-")
    if not slug or (kind == "table" and slug[0].isdigit()):
        slug = f"{kind}{slug}"
    return MappedName(slug[: MAX_STORED_CHARACTERS - len(tail)].rstrip("-") + tail, name)
