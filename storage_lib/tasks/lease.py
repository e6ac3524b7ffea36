"""Owning a task: the worker that claimed its record may change it until another has claimed it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from storage_lib.errors import (
    ConfigurationError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.tasks import escapes
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.history import noted
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.model import TaskRecord, TaskStatus
from storage_lib.tasks.records import TaskRecords

_log = logging.getLogger("AOS.Tasks")


_CONCLUDE_TRIES = 6
_CONCLUDE_SECONDS = 0.5
_LEAST_SECONDS = 5.0
"""For a renewal that begins shortly before the end of the lease."""
_LONGEST_START_SECONDS = 600.0
"""Before an action runs its module is imported and its payload loaded."""
_CANCEL_GRACE_SECONDS = 5.0
"""How long a cancelled action may take to clean up before it is abandoned."""


class DeadlineExceededError(StorageError):
    """An action took longer than its time limit."""

    code = "deadline-exceeded"


class LeaseLostError(Exception):
    """Another worker has claimed the task, or it was ended from outside."""


class RefusedError(Exception):
    """The store refused what was to be recorded at the end of a run; ``reason`` says why."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class LeaseExpiredError(TransientStorageError):
    """The lease ended because it could not be renewed; it is unknown whether anyone has taken over. The
    message must be delivered again."""

    code = "lease-expired"


