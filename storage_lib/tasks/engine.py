"""Submitting tasks, running them, and ending those that can not run. No trigger code.

Delivery is at least once, so everything here may happen twice, in two places at once, or stop half-way;
the record decides. Whoever runs a task holds a lease on its record: a time until which nobody else may
take over, renewed while the action runs, and a fencing token (the record's ETag) without which no result
can be written. A worker that died is taken over when its lease ends; one that comes back late writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from storage_lib import values
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.model import (
    POISON_QUEUE,
    TASK_QUEUE,
    TaskError,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    check_agent_id,
    check_correlation_id,
    new_task_id,
)
from storage_lib.tasks.records import INLINE_BYTES, TaskRecords
from storage_lib.tasks.registry import RegisteredAction, Registry

LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 5
"""How often a task may begin to run; host.json's ``maxDequeueCount`` says the same of a message."""
MAX_DELAY_SECONDS = 7 * 24 * 3600

_log = logging.getLogger("AOS.Tasks")


class RetryTaskError(TransientStorageError):
    """Raised by an action to be run again later, as a transient storage error is."""

    code = "retry-task"


class TaskExistsError(InvalidArgumentError):
    """A message uses the id of another task."""

    code = "task-id-taken"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """What is published when a task has ended."""

    task_id: str
    agent_id: str
    action: str
    status: TaskStatus
    finished_at: datetime
    correlation_id: str | None
    error: TaskError | None

    def to_json(self) -> str:
        return msgspec.json.encode({"type": f"task.{self.status}", **_plain(self)}).decode()


