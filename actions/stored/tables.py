"""Stored objects as tables with types: CSV, JSON, JSON Lines and Parquet, the same for every action."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from actions.stored import cells
from actions.stored.database import name, reading, text
from actions.stored.delimited import MAX_COLUMNS, Delimited, copy_table, splits
from actions.stored.encoding import to_utf8
from actions.stored.errors import MalformedReportError
from actions.stored.formats import declared, sniffed
from storage_lib.json_text import check_depth

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

_HEAD = 1 << 16
_LARGEST_VALUE = 1 << 28
_CELLS = name("cells of a table")
"""A name that no table of a payload can have."""
_EXACT = 1 << 53
_LONGEST_INTEGER = 1e38

Warn = Callable[[str], None]


@dataclass(slots=True)
class Source:
    """A file whose format is known, in UTF-8 if it is text."""

    path: Path
    format: str
    encoding: str | None = None
    delimited: Delimited | None = None
    notes: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Of columns of delimited text: ``types``, ``missing_values``, ``padded``, where there are some."""


def prepare(path: Path, content_type: str | None, key: str, warn: Warn) -> Source:
    """Find out what a file is, and make it one that DuckDB reads without a guess. What is written on the way
    lies beside it.

    :raises UnsupportedReportError: the format or charset is none of the known ones.
    :raises MalformedReportError: text that is not what it is declared to be; names the place.
    :raises SerializationError: JSON that is nested more than 100 levels deep.
    """
    with path.open("rb") as file:
        known = declared(content_type, key, file.read(16))
    if known.format == "parquet":
        return Source(path, "parquet")
    path, encoding = to_utf8(path, known.parameters.get("charset"), warn)
    kind = known.format
    if not kind:
        with path.open(encoding="utf-8", newline="") as file:
            head = file.read(_HEAD)
        kind = sniffed(head, splits(head))
    if kind in ("json", "jsonl"):
        check_depth(path.read_bytes())
    if kind != "csv":
        return Source(path, kind, encoding)
    copy = path.with_suffix(".rows")
    return Source(
        copy, kind, encoding, copy_table(path, copy, known.delimiter, known.parameters.get("header"), warn)
    )


def load(connection: Database, table: str, source: Source, warn: Warn) -> None:
    """Make a table of a source.

    :raises MalformedReportError: the bytes are not what their format promises.
    """
    if source.delimited is not None:
        _load_delimited(connection, table, source, source.delimited.names, warn)
        return
    reader = f"read_parquet({text(str(source.path))})"
    if source.format != "parquet":
        reader = (
            # However rare each key is, it is a column; too many are one MAP.
            f"read_json({json_options(source)}, sample_size = -1, map_inference_threshold = {MAX_COLUMNS}, "
            "field_appearance_threshold = 0)"
        )
    with located(source), reading("the Parquet file" if source.format == "parquet" else "the JSON"):
        described = connection.execute(f"DESCRIBE FROM {reader}").fetchall()
        names = [each[0] for each in described]
        if names == ["json"] and str(described[0][1]).startswith("MAP("):
            warn(
                f"the records have no key, an empty one or over {MAX_COLUMNS}: "
                "they are one column, 'json', of maps"
            )
        if len(names) > MAX_COLUMNS:
            warn(f"the table has {len(names)} columns; the first {MAX_COLUMNS} are read")
        selected = ", ".join(map(name, names[:MAX_COLUMNS]))
        connection.execute(f"CREATE TABLE {name(table)} AS SELECT {selected} FROM {reader}")
    if source.format != "parquet":
        _warn_of_rounded(connection, table, warn)


@contextlib.contextmanager
def located(source: Source) -> Generator[None]:
    """:raises MalformedReportError: names the line and byte where JSON is malformed; DuckDB names another."""
    try:
        yield
    except MalformedReportError:
        if source.format == "parquet":
            raise
        with source.path.open("rb") as file:
            parts = enumerate(file, start=1) if source.format == "jsonl" else [(0, file.read())]
            for line, part in parts:
                if part.strip():
                    parsed(part, line)
        raise


