"""Reading ranges of rows of the task table: one, or one in each partition at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.backend import Entity, EntityPage
from storage_lib.ports.tables import MAX_QUERY_PAGE, TableStore
from storage_lib.tasks.layout import PARTITIONS
from storage_lib.tasks.model import TASK_TABLE


@dataclass(frozen=True, slots=True)
class Condition:
    """An OData condition besides that on the keys, with the values of its parameters. Empty text holds for
    every row."""

    text: str = ""
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])


ALWAYS = Condition()


class PageOptions(TypedDict, total=False):
    """What is read of each row, and how many at a time."""

    select: Sequence[str] | None
    limit: int


async def page_of(
    tables: TableStore,
    partition: str,
    behind: str,
    end: str,
    condition: Condition = ALWAYS,
    *,
    select: Sequence[str] | None = None,
    limit: int = MAX_QUERY_PAGE,
    cursor: str | None = None,
) -> EntityPage:
    """A page of the rows of a partition with keys greater than ``behind`` and less than ``end``; none if
    there is no table, which is made by the first task."""
    keys = "PartitionKey eq @partition and RowKey gt @behind and RowKey lt @end"
    values = {"partition": partition, "behind": behind, "end": end, **condition.values}
    text = f"{keys} and {condition.text}" if condition.text else keys
    try:
        return await tables.query(
            TASK_TABLE, text, parameters=values, select=select, limit=limit, cursor=cursor
        )
    except KeyNotFoundError:
        return EntityPage([], None)


async def rows_of(
    tables: TableStore,
    partition: str,
    behind: str,
    end: str,
    condition: Condition = ALWAYS,
    **options: Unpack[PageOptions],
) -> AsyncIterator[Entity]:
    """All rows of such a range; ``limit`` is that of a page."""
    page = EntityPage([], "")
    while page.cursor is not None:
        cursor = page.cursor or None
        page = await page_of(tables, partition, behind, end, condition, cursor=cursor, **options)
        for entity in page.entities:
            yield entity


async def all_partitions(
    tables: TableStore,
    behind: str,
    end: str,
    condition: Condition = ALWAYS,
    *,
    select: Sequence[str] | None = None,
) -> AsyncIterator[Entity]:
    """The rows of such a range in every partition, one partition after the other. The first page of each is
    read at the same time."""

    def page(partition: str, cursor: str | None = None) -> Any:
        return page_of(tables, partition, behind, end, condition, select=select, cursor=cursor)

    for partition, found in zip(PARTITIONS, await asyncio.gather(*map(page, PARTITIONS)), strict=True):
        for entity in found.entities:
            yield entity
        while found.cursor is not None:
            found = await page(partition, found.cursor)
            for entity in found.entities:
                yield entity
