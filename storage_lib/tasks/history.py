"""The history in a record: how the latest attempts ended, and what happened to the task between them."""

from __future__ import annotations

from datetime import datetime

import msgspec

from storage_lib.tasks.model import MAX_HISTORY, Attempt, TaskError, TaskRecord, TaskStatus

MAX_CHARACTERS = 30_000
"""The length of the history as JSON: a table property holds 32 Ki characters."""


def ended(
    record: TaskRecord,
    now: datetime,
    outcome: str,
    error: TaskError | None,
    next_at: datetime | None = None,
) -> tuple[Attempt, ...]:
    """The history of a record whose current attempt has just ended; ``next_at`` is when the next is due."""
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
    """The history with a note about something other than an attempt, or during one. If an attempt is held up
    repeatedly, only the latest note is kept."""
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
    """The latest entries that fit; an unprintable character in a message takes six characters in JSON."""
    history = history[-MAX_HISTORY:]
    while len(msgspec.json.encode(history)) > MAX_CHARACTERS:
        history = history[1:]
    return history


def outcome_of(claimed: TaskRecord, record: TaskRecord) -> str:
    """How a run ended: the status of a task that has ended, ``waiting`` for its children, ``retry`` or
    another reason to run again (`Attempt.outcome`), or ``lost`` if another worker has taken over.

    :param claimed: the record when the run began.
    :param record: the record as the run left it.
    """
    if record.is_final:
        return record.status.value
    if record.is_waiting:
        return "waiting"
    if record.status is TaskStatus.QUEUED and record.history and record.fence == claimed.fence:
        return record.history[-1].outcome
    return "lost"
