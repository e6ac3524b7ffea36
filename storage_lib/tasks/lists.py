"""Lists of task records, newest first: the partitions are read side by side and merged.

What a filter says decides which rows are read (`_Plan`): those of the index, which lead to the records, or
the records of those spans in which there may be some. All conditions are put to the store as well, so what
is left to be looked at in vain is what the plan does not exclude.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heapreplace
from itertools import batched
from typing import Any, TypedDict

from storage_lib.errors import IntegrityError, InvalidArgumentError, KeyNotFoundError
from storage_lib.ports import cursors
from storage_lib.ports.backend import Entity
from storage_lib.ports.tables import MAX_QUERY_PAGE, TableStore
from storage_lib.tasks.layout import (
    LATE,
    LISTED,
    OPEN,
    OTHERS,
    PARTITIONS,
    RECORDS_END,
    SUCCEEDED,
    end_of,
    first_at,
    id_of,
    key_of,
    of_action,
    of_agent,
    of_status,
    partition_of,
    record_keys,
    siblings_of,
    span_of,
)
from storage_lib.tasks.model import (
    FINAL,
    TASK_TABLE,
    TaskRecord,
    TaskStatus,
    check_action,
    check_agent_id,
    check_task_id,
    child_task_id,
)
from storage_lib.tasks.older import Older
from storage_lib.tasks.ranges import Condition, page_of, rows_of

CONCURRENT_READS = 32
SPANS_READ = 64
"""In one query."""
MOST_INTERVALS = 16
"""Of records that were made late, in a partition."""
EXPIRED = "expired"
"""Set in a record whose contents are about to be removed, and which nobody may see any longer."""
_AHEAD = timedelta(days=1)
"""How far the clock that made an id may have been ahead; `TaskRecords.insert` refuses more."""


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that is damaged or has a later version: what is known about it."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordPage:
    """A page of task records, newest first. ``cursor`` is None if there is no next page. ``unreadable`` lists
    damaged records, which are left out of ``records``."""

    records: list[TaskRecord]
    cursor: str | None
    unreadable: list[UnreadableRecord] = field(default_factory=list[UnreadableRecord])


class TaskFilters(TypedDict, total=False):
    """Which records a list holds: those for which all of these hold; None holds for every one."""

    status: str | None
    agent_id: str | None
    action: str | None
    parent_id: str | None
    created_after: datetime | None
    """At or after it."""
    created_before: datetime | None


@dataclass(frozen=True, slots=True)
class _Interval:
    """Keys of records greater than ``behind`` and less than ``end``."""

    behind: str
    end: str

    def within(self, other: _Interval) -> _Interval | None:
        both = _Interval(max(self.behind, other.behind), min(self.end, other.end))
        return both if both.behind < both.end else None


_EVERY = _Interval("", RECORDS_END)
_OF_OTHERS = _Interval(OTHERS, end_of(OTHERS))


@dataclass(frozen=True, slots=True)
class _Plan:
    """Which rows are read.

    :param condition: of the rows.
    :param prefix: of rows of the index; empty for the records themselves.
    :param spans: the beginning of the rows of the spans in which there may be records.
    :param only: the one partition, and the beginning of the keys in it.
    """

    condition: Condition
    prefix: str = ""
    spans: str | None = None
    only: tuple[str, str] | None = None


class Lists:
    """Reads pages of records.

    :param read: makes a record of an entity.
    """

    def __init__(
        self, tables: TableStore, older: Older, read: Callable[[Entity], Awaitable[TaskRecord]]
    ) -> None:
        self._tables = tables
        self._older = older
        self._read = read

    async def page(self, limit: int, cursor: str | None, filters: TaskFilters) -> RecordPage:
        """:raises InvalidArgumentError: a filter, the limit or the cursor is not valid."""
        wanted: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        for name, value in wanted.items():
            _CHECKS[name](name, value)
        if type(limit) is not int or not 1 <= limit <= MAX_QUERY_PAGE:
            raise InvalidArgumentError(
                f"limit {limit} is out of range", field="limit", limit=f"1 to {MAX_QUERY_PAGE}"
            )
        listing = (TASK_TABLE, sorted(wanted.items()))
        behind = "" if cursor is None else cursors.unbound(cursor, *listing)
        plan = await self._plan(wanted)
        keys, entities, older, more = await self._merged(plan, wanted, behind, limit)
        # A record of the layout before may have been carried over and changed meanwhile, or before somebody
        # was cut off.
        entities |= await self._looked_up(key for key in keys if key not in entities)
        found = RecordPage([], cursors.bound(keys[-1], *listing) if more and keys else None)
        for key in keys:
            entity = entities.get(key) or older.get(key)
            if entity is None or entity.properties.get(EXPIRED) or not _holds(entity, wanted):
                continue
            try:
                found.records.append(await self._read(entity))
            except IntegrityError as error:  # The others must still be visible.
                found.unreadable.append(UnreadableRecord(task_id_of(entity), error.message))
        return found

    async def _plan(self, wanted: dict[str, Any]) -> _Plan:
        status, agent = wanted.get("status"), wanted.get("agent_id")
        if (parent := wanted.get("parent_id")) is not None:
            return _Plan(_condition(wanted, every=True), only=await self._family(parent))
        if status is not None and status not in FINAL:
            return _Plan(_condition(wanted, "status", "agent_id", "action"), OPEN)
        if status in LISTED:
            return _Plan(_condition(wanted, "agent_id", "action"), of_status(TaskStatus(status)))
        if agent is not None:
            rows = _condition(wanted, "action")
            if status is not None:
                others = " and ".join(f"not (status eq '{each}')" for each in sorted(LISTED))
                rows = Condition(f"{rows.text} and {others}" if rows.text else others, rows.values)
            return _Plan(rows, of_agent(agent))
        rows = _condition(wanted, every=True)
        if (action := wanted.get("action")) is not None:
            return _Plan(rows, spans=of_action(action))
        return _Plan(rows, spans=None if status is None else SUCCEEDED)

    async def _family(self, parent_id: str) -> tuple[str, str]:
        """Where the children of a task stand. If its record is gone, its id may tell."""
        parent = await self._older.get(parent_id)
        if parent is None:
            parent = await self._tables.get(TASK_TABLE, *record_keys(parent_id), default=None)
        created_at = None if parent is None else parent.properties.get("created_at")
        if isinstance(created_at, datetime):
            return siblings_of(child_task_id(parent_id, created_at, 0))
        return siblings_of(parent_id)

    async def _merged(
        self, plan: _Plan, wanted: dict[str, Any], behind: str, limit: int
    ) -> tuple[list[str], dict[str, Entity], dict[str, Entity], bool]:
        """The keys of a page, the records of those that were read with them, those of the layout before, and
        whether there may be more. The latter are read first: one that is carried over meanwhile is seen twice
        rather than never."""
        entities: dict[str, Entity] = {}
        older: list[tuple[str, Entity]] = []
        if not await self._older.are_gone():
            older = await self._before(wanted, behind, limit)
        several = PARTITIONS if plan.only is None else (plan.only[0],)
        first = min(limit, 2 * limit // len(several) + 4)
        streams = [_Stream(_all(older))]
        streams += [_Stream(self._rows(plan, wanted, each, behind, first, limit)) for each in several]
        await asyncio.gather(*(stream.advance() for stream in streams))
        heap = [(stream.key, n) for n, stream in enumerate(streams) if stream.key is not None]
        heapify(heap)
        keys: list[str] = []
        while heap and len(keys) < limit:
            key, n = heap[0]
            stream = streams[n]
            if not keys or keys[-1] != key:
                keys.append(key)
            if n and not plan.prefix:
                entities[key] = stream.entity
            if await stream.advance():
                heapreplace(heap, (stream.key or "", n))
            else:
                heappop(heap)
        return keys, entities, dict(older), bool(heap) or len(older) == limit

    async def _before(self, wanted: dict[str, Any], behind: str, limit: int) -> list[tuple[str, Entity]]:
        """The first records of the layout before."""
        created_before: datetime | None = wanted.get("created_before")
        start = "" if created_before is None else _first_before(created_before)
        found: list[tuple[str, Entity]] = []
        async for entity in self._older.rows(max(behind, start), _condition(wanted, every=True), limit):
            found.append((key_of(task_id_of(entity)), entity))
            if len(found) == limit:
                break
        return found

    async def _rows(
        self, plan: _Plan, wanted: dict[str, Any], partition: str, behind: str, first: int, limit: int
    ) -> AsyncIterator[tuple[str, Entity]]:
        """The rows of a partition by the keys of their records; a small page first."""
        size, prefix = first, plan.prefix
        select = [] if prefix else None
        async for interval in self._intervals(plan, wanted, partition, behind):
            cursor = ""
            while cursor is not None:
                page = await page_of(
                    self._tables,
                    partition,
                    prefix + interval.behind,
                    prefix + interval.end,
                    plan.condition,
                    select=select,
                    limit=size,
                    cursor=cursor or None,
                )
                for entity in page.entities:
                    yield entity.row_key[len(prefix) :], entity
                cursor, size = page.cursor, limit

    async def _intervals(
        self, plan: _Plan, wanted: dict[str, Any], partition: str, behind: str
    ) -> AsyncIterator[_Interval]:
        """Where in a partition there may be records, in the order of the keys."""
        rest = _Interval(behind, RECORDS_END)
        if created_before := wanted.get("created_before"):
            rest = _Interval(max(behind, _first_before(created_before)), RECORDS_END)
        if plan.only is not None:
            whole = _Interval(plan.only[1], end_of(plan.only[1])).within(rest)
            if whole is not None:
                yield whole
            return
        created_after: datetime | None = wanted.get("created_after")
        if created_after is None:
            async for interval in self._of_plan(plan, partition, rest):
                yield interval
            return
        async for some in self._since(partition, created_after, rest):
            async for interval in self._of_plan(plan, partition, some):
                yield interval

    async def _of_plan(self, plan: _Plan, partition: str, within: _Interval) -> AsyncIterator[_Interval]:
        if plan.spans is None:
            yield within
            return
        # A span may begin before.
        async for span in self._spans(partition, plan.spans, within):
            if (both := within.within(span)) is not None:
                yield both

    async def _since(self, partition: str, moment: datetime, rest: _Interval) -> AsyncIterator[_Interval]:
        """Where records stand that were made at that moment or later: those whose ids say so, those of times
        with some that were made late, and those whose ids tell no time."""
        newest = _Interval("", first_at(moment) + RECORDS_END)
        if (both := newest.within(rest)) is not None:
            yield both
        late = rows_of(self._tables, partition, LATE, LATE + newest.end, select=[])
        times = sorted({time async for row in late if (time := row.row_key.rpartition(":")[2]) > newest.end})
        # As few as can be read one after the other; between two of one interval stand others, too.
        for some in batched(times, len(times) // MOST_INTERVALS + 1, strict=False):
            if (both := _Interval(some[0], some[-1] + RECORDS_END).within(rest)) is not None:
                yield both
        if (both := _OF_OTHERS.within(rest)) is not None:
            yield both

    async def _spans(self, partition: str, prefix: str, rest: _Interval) -> AsyncIterator[_Interval]:
        """The intervals of the spans that have such a row; neighbours are joined, more and more of them."""
        start = prefix
        if rest.behind:  # The span that it is in counts, too.
            span = span_of(rest.behind)
            start += span[:-1] + chr(ord(span[-1]) - 1) + RECORDS_END
        joined: list[str] = []
        most = 1
        end = min(end_of(prefix), prefix + rest.end)
        async for row in rows_of(self._tables, partition, start, end, select=[], limit=SPANS_READ):
            span = row.row_key[len(prefix) :]
            if joined and (len(joined) == most or not _are_neighbours(joined[-1], span)):
                yield _Interval(joined[0], joined[-1] + RECORDS_END)
                joined, most = [], 2 * most
            joined.append(span)
        if joined:
            yield _Interval(joined[0], joined[-1] + RECORDS_END)

    async def _looked_up(self, keys: Iterable[str]) -> dict[str, Entity]:
        """The records with these keys that there are."""
        found: dict[str, Entity] = {}

        async def look(key: str) -> None:
            try:
                found[key] = await self._tables.get(TASK_TABLE, partition_of(key), key)
            except KeyNotFoundError:
                return  # It has just been removed.

        for some in batched(keys, CONCURRENT_READS, strict=False):
            await asyncio.gather(*map(look, some))
        return found


class _Stream:
    """Rows in order, of which the next is at hand."""

    def __init__(self, rows: AsyncIterator[tuple[str, Entity]]) -> None:
        self._rows = rows
        self.key: str | None = None
        self.entity: Any = None

    async def advance(self) -> bool:
        """Go on to the next row; whether there is one."""
        row = await anext(self._rows, None)
        self.key, self.entity = (None, None) if row is None else row
        return row is not None


async def _all[T](items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


def _are_neighbours(end: str, span: str) -> bool:
    return OTHERS not in (end[0], span[0]) and int(span, 16) == int(end, 16) + 1


def _condition(wanted: dict[str, Any], *names: str, every: bool = False) -> Condition:
    """What is wanted of these properties, and of the time of creation, which rows of the index have as well.

    :param every: of all properties that a record has.
    """
    values = {name: wanted[name] for name in (_PROPERTIES if every else names) if name in wanted}
    terms = [f"{name} eq @{name}" for name in values]
    for name, how in (("created_after", "ge"), ("created_before", "lt")):
        if name in wanted:
            values[name] = wanted[name]
            terms.append(f"created_at {how} @{name}")
    return Condition(" and ".join(terms), values)


def _holds(entity: Entity, wanted: dict[str, Any]) -> bool:
    """Whether a record to which the index has led is wanted: it may have changed since."""
    found = entity.properties
    created_at: Any = found.get("created_at")
    return all(found.get(name) == wanted[name] for name in _PROPERTIES if name in wanted) and not (
        ("created_after" in wanted and not (created_at and created_at >= wanted["created_after"]))
        or ("created_before" in wanted and not (created_at and created_at < wanted["created_before"]))
    )


_PROPERTIES = ("status", "agent_id", "action", "parent_id")


def _first_before(moment: datetime) -> str:
    """What is before the keys of all records that were made before that moment."""
    return first_at(min(moment, _LAST_MOMENT) + _AHEAD)


_LAST_MOMENT = datetime.max.replace(tzinfo=UTC) - _AHEAD


def _check_status(name: str, value: Any) -> None:
    if value not in list(TaskStatus):
        raise InvalidArgumentError(
            f"{name} {value!r} is not valid", field=name, limit=" or ".join(TaskStatus)
        )


def _check_moment(name: str, value: Any) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgumentError(f"{name} is {value!r}", field=name, limit="a datetime with a time zone")


def _check_text(check: Callable[[Any], str]) -> Callable[[str, Any], None]:
    """Refuse what no task can have, as not every store could be asked for it."""

    def checked(name: str, value: Any) -> None:
        try:
            check(value)
        except InvalidArgumentError as error:
            error.field = name
            raise

    return checked


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "status": _check_status,
    "agent_id": _check_text(check_agent_id),
    "action": _check_text(check_action),
    "parent_id": _check_text(check_task_id),
    "created_after": _check_moment,
    "created_before": _check_moment,
}


def task_id_of(entity: Entity) -> str:
    """The id of the task whose record this is, even if that is damaged."""
    found = entity.properties.get("task_id")
    return found if isinstance(found, str) and found else id_of(entity.row_key)
