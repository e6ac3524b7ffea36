"""The table port: entities by partition key and row key, with ETags and OData filters.

A backend implements the ``_hooks``; the public methods validate, then call the hook. Limits are those of
Azure Table Storage ("Understanding the Table service data model"), the same on every backend.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from storage_lib.errors import InvalidArgumentError, InvalidKeyError, ObjectTooLargeError
from storage_lib.names import validate_table_name

EntityValue = str | int | float | bool | datetime | bytes | None
UpdateMode = Literal["merge", "replace"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A row: its two keys, its properties and the ETag it had when it was read."""

    partition_key: str
    row_key: str
    properties: Mapping[str, Any]
    etag: str
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class EntityPage:
    """A page of a query. Pass ``cursor`` on for the next page; None means there is none."""

    entities: list[Entity]
    cursor: str | None


MAX_ENTITY_PROPERTIES = 252
MAX_PROPERTY_CHARACTERS = 32 * 1024
MAX_PROPERTY_BYTES = 64 * 1024
MAX_ENTITY_BYTES = 1024 * 1024
MAX_TABLE_KEY_CHARACTERS = 512
MAX_QUERY_PAGE = 1000


class TableStore(ABC):
    """Entities by (partition key, row key), ordered by both, with the meaning of Azure Table Storage.

    Property values are str (at most 32 Ki UTF-16 units), bool, int (64 bits), float, aware datetime
    (microseconds, given back in UTC) and bytes (at most 64 KiB); None means the property is not there.
    An entity is at most 1 MiB.
    """

    async def create_table(self, table: str) -> None:
        """Make the table if it is not there."""
        await self._create_table(validate_table_name(table))

    async def insert(
        self, table: str, partition_key: str, row_key: str, properties: Mapping[str, Any]
    ) -> str:
        """Add an entity and return its ETag. The table is made if missing.

        :raises PreconditionFailedError: an entity with these keys exists.
        """
        return await self._insert(
            validate_table_name(table), *_row(partition_key, row_key), check_properties(properties)
        )

    async def upsert(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, Any],
        *,
        mode: UpdateMode = "merge",
    ) -> str:
        """Add the entity, or merge into / replace the one that is there. Returns its ETag."""
        return await self._upsert(
            validate_table_name(table), *_row(partition_key, row_key), check_properties(properties), mode
        )

    async def update(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, Any],
        *,
        etag: str | None = None,
        mode: UpdateMode = "merge",
    ) -> str:
        """Change an entity that exists, and only if it still has ``etag`` where one is given.

        :raises KeyNotFoundError: there is none.
        :raises PreconditionFailedError: it has another ETag.
        """
        return await self._update(
            validate_table_name(table),
            *_row(partition_key, row_key),
            check_properties(properties),
            etag,
            mode,
        )

    async def get(self, table: str, partition_key: str, row_key: str) -> Entity:
        """:raises KeyNotFoundError: there is no such entity (or table)."""
        return await self._get(validate_table_name(table), *_row(partition_key, row_key))

    async def delete(self, table: str, partition_key: str, row_key: str, *, etag: str | None = None) -> None:
        """:raises KeyNotFoundError: there is none. :raises PreconditionFailedError: another ETag."""
        await self._delete(validate_table_name(table), *_row(partition_key, row_key), etag)

    async def query(
        self,
        table: str,
        filter: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        select: list[str] | None = None,
        limit: int = MAX_QUERY_PAGE,
        cursor: str | None = None,
    ) -> EntityPage:
        """Entities that an OData filter holds for, ordered by partition key and row key.

        :param filter: for example ``"PartitionKey eq @day and status eq @status"``; each ``@name`` is
            replaced by the literal of ``parameters[name]``, quoted as its type needs. Never build a
            filter from user input by hand.
        :param limit: at most so many entities, 1 to 1,000. A page may hold fewer and still have a cursor.
        :raises InvalidArgumentError: the filter does not parse, or a parameter is missing.
        :raises KeyNotFoundError: there is no such table.
        """
        if not 1 <= limit <= MAX_QUERY_PAGE:
            raise InvalidArgumentError(
                f"limit {limit} is out of range", field="limit", limit=f"1 to {MAX_QUERY_PAGE}"
            )
        return await self._query(
            validate_table_name(table), filter, dict(parameters or {}), select, limit, cursor
        )

    @abstractmethod
    async def _create_table(self, table: str) -> None: ...
    @abstractmethod
    async def _insert(self, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str: ...
    @abstractmethod
    async def _upsert(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], mode: UpdateMode
    ) -> str: ...
    @abstractmethod
    async def _update(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], etag: str | None, mode: UpdateMode
    ) -> str: ...
    @abstractmethod
    async def _get(self, table: str, pk: str, rk: str) -> Entity: ...
    @abstractmethod
    async def _delete(self, table: str, pk: str, rk: str, etag: str | None) -> None: ...
    @abstractmethod
    async def _query(
        self,
        table: str,
        filter: str | None,
        parameters: dict[str, Any],
        select: list[str] | None,
        limit: int,
        cursor: str | None,
    ) -> EntityPage: ...


