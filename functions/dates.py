"""Dates in headers: whole seconds, in one of three forms (RFC 9110, 5.6.7)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from storage_lib.patterns import pattern

_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME = r"\d\d:\d\d:\d\d"
_HTTP_DATE = pattern(
    rf"{_DAY}, (?:\d\d {_MONTH} \d{{4}}|\d\d-{_MONTH}-\d\d) {_TIME} GMT"
    rf"|{_DAY} {_MONTH} [ \d]\d {_TIME} \d{{4}}",
    re.ASCII,
)


def http_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def parsed(text: str | None) -> datetime | None:
    """The moment; None if there is no text or it is not a date, which conditions ignore (13.1.3)."""
    if text is None or not _HTTP_DATE.fullmatch(text.strip(" \t")):
        return None
    try:
        return parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:
        return None  # such as 31 February
