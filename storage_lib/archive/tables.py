"""Tables in an archive: a line of JSON for each entity, with the types of its properties."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec

from storage_lib.archive.reports import RestoreReport
from storage_lib.arguments import several
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.names import table_name

_PART_BYTES = 128 * 1024
"""A part of a table is lost with any of its bytes, so it is small. An entity may have 1 MiB."""
_CONCURRENCY = 16


class _Line(msgspec.Struct):
    """An entity. A property that is no str, int, float or bool is an object with the name of its type."""

    pk: str
    rk: str
    properties: dict[str, Any]


async def tables_of(storage: StorageManager, tables: Iterable[str]) -> list[str]:
    """The names of the tables that are wanted. :raises KeyNotFoundError: there is no such table."""
    names = [str(name) for name in several("tables", tables)]
    for name in names:
        table_name(name)
        await storage.backend.tables.query(name, limit=1)
    return names


async def lines_of(storage: StorageManager, table: str) -> AsyncGenerator[tuple[bytes, int]]:
    """The entities of a table in parts, and how many are in each; a table without any has one empty part."""
    lines: list[bytes] = []
    size = 0
    is_empty = True
    async for entity in storage.backend.tables.iterate(table):
        is_empty = False
        properties = {name: _written(value) for name, value in entity.properties.items()}
        lines.append(msgspec.json.encode(_Line(entity.partition_key, entity.row_key, properties)) + b"\n")
        size += len(lines[-1])
        if size >= _PART_BYTES:
            yield b"".join(lines), len(lines)
            lines, size = [], 0
    if lines or is_empty:
        yield b"".join(lines), len(lines)


def _written(value: Any) -> Any:
    match value:
        case datetime():
            return {"datetime": value.isoformat()}
        case UUID():
            return {"uuid": str(value)}
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case dict() | list():
            return {"json": value}
        case _:
            return value


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *more = cast("dict[str, Any]", value).items()
    match kind:
        case "json" if not more:
            return content
        case "datetime" if not more:
            return datetime.fromisoformat(content)
        case "uuid" if not more:
            return UUID(content)
        case "bytes" if not more:
            return base64.b64decode(content, validate=True)
        case _:
            raise ValueError(f"a property of the type {kind!r}")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether they have the same values of the same types: 1 is not True, and not 1.0."""
    written = [{name: _written(value) for name, value in each.items()} for each in (one, other)]
    first, second = (msgspec.json.encode(each, order="sorted") for each in written)
    return first == second


async def restore_lines(
    storage: StorageManager,
    table: str,
    lines: bytes,
    report: RestoreReport,
    *,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Store the entities of a part of a table."""
    tables = storage.backend.tables

    async def one(number: int, text: bytes) -> None:
        name = f"table {table}, line {number}"
        try:
            line = _decode(text)
            name = f"table {table}, entity {line.pk!r} {line.rk!r}"
            properties = {key: _read(value) for key, value in line.properties.items()}
            await entity(name, line.pk, line.rk, properties)
        except StorageUnavailableError:
            raise
        except (StorageError, ValueError, TypeError, msgspec.MsgspecError) as error:
            report.failed.add(name, error)

    async def entity(name: str, pk: str, rk: str, properties: Mapping[str, Any]) -> None:
        if not (overwrite or dry_run):
            try:
                await tables.insert(table, pk, rk, properties)
                report.restored += 1
                return
            except PreconditionFailedError:
                pass
        try:
            there = (await tables.get(table, pk, rk)).properties
        except KeyNotFoundError:
            there = None
        if there is not None and _same(there, properties):
            report.unchanged += 1
        elif there is not None and not overwrite:
            report.kept.add(name)
        else:
            if not dry_run:
                await tables.upsert(table, pk, rk, properties, mode="replace")
            report.restored += 1

    if not dry_run:
        await tables.create_table(table)
    found = [line for line in lines.split(b"\n") if line]
    for start in range(0, len(found), _CONCURRENCY):
        some = enumerate(found[start : start + _CONCURRENCY], start + 1)
        for outcome in await asyncio.gather(*(one(*each) for each in some), return_exceptions=True):
            if outcome is not None:
                raise outcome


_decode = msgspec.json.Decoder(_Line).decode
