"""The index of conversations: all of them, those of a participant and those of a topic, newest first.

A row stands for a conversation in one facet below one folder; all rows of a facet are in one partition, so
one request writes them. They are written before the head that they lead to, and whoever lists looks at the
head: so a conversation is never missing, and a row that leads to none is never shown. Such a row is removed
once it is so old that its head cannot be on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta

from storage_lib.conversations.rows import facet_key, scope_key
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.ports.table_model import Delete, Entity, EntityPage, Upsert
from storage_lib.ports.tables import TableStore

GRACE = timedelta(hours=1)
"""How long a head may take to follow its rows."""
_GENERATION = 26

ALL = facet_key("all", "")


def facets_of(participants: Iterable[str], topic: str | None) -> list[str]:
    """The partitions that a conversation is in."""
    found = [ALL, *(facet_of(participant=each) for each in participants)]
    return found if topic is None else [*found, facet_of(topic=topic)]


def facet_of(participant: str | None = None, topic: str | None = None) -> str:
    """The partition to look into."""
    if participant is not None:
        return facet_key("participant", participant)
    return ALL if topic is None else facet_key("topic", topic)


class Index:
    """The rows of the index in one table."""

    def __init__(self, tables: TableStore, table: str) -> None:
        self._tables, self._table = tables, table

    async def add(self, stored: str, generation: str, facets: Sequence[str]) -> None:
        """Have the conversation found in these facets."""
        rows = [Upsert(key, {"conversation": stored}) for key in _keys(stored, generation)]
        await asyncio.gather(*(self._tables.batch(self._table, facet, rows) for facet in facets))

    async def remove(self, stored: str, generation: str, facets: Sequence[str]) -> None:
        """For a conversation that is no more, and so cannot be written to these facets again."""

        async def each(facet: str) -> None:
            try:
                rows = [Delete(key) for key in _keys(stored, generation)]
                await self._tables.batch(self._table, facet, rows)
            except KeyNotFoundError:
                for key in _keys(stored, generation):
                    await self._tables.delete(self._table, facet, key, missing_ok=True)

        await asyncio.gather(*map(each, facets))

    async def page(
        self, facet: str, prefix: str, after: str | None, limit: int, cursor: str | None
    ) -> EntityPage:
        """Rows of the conversations below the folder of ``prefix``, newest first.

        :param after: begin behind this generation.
        """
        scope = scope_key(prefix[: prefix.rfind("/") + 1])
        try:
            return await self._tables.query(
                self._table,
                "PartitionKey eq @facet and RowKey gt @after and RowKey lt @behind",
                parameters={"facet": facet, "after": f"{scope}{after or ''}", "behind": f"{scope}~"},
                limit=limit,
                cursor=cursor,
            )
        except KeyNotFoundError:
            return EntityPage([], None)  # No conversation was ever made here.

    async def tidy(self, rows: Iterable[Entity], now: float) -> None:
        """Remove those of these rows, which lead to nothing, that are old enough; not one that has been
        written again since."""
        for row in rows:
            if row.timestamp.timestamp() < now - GRACE.total_seconds():
                with suppress(KeyNotFoundError, PreconditionFailedError):
                    await self._tables.delete(self._table, row.partition_key, row.row_key, etag=row.etag)


def is_generation(text: str) -> bool:
    return len(text) == _GENERATION and text.isascii() and text.isalnum()


def generation_in(row: Entity) -> str:
    return row.row_key[-_GENERATION:]


def _keys(stored: str, generation: str) -> list[str]:
    """One for each folder that the conversation is below, and one for all."""
    folders = [stored[: at + 1] for at, character in enumerate(stored) if character == "/"]
    return [f"{scope_key(folder)}{generation}" for folder in ("", *folders)]
