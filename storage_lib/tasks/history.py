"""What a record remembers: how its latest attempts ended, and what was done to the task between them."""

from __future__ import annotations

from datetime import datetime

from storage_lib.tasks.model import MAX_HISTORY, Attempt, TaskError, TaskRecord


def ended(
    record: TaskRecord,
    now: datetime,
    outcome: str,
    error: TaskError | None,
    next_at: datetime | None = None,
) -> tuple[Attempt, ...]:
    """The history of a record whose current attempt has just ended. ``next_at``: when the next is due."""
    attempt = Attempt(
        record.attempts,
        record.started_at,
        now,
        outcome,
        None if error is None else error.code,
        None if error is None else error.message[:500],
        next_at,
    )
    return (*record.history, attempt)[-MAX_HISTORY:]


def noted(record: TaskRecord, now: datetime, outcome: str) -> tuple[Attempt, ...]:
    """The history of a record to which something was done that is no attempt."""
    return (*record.history, Attempt(record.attempts, None, now, outcome))[-MAX_HISTORY:]
