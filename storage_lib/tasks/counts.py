"""How many tasks there are in each state: the rows of the index are counted, up to a limit for each state.

Nothing keeps a sum, which every task would have to change. The rows are small, and each is one that counts,
unless it is hidden behind those of other agents or actions. A task that changes meanwhile is counted once, as
it was or as it is.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from storage_lib.arguments import whole
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.tables import MAX_QUERY_PAGE
from storage_lib.tasks.layout import LISTED
from storage_lib.tasks.lists import CONCURRENT_READS, SKEW, Lists, Plan, TaskFilters, checked
from storage_lib.tasks.model import FINAL, TaskStatus

MOST_COUNTED = 100_000
MOST_GROUPS = 1000
_OPEN = tuple(str(status) for status in TaskStatus if status not in FINAL)
_MOST_OPEN = 5000
"""How many open tasks of each state are read, at least, to tell them from those that succeeded."""
_SUCCEEDED = str(TaskStatus.SUCCEEDED)
_TOLD = ("status", "agent_id", "action")
"""What is read of a row."""

type CountBy = Literal["agent_id", "action"]


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks there are in each state.

    - ``counts``: by status, of those that were asked for.
    - ``counted_up_to``: no state was counted further.
    - ``at_least``: the states of which there may be more than ``counts`` says.
    - ``groups``: the counts of each agent or action, the greatest first, at most `MOST_GROUPS`; None if none
      were asked for.
    """

    counts: dict[str, int]
    counted_up_to: int
    at_least: list[str]
    groups: dict[str, dict[str, int]] | None = None


@dataclass(slots=True)
class _Part:
    """The rows that one plan reads.

    :param statuses: of the tasks that they lead to.
    :param most: how many are read.
    """

    plan: Plan
    statuses: Sequence[str]
    most: int
    rows: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    @property
    def is_full(self) -> bool:
        return len(self.rows) >= self.most


