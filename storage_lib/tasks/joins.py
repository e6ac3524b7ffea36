"""Fan-out and join: a task with children ends when the last of them has ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.model import Children, TaskError, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.records import TaskRecords

MAX_NAMED = 100
"""So many failed children are named in the parent's result; the rest is counted."""


class Joins:
    """Keeps count of ended children in their parent's record. Every change is conditional and can be made
    twice without harm, so that exactly one of the children's ends ends the parent."""

    def __init__(self, records: TaskRecords, now: Callable[[], datetime]) -> None:
        self._records = records
        self._now = now

    async def parent_is_gone(self, child: TaskRecord) -> bool:
        """Whether a child need not run, because a task above it was cancelled or asked to stop; or because
        its parent has ended otherwise, unless the child was requeued since, which is meant."""
        above = child
        while above.parent_id is not None:
            try:
                parent = await self._records.get(above.parent_id, contents=False)
            except KeyNotFoundError:
                return False
            if parent.cancel_requested or parent.status is TaskStatus.CANCELLED:
                return True
            if above is child and parent.is_final and not child.first_attempt:
                return True
            above = parent
        return False

    async def child_ended(self, child: TaskRecord) -> list[TaskEvent]:
        """Count a child's end; the event of the parent, if this was what ended it, and so on upwards."""
        if child.parent_id is None or child.child_index is None:
            return []
        while True:
            try:
                parent = await self._records.get(child.parent_id)
            except KeyNotFoundError:
                return []
            if parent.is_final:
                # Its event may have been lost with the worker that ended it; its own parent must know.
                return await self.child_ended(parent)
            # While the parent still runs, its total is not known (0): it may submit more.
            known = parent.children or Children(0)
            updated = known.with_end(child.child_index, child.status is TaskStatus.SUCCEEDED)
            if updated != known:
                try:
                    parent = await self._records.change(parent, children=updated)
                except PreconditionFailedError:
                    continue
            return await self.complete(parent)

    async def complete(self, parent: TaskRecord) -> list[TaskEvent]:
        """End a waiting task if all its children have ended. Its event, and those of its own parents."""
        while True:
            children = parent.children
            if parent.is_final or children is None or not parent.is_waiting or not children.all_done:
                return []
            now = self._now()
            try:
                ended = await self._records.change(
                    parent, finished_at=now, updated_at=now, **_outcome(parent, children)
                )
            except PreconditionFailedError:
                parent = await self._records.get(parent.task_id)
                continue
            return [TaskEvent.of(ended), *await self.child_ended(ended)]


def _outcome(parent: TaskRecord, children: Children) -> dict[str, Any]:
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
