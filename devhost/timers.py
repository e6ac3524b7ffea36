"""The timer trigger: NCRONTAB schedules in UTC, one run of a timer at a time."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from devhost.errors import DevhostError
from devhost.hostjson import resolve_settings
from devhost.invoker import Invoker
from devhost.runtime import Function, timer_datum

logger = logging.getLogger("devhost")


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


class Schedule:
    """An NCRONTAB expression: seconds (0 where left out), minute, hour, day, month, day of the week.

    Unlike cron, NCRONTAB wants a restricted day of the month AND a restricted day of the week to hold.
    """

    def __init__(self, text: str, where: str) -> None:
        """:raises DevhostError: it is not such an expression; ``where`` says whose it is."""
        # Here, because an app without timers should not wait for this import.
        from croniter import CroniterError, croniter

        self.text = text
        fields = text.split()
        if len(fields) == 5:
            fields.insert(0, "0")
        try:
            if len(fields) != 6:
                raise ValueError(f"{len(fields)} fields instead of 6")
            self._cron = croniter(" ".join(fields), datetime.now(UTC), day_or=False, second_at_beginning=True)
        except (CroniterError, ValueError) as error:
            raise DevhostError(
                f'{where}: schedule "{text}" is not an NCRONTAB expression: {error}'
            ) from error

    def after(self, moment: datetime) -> datetime:
        """The first time it is due after that moment."""
        return self._cron.get_next(datetime, start_time=moment)


class TimerRunner:
    """Runs one timer-triggered function when it is due."""

    def __init__(self, function: Function, invoker: Invoker, clock: Clock | None = None) -> None:
        """:raises DevhostError: the schedule can not be understood or its app setting is not set."""
        where = f"function {function.name}"
        self.function = function
        self.schedule = Schedule(resolve_settings(str(function.trigger["schedule"]), where), where)
        self._invoker = invoker
        self._clock = clock or Clock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to wait; run at once where the function asks for runOnStartup."""
        self._task = asyncio.create_task(self._run(), name=f"timer {self.function.name}")

    async def stop(self) -> None:
        """Start no further run. One under way is the invoker's to wait for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        last: datetime | None = None
        if self.function.trigger.get("runOnStartup"):
            last = self._clock.now()
            await self._fire(last, self.schedule.after(last), past_due=False)
        while True:
            # From now, not from the last due time: runs missed while one was under way are not made up.
            due = self.schedule.after(self._clock.now())
            await self._clock.sleep_until(due)
            following = self.schedule.after(due)
            await self._fire(due, following, past_due=self._clock.now() >= following, last=last)
            last = due

    async def _fire(
        self, due: datetime, following: datetime, *, past_due: bool, last: datetime | None = None
    ) -> None:
        value = timer_datum(past_due=past_due, last=last, next_=following)
        result = await self._invoker.run(self.function, [(str(self.function.trigger["name"]), value)])
        logger.info(
            "timer %s %s due=%s %.0f ms",
            self.function.name,
            "ok" if result.ok else "failed",
            due.strftime("%H:%M:%S"),
            result.duration * 1000,
        )
