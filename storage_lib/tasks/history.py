"""What a record remembers: how its latest attempts ended, and what was done to the task between them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage_lib.tasks.model import MAX_HISTORY, Attempt, TaskError, TaskRecord

MAX_CHARACTERS = 30_000
"""Of the history as JSON: a table property holds 32 Ki characters."""


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
    return _bounded((*record.history, attempt))


def noted(record: TaskRecord, now: datetime, outcome: str, message: str | None = None) -> tuple[Attempt, ...]:
    """The history of a record to which something was done that is no attempt, or happened to one. What held
    an attempt up again and again is one note, the latest, or there would soon be nothing else."""
    note = Attempt(record.attempts, None, now, outcome, error_message=message)
    history = record.history
    if (
        message is not None
        and history
        and (history[-1].number, history[-1].outcome) == (note.number, outcome)
    ):
        history = history[:-1]
    return _bounded((*history, note))


def _bounded(history: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """The latest of them that fit: what is unprintable in a message takes six characters in JSON."""
    history = history[-MAX_HISTORY:]
    while len(msgspec.json.encode(history)) > MAX_CHARACTERS:
        history = history[1:]
    return history
