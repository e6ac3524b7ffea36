"""Stored objects as tables with types: CSV, JSON, JSON Lines and Parquet, the same for every action."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actions.stored import cells
from actions.stored.database import name, reading, text
from actions.stored.delimited import MAX_COLUMNS, Delimited, copy_table, splits
from actions.stored.encoding import to_utf8
from actions.stored.formats import declared, sniffed
from storage_lib.json_text import check_depth

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

_HEAD = 1 << 16
_LARGEST_VALUE = 1 << 28

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
        _load_delimited(connection, table, source, source.delimited.names)
        return
    reader = f"read_parquet({text(str(source.path))})"
    if source.format != "parquet":
        reader = (
            f"read_json({json_options(source)}, sample_size = -1, map_inference_threshold = {MAX_COLUMNS})"
        )
    with reading("the Parquet file" if source.format == "parquet" else "the JSON"):
        names = [each[0] for each in connection.execute(f"DESCRIBE FROM {reader}").fetchall()]
        if len(names) > MAX_COLUMNS:
            warn(f"the table has {len(names)} columns; the first {MAX_COLUMNS} are read")
        selected = ", ".join(map(name, names[:MAX_COLUMNS]))
        connection.execute(f"CREATE TABLE {name(table)} AS SELECT {selected} FROM {reader}")


def json_options(source: Source) -> str:
    """What DuckDB's readers of JSON are told: an array is one value a row, and so are lines."""
    with source.path.open("rb") as file:
        array = file.read(_HEAD).lstrip().startswith(b"[")
    form = "newline_delimited" if source.format == "jsonl" else "array" if array else "unstructured"
    largest = min(source.path.stat().st_size + 1024, _LARGEST_VALUE)
    return f"{text(str(source.path))}, format = '{form}', maximum_object_size = {largest}"


def _load_delimited(connection: Database, table: str, source: Source, names: list[str]) -> None:
    """Read it as text, look at what kinds of values each column has, and give it the type of these."""
    columns = [f"c{i}" for i in range(len(names))]
    types = ", ".join(f"{column}: 'VARCHAR'" for column in columns)
    with reading("the table"):
        connection.execute(
            f"CREATE TABLE cells AS FROM read_csv({text(str(source.path))}, columns = {{{types}}}, "
            "delim = ',', new_line = '\\n', quote = '\"', escape = '\"', header = false, "
            f"auto_detect = false, strict_mode = true, max_line_size = {1 << 27}, parallel = false)"
        )
    selected: list[str] = []
    for column, shown in zip(columns, names, strict=True):
        v = cells.value(column)
        values = (
            f"SELECT {v} AS v, count(*) AS n, count_if(length({column}) > length({v})) AS padded FROM cells"
        )
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
    connection.execute(f"CREATE TABLE {name(table)} AS SELECT {', '.join(selected)} FROM cells")
    connection.execute("DROP TABLE cells")
