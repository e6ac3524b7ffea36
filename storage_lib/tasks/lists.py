"""Lists of task records, newest first: the partitions are read side by side and merged.

What a filter says decides which rows are read (`Plan`): those of the index, which lead to the records, or
the records of those spans in which there may be some. All conditions are put to the store as well, so what
is left to be looked at in vain is what the plan does not exclude.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heapify, heappop, heapreplace
from itertools import batched
from typing import Any, TypedDict, cast

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
    REQUEUED,
    SUCCEEDED,
    end_of,
    first_at,
    id_of,
    key_of,
    of_action,
    of_agent,
    of_correlation,
    of_idempotency_key,
    of_status,
    partition_of,
    record_keys,
    requeued_since,
    siblings_of,
    span_of,
)
from storage_lib.tasks.legacy_records import Older
from storage_lib.tasks.model import (
    FINAL,
    TASK_TABLE,
    TaskRecord,
    TaskStatus,
    check_action,
    check_agent_id,
    check_correlation_id,
    check_idempotency_key,
    check_task_id,
    child_task_id,
)
from storage_lib.tasks.ranges import Condition, all_partitions, page_of, rows_of
from storage_lib.tasks.searchable import Searchable

CONCURRENT_READS = 32
SPANS_READ = 64
"""In one query."""
MOST_INTERVALS = 16
"""Of records that were made late, in a partition."""
SKEW = timedelta(minutes=5)
"""How far the clocks of two processes may be apart for a list to see what one of them has just requeued."""
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

    status: str | Collection[str] | None
    """One, or any of several."""
    agent_id: str | None
    action: str | None
    parent_id: str | None
    correlation_id: str | None
    idempotency_key: str | None
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


_OF_OTHERS = _Interval(OTHERS, end_of(OTHERS))


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows are read.

    :param condition: of the rows.
    :param prefix: of rows of the index; empty for the records themselves.
    :param spans: the beginning of the rows of the spans in which there may be records.
    :param only: the one partition, and the beginning of the keys in it.
    :param status: that of all records to which the rows lead, if these do not say it.
    """

    condition: Condition
    prefix: str = ""
    spans: str | None = None
    only: tuple[str, str] | None = None
    status: str | None = None

    @property
    def partitions(self) -> Sequence[str]:
        return PARTITIONS if self.only is None else (self.only[0],)


