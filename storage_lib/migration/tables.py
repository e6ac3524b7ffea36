"""Tables from one store to another, entity by entity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from functools import partial

from storage_lib.entity_json import is_same
from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    ObjectExistsError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.manager import StorageManager
from storage_lib.migration.limits import Bandwidth
from storage_lib.migration.options import MigrationOptions, Span
from storage_lib.migration.patterns import KeyFilter
from storage_lib.migration.report import MigrationReport
from storage_lib.ports.table_model import Entity, EntityPage, Insert
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS, MAX_QUERY_PAGE, TableStore
from storage_lib.reserved_names import MESSAGES, Tables, has_conversations, meant_tables
from storage_lib.several import Several, surviving

_BATCH_BYTES = 1024 * 1024
_PAGE_BYTES = 8 * 1024 * 1024
_FIRST_PAGE = 100
_ATTEMPTS = 3
_WRITERS = 32
"""Batches under way; each has a megabyte, or one entity."""

Tell = Callable[[str, str], object]


def label(table: str, partition_key: str, row_key: str) -> str:
    """What reports call an entity."""
    return f"table {table}, entity {partition_key!r} {row_key!r}"


async def tables_of(options: MigrationOptions, *stores: StorageManager) -> Tables:
    """The tables that are meant, of those that any of ``stores`` has; see `meant_tables`."""
    return await meant_tables(options.tables, *stores) if options.takes_tables else Tables([], [])


def messages_of(options: MigrationOptions, names: Sequence[str], *stores: StorageManager) -> Span | None:
    """The objects that rows of conversations refer to, if their table is copied, or stays where it is while
    the whole store moves.

    :param names: the tables that are meant.
    """
    is_meant = any(map(has_conversations, names)) or (options.tables is None and options.is_whole)
    is_shared = len({storage.backend.place("objects") for storage in stores}) == 1
    return Span(MESSAGES, MESSAGES, KeyFilter()) if is_meant and not is_shared else None


class TableCopier:
    """Copies entities, and says in ``report`` what it did.

    :param tell: told what was done to each entity, as for `Migration`.
    """

    def __init__(
        self,
        source: StorageManager,
        target: StorageManager,
        options: MigrationOptions,
        report: MigrationReport,
        tell: Tell | None,
    ) -> None:
        self._from = source.backend.tables
        self._to = target.backend.tables
        self._options = options
        self._report = report
        self._tell = tell
        self._bandwidth = Bandwidth(options.bytes_per_second)

    async def copy(self, table: str) -> None:
        """Copy what the target does not have; with ``update``, also what differs. What fails is named in the
        report.

        :raises StorageUnavailableError: a store is away.
        """
        await self._whole(table, self._copy)

    async def mirror(self, table: str) -> None:
        """Delete what the source does not have."""
        await self._whole(table, self._delete)

    async def _whole(self, table: str, work: Callable[[str], Awaitable[None]]) -> None:
        with surviving(partial(self._failed, f"table {table}")):
            await work(table)

    def _joined(self, table: str) -> AsyncGenerator[tuple[Entity | None, Entity | None]]:
        # A table that is deleted meanwhile is no reason to empty that of the target.
        return joined(self._from, self._to, table, missing_ok=False)

    async def _copy(self, table: str) -> None:
        if not self._options.dry_run:
            await self._to.create_table(table)
        async with Several(min(self._options.concurrency, _WRITERS)) as writers:
            waiting: list[Entity] = []
            size = 0

            async def send() -> None:
                nonlocal waiting, size
                batch, waiting, total, size = waiting, [], size, 0
                if batch:
                    await self._bandwidth.use(total)
                    await writers.start(self._insert(table, batch))

            async with aclosing(self._joined(table)) as pairs:
                async for ours, theirs in pairs:
                    if ours is None:
                        continue
                    if theirs is None:
                        more = size_of(ours)
                        is_full = len(waiting) == MAX_BATCH_OPERATIONS or size + more > _BATCH_BYTES
                        if is_full or (waiting and waiting[0].partition_key != ours.partition_key):
                            await send()
                        waiting.append(ours)
                        size += more
                    elif is_same(ours.properties, theirs.properties):
                        self._count(table, ours, "skipped")
                    else:
                        await writers.start(self._one(table, ours))
            await send()

    async def _insert(self, table: str, batch: list[Entity]) -> None:
        """Add entities of one partition that are not there."""
        if self._options.dry_run:
            for entity in batch:
                self._count(table, entity, "copied")
            return
        if len(batch) > 1:
            try:
                pk = batch[0].partition_key
                await self._to.batch(table, pk, [Insert(each.row_key, each.properties) for each in batch])
            except StorageUnavailableError:
                raise
            except StorageError:
                pass  # One by one, which tells which.
            else:
                await self._verify(table, batch)
                return
        for entity in batch:
            await self._one(table, entity)

    async def _verify(self, table: str, batch: list[Entity]) -> None:
        """Count what was inserted; with ``verify``, once it has been read back."""
        if not self._options.verify:
            for entity in batch:
                self._count(table, entity, "copied")
            return
        rows = [each.row_key for each in batch]
        listed = await self._to.iterate(
            table,
            "PartitionKey eq @p and RowKey ge @first and RowKey le @last",
            parameters={"p": batch[0].partition_key, "first": min(rows), "last": max(rows)},
        )
        there = {each.row_key: each for each in listed}
        for entity in batch:
            found = there.get(entity.row_key)
            if found is None:  # The store may have it elsewhere in its order.
                found = await self._to.get(table, entity.partition_key, entity.row_key, default=None)
            with self._survived(table, entity):
                self._check(table, entity, found)
                self._count(table, entity, "copied")

    def _check(self, table: str, entity: Entity, there: Entity | None) -> None:
        if there is None or not is_same(entity.properties, there.properties):
            raise IntegrityError(
                f"{label(table, entity.partition_key, entity.row_key)} is not in the target as it was copied",
                remedy="see whether something else writes there, and run the migration again",
            )

    async def _one(self, table: str, entity: Entity) -> None:
        with self._survived(table, entity):
            outcome = await self._put(table, entity)
            if self._options.verify and outcome != "skipped" and not self._options.dry_run:
                there = await self._to.get(table, entity.partition_key, entity.row_key, default=None)
                self._check(table, entity, there)
            self._count(table, entity, outcome)

    async def _put(self, table: str, entity: Entity) -> str:
        """Store an entity; nothing is overwritten that was not looked at."""
        pk, rk = entity.partition_key, entity.row_key
        for attempt in range(1, _ATTEMPTS + 1):
            there = await self._to.get(table, pk, rk, default=None)
            if there is not None and is_same(there.properties, entity.properties):
                return "skipped"
            if there is not None and not self._options.update:
                raise ObjectExistsError(
                    f"{label(table, pk, rk)} is in the target already, and differs",
                    remedy="set update to replace what differs, or remove the entity",
                )
            outcome = "copied" if there is None else "updated"
            if self._options.dry_run:
                return outcome
            try:
                if there is None:
                    await self._to.insert(table, pk, rk, entity.properties)
                else:
                    await self._to.update(table, pk, rk, entity.properties, etag=there.etag, mode="replace")
            except (PreconditionFailedError, KeyNotFoundError):
                if attempt == _ATTEMPTS:
                    raise
                continue  # Changed at this moment.
            return outcome
        raise AssertionError("unreachable")

    async def _delete(self, table: str) -> None:
        async with (
            Several(min(self._options.concurrency, _WRITERS)) as writers,
            aclosing(self._joined(table)) as pairs,
        ):
            async for ours, theirs in pairs:
                if ours is None and theirs is not None:
                    await writers.start(self._delete_one(table, theirs))

    async def _delete_one(self, table: str, theirs: Entity) -> None:
        keys = theirs.partition_key, theirs.row_key
        with self._survived(table, theirs):
            if await self._from.get(table, *keys, default=None) is not None:
                return  # Added since it was listed.
            if not self._options.dry_run:
                await self._to.delete(table, *keys, etag=theirs.etag, missing_ok=True)
            self._count(table, theirs, "deleted")

    def _count(self, table: str, entity: Entity, outcome: str) -> None:
        name = f"entities_{outcome}"
        setattr(self._report, name, getattr(self._report, name) + 1)
        self._said(label(table, entity.partition_key, entity.row_key), outcome)

    def _survived(self, table: str, entity: Entity) -> AbstractContextManager[None]:
        return surviving(partial(self._failed, label(table, entity.partition_key, entity.row_key)))

    def _failed(self, name: str, error: StorageError) -> None:
        self._report.fail(name, error)
        self._said(name, "failed")

    def _said(self, name: str, outcome: str) -> None:
        if self._tell is not None:
            self._tell(name, outcome)


def size_of(entity: Entity) -> int:
    """About the bytes of an entity."""
    total = len(entity.partition_key) + len(entity.row_key) + 64
    for name, value in entity.properties.items():
        total += len(name) + (len(value) if isinstance(value, str | bytes) else 8)
        if isinstance(value, dict | list):
            total += len(repr(value))  # pyright: ignore[reportUnknownArgumentType]
    return total


async def entities_of(tables: TableStore, table: str, *, missing_ok: bool = True) -> AsyncGenerator[Entity]:
    """All entities in the order of the store, a page ahead; none if there is no such table.

    :raises KeyNotFoundError: there is no such table, and that is not ``missing_ok``.
    """
    asked: asyncio.Task[EntityPage] | None = asyncio.create_task(tables.query(table, limit=_FIRST_PAGE))
    try:
        while asked is not None:
            try:
                page = await asked
            except KeyNotFoundError:
                if missing_ok:
                    return
                raise
            limit = MAX_QUERY_PAGE
            if page.entities:
                average = sum(map(size_of, page.entities)) // len(page.entities)
                limit = max(1, min(limit, _PAGE_BYTES // average))
            asked = None
            if page.cursor is not None:
                asked = asyncio.create_task(tables.query(table, limit=limit, cursor=page.cursor))
            for entity in page.entities:
                yield entity
    finally:
        if asked is not None:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


async def joined(
    first: TableStore, second: TableStore, table: str, *, missing_ok: bool = True
) -> AsyncGenerator[tuple[Entity | None, Entity | None]]:
    """The entities of both by their keys. Stores do not order all keys alike (Azure has UTF-16 units), so one
    that is on one side only, according to this, may still be on the other.

    :param missing_ok: whether ``first`` may have no such table.
    """
    async with (
        aclosing(entities_of(first, table, missing_ok=missing_ok)) as ours,
        aclosing(entities_of(second, table)) as theirs,
    ):
        left, right = await anext(ours, None), await anext(theirs, None)
        while left is not None or right is not None:
            one = None if left is None else (left.partition_key, left.row_key)
            other = None if right is None else (right.partition_key, right.row_key)
            if other is None or (one is not None and one < other):
                yield left, None
                left = await anext(ours, None)
            elif one is None or other < one:
                yield None, right
                right = await anext(theirs, None)
            else:
                yield left, right
                left, right = await anext(ours, None), await anext(theirs, None)
