"""Running tasks, and ending those that cannot run. No trigger code.

Delivery is at least once, so everything here may happen twice, in two places at once, or stop half-way;
the record decides. A worker that runs a task holds a lease on its record (lease.py): a time until which
nobody else may take over, renewed while the action runs, and a fencing token without which nothing can
be written. The tasks of a dead worker are taken over when their lease ends; a worker that comes back
late writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NotRequired, Protocol, TypedDict

from storage_lib.callers import acting_as
from storage_lib.errors import (
    BackendClosedError,
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.tasks import escapes
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.context import TaskCancelledError, TaskContext, TaskLog
from storage_lib.tasks.control import Check, Control
from storage_lib.tasks.escapes import EscapedError
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.failures import dead_record, deciding, error_of
from storage_lib.tasks.history import ended
from storage_lib.tasks.joins import Joins
from storage_lib.tasks.jsonvalues import json_of
from storage_lib.tasks.lease import (
    DeadlineExceededError,
    Lease,
    LeaseExpiredError,
    LeaseLostError,
    RefusedError,
)
from storage_lib.tasks.model import Children, TaskError, TaskMessage, TaskRecord, TaskStatus
from storage_lib.tasks.records import TaskRecords, TaskRemovedError
from storage_lib.tasks.registry import RegisteredAction, Registry
from storage_lib.tasks.retry import RetryPolicy, is_transient
from storage_lib.tasks.submission import (
    MAX_VISIBILITY_SECONDS,
    Submission,
    check_due,
    new_record,
    validated,
)
from storage_lib.tasks.watch import Place, watch

CONFIGURATION_WAIT_SECONDS = 60.0
MAX_DELIVERIES = 20
"""How often in a row a message that did not reach its action is put back from the poison queue."""

_log = logging.getLogger("AOS.Tasks")


class TaskExistsError(InvalidArgumentError):
    """A message uses the id of another task."""

    code = "task-id-taken"


class _WornOutError(Exception):
    """Earlier attempts ended without a report, and none is left."""


class Observer(Protocol):
    """Sees each run from its claim to its end."""

    async def around(
        self, lease: Lease, queue: str, run: Callable[[], Awaitable[list[TaskEvent]]]
    ) -> list[TaskEvent]:
        """Call ``run``, which handles the run's errors itself; afterwards the record of ``lease`` says how
        the run ended, if that could be recorded."""
        ...


type StorageOf = Callable[..., Awaitable[StorageManager]]
"""What a task may use, by its submitter (`TaskRecord.submitter`) and, if it was requeued under an access
policy, by whom (`TaskRecord.requeued_by`)."""


class PoisonDelivery(TypedDict):
    """How a message came out of a poison queue; `Worker.process_poison` says what each means."""

    message_id: str | None
    inserted_at: datetime
    dequeue_count: NotRequired[int]


class Worker:
    """Handles the messages of one storage's tasks.

    :param lease: how long a silent worker keeps its task.
    :param observers: see each run, the first of them the innermost.
    :param storage_of: the storage that an action gets, by the submitter of its task; None for the whole.
    """

    def __init__(
        self,
        storage: StorageManager,
        registry: Registry,
        records: TaskRecords,
        control: Control,
        submission: Submission,
        joins: Joins,
        now: Callable[[], datetime],
        lease: timedelta,
        *,
        observers: Sequence[Observer] = (),
        storage_of: StorageOf | None = None,
    ) -> None:
        self._storage = storage
        self._storage_of = storage_of
        self._registry = registry
        self._records = records
        self._control = control
        self._submission = submission
        self._now = now
        self._length = lease
        self._joins = joins
        self._queues = storage.backend.queues
        self._place = Place(storage.backend)
        self._observers = observers

    # -- deliveries

    async def process(self, text: str, *, queue: str, dequeue_count: int = 1) -> list[TaskEvent]:
        """Handle one delivery of a message from a task queue; when this returns, the message may be deleted.

        Returns the events to publish (`Outbox.publish`). A delivery that changes nothing (the task has ended,
        or another delivery is running) returns none, unless an event may not have been sent.

        :param text: the message as it is on the wire (`QueueMessage.text`).
        :param queue: the queue that it came from.
        :raises TransientStorageError: nothing was lost; deliver the message again.
        """
        try:
            message = TaskMessage.parse(text)
            # Meanwhile; a task that was delivered before may have ended, and need no look.
            ahead = self._joins.look_ahead(message) if dequeue_count == 1 else None
            claimed = await self._claim_new(message)
            record = await self._record_of(message) if claimed is None else claimed
        except TaskRemovedError as error:
            return _dropped(error)
        except StorageError as error:
            if isinstance(error, TransientStorageError | BackendClosedError):
                raise
            _log.warning("message goes to the poison queue: %s", error.explained())
            await self._queues.send_text(f"{queue}-poison", text)
            return []
        if claimed is None:
            record = await self._revived(record, message)
            if record.is_waiting or record.is_final:
                return await self._finished(record, again=dequeue_count > 1)
            claimed = await self._claim(record, text, queue)
        if claimed is None:
            return []
        lease = Lease(self._records, claimed, self._length, self._now)

        async def run() -> list[TaskEvent]:
            with watch.holding(lease, self._place), _acting_for(claimed):
                return await self._joins.around(claimed, lambda: self._run(lease, text, queue, ahead))

        observed: Callable[[], Awaitable[list[TaskEvent]]] = run
        for observer in self._observers:
            observed = partial(observer.around, lease, queue, observed)
        return await observed()

    async def _finished(self, record: TaskRecord, *, again: bool) -> list[TaskEvent]:
        """Finish a task that needs no run, as its worker may have died before it was done.

        :param again: the message was delivered before, so tasks that wait for this one may not know either.
        """
        if record.is_final:
            events = [TaskEvent.of(record)] if record.event_due else []
            return events + await self._joins.child_ended(record, again=again or record.event_due)
        if record.cancel_requested:  # while it ran, but it started to wait nevertheless
            return (await self.cancel(record.task_id))[1]
        # Its last child may have ended before it started to wait.
        return await self._joins.complete(record)

    async def _revived(self, record: TaskRecord, message: TaskMessage) -> TaskRecord:
        """The record, queued again if the message is a requeue."""
        if not record.is_final or record.status is TaskStatus.SUCCEEDED or message.requeue != record.fence:
            return record
        try:
            return await self._control.revive(record, message.parent_fence)
        except PreconditionFailedError:
            return await self._records.get(record.task_id)

    async def process_poison(
        self,
        text: str,
        *,
        queue: str,
        message_id: str | None,
        inserted_at: datetime,
        dequeue_count: int = 1,
    ) -> list[TaskEvent]:
        """Handle a message that the platform gave up; when this returns, the message may be deleted.

        A message that is not a task gets a dead record that holds the message and the reason (failures.py). A
        task that did not fail itself (the store was unavailable each time) is queued again; after
        `MAX_DELIVERIES` in a row without an attempt it ends dead.

        :param queue: the task queue (not the poison queue) that it came from.
        :param message_id: the id of the message in the poison queue, None if unknown.
        :param inserted_at: when it was put there.
        """
        try:
            message = TaskMessage.parse(text)
            record = await self._record_of(message)
        except TaskRemovedError as error:
            return _dropped(error)
        except StorageError as error:
            if isinstance(error, TransientStorageError | BackendClosedError):
                raise
            dead = dead_record(
                text,
                queue=queue,
                message_id=message_id,
                inserted_at=inserted_at,
                reason=error,
                now=self._now(),
            )
            return await self._record_dead(dead)
        record = await self._revived(record, message)
        if record.is_waiting or record.is_final:
            return await self._finished(record, again=dequeue_count > 1)
        claimed = await self._claim(record, text, f"{queue}-poison")
        if claimed is None:
            return []
        reason = TaskError(
            "delivery-exhausted", "the message could not be handled as often as it was delivered"
        )
        lease = Lease(self._records, claimed, self._length, self._now)
        return await self._undelivered(lease, text, queue, reason)

    async def _record_of(self, message: TaskMessage) -> TaskRecord:
        """The record of a message, created now if there is none.

        :raises TaskExistsError: the id is that of another task.
        :raises InvalidArgumentError: what the message says about its parent or its time is impossible.
        """
        if message.requeue is not None:
            await self._joins.check_parent(message)
        try:
            record = await self._records.get(message.task_id, contents=False)
        except TaskRemovedError:
            raise
        except KeyNotFoundError:
            now = self._now()
            check_due(message, now)
            await self._joins.check_parent(message)
            try:
                return await self._records.insert(new_record(message, now, message.payload))
            except PreconditionFailedError:
                record = await self._records.get(message.task_id, contents=False)
        _check_same(record, message)
        return record

    async def _claim_new(self, message: TaskMessage) -> TaskRecord | None:
        """Take the lease of a task that was submitted in this process, without reading its record. None if
        it was not, or has been changed since: then its record decides.

        :raises TaskExistsError: the id is that of another task.
        """
        record = self._records.recall(message.task_id)
        if record is None or message.requeue is not None:
            return None
        _check_same(record, message)
        try:
            return await self._take(record, self._now())
        except (PreconditionFailedError, KeyNotFoundError):
            return None

    async def _take(self, record: TaskRecord, now: datetime) -> TaskRecord:
        return await self._records.change(
            record,
            status=TaskStatus.RUNNING,
            attempts=record.attempts + 1,
            fence=record.fence + 1,
            lease_until=now + self._length,
            started_at=now,
            updated_at=now,
            history=ended(record, now, "lost", None)
            if record.status is TaskStatus.RUNNING
            else record.history,
        )

    async def _claim(self, record: TaskRecord, text: str, queue: str) -> TaskRecord | None:
        """Take the lease. If the task is not due, or another delivery holds it, the message is put back until
        then and None is returned; likewise None if the task has ended or only waits for its children."""
        while True:
            now = self._now()
            if record.is_final or record.is_waiting:
                return None
            due = record.due_at if record.status is TaskStatus.QUEUED else record.lease_until
            if due is not None and due > now:
                wait = min((due - now).total_seconds() + 0.5, MAX_VISIBILITY_SECONDS)
                await self._queues.send_text(queue, text, delay=wait)
                return None
            if record.status is TaskStatus.RUNNING and watch.holds(record):
                # It runs here, but could not renew: the loop was blocked or the machine stood still.
                await self._queues.send_text(queue, text, delay=self._length.total_seconds() / 3)
                return None
            try:
                return await self._take(record, now)
            except PreconditionFailedError:
                record = await self._records.get(record.task_id)

    # -- one run

    async def _run(
        self, lease: Lease, text: str, queue: str, ahead: asyncio.Task[TaskRecord] | None
    ) -> list[TaskEvent]:
        record = lease.record
        registered: RegisteredAction | None = None
        context: TaskContext | None = None
        try:
            if record.cancel_requested or await self._joins.parent_is_gone(record, ahead):
                raise TaskCancelledError
            registered = self._registry.get(record.action)
            if record.attempts - record.first_attempt > registered.retry.max_attempts:
                raise _WornOutError
            if record.payload_key is not None and record.payload is None:
                record = replace(record, payload=await self._records.load(record.payload_key))
                lease.record = replace(lease.record, payload=record.payload)
            payload = validated(registered, record.payload)[1]
            deadline = self._now() + timedelta(seconds=registered.timeout)
            log = TaskLog(record.action, record.task_id)
            storage = self._storage
            if self._storage_of is not None:
                whose = (record.submitter, record.requeued_by)
                storage = await self._storage_of(*(whose if record.requeued_by else whose[:1]))
            is_confined, submit = storage is not self._storage, self._submission.child
            context = TaskContext(storage, lease, log, deadline, submit, is_confined=is_confined)
            await lease.confirm()
            result = await lease.hold(_limited(registered, context, payload), registered.timeout)
            if context.unsubmitted is not None:
                raise context.unsubmitted
            escapes.call(lambda: json_of(result, "result"))
        except LeaseExpiredError:
            raise  # Nobody is known to have taken over: the message must come again.
        except LeaseLostError:
            _log.warning("task %s was taken over or ended; its result here is dropped", record.task_id)
            return await self._given_back(lease)
        except TaskCancelledError:
            return await self._end(lease, TaskStatus.CANCELLED)
        except _WornOutError:
            reason = TaskError("worker-lost", "the worker died each time it ran the task")
            return await self._end(lease, TaskStatus.DEAD, error=record.error or reason)
        except asyncio.CancelledError as cancelled:
            current = asyncio.current_task()
            if current is None or not current.cancelling():
                # The host is not stopping: the action awaited something that was cancelled.
                error = RuntimeError("the action was cancelled from within")
                error.__cause__ = cancelled
                return await self._failed(lease, registered, error, text, queue)
            await self._interrupted(lease, text, queue)
            raise
        except Exception as error:
            if self._storage.is_closed:
                # Whatever it says, it failed because the storage was taken away under it.
                await self._interrupted(lease, text, queue)
                raise BackendClosedError from error
            if context is None and is_transient(error):
                # It did not run, so this was not an attempt.
                return await self._undelivered(lease, text, queue, error_of(error))
            return await self._failed(lease, registered, error, text, queue, ran=context is not None)
        try:
            if context.children:
                return await self._wait_for_children(lease, context, result)
            return await self._end(lease, TaskStatus.SUCCEEDED, result=result, error=None)
        except RefusedError as unrecorded:  # A result that the store refuses.
            return await self._failed(lease, registered, unrecorded.reason, text, queue)

    async def _interrupted(self, lease: Lease, text: str, queue: str) -> None:
        """The host is stopping: give the task back, with its attempt, so that the next host need not wait for
        the lease. If that fails, the message comes again all the same."""
        error = TaskError("interrupted", "the host stopped while it ran")
        with contextlib.suppress(StorageError, LeaseLostError):
            await self._again(lease, text, queue, 0, error, "interrupted", counts=False, given_up=0)

    async def _failed(
        self,
        lease: Lease,
        registered: RegisteredAction | None,
        error: Exception,
        text: str,
        queue: str,
        *,
        ran: bool = True,
    ) -> list[TaskEvent]:
        """Record that the attempt failed.

        :param ran: whether the action itself failed; its retry policy applies to nothing else.
        """
        reason = error_of(error)
        if isinstance(error, ConfigurationError) and registered is None:
            # A task module cannot be loaded, which the operator must fix. The task waits, losing no attempt.
            wait = CONFIGURATION_WAIT_SECONDS
            return await self._again(lease, text, queue, wait, reason, "misconfigured", counts=False)
        policy = registered.retry if registered is not None and ran else RetryPolicy()
        attempts = lease.record.attempts - lease.record.first_attempt
        try:
            delay, lasting = policy.decide(attempts, error).delay, not policy.retries(error)
        except Exception:  # of a policy of the user's own
            _log.exception("task %s: its retry policy failed", lease.record.task_id)
            delay, lasting = None, True
        try:
            if delay is not None:
                return await self._again(lease, text, queue, delay, reason, "retry", given_up=0)
            status = TaskStatus.FAILED if lasting else TaskStatus.DEAD
            events = await self._end(lease, status, error=reason)
        except RefusedError as unrecorded:
            # What the store takes of it: how it failed counts more than all that it said.
            _log.error("task %s: the store refused its error: %s", lease.record.task_id, unrecorded.reason)
            short = TaskError(reason.code, "the store refused what the error says")
            return await self._end(lease, TaskStatus.FAILED, error=short, result=None, history=())
        if delay is None:
            if not lasting:
                # The record says everything; the message passes the poison queue for those who watch that.
                await self._queues.send_text(f"{queue}-poison", text)
            _log.warning("task %s failed: %s", lease.record.task_id, reason.message, exc_info=error)
        return events

    async def _undelivered(self, lease: Lease, text: str, queue: str, reason: TaskError) -> list[TaskEvent]:
        """Put a task back that did not reach its action; if that happened too often, it is dead."""
        given_up = lease.record.given_up
        if given_up >= MAX_DELIVERIES:
            error, attempts = lease.record.error or reason, lease.record.attempts - 1
            return await self._end(lease, TaskStatus.DEAD, error=error, attempts=attempts)
        delay = RetryPolicy(base_seconds=5).decide(min(given_up, 3) + 1, TransientStorageError("")).delay or 0
        return await self._again(
            lease, text, queue, delay, reason, "undeliverable", counts=False, given_up=given_up + 1
        )

    async def _again(
        self,
        lease: Lease,
        text: str,
        queue: str,
        delay: float,
        error: TaskError,
        outcome: str,
        *,
        counts: bool = True,
        **changes: Any,
    ) -> list[TaskEvent]:
        """Put the task back, to run in ``delay`` seconds.

        :param counts: whether this was an attempt; if not, the attempt is given back.
        """
        now = self._now()
        due = now + timedelta(seconds=delay)

        def put_back(record: TaskRecord) -> dict[str, Any]:
            attempts = record.attempts - (not counts)
            if record.cancel_requested:  # while it ran: then it is not tried again
                return {
                    **_ending(record, now, TaskStatus.CANCELLED, error),
                    "error": error,
                    "attempts": attempts,
                }
            return {
                "status": TaskStatus.QUEUED,
                "due_at": due,
                "lease_until": now,
                "error": error,
                "attempts": attempts,
                "history": ended(replace(record, attempts=attempts), now, outcome, error, due),
                **changes,
            }

        try:
            record = await lease.conclude(put_back)
        except LeaseLostError:
            return []
        if record.is_final:
            return [TaskEvent.of(record), *await self._joins.child_ended(record)]
        # After the record: if this fails, the current message is delivered again.
        await self._queues.send_text(queue, text, delay=min(delay, MAX_VISIBILITY_SECONDS))
        return []

    async def _end(self, lease: Lease, status: TaskStatus, **changes: Any) -> list[TaskEvent]:
        now = self._now()
        error: TaskError | None = changes.get("error")
        try:
            record = await lease.conclude(lambda record: {**_ending(record, now, status, error), **changes})
        except LeaseLostError:
            _log.warning("task %s was taken over; its end here is dropped", lease.record.task_id)
            return []
        return [TaskEvent.of(record), *await self._joins.child_ended(record)]

    async def _given_back(self, lease: Lease) -> list[TaskEvent]:
        """Return an attempt that was lost because the machine stood still to the run that took over."""
        conflicts = Conflicts()
        while lease.was_held_up:
            try:
                found = await self._records.get(lease.record.task_id, contents=False)
                if found.is_final or found.is_waiting or found.attempts <= found.first_attempt + 1:
                    break
                now = self._now()
                history = lease.with_notes(found).history
                await self._records.change(
                    found, attempts=found.attempts - 1, history=history, updated_at=now
                )
                break
            except PreconditionFailedError:
                await conflicts.pause()
            except KeyNotFoundError:
                break
        return []

    async def _wait_for_children(self, lease: Lease, context: TaskContext, result: Any) -> list[TaskEvent]:
        def changes(record: TaskRecord) -> dict[str, Any]:
            children = (record.children or Children(0)).of(context.children)
            for index, succeeded in context.ended_children.items():
                children = children.with_end(index, succeeded)
            return {"children": children, "result": result, "error": None}

        try:
            record = await lease.conclude(changes)
        except LeaseLostError:
            return []
        if record.cancel_requested:
            return (await self.cancel(record.task_id))[1]
        return await self._joins.complete(record)

    async def cancel(self, task_id: str, check: Check | None = None) -> tuple[TaskRecord, list[TaskEvent]]:
        """End a task that has not started, or ask it to stop; see `Control.cancel`. Returns its record
        and the events of what has ended: the task, and tasks that waited for it."""
        record, ended = await self._control.cancel(task_id, check)
        if record.status is not TaskStatus.CANCELLED:
            return record, []
        # Also if it was cancelled before: that worker may have died before others knew.
        events = [TaskEvent.of(record)] if ended or record.event_due else []
        return record, events + await self._joins.child_ended(record, again=not ended)

    async def _record_dead(self, record: TaskRecord) -> list[TaskEvent]:
        try:
            return [TaskEvent.of(await self._records.insert(record))]
        except PreconditionFailedError:
            # It was recorded before, but that worker may have died before the event was sent.
            try:
                found = await self._records.get(record.task_id, contents=False)
            except TaskRemovedError:
                return []
            return [TaskEvent.of(found)] if found.event_due else []


def _dropped(error: TaskRemovedError) -> list[TaskEvent]:
    _log.info("a message is dropped: %s", error)
    return []


def _check_same(record: TaskRecord, message: TaskMessage) -> None:
    """:raises TaskExistsError: the record is that of another task than the message's."""
    same = (record.agent_id, record.action) == (message.agent_id, message.action)
    if message.parent_id is not None:
        # A task known only from another program's message has no parent in it.
        parent = (message.parent_id, message.child_index)
        same = same and (record.parent_id, record.child_index) == parent
    if same and message.payload_key is None and record.payload_key is None:
        same = record.payload == message.payload
    if not same:
        raise TaskExistsError(
            f"task_id {message.task_id!r} is that of another task, of agent {record.agent_id!r} with the"
            f" action {record.action!r}",
            field="task_id",
            remedy="give every task an id of its own",
        )