def parsed(data: bytes, line: int) -> Any:
    """
    :param line: its number in the file, 0 if it is the file.
    :raises MalformedReportError: it is no JSON; names the line and the byte.
    """
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        place = f"line {line}: " if line else ""
        raise MalformedReportError(
            f"{place}{error}", field="data", remedy="store it again, whole and valid"
        ) from error


def json_options(source: Source) -> str:
    """What DuckDB's readers of JSON are told: an array is one value a row, and so are lines."""
    with source.path.open("rb") as file:
        array = file.read(_HEAD).lstrip().startswith(b"[")
    form = "newline_delimited" if source.format == "jsonl" else "array" if array else "unstructured"
    largest = min(source.path.stat().st_size + 1024, _LARGEST_VALUE)
    return f"{text(str(source.path))}, format = '{form}', maximum_object_size = {largest}"


def _load_delimited(connection: Database, table: str, source: Source, names: list[str], warn: Warn) -> None:
    """Read it as text, look at what kinds of values each column has, and give it the type of these."""
    columns = [f"c{i}" for i in range(len(names))]
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    with reading("the table"):
        connection.execute(
            f"CREATE TABLE {_CELLS} AS FROM read_csv({text(str(source.path))}, columns = {{{types}}}, "
            "delim = ',', new_line = '\\n', quote = '\"', escape = '\"', header = false, "
            f"auto_detect = false, strict_mode = true, max_line_size = {1 << 27}, parallel = false)"
        )
    selected: list[str] = []
    for column, shown in zip(columns, names, strict=True):
        v = cells.value(column)
        padded = f"count_if(length({column}) > length({v}))"
        values = f"SELECT {v} AS v, count(*) AS n, {padded} AS padded FROM {_CELLS}"
        found = connection.execute(
            "SELECT kind, CASE WHEN kind IS NULL THEN coalesce(v, '') END, sum(n)::BIGINT, max(length(v)), "
            f"sum(padded)::BIGINT FROM (SELECT *, {cells.kind('v')} AS kind FROM ({values} GROUP BY 1)) "
            "GROUP BY 1, 2 ORDER BY 3 DESC"
        ).fetchall()
        kinds = {kind: count for kind, _, count, *_ in found if kind}
        kind = cells.column_kind(kinds)
        notes: dict[str, Any] = {"type": cells.SHOWN.get(kind, kind)}
        if kind in ("mixed", "string") and len(kinds) > 1:
            notes["types"] = {cells.SHOWN.get(each, each): count for each, count in kinds.items()}
        if missing := {token: count for kind, token, count, *_ in found if not kind}:
            notes["missing_values"] = missing
        if spaced := sum(each[4] or 0 for each in found):
            notes["padded"] = spaced
        source.notes[shown] = notes
        longest = max((length for kind, _, _, length, _ in found if kind), default=0)
        selected.append(f"{cells.typed(v, kind, longest)} AS {name(shown)}")
    connection.execute(f"CREATE TABLE {name(table)} AS SELECT {', '.join(selected)} FROM {_CELLS}")
    connection.execute(f"DROP TABLE {_CELLS}")
    _warn_of_rounded(connection, table, warn)


def _warn_of_rounded(connection: Database, table: str, warn: Warn) -> None:
    """A column of DOUBLE may hold integers over 2**53: beside fractions, or too large for the JSON reader."""
    relation = connection.table(name(table))
    columns = [c for c, sql in zip(relation.columns, relation.types, strict=True) if sql.id == "double"]
    large = [f"bool_or(abs({name(c)}) BETWEEN {_EXACT} AND {_LONGEST_INTEGER})" for c in columns]
    if not large:
        return
    (found,) = connection.execute(f"SELECT {', '.join(large)} FROM {name(table)}").fetchall()
    for column in (column for column, rounded in zip(columns, found, strict=True) if rounded):
        warn(
            f"column {column!r} has numbers over 2**53, which are read as DOUBLE: "
            "their last digits may differ"
        )
