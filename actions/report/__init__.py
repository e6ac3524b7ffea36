"""A profile of a stored report, computed from its bytes alone.

`profile` takes CSV and its kin (comma, tab, semicolon, pipe), JSON, JSON Lines, Parquet, Markdown or plain
text and returns one JSON object: plain values, finite numbers, string keys, the same for the same bytes. What
it cannot read for certain it refuses; what it left out or assumed stands in ``warnings``.

::

    {"generated_by": "analyze_report/2", "format": "csv", "bytes": 37, "encoding": "utf-8", "warnings": [],
     "table": {"delimiter": ",", "header": "detected", "rows": 2, "column_count": 2, "duplicate_rows": 0,
               "complete_rows": 2, "ragged_rows": 0, "blank_lines": 0, "correlations": {"pairs": []},
               "columns": [
                 {"name": "day", "type": "date", "count": 2, "missing": 0, "distinct": 2, "unique": True,
                  "min": "2024-01-01", "max": "2024-01-02", "top": []},
                 {"name": "rain", "type": "number", …, "min": 0.0, "max": 2.5, "mean": 1.25, "stdev": 1.77,
                  "sum": 2.5, "quantiles": {"p05": …, "p25": …, "p50": …, "p75": …, "p95": …}, "zeros": 1,
                  "negatives": 0, "outliers": {"count": 0, "below": …, "above": …}, "top": []}]}}

Beside the common keys there is exactly one of

``table``
    CSV; Parquet; a JSON array of objects or plain values; JSON Lines likewise. ``type`` is integer, number,
    boolean, date, datetime, string, empty, mixed (then with ``types``: counts by type), object or array.
    Objects in records are flattened one level (``a.b``). Strings have ``length``, in characters; ``top`` has
    the ten most frequent values and is empty for a ``unique`` column (a candidate key). In CSV,
    ``missing_values`` counts each way of being missing, and ``padded`` the cells with white space around them
    (not counted as part of the value); `actions.stored.cells` says what a cell means.
``structure``
    any other JSON: ``root``, ``depth``, ``totals`` by type, and ``paths`` with types, counts, ranges, sizes.
``text``
    ``characters``, ``lines``, ``words``, ``unique_words``, ``paragraphs``, ``sentences``,
    ``average_sentence_words``, ``reading_minutes`` (200 words a minute), ``top_words``,
    ``longest_sentences``; for Markdown also ``markdown``: ``headings``, ``links``, ``images``,
    ``code_blocks``, ``tables``, ``list_items``, ``tasks``, ``quote_lines``, ``front_matter_lines``.

Figures are exact, but for quantiles of over a million rows. A limit that was met (1,000 columns, 40
correlated ones, 500 paths) is a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actions.stored.limits import Limits

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

    from actions.stored.tables import Source

GENERATED_BY = "analyze_report/2"


def profile(path: Path, content_type: str | None, name: str, limits: Limits) -> dict[str, Any]:
    """Profile the report in a file; what is written on the way lies beside it.

    :param content_type: decides the format, with its parameters ``charset`` and, for CSV, ``header`` (RFC
        4180).
    :param name: a key or file name, whose extension helps where the content type says nothing.
    :raises UnsupportedReportError: the format or charset is none of the known ones.
    :raises MalformedReportError: the bytes are not what they are declared to be; names the place.
    :raises AnalysisLimitError: it is too much for ``limits``.
    """
    from actions.report import markdown, prose
    from actions.stored.tables import prepare

    warnings: list[str] = []
    size = path.stat().st_size
    source = prepare(path, content_type, name, warnings.append)
    if source.format == "markdown":
        part = {"text": markdown.summary(source.path)}
    elif source.format == "text":
        part = {"text": prose.summary(source.path)}
    else:
        part = _data(source, path.parent, limits, warnings.append)
    return {
        "generated_by": GENERATED_BY,
        "format": source.format,
        "bytes": size,
        **({"encoding": source.encoding} if source.encoding else {}),
        "warnings": warnings,
        **part,
    }


def _data(source: Source, folder: Path, limits: Limits, warn: Callable[[str], None]) -> dict[str, Any]:
    from actions.report import columns, structure
    from actions.stored.database import database
    from actions.stored.tables import load

    with database(folder, limits, source.path) as connection:
        if source.format in ("json", "jsonl") and not _is_table(connection, source):
            return {"structure": structure.summary(source.path, source.format == "jsonl", warn)}
        load(connection, "report", source, warn)
        table = columns.summary(connection, "report", source.notes, warn)
    if (found := source.delimited) is not None:
        how = {"delimiter": found.delimiter, "header": found.header}
        table = {**how, **table, "ragged_rows": found.ragged, "blank_lines": found.blank}
    return {"table": table}


def _is_table(connection: Database, source: Source) -> bool:
    """Whether JSON is rows: an array or lines of objects or of plain values, not of both, nor of arrays."""
    from actions.stored.database import reading
    from actions.stored.tables import json_options, located

    if "'unstructured'" in (options := json_options(source)):
        return False
    with located(source), reading("the JSON"):
        sql = f"SELECT DISTINCT json_type(json) FROM read_json_objects({options})"
        types = {kind for (kind,) in connection.execute(sql).fetchall()} - {"NULL"}
    return types == {"OBJECT"} or (bool(types) and types.isdisjoint({"OBJECT", "ARRAY"}))
