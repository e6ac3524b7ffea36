"""The rows by which tasks are found by correlation id and idempotency key, for records of before there were
such rows.

Until all have them, a search looks at every record. They get them in the background, a page at a time; a mark
in the table says how far that is, and in the end that it is done. A record and its rows are written together,
on the condition that the record has not changed.
"""

from __future__ import annotations

import time
from typing import Any

from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.backend import Entity
from storage_lib.ports.tables import MAX_QUERY_PAGE, TableOperation, TableStore, Update, Upsert
from storage_lib.tasks.layout import FACTS, PARTITIONS, RECORDS_END, Facts
from storage_lib.tasks.model import TASK_TABLE
from storage_lib.tasks.ranges import page_of
from storage_lib.tasks.removal import change_unchanged

MARK = ("~", "searchable")
_LOOK_SECONDS = 5.0
"""How often a process looks whether another has finished."""


class Searchable:
    """Whether the records of a table can be searched, and what makes them so."""

    def __init__(self, tables: TableStore) -> None:
        self._tables = tables
        self._complete = False
        self._looked = 0.0

    async def is_complete(self) -> bool:
        """Whether all records of this layout have their rows."""
        if not self._complete and not (self._looked and time.monotonic() < self._looked + _LOOK_SECONDS):
            mark = await self._tables.get(TASK_TABLE, *MARK, default=None)
            if mark is None:
                self._complete = await self._is_new()
            else:
                self._complete = mark.properties.get("done") is True
            self._looked = time.monotonic()
        return self._complete

    async def step(self, limit: int = MAX_QUERY_PAGE) -> int:
        """Go on with up to so many records, and return how many were looked at; 0 once all have their
        rows."""
        if await self.is_complete():
            return 0
        mark = await self._tables.get(TASK_TABLE, *MARK, default=None)
        place: Any = {} if mark is None else mark.properties
        behind = last = place.get("behind", "")
        left = [each for each in PARTITIONS if each >= place.get("partition", "")]
        cursor: str | None = None
        while left:
            page = await page_of(
                self._tables,
                left[0],
                behind,
                RECORDS_END,
                select=tuple(FACTS),
                limit=min(limit, MAX_QUERY_PAGE),
                cursor=cursor,
            )
            some = [each for each in page.entities if Facts.stored(each.row_key, each.properties).searched]
            await self._write(some)
            if page.entities:
                last = page.entities[-1].row_key
            if (cursor := page.cursor) is None:
                left, behind, last = left[1:], "", ""
            if left and (page.entities or cursor is None):  # A page may be empty, and not the last.
                await self._note(partition=left[0], behind=last)
            if page.entities and left:
                return len(page.entities)
        await self._note(done=True)
        self._complete = True
        return 0

    async def _write(self, entities: list[Entity]) -> None:
        while entities:
            groups: list[tuple[Entity, list[TableOperation]]] = [(each, _rows_of(each)) for each in entities]
            done = await change_unchanged(self._tables, TASK_TABLE, groups)
            written = {each.row_key for each in done}
            changed = [each for each in entities if each.row_key not in written]
            entities = []
            for each in changed:
                keys = each.partition_key, each.row_key
                if (found := await self._tables.get(TASK_TABLE, *keys, default=None)) is not None:
                    entities.append(found)

    async def _is_new(self) -> bool:
        """Whether there are no records; if there is a table for them, that is noted."""
        text = "PartitionKey ge @first and PartitionKey le @last"
        parameters = {"first": PARTITIONS[0], "last": PARTITIONS[-1]}
        try:
            async for _ in self._tables.iterate(TASK_TABLE, text, parameters=parameters, select=[]):
                return False
        except KeyNotFoundError:
            return True  # The first record will make one.
        await self._note(done=True)
        return True

    async def _note(self, **properties: Any) -> None:
        await self._tables.upsert(TASK_TABLE, *MARK, properties, mode="replace")


def _rows_of(entity: Entity) -> list[TableOperation]:
    """What gives a record all rows that it has by now, if nobody changes it meanwhile."""
    rows = Facts.stored(entity.row_key, entity.properties).rows
    return [
        Update(entity.row_key, {}, entity.etag),
        *(Upsert(row, values, "replace") for row, values in rows.items()),
    ]
