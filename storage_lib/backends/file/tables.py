"""Tables in SQLite: entities ordered by the UTF-8 bytes of their keys, filters as Azure means them.

Azure orders keys by UTF-16 units, which differs only where characters beyond U+FFFF meet U+E000 to U+FFFF.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from storage_lib.backends.file import sqlite
from storage_lib.backends.file.sqlite import Database
from storage_lib.errors import IntegrityError, StorageError
from storage_lib.ports import cursors
from storage_lib.ports.drivers import MAX_PAGE_BYTES, NamePage, QueryOptions, TableDriver
from storage_lib.ports.entities import check_size, size_of
from storage_lib.ports.errors import (
    at_operation,
    existing_entity,
    missing_entity,
    missing_table,
    other_entity_etag,
)
from storage_lib.ports.table_model import Delete, Entity, EntityPage, Insert, TableOperation, Update, Upsert

if TYPE_CHECKING:
    from sqlite3 import Connection

    from storage_lib.ports.odata import Filter, Node

MAX_TERMS = 200
"""SQLite refuses an expression that is 1,000 levels deep; so long a filter is not the common one."""

_OUTSIDE = frozenset({"PartitionKey", "RowKey", "Timestamp"})
"""What is not in the map of properties."""

type Encode = Callable[[Any], bytes]


def prefilter(node: Node | None, encode: Encode) -> tuple[str, list[bytes]] | None:
    """A cheap test in SQLite's own code for rows that may pass the filter, so that the others are never
    decoded: an SQL condition on ``props`` that holds for each of them, with its values; None where there is
    none that would leave out anything.

    Properties are stored as a MessagePack map, in which a name stands directly before its value and both have
    one shortest form: an entity whose ``status`` is ``'done'`` has the bytes of the two in its row. A row
    without them cannot pass ``status eq 'done'``; a row with them is decoded and judged by the filter itself.
    Only equality is worth it. Needs no index and no other layout.

    :param encode: a property's name or value as it stands in the map.
    """
    found = None if node is None else _condition(node, encode)
    return None if found is None or len(found[1]) > MAX_TERMS else found


def _condition(node: Node, encode: Encode) -> tuple[str, list[bytes]] | None:
    from storage_lib.ports.odata import Compare, Junction

    if isinstance(node, Junction):
        parts = [_condition(term, encode) for term in node.nodes]
        useful = [part for part in parts if part is not None]
        if not useful or (not node.every and len(useful) < len(parts)):
            return None
        condition = (" AND " if node.every else " OR ").join(sql for sql, _ in useful)
        return f"({condition})", [value for _, values in useful for value in values]
    if not isinstance(node, Compare) or node.operator != "eq" or node.name in _OUTSIDE:
        return None
    name = encode(node.name)
    wanted = [name + encode(form) for form in _forms(node.value)]
    return f"({' OR '.join(['instr(props, ?)'] * len(wanted))})", wanted


def _forms(value: Any) -> Iterator[Any]:
    """Every value that is equal to it and stored in another way: numbers are int or float."""
    if type(value) not in (int, float):
        yield value
        return
    yield value
    if type(value) is int:
        try:
            other = float(value)
        except OverflowError:
            return
        if other == value:
            yield other
    elif value.is_integer() and -(2**63) <= value < 2**63:
        yield int(value)
    if value == 0:
        yield from (0.0, -0.0)


ROWS_A_HOP = 2000
"""Rows that one query decodes before another gets its turn on the reader thread."""
FEW_ROWS = 8
FEW_BYTES = 256 * 1024
"""Up to so many rows and bytes are read at once, without a thread: half as long for three rows of 1 KiB."""
PREFILTERED = 10
"""How many times as many rows it looks at where SQLite itself leaves out most of them."""

_MAKES = (Insert, Upsert)
"""Operations that make the table if there is none."""
_OF_ROWS = {("RowKey", "="), ("RowKey", "<"), ("RowKey", ">")}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# MessagePack keeps apart what JSON merges: 1 and 1.0, bytes and text; moments are its timestamp extension.
_encoder = msgspec.msgpack.Encoder()
_UUID = 1
"""The extension type of a UUID: its 16 bytes."""


class FileTables(TableDriver):
    """Tables are found by their names in lower case: Azure takes any.

    ``clock`` gives seconds since the epoch, for `Entity.timestamp`.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def create_table(self, table: str) -> None:
        await self._database.write(
            lambda connection: sqlite.make_named(connection, "tables", table, again=True)
        )

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        return await self._database.read(
            lambda connection: sqlite.names_page(connection, "tables", prefix.lower(), cursor)
        )

    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        def write(connection: Connection) -> str | None:
            if isinstance(operation, _MAKES):
                sqlite.make_named(connection, "tables", table)
            return self._do(connection, table, pk, operation)

        return await self._database.write(write)

    async def get(self, table: str, pk: str, rk: str) -> Entity:
        table = table.lower()

        def get(connection: Connection) -> Entity:
            return _entity(table, pk, rk, *_existing(connection, table, pk, rk, None))

        return await self._database.read(get, few=True)

    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        def batch(connection: Connection) -> list[str | None]:
            etags: list[str | None] = []
            is_made = False
            for index, operation in enumerate(operations):
                if not is_made and isinstance(operation, _MAKES):
                    sqlite.make_named(connection, "tables", table)
                    is_made = True
                try:
                    etags.append(self._do(connection, table, pk, operation))
                except StorageError as error:
                    raise at_operation(index, error) from error
            return etags

        return await self._database.write(batch)

    def _do(self, connection: Connection, name: str, pk: str, operation: TableOperation) -> str | None:
        table, rk = name.lower(), operation.row_key
        there: _Row | None = None
        how = "REPLACE"
        match operation:
            case Insert():
                how = "IGNORE"
            case Upsert():
                if operation.mode == "merge":
                    there = _row(connection, table, pk, rk)
            case Update():
                there = _existing(connection, table, pk, rk, operation.etag)
                if operation.mode == "replace":
                    there = None
            case Delete():
                _existing(connection, table, pk, rk, operation.etag)
                connection.execute(
                    "DELETE FROM entities WHERE tbl = ? AND pk = ? AND rk = ?", (table, pk, rk)
                )
                return None
        properties = dict(operation.properties)
        if there is not None:
            # Each half was within the limits; together they may not be.
            properties = check_size(_properties(there[2], table, pk, rk) | properties)
        etag = os.urandom(16).hex()
        done = connection.execute(
            f"INSERT OR {how} INTO entities (tbl, pk, rk, etag, ts, props) VALUES (?, ?, ?, ?, ?, ?)",  # noqa: S608
            (table, pk, rk, etag, round(self._clock() * 1_000_000), _encode(properties)),
        )
        if not done.rowcount:
            raise existing_entity(table, pk, rk)
        return etag

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        after = cursors.unpacked(options.cursor, tuple[str, str]) if options.cursor is not None else None
        holds, limit, size = options.filter, options.limit, 0
        certain, select = holds.of_keys, options.select
        likely = None if certain else prefilter(holds.node, _encode)
        few = likely is None and limit <= FEW_ROWS and _is_range(holds)
        hop = limit + 1 if few else ROWS_A_HOP if likely is None else ROWS_A_HOP * PREFILTERED
        table = table.lower()
        found: list[Entity] = []
        is_more = False

        def look(connection: Connection) -> tuple[str, str] | None:
            """Add to ``found``; the keys of the last row looked at, if there may be more behind it."""
            nonlocal is_more, limit, size
            where, values = _range_behind(table, holds, after)
            window = f"FROM entities WHERE {where} ORDER BY pk, rk LIMIT"
            statement = f"SELECT pk, rk, etag, ts, props {window} {hop}"
            if likely is not None:
                # LIMIT inside: what bounds the time is how many rows are looked at, not how many pass.
                statement = f"SELECT * FROM ({statement}) WHERE {likely[0]}"  # noqa: S608 - no values
            rows = connection.execute(statement, [*values, *(likely[1] if likely else ())])
            last, seen, read = None, 0, 0
            try:
                for pk, rk, etag, ts, props in rows:
                    if certain and len(found) == limit:
                        is_more = True
                        return pk, rk
                    last, seen, read = (pk, rk), seen + 1, read + len(props)
                    entity = _entity(table, pk, rk, etag, ts, props)
                    if certain or holds(entity):
                        kept = entity if select is None else entity.selected(select)
                        found.append(kept)
                        if len(found) > limit:
                            is_more = True
                            return last
                        size += len(props) if kept is entity else size_of(kept.properties)
                        if size >= MAX_PAGE_BYTES:
                            limit = len(found)
                    if few and read > FEW_BYTES:
                        return last
            finally:
                rows.close()
            if last is None and after is None and not _is_there(connection, table):
                raise missing_table(table)
            if likely is not None:
                return connection.execute(f"SELECT pk, rk {window} 1 OFFSET {hop - 1}", values).fetchone()
            return last if seen == hop else None

        while not is_more:
            after = await self._database.read(look, few=few)
            if after is None:
                break
            few, hop = False, hop if likely is not None else ROWS_A_HOP
        page = found[:limit]
        return EntityPage(page, cursors.packed(page[-1].partition_key, page[-1].row_key) if is_more else None)


