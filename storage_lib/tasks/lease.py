"""Owning a task: the one who claimed its record may change it, until another has claimed it."""

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
from storage_lib.tasks.watch import stall, watch

_log = logging.getLogger("AOS.Tasks")


_CONCLUDE_TRIES = 6
_CONCLUDE_SECONDS = 0.5
_LEAST_SECONDS = 5.0
"""For a renewal that begins shortly before the end of the lease."""
_LONGEST_START_SECONDS = 600.0
"""Before an action runs its module is imported and its payload loaded."""
_CANCEL_GRACE_SECONDS = 5.0
"""How long an action that was cancelled may take to tidy up before it is left alone."""


class DeadlineExceededError(StorageError):
    """An action took longer than its time limit."""

    code = "deadline-exceeded"


class LeaseLostError(Exception):
    """Another worker has claimed the task, or it was ended from outside."""


class RefusedError(Exception):
    """The store does not take what was to be recorded at the end of a run: ``reason`` says why."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


class LeaseExpiredError(TransientStorageError):
    """The lease ran out because it could not be renewed; whether anyone has taken over is not known. The
    message has to be delivered again."""

    code = "lease-expired"


class Lease:
    """A claimed record. ``record`` is what is known of it; every change goes through here.

    The fencing token is ``fence``: others (a child that has ended, a request to cancel) may touch the record
    meanwhile, which changes its ETag but not its fence; whoever claims it anew raises the fence.
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

    @property
    def is_due(self) -> bool:
        """Whether half of it is over, and so its renewal late. Asked from any thread."""
        return self._until is not None and self._until - self.now() < self.length / 2

    @property
    def is_overdue(self) -> bool:
        """Whether it was not renewed for longer than it lasts, by the clock of the machine."""
        return time.time() - self._renewed >= self.length.total_seconds()

    @property
    def is_given_up(self) -> bool:
        """Whether the run should have ended: then nobody keeps it any longer."""
        return time.monotonic() > self._given_up

    @property
    def was_held_up(self) -> bool:
        return bool(self._notes)

    def keep(self, until: datetime | None) -> None:
        """It was renewed by a thread."""
        self._until, self._renewed, self.kept = until, time.time(), True

    def wake(self) -> None:
        """Renew it now; called in the loop that holds it."""
        if self._early is not None and not self._early.done():
            self._early.set_result(None)

    def change_later(self, **changes: Any) -> None:
        """Change the record with whatever is written next, at the latest with the end of the run."""
        self._later = {**self._later, **changes}

    async def change(self, **changes: Any) -> TaskRecord:
        """Change the record if it is still ours. :raises LeaseLostError: it is not; nothing was changed."""
        return await self.change_by(lambda _: changes)

    async def change_by(self, changes: Callable[[TaskRecord], dict[str, Any]]) -> TaskRecord:
        """As `change`, with changes that depend on the record as it is."""
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
        """The record with what held the run up in its history."""
        for outcome, message in self._notes:
            record = replace(record, history=noted(record, self.now(), outcome, message))
        return record

    async def conclude(self, changes: Callable[[TaskRecord], dict[str, Any]]) -> TaskRecord:
        """As `change_by`, for the change with which a run ends: tried again while the lease lasts where the
        store fails, for the work is done and would be done again.

        :raises TransientStorageError: the store failed each time.
        :raises RefusedError: the store does not take it: it is too large, or not what can be stored.
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
                # What was thought to have failed may have come late.
                if not tries or (found := await self._concluded(wanted)) is None:
                    raise
                return found
            except TransientStorageError:
                tries, sure, until = tries + 1, False, self._until
                # Once more past its end: what failed may have failed because all stood still here.
                expired = until is None or self.now() >= until
                if tries == _CONCLUDE_TRIES or (expired and tries > 1):
                    raise
                await asyncio.sleep(random.uniform(0, _CONCLUDE_SECONDS * tries))  # noqa: S311 - spreads load
            except ConfigurationError:
                raise
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise RefusedError(error) from error

    async def _concluded(self, wanted: dict[str, Any]) -> TaskRecord | None:
        """The record if the change was made though its answer was lost: its run has ended, as it was to."""
        if wanted.get("status", TaskStatus.RUNNING) is TaskStatus.RUNNING:
            return None  # Made twice it is the same.
        try:
            found = await self._records.get(self.record.task_id, contents=False)
        except KeyNotFoundError:
            return None
        marks = ("status", "finished_at", "due_at", "lease_until")
        made = all(getattr(found, name) == wanted[name] for name in marks if name in wanted)
        return found if made and found.fence == self.record.fence else None

    async def refresh(self) -> TaskRecord:
        """Read the record anew. :raises LeaseLostError: it is not ours any more."""
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
        """Make sure that it is held, where that may not be so: nothing ran here since it was claimed.

        :raises LeaseLostError: another has claimed the task. :raises LeaseExpiredError: nobody can tell.
        """
        if self.is_due:
            await self._renew()

    async def hold[T](self, running: Coroutine[Any, Any, T], limit: float) -> T:
        """Await ``running``, renewing the lease at a third of its length.

        :param limit: seconds after which ``running`` ends by itself; one that does not is given up.
        :raises LeaseLostError: the lease was lost; ``running`` was cancelled.
        :raises LeaseExpiredError: the lease could not be renewed in time; ``running`` was cancelled.
        :raises DeadlineExceededError: ``running`` went on past its limit.
        :raises EscapedError: it raised what is no `Exception`.
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
        began = _Moment()
        self._early = asyncio.get_running_loop().create_future()
        await asyncio.wait({action, self._early}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        self._note_stall(began, pause)

    def _note_stall(self, began: _Moment, expected: float) -> bool:
        """Whether what should have taken so many seconds at most took a third of the lease longer: then all
        stood still here, which the record will say."""
        now = _Moment()
        late = max(now.clock - began.clock, now.steady - began.steady) - expected
        if late < self.length.total_seconds() / 3:
            return False
        note = stall(late, now.silence - began.silence, now.computing - began.computing)
        _log.warning("task %s: %s", self.record.task_id, note[1])
        self._notes.append(note)
        return True

    async def _renew(self) -> None:
        # In time, for past its end another may run the task, and the action must be stopped before. Where the
        # end has passed already, because nothing ran here, the fence tells whether another does.
        length = self.length.total_seconds()
        while True:
            left = length if self._until is None else (self._until - self.now()).total_seconds()
            limit = length if left <= 0 else max(left, min(length / 6, _LEAST_SECONDS))
            began = _Moment()
            try:
                async with asyncio.timeout(limit):
                    changed = await self.change(lease_until=self.now() + self.length)
            except (TransientStorageError, TimeoutError) as error:
                if self._until is not None and self.now() < self._until:  # A thread may have renewed it.
                    _log.warning(
                        "the lease of task %s could not be renewed yet: %s", self.record.task_id, told(error)
                    )
                elif self._note_stall(began, limit):
                    continue  # The loop did not take the answer, or all stood still.
                else:
                    raise LeaseExpiredError(
                        f"the lease of task {self.record.task_id!r} could not be renewed in time"
                    ) from error
            else:
                self._until, self._renewed, self.kept = changed.lease_until, time.time(), False
            return


class _Moment:
    """Now: by the clock, by the one that stands still while the machine does, in computing of the process,
    and in the silence of the running loop; all in seconds."""

    def __init__(self) -> None:
        self.clock, self.steady, self.computing = time.time(), time.monotonic(), time.process_time()
        self.silence = watch.silence(asyncio.get_running_loop())