def _ending(record: TaskRecord, now: datetime, status: TaskStatus, error: TaskError | None) -> dict[str, Any]:
    """The fields that every end of a run writes."""
    return {
        "status": status,
        "finished_at": now,
        "event_due": True,
        "history": ended(record, now, str(status), error),
    }


def _acting_for(record: TaskRecord) -> contextlib.AbstractContextManager[None]:
    """The agent is the caller of what its task does."""
    task = f"task:{record.task_id}"
    correlation = task if record.correlation_id is None else f"{record.correlation_id} {task}"
    return acting_as(f"agent:{record.agent_id}", correlation)


async def _limited(registered: RegisteredAction, context: TaskContext, payload: Any) -> Any:
    async def run() -> Any:
        return await registered.run(context, payload)

    limit = asyncio.timeout(registered.timeout)
    try:
        async with limit:
            return await escapes.contained(asyncio.get_running_loop(), run())
    except ExceptionGroup as group:  # of an asyncio.TaskGroup
        raise deciding(group, registered.retry) from group
    except EscapedError as error:
        if not isinstance(error.original, BaseExceptionGroup):
            raise
        raise deciding(error.original, registered.retry) from error.original
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceededError(
            f"the action {registered.name!r} took longer than {registered.timeout:g} s", field="timeout"
        ) from error
