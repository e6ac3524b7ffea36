"""Messages that are not tasks: each ends as a dead record that keeps the message and the reason."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime

from storage_lib.errors import StorageError
from storage_lib.tasks.model import Priority, TaskError, TaskRecord, TaskStatus, derived_task_id

UNKNOWN = "unknown"
"""Agent and action of such a record; its `TaskRecord.raw_message` distinguishes it from a task."""


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
