"""Reading messages: the newest follow the head, so a conversation's end costs one request."""

from __future__ import annotations

from datetime import timedelta

from storage_lib.conversations.head import Head
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.rows import position_of
from storage_lib.conversations.store import Store
from storage_lib.ports.table_model import Entity

_WIDER = 4


async def newest(
    store: Store, retention: Retention, stored: str, count: int
) -> tuple[Head | None, list[Entity]]:
    """The head, and the rows of the newest messages that are still to be seen, oldest first."""
    head, rows = await store.newest(stored, count)
    if head is None or head.is_over(store.now()):
        return None, []
    count = min(count, head.count, head.max_messages or count)
    if len(rows) < count:
        # What others are just writing, or removing, stands between.
        rows = []
        async for row in store.between(stored, head.generation, head.first, head.position, limit=count):
            rows.append(row)
            if len(rows) == count:
                break
    rows = rows[:count]
    if head.max_age is not None:
        least = store.now() - timedelta(seconds=head.max_age)
        rows = [row for row in rows if row.properties["at"] > least]
    return head, rows[::-1]


async def between(
    store: Store,
    retention: Retention,
    stored: str,
    head: Head,
    after: int,
    before: int | None,
    last: int | None,
    limit: int | None,
) -> list[Entity]:
    """The rows behind ``after`` and before ``before``, oldest first: the newest or the oldest of them."""
    low = max(after + 1, await retention.first(stored, head))
    high = head.position if before is None else min(before - 1, head.position)
    if limit is None or high - low < limit:
        rows: list[Entity] = []
        if last == 0 or limit == 0:
            return rows
        async for row in store.between(stored, head.generation, low, high, limit=last):
            rows.append(row)
            if len(rows) == last:
                break
        return rows[::-1]
    return await _oldest(store, stored, head, low, high, limit)


async def _oldest(store: Store, stored: str, head: Head, low: int, high: int, limit: int) -> list[Entity]:
    """The oldest ones. Rows stand the other way round, so those of as many positions are asked for, and of
    more if some of these were popped."""
    found: list[Entity] = []
    width = limit
    while low <= high and len(found) < limit:
        top = min(low + width - 1, high)
        rows = [row async for row in store.between(stored, head.generation, low, top)]
        found += rows[::-1]
        low, width = top + 1, width * _WIDER
    return found[:limit]


def is_last(rows: list[Entity], head: Head) -> bool:
    """Whether nothing comes behind these rows."""
    return not rows or position_of(rows[-1].row_key) == head.position
