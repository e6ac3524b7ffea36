"""`TaskEngine`: everything that triggers and other code do with the tasks of a storage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Unpack

from storage_lib.arguments import seconds, whole
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, StorageError
from storage_lib.manager import StorageManager
from storage_lib.ports.queues import MAX_TTL_SECONDS
from storage_lib.tasks.control import Check, Control
from storage_lib.tasks.drain import Drain
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.joins import Joins
from storage_lib.tasks.model import Priority, TaskRecord
from storage_lib.tasks.outbox import Outbox
from storage_lib.tasks.queues import POISON, TaskQueues
from storage_lib.tasks.records import INLINE_BYTES, RecordPage, TaskFilters, TaskRecords
from storage_lib.tasks.registry import Registry
from storage_lib.tasks.repair import Repair
from storage_lib.tasks.submission import KEY_WINDOW_SECONDS, NewTask, Submission
from storage_lib.tasks.waiting import Waiting
from storage_lib.tasks.worker import PoisonDelivery, StorageOf, Worker

if TYPE_CHECKING:
    from storage_lib.tasks.bulk import BulkResult, Pages
    from storage_lib.tasks.counts import CountBy, TaskCounts

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
    :param queues: over how many queues the tasks of each priority are spread, 1 to 16. Whoever delivers
        messages takes them from all.
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
        queues: int = 1,
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
        self.queues = TaskQueues(queues)
        backend, store = storage.backend, storage.backend.queues

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
        self.control = Control(self.records, store, self.queues, now)
        self.submission = Submission(
            backend, self.records, self.registry, self.control, self.queues, now, window, spans
        )
        told = None if measures is None else measures.ended
        self.outbox = Outbox(self.records, store, told, sends=events, ttl=event_seconds)
        self.waiting = Waiting(self.records, max_waiters)
        joins = Joins(self.records, now, lease)
        self.repair = Repair(self.records, store, self.queues, self.outbox, now, lease, joins)
        self._drain = Drain(store, self.queues, now)
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

    async def get(self, task_id: str, *, contents: bool = True) -> TaskRecord:
        """Return the record of a task, with its payload and result.

        :param contents: also those that are objects of their own, because they are large.
        :raises KeyNotFoundError: there is no such task.
        """
        return await self.records.get(task_id, contents=contents)

    async def wait_for(self, task_id: str, seconds: float) -> TaskRecord:
        """Return the record of a task once it has ended, or as it is after that many seconds, or now if
        ``max_waiters`` wait already. It is read more and more seldom, in the end every 3 seconds.

        :raises KeyNotFoundError: there is no such task.
        """
        return await self.waiting.until(task_id, seconds, lambda record: record.is_final)

    async def wait_until(
        self, task_id: str, seconds: float, holds: Callable[[TaskRecord], bool]
    ) -> TaskRecord:
        """Like `wait_for`, until something holds for the record, which it is asked without large contents."""
        return await self.waiting.until(task_id, seconds, holds)

    async def list(
        self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> RecordPage:
        """Return a page of records, newest first, without large payloads and results. `TaskRecords.list`
        has the filters."""
        return await self.records.list(limit=limit, cursor=cursor, **filters)

    async def count(
        self, *, by: CountBy | None = None, limit: int = 1000, **filters: Unpack[TaskFilters]
    ) -> TaskCounts:
        """Return how many tasks there are of each status, up to ``limit`` of each. `TaskRecords.count` has
        the details."""
        return await self.records.count(by=by, limit=limit, **filters)

    async def cancel(self, task_id: str, *, check: Check | None = None) -> TaskRecord:
        """End a task that has not started, or ask a running one to stop.

        :param check: called with the record that is about to be changed; what it raises, this raises, and
            nothing is changed.
        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has ended in another way.
        """
        record, events = await self.worker.cancel(task_id, check)
        try:
            await self._published(events)
        except StorageError as error:  # It is cancelled nevertheless, and its record says what is due.
            _log.warning("the events of the cancelled task %s will be published later: %s", task_id, error)
        return record

    async def requeue(self, task_id: str, *, check: Check | None = None, by: str | None = None) -> TaskRecord:
        """Run a task that did not succeed again; its history is kept.

        :param check: as for `cancel`.
        :param by: under an access policy, the principals of whoever asks for it, separated by spaces: the run
            has the rights that they and the task's submitter have.
        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it succeeded, or has not ended.
        """
        return await self.control.requeue(task_id, check=check, by=by)

    async def cancel_matching(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        dry_run: bool = False,
        pages: Pages | None = None,
        **filters: Unpack[TaskFilters],
    ) -> BulkResult:
        """Cancel the tasks that filters find, newest first, at most ``limit`` (1,000) of them. With the
        result's cursor the next call goes on.

        :param dry_run: change nothing, and tell what would be.
        :param pages: reads the pages; by default `list`.
        :raises InvalidArgumentError: there is no filter, or it is not valid.
        """
        from storage_lib.tasks.bulk import CANCEL, change_matching

        pages = pages or self._pages
        return await change_matching(
            CANCEL, self.cancel, pages, filters, limit=limit, cursor=cursor, dry_run=dry_run
        )

    async def requeue_matching(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        dry_run: bool = False,
        pages: Pages | None = None,
        by: str | None = None,
        check: Check | None = None,
        **filters: Unpack[TaskFilters],
    ) -> BulkResult:
        """Run the tasks that filters find again: those that failed or are dead, and cancelled ones if
        ``status`` names them. ``by`` and ``check`` are as for `requeue`, the rest as for
        `cancel_matching`."""
        from storage_lib.tasks.bulk import REQUEUE, change_matching

        async def requeue(task_id: str, *, check: Check, more: Check | None = check) -> TaskRecord:
            def both(record: TaskRecord) -> None:
                check(record)
                if more is not None:
                    more(record)

            return await self.requeue(task_id, check=both, by=by)

        pages = pages or self._pages
        return await change_matching(
            REQUEUE, requeue, pages, filters, limit=limit, cursor=cursor, dry_run=dry_run
        )

    async def _pages(self, filters: dict[str, Any], limit: int, cursor: str | None) -> RecordPage:
        return await self.list(limit=limit, cursor=cursor, **filters)

    async def delete(self, task_id: str, *, check: Check | None = None) -> None:
        """Remove the record of a task that has ended, with its payload and its result. What the task did
        stays, and so do the records of its children.

        :param check: as for `cancel`.
        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has not ended, has children that have not, or its parent's record is there.
        """
        await self.control.delete(task_id, check, self._published)

    async def actions(self) -> list[dict[str, Any]]:
        """What can be submitted: each with its name, description, payload's JSON Schema, time limit and
        retries, by name."""
        return [each.shown() for each in self.registry.every()]

    # -- for queue triggers

    async def deliver(self, text: str, *, queue: str, dequeue_count: int = 1) -> None:
        """Handle one delivery of a message from a task queue and publish the events of what ended; when this
        returns, the message may be deleted. See `Worker.process` for the parameters.

        :raises TransientStorageError: nothing was lost; deliver the message again.
        """
        await self._published(await self.worker.process(text, queue=queue, dequeue_count=dequeue_count))

    async def deliver_poison(self, text: str, *, queue: str, **delivery: Unpack[PoisonDelivery]) -> None:
        """Handle a message that the platform gave up, and publish the events of what ended; when this
        returns, the message may be deleted. See `Worker.process_poison` for the parameters."""
        if self._measures is not None:
            self._measures.poisoned(queue)
        await self._published(await self.worker.process_poison(text, queue=queue, **delivery))

    async def _published(self, events: Sequence[TaskEvent]) -> None:
        self.waiting.wake(event.task_id for event in events)
        await self.outbox.publish(events)

    async def sift(self, priority: Priority) -> int:
        """Handle the messages of a priority's poison queues without their functions, until they are empty or
        `SIFT_SECONDS` are over, and return how many there were. Each is handled as the function would handle
        it, and then removed.

        :raises StorageError: nothing was lost; a message that was received is visible again within a minute.
        """
        until, handled = time.monotonic() + SIFT_SECONDS, 0
        for queue in self.queues.named(priority):
            some = await self._sift(queue, until)
            if some:
                _log.warning("%d messages of %s that no function took were recorded", some, queue + POISON)
            handled += some
        return handled

    async def _sift(self, queue: str, until: float) -> int:
        queues, poison, handled = self.storage.backend.queues, queue + POISON, 0
        while time.monotonic() < until and await self.queue_length(poison):
            for message in await queues.receive(poison, visibility_timeout=_SIFT_LEASE_SECONDS):
                await self.deliver_poison(
                    message.text,
                    queue=queue,
                    message_id=message.id,
                    inserted_at=message.inserted_at,
                    dequeue_count=message.dequeue_count,
                )
                with contextlib.suppress(KeyNotFoundError):
                    await queues.delete(poison, message)
                handled += 1
            await asyncio.sleep(SIFT_PAUSE)
        return handled

    async def queue_lengths(self) -> dict[str, int]:
        """The approximate number of messages in each task queue and its poison queue, and in those that are
        no longer in use and were not empty when `drain` looked last."""
        queues = (*self.queues.every, *self._drain.left)
        counts = await asyncio.gather(*map(self.queue_length, queues))
        return dict(zip(queues, counts, strict=True))

    async def queue_length(self, queue: str) -> int:
        """The approximate number of messages in a task queue; 0 before its first message."""
        try:
            return await self.storage.backend.queues.length(queue)
        except KeyNotFoundError:
            return 0

    # -- for timers

    async def drain(self, seconds: float) -> tuple[int, int]:
        """Move the messages of task queues that are no longer in use to those that are. See `Drain.run`."""
        return await self._drain.run(seconds)

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
        there were; 0 means that there are none any more. See legacy_records.py."""
        until, carried = time.monotonic() + seconds, 0
        for step in (self.records.older.step, self.records.searchable.step):
            while some := await step():
                carried += some
                if time.monotonic() >= until:
                    return carried
        return carried

    async def take_over(self, *, older: bool = False) -> int:
        """Send the messages of tasks whose host is gone again. See `Repair.take_over`."""
        return await self.repair.take_over(older=older)
