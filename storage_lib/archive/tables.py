"""Tables in an archive: a line of JSON for each entity, with the types of its properties."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import msgspec

from storage_lib.archive.reports import RestoreReport
from storage_lib.arguments import several
from storage_lib.entity_json import is_same, read, written
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.manager import StorageManager
from storage_lib.reserved_names import Tables, meant_tables
from storage_lib.several import Several, surviving

_PART_BYTES = 128 * 1024
"""A part of a table is lost with any of its bytes, so it is small. An entity may have 1 MiB."""
_CONCURRENCY = 16
NOT_READ = (ValueError, TypeError, msgspec.MsgspecError)
"""What reading a line raises that is none."""


class _Line(msgspec.Struct):
    """An entity. A property that is no str, int, float or bool is an object with the name of its type."""

    pk: str
    rk: str
    properties: dict[str, Any]


async def tables_of(storage: StorageManager, wanted: Iterable[str] | None, prefix: str) -> Tables:
    """The tables that are wanted; None means all, if the whole store is.

    :raises KeyNotFoundError: there is no such table.
    """
    patterns = None if wanted is None else several("tables", wanted)
    if (patterns is None and prefix) or patterns == []:
        return Tables([], [])
    return await meant_tables(patterns, storage, tasks=True)


async def lines_of(storage: StorageManager, table: str) -> AsyncGenerator[tuple[bytes, int]]:
    """The entities of a table in parts, and how many are in each; a table without any has one empty part."""
    lines: list[bytes] = []
    size = 0
    is_empty = True
    async for entity in storage.backend.tables.iterate(table):
        is_empty = False
        properties = {name: written(value) for name, value in entity.properties.items()}
        lines.append(msgspec.json.encode(_Line(entity.partition_key, entity.row_key, properties)) + b"\n")
        size += len(lines[-1])
        if size >= _PART_BYTES:
            yield b"".join(lines), len(lines)
            lines, size = [], 0
    if lines or is_empty:
        yield b"".join(lines), len(lines)


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
        with surviving(lambda error: report.failed.add(name, error), *NOT_READ):
            line = _decode(text)
            name = f"table {table}, entity {line.pk!r} {line.rk!r}"
            properties = {key: read(value) for key, value in line.properties.items()}
            await entity(name, line.pk, line.rk, properties)

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
        if there is not None and is_same(there, properties):
            report.unchanged += 1
        elif there is not None and not overwrite:
            report.kept.add(name)
        else:
            if not dry_run:
                await tables.upsert(table, pk, rk, properties, mode="replace")
            report.restored += 1

    if not dry_run:
        await tables.create_table(table)
    async with Several(_CONCURRENCY) as running:
        for number, text in enumerate(filter(None, lines.split(b"\n")), 1):
            await running.start(one(number, text))


_decode = msgspec.json.Decoder(_Line).decode
