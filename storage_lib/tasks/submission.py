"""Submitting tasks: one, many, once per idempotency key, and as children of another."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Unpack

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
from storage_lib.ports.backend import Entity, StorageBackend
from storage_lib.tasks import escapes
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.context import ChildOptions
from storage_lib.tasks.control import Control, TaskStateError
from storage_lib.tasks.jsonvalues import json_of
from storage_lib.tasks.model import (
    CARRIED,
    KEY_TABLE,
    MAX_CHILDREN,
    Priority,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    check_agent_id,
    check_correlation_id,
    check_idempotency_key,
    check_submitter,
    check_trace_parent,
    child_task_id,
    child_trace_parent,
    new_task_id,
)
from storage_lib.tasks.payload_types import is_struct, refuse_unknown_fields, struct_of
from storage_lib.tasks.queues import TaskQueues
from storage_lib.tasks.records import TaskRecords, TaskRemovedError
from storage_lib.tasks.registry import RegisteredAction, Registry
from storage_lib.tasks.removal import delete_unchanged

if TYPE_CHECKING:
    from storage_lib.tasks.spans import TaskSpans

MAX_DELAY_SECONDS = 366 * 24 * 3600.0
MAX_VISIBILITY_SECONDS = 7 * 24 * 3600.0
"""The longest delay of a message; a task that is due later is put back when its message arrives."""
FIRST_DELIVERY_SECONDS = 30.0
"""The longest initial delay of a message. If the record could not be written after the message was sent,
the first delivery writes it and puts the message back, so that a task with a long delay can be seen and
cancelled. This costs such a task one more delivery."""
KEY_WINDOW_SECONDS = 24 * 3600.0
MAX_BATCH = 1000

_log = logging.getLogger("AOS.Tasks")


_LONG_AGO = datetime.min.replace(tzinfo=UTC)
IN_USE_SECONDS = 10.0
"""For how long the first request with a key may be at work; after that it was stopped."""


class IdempotencyConflictError(StorageError):
    """The idempotency key was used for a task with another payload, agent or action."""

    code = "idempotency-conflict"


class RequestKeyReusedError(IdempotencyConflictError):
    """The key of a request was used for a request that asked for something else."""

    code = "idempotency-key-reused"


class RequestKeyInUseError(IdempotencyConflictError):
    """A request with the same key is being answered."""

    code = "idempotency-key-in-use"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to submit. See `Submission.submit` for the fields."""

    action: str
    agent_id: str
    payload: Any = None
    correlation_id: str | None = None
    idempotency_key: str | None = None
    delay_seconds: float = 0
    priority: Priority = Priority.NORMAL
    trace_parent: str | None = None
    submitter: str | None = None
    requeued_by: str | None = None
    """Whose rights it has; see `TaskRecord`."""
    key_of_request: bool = False
    """Whether the idempotency key is that of the whole request, whatever its action is: with another action,
    delay, priority or correlation id it is another request, and so refused."""


