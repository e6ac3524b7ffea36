"""Schedules of timers: NCRONTAB expressions, or pauses, in the time zone of the process."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from devhost.errors import DevhostError

NEVER = datetime.max.replace(tzinfo=UTC)

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_VALUE = r"(?:[0-9]{1,2}|[a-z]{3,9})"
_FIELD = re.compile(rf"(?:\*|{_VALUE}(?:-{_VALUE})?)(?:/[0-9]{{1,2}})?")


class Schedule:
    """``text`` as Functions reads it: five or six fields (seconds first, 0 where left out), or ``hh:mm:ss``,
    a pause between runs. Months and days of the week may be named, in three letters or whole.

    Unlike cron, NCRONTAB wants a restricted day of the month AND a restricted day of the week to hold, and
    knows neither 7 for Sunday nor ``?``, ``L``, ``#`` or ``@daily``.
    """

    def __init__(self, text: str, where: str, zone: tzinfo | None = None) -> None:
        """:param zone: None means the zone of the process.

        :raises DevhostError: it is not such a schedule; ``where`` says whose it is.
        """
        # Here, because an app without timers should not wait for this import.
        from croniter import CroniterError, croniter

        self.text = text
        self._zone = zone or process_zone()
        self.pause: timedelta | None = None
        if found := re.fullmatch(r"(?:([0-9]+)\.)?([0-9]{1,2}):([0-5]?[0-9]):([0-5]?[0-9])", text.strip()):
            days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
            days = min(days, timedelta.max.days - 1)
            self.pause = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        try:
            if self.pause is None:
                self._cron = croniter(_plain(text), datetime.now(UTC), day_or=False, second_at_beginning=True)
            elif not self.pause:
                raise ValueError("the pause is 0")
        except (CroniterError, ValueError) as error:
            raise DevhostError(
                f'{where}: schedule "{text}" is not an NCRONTAB expression: {error}'
            ) from error

    def after(self, moment: datetime) -> datetime:
        """The first time it is due after that moment, in UTC; `NEVER` for such as 30 February."""
        from croniter import CroniterBadDateError

        try:
            if self.pause is not None:
                return moment + self.pause
            due: datetime = self._cron.get_next(datetime, start_time=moment.astimezone(self._zone))
        except (CroniterBadDateError, OverflowError):
            return NEVER
        return due.astimezone(UTC)


def process_zone() -> tzinfo:
    """The time zone of this process: ``TZ``, else that of the machine.

    :raises DevhostError: ``TZ`` names none.
    """
    name = os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except FileNotFoundError:
        return UTC
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise DevhostError(f"TZ is {name!r}, and there is no such time zone") from error


def _plain(text: str) -> str:
    """An expression in six fields of numbers. :raises ValueError: NCRONTAB does not know it."""
    fields = text.lower().split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields instead of 6")
    for at, names in ((4, _MONTHS), (5, _DAYS)):
        for number, name in enumerate(names, start=5 - at):
            fields[at] = re.sub(rf"\b(?:{name}|{name[:3]})\b", str(number), fields[at])
    for field in fields:
        if not all(_FIELD.fullmatch(part) for part in field.split(",")):
            raise ValueError(f"{field!r} is not understood")
    if re.search(r"(?<![0-9/])0*7(?![0-9])", fields[5]):
        raise ValueError("the days of the week are 0 (Sunday) to 6")
    return " ".join(fields)
