"""What one cell means.

Missing in a text table: an empty cell, ``NA``, ``N/A``, ``n/a``, ``#N/A``, ``null``, ``NULL``, ``Null``,
``NaN``, ``nan``, ``NAN`` (each is counted by itself, because ``NA`` may also be Namibia). In JSON: ``null``
and a key that is absent; a JSON string is always a value.

Kinds of a text cell:

* ``integer``: ``0``, ``-12``, ``+5``; at most 300 digits. ``number``: ``1.5``, ``.5``, ``-1e-3``.
* ``code``: digits that are no quantity, ``00123``, ``+49170123456``; a column with codes is a string column.
* ``boolean``: true, false, yes, no in any case.
* ``date``: ``2024-02-29``, ``2024/02/29``, ``29.02.2024``, ``Feb 29 2024``, ``February 29, 2024``,
  ``29 Feb 2024``, ``29-Feb-2024``. ``datetime``: the first two with ``T`` or a space, hours and minutes,
  optionally seconds, a fraction and ``Z`` or an offset. Dates that do not exist are strings; so is
  ``03/04/2024``, because it is two different days in two parts of the world.
* ``string``: all else. Thousands separators, decimal commas, currency signs, ``inf`` stay strings.

JSON values bring their kind; only strings are looked at, for dates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

MISSING_TEXT = frozenset({"", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "Null", "NaN", "nan", "NAN"})

_INTEGER = r"[+-]?(?:0|[1-9]\d{0,299}+)(?!\d)"
_NUMBER = r"[+-]?(?:(?:0|[1-9]\d{0,299}+)(?:\.\d{0,400}+)?|\.\d{1,400}+)(?:[eE][+-]?\d{1,4}+)?"
_PHONE = r"\+\d{7,}+"
_TOKEN = re.compile(
    rf"(?P<code>{_PHONE}|[+-]?0\d[\d.]*)"
    rf"|(?P<integer>{_INTEGER})"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<date>\d{4}-\d\d-\d\d|\d{4}/\d\d/\d\d)"
    r"|(?P<datetime>(?:\d{4}-\d\d-\d\d|\d{4}/\d\d/\d\d)[T ]"
    r"\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?: ?(?:Z|[+-]\d\d(?::?\d\d)?))?)"
    r"|(?P<boolean>(?i:true|false|yes|no))"
    r"|(?P<dotted>\d{1,2}\.\d{1,2}\.\d{4})"
    r"|(?P<named>[A-Za-z]{3,9}\.? \d{1,2},? \d{4}|\d{1,2}[ -][A-Za-z]{3,9}\.?[ -]\d{4})",
    re.ASCII,
)
# Line by line over a whole batch: one match instead of one a cell.
_INTEGERS = re.compile(rf"(?:(?!{_PHONE}){_INTEGER}(?:\n|\Z))*+", re.ASCII)
_NUMBERS = re.compile(rf"(?:(?!{_PHONE}){_NUMBER}(?:\n|\Z))*+", re.ASCII)
_WORD_BITS = 64
_NAMED = re.compile(r"[A-Za-z]+|\d+")
_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = tuple(_MONTH_NAMES.split())


class Marker(Enum):
    """JSON values that are no text and no number, as hashable stand-ins (``True`` would count as 1)."""

    TRUE = "true"
    FALSE = "false"
    OBJECT = "object"
    ARRAY = "array"
    NULL = "null"
    ABSENT = "absent"


MISSING_JSON = frozenset({Marker.NULL, Marker.ABSENT})


@dataclass(frozen=True, slots=True)
class Huge:
    """A JSON integer of more than 64 bits, counted by its digits: any number of integers can be found that
    share a hash, which would make counting them quadratic."""

    digits: str

    def __float__(self) -> float:
        return float(int(self.digits))

    def __str__(self) -> str:
        return self.digits


def classify_text(text: str) -> tuple[str, Any]:
    """The kind of a cell (white space around it already removed) and its value."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return "string", text
    kind = match.lastgroup or "string"
    match kind:
        case "integer":
            return kind, int(text)
        case "number":
            return kind, float(text)
        case "boolean":
            return kind, text[0] in "tTyY"
        case "code":
            return _dotted(text) or (kind, text)
        case _:
            return _moment(kind, text) or ("string", text)


def classify_json(value: Hashable) -> tuple[str, Any]:
    if isinstance(value, str):
        match = _TOKEN.fullmatch(value)
        if match is None or match.lastgroup in ("integer", "number", "boolean"):
            return "string", value
        return _dotted(value) or _moment(match.lastgroup or "", value) or ("string", value)
    if isinstance(value, Marker):
        if value in (Marker.TRUE, Marker.FALSE):
            return "boolean", value is Marker.TRUE
        return value.value, None
    if isinstance(value, Huge):
        return "integer", int(value.digits)
    return ("integer" if isinstance(value, int) else "number"), value


def read_numbers(texts: Sequence[str]) -> tuple[str, list[float]] | None:
    """All of a batch as integers or as numbers, or None if one of them is neither."""
    joined = "\n".join(texts)
    if _INTEGERS.fullmatch(joined):
        kind, convert = "integer", int
    elif _NUMBERS.fullmatch(joined):
        kind, convert = "number", float
    else:
        return None
    # A cell with a line break inside passes the pattern as two numbers, but it is none.
    if joined.count("\n") != len(texts) - 1:
        return None
    return kind, list(map(convert, texts))


def marked(value: Any) -> Hashable:
    """A decoded JSON value as something to count: strings and numbers as they are, the rest as `Marker`."""
    if value is None:
        return Marker.NULL
    if isinstance(value, bool):
        return Marker.TRUE if value else Marker.FALSE
    if isinstance(value, dict):
        return Marker.OBJECT
    if isinstance(value, list):
        return Marker.ARRAY
    if isinstance(value, int) and value.bit_length() > _WORD_BITS:
        return Huge(str(value))
    return value


def number_key(value: float) -> Hashable:
    """What equal numbers have in common, to count them by. See `Huge`."""
    if isinstance(value, float) and not math.isfinite(value):
        return value
    whole = int(value)
    return str(whole) if whole.bit_length() > _WORD_BITS else value


def order(moment: date) -> datetime:
    """A common order of dates and datetimes; one without an offset counts as UTC."""
    if not isinstance(moment, datetime):
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(kind: str, text: str) -> tuple[str, date] | None:
    try:
        match kind:
            case "date":
                return kind, date.fromisoformat(text.replace("/", "-"))
            case "datetime":
                clock = text[10:].replace(" ", "T", 1) if text[10] == " " else text[10:]
                return kind, datetime.fromisoformat(text[:10].replace("/", "-") + clock.replace(" ", ""))
            case "dotted":
                day, month, year = map(int, text.split("."))
                return "date", date(year, month, day)
            case "named":
                parts = _NAMED.findall(text)
                day, month = (parts[0], parts[1]) if parts[0].isdigit() else (parts[1], parts[0])
                return "date", date(int(parts[2]), _month(month), int(day))
            case _:
                return None
    except ValueError:
        return None


def _dotted(text: str) -> tuple[str, date] | None:
    # "01.02.2024" begins like a code.
    return _moment("dotted", text) if text.count(".") == 2 and len(text) <= 10 else None


def _month(name: str) -> int:
    lowered = name.lower()
    for number, month in enumerate(_MONTHS, start=1):
        if lowered in (month, month[:3]) or (lowered == "sept" and number == 9):
            return number
    raise ValueError(f"no month: {name}")
