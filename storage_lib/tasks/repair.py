"""Tasks whose message was lost, by a queue that was cleared or an account that failed over, get it again.

Nothing tells a lost message from one that waits in a long queue; so the message of every task that is long
overdue is sent again, which does no harm, for the record decides what a delivery does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import batched, takewhile
from typing import Any

from storage_lib.backends.base import QueueStore
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import noted
from storage_lib.tasks.model import Children, TaskMessage, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.outbox import Outbox
from storage_lib.tasks.records import TaskRecords

OVERDUE = timedelta(hours=1)
"""A message is hidden no longer than until its task is due or its lease has ended; whoever has not been heard
of so long after that waits in a long queue, or for nothing."""
LONGEST_PAUSE = timedelta(days=1)
MAX_REPAIRS = 1000
"""In one run, so that a long queue is not made much longer."""
REDELIVERED = "redelivered"

_log = logging.getLogger("AOS.Tasks")


class Repair:
    """Sends the messages of overdue tasks again."""

    def __init__(
        self, records: TaskRecords, queues: QueueStore, outbox: Outbox, now: Callable[[], datetime]
    ) -> None:
        self._records = records
        self._queues = queues
        self._outbox = outbox
        self._now = now

    async def run(self, limit: int = MAX_REPAIRS) -> int:
        """Send the messages of up to ``limit`` tasks again; returns how many. Events that have been due for
        longer than `OVERDUE` are published on the way, and count for the limit.

        :raises StorageError: the first that stood in the way of one of them; the others were seen to.

        A task gets one at most an hour, and each time after twice that, up to a day, so that where many wait
        the next run comes to others. Its history has a note ``redelivered``.
        """
        sent = published = 0
        failed: StorageError | None = None
        async for record in self._records.overdue(self._now() - OVERDUE):
            if sent + published == limit:
                break
            try:
                if record.is_final:
                    await self._outbox.publish([TaskEvent.of(record)])
                    published += 1
                else:
                    sent += await self._sent_again(record)
            except StorageError as error:  # The others must not wait for this one.
                _log.warning("task %s could not be repaired: %s", record.task_id, error)
                failed = failed or error
        if published:
            _log.warning("%d events that nobody had published are out", published)
        if failed is not None:
            raise failed
        return sent

    async def _sent_again(self, record: TaskRecord) -> bool:
        now = self._now()
        times = sum(1 for _ in takewhile(lambda past: past.outcome == REDELIVERED, reversed(record.history)))
        if record.updated_at + min(OVERDUE * 2**times, LONGEST_PAUSE) > now:
            return False
        changes: dict[str, Any] = {"updated_at": now, "history": noted(record, now, REDELIVERED)}
        if record.is_waiting and record.children is not None:
            changes |= await self._recounted(record, record.children)
        try:
            # The record first: of two repairs one sends. A crash in between costs a pause, not the task.
            await self._records.change(record, **changes)
        except (PreconditionFailedError, KeyNotFoundError):
            return False  # Somebody works on it, or it has ended.
        await self._queues.send(record.priority.queue, TaskMessage.of(record).to_bytes())
        return True

    async def _recounted(self, parent: TaskRecord, children: Children) -> dict[str, Any]:
        """Count the children that ended without telling, their workers and messages having been lost. Where
        one was lost before it had a record, the parent has to run again, which submits it again."""
        complete = True
        uncounted = [index for index in range(children.total) if not children.done >> index & 1]
        for some in batched(uncounted, 32, strict=False):
            ids = [child_task_id(parent.task_id, parent.created_at, index) for index in some]
            for index, child in zip(some, await asyncio.gather(*map(self._found, ids)), strict=True):
                complete = complete and child is not None
                if child is not None and child.is_final:
                    children = children.with_end(index, child.status is TaskStatus.SUCCEEDED)
        if complete:
            return {"children": children}
        # That the child was lost is no fault of the parent's: it keeps the attempt.
        attempts = parent.attempts - 1
        return {"status": TaskStatus.QUEUED, "children": children.of_unknown_total(), "attempts": attempts}

    async def _found(self, task_id: str) -> TaskRecord | None:
        try:
            return await self._records.get(task_id, contents=False)
        except KeyNotFoundError:
            return None
