"""`TaskEngine`: everything that triggers and other code do with the tasks of a storage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from storage_lib.arguments import seconds, whole
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, StorageError
from storage_lib.manager import StorageManager
from storage_lib.ports.queues import MAX_TTL_SECONDS
from storage_lib.tasks.control import Control
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.joins import Joins
from storage_lib.tasks.model import Priority, TaskRecord
from storage_lib.tasks.outbox import Outbox
from storage_lib.tasks.records import INLINE_BYTES, RecordPage, TaskFilters, TaskRecords
from storage_lib.tasks.registry import Registry
from storage_lib.tasks.repair import Repair
from storage_lib.tasks.submission import KEY_WINDOW_SECONDS, NewTask, Submission
from storage_lib.tasks.waiting import Waiting
from storage_lib.tasks.worker import StorageOf, Worker

LEASE_SECONDS = 60.0
_LEASE_BOUNDS = (0.01, 24 * 3600.0)
_WINDOW_BOUNDS = (0.0, 366 * 24 * 3600.0)
_EVENT_BOUNDS = (1.0, MAX_TTL_SECONDS)
SIFT_SECONDS = 660.0
"""Longer than the host hides a message that its function could not take."""
SIFT_PAUSE = 0.25
"""Shorter than the host's own pause between polls, so that messages are usually received here first."""
_SIFT_LEASE_SECONDS = 60.0

_log = logging.getLogger("AOS.Tasks")