class Counting:
    """Counts the tasks that lists list."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists

    async def count(
        self, filters: TaskFilters, *, by: CountBy | None = None, limit: int = MAX_QUERY_PAGE
    ) -> TaskCounts:
        """:raises InvalidArgumentError: a filter, ``by`` or the limit is not valid."""
        wanted = checked(filters)
        whole("limit", limit, 1, MOST_COUNTED)
        if by not in (None, "agent_id", "action"):
            raise InvalidArgumentError(f"by is {by!r}", field="by", limit="agent_id or action")
        statuses = [str(each) for each in wanted.get("status") or TaskStatus]
        wanted["status"] = tuple(statuses)
        found, full = await self._found(wanted, statuses, limit)
        counts = dict.fromkeys(statuses, 0)
        groups: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for row in found.values():
            status = row.get("status")
            if status not in counts:
                continue  # It is of another state, or that is not known.
            if counts[status] == limit:
                full.add(status)
                continue
            counts[status] += 1
            if by is not None:
                group = groups[str(wanted.get(by) or row.get(by))]
                group[status] = group.get(status, 0) + 1
        at_least = [status for status in statuses if status in full]
        return TaskCounts(counts, limit, at_least, None if by is None else greatest(groups))

    async def _found(
        self, wanted: dict[str, Any], statuses: list[str], limit: int
    ) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
        """The rows of what is wanted by the keys of their records, each with a status, and the statuses of
        which there may be more."""
        most = limit * len(statuses) + 1
        if "idempotency_key" in wanted:
            return await self._listed(wanted, most, statuses)
        began = datetime.now(UTC)
        older = await self._lists.before(wanted, "", most)
        requeued = dict[str, Mapping[str, Any]]()
        if await self._lists.reads_records(wanted):
            (plan,) = await self._lists.plans(wanted)
            part = _Part(plan, statuses, most)
            await self._read(part, wanted)
            parts = [part]
        else:
            rounds = await self._rounds(wanted, statuses, limit)
            places = asyncio.Semaphore(CONCURRENT_READS)
            for some in rounds:
                await asyncio.gather(*(self._read(part, wanted, places) for part in some))
            parts = [part for some in rounds for part in some]
            _, opened, ended = rounds
            if opened and ended:  # A task that was requeued may have gone from the latter to the former.
                requeued = await self._requeued(began - SKEW, wanted, most)
        full = {status for part in parts if part.is_full for status in part.statuses}
        # With more open tasks than were read nobody knows which of the others have succeeded.
        silent = None if full.intersection(_OPEN) else _SUCCEEDED
        if silent is None and _SUCCEEDED in statuses:
            full.add(_SUCCEEDED)
        found: dict[str, Mapping[str, Any]] = {}
        for part in parts:
            for key, row in part.rows.items():
                status = part.plan.status or row.get("status")
                if status is not None or key not in found:
                    found[key] = {**row, "status": status or silent}
        found |= requeued
        if len(older) >= most or len(requeued) >= most:
            full.update(statuses)
        return {key: entity.properties for key, entity in older} | found, full

    async def _rounds(self, wanted: dict[str, Any], statuses: list[str], limit: int) -> list[list[_Part]]:
        """What is read one after the other, so that a task that ends meanwhile is not missed: rows without a
        status, those of open tasks, and those of tasks that have ended.

        Rows without a status are of tasks that have succeeded or are open. They are read before the rows that
        tell, so that a new task, or one that has just failed, is not taken for one that has succeeded.
        """
        silent, ended = list[_Part](), list[_Part]()
        is_open, most = [each for each in _OPEN if each in statuses], limit
        if _SUCCEEDED in statuses:
            (plan,) = await self._lists.plans({**wanted, "status": (_SUCCEEDED,)})
            if plan.prefix:  # Among its rows there are those of open tasks.
                is_open, most = list(_OPEN), max(limit, _MOST_OPEN)
            size = limit + (len(_OPEN) * limit if plan.prefix else 0) + 1
            (silent if plan.prefix else ended).append(_Part(plan, [_SUCCEEDED], size))
        for status in (str(each) for each in TaskStatus if each in LISTED and (silent or each in statuses)):
            plans = await self._lists.plans({**wanted, "status": (status,)})
            ended += [_Part(plan, [status], limit + 1) for plan in plans]
        opened = list[_Part]()
        if is_open:
            (plan,) = await self._lists.plans({**wanted, "status": tuple(is_open)})
            opened.append(_Part(plan, is_open, most * len(is_open) + 1))
        return [silent, opened, ended]

    async def _requeued(
        self, since: datetime, wanted: dict[str, Any], most: int
    ) -> dict[str, Mapping[str, Any]]:
        """The rows of up to ``most`` tasks that were requeued since then, whatever their states are now."""
        found: dict[str, Mapping[str, Any]] = {}
        of_all = {name: value for name, value in wanted.items() if name != "status"}
        async for key, row in self._lists.requeued(since, of_all, _TOLD):
            found[key] = row.properties
            if len(found) >= most:
                break
        return found

    async def _read(
        self, part: _Part, wanted: dict[str, Any], places: asyncio.Semaphore | None = None
    ) -> None:
        """Read the rows of all partitions at the same time, until there are enough."""
        size = min(part.most, MAX_QUERY_PAGE)
        limited = places or asyncio.Semaphore(CONCURRENT_READS)

        async def one(partition: str) -> None:
            async with limited:
                rows = self._lists.rows(part.plan, wanted, partition, "", size, size, _TOLD)
                async for key, entity in rows:
                    part.rows[key] = entity.properties
                    if part.is_full:
                        break

        await asyncio.gather(*map(one, part.plan.partitions))

    async def _listed(
        self, wanted: dict[str, Any], most: int, statuses: list[str]
    ) -> tuple[dict[str, Mapping[str, Any]], set[str]]:
        """Of one key there are few: their records are looked at."""
        found: dict[str, Mapping[str, Any]] = {}
        filters: Any = wanted
        cursor = None
        while len(found) < most:
            page = await self._lists.page(min(most, MAX_QUERY_PAGE), cursor, filters)
            for record in page.records:
                found[record.task_id] = {
                    "status": str(record.status),
                    "agent_id": record.agent_id,
                    "action": record.action,
                }
            if (cursor := page.cursor) is None:
                return found, set()
        return found, set(statuses)


def summed(several: Sequence[TaskCounts]) -> TaskCounts:
    """The counts of several filters, no two of which have a task in common."""
    first = several[0]
    counts = {name: sum(each.counts[name] for each in several) for name in first.counts}
    full = {name for each in several for name in each.at_least}
    groups: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for each in several:
        for name, group in (each.groups or {}).items():
            known = groups[name]
            known.update({status: known.get(status, 0) + count for status, count in group.items()})
    at_least = [name for name in counts if name in full]
    return TaskCounts(
        counts, first.counted_up_to, at_least, None if first.groups is None else greatest(groups)
    )


def greatest(groups: Mapping[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The first `MOST_GROUPS`, those with the most tasks first."""
    ordered = sorted(groups.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return dict(ordered[:MOST_GROUPS])
