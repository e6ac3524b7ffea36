"""`TableStore`: entities by partition key and row key, with ETags, transactions and OData filters.

The store validates and maps names (names.py), values (entities.py) and filters (odata.py); a driver
(drivers.py) does the rest. The limits are those of Azure Table Storage ("Understanding the Table service
data model", "Performing entity group transactions") on every backend.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, cast, overload

from storage_lib.arguments import mapping, several
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    StorageError,
)
from storage_lib.names import table_name
from storage_lib.patterns import pattern
from storage_lib.ports import cursors
from storage_lib.ports.drivers import QueryOptions, TableDriver
from storage_lib.ports.entities import (
    MAX_ENTITY_BYTES,
    MAX_ENTITY_PROPERTIES,
    MAX_PROPERTY_BYTES,
    MAX_PROPERTY_CHARACTERS,
    MAX_TABLE_KEY_CHARACTERS,
    EntityValue,
    check_keys,
    contents_of,
    from_stored,
    stored_text,
    to_stored,
)
from storage_lib.ports.errors import at_operation, other_entity_etag
from storage_lib.ports.listed import Listed, listed_names
from storage_lib.ports.object_model import ANY_VERSION
from storage_lib.ports.portable import Stationary
from storage_lib.ports.table_model import (
    Delete,
    Entity,
    EntityPage,
    Insert,
    TableOperation,
    Update,
    UpdateMode,
    Upsert,
)

__all__ = [
    "MAX_BATCH_BYTES",
    "MAX_BATCH_OPERATIONS",
    "MAX_ENTITY_BYTES",
    "MAX_ENTITY_PROPERTIES",
    "MAX_PROPERTY_BYTES",
    "MAX_PROPERTY_CHARACTERS",
    "MAX_QUERY_PAGE",
    "MAX_TABLE_KEY_CHARACTERS",
    "Delete",
    "Entity",
    "EntityPage",
    "EntityValue",
    "Insert",
    "TableOperation",
    "TableStore",
    "Update",
    "UpdateMode",
    "Upsert",
]

MAX_QUERY_PAGE = 1000
MAX_BATCH_OPERATIONS = 100
MAX_BATCH_BYTES = 4 * 1024 * 1024


_NOTHING: Any = object()
_NAME = pattern(r"[^\W\d]\w{0,254}")
_CONDITIONAL = (Update, Delete)
_OPERATIONS = (Insert, Upsert, Update, Delete)


class TableStore(Stationary):
    """Entities by (partition key, row key), ordered by both, with the meaning of Azure Table Storage.

    Property values are str (at most 32 Ki UTF-16 units), bool, int (64 bits), float, aware datetime
    (microseconds, returned in UTC, not before 1601), bytes (at most 64 KiB), UUID, and dict and list of
    plain JSON (at most 32 Ki units of text); None means that the property is not set. All are restored
    with their type; entities.py says how they are stored. An entity has at most 1 MiB and 252
    properties.

    Any table name that names.py accepts is valid; those that Azure refuses are mapped.
    """

    def __init__(self, driver: TableDriver) -> None:
        self.driver = driver

    async def create_table(self, table: str) -> None:
        """Create the table if it does not exist."""
        await self.driver.create_table(table_name(table))

    def list_tables(self, prefix: str = "") -> Listed[str]:
        """List the names of the tables that begin with ``prefix``, as they were given, in order.

        All are listed, those of the tasks and of the audit log too. ``await`` returns a list, ``async for``
        an iterator; either holds all names in memory. A name that this library did not give its table may be
        listed as names.py says.
        """

        async def names() -> AsyncGenerator[str]:
            for name in await listed_names(self.driver.list_tables, table_name, prefix):
                yield name

        return Listed(names)

    async def insert(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, EntityValue],
        *,
        also: Sequence[TableOperation] = (),
    ) -> str:
        """Add an entity and return its ETag. The table is created if it does not exist.

        :param also: done in the same transaction, in the same partition; see `batch` for the limits and for
            how an operation that fails is named: this one is number 0, these follow.
        :raises PreconditionFailedError: an entity with these keys exists.
        """
        if also:
            return await self._first(table, partition_key, [Insert(row_key, properties), *also])
        name, _ = table_name(table), check_keys(partition_key, row_key)
        return await self._write(name, partition_key, Insert(row_key, to_stored(properties)))

    async def upsert(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, EntityValue],
        *,
        mode: UpdateMode = "merge",
    ) -> str:
        """Add an entity, or merge into or replace the existing one, and return its ETag. The table is
        created if it does not exist."""
        name, _ = table_name(table), check_keys(partition_key, row_key)
        return await self._write(name, partition_key, Upsert(row_key, to_stored(properties), _mode(mode)))

    async def update(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, EntityValue],
        *,
        etag: str | None = None,
        mode: UpdateMode = "merge",
        also: Sequence[TableOperation] = (),
    ) -> str:
        """Change an existing entity and return its new ETag.

        :param etag: change it only if it has this `Entity.etag`; None and ``"*"`` mean any.
        :param also: as in `insert`.
        :raises KeyNotFoundError: there is no such entity.
        :raises PreconditionFailedError: it has another ETag.
        """
        if also:
            change = Update(row_key, properties, etag, mode)
            return await self._first(table, partition_key, [change, *also])
        name, keys, stored = table_name(table), check_keys(partition_key, row_key), to_stored(properties)
        expected = await self._expected(name, *keys, etag)
        return await self._write(name, partition_key, Update(row_key, stored, expected, _mode(mode)))

    @overload
    async def get(self, table: str, partition_key: str, row_key: str) -> Entity: ...
    @overload
    async def get[Default](
        self, table: str, partition_key: str, row_key: str, *, default: Default
    ) -> Entity | Default: ...
    async def get(self, table: str, partition_key: str, row_key: str, *, default: Any = _NOTHING) -> Any:
        """Return an entity.

        :param default: returned if there is no such entity or table; without it that is an error.
        :raises KeyNotFoundError: there is no such entity or table, and no ``default``.
        """
        name, keys = table_name(table), check_keys(partition_key, row_key)
        try:
            return _read(await self.driver.get(name, *keys))
        except KeyNotFoundError:
            if default is _NOTHING:
                raise
            return default

    async def delete(
        self,
        table: str,
        partition_key: str,
        row_key: str,
        *,
        etag: str | None = None,
        missing_ok: bool = False,
    ) -> None:
        """Delete an entity.

        :param etag: as in `update`.
        :param missing_ok: it is no error if there is no such entity or table.
        :raises KeyNotFoundError: there is no such entity.
        :raises PreconditionFailedError: it has another ETag.
        """
        name, keys = table_name(table), check_keys(partition_key, row_key)
        try:
            expected = await self._expected(name, *keys, etag)
            await self.driver.write(name, partition_key, Delete(row_key, expected))
        except KeyNotFoundError:
            if not missing_ok:
                raise

    async def _write(self, table: str, pk: str, operation: Insert | Upsert | Update) -> str:
        return cast("str", await self.driver.write(table, pk, operation))

    async def _first(self, table: str, pk: str, operations: Sequence[TableOperation]) -> str:
        return cast("str", (await self.batch(table, pk, operations))[0])

    async def batch(
        self, table: str, partition_key: str, operations: Sequence[TableOperation]
    ) -> list[str | None]:
        """Do all of the operations on entities of one partition, or none.

        Returns the new ETag of each entity in the order of the operations, None for a `Delete`. The
        table is created if it does not exist and an operation may add to it. There may be at most 100
        operations, each on a different entity, of 4 MiB in total (counted as the JSON for Azure).

        A failing operation is named by its index: the error's text begins with ``operation 3:`` and its
        ``field`` is ``operations[3]``; its type is the one that the single operation would have raised.

        :raises InvalidArgumentError: two operations on one entity, too many, or something else than an
            operation.
        :raises ObjectTooLargeError: more than 4 MiB.
        """
        name = table_name(table)
        check_keys(partition_key, "")
        operations = several("operations", operations)
        if len(operations) > MAX_BATCH_OPERATIONS:
            raise InvalidArgumentError(
                f"the batch has {len(operations)} operations",
                field="operations",
                limit=f"{MAX_BATCH_OPERATIONS} operations",
            )
        checked: list[TableOperation] = []
        rows: set[str] = set()
        total = 0
        for index, operation in enumerate(operations):
            try:
                operation = _stored_operation(partition_key, operation)
                if operation.row_key in rows:
                    raise InvalidArgumentError(
                        f"entity {partition_key!r}, {operation.row_key!r} is already in the batch",
                        remedy="put what is to happen to it into one operation",
                    )
                if isinstance(operation, _CONDITIONAL) and operation.etag is not None:
                    etag = await self._expected(name, partition_key, operation.row_key, operation.etag)
                    if etag != operation.etag:
                        operation = replace(operation, etag=etag)
            except StorageError as error:
                raise at_operation(index, error) from error
            rows.add(operation.row_key)
            checked.append(operation)
            total += _most_bytes(operation)
        if total > MAX_BATCH_BYTES:
            total = sum(_wire_size(partition_key, operation) for operation in checked)
        if total > MAX_BATCH_BYTES:
            raise ObjectTooLargeError(
                f"the batch is {total} bytes", field="operations", limit=f"{MAX_BATCH_BYTES} bytes"
            )
        return await self.driver.batch(name, partition_key, checked) if checked else []

    async def query(
        self,
        table: str,
        filter: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
        limit: int = MAX_QUERY_PAGE,
        cursor: str | None = None,
    ) -> EntityPage:
        """Return a page of the entities that match an OData filter, ordered by partition key and row key.

        :param filter: for example ``"PartitionKey eq @day and status eq @status"``; odata.py has the
            syntax. Each ``@name`` is replaced by the literal of ``parameters[name]``, quoted as its type
            requires. Never build a filter from user input by hand.
        :param select: the names of the properties to return; keys, ETag and timestamp are always returned.
        :param limit: at most this many entities, 1 to 1,000. A page may hold fewer and still have a cursor:
            it ends after some 4 MiB.
        :param cursor: the cursor of the previous page of the same query.
        :raises InvalidArgumentError: the filter does not parse, a parameter is missing, ``select`` names what
            no property is called, or the cursor belongs to another query.
        :raises KeyNotFoundError: there is no such table.
        """
        from storage_lib.ports.odata import compile_filter

        if type(limit) is not int or not 1 <= limit <= MAX_QUERY_PAGE:
            raise InvalidArgumentError(
                f"limit {limit} is out of range", field="limit", limit=f"1 to {MAX_QUERY_PAGE}"
            )
        bound = {
            name: stored_text(value) if type(value) is str else value
            for name, value in mapping("parameters", {} if parameters is None else parameters).items()
        }
        wanted = None if select is None else [_property(each) for each in several("select", select)]
        name = table_name(table)
        listing = (name, filter, sorted(bound.items(), key=itemgetter(0)))
        given = None if cursor is None else cursors.unbound(cursor, *listing)
        page = await self.driver.query(
            name, QueryOptions(compile_filter(filter, bound), wanted, limit, given)
        )
        following = None if page.cursor is None else cursors.bound(page.cursor, *listing)
        return EntityPage([_read(entity) for entity in page.entities], following)

    def iterate(
        self,
        table: str,
        filter: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
    ) -> Listed[Entity]:
        """List all entities that match an OData filter: ``async for`` streams them, ``await`` returns a
        list. The arguments and errors are those of `query`.

        Entities written meanwhile may or may not be seen; all others are returned exactly once.
        """

        async def entities() -> AsyncGenerator[Entity]:
            cursor = None
            while True:
                page = await self.query(table, filter, parameters=parameters, select=select, cursor=cursor)
                for entity in page.entities:
                    yield entity
                if (cursor := page.cursor) is None:
                    return

        return Listed(entities)

    async def _expected(self, table: str, pk: str, rk: str, etag: str | None) -> str | None:
        """The ETag that the driver is to insist on, None for any.

        :raises KeyNotFoundError: the entity cannot have ``etag``, for there is none.
        :raises PreconditionFailedError: no entity can have it.
        """
        if etag is None or etag == ANY_VERSION:
            return None
        if not isinstance(etag, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidArgumentError(
                f"etag is a {type(etag).__name__}", field="etag", limit='an ETag, or "*" for any version'
            )
        if not self.driver.etags.fullmatch(etag):
            await self.driver.get(table, pk, rk)
            raise other_entity_etag(table, pk, rk, etag)
        return etag


def _read(entity: Entity) -> Entity:
    properties = from_stored(entity.properties)
    if properties is entity.properties:
        return entity
    return Entity(entity.partition_key, entity.row_key, properties, entity.etag, entity.timestamp)


def _property(name: object) -> str:
    """A name that a property can have, of any program's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"select has {ascii(name)[:80]}, which no property is called",
            field="select",
            limit="names of properties",
            remedy="leave select out for all properties",
        )
    return name


