"""Fan-out and join: a task with children ends when the last of them has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.model import Children, TaskError, TaskMessage, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.records import TaskRecords

_log = logging.getLogger("AOS.Tasks")

MAX_NAMED = 100
"""How many failed children are named in the parent's result; the rest are counted."""


class Joins:
    """Counts ended children in their parent's record. Every change is conditional and idempotent, so
    exactly one of the children ends the parent."""

    def __init__(self, records: TaskRecords, now: Callable[[], datetime]) -> None:
        self._records = records
        self._now = now
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By parent: children that end in this process count one after another, so that only those of other
        instances can be met."""

    async def check_parent(self, message: TaskMessage) -> None:
        """:raises InvalidArgumentError: its parent has not submitted it: another time is in its id, or it is
        of a run of its parent that there was not yet."""
        if message.parent_id is None or message.child_index is None:
            return
        try:
            parent = await self._records.get(message.parent_id, contents=False)
        except KeyNotFoundError:
            return
        if message.task_id != child_task_id(parent.task_id, parent.created_at, message.child_index):
            raise InvalidArgumentError(
                f"task_id {message.task_id!r} is not that of a child of its parent_id", field="parent_id"
            )
        if (message.parent_fence or 0) > parent.fence:
            raise InvalidArgumentError(
                f"parent_fence {message.parent_fence} is of no run of the parent",
                field="parent_fence",
                limit=f"{parent.fence}",
            )

    async def parent_is_gone(self, child: TaskRecord) -> bool:
        """Whether a child need not run, because a task above it was cancelled or asked to stop, or
        because its parent has ended in another way, unless the child itself was requeued since."""
        above = child
        seen = {child.task_id}
        while above.parent_id is not None and above.parent_id not in seen:  # as a damaged record may be
            seen.add(above.parent_id)
            try:
                parent = await self._records.get(above.parent_id, contents=False)
            except KeyNotFoundError:
                return False
            if parent.cancel_requested or parent.status is TaskStatus.CANCELLED:
                return True
            if above is child and parent.is_final and not child.requeue_fence:
                return True
            above = parent
        return False

    async def child_ended(
        self, child: TaskRecord, *, again: bool = False, below: frozenset[str] = frozenset()
    ) -> list[TaskEvent]:
        """Count a child's end, and return the event of the parent if that ended it, and so on upwards.

        :param again: also return the events of parents that have already ended and may not have been sent,
            because the worker that ended them may have died.
        :param below: the tasks whose ends led here. None of them is above, except in damaged records.
        """
        if child.parent_id is None or child.child_index is None or child.task_id in below:
            return []
        turn = self._turns.setdefault(child.parent_id, asyncio.Lock())
        try:
            async with turn:
                parent = await self._count(child, child.parent_id, child.child_index)
        except KeyNotFoundError:
            return []
        except IntegrityError as error:
            _log.error("the end of task %s cannot be counted: %s", child.task_id, error)
            return []
        if parent.is_final:
            # The worker that ended it may have died at once; its own parent must know.
            told = not (again and parent.event_due and parent.children and parent.children.all_done)
            events = [] if told else [TaskEvent.of(parent)]
            return events + await self.child_ended(parent, again=again, below=below | {child.task_id})
        return await self.complete(parent)

    async def _count(self, child: TaskRecord, parent_id: str, index: int) -> TaskRecord:
        """The parent with that child counted; unchanged if it has ended, or was requeued since."""
        conflicts = Conflicts()
        while True:
            parent = await self._records.get(parent_id, contents=False)
            # While the parent still runs, its total is not known (0): it may submit more.
            known = parent.children or Children(0)
            counted = known.with_end(index, child.status is TaskStatus.SUCCEEDED)
            if parent.is_final or counted == known or child.runs_again_with(parent):
                return parent
            try:
                return await self._records.change(parent, children=counted, updated_at=self._now())
            except PreconditionFailedError:
                await conflicts.pause()

    async def complete(self, parent: TaskRecord) -> list[TaskEvent]:
        """End a waiting task if all its children have ended. Its event, and those of its own parents."""
        conflicts = Conflicts()
        while _waits_for_nothing(parent):
            # Only now is its own result needed, which may be an object to load.
            parent = await self._records.get(parent.task_id)
            if not _waits_for_nothing(parent):
                break  # Another child's end was faster.
            now = self._now()
            try:
                ended = await self._records.change(
                    parent, finished_at=now, event_due=True, updated_at=now, **_outcome(parent)
                )
            except PreconditionFailedError:
                await conflicts.pause()
                continue
            return [TaskEvent.of(ended), *await self.child_ended(ended)]
        return []


def _waits_for_nothing(parent: TaskRecord) -> bool:
    return parent.is_waiting and parent.children is not None and parent.children.all_done


def _outcome(parent: TaskRecord) -> dict[str, Any]:
    children = parent.children or Children(0)
    failed = [n for n in range(children.total) if children.failed >> n & 1]
    summary = {
        "total": children.total,
        "succeeded": children.total - len(failed),
        "failed": [child_task_id(parent.task_id, parent.created_at, n) for n in failed[:MAX_NAMED]],
    }
    changes: dict[str, Any] = {"result": {"result": parent.result, "children": summary}}
    if not failed:
        return changes | {"status": TaskStatus.SUCCEEDED, "error": None}
    error = TaskError("children-failed", f"{len(failed)} of {children.total} children did not succeed")
    return changes | {"status": TaskStatus.FAILED, "error": error}
