"""Tables in SQLite: entities ordered by the UTF-8 bytes of their keys, filters as Azure means them.

Azure orders keys by UTF-16 units, which differs only where characters beyond U+FFFF meet U+E000 to U+FFFF.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from storage_lib.backends.file.sqlite import Database
from storage_lib.backends.tables import Entity, EntityPage, TableStore, UpdateMode, check_properties
from storage_lib.errors import IntegrityError, InvalidArgumentError, KeyNotFoundError, PreconditionFailedError

if TYPE_CHECKING:
    from sqlite3 import Connection

    from storage_lib.odata import Filter

ROWS_A_HOP = 2000
"""Rows that one query looks at before another gets its turn on the reader thread."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# MessagePack keeps apart what JSON merges: 1 and 1.0, bytes and text; moments are its timestamp extension.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, Any])


class FileTableStore(TableStore):
    """``clock`` gives seconds since the epoch, for `Entity.timestamp`."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    async def _create_table(self, table: str) -> None:
        await self._database.write(lambda connection: _make(connection, table))

    async def _insert(self, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str:
        def insert(connection: Connection) -> str:
            _make(connection, table)
            if _row(connection, table, pk, rk) is not None:
                raise PreconditionFailedError(f"entity {pk!r}, {rk!r} exists in table {table!r}")
            return self._store(connection, table, pk, rk, properties)

        return await self._database.write(insert)

    async def _upsert(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], mode: UpdateMode
    ) -> str:
        def upsert(connection: Connection) -> str:
            _make(connection, table)
            old = _row(connection, table, pk, rk) if mode == "merge" else None
            changed = properties if old is None else _merged(old, properties, table, pk, rk)
            return self._store(connection, table, pk, rk, changed)

        return await self._database.write(upsert)

    async def _update(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], etag: str | None, mode: UpdateMode
    ) -> str:
        def update(connection: Connection) -> str:
            old = _existing(connection, table, pk, rk, etag)
            changed = properties if mode == "replace" else _merged(old, properties, table, pk, rk)
            return self._store(connection, table, pk, rk, changed)

        return await self._database.write(update)

    async def _get(self, table: str, pk: str, rk: str) -> Entity:
        def get(connection: Connection) -> Entity:
            return _entity(table, pk, rk, *_existing(connection, table, pk, rk, None))

        return await self._database.read(get)

    async def _delete(self, table: str, pk: str, rk: str, etag: str | None) -> None:
        def delete(connection: Connection) -> None:
            _existing(connection, table, pk, rk, etag)
            connection.execute("DELETE FROM entities WHERE tbl = ? AND pk = ? AND rk = ?", (table, pk, rk))

        await self._database.write(delete)

    async def _query(
        self,
        table: str,
        filter: str | None,
        parameters: dict[str, Any],
        select: list[str] | None,
        limit: int,
        cursor: str | None,
    ) -> EntityPage:
        from storage_lib.odata import compile_filter

        after = _decode_cursor(cursor) if cursor is not None else None
        holds = compile_filter(filter, parameters)
        found: list[Entity] = []

        def look(connection: Connection) -> tuple[str, str] | None:
            """Add to ``found``; the keys of the last row looked at, if there may be more behind it."""
            if connection.execute("SELECT 1 FROM tables WHERE name = ?", (table,)).fetchone() is None:
                raise KeyNotFoundError(f"table {table!r} does not exist", field="table")
            rows = connection.execute(*_rows_behind(table, holds, after))
            last, seen = None, 0
            try:
                for pk, rk, etag, ts, props in rows:
                    last, seen = (pk, rk), seen + 1
                    entity = _entity(table, pk, rk, etag, ts, props)
                    if holds(entity):
                        found.append(entity)
                        if len(found) > limit:
                            return last
            finally:
                rows.close()
            return last if seen == ROWS_A_HOP else None

        while len(found) <= limit:
            after = await self._database.read(look)
            if after is None:
                break
        more = len(found) > limit
        page = [_projected(entity, select) for entity in found[:limit]]
        return EntityPage(page, _encode_cursor(page[-1]) if more else None)

    def _store(self, connection: Connection, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str:
        etag = os.urandom(16).hex()
        kept = {name: value for name, value in properties.items() if value is not None}
        connection.execute(
            "INSERT OR REPLACE INTO entities (tbl, pk, rk, etag, ts, props) VALUES (?, ?, ?, ?, ?, ?)",
            (table, pk, rk, etag, round(self._clock() * 1_000_000), _encoder.encode(kept)),
        )
        return etag


type _Row = tuple[str, int, bytes]
"""ETag, timestamp in microseconds, properties."""


def _make(connection: Connection, table: str) -> None:
    connection.execute("INSERT OR IGNORE INTO tables (name) VALUES (?)", (table,))


def _row(connection: Connection, table: str, pk: str, rk: str) -> _Row | None:
    return connection.execute(
        "SELECT etag, ts, props FROM entities WHERE tbl = ? AND pk = ? AND rk = ?", (table, pk, rk)
    ).fetchone()


def _rows_behind(table: str, holds: Filter, after: tuple[str, str] | None) -> tuple[str, list[str]]:
    """The next rows that may pass the filter: its conditions on the keys become a range of the index."""
    where, values = ["tbl = ?"], [table]
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
    statement = (
        f"SELECT pk, rk, etag, ts, props FROM entities WHERE {' AND '.join(where)}"  # noqa: S608 - no values
        f" ORDER BY pk, rk LIMIT {ROWS_A_HOP}"
    )
    return statement, values


def _existing(connection: Connection, table: str, pk: str, rk: str, etag: str | None) -> _Row:
    row = _row(connection, table, pk, rk)
    if row is None:
        raise KeyNotFoundError(f"entity {pk!r}, {rk!r} does not exist in table {table!r}")
    if etag is not None and row[0] != etag:
        raise PreconditionFailedError(
            f"entity {pk!r}, {rk!r} of table {table!r} does not have the ETag {etag!r}", field="etag"
        )
    return row


def _merged(old: _Row, changes: dict[str, Any], table: str, pk: str, rk: str) -> dict[str, Any]:
    """A None neither stores nor removes a property: Azure ignores nulls when it merges."""
    present = {name: value for name, value in changes.items() if value is not None}
    # Each half was within the limits; together they may not be.
    return check_properties(_properties(old[2], table, pk, rk) | present)


def _properties(props: bytes, table: str, pk: str, rk: str) -> dict[str, Any]:
    try:
        return _decoder.decode(props)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"entity {pk!r}, {rk!r} of table {table!r} is not readable") from error


def _entity(table: str, pk: str, rk: str, etag: str, ts: int, props: bytes) -> Entity:
    moment = _EPOCH + timedelta(microseconds=ts)
    return Entity(pk, rk, _properties(props, table, pk, rk), etag, moment)


def _projected(entity: Entity, select: list[str] | None) -> Entity:
    if select is None:
        return entity
    kept = {name: entity.properties[name] for name in select if name in entity.properties}
    return Entity(entity.partition_key, entity.row_key, kept, entity.etag, entity.timestamp)


def _encode_cursor(last: Entity) -> str:
    keys = msgspec.json.encode([last.partition_key, last.row_key])
    return base64.urlsafe_b64encode(keys).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[str, str]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=tuple[str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidArgumentError(
            "cursor is not one that a query returned", field="cursor", remedy="start again without a cursor"
        ) from error
