"""Controlling a task from outside: cancel, requeue, and delete its record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.ports.backend import QueueStore
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import noted
from storage_lib.tasks.model import Children, TaskMessage, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.queues import TaskQueues
from storage_lib.tasks.records import TaskRecords, TaskRemovedError


class TaskStateError(StorageError):
    """The task is in a state in which this is not possible."""

    code = "task-state"


type Check = Callable[[TaskRecord], None]
"""Raises what keeps a record from being changed that could be."""


class Control:
    """Cancels, requeues and deletes tasks, whatever the workers do at the same time."""

    def __init__(
        self, records: TaskRecords, queues: QueueStore, used: TaskQueues, now: Callable[[], datetime]
    ) -> None:
        self._records = records
        self._queues = queues
        self._used = used
        self._now = now

    async def cancel(self, task_id: str, check: Check | None = None) -> tuple[TaskRecord, bool]:
        """End a task that has not started; ask a running one to stop (`TaskContext.checkpoint`).
        Children of a cancelled task that have not started do not run.

        Returns the record, and whether this call ended the task.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has ended in another way.
        """
        conflicts = Conflicts()
        while True:
            record = await self._records.get(task_id)
            if record.is_final and record.status is not TaskStatus.CANCELLED:
                raise TaskStateError(f"task {task_id!r} has ended: {record.status}", field="task_id")
            if check is not None:
                check(record)
            if record.status is TaskStatus.CANCELLED:
                return record, False
            if record.status is TaskStatus.RUNNING and record.cancel_requested and not record.is_waiting:
                return record, False
            now = self._now()
            try:
                if record.status is TaskStatus.RUNNING and not record.is_waiting:
                    asked = await self._records.change(record, cancel_requested=True, updated_at=now)
                    return asked, False
                ended = await self._records.change(
                    record,
                    status=TaskStatus.CANCELLED,
                    cancel_requested=True,
                    finished_at=now,
                    event_due=True,
                    updated_at=now,
                    history=noted(record, now, "cancelled"),
                )
                return ended, True
            except PreconditionFailedError:
                await conflicts.pause()

    async def requeue(
        self,
        task_id: str,
        *,
        parent_fence: int | None = None,
        check: Check | None = None,
        by: str | None = None,
    ) -> TaskRecord:
        """Run a task that did not succeed again, with as many attempts as before; its history is kept.
        For the dead record of a message that was not a task, the message is put back into a queue of its
        priority.

        :param parent_fence: the fence of the parent's run that asks for it.
        :param by: whose rights bound those of the run, as in `TaskRecord.requeued_by`; None for nobody's.
        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it succeeded, or has not ended.
        """
        record = await self._kept(task_id, check, by)
        queue = self._used.of(task_id, record.priority)
        if record.raw_message is not None:
            await self._queues.send_text(queue, record.raw_message)
            return await self._put_back(record, self._now())
        # The message is sent before the record is queued, and is enough by itself: it says which end of the
        # task it revokes. So a crash in between leaves no queued record without a message.
        message = TaskMessage.of(record, requeue=record.fence)
        if parent_fence is not None:
            message = replace(message, parent_fence=parent_fence)
        await self._queues.send(queue, message.to_bytes())
        while True:
            try:
                return await self.revive(record, parent_fence)
            except PreconditionFailedError:
                found = await self._records.get(task_id)
                if not found.is_final or found.fence != record.fence:
                    return found  # A worker has taken it up already.
                record = found  # Another requeue has touched it.

    async def _kept(self, task_id: str, check: Check | None, by: str | None) -> TaskRecord:
        """The record of a task that can run again, touched, so that the expiry of old records does not remove
        it and its contents now. It says who asked before there is a message by which it could run."""
        conflicts = Conflicts()
        while True:
            record = await self._records.get(task_id)
            if not record.is_final or record.status is TaskStatus.SUCCEEDED:
                raise TaskStateError(
                    f"task {task_id!r} is {record.status}",
                    field="task_id",
                    limit="only a failed, cancelled or dead task can be run again",
                )
            if check is not None:
                check(record)
            try:
                # A merge cannot remove a property: an empty one says that there is none.
                touched = await self._records.change(record, requeued_by=by or "", updated_at=self._now())
                return replace(touched, requeued_by=by)
            except PreconditionFailedError:
                await conflicts.pause()

    async def revive(self, record: TaskRecord, parent_fence: int | None) -> TaskRecord:
        """Queue an ended task again, for a run of its parent if that asked for it.

        :raises PreconditionFailedError: it was changed meanwhile.
        """
        now = self._now()
        return await self._records.change(
            record,
            status=TaskStatus.QUEUED,
            first_attempt=record.attempts,
            # A new fence: the message of this requeue must not revive the task after its next end.
            fence=record.fence + 1,
            requeue_fence=record.fence + 1,
            parent_fence=record.parent_fence if parent_fence is None else parent_fence,
            given_up=0,
            cancel_requested=False,
            event_due=False,
            children=None if record.children is None else Children(0),
            result=None,
            progress=None,
            due_at=now,
            updated_at=now,
            history=noted(record, now, "requeued"),
        )

    async def _put_back(self, record: TaskRecord, now: datetime) -> TaskRecord:
        history = noted(record, now, "requeued")
        try:
            return await self._records.change(record, history=history, updated_at=now)
        except PreconditionFailedError:
            return replace(record, history=history)

    async def delete(
        self,
        task_id: str,
        check: Check | None,
        publish: Callable[[Sequence[TaskEvent]], Awaitable[None]],
    ) -> None:
        """See `TaskEngine.delete`.

        :param publish: sends events, and notes in the records that they are out.
        """
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
            await self._check_deletable(record)
            if check is not None:
                check(record)
            if record.event_due and (told is None or record.finished_at != told.finished_at):
                await publish([TaskEvent.of(record)])
                told = record
                continue  # It may have been requeued meanwhile.
            try:
                await self._records.remove(record, self._now())
            except PreconditionFailedError:
                tried = True
                await conflicts.pause()
            else:
                return

    async def _check_deletable(self, record: TaskRecord) -> None:
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