class TaskEngine:
    """Runs the tasks of one storage.

    :param lease_seconds: how long a worker that went silent keeps its task.
    :param clock: seconds since the epoch; tests inject their own.
    """

    def __init__(
        self,
        storage: StorageManager,
        registry: Registry | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.storage = storage
        self.registry = registry or Registry()
        self.records = TaskRecords(storage.backend)
        self._queues = storage.backend.queues
        self._lease = timedelta(seconds=lease_seconds)
        self._clock = clock

    # -- submitting

    async def submit(
        self,
        action: str,
        agent_id: str,
        payload: Any = None,
        *,
        correlation_id: str | None = None,
        delay_seconds: float = 0,
    ) -> TaskRecord:
        """Record a task and queue it; when this returns it will run.

        :param payload: any JSON value; checked against the action's payload type before it is taken.
        :param delay_seconds: it does not run before so many seconds have passed, at most 7 days.
        :raises UnknownActionError: there is no such action.
        :raises InvalidArgumentError: an argument or the payload can not be right; ``field`` names it.
        """
        registered = self.registry.get(action)
        if not 0 <= delay_seconds <= MAX_DELAY_SECONDS:
            raise InvalidArgumentError(
                f"delay_seconds {delay_seconds} is out of range",
                field="delay_seconds",
                limit=f"0 to {MAX_DELAY_SECONDS} seconds (7 days)",
            )
        data = _validated(registered, payload)[0]
        now = self._now()
        task_id = new_task_id(now.timestamp())
        message = TaskMessage(
            task_id,
            check_agent_id(agent_id),
            action,
            payload=payload if len(data) <= INLINE_BYTES else None,
            payload_key=None
            if len(data) <= INLINE_BYTES
            else await self.records.store(task_id, "payload", data),
            correlation_id=check_correlation_id(correlation_id),
        )
        # The message first, and whole: it is all that a task needs to run. A record first could be left
        # behind without a message by a crash in between, and would wait for ever.
        await self._queues.send(TASK_QUEUE, message.to_bytes(), delay=delay_seconds)
        record = _new_record(message, now, payload)
        try:
            return await self.records.insert(record)
        except PreconditionFailedError:
            return await self.records.get(task_id)  # It is being processed already.
        except TransientStorageError as error:
            # The task is accepted all the same; its record is made when it is delivered.
            _log.warning("the record of task %s could not be written yet: %s", task_id, error)
            return record

    # -- processing

    async def process(self, text: str, *, dequeue_count: int = 1) -> TaskEvent | None:
        """Handle one delivery of a message of the task queue; when this returns it may be deleted.

        :param text: the message as it is on the wire (`QueueMessage.text`).

        Returns the event to publish. A delivery that changes nothing (the task has ended, or another
        delivery of it is running) has none; only where an earlier delivery of this very message may have
        died before its event was out, the event is given again.

        :raises TransientStorageError: nothing was lost; deliver the message again.
        """
        try:
            message = TaskMessage.parse(text)
            record = await self._record_of(message)
        except (InvalidArgumentError, SerializationError) as error:
            _log.warning("message goes to the poison queue: %s", error)
            await self._queues.send_text(POISON_QUEUE, text)
            return None
        if record.is_final:
            return _event(record) if dequeue_count > 1 else None
        if record.attempts >= MAX_ATTEMPTS and not self._is_leased(record):
            # Its workers died, or it had to wait for a store, each time: it must not go on for ever.
            await self._queues.send_text(POISON_QUEUE, text)
            return None
        claimed = await self._claim(record, text, TASK_QUEUE)
        if claimed is None:
            return None
        return await self._run(claimed)

    async def process_poison(self, text: str, *, message_id: str) -> TaskEvent | None:
        """Make a dead record of a message that could not be handled; when this returns it may be deleted.

        A message of a task ends that task; any other gets a record of its own, ``poison-`` and the id of
        the message, which holds the message and the reason.
        """
        try:
            message = TaskMessage.parse(text)
            record = await self._record_of(message)
        except (InvalidArgumentError, SerializationError) as error:
            return await self._bury_message(text, message_id, error)
        if record.is_final:
            return None
        claimed = await self._claim(record, text, POISON_QUEUE)
        if claimed is None:
            return None
        error = record.error or TaskError(
            "delivery-exhausted", f"the task was delivered too often; it began {record.attempts} times"
        )
        return _event(await self._finish(claimed, TaskStatus.DEAD, error=error, attempts=record.attempts))

    async def _record_of(self, message: TaskMessage) -> TaskRecord:
        """The record of a message, made now where there is none.

        :raises TaskExistsError: the id is that of another task.
        """
        try:
            record = await self.records.get(message.task_id)
        except KeyNotFoundError:
            payload = message.payload
            if message.payload_key is not None:
                payload = await self.records.load(message.payload_key)
            try:
                return await self.records.insert(_new_record(message, self._now(), payload))
            except PreconditionFailedError:
                record = await self.records.get(message.task_id)
        same = (record.agent_id, record.action) == (message.agent_id, message.action)
        if message.payload_key is not None:
            same = same and record.payload_key == message.payload_key
        else:
            same = same and record.payload == message.payload
        if not same:
            raise TaskExistsError(
                f"task_id {message.task_id!r} is that of another task, of agent {record.agent_id!r} with the"
                f" action {record.action!r}",
                field="task_id",
                remedy="give every task an id of its own",
            )
        return record

    async def _claim(self, record: TaskRecord, text: str, queue: str) -> TaskRecord | None:
        """Take the lease. Where another delivery holds it, look again when it has ended."""
        while True:
            now = self._now()
            if record.is_final:
                return None
            if self._is_leased(record) and record.lease_until is not None:
                wait = max((record.lease_until - now).total_seconds(), 0) + 1
                await self._queues.send_text(queue, text, delay=wait)
                return None
            try:
                return await self.records.change(
                    record,
                    status=TaskStatus.RUNNING,
                    attempts=record.attempts + 1,
                    fence=record.fence + 1,
                    lease_until=now + self._lease,
                    started_at=record.started_at or now,
                    updated_at=now,
                )
            except PreconditionFailedError:
                record = await self.records.get(record.task_id)

    async def _run(self, record: TaskRecord) -> TaskEvent | None:
        lease = _Lease(self.records, record, self._lease, self._now)
        try:
            registered = self.registry.get(record.action)
            payload = _validated(registered, record.payload)[1]
            context = TaskContext(self.storage, record, logging.getLogger(f"AOS.Tasks.{record.action}"))
            result = await lease.hold(registered.run(context, payload))
            try:
                msgspec.json.encode(result)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise SerializationError(f"the result can not be stored as JSON: {error}") from error
        except _LeaseLostError:
            _log.warning(
                "task %s was taken over by another worker; its result here is dropped", record.task_id
            )
            return None
        except TransientStorageError as error:
            await self._release(lease.record, TaskError(error.code, str(error)))
            raise
        except asyncio.CancelledError:
            # The host is stopping: give the task back, so that the next host need not wait for the lease.
            await self._release(lease.record, TaskError("interrupted", "the host stopped while it ran"))
            raise
        except Exception as error:
            _log.warning("task %s failed", record.task_id, exc_info=error)
            return await self._end(lease.record, TaskStatus.FAILED, error=_error_of(error))
        return await self._end(lease.record, TaskStatus.SUCCEEDED, result=result, error=None)

    async def _end(self, record: TaskRecord, status: TaskStatus, **changes: Any) -> TaskEvent | None:
        try:
            return _event(await self._finish(record, status, **changes))
        except PreconditionFailedError:
            _log.warning("task %s was taken over by another worker; its end here is dropped", record.task_id)
            return None

    async def _finish(self, record: TaskRecord, status: TaskStatus, **changes: Any) -> TaskRecord:
        now = self._now()
        return await self.records.change(record, status=status, finished_at=now, updated_at=now, **changes)

    async def _release(self, record: TaskRecord, error: TaskError) -> None:
        # Best effort: without it the task is taken over when the lease ends.
        with contextlib.suppress(StorageError):
            now = self._now()
            await self.records.change(
                record, status=TaskStatus.QUEUED, lease_until=now, updated_at=now, error=error
            )

    async def _bury_message(self, text: str, message_id: str, reason: StorageError) -> TaskEvent | None:
        now = self._now()
        record = TaskRecord(
            task_id=f"poison-{message_id}",
            agent_id="unknown",
            action="unknown",
            status=TaskStatus.DEAD,
            created_at=now,
            updated_at=now,
            finished_at=now,
            error=TaskError(reason.code, str(reason)),
            raw_message=text,
        )
        try:
            return _event(await self.records.insert(record))
        except PreconditionFailedError:
            return None  # This delivery was handled before.

    def _is_leased(self, record: TaskRecord) -> bool:
        until = record.lease_until
        return record.status is TaskStatus.RUNNING and until is not None and until > self._now()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


class _LeaseLostError(Exception):
    """Somebody else changed the record of a running task."""


class _Lease:
    """Keeps a claimed record claimed while its action runs."""

    def __init__(
        self, records: TaskRecords, record: TaskRecord, length: timedelta, now: Callable[[], datetime]
    ) -> None:
        self.record = record
        self._records = records
        self._length = length
        self._now = now

    async def hold(self, running: Any) -> Any:
        """Await ``running``, renewing the lease at a third of its length.

        :raises _LeaseLostError: the lease was lost; ``running`` was cancelled.
        """
        action = asyncio.ensure_future(running)
        try:
            while True:
                done, _ = await asyncio.wait({action}, timeout=self._length.total_seconds() / 3)
                if done:
                    return action.result()
                await self._renew()
        finally:
            if not action.done():
                action.cancel()
                await asyncio.gather(action, return_exceptions=True)

    async def _renew(self) -> None:
        now = self._now()
        try:
            self.record = await self._records.change(
                self.record, lease_until=now + self._length, updated_at=now
            )
        except (PreconditionFailedError, KeyNotFoundError) as error:
            raise _LeaseLostError from error
        except TransientStorageError as error:
            if self.record.lease_until is None or now >= self.record.lease_until:
                raise _LeaseLostError from error
            _log.warning("the lease of task %s could not be renewed yet: %s", self.record.task_id, error)


def _new_record(message: TaskMessage, now: datetime, payload: Any) -> TaskRecord:
    return TaskRecord(
        task_id=message.task_id,
        agent_id=message.agent_id,
        action=message.action,
        status=TaskStatus.QUEUED,
        created_at=now,
        updated_at=now,
        payload=payload,
        payload_key=message.payload_key,
        correlation_id=message.correlation_id,
    )


def _validated(registered: RegisteredAction, payload: Any) -> tuple[bytes, Any]:
    """The payload as JSON and as the action's type.

    :raises InvalidArgumentError: names the field that does not fit.
    """
    try:
        data = msgspec.json.encode(payload)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"the payload is not JSON: {error}", field="payload") from error
    if registered.payload is None:
        return data, payload
    try:
        return data, values.decode_as(data if payload is not None else b"{}", values.JSON, registered.payload)
    except SerializationError as error:
        raise InvalidArgumentError(
            f"the payload does not fit the action {registered.name!r}: {error}",
            field="payload" if not error.field else f"payload.{error.field}",
        ) from error


def _error_of(error: Exception) -> TaskError:
    code = error.code if isinstance(error, StorageError) else type(error).__name__
    return TaskError(code, str(error) or type(error).__name__)


def _event(record: TaskRecord) -> TaskEvent:
    return TaskEvent(
        task_id=record.task_id,
        agent_id=record.agent_id,
        action=record.action,
        status=record.status,
        finished_at=record.finished_at or record.updated_at,
        correlation_id=record.correlation_id,
        error=record.error,
    )


def _plain(event: TaskEvent) -> dict[str, Any]:
    return msgspec.to_builtins(event)
