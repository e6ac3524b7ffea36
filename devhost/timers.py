"""The timer trigger: one host runs the timers of a store, and what each did last outlives the host.

Mirrors ``TimerListener`` and ``StorageScheduleMonitor`` of Microsoft.Azure.WebJobs.Extensions 3, with files
in the data folder for their blobs.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Self
from uuid import uuid4

from devhost.hostjson import resolve_settings
from devhost.invoker import Invoker
from devhost.runtime import Function, timer_datum
from devhost.schedules import Schedule

logger = logging.getLogger("devhost")

FOLDER = "devhost-timers"
LEASE_SECONDS = 60.0


class Clock:
    """Time as it passes. Tests bring their own."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)

    async def sleep_until(self, moment: datetime) -> None:
        """Return at that time, not before."""
        # In short naps: a machine that slept notices within a minute that its time has come.
        while (left := (moment - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - time has no event
            await asyncio.sleep(min(left, 60.0))


@dataclass(frozen=True, slots=True)
class Status:
    """When a timer was due last and is due next, in UTC."""

    last: datetime | None
    next: datetime

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What was kept; None where nothing was, or nothing that can be read."""
        try:
            kept = json.loads(path.read_text())
            last = kept["last"] and datetime.fromisoformat(kept["last"])
            return cls(last, datetime.fromisoformat(kept["next"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Keep it, whole or not at all."""
        kept = {"last": self.last and self.last.isoformat(), "next": self.next.isoformat()}
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(kept))
        partial.replace(path)


class TimerLease:
    """The right to run the timers of a data folder. A host that has it renews it; nobody gives it back, so
    that after a stop, too, another host waits for its end."""

    def __init__(self, folder: Path, seconds: float = LEASE_SECONDS, clock: Clock | None = None) -> None:
        self._path = folder / "lease.json"
        self._seconds = seconds
        self._clock = clock or Clock()
        self._owner = str(uuid4())

    def acquire(self) -> datetime | None:
        """Take or renew it: None. Otherwise when the lease of another host ends."""
        now = self._clock.now()
        with _exclusive(self._path) as file:
            kept: dict[str, Any] = {}
            try:
                kept = json.loads(file.read() or "{}")
                ends = datetime.fromisoformat(kept["ends"])
            except (ValueError, KeyError, TypeError):
                ends = now
            if kept.get("owner") != self._owner and ends > now:
                return ends
            file.seek(0)
            file.truncate()
            ends = now + timedelta(seconds=self._seconds)
            json.dump({"owner": self._owner, "ends": ends.isoformat()}, file)
        return None


class TimerRunner:
    """Runs one timer-triggered function when it is due, one run at a time."""

    def __init__(
        self, function: Function, invoker: Invoker, folder: Path | None = None, clock: Clock | None = None
    ) -> None:
        """:param folder: where its status is kept; None keeps none.

        :raises DevhostError: the schedule cannot be understood or its app setting is not set.
        """
        where = f"function {function.name}"
        self.function = function
        self.schedule = Schedule(resolve_settings(str(function.trigger["schedule"]), where), where)
        self._path = folder / f"{function.name}.json" if folder else None
        self._invoker = invoker
        self._clock = clock or Clock()

    async def run(self) -> None:
        """Wait for due times and run, until cancelled. What was due while no host was there is made up by one
        run at once; so is what was due while a run was under way."""
        kept = Status.read(self._path) if self._path else None
        last, due = (kept.last, kept.next) if kept else (None, self.schedule.after(self._clock.now()))
        if kept and due > (soonest := self.schedule.after(self._clock.now())):
            due = soonest  # The schedule has changed.
        if self.function.trigger.get("runOnStartup") and due > self._clock.now():
            await self._fire(self._clock.now(), due, last, past_due=False)
        past_due = due < self._clock.now()
        while True:
            self._keep(Status(last, due))
            await self._clock.sleep_until(due)
            started = self._clock.now()
            following = self.schedule.after(started)
            await self._fire(due, following, last, past_due=past_due)
            last, due, past_due = due, following, False
            if self.schedule.pause is not None:
                due = self.schedule.after(self._clock.now())

    def _keep(self, status: Status) -> None:
        if self._path:
            status.write(self._path)

    async def _fire(
        self, due: datetime, following: datetime, last: datetime | None, *, past_due: bool
    ) -> None:
        value = timer_datum(past_due=past_due, last=last, next_=following)
        result = await self._invoker.run(self.function, value)
        logger.info(
            "timer %s %s due=%s %.0f ms",
            self.function.name,
            "ok" if result.ok else "failed",
            due.strftime("%H:%M:%S"),
            result.duration * 1000,
        )


class _LeaseLostError(Exception):
    """This machine was suspended, or its clock set, and another host has begun meanwhile."""


class Timers:
    """All timers of a host, run while it has the lease of the data folder."""

    def __init__(self, runners: list[TimerRunner], lease: TimerLease, renew_seconds: float) -> None:
        self.runners = runners
        self._lease = lease
        self._renew_seconds = renew_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to try for the lease, and to run what is due."""
        self._task = asyncio.create_task(self._run(), name="timers")

    async def stop(self) -> None:
        """Stop at once; a run under way is cut off where the process ends, as on the platform."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._hold()
            except* _LeaseLostError:
                logger.warning("another host took the lease of the timers; this one waits for its end")
            except* Exception:
                # Such as a full disk: their due times are kept, and what is missed is made up.
                logger.exception("the timers failed, and begin again")
                await asyncio.sleep(self._renew_seconds / 6)

    async def _hold(self) -> None:
        told = False
        while (ends := await asyncio.to_thread(self._lease.acquire)) is not None:
            if not told:
                logger.info("another host runs the timers, or did until now; they can begin here at %s", ends)
                told = True
            await asyncio.sleep(min(self._renew_seconds / 6, 5.0))
        async with asyncio.TaskGroup() as group:
            for runner in self.runners:
                group.create_task(runner.run(), name=f"timer {runner.function.name}")
            while await asyncio.to_thread(self._lease.acquire) is None:  # noqa: ASYNC110 - nothing tells of time
                await asyncio.sleep(self._renew_seconds)
            raise _LeaseLostError


@contextmanager
def _exclusive(path: Path) -> Generator[IO[str]]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