class Submission:
    """Accepts tasks for the storage behind ``backend``."""

    def __init__(
        self,
        backend: StorageBackend,
        records: TaskRecords,
        registry: Registry,
        control: Control,
        queues: TaskQueues,
        now: Callable[[], datetime],
        key_window_seconds: float,
        spans: TaskSpans | None = None,
    ) -> None:
        self._backend = backend
        self._records = records
        self._registry = registry
        self._control = control
        self._queues = queues
        self._now = now
        self._window = timedelta(seconds=key_window_seconds)
        self._spans = spans

    async def submit(self, task: NewTask) -> TaskRecord:
        """Queue a task; when this returns, it will run.

        ``payload`` is any JSON value, checked against the action's payload type. With an
        ``idempotency_key``, the first task with this key, action and submitter within the window is
        returned instead of a second one. The task does not run before ``delay_seconds`` have passed (at most
        a year).

        :raises UnknownActionError: there is no such action.
        :raises InvalidArgumentError: a field or the payload is invalid; ``field`` names it.
        :raises IdempotencyConflictError: the key belongs to a different task.
        :raises RequestKeyInUseError: a request with the same key (`NewTask.key_of_request`) began just now.
        """
        data = self.check(task)
        now = self._now()
        new_id = task_id = new_task_id(now.timestamp())
        while task.idempotency_key is not None:
            first, begun = await self._first_with_key(task, new_id, now)
            if first == new_id:
                break
            try:
                return await self._records.get(first)
            except TaskRemovedError:
                await self._free(task, first)
            except KeyNotFoundError:
                if task.key_of_request and abs(now - begun) < timedelta(seconds=IN_USE_SECONDS):
                    raise RequestKeyInUseError(
                        f"a request with the key {task.idempotency_key!r} is being answered",
                        field="Idempotency-Key",
                        remedy="send it again in a second",
                    ) from None
                # The first caller is still at work, or was stopped: a second message of the same task
                # does no harm, but none at all would.
                task_id = first
                break
        try:
            return await self._send(task, data, task_id, now)
        except StorageError:
            await self._give_up(task, task_id)
            raise

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[TaskRecord | StorageError]:
        """Submit tasks, 16 at a time, and return the record or the error of each. All are checked before the
        first is accepted.

        :raises InvalidArgumentError: one of them is invalid, and none was accepted; ``field`` begins with
            ``tasks[n].``.
        """
        if not 1 <= len(tasks) <= MAX_BATCH:
            raise InvalidArgumentError(
                f"{len(tasks)} tasks at once", field="tasks", limit=f"1 to {MAX_BATCH} tasks"
            )
        for n, task in enumerate(tasks):
            try:
                self.check(task)
            except StorageError as error:
                error.field = f"tasks[{n}].{error.field}" if error.field else f"tasks[{n}]"
                raise
        limit = asyncio.Semaphore(16)

        async def one(task: NewTask) -> TaskRecord | StorageError:
            async with limit:
                try:
                    return await self.submit(task)
                except StorageError as error:
                    return error

        return await asyncio.gather(*map(one, tasks))

    def child(
        self, parent: TaskRecord, index: int, action: str, payload: Any, **options: Unpack[ChildOptions]
    ) -> Awaitable[TaskRecord]:
        """Submit child number ``index`` of the run that holds ``parent``; submitting it again gives the same
        task. After each requeue of the parent, a child that did not succeed is run again once.

        :raises InvalidArgumentError: a field is invalid; nothing is to be awaited then.
        """
        if index >= MAX_CHILDREN:
            raise InvalidArgumentError(
                f"child number {index}", field="children", limit=f"{MAX_CHILDREN} children"
            )
        task = NewTask(
            action=action,
            agent_id=parent.agent_id,
            payload=payload,
            correlation_id=parent.correlation_id,
            delay_seconds=options["delay_seconds"],
            priority=options["priority"] or parent.priority,
            trace_parent=child_trace_parent(parent.trace_parent),
            submitter=parent.submitter,
            requeued_by=parent.requeued_by,
        )
        return self._child(parent, index, task, self.check(task))

    async def _child(self, parent: TaskRecord, index: int, task: NewTask, data: bytes) -> TaskRecord:
        task_id = child_task_id(parent.task_id, parent.created_at, index)
        conflicts = Conflicts()
        while True:
            try:
                found = None if parent.fence == 1 else await self._records.get(task_id)
            except KeyNotFoundError:
                found = None
            if found is None:  # as in every first run
                # Its message of a run before may make the record first.
                found = await self._send(task, data, task_id, self._now(), parent, index)
            if not found.is_of_before(parent) or found.status is TaskStatus.SUCCEEDED:
                return found
            try:
                if found.is_final:
                    return await self._control.requeue(
                        task_id, parent_fence=parent.fence, by=parent.requeued_by
                    )
                # Another caller has queued it again: that run now belongs to this parent.
                return await self._records.change(found, parent_fence=parent.fence)
            except (PreconditionFailedError, TaskStateError, KeyNotFoundError):
                await conflicts.pause()

    def check(self, task: NewTask) -> bytes:
        """The payload as JSON.

        :raises InvalidArgumentError: a field is invalid.
        """
        registered = self._registry.get(task.action)
        check_agent_id(task.agent_id)
        check_correlation_id(task.correlation_id)
        check_idempotency_key(task.idempotency_key)
        check_submitter(task.submitter)
        if not 0 <= task.delay_seconds <= MAX_DELAY_SECONDS:
            raise InvalidArgumentError(
                f"delay_seconds {task.delay_seconds} is out of range",
                field="delay_seconds",
                limit=f"0 to {MAX_DELAY_SECONDS:.0f} seconds (a year)",
            )
        data, _ = validated(registered, task.payload)
        refuse_unknown_fields(registered.payload, task.payload, data)
        return data

    async def _send(
        self,
        task: NewTask,
        data: bytes,
        task_id: str,
        now: datetime,
        parent: TaskRecord | None = None,
        child_index: int | None = None,
    ) -> TaskRecord:
        if self._spans is None:
            return await self._sent(task, data, task_id, now, parent, child_index)
        queue = self._queues.of(task_id, task.priority)
        with self._spans.created(task.action, task.trace_parent, task_id, queue) as trace_parent:
            traced = replace(task, trace_parent=trace_parent)
            return await self._sent(traced, data, task_id, now, parent, child_index)

    async def _sent(
        self,
        task: NewTask,
        data: bytes,
        task_id: str,
        now: datetime,
        parent: TaskRecord | None,
        child_index: int | None,
    ) -> TaskRecord:
        inline = self._records.is_inline(data)
        message = TaskMessage(
            task_id=task_id,
            agent_id=task.agent_id,
            action=task.action,
            payload=task.payload if inline else None,
            payload_key=None if inline else await self._records.store(task_id, "payload", data),
            correlation_id=task.correlation_id,
            trace_parent=check_trace_parent(task.trace_parent) or child_trace_parent(None),
            priority=task.priority,
            due_at=now + timedelta(seconds=task.delay_seconds) if task.delay_seconds else None,
            idempotency_key=task.idempotency_key,
            parent_id=None if parent is None else parent.task_id,
            child_index=child_index,
            parent_fence=None if parent is None else parent.fence,
            submitter=task.submitter,
            requeued_by=task.requeued_by,
        )
        # The message first, and whole: it is all that a task needs to run. A record first could be left
        # behind without a message by a crash in between, and would wait for ever.
        await self._backend.queues.send(
            self._queues.of(task_id, task.priority),
            message.to_bytes(),
            delay=min(task.delay_seconds, FIRST_DELIVERY_SECONDS),
        )
        record = new_record(message, now, task.payload)
        try:
            inserted = await self._records.insert(record)
        except PreconditionFailedError:
            return await self._records.get(task_id)  # It is being processed already.
        except TransientStorageError as error:
            # The task is accepted nevertheless; its record is created when it is delivered.
            _log.warning("the record of task %s could not be written yet: %s", task_id, error)
            return record
        if inline and message.due_at is None:
            self._records.remember(inserted, data)
        return inserted

    async def _first_with_key(self, task: NewTask, task_id: str, now: datetime) -> tuple[str, datetime]:
        """The id of the first task with this key, which is ``task_id`` if this is the first, and when that
        was submitted."""
        first, begun = task_id, now
        for row, digest in _entries(task):
            first, begun = await self._first_of(task, row, digest, first, now)
        return first, begun

    async def _first_of(
        self, task: NewTask, row: str, digest: str, task_id: str, now: datetime
    ) -> tuple[str, datetime]:
        tables = self._backend.tables
        entry = {"task_id": task_id, "digest": digest, "expires_at": now + self._window}
        while True:
            try:
                await tables.insert(KEY_TABLE, row[:2], row, entry)
                return task_id, now
            except PreconditionFailedError:
                pass
            try:
                found = await tables.get(KEY_TABLE, row[:2], row)
                if found.properties["expires_at"] > now:
                    break
                await tables.update(KEY_TABLE, row[:2], row, entry, etag=found.etag)
                return task_id, now
            except (KeyNotFoundError, PreconditionFailedError):
                continue  # Another submitter or the sweep was faster.
        first: str = found.properties["task_id"]
        if found.properties["digest"] != digest:
            if await self._is_removed(first):
                await delete_unchanged(tables, KEY_TABLE, [found])
                return await self._first_of(task, row, digest, task_id, now)
            if task.key_of_request:
                raise RequestKeyReusedError(
                    f"the key {task.idempotency_key!r} was used for another request, which submitted the task"
                    f" {first}",
                    field="Idempotency-Key",
                    remedy="use a new key for each request that asks for something else",
                )
            raise IdempotencyConflictError(
                f"idempotency_key {task.idempotency_key!r} was used for another task of the action"
                f" {task.action!r}: {first}",
                field="idempotency_key",
                remedy="use a new key for a different agent or payload",
            )
        if found.properties.get("given_up"):
            return first, _LONG_AGO
        return first, found.properties["expires_at"] - self._window

    async def _give_up(self, task: NewTask, task_id: str) -> None:
        """Nobody is at work on a request whose answer is an error: it may come again at once. Its message may
        be out nevertheless, so it is for the same task."""
        if not task.key_of_request:
            return
        tables = self._backend.tables
        with contextlib.suppress(StorageError):  # Then it may come again after a while.
            for row, _ in _entries(task):
                found = await tables.get(KEY_TABLE, row[:2], row, default=None)
                if found is not None and found.properties["task_id"] == task_id:
                    await tables.update(KEY_TABLE, row[:2], row, {"given_up": True}, etag=found.etag)

    async def _is_removed(self, task_id: str) -> bool:
        try:
            await self._records.get(task_id, contents=False)
        except TaskRemovedError:
            return True
        except KeyNotFoundError:
            pass  # Its record is still to be written.
        return False

    async def _free(self, task: NewTask, removed_id: str) -> None:
        """Let the key of a task whose record was deleted stand for a new one."""
        tables = self._backend.tables
        for row, _ in _entries(task):
            found = await tables.get(KEY_TABLE, row[:2], row, default=None)
            if found is not None and found.properties["task_id"] == removed_id:
                await delete_unchanged(tables, KEY_TABLE, [found])

    async def expire_keys(self, limit: int) -> int:
        """Remove up to ``limit`` idempotency keys whose window is over, and return how many were removed."""
        tables, used = self._backend.tables, list[Entity]()
        with contextlib.suppress(KeyNotFoundError):  # No key was ever used: there is no table.
            condition, parameters = "expires_at le @now", {"now": self._now()}
            async for entity in tables.iterate(KEY_TABLE, condition, parameters=parameters, select=[]):
                if len(used) == limit:
                    break
                used.append(entity)
        # One that has just been used again stays.
        return len(await delete_unchanged(tables, KEY_TABLE, used))


