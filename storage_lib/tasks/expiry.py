"""Removing the records of tasks that ended long ago, with their contents and their rows of the index."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from itertools import batched
from typing import Any, Final

from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.backend import Entity, StorageBackend
from storage_lib.ports.tables import MAX_QUERY_PAGE, Update
from storage_lib.tasks.layout import (
    PARTITIONS,
    RECORDS_END,
    SPANS,
    Facts,
    end_of,
    first_at,
    moment_of,
    span_of,
)
from storage_lib.tasks.lists import EXPIRED, task_id_of
from storage_lib.tasks.model import FINAL, TASK_TABLE, content_prefix
from storage_lib.tasks.ranges import Condition, rows_of
from storage_lib.tasks.removal import change_unchanged, delete_unchanged

CONCURRENT_READS = 16
LARGE: Final = ("payload", "result", "raw_message")
"""The contents that may be objects of their own."""
_NEEDED: Final = (
    *("task_id", "status", "agent_id", "parent_id", "event_due", "fence", EXPIRED),
    *("correlation_id", "idempotency_key", "requeued_at"),
    *(f"{name}_key" for name in LARGE),
)
_AHEAD = timedelta(days=1)


class Expiry:
    """Removes records.

    :param exists: whether there is a record of a task.
    """

    def __init__(self, backend: StorageBackend, exists: Callable[[str], Awaitable[bool]]) -> None:
        self._backend = backend
        self._exists = exists
        self._left: list[str] = []
        """The partitions that this sweep of all has not come to the end of, which a limit has cut off."""
        self._tidied = random.randrange(len(PARTITIONS))  # noqa: S311 - spreads load, hides nothing

    async def run(self, before: datetime, limit: int) -> int:
        """Remove up to ``limit`` records of tasks that ended before that moment, with their contents,
        and return how many. A child's record stays as long as its parent's, or a requeue of the parent
        would run the child again."""
        if limit < 1:
            return 0
        removed = 0
        needed: dict[str, bool] = {}
        # Not always the same first, as a sweep may be cut off in another way, too.
        self._left = self._left or random.sample(PARTITIONS, len(PARTITIONS))
        while self._left:
            removed += await self._of(self._left[-1], before, limit - removed, needed)
            if removed >= limit:
                return removed
            self._left.pop()
        await self._remove_spans(before)
        return removed

    async def _of(self, partition: str, before: datetime, limit: int, needed: dict[str, bool]) -> int:
        removed = 0
        some: list[Entity] = []
        # One that is about to be requeued was changed since (`Control.requeue`).
        ended = rows_of(
            self._backend.tables,
            partition,
            first_at(before + _AHEAD),
            RECORDS_END,
            Condition("finished_at lt @before and updated_at lt @before", {"before": before}),
            select=_NEEDED,
            limit=min(limit, MAX_QUERY_PAGE),
        )
        async for entity in ended:
            if entity.properties.get("status") not in FINAL and not entity.properties.get(EXPIRED):
                continue  # It has been requeued since, or that is unknown.
            some.append(entity)
            if len(some) == min(limit - removed, MAX_QUERY_PAGE):
                removed += await self._remove(some, needed)
                some = []
                if removed >= limit:
                    break
        return removed + (await self._remove(some, needed) if some else 0)

    async def _remove(self, entities: list[Entity], needed: dict[str, bool]) -> int:
        """Remove those whose parents are gone, parents before their children, and return how many.

        :param needed: which parents are there, as far as it is known.
        """
        left = {task_id_of(entity): entity for entity in entities}
        parents = {id_: str(entity.properties.get("parent_id") or "") for id_, entity in left.items()}
        await self._look_for({each for each in parents.values() if each and each not in left}, needed)
        removed = 0
        while left:
            free = {id_: entity for id_, entity in left.items() if parents[id_] not in left}
            if not free:
                break  # Damaged: each has another for its ancestor.
            for id_ in free:
                del left[id_]
            gone = await self._removed([each for id_, each in free.items() if not needed.get(parents[id_])])
            needed |= dict.fromkeys(free, True) | dict.fromkeys(map(task_id_of, gone), False)
            removed += len(gone)
        return removed

    async def _look_for(self, parents: set[str], needed: dict[str, bool]) -> None:
        for some in batched(sorted(parents - needed.keys()), CONCURRENT_READS, strict=False):
            needed |= zip(some, await asyncio.gather(*map(self._exists, some)), strict=True)

    async def _removed(self, entities: list[Entity]) -> list[Entity]:
        """Remove the contents before the records, so that a later run can finish if this one is cut off; set
        a mark before both, so that a task that has just been requeued keeps its contents."""
        tables = self._backend.tables
        full = [entity for entity in entities if _may_have_contents(entity.properties)]
        plain = [entity for entity in entities if not _may_have_contents(entity.properties)]
        emptied = await change_unchanged(
            tables,
            TASK_TABLE,
            [(each, [Update(each.row_key, {EXPIRED: True}, each.etag)]) for each in full],
        )
        for some in batched(map(task_id_of, emptied), CONCURRENT_READS, strict=False):
            await asyncio.gather(*map(self.remove_contents, some))
        return await delete_unchanged(tables, TASK_TABLE, [*plain, *emptied], _rows_of)

    async def remove_contents(self, task_id: str) -> None:
        """Remove the objects that hold contents of a task."""
        async for found in self._backend.objects.iterate(content_prefix(task_id)):
            with contextlib.suppress(KeyNotFoundError):
                await self._backend.objects.delete(found if isinstance(found, str) else found.key)

    async def _remove_spans(self, before: datetime) -> None:
        """Remove the rows of spans in which no record is left, in another partition each time. One that was
        written lately is left alone: a process that knows of it may be about to make a record."""
        tables = self._backend.tables
        self._tidied = (self._tidied + 1) % len(PARTITIONS)
        partition, old = PARTITIONS[self._tidied], Condition("Timestamp lt @before", {"before": before})
        rows = [row async for row in rows_of(tables, partition, SPANS, end_of(SPANS), old, select=[])]
        if not rows:
            return
        # After the rows: who makes a record in an old span writes its row anew, which then is not deleted.
        empty = {row.row_key.rpartition(":")[2] for row in rows}
        async for record in rows_of(tables, partition, min(empty), RECORDS_END, select=[]):
            empty -= {span_of(record.row_key), moment_of(record.row_key)}
        unused = [row for row in rows if row.row_key.rpartition(":")[2] in empty]
        await delete_unchanged(tables, TASK_TABLE, unused)


def _rows_of(entity: Entity) -> dict[str, Any]:
    return Facts.stored(entity.row_key, entity.properties).rows


def _may_have_contents(properties: Mapping[str, Any]) -> bool:
    """Whether the object store may hold contents of the task: those that its record names, or that an
    interrupted run left behind. Most tasks need no search, which costs as much as a write."""
    named = any(properties.get(f"{name}_key") for name in LARGE)
    return named or properties.get("fence", 2) > 1