_KEY_FORBIDDEN = re.compile(r"[/\\\\#?\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PROPERTY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_SYSTEM_PROPERTIES = frozenset({"PartitionKey", "RowKey", "Timestamp", "etag"})


def _row(partition_key: str, row_key: str) -> tuple[str, str]:
    for name, value in (("partition_key", partition_key), ("row_key", row_key)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidKeyError(f"{name} must be a str, not {type(value).__name__}", field=name)
        if _KEY_FORBIDDEN.search(value):
            raise InvalidKeyError(
                f"{name} {value[:80]!a} contains a character that a table key may not have",
                field=name,
                limit="no '/', '\\\\', '#', '?', control characters or surrogates",
                remedy="percent-encode it first",
            )
        if len(value) > MAX_TABLE_KEY_CHARACTERS:
            raise InvalidKeyError(
                f"{name} has {len(value)} characters",
                field=name,
                limit=f"{MAX_TABLE_KEY_CHARACTERS} characters",
            )
    return partition_key, row_key


def check_properties(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``properties`` with only values that every backend gives back as they went in.

    :raises InvalidArgumentError: a name or a type that a table can not hold.
    :raises ObjectTooLargeError: a value or the whole entity is too large.
    """
    if len(properties) > MAX_ENTITY_PROPERTIES:
        raise ObjectTooLargeError(
            f"entity has {len(properties)} properties",
            field="properties",
            limit=f"{MAX_ENTITY_PROPERTIES} properties",
        )
    checked: dict[str, Any] = {}
    total = 0
    for name, value in properties.items():
        if not _PROPERTY_NAME.fullmatch(name) or name in _SYSTEM_PROPERTIES:
            raise InvalidArgumentError(
                f"property name {name[:80]!a} is not valid",
                field="properties",
                limit="letters, digits and _, not starting with a digit, none of the system's names",
            )
        total += 2 * len(name) + 8 + _property_size(name, value)
        checked[name] = value
    if total > MAX_ENTITY_BYTES:
        raise ObjectTooLargeError(
            f"entity is {total} bytes", field="properties", limit=f"{MAX_ENTITY_BYTES} bytes"
        )
    return checked


def _property_size(name: str, value: Any) -> int:
    kind = type(value)
    if value is None or kind is bool:
        return 1
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise InvalidArgumentError(
                f"property {name!r} is an integer outside 64 bits", field=name, remedy="store it as a str"
            )
        return 8
    if kind is float:
        if not math.isfinite(value):
            raise InvalidArgumentError(
                f"property {name!r} is not a finite number", field=name, remedy="store it as a str"
            )
        return 8
    if kind is datetime:
        if value.tzinfo is None:
            raise InvalidArgumentError(
                f"property {name!r} is a datetime without a time zone",
                field=name,
                remedy="give it one, for example datetime.now(UTC)",
            )
        return 8
    if kind is str:
        size = len(value.encode("utf-16-le", "surrogatepass"))
        if any("\ud800" <= ch <= "\udfff" for ch in value):
            raise InvalidArgumentError(f"property {name!r} contains a lone surrogate", field=name)
    elif kind is bytes:
        size = len(value)
    else:
        raise InvalidArgumentError(
            f"property {name!r} has the type {kind.__name__}, which a table can not hold",
            field=name,
            limit="str, bool, int, float, datetime, bytes or None",
            remedy="store it as JSON text, or save it as an object and store its key",
        )
    if size > MAX_PROPERTY_BYTES:
        raise ObjectTooLargeError(
            f"property {name!r} is {size} bytes",
            field=name,
            limit=f"{MAX_PROPERTY_BYTES} bytes (text counts two bytes a character)",
            remedy="save it as an object and store its key",
        )
    return size
