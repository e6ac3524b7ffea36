"""Cancelling and requeueing the tasks that a filter finds, a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from storage_lib.arguments import whole
from storage_lib.errors import IntegrityError, InvalidArgumentError, StorageError
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.lists import RecordPage
from storage_lib.tasks.model import TaskRecord, TaskStatus

CONCURRENT = 16
MOST = 1000
SECONDS = 60.0
"""After so long what is left waits for the next call."""
_PAGE = 100

type Pages = Callable[[dict[str, Any], int, str | None], Awaitable[RecordPage]]
"""A page of what filters find: limit and cursor."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is done with each task.

    :param usual: the statuses of those that are changed if the filter names none.
    :param possible: those that it may name.
    :param result: that of those with which it is done already.
    """

    name: str
    usual: tuple[TaskStatus, ...]
    possible: tuple[TaskStatus, ...]
    result: TaskStatus


_CANCELLABLE = (TaskStatus.QUEUED, TaskStatus.RUNNING)
CANCEL = Change("cancelled", _CANCELLABLE, _CANCELLABLE, TaskStatus.CANCELLED)
REQUEUE = Change(
    "requeued",
    (TaskStatus.FAILED, TaskStatus.DEAD),
    (TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DEAD),
    TaskStatus.QUEUED,
)


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of the tasks that a filter found.

    - ``changed``: the ids of those that were changed, with the states that they have now; in a dry run, those
      that would be.
    - ``failed``: the ids of those that could not be, with the reasons.
    - ``cursor``: goes on behind them; None if there are no more.
    """

    changed: list[tuple[str, TaskStatus]] = field(default_factory=list[tuple[str, TaskStatus]])
    failed: list[tuple[str, StorageError]] = field(default_factory=list[tuple[str, StorageError]])
    cursor: str | None = None


async def change_matching(
    change: Change,
    one: Callable[..., Awaitable[TaskRecord]],
    pages: Pages,
    filters: Mapping[str, Any],
    *,
    limit: int,
    cursor: str | None,
    dry_run: bool,
) -> BulkResult:
    """Do something with up to ``limit`` tasks, newest first.

    :param one: does it with one, on condition of a ``check`` of its record.
    :raises InvalidArgumentError: there is no filter, or it names a status of which no task can be changed.
    """
    whole("limit", limit, 1, MOST)
    wanted = {name: value for name, value in filters.items() if value is not None}
    if not wanted:
        raise InvalidArgumentError(
            f"nothing says which tasks are to be {change.name}",
            field="status",
            remedy="name a filter, such as agent_id, action, correlation_id or status",
        )
    named: Any = wanted.setdefault("status", [str(status) for status in change.usual])
    statuses = (named,) if isinstance(named, str) else tuple(named)
    for status in statuses:
        if status in list(TaskStatus) and status not in change.possible:
            raise InvalidArgumentError(
                f"a task that is {status} cannot be {change.name}",
                field="status",
                limit=" or ".join(change.possible),
            )

    def check(record: TaskRecord) -> None:
        # Since it was found it may have started, or have been cancelled by somebody.
        if record.status not in statuses and record.status is not change.result:
            raise TaskStateError(
                f"task {record.task_id!r} is {record.status} by now",
                field="status",
                limit=" or ".join(statuses),
            )

    until = time.monotonic() + SECONDS
    found, places = BulkResult(cursor=cursor), asyncio.Semaphore(CONCURRENT)

    async def changed(record: TaskRecord) -> TaskRecord | StorageError:
        async with places:
            try:
                return record if dry_run else await one(record.task_id, check=check)
            except StorageError as error:
                return error

    while True:
        left = limit - len(found.changed) - len(found.failed)
        page = await pages(wanted, min(left, _PAGE), found.cursor)
        outcomes = await asyncio.gather(*map(changed, page.records))
        for record, outcome in zip(page.records, outcomes, strict=True):
            if isinstance(outcome, StorageError):
                found.failed.append((record.task_id, outcome))
            else:
                found.changed.append((outcome.task_id, outcome.status))
        found.failed.extend((each.task_id, IntegrityError(each.reason)) for each in page.unreadable)
        found = BulkResult(found.changed, found.failed, page.cursor)
        done = len(found.changed) + len(found.failed)
        if page.cursor is None or done >= limit or time.monotonic() >= until:
            return found
