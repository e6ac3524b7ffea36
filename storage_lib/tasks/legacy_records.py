"""Records as the version before wrote them, and how they are carried over while the store is in use.

They stand in a partition for each day, or in one of 256 for ids that others chose, without an index. A task
whose record is asked for by its id is carried over at once, with those of its family; the others follow in
the background (`step`), those that are open as they are found, and the newest. Each is written to its new
place before it is removed from the old, so whoever is cut off leaves it twice rather than never, and the next
finishes. When none is left, a mark says so for all time, and nobody looks for them any more.

Nothing changes a record at its old place: hosts of the version before must not run at the same time.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any

from storage_lib.errors import KeyNotFoundError, ObjectTooLargeError, PreconditionFailedError
from storage_lib.ports.backend import Entity
from storage_lib.ports.tables import (
    MAX_BATCH_OPERATIONS,
    MAX_QUERY_PAGE,
    Insert,
    TableOperation,
    TableStore,
    Upsert,
)
from storage_lib.tasks.layout import (
    OTHERS,
    Facts,
    end_of,
    key_of,
    partition_of,
    time_of,
)
from storage_lib.tasks.model import TASK_TABLE, TIME_CHARACTERS, TaskStatus
from storage_lib.tasks.ranges import ALWAYS, Condition
from storage_lib.tasks.removal import delete_unchanged

MARK = ("~", "carried-over")
"""The entity that says that no record has the old layout."""
FIRST = "9"
"""Before all old partitions, and behind all of this layout."""
LAST = "y"
"""Behind all old partitions."""
CONCURRENT_BATCHES = 16
_OPEN_PAGES = 4
_LOOK_SECONDS = 5.0
"""How often a process looks whether another has found the last one."""
_DAY = 86_400_000
_OPEN = Condition(
    "(status eq @queued or status eq @running or event_due eq true)",
    {"queued": str(TaskStatus.QUEUED), "running": str(TaskStatus.RUNNING)},
)


def old_keys(key: str) -> tuple[str, str]:
    """Where the record that now has this row key stood."""
    at = time_of(key)
    if at is None:
        hashed = len(OTHERS + "00")
        return key[:hashed], key[hashed:]
    return f"{9_999_999 - at // _DAY:07}", key


def new_key(entity: Entity) -> str:
    """The row key of a record of the old layout in this one. Both are in the same order."""
    return (
        entity.partition_key + entity.row_key if entity.partition_key.startswith(OTHERS) else entity.row_key
    )


class Older:
    """The records of the old layout in a table."""

    def __init__(self, tables: TableStore) -> None:
        self._tables = tables
        self._gone = False
        self._looked = 0.0
        self._open_cursor: str | None = ""
        """How far those that are open were looked for; None once all were."""

    @property
    def known_to_be_gone(self) -> bool:
        """Whether this process has found out that there are none."""
        return self._gone

    async def are_gone(self) -> bool:
        """Whether there are none, and will be none."""
        if self._gone:
            return True
        if self._looked and time.monotonic() < self._looked + _LOOK_SECONDS:
            return False
        try:
            await self._tables.get(TASK_TABLE, *MARK)
        except KeyNotFoundError:
            await self._look()
        else:
            self._gone = True
        self._looked = time.monotonic()
        return self._gone

    async def _look(self) -> bool:
        """Whether there is one; if not, that is noted."""
        try:
            async for _ in self._rows("", ALWAYS, 1, select=[]):
                return True
        except KeyNotFoundError:
            self._gone = True  # There is no table: it will be made by this version.
            return False
        self._gone = True
        await self._tables.upsert(TASK_TABLE, *MARK, {})
        return False

    async def get(self, task_id: str) -> Entity | None:
        """The record of a task, if it is at its old place. If not, it may have been carried over just now:
        look at the new one afterwards."""
        if await self.are_gone():
            return None
        return await self._tables.get(TASK_TABLE, *old_keys(key_of(task_id)), default=None)

    async def fetch(self, task_id: str) -> None:
        """Carry over the record of a task, if it is at its old place."""
        found = await self.get(task_id)
        if found is not None:
            await self._carry([found])

    async def fetch_family(self, child_id: str) -> None:
        """Carry over a child and its siblings, before anybody counts them."""
        if await self.are_gone():
            return
        partition, row = old_keys(key_of(child_id))
        prefix = row[:TIME_CHARACTERS]
        condition = "PartitionKey eq @partition and RowKey ge @first and RowKey lt @last"
        values = {"partition": partition, "first": prefix, "last": end_of(prefix)}
        await self._carry(await self._tables.iterate(TASK_TABLE, condition, parameters=values))

    async def rows(self, behind: str, condition: Condition, limit: int) -> AsyncIterator[Entity]:
        """The records whose new keys are greater than ``behind``, in the order of these.

        :param limit: of a page.
        """
        try:
            async for entity in self._rows(behind, condition, limit):
                yield entity
        except KeyNotFoundError:
            return

    async def _rows(
        self, behind: str, condition: Condition, limit: int, *, select: Sequence[str] | None = None
    ) -> AsyncIterator[Entity]:
        keys, values = "PartitionKey gt @partition", {"partition": FIRST, **condition.values}
        if len(behind) > TIME_CHARACTERS or behind.startswith(OTHERS):
            partition, row = old_keys(behind)
            keys = "PartitionKey ge @partition and (PartitionKey gt @partition or RowKey gt @row)"
            values |= {"partition": partition, "row": row}
        elif behind:
            # A time only: all of its day is looked at.
            keys = "PartitionKey ge @partition and (PartitionKey ge @others or RowKey gt @row)"
            values |= {"partition": old_keys(behind)[0], "others": OTHERS, "row": behind}
        keys, values = f"{keys} and PartitionKey lt @last", {**values, "last": LAST}
        text = f"{keys} and {condition.text}" if condition.text else keys
        cursor = ""
        while cursor is not None:
            page = await self._tables.query(
                TASK_TABLE, text, parameters=values, select=select, limit=limit, cursor=cursor or None
            )
            for entity in page.entities:
                yield entity
            cursor = page.cursor

    async def step(self, limit: int = MAX_QUERY_PAGE) -> int:
        """Carry over up to so many, and return how many. If there is none, that is noted. This also finds
        those of a host of the version before that has run since."""
        try:
            some = await self._open(limit)
            if len(some) < limit:
                known = {(each.partition_key, each.row_key) for each in some}
                newest = await self._newest(limit - len(some))
                some += [each for each in newest if (each.partition_key, each.row_key) not in known]
        except KeyNotFoundError:
            return 0
        if some:
            self._gone = False
            await self._carry(some)
        else:
            self._open_cursor = ""
            if not await self.are_gone():
                await self._look()
        return len(some)

    async def _open(self, limit: int) -> list[Entity]:
        """Some that are open. Among millions of others a store finds few at a time, so a step looks for a
        while, and the next goes on."""
        found: list[Entity] = []
        text = f"PartitionKey gt @first and PartitionKey lt @last and {_OPEN.text}"
        for _ in range(_OPEN_PAGES):
            if self._open_cursor is None or len(found) == limit:
                break
            page = await self._tables.query(
                TASK_TABLE,
                text,
                parameters={"first": FIRST, "last": LAST, **_OPEN.values},
                limit=min(limit - len(found), MAX_QUERY_PAGE),
                cursor=self._open_cursor or None,
            )
            found += page.entities
            self._open_cursor = page.cursor
        return found

    async def _newest(self, limit: int) -> list[Entity]:
        found: list[Entity] = []
        async for entity in self._rows("", ALWAYS, min(limit, MAX_QUERY_PAGE)):
            found.append(entity)
            if len(found) == limit:
                break
        return found

    async def _carry(self, entities: Sequence[Entity]) -> None:
        """Write them to their new places, unless they are there, and remove them from the old."""
        partitions: defaultdict[str, list[Entity]] = defaultdict(list)
        for entity in entities:
            partitions[partition_of(new_key(entity))].append(entity)
        places = asyncio.Semaphore(CONCURRENT_BATCHES)

        async def written(partition: str, some: list[Entity]) -> None:
            async with places:
                await self._written(partition, some)

        await asyncio.gather(*(written(partition, some) for partition, some in partitions.items()))
        await delete_unchanged(self._tables, TASK_TABLE, entities)

    async def _written(self, partition: str, entities: list[Entity]) -> None:
        while entities:
            operations: list[TableOperation] = []
            spans: dict[str, dict[str, Any]] = {}
            count = 0
            for entity in entities:
                facts = Facts.stored(new_key(entity), entity.properties)
                more = [Insert(facts.key, dict(entity.properties))]
                more += [Upsert(row, values, "replace") for row, values in facts.rows.items()]
                shared = spans | facts.spans
                if count and len(operations) + len(more) + len(shared) > MAX_BATCH_OPERATIONS:
                    break
                operations += more
                spans, count = shared, count + 1
            operations += [Upsert(row, values) for row, values in spans.items()]
            await self._together(partition, operations, entities[:count])
            entities = entities[count:]

    async def _together(
        self, partition: str, operations: list[TableOperation], entities: list[Entity]
    ) -> None:
        try:
            await self._tables.batch(TASK_TABLE, partition, operations)
        except PreconditionFailedError:
            # One is there already: it was carried over by somebody who was cut off, or just now.
            if len(entities) > 1:
                for entity in entities:
                    await self._written(partition, [entity])
        except ObjectTooLargeError:
            if len(entities) == 1:
                raise
            half = len(entities) // 2
            for some in (entities[:half], entities[half:]):
                await self._written(partition, some)
