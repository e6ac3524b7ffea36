"""What a record says about a failure: of a run, of several errors at once, and of a message that is no task.

Reporting a failure must not fail, whatever an exception does.
"""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from storage_lib.errors import InvalidArgumentError, StorageError
from storage_lib.tasks.context import TaskCancelledError
from storage_lib.tasks.escapes import EscapedError
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.lease import LeaseExpiredError, LeaseLostError
from storage_lib.tasks.model import Priority, TaskError, TaskRecord, TaskStatus, derived_task_id
from storage_lib.tasks.retry import RetryPolicy, wait_of

MAX_CODE_CHARACTERS = 128
UNKNOWN = "unknown"
"""Agent and action of the record of a message that is no task; its `TaskRecord.raw_message` distinguishes it
from a task."""


def error_of(error: BaseException) -> TaskError:
    """The code (a `StorageError.code` or the class name), message and traceback of an exception."""
    if isinstance(error, EscapedError):
        error = error.original
    # An error may quote what is not valid text (a file name in another encoding); it is stored nevertheless.
    code, message, trace = (
        text.encode(errors="backslashreplace").decode()
        for text in (_code(error), _said(error), _trace(error))
    )
    return TaskError(code[:MAX_CODE_CHARACTERS], message, trace)


def _code(error: BaseException) -> str:
    try:
        code: Any = error.code if isinstance(error, StorageError) else None
        return str(code if code is not None else "").strip() or type(error).__name__
    except BaseException:  # a class of the user's may do anything
        return type(error).__name__


def _said(error: BaseException) -> str:
    if isinstance(error, StorageError):
        try:
            return error.explained() or type(error).__name__
        except BaseException:  # a class of the user's may do anything
            return told(error)
    return told(error)


def _trace(error: BaseException) -> str:
    if isinstance(error, InvalidArgumentError):
        return ""  # The submitter of the task made it.
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as problem:  # a class of the user's may do anything
        return f"{type(error).__name__}; its traceback cannot be told: {type(problem).__name__}"


def deciding(group: BaseExceptionGroup[BaseException], policy: RetryPolicy) -> Exception:
    """The error that decides how the attempt ends.

    A lost lease or a cancelled task comes first; then a permanent error, or the whole group if there are
    several; if all are transient, the one that asks for the longest wait.
    """
    errors = list(_leaves(group))
    for kind in (LeaseExpiredError, LeaseLostError, TaskCancelledError):
        for error in errors:
            if isinstance(error, kind):
                return error
    lasting = [error for error in errors if not policy.retries(error)]
    if lasting:
        return lasting[0] if len(lasting) == 1 else _as_exception(group)
    return max(errors, key=lambda error: wait_of(error) or 0)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield _as_exception(error)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else EscapedError(error)


def dead_record(
    text: str,
    *,
    queue: str,
    message_id: str | None,
    inserted_at: datetime,
    reason: StorageError,
    now: datetime,
) -> TaskRecord:
    """The dead record of a message in the poison queue.

    Its id is derived from the message, the message's id and the second at which it was put there, so each
    delivery gives the same record, and the records are ordered by time like all others.

    :param queue: the task queue that it came from, and returns to when it is requeued.
    :param message_id: None if it is unknown; then each delivery has its own record, because two messages must
        never share one.
    """
    known = None if message_id is None else f"{message_id}\n{text}".encode("utf-8", "surrogateescape")
    digest = os.urandom(10) if known is None else hashlib.sha256(known).digest()
    return TaskRecord(
        task_id=derived_task_id(inserted_at.replace(microsecond=0), digest),
        agent_id=UNKNOWN,
        action=UNKNOWN,
        status=TaskStatus.DEAD,
        priority=Priority.of_queue(queue),
        created_at=inserted_at,
        updated_at=now,
        finished_at=now,
        event_due=True,
        error=TaskError(reason.code, reason.explained()),
        raw_message=text,
    )