class TaskEngine:
    """Submits, runs, shows and maintains the tasks of one storage.

    :param storage: where tasks, queues and objects are.
    :param registry: the known actions; None knows none.
    :param lease_seconds: how long a silent worker keeps its task, at most a day.
    :param key_window_seconds: how long an idempotency key stands for its first task, at most a year.
    :param payloads_as_objects: keep payloads and results as objects, which the encryption layer encrypts, and
        not in records and messages. What was submitted otherwise is understood too.
    :param events: publish the end of each task to the queue of events.
    :param event_seconds: how long an event stays in its queue, at least a second; None means until somebody
        takes it.
    :param remembered: how many records of new tasks are kept in memory, with up to 16 KiB of payload each: a
        task that runs in the process that submitted it is not read before.
    :param max_waiters: how many `wait_for` may wait at the same time; others return at once.
    :param storage_of: the storage that an action gets, by the `TaskRecord.submitter` of its task, which is
        None for a task that other programs have put into the queue; without it, each gets the whole.
    :param clock: seconds since the epoch; tests inject their own.
    :raises InvalidArgumentError: one of them is out of range.
    """

    def __init__(
        self,
        storage: StorageManager,
        registry: Registry | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        key_window_seconds: float = KEY_WINDOW_SECONDS,
        payloads_as_objects: bool = False,
        events: bool = True,
        event_seconds: float | None = None,
        remembered: int = 0,
        max_waiters: float = math.inf,
        storage_of: StorageOf | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        lease = timedelta(seconds=seconds("lease_seconds", lease_seconds, *_LEASE_BOUNDS))
        window = seconds("key_window_seconds", key_window_seconds, *_WINDOW_BOUNDS)
        if event_seconds is not None:
            seconds("event_seconds", event_seconds, *_EVENT_BOUNDS)
        whole("remembered", remembered, 0)
        if not max_waiters >= 0:
            raise InvalidArgumentError(
                f"max_waiters {max_waiters} is out of range", field="max_waiters", limit="0 or more"
            )
        backend, queues = storage.backend, storage.backend.queues

        def now() -> datetime:
            return datetime.fromtimestamp(clock(), UTC)

        self.registry = registry or Registry()
        spans = None
        if backend.traced:
            from storage_lib.tasks.spans import TaskSpans

            spans = TaskSpans()
        measures = None
        if backend.metrics is not None:
            from storage_lib.tasks.measures import TaskMeasures

            measures = TaskMeasures(backend.metrics, self.registry.knows)
        self._measures = measures
        self.storage = storage
        inline = 0 if payloads_as_objects else INLINE_BYTES
        self.records = TaskRecords(backend, inline, events=events, remembered=remembered)
        self.control = Control(self.records, queues, now)
        self.submission = Submission(backend, self.records, self.registry, self.control, now, window, spans)
        told = None if measures is None else measures.ended
        self.outbox = Outbox(self.records, queues, told, sends=events, ttl=event_seconds)
        self.waiting = Waiting(self.records, max_waiters)
        joins = Joins(self.records, now, lease)
        self.repair = Repair(self.records, queues, self.outbox, now, lease, joins)
        self.worker = Worker(
            storage,
            self.registry,
            self.records,
            self.control,
            self.submission,
            joins,
            now,
            lease,
            observers=[each for each in (measures, spans) if each is not None],
            storage_of=storage_of,
        )

    # -- for clients

    async def submit(self, action: str, agent_id: str, payload: Any = None, **options: Any) -> TaskRecord:
        """Queue a task; when this returns, it will run.

        :param action: the name of a registered action.
        :param agent_id: the agent that the task belongs to.
        :param payload: any JSON value that fits the action's payload type.
        :param options: the other fields of `NewTask`.
        :raises UnknownActionError: there is no such action.
        :raises InvalidArgumentError: a field or the payload is invalid; ``field`` names it.
        :raises IdempotencyConflictError: the idempotency key belongs to a different task.
        """
        return await self.submit_new(NewTask(action=action, agent_id=agent_id, payload=payload, **options))

    async def submit_new(self, task: NewTask) -> TaskRecord:
        """Like `submit`, for a `NewTask`."""
        return await self.submission.submit(task)

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[TaskRecord | StorageError]:
        """Queue tasks, and return the record or the error of each. All are checked before the first is
        accepted.

        :raises InvalidArgumentError: one of them is invalid, and none was accepted.
        """
        return await self.submission.submit_many(tasks)

    async def get(self, task_id: str) -> TaskRecord:
        """Return the record of a task, with its payload and result.

        :raises KeyNotFoundError: there is no such task.
        """
        return await self.records.get(task_id)

    async def wait_for(self, task_id: str, seconds: float) -> TaskRecord:
        """Return the record of a task once it has ended, or as it is after that many seconds, or now if
        ``max_waiters`` wait already. It is read more and more seldom, in the end every 3 seconds.

        :raises KeyNotFoundError: there is no such task.
        """
        return await self.waiting.for_end(task_id, seconds)

    async def list(
        self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> RecordPage:
        """Return a page of records, newest first, without large payloads and results. `TaskRecords.list`
        has the filters."""
        return await self.records.list(limit=limit, cursor=cursor, **filters)

    async def cancel(self, task_id: str) -> TaskRecord:
        """End a task that has not started, or ask a running one to stop.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has ended in another way.
        """
        record, events = await self.worker.cancel(task_id)
        try:
            await self._published(events)
        except StorageError as error:  # It is cancelled nevertheless, and its record says what is due.
            _log.warning("the events of the cancelled task %s will be published later: %s", task_id, error)
        return record

    async def requeue(self, task_id: str) -> TaskRecord:
        """Run a task that did not succeed again; its history is kept.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it succeeded, or has not ended.
        """
        return await self.control.requeue(task_id)

    # -- for queue triggers

    async def deliver(self, text: str, *, queue: str, dequeue_count: int = 1) -> None:
        """Handle one delivery of a message from a task queue and publish the events of what ended; when this
        returns, the message may be deleted. See `Worker.process` for the parameters.

        :raises TransientStorageError: nothing was lost; deliver the message again.
        """
        await self._published(await self.worker.process(text, queue=queue, dequeue_count=dequeue_count))

    async def deliver_poison(
        self,
        text: str,
        *,
        queue: str,
        message_id: str | None,
        inserted_at: datetime,
        dequeue_count: int = 1,
    ) -> None:
        """Handle a message that the platform gave up, and publish the events of what ended; when this
        returns, the message may be deleted. See `Worker.process_poison` for the parameters."""
        if self._measures is not None:
            self._measures.poisoned(queue)
        ended = await self.worker.process_poison(
            text, queue=queue, message_id=message_id, inserted_at=inserted_at, dequeue_count=dequeue_count
        )
        await self._published(ended)

    async def _published(self, events: Sequence[TaskEvent]) -> None:
        self.waiting.wake(event.task_id for event in events)
        await self.outbox.publish(events)

    async def sift(self, priority: Priority) -> int:
        """Handle the messages of a poison queue without its function, until it is empty or `SIFT_SECONDS`
        are over, and return how many there were. Each is handled as the function would handle it, and then
        removed.

        :raises StorageError: nothing was lost; a message that was received is visible again within a minute.
        """
        queues, handled = self.storage.backend.queues, 0
        until = time.monotonic() + SIFT_SECONDS
        while time.monotonic() < until and await self.queue_length(priority.poison_queue):
            for message in await queues.receive(
                priority.poison_queue, visibility_timeout=_SIFT_LEASE_SECONDS
            ):
                await self.deliver_poison(
                    message.text,
                    queue=priority.queue,
                    message_id=message.id,
                    inserted_at=message.inserted_at,
                    dequeue_count=message.dequeue_count,
                )
                with contextlib.suppress(KeyNotFoundError):
                    await queues.delete(priority.poison_queue, message)
                handled += 1
            await asyncio.sleep(SIFT_PAUSE)
        if handled:
            _log.warning(
                "%d messages of %s that no function took were recorded", handled, priority.poison_queue
            )
        return handled

    async def queue_length(self, queue: str) -> int:
        """The approximate number of messages in a task queue; 0 before its first message."""
        try:
            return await self.storage.backend.queues.length(queue)
        except KeyNotFoundError:
            return 0

    # -- for timers

    async def expire(self, before: datetime, limit: int) -> tuple[int, int]:
        """Remove up to ``limit`` records of tasks that ended before that moment, and as many idempotency keys
        whose window is over, and return how many of each."""
        return await self.records.expire(before, limit), await self.submission.expire_keys(limit)

    async def redeliver(self) -> int:
        """Send the messages of long overdue tasks again, as the queue may have lost them. See
        `Repair.run`."""
        return await self.repair.run()

    async def carry_over(self, seconds: float) -> int:
        """Carry over records that the version before wrote, for about so many seconds, and return how many
        there were; 0 means that there are none any more. See older.py."""
        until, carried = time.monotonic() + seconds, 0
        while some := await self.records.older.step():
            carried += some
            if time.monotonic() >= until:
                break
        return carried

    async def take_over(self, *, older: bool = False) -> int:
        """Send the messages of tasks whose host is gone again. See `Repair.take_over`."""
        return await self.repair.take_over(older=older)
