"""Deleting the record of an ended task before it expires."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.control import Check, TaskStateError
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.model import TaskRecord, child_task_id
from storage_lib.tasks.records import TaskRecords, TaskRemovedError


class Deletion:
    """Deletes records.

    :param publish: sends events, and notes in the records that they are out.
    """

    def __init__(
        self,
        records: TaskRecords,
        now: Callable[[], datetime],
        publish: Callable[[Sequence[TaskEvent]], Awaitable[None]],
    ) -> None:
        self._records = records
        self._now = now
        self._publish = publish

    async def delete(self, task_id: str, check: Check | None = None) -> None:
        """See `TaskEngine.delete`."""
        conflicts = Conflicts()
        tried = False
        told: TaskRecord | None = None
        while True:
            try:
                record = await self._records.get(task_id, contents=False)
            except TaskRemovedError:
                # Whoever did it may have been cut off before the contents.
                await self._records.remove_contents(task_id)
                if tried:
                    return
                raise
            await self._check(record)
            if check is not None:
                check(record)
            if record.event_due and (told is None or record.finished_at != told.finished_at):
                await self._publish([TaskEvent.of(record)])
                told = record
                continue  # It may have been requeued meanwhile.
            try:
                await self._records.remove(record, self._now())
            except PreconditionFailedError:
                tried = True
                await conflicts.pause()
            else:
                return

    async def _check(self, record: TaskRecord) -> None:
        """:raises TaskStateError: what is left would not be right without it."""
        task_id = record.task_id
        if not record.is_final:
            raise TaskStateError(
                f"task {task_id!r} is {record.status}",
                field="task_id",
                limit="only the record of a task that has ended can be deleted",
                remedy="cancel it, and wait for its end",
            )
        if record.parent_id is not None and await self._exists(record.parent_id):
            # A requeue of its parent would run it again.
            raise TaskStateError(
                f"task {task_id!r} is a child of {record.parent_id!r}, whose record is there",
                field="task_id",
                remedy="delete that of the parent first",
            )
        first = child_task_id(task_id, record.created_at, 0)
        if await self._records.has_open_child(task_id, first, None):
            # They would not know any more whether they are to run.
            raise TaskStateError(
                f"task {task_id!r} has children that have not ended",
                field="task_id",
                remedy="cancel them, and wait for their ends",
            )

    async def _exists(self, task_id: str) -> bool:
        try:
            await self._records.get(task_id, contents=False)
        except KeyNotFoundError:
            return False
        return True
