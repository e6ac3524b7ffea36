"""Tasks whose message is lost, or hidden for a long time, get a new one.

A queue may have been cleared, or an account may have failed over. And the Functions host hides messages
that it has taken for ten minutes: if it is killed, nobody sees them for five to ten minutes. Such a
message cannot be distinguished from one that waits in a long queue, so it is sent again. This does no
harm, because the record decides what a delivery does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.ports.backend import QueueStore
from storage_lib.ports.queues import MAX_RECEIVE
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import noted
from storage_lib.tasks.joins import Joins
from storage_lib.tasks.layout import Facts, id_of
from storage_lib.tasks.model import Priority, TaskMessage, TaskRecord, TaskStatus
from storage_lib.tasks.outbox import Outbox
from storage_lib.tasks.queues import TaskQueues
from storage_lib.tasks.records import TaskRecords

OVERDUE = timedelta(hours=1)
"""A message is hidden at most until its task is due or its lease has ended. A task without news for this long
after that waits in a long queue, or in vain."""
LONGEST_PAUSE = timedelta(days=1)
MAX_REPAIRS = 1000
"""Messages in one run, so that a long queue does not become much longer."""
REDELIVERED = "redelivered"
RECENT = timedelta(days=1)
"""Tasks up to this age are checked by every round of `Repair.take_over`, older ones by the timer."""

_log = logging.getLogger("AOS.Tasks")


@dataclass(frozen=True, slots=True)
class _Front:
    """The tasks whose messages are next in a queue. Every message that became visible before ``until``
    is among them or hidden; None means that this holds for every message. ``mixed`` says whether messages
    are among them that would be sent to other queues now, as before their number was changed."""

    waiting: set[str]
    until: datetime | None
    mixed: bool

    def lacks(self, task: Facts) -> bool:
        """Whether the message of a task that has not started cannot be received from this queue now."""
        if id_of(task.key) in self.waiting:
            return False
        if self.until is None or task.updated_at is None:
            return True
        return max(task.updated_at, task.due_at or task.updated_at) < self.until


class Repair:
    """Sends the messages of overdue tasks, and of tasks whose worker is gone, again.

    :param lease: how long a silent worker keeps its task.
    """

    def __init__(
        self,
        records: TaskRecords,
        queues: QueueStore,
        used: TaskQueues,
        outbox: Outbox,
        now: Callable[[], datetime],
        lease: timedelta,
        joins: Joins,
    ) -> None:
        self._joins = joins
        self._waiting: dict[str, datetime] = {}
        """Of tasks that wait for children: when to look at them again."""
        self._records = records
        self._queues = queues
        self._used = used
        self._outbox = outbox
        self._now = now
        self._lease = lease

    async def run(self, limit: int = MAX_REPAIRS) -> int:
        """Send the messages of up to ``limit`` tasks that are overdue by more than an hour again, and
        return how many. Events that have been due for longer than that are published, too, and count
        towards the limit.

        A task gets one after an hour at the earliest, and then at intervals that double, up to a day, so that
        with many waiting tasks the next run reaches others. Its history has a note ``redelivered``.

        :raises StorageError: the first error with one of them; the others were handled.
        """
        overdue = self._records.overdue(self._now() - OVERDUE)
        return await self._send(overdue, OVERDUE, limit, publish=True)

    async def take_over(self, *, older: bool = False, limit: int = MAX_REPAIRS) -> int:
        """Send the messages of up to ``limit`` tasks whose host is gone again, and return how many.

        These are tasks whose lease has ended; tasks that were due longer than half a lease ago and have
        not started, if later messages are first in their queue (a host took theirs and died before it
        started); and tasks that ended as long ago, but whose event has not been sent. A task gets one after
        a lease at the earliest, and then at intervals that double. Tasks whose children have all ended
        without anybody noticing end now.

        :param older: check tasks of all ages, not only those of today and yesterday.
        :raises StorageError: the first error with one of them; the others were handled.
        """
        now = self._now()
        found = self._records.abandoned(
            now, now - self._lease / 2, created_after=None if older else now - RECENT
        )
        return await self._send(self._unseen(found), self._lease, limit)

    async def _unseen(self, found: AsyncIterator[Facts]) -> AsyncIterator[TaskRecord]:
        """The records of those that do not simply wait their turn in a long queue."""
        fronts: dict[Priority, dict[str, _Front]] = {}
        async for task in found:
            if task.status == TaskStatus.RUNNING and task.children:
                await self._joined(task)
                continue
            if task.status != TaskStatus.RUNNING:
                priority = Priority(task.priority or Priority.NORMAL)
                if priority not in fronts:
                    fronts[priority] = await self._fronts(priority)
                own = self._used.of(id_of(task.key), priority)
                if not all(
                    front.lacks(task)
                    for queue, front in fronts[priority].items()
                    if queue == own or front.mixed
                ):
                    continue
            record = await self._records.read_open(task)
            if record is not None:
                yield record

    async def _joined(self, task: Facts) -> None:
        """End it if its last child has ended and the worker died before it could look. The longer nothing
        has happened to it, the more rarely it is looked at."""
        now = self._now()
        if self._waiting.get(task.key, now) > now:
            return
        parent = await self._records.read_open(task)
        if parent is None:
            return
        if len(self._waiting) > MAX_REPAIRS:
            self._waiting.clear()
        self._waiting[task.key] = now + max(self._lease / 2, (now - parent.updated_at) / 4)
        try:
            await self._outbox.publish(await self._joins.complete(parent))
        except StorageError as error:  # The others must not wait for this one.
            _log.warning("task %s could not be repaired: %s", parent.task_id, error)

    async def _fronts(self, priority: Priority) -> dict[str, _Front]:
        queues = self._used.named(priority)
        found = await asyncio.gather(*(self._front(queue, priority) for queue in queues))
        return dict(zip(queues, found, strict=True))

    async def _front(self, queue: str, priority: Priority) -> _Front:
        try:
            messages = await self._queues.peek(queue, max_messages=MAX_RECEIVE)
        except KeyNotFoundError:
            messages = []
        waiting = set[str]()
        for message in messages:
            with contextlib.suppress(StorageError):  # It is not a task.
                waiting.add(TaskMessage.parse(message.text).task_id)
        mixed = any(self._used.of(task_id, priority) != queue for task_id in waiting)
        if len(messages) < MAX_RECEIVE:
            return _Front(waiting, None, mixed)
        # Clocks differ, and the order is not promised.
        return _Front(waiting, max(each.inserted_at for each in messages) - self._lease / 4, mixed)

    async def _send(
        self, records: AsyncIterator[TaskRecord], pause: timedelta, limit: int, *, publish: bool = False
    ) -> int:
        """:param publish: publish the events of those that have ended here; otherwise their messages are
        sent, with which their parents are told too."""
        sent = published = 0
        failed: StorageError | None = None
        async for record in records:
            if sent + published == limit:
                break
            try:
                if record.is_final and publish:
                    await self._outbox.publish([TaskEvent.of(record)])
                    published += 1
                else:
                    sent += await self._sent_again(record, pause)
            except StorageError as error:  # The others must not wait for this one.
                _log.warning("task %s could not be repaired: %s", record.task_id, error)
                failed = failed or error
        if published:
            _log.warning("%d events that nobody had published are out", published)
        if failed is not None:
            raise failed
        return sent

    async def _sent_again(self, record: TaskRecord, pause: timedelta) -> bool:
        now = self._now()
        if record.updated_at + _pause_of(record, pause) > now:
            return False
        changes: dict[str, Any] = {"updated_at": now}
        if not record.is_final:
            changes["history"] = noted(record, now, REDELIVERED)
        if record.is_waiting:
            changes |= await self._recounted(record)
        try:
            # The record first: of two repairs one sends. A crash in between costs a pause, not the task.
            await self._records.change(record, **changes)
        except (PreconditionFailedError, KeyNotFoundError):
            return False  # Somebody works on it, or it has ended.
        await self._queues.send(
            self._used.of(record.task_id, record.priority), TaskMessage.of(record).to_bytes()
        )
        return True

    async def _recounted(self, parent: TaskRecord) -> dict[str, Any]:
        """Count children that ended without a report because their workers and messages were lost. If one was
        lost before it had a record, the parent must run again, which submits it again."""
        children, found = await self._records.children_of(parent)
        if found.bit_count() == children.total:
            return {"children": children}
        # The parent is not to blame for the lost child: it keeps the attempt.
        attempts = parent.attempts - 1
        return {"status": TaskStatus.QUEUED, "children": children.of_unknown_total(), "attempts": attempts}


def _pause_of(record: TaskRecord, pause: timedelta) -> timedelta:
    """How long after its last change it gets its next message: twice as long each time."""
    if record.is_final:
        # Its history ends with its end, which tells how long ago the first was.
        since = record.updated_at - (record.finished_at or record.updated_at)
        return min(max(pause, since), LONGEST_PAUSE) if since else timedelta(0)
    times = sum(1 for _ in takewhile(lambda past: past.outcome == REDELIVERED, reversed(record.history)))
    # Beyond that many doublings the result is not a valid time.
    return min(pause * 2 ** min(times, 32), LONGEST_PAUSE) if times else timedelta(0)
