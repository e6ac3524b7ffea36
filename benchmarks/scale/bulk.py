"""Many entities at once, for stores that are there before anything is measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from storage_lib.ports.entities import EntityValue
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS, Insert, TableOperation, TableStore


@asynccontextmanager
async def in_batches(tables: TableStore) -> AsyncGenerator[None]:
    """Inserts, within the block, go in full transactions, and are there when it ends. They give no ETags, and
    nobody else may write the same entities."""
    waiting: defaultdict[tuple[str, str], dict[str, TableOperation]] = defaultdict(dict)

    async def insert(
        table: str,
        partition_key: str,
        row_key: str,
        properties: Mapping[str, EntityValue],
        *,
        also: Sequence[TableOperation] = (),
    ) -> str:
        some = waiting[table, partition_key]
        if len(some) + 1 + len(also) > MAX_BATCH_OPERATIONS:
            await tables.batch(table, partition_key, list(some.values()))
            some.clear()
        some |= {each.row_key: each for each in (Insert(row_key, properties), *also)}
        return ""

    tables.insert = insert  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
        for (table, partition_key), some in waiting.items():
            await tables.batch(table, partition_key, list(some.values()))
    finally:
        del tables.insert