class Lease:
    """A claimed record. ``record`` is its last known state; every change goes through here.

    ``fence`` is the fencing token. Others (a child that has ended, a request to cancel) may touch the record
    meanwhile, which changes its ETag but not its fence; claiming it again raises the fence.
    """

    def __init__(
        self, records: TaskRecords, record: TaskRecord, length: timedelta, now: Callable[[], datetime]
    ) -> None:
        self.record = record
        self._records = records
        self.length = length
        self.now = now
        self._changing = asyncio.Lock()
        self._later: dict[str, Any] = {}
        self._until = record.lease_until
        self._renewed = time.time()
        self._given_up = time.monotonic() + _LONGEST_START_SECONDS
        self._early: asyncio.Future[None] | None = None
        self._notes: list[tuple[str, str]] = []
        self.kept = False
        """Whether a thread had to renew it (watch.py)."""
        self.silence: Callable[[asyncio.AbstractEventLoop], float] = lambda loop: 0.0
        """For how many seconds in total a loop did not respond, as far as that thread sees it."""

    @property
    def is_due(self) -> bool:
        """Whether half of it is over, so that its renewal is late. May be called from any thread."""
        return self._until is not None and self._until - self.now() < self.length / 2

    @property
    def is_overdue(self) -> bool:
        """Whether it was not renewed for longer than it lasts, by the clock of the machine."""
        return time.time() - self._renewed >= self.length.total_seconds()

    @property
    def is_given_up(self) -> bool:
        """Whether the run should have ended; then its lease is no longer renewed."""
        return time.monotonic() > self._given_up

    @property
    def was_held_up(self) -> bool:
        return bool(self._notes)

    def keep(self, until: datetime | None) -> None:
        """It was renewed by a thread."""
        self._until, self._renewed, self.kept = until, time.time(), True

    def wake(self) -> None:
        """Renew it now; called in its own event loop."""
        if self._early is not None and not self._early.done():
            self._early.set_result(None)

    def change_later(self, **changes: Any) -> None:
        """Change the record with the next write, at the latest with the end of the run."""
        self._later = {**self._later, **changes}

    async def change(self, **changes: Any) -> TaskRecord:
        """Change the record if this lease still holds.

        :raises LeaseLostError: it does not; nothing was changed.
        """
        return await self.change_by(lambda _: changes)

    async def change_by(self, changes: Callable[[TaskRecord], dict[str, Any]]) -> TaskRecord:
        """Like `change`, with changes that depend on the current record."""
        conflicts = Conflicts()
        async with self._changing:
            while True:
                if self.record.status is not TaskStatus.RUNNING:
                    raise LeaseLostError  # It has ended, here.
                try:
                    later, known = self._later, self.with_notes(self.record)
                    wanted = {**later, **changes(known), "updated_at": self.now()}
                    if self._notes:
                        wanted.setdefault("history", known.history)
                    self.record = await self._records.change(self.record, **wanted)
                    if self._later is later:
                        self._later = {}
                except PreconditionFailedError:
                    await conflicts.pause()
                    await self._reload()
                except KeyNotFoundError as error:
                    raise LeaseLostError from error
                else:
                    self._notes.clear()
                    return self.record

    def with_notes(self, record: TaskRecord) -> TaskRecord:
        """The record with a note in its history about what held the run up."""
        for outcome, message in self._notes:
            record = replace(record, history=noted(record, self.now(), outcome, message))
        return record

    async def conclude(self, changes: Callable[[TaskRecord], dict[str, Any]]) -> TaskRecord:
        """Like `change_by`, for the change that ends a run: it is retried while the lease lasts, because the
        work is done and would have to be repeated.

        :raises TransientStorageError: the store failed each time.
        :raises RefusedError: the store refuses it: it is too large, or cannot be stored.
        """
        wanted: dict[str, Any] = {}

        def noted(record: TaskRecord) -> dict[str, Any]:
            wanted.update(changes(record))
            return wanted

        tries, sure = 0, True
        while True:
            try:
                if not sure and (found := await self._concluded(wanted)) is not None:
                    return found
                sure = True
                return await self.change_by(noted)
            except LeaseLostError:
                # A write that seemed to fail may have arrived late.
                if not tries or (found := await self._concluded(wanted)) is None:
                    raise
                return found
            except TransientStorageError:
                tries, sure, until = tries + 1, False, self._until
                # Once more after its end: the machine may have stood still.
                expired = until is None or self.now() >= until
                if tries == _CONCLUDE_TRIES or (expired and tries > 1):
                    raise
                await asyncio.sleep(random.uniform(0, _CONCLUDE_SECONDS * tries))  # noqa: S311 - spreads load
            except ConfigurationError:
                raise
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise RefusedError(error) from error

    async def _concluded(self, wanted: dict[str, Any]) -> TaskRecord | None:
        """The record if the change was made although its response was lost: the run has ended as intended."""
        if wanted.get("status", TaskStatus.RUNNING) is TaskStatus.RUNNING:
            return None  # Made twice it is the same.
        try:
            found = await self._records.get(self.record.task_id, contents=False)
        except KeyNotFoundError:
            return None
        marks = ("status", "finished_at", "due_at", "lease_until")
        made = all(getattr(found, name) == wanted[name] for name in marks if name in wanted)
        if not made or found.fence != self.record.fence:
            return None
        self.record = found
        return found

    async def refresh(self) -> TaskRecord:
        """Read the record again.

        :raises LeaseLostError: the lease no longer holds.
        """
        async with self._changing:
            await self._reload()
            return self.record

    async def _reload(self) -> None:
        try:
            found = await self._records.get(self.record.task_id, contents=False)
        except KeyNotFoundError as error:
            raise LeaseLostError from error
        if found.fence != self.record.fence or found.status is not TaskStatus.RUNNING:
            raise LeaseLostError
        self.record = replace(found, payload=self.record.payload, result=self.record.result)

    async def confirm(self) -> None:
        """Make sure that the lease holds if it may not: nothing may have run here since the task was claimed.

        :raises LeaseLostError: another worker has claimed the task.
        :raises LeaseExpiredError: that is unknown.
        """
        if self.is_due:
            await self._renew()

    async def hold[T](self, running: Coroutine[Any, Any, T], limit: float) -> T:
        """Await ``running``, renewing the lease at a third of its length.

        :param limit: seconds after which ``running`` ends by itself; if it does not, it is abandoned.
        :raises LeaseLostError: the lease was lost; ``running`` was cancelled.
        :raises LeaseExpiredError: the lease could not be renewed in time; ``running`` was cancelled.
        :raises DeadlineExceededError: ``running`` went on past its limit.
        :raises EscapedError: it raised something other than an `Exception`.
        """
        action = asyncio.ensure_future(running)
        until = self._given_up = time.monotonic() + limit + _CANCEL_GRACE_SECONDS
        try:
            while True:
                await self._wait_for(action)
                if action.done():
                    return escapes.call(action.result)
                if time.monotonic() > until:
                    raise DeadlineExceededError(
                        "the action went on after it had been cancelled at its deadline", field="timeout"
                    )
                await self._renew()
        finally:
            if not action.done():
                action.cancel()
                await asyncio.wait({action}, timeout=_CANCEL_GRACE_SECONDS)
                if not action.done():
                    _log.error("task %s: the action does not end though cancelled", self.record.task_id)

    async def _wait_for(self, action: asyncio.Future[Any]) -> None:
        """Wait until it has ended, or for a third of the lease, or less if the renewal is late."""
        pause = self.length.total_seconds() / 3
        began = _Moment(self.silence)
        self._early = asyncio.get_running_loop().create_future()
        await asyncio.wait({action, self._early}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        self._note_stall(began, pause)

    def _note_stall(self, began: _Moment, expected: float) -> bool:
        """Whether a wait of at most that many seconds took a third of the lease longer: then the machine
        stood still, which the record will say."""
        now = _Moment(self.silence)
        late = max(now.clock - began.clock, now.steady - began.steady) - expected
        if late < self.length.total_seconds() / 3:
            return False
        note = stall(late, now.silence - began.silence, now.computing - began.computing)
        _log.warning("task %s: %s", self.record.task_id, note[1])
        self._notes.append(note)
        return True

    async def _renew(self) -> None:
        # In time, because after its end another worker may run the task, and the action must stop before. If
        # the end has passed because the machine stood still, the fence tells whether another worker runs it.
        length = self.length.total_seconds()
        while True:
            left = length if self._until is None else (self._until - self.now()).total_seconds()
            limit = length if left <= 0 else max(left, min(length / 6, _LEAST_SECONDS))
            began = _Moment(self.silence)
            try:
                async with asyncio.timeout(limit):
                    changed = await self.change(lease_until=self.now() + self.length)
            except (TransientStorageError, TimeoutError) as error:
                if self._until is not None and self.now() < self._until:  # A thread may have renewed it.
                    _log.warning(
                        "the lease of task %s could not be renewed yet: %s", self.record.task_id, told(error)
                    )
                elif self._note_stall(began, limit):
                    continue  # The loop did not take the response, or the machine stood still.
                else:
                    raise LeaseExpiredError(
                        f"the lease of task {self.record.task_id!r} could not be renewed in time"
                    ) from error
            else:
                self._until, self._renewed, self.kept = changed.lease_until, time.time(), False
            return


class _Moment:
    """Now, in seconds: wall-clock time, monotonic time (which stops with the machine), CPU time of the
    process, and the time that the running loop did not respond."""

    def __init__(self, silence: Callable[[asyncio.AbstractEventLoop], float]) -> None:
        self.clock, self.steady, self.computing = time.time(), time.monotonic(), time.process_time()
        self.silence = silence(asyncio.get_running_loop())


def stall(late: float, lag: float, busy: float) -> tuple[str, str]:
    """The name of what held up a loop, and the explanation.

    :param late: seconds that the loop was late by the clock.
    :param lag: seconds that it did not respond while the thread went on.
    :param busy: CPU seconds of the process in that time.
    """
    seconds = max(late, lag)
    if max(lag, busy) >= late / 2:
        return (
            "blocked",
            f"the event loop was blocked for {seconds:.1f} s: what blocks goes through"
            " await asyncio.to_thread(…)",
        )
    return "suspended", f"the process or its machine stood still for {seconds:.1f} s"
