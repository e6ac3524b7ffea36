"""What a cell of delimited text means, as SQL.

Missing: an empty cell, ``NA``, ``N/A``, ``n/a``, ``#N/A``, ``null``, ``NULL``, ``Null``, ``NaN``, ``nan``,
``NAN``. White space around a value is not part of it. Kinds:

* ``integer``: ``0``, ``-12``, ``+5``. ``number``: ``1.5``, ``.5``, ``-1e-3``. Within a double.
* ``code``: digits that are no quantity, ``00123``, ``+49170123456``; a column with codes is a string column.
* ``boolean``: true, false, yes, no in any case.
* ``date``: ``2024-02-29``, ``2024/02/29``, ``29.02.2024``, ``Feb 29 2024``, ``February 29, 2024``,
  ``29 Feb 2024``, ``29-Feb-2024``. ``datetime``: the first two with ``T`` or a space, hours and minutes,
  optionally seconds and a fraction. ``instant``: the same with ``Z`` or an offset. Dates that do not exist
  are strings; so is ``03/04/2024``, because it is two different days in two parts of the world.
* ``string``: all else. Thousands separators, decimal commas, currency signs, ``inf`` stay strings.
"""

from __future__ import annotations

from collections.abc import Mapping

from actions.stored.delimited import MISSING

MOSTLY_STRINGS = 0.1
"""A column with at most this share of other values is one of strings: ``1E5`` among airport codes is no
number."""

SHOWN = {"instant": "datetime", "code": "string"}
"""What kinds are called that nobody else knows."""
_SPACE = "' ' || chr(9) || chr(10) || chr(13) || chr(160)"
# Patterns, for DuckDB makes a join of a long IN: one for each of a thousand columns.
_MISSING = "|".join(MISSING)
_CODE = r"\+\d{7,}|[+-]?0\d[\d.]*"
_INTEGER = r"[+-]?(?:0|[1-9]\d*)"
_NUMBER = rf"(?:{_INTEGER}(?:\.\d*)?|[+-]?\.\d+)(?:[eE][+-]?\d+)?"
_ISO = r"(?:\d{4}-\d\d-\d\d|\d{4}/\d\d/\d\d)"
_NAMED = r"[A-Za-z]{3,9}\.? \d{1,2},? \d{4}|\d{1,2}[ -][A-Za-z]{3,9}\.?[ -]\d{4}"
_DATE = rf"{_ISO}|\d{{1,2}}\.\d{{1,2}}\.\d{{4}}|{_NAMED}"
_TIME = rf"{_ISO}[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{{1,9}})?)?(?: ?(?:Z|[+-]\d\d(?::?\d\d)?))?"
_NAMED_FORMATS = ("{} %d %Y", "{} %d, %Y", "%d {} %Y", "%d-{}-%Y")
_FORMATS = ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y"] + [
    each.format(month) for month in ("%b", "%B") for each in _NAMED_FORMATS
]


def value(cell: str) -> str:
    return f"trim({cell}, {_SPACE})"


def day(v: str) -> str:
    """The timestamp of a date, or NULL."""
    return f"CASE WHEN regexp_full_match({v}, '{_DATE}') THEN try_strptime({v}, {_FORMATS}) END"


def moment(v: str) -> str:
    """The timestamp with time zone of a date or datetime, or NULL; UTC where it has no offset."""
    spelt = f"TRY_CAST(replace(replace({v}, '/', '-'), ',', '.') AS TIMESTAMPTZ)"
    return f"coalesce(({day(v)})::TIMESTAMPTZ, CASE WHEN regexp_full_match({v}, '{_TIME}') THEN {spelt} END)"


def kind(v: str) -> str:
    """The kind of a value, NULL if it is missing."""
    return f"""CASE
        WHEN {v} IS NULL OR regexp_full_match({v}, '{_MISSING}') THEN NULL
        WHEN {day(v)} IS NOT NULL THEN 'date'
        WHEN regexp_full_match({v}, '{_CODE}') THEN 'code'
        WHEN regexp_full_match({v}, '{_NUMBER}') AND isfinite(TRY_CAST({v} AS DOUBLE)) THEN
            CASE WHEN regexp_full_match({v}, '{_INTEGER}') THEN 'integer' ELSE 'number' END
        WHEN regexp_full_match({v}, '(?i)true|false|yes|no') THEN 'boolean'
        WHEN {moment(v)} IS NOT NULL THEN
            CASE WHEN regexp_matches({v}, ':.*(Z|[+-]\\d\\d(:?\\d\\d)?)$') THEN 'instant' ELSE 'datetime' END
        ELSE 'string' END"""


def column_kind(kinds: Mapping[str, int]) -> str:
    """The type of a column whose values are of these kinds, counted: one of them, ``empty`` or ``mixed``."""
    names = set(kinds)
    if "code" in names:
        # Codes make their column's numbers codes too: 12345 beside 00123 is no quantity.
        names = names - {"code", "integer", "number"} | {"string"}
    strings = kinds.get("string", 0) + kinds.get("code", 0)
    others = sum(kinds.values()) - strings
    if strings and (names == {"boolean", "string"} or others <= MOSTLY_STRINGS * (strings + others)):
        names = {"string"}
    if names == {"integer", "number"}:
        return "number"
    if len(names) > 1 and names <= {"date", "datetime", "instant"}:
        return "instant" if "instant" in names else "datetime"
    if not names:
        return "empty"
    return names.pop() if len(names) == 1 else "mixed"


def typed(v: str, kind: str, longest: int) -> str:
    """A value as SQL of its column's type; ``longest`` is the length of the longest of them."""
    if kind == "integer" and longest <= 38:
        found = f"TRY_CAST({v} AS {'BIGINT' if longest <= 18 else 'HUGEINT'})"
    elif kind in ("integer", "number"):
        found = f"TRY_CAST({v} AS DOUBLE)"
    elif kind == "boolean":
        found = f"regexp_full_match({v}, '(?i)true|yes')"
    elif kind == "date":
        found = f"({day(v)})::DATE"
    else:
        found = {"instant": moment(v), "datetime": f"({moment(v)})::TIMESTAMP"}.get(kind, v)
    return f"CASE WHEN NOT regexp_full_match({v}, '{_MISSING}') THEN {found} END"