class Lists:
    """Reads pages of records.

    :param read: makes a record of an entity.
    """

    def __init__(
        self,
        tables: TableStore,
        older: Older,
        searchable: Searchable,
        read: Callable[[Entity], Awaitable[TaskRecord]],
    ) -> None:
        self._tables = tables
        self._older = older
        self._searchable = searchable
        self._read = read

    async def page(self, limit: int, cursor: str | None, filters: TaskFilters) -> RecordPage:
        """:raises InvalidArgumentError: a filter, the limit or the cursor is not valid."""
        wanted = checked(filters)
        if type(limit) is not int or not 1 <= limit <= MAX_QUERY_PAGE:
            raise InvalidArgumentError(
                f"limit {limit} is out of range", field="limit", limit=f"1 to {MAX_QUERY_PAGE}"
            )
        listing = (TASK_TABLE, sorted(_named(wanted).items()))
        behind = "" if cursor is None else cursors.unbound(cursor, *listing)
        plans = await self.plans(wanted)
        keys, entities, older, more = await self._merged(plans, wanted, behind, limit)
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

    async def plans(self, wanted: dict[str, Any]) -> list[Plan]:
        """What is read for that; the rows of all together lead to all that is wanted, and to others."""
        if (parent := wanted.get("parent_id")) is not None:
            return [Plan(_condition(wanted, every=True), only=await self._family(parent))]
        statuses: tuple[str, ...] | None = wanted.get("status")
        if await self.reads_records(wanted):
            return [Plan(_condition(wanted, every=True))]
        is_search = _is_search(wanted)
        own = _own_rows(wanted)
        if statuses is None or TaskStatus.SUCCEEDED in statuses:
            if own is not None:
                # The rows of an agent do not say whose they are.
                names = ("agent_id", "action") if is_search else ("action",)
                return [Plan(_condition(wanted, *names, text=_rows_with(statuses)), own)]
            rows = _condition(wanted, every=True)
            if (action := wanted.get("action")) is not None:
                return [Plan(rows, spans=of_action(action))]
            return [Plan(rows, spans=SUCCEEDED if statuses == (TaskStatus.SUCCEEDED,) else None)]
        found: list[Plan] = []
        listed = [status for status in statuses if status in LISTED]
        if is_open := tuple(status for status in statuses if status not in FINAL):
            found.append(Plan(_condition({**wanted, "status": is_open}, *_OF_ROWS), OPEN))
        if listed and is_search and own is not None:
            found.append(Plan(_condition(wanted, "agent_id", "action", text=_rows_with(listed)), own))
        else:
            rows = _condition(wanted, "agent_id", "action")
            found += [Plan(rows, of_status(TaskStatus(each)), status=each) for each in listed]
        return found

    async def reads_records(self, wanted: dict[str, Any]) -> bool:
        """Whether the records themselves are read, because those that are wanted stand side by side, or have
        no rows yet by which they could be searched."""
        return "parent_id" in wanted or (_is_search(wanted) and not await self._searchable.is_complete())

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
        self, plans: Sequence[Plan], wanted: dict[str, Any], behind: str, limit: int
    ) -> tuple[list[str], dict[str, Entity], dict[str, Entity], bool]:
        """The keys of a page, the records of those that were read with them, those of the layout before, and
        whether there may be more. The latter are read first: one that is carried over meanwhile is seen twice
        rather than never."""
        began = datetime.now(UTC)
        older = dict(await self.before(wanted, behind, limit))
        keys, entities, more = set(older), dict[str, Entity](), len(older) == limit
        # A task that ends goes from one plan to another. Read in this order, it is seen, unless it was queued
        # again meanwhile: then there is a row that says so.
        is_open = [plan for plan in plans if plan.prefix == OPEN]
        others = [plan for plan in plans if plan.prefix != OPEN]
        for some in filter(None, (is_open, others)):
            found, are_more = await self._first(some, wanted, behind, limit, entities)
            keys.update(found)
            more = more or are_more
        if is_open and others:
            async for key, _ in self.requeued(began - SKEW, wanted, ()):
                if key > behind:
                    keys.add(key)
        page = sorted(keys)[:limit]
        return page, entities, older, more or len(page) < len(keys)

    async def _first(
        self,
        plans: Sequence[Plan],
        wanted: dict[str, Any],
        behind: str,
        limit: int,
        entities: dict[str, Entity],
    ) -> tuple[list[str], bool]:
        """The first keys that these plans lead to, and whether there are more. Records that were read are
        added to ``entities``."""
        streams: list[_Stream] = []
        places = asyncio.Semaphore(CONCURRENT_READS)

        async def begin(stream: _Stream) -> None:
            async with places:
                await stream.advance()

        for plan in plans:
            several = plan.partitions
            first = min(limit, 2 * limit // len(several) + 4)
            rows = (self.rows(plan, wanted, each, behind, first, limit) for each in several)
            streams += [_Stream(each, of_index=bool(plan.prefix)) for each in rows]
        await asyncio.gather(*map(begin, streams))
        heap = [(stream.key, n) for n, stream in enumerate(streams) if stream.key is not None]
        heapify(heap)
        keys: list[str] = []
        while heap and len(keys) < limit:
            key, n = heap[0]
            stream = streams[n]
            if not keys or keys[-1] != key:
                keys.append(key)
            if not stream.of_index:
                entities[key] = stream.entity
            if await stream.advance():
                heapreplace(heap, (stream.key or "", n))
            else:
                heappop(heap)
        return keys, bool(heap)

    async def requeued(
        self, since: datetime, wanted: dict[str, Any], select: Sequence[str]
    ) -> AsyncIterator[tuple[str, Entity]]:
        """The rows of tasks that were requeued at that moment or later, and are wanted now, with the keys of
        their records."""
        begin, condition = requeued_since(since), _condition(wanted, *_OF_ROWS)
        async for row in all_partitions(self._tables, begin, end_of(REQUEUED), condition, select=select):
            yield row.row_key[len(begin) :], row

    async def before(self, wanted: dict[str, Any], behind: str, limit: int) -> list[tuple[str, Entity]]:
        """The first records of the layout before, with their keys."""
        if await self._older.are_gone():
            return []
        created_before: datetime | None = wanted.get("created_before")
        start = "" if created_before is None else _first_before(created_before)
        found: list[tuple[str, Entity]] = []
        async for entity in self._older.rows(
            max(behind, start), _condition(wanted, every=True), min(limit, MAX_QUERY_PAGE)
        ):
            found.append((key_of(task_id_of(entity)), entity))
            if len(found) == limit:
                break
        return found

    async def rows(
        self,
        plan: Plan,
        wanted: dict[str, Any],
        partition: str,
        behind: str,
        first: int,
        limit: int,
        select: Sequence[str] | None = None,
    ) -> AsyncIterator[tuple[str, Entity]]:
        """The rows of a partition by the keys of their records; a small page first.

        :param select: their properties; None for none of those of the index, and all of records.
        """
        size, prefix = first, plan.prefix
        if select is None and prefix:
            select = ()
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
        self, plan: Plan, wanted: dict[str, Any], partition: str, behind: str
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

    async def _of_plan(self, plan: Plan, partition: str, within: _Interval) -> AsyncIterator[_Interval]:
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

    def __init__(self, rows: AsyncIterator[tuple[str, Entity]], *, of_index: bool = False) -> None:
        self._rows = rows
        self.of_index = of_index
        self.key: str | None = None
        self.entity: Any = None

    async def advance(self) -> bool:
        """Go on to the next row; whether there is one."""
        row = await anext(self._rows, None)
        self.key, self.entity = (None, None) if row is None else row
        return row is not None


def _are_neighbours(end: str, span: str) -> bool:
    return OTHERS not in (end[0], span[0]) and int(span, 16) == int(end, 16) + 1


def checked(filters: TaskFilters) -> dict[str, Any]:
    """Those that do not hold for every record; statuses in a tuple.

    :raises InvalidArgumentError: one is not valid.
    """
    wanted: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    for name, value in wanted.items():
        _CHECKS[name](name, value)
    if "status" in wanted:
        status = wanted["status"]
        wanted["status"] = (status,) if isinstance(status, str) else tuple(sorted(set(status)))
    return wanted


def _named(wanted: dict[str, Any]) -> dict[str, Any]:
    """As cursors know them: those of the version before were for one status."""
    status = wanted.get("status", ())
    return {**wanted, "status": status[0]} if len(status) == 1 else wanted


def _is_search(wanted: dict[str, Any]) -> bool:
    return "correlation_id" in wanted or "idempotency_key" in wanted


def _own_rows(wanted: dict[str, Any]) -> str | None:
    """The beginning of the rows that lead to the fewest records, if not those of a status."""
    if "idempotency_key" in wanted:
        return of_idempotency_key(wanted["idempotency_key"])
    if "correlation_id" in wanted:
        return of_correlation(wanted["correlation_id"])
    return of_agent(wanted["agent_id"]) if "agent_id" in wanted else None


def _rows_with(statuses: Collection[str] | None) -> str:
    """A condition of rows that have the status of a record only if it is one of `LISTED`."""
    if statuses is None:
        return ""
    if all(status in LISTED for status in statuses):
        return f"({' or '.join(f"status eq '{each}'" for each in statuses)})"
    return " and ".join(f"not (status eq '{each}')" for each in sorted(LISTED.difference(statuses)))


def _condition(wanted: dict[str, Any], *names: str, every: bool = False, text: str = "") -> Condition:
    """What is wanted of these properties, and of the time of creation, which rows of the index have as well.

    :param every: of all properties that a record has.
    :param text: what holds besides.
    """
    terms, values = [text] if text else [], dict[str, Any]()
    for name in _PROPERTIES if every else names:
        if name not in wanted:
            continue
        if name != "status":
            terms.append(f"{name} eq @{name}")
            values[name] = wanted[name]
        else:
            numbered = {f"status{n}": str(status) for n, status in enumerate(wanted[name])}
            terms.append(f"({' or '.join(f'status eq @{each}' for each in numbered)})")
            values |= numbered
    for name, how in (("created_after", "ge"), ("created_before", "lt")):
        if name in wanted:
            values[name] = wanted[name]
            terms.append(f"created_at {how} @{name}")
    if every and not terms:
        terms.append(f"not ({EXPIRED} eq true)")  # What is left of one has nothing else to tell it by.
    return Condition(" and ".join(terms), values)


def _holds(entity: Entity, wanted: dict[str, Any]) -> bool:
    """Whether a record to which the index has led is wanted: it may have changed since."""
    found = entity.properties
    created_at: Any = found.get("created_at")
    return (
        all(found.get(name) == wanted[name] for name in _EQUAL if name in wanted)
        and ("status" not in wanted or found.get("status") in wanted["status"])
        and not (
            ("created_after" in wanted and not (created_at and created_at >= wanted["created_after"]))
            or ("created_before" in wanted and not (created_at and created_at < wanted["created_before"]))
        )
    )


_EQUAL = ("agent_id", "action", "parent_id", "correlation_id", "idempotency_key")
_PROPERTIES = ("status", *_EQUAL)
_OF_ROWS = ("status", "agent_id", "action", "correlation_id", "idempotency_key")
"""What the rows of open tasks say, and those of requeued ones."""


def _first_before(moment: datetime) -> str:
    """What is before the keys of all records that were made before that moment."""
    return first_at(min(moment, _LAST_MOMENT) + _AHEAD)


_LAST_MOMENT = datetime.max.replace(tzinfo=UTC) - _AHEAD


def _check_status(name: str, value: Any) -> None:
    several: Any = (value,) if isinstance(value, str) else value
    if not isinstance(several, Collection) or not several:
        raise InvalidArgumentError(f"{name} is {value!r}", field=name, limit="one status, or several")
    for each in cast("Collection[Any]", several):
        if each not in list(TaskStatus):
            raise InvalidArgumentError(
                f"{name} {each!r} is not valid", field=name, limit=" or ".join(TaskStatus)
            )


def _check_moment(name: str, value: Any) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidArgumentError(f"{name} is {value!r}", field=name, limit="a datetime with a time zone")


def _check_text(check: Callable[[Any], str | None]) -> Callable[[str, Any], None]:
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
    "correlation_id": _check_text(check_correlation_id),
    "idempotency_key": _check_text(check_idempotency_key),
    "created_after": _check_moment,
    "created_before": _check_moment,
}


def task_id_of(entity: Entity) -> str:
    """The id of the task whose record this is, even if that is damaged."""
    found = entity.properties.get("task_id")
    return found if isinstance(found, str) and found else id_of(entity.row_key)