def _entries(task: NewTask) -> list[tuple[str, str]]:
    """The rows that stand for the key of a task, with a digest of what it must not be used for twice. The one
    of its request is the first, and is to that what the other is to the action."""
    whose = _whose(task)
    same = msgspec.json.encode(task.payload, order="deterministic")
    of_action = (
        _digest(f"{task.action}\0{task.idempotency_key}{whose}".encode()),
        _digest(task.agent_id.encode() + b"\0" + same),
    )
    if not task.key_of_request:
        return [of_action]
    asked = [task.action, task.agent_id, task.correlation_id, task.delay_seconds, str(task.priority)]
    # No action has this name.
    row = _digest(f"\0{task.idempotency_key}{whose}".encode())
    return [(row, _digest(msgspec.json.encode(asked) + same)), of_action]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _whose(task: NewTask) -> str:
    """Under an access policy each submitter has its own keys: one learns and blocks nothing of another's."""
    return "" if task.submitter is None else f"\0{task.submitter.partition(' ')[0]}"


def check_due(message: TaskMessage, now: datetime) -> None:
    """Check the time of a new task.

    :raises InvalidArgumentError: it is due later than any task may be.
    """
    if message.due_at is not None and (message.due_at - now).total_seconds() > MAX_DELAY_SECONDS:
        raise InvalidArgumentError(
            f"due_at {message.due_at.isoformat()} is too late",
            field="due_at",
            limit=f"{MAX_DELAY_SECONDS:.0f} seconds ahead (a year)",
        )