type _Row = tuple[str, int, bytes]
"""ETag, timestamp in microseconds, properties."""


def _is_there(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT 1 FROM tables WHERE name = ?", (table,)).fetchone() is not None


def _row(connection: Connection, table: str, pk: str, rk: str) -> _Row | None:
    return connection.execute(
        "SELECT etag, ts, props FROM entities WHERE tbl = ? AND pk = ? AND rk = ?", (table, pk, rk)
    ).fetchone()


def _range_behind(table: str, holds: Filter, after: tuple[str, str] | None) -> tuple[str, list[Any]]:
    """The rows that may pass the filter, as a condition: what it says of the keys is a range of the index."""
    where: list[str] = ["tbl = ?"]
    values: list[Any] = [table]
    partitions = {value for name, how, value in holds.key_bounds if name == "PartitionKey" and how == "="}
    within = after is not None and after[0] in partitions
    if after is not None:
        where.append("rk > ?" if within else "(pk, rk) > (?, ?)")
        values += after[1:] if within else after
    for name, how, value in holds.key_bounds:
        # A lower bound that the last row has passed would only compete for the start of the range.
        if after is None or how not in (">", ">=") or not (within or name == "PartitionKey"):
            where.append(f"{'pk' if name == 'PartitionKey' else 'rk'} {how} ?")
            values.append(value)
    return " AND ".join(where), values


def _is_range(holds: Filter) -> bool:
    """Whether SQLite goes from row to row in one partition, and looks at no others to find those."""
    bounds = {(name, how[0]) for name, how, _ in holds.key_bounds}
    return len(bounds) == len(holds.key_bounds) and bounds - _OF_ROWS == {("PartitionKey", "=")}


def _existing(connection: Connection, table: str, pk: str, rk: str, etag: str | None) -> _Row:
    row = _row(connection, table, pk, rk)
    if row is None:
        raise missing_entity(table, pk, rk)
    if etag is not None and row[0] != etag:
        raise other_entity_etag(table, pk, rk, etag)
    return row


def _encode(value: Any) -> bytes:
    """MessagePack of the map of properties, or of a name or value as it stands in it."""
    if isinstance(value, dict) and UUID in map(type, value.values()):
        value = {name: _packable(item) for name, item in value.items()}
    return _encoder.encode(_packable(value))


def _packable(value: Any) -> Any:
    return msgspec.msgpack.Ext(_UUID, value.bytes) if isinstance(value, UUID) else value


def _unpacked(code: int, data: memoryview) -> Any:
    if code != _UUID:
        raise ValueError(f"extension {code} is not known")
    return UUID(bytes=bytes(data))


_decoder = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_unpacked)


def _properties(props: bytes, table: str, pk: str, rk: str) -> dict[str, Any]:
    try:
        return _decoder.decode(props)
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"entity {pk!r}, {rk!r} of table {table!r} is not readable") from error


def _entity(table: str, pk: str, rk: str, etag: str, ts: int, props: bytes) -> Entity:
    moment = _EPOCH + timedelta(microseconds=ts)
    return Entity(pk, rk, _properties(props, table, pk, rk), etag, moment)
