"""A profile of a stored report, computed from its bytes alone.

`profile` takes CSV and its kin (comma, tab, semicolon, pipe), JSON, JSON Lines, Markdown or plain text, and
returns one JSON object: plain values, finite numbers, string keys. It does no input or output, keeps no
state, and gives the same answer for the same bytes in every process. What it can not read for certain it
refuses; what it left out or assumed stands in ``warnings``. An empty report is refused.

::

    profile(b"day,rain\\n2024-01-01,0\\n2024-01-02,2.5\\n", content_type="text/csv")

    {"generated_by": "analyze_report/1", "format": "csv", "bytes": 37, "encoding": "utf-8", "warnings": [],
     "table": {"delimiter": ",", "header": "detected", "rows": 2, "column_count": 2,
               "duplicate_rows": 0, "complete_rows": 2, "ragged_rows": 0, "blank_lines": 0,
               "correlations": {"pairs": [], "rows": 2, "is_sampled": False},
               "columns": [
                 {"name": "day", "type": "date", "count": 2, "missing": 0, "distinct": 2,
                  "distinct_is_estimate": False, "unique": True,
                  "min": "2024-01-01", "max": "2024-01-02", "top": []},
                 {"name": "rain", "type": "number", …, "min": 0.0, "max": 2.5, "mean": 1.25, "stdev": 1.77,
                  "sum": 2.5, "quantiles": {"p05": …, "p25": …, "p50": …, "p75": …, "p95": …},
                  "quantiles_are_sampled": False, "zeros": 1, "negatives": 0,
                  "outliers": {"count": 0, "below": …, "above": …},
                  "histogram": {"edges": [11 numbers], "counts": [10 integers]}, "top": []}]}}

Beside the common keys there is exactly one of

``table``
    CSV; a JSON array of objects or plain values; JSON Lines likewise. ``type`` is integer, number, boolean,
    date, datetime, string, empty, mixed (then with ``types``: counts by type, and ``examples``), in JSON also
    object and array. Strings have ``length``; ``top`` lists the ten most frequent values and is empty for a
    ``unique`` column (a candidate key). ``missing_values`` counts each way of being missing, ``padded`` the
    cells with white space around them (not counted as part of the value), ``beyond_double`` numbers too large
    for one (left out of the figures).
``structure``
    any other JSON: ``root``, ``depth``, ``totals`` by type, and ``paths`` with types, counts, ranges, sizes.
``text``
    ``characters``, ``lines``, ``words``, ``unique_words``, ``paragraphs``, ``sentences``,
    ``average_sentence_words``, ``reading_minutes`` (200 words a minute), ``top_words``,
    ``longest_sentences``; for Markdown also ``markdown``: ``headings``, ``links``, ``images``,
    ``code_blocks``, ``tables``, ``list_items``, ``tasks``, ``quote_lines``, ``front_matter_lines``.

Time is linear in the bytes and memory a small multiple of them; where exactness would cost more there are
documented sketches (`actions.report.sketch`), and every figure that is not exact is flagged.
Limits: 1,000 columns, 131,072 characters a cell (``csv.field_size_limit()``), correlations over at most
50,000 sampled rows, fewer where many columns have missing values. A limit that was met is a warning. What
a cell means is documented in `actions.report.values`.
"""

from __future__ import annotations

from typing import Any

from actions.report.delimited import profile_delimited
from actions.report.encoding import decode
from actions.report.errors import MalformedReportError, UnsupportedReportError
from actions.report.formats import declared_format, parse_content_type, refuse_binary, sniff_format
from actions.report.jsonreport import profile_json, profile_json_lines
from actions.report.markdown import profile_markdown
from actions.report.prose import profile_text

__all__ = ["GENERATED_BY", "MalformedReportError", "UnsupportedReportError", "profile"]

GENERATED_BY = "analyze_report/1"


def profile(data: bytes, *, content_type: str | None = None, name: str = "") -> dict[str, Any]:
    """Profile a report.

    ``content_type`` decides the format, with its parameters ``charset`` and, for CSV, ``header`` (RFC 4180:
    present or absent); ``name`` (a key or file name) helps with its extension where the content type is
    absent, ``application/octet-stream`` or ``text/plain``; else the text itself is looked at.

    Raises `UnsupportedReportError` for a format or charset that is none of the known ones, and
    `MalformedReportError` for bytes that are not what they are declared to be, with the place and the remedy.
    """
    declared = parse_content_type(content_type)
    chosen = declared_format(declared, name)
    refuse_binary(data)
    source = decode(data, declared.parameters.get("charset"))
    kind, delimiter = chosen or sniff_format(source)
    warnings = list(source.warnings)
    warn = warnings.append
    match kind:
        case "csv":
            part = {"table": profile_delimited(source, delimiter, declared.parameters.get("header"), warn)}
        case "json":
            part = profile_json(source, warn)
        case "jsonl":
            part = profile_json_lines(source, warn)
        case "markdown":
            part = {"text": profile_markdown(source.text())}
        case "text":
            part = {"text": profile_text(source.text())}
    return {
        "generated_by": GENERATED_BY,
        "format": kind,
        "bytes": len(data),
        "encoding": source.encoding,
        "warnings": warnings,
        **part,
    }
