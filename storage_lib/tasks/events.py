"""The event that is published when a task has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from storage_lib.tasks.model import TaskRecord, TaskStatus

MAX_CHARACTERS = 3000
"""The length of an error's code and message in an event: a queue message holds 48 KiB, and a character may
take six bytes in JSON. The record has more."""


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """The end of a task. ``type`` is ``task.STATUS``; ``error`` is None if there is none."""

    type: str
    task_id: str
    agent_id: str
    action: str
    status: TaskStatus
    finished_at: datetime
    correlation_id: str | None
    traceparent: str | None
    parent_id: str | None
    error: dict[str, str] | None
    etag: str = field(default="", compare=False, repr=False)
    """The fence of the record whose end this is; it is not published."""
    due: bool = field(default=True, compare=False, repr=False)
    """Whether the record says that it is due; it is not published."""

    @classmethod
    def of(cls, record: TaskRecord) -> TaskEvent:
        error = record.error
        return cls(
            type=f"task.{record.status}",
            task_id=record.task_id,
            agent_id=record.agent_id,
            action=record.action,
            status=record.status,
            finished_at=record.finished_at or record.updated_at,
            correlation_id=record.correlation_id,
            traceparent=record.trace_parent,
            parent_id=record.parent_id,
            error=None
            if error is None
            else {"code": error.code[:MAX_CHARACTERS], "message": error.message[:MAX_CHARACTERS]},
            etag=record.etag,
            due=record.event_due,
        )

    def to_json(self) -> str:
        published = msgspec.to_builtins(self)
        del published["etag"], published["due"]
        return msgspec.json.encode(published).decode()