def new_record(message: TaskMessage, now: datetime, payload: Any) -> TaskRecord:
    """The first record of a message's task."""
    return TaskRecord(
        **{name: getattr(message, name) for name in CARRIED},
        status=TaskStatus.QUEUED,
        created_at=now,
        updated_at=now,
        payload=payload,
        parent_fence=message.parent_fence or 0,
        due_at=message.due_at,
    )


def payload_json(payload: Any) -> bytes:
    """The payload as JSON.

    :raises InvalidArgumentError: JSON cannot hold it.
    """
    try:
        return json_of(payload, "payload")
    except SerializationError as error:
        raise InvalidArgumentError(
            error.message, field=error.field, limit=error.limit, remedy=error.remedy
        ) from error


def validated(registered: RegisteredAction, payload: Any) -> tuple[bytes, Any]:
    """The payload as JSON, and as an instance of the action's type.

    :raises InvalidArgumentError: it does not fit; ``field`` names the place.
    """
    kind = registered.payload
    data = payload_json(payload)
    # Nothing is the same as no fields, where there are fields.
    given = data if payload is not None or kind is None else b"{}"
    if registered.schema is not None:
        registered.schema.check(given)
    if kind is None:
        return data, payload
    try:
        if is_struct(kind):
            return data, escapes.call(lambda: struct_of(given, kind))
        return data, escapes.call(lambda: values.decode_as(given, values.JSON, kind))
    except escapes.EscapedError as error:
        raised = type(error.original).__name__
        raise InvalidArgumentError(
            f"the payload's type of the action {registered.name!r} raised {raised}", field="payload"
        ) from error
    except SerializationError as error:
        raise InvalidArgumentError(
            f"the payload does not fit the action {registered.name!r}: {error}",
            field="payload" if not error.field else f"payload.{error.field}",
        ) from error
