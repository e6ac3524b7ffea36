"""Rows of any SQL type as JSON.

Integers are numbers, exact whatever their size; DECIMAL is a string, for a JSON reader would round it; DOUBLE
is a number, and ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` where it is none. DATE, TIME and TIMESTAMP are ISO
8601, with ``Z`` where they have a time zone; INTERVAL is DuckDB's text (``1 month 2 days``), BLOB base64,
UUID and ENUM a string. A list is an array, a STRUCT an object, a MAP an object if its keys are strings and
else an array of ``{"key": …, "value": …}``; JSON is what it is, and a UNION what it holds.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from actions.report.columns import iso
from actions.stored.database import name

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

_BATCH = 1_000
# Python's own are narrower: no month, no nanosecond, no year 10000, no infinity.
_AS_TEXT = re.compile(
    r'(?<!["\w])(?:TIMESTAMP WITH TIME ZONE|TIMESTAMP_[A-Z]+|TIMESTAMP|TIME WITH TIME ZONE|TIME_NS|TIME|DATE'
    r'|INTERVAL|BIT|UUID)(?![\w"(])'
)


def rows(connection: Database, table: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a table, in their order, as values that JSON has."""
    relation = connection.table(name(table))
    names, types = relation.columns, list(relation.types)
    selected = ", ".join(
        f"CAST({name(column)} AS {_AS_TEXT.sub('VARCHAR', str(sql))})"
        for column, sql in zip(names, types, strict=True)
    )
    found = connection.execute(
        f"SELECT {selected} FROM {name(table)}{f' LIMIT {limit}' if limit is not None else ''}"
    )
    while batch := found.fetchmany(_BATCH):
        for row in batch:
            values = zip(names, row, types, strict=True)
            yield {column: _json(value, sql) for column, value, sql in values}


def _json(value: Any, sql: Any) -> Any:
    if value is None:
        return None
    kind = sql.id
    if str(sql) == "JSON":
        return _parsed(value)
    match kind:
        case "list" | "array":
            inner = dict(sql.children)["child"]
            return [_json(item, inner) for item in value]
        case "struct":
            return {key: _json(value[key], inner) for key, inner in sql.children}
        case "map":
            inner = dict(sql.children)
            # Keys that Python cannot hash come as two lists.
            apart = inner["key"].id in ("list", "array", "struct", "tuple", "map")
            found = zip(value["key"], value["value"], strict=True) if apart else value.items()
            pairs = [(_json(key, inner["key"]), _json(item, inner["value"])) for key, item in found]
            if all(isinstance(key, str) for key, _ in pairs):
                return dict(pairs)
            return [{"key": key, "value": item} for key, item in pairs]
        case _:
            pass
    if isinstance(value, str):
        return iso(value) if kind.startswith(("timestamp", "date")) else value
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):  # of a VARIANT, whose type says nothing of what is in it
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, bool | int | float):
        return value
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def _number(text: str) -> Any:
    """A number beyond the range of a double stays as it is spelt."""
    return found if math.isfinite(found := float(text)) else text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=str, parse_float=_number)
    except (ValueError, RecursionError):
        return text
