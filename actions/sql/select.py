"""Running one statement over files, in a process of its own; and its rows, of any SQL type, as JSON.

Integers are numbers, exact whatever their size; DECIMAL is a string, for a JSON reader would round it; DOUBLE
is a number, and ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` where it is none. DATE, TIME and TIMESTAMP are ISO
8601, with ``Z`` where they have a time zone; INTERVAL is DuckDB's text (``1 month 2 days``), BLOB base64,
UUID and ENUM a string. A list is an array, a STRUCT an object, a MAP an object if its keys are strings and
else an array of ``{"key": …, "value": …}``; JSON is what it is, and a UNION what it holds.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from actions.report.columns import iso
from actions.stored.database import name
from actions.stored.errors import AnalysisLimitError, StatementRefusedError, UnsupportedReportError
from actions.stored.limits import Limits
from storage_lib.errors import StorageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

    from actions.stored.tables import Source

MAX_ROWS = 1_000
MAX_INLINE_BYTES = 256 * 1024
_RESULT = "result of the statement"
_BATCH = 1_000
# Python's own are narrower: no month, no nanosecond, no year 10000, no infinity.
_AS_TEXT = re.compile(
    r'(?<!["\w])(?:TIMESTAMP WITH TIME ZONE|TIMESTAMP_[A-Z]+|TIMESTAMP|TIME WITH TIME ZONE|TIME_NS|TIME|DATE'
    r'|INTERVAL|BIT|UUID)(?![\w"(])'
)


def select(
    sql: str, files: Mapping[str, tuple[Path, str | None, str]], output: Path | None, limits: Limits
) -> dict[str, Any]:
    """
    :param files: by the name of a table, where its bytes are, their content type, and their key.
    :param output: a file to write all rows to: Parquet if its name ends so, else JSON Lines.
    :raises StatementRefusedError: see `actions.sql.guard`; or DuckDB cannot run it.
    :raises AnalysisLimitError: it is too much for ``limits``.
    """
    from actions.sql.guard import check
    from actions.stored.database import database
    from actions.stored.tables import load, prepare

    warnings: list[str] = []
    sources: dict[str, Source] = {}
    for table, (path, content_type, key) in files.items():
        with _field(table):
            source = sources[table] = prepare(path, content_type, key, _told(table, warnings))
            if source.format in ("text", "markdown"):
                raise UnsupportedReportError(
                    f"{key!r} is {source.format}", limit="CSV, JSON, JSON Lines or Parquet"
                )
    folder = next(iter(files.values()))[0].parent
    opened = [source.path for source in sources.values()]
    with database(folder, limits, *opened, *([output] if output else [])) as connection:
        check(connection, sql, sources.keys())
        for table, source in sources.items():
            with _field(table):
                load(connection, table, source, _told(table, warnings))
            source.path.unlink()
        _run(connection, sql)
        relation = connection.table(name(_RESULT))
        columns = [{"name": c, "type": str(t)} for c, t in zip(relation.columns, relation.types, strict=True)]
        (count,) = connection.execute(f"SELECT count(*) FROM {name(_RESULT)}").fetchall()[0]
        shown: list[Any] = []
        size = 0
        for row in _rows(connection, _RESULT, MAX_ROWS):
            size += len(msgspec.json.encode(row))
            if size > MAX_INLINE_BYTES:
                break
            shown.append(row)
        if output is not None:
            _write(connection, output, limits)
    result = {"columns": columns, "row_count": count, "rows": shown, "truncated": len(shown) < count}
    return {**result, "warnings": warnings}


def _run(connection: Database, sql: str) -> None:
    import duckdb

    try:
        # It is known to be one SELECT: there is no way out of the statement around it.
        connection.execute(f"CREATE TABLE {name(_RESULT)} AS {sql}")
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error as error:
        told = str(error).partition("\n")[0]
        raise StatementRefusedError(told[:1000], field="sql") from error


def _write(connection: Database, output: Path, limits: Limits) -> None:
    from actions.stored.database import text

    if output.suffix == ".parquet":
        connection.execute(f"COPY {name(_RESULT)} TO {text(str(output))} (FORMAT parquet, COMPRESSION zstd)")
        return
    with output.open("wb") as file:
        for row in _rows(connection, _RESULT):
            file.write(msgspec.json.encode(row) + b"\n")
            if file.tell() > limits.disk_bytes:
                raise AnalysisLimitError(
                    "the result needs more temporary disk than it may have",
                    limit=f"{limits.disk_bytes >> 20} MiB",
                    remedy="select less, write Parquet, or raise AGENT_ANALYSIS_DISK_MB",
                )


@contextlib.contextmanager
def _field(table: str) -> Generator[None]:
    """An error of an object says which table it was to be."""
    try:
        yield
    except StorageError as error:
        error.field = f"tables.{table}"
        error.message = f"table {table!r}: {error.message}"
        raise


def _told(table: str, warnings: list[str]) -> Callable[[str], None]:
    return lambda warning: warnings.append(f"{table}: {warning}")


def _rows(connection: Database, table: str, limit: int | None = None) -> Iterator[dict[str, Any]]:
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