def _mode(mode: UpdateMode) -> UpdateMode:
    if mode not in ("merge", "replace"):
        raise InvalidArgumentError(f"mode {mode!r} is not valid", field="mode", limit="merge or replace")
    return mode


def _stored_operation(partition_key: str, operation: TableOperation) -> TableOperation:
    if not isinstance(operation, _OPERATIONS):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"a {type(operation).__name__} is no operation", limit="Insert, Upsert, Update or Delete"
        )
    rk = operation.row_key
    check_keys(partition_key, rk)
    # Made anew and not by `replace`, which takes longer than all else here.
    match operation:
        case Insert():
            return Insert(rk, to_stored(operation.properties))
        case Upsert():
            return Upsert(rk, to_stored(operation.properties), _mode(operation.mode))
        case Update():
            return Update(rk, to_stored(operation.properties), operation.etag, _mode(operation.mode))
        case Delete():
            return operation


_OPERATION_BYTES = 1024
"""Headers of one operation in the request, without its keys."""


_KEY_BYTES = 2 * MAX_TABLE_KEY_CHARACTERS * (2 * 6 + 3 * 3)
"""The longest keys, twice as escaped JSON and three times as UTF-8."""
_PROPERTY_BYTES = 2 * 255 + 100
"""The longest name, and a type and a value that is neither text nor bytes."""


def _most_bytes(operation: TableOperation) -> int:
    """What is easily counted, and never less than `_wire_size`."""
    size = _OPERATION_BYTES + _KEY_BYTES
    if isinstance(operation, Delete):
        return size
    # An escaped character is six, one of two UTF-16 units twelve.
    return size + _PROPERTY_BYTES * len(operation.properties) + 12 * contents_of(operation.properties)


def _wire_size(partition_key: str, operation: TableOperation) -> int:
    """Bytes of one operation in the request to Azure, which has JSON with other characters than ASCII
    escaped, each property with its type, and the keys percent-encoded. Rather too many than too few."""
    size = _OPERATION_BYTES + 2 * len(json.dumps(partition_key + operation.row_key))
    size += 3 * len((partition_key + operation.row_key).encode())
    if isinstance(operation, Delete):
        return size
    for name, value in operation.properties.items():
        size += 2 * len(name) + 48
        match value:
            case str():
                size += len(json.dumps(value))
            case bytes():
                size += 4 * (len(value) + 2) // 3
            case _:
                size += 40
    return size
