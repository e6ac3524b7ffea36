"""The figures of a table: of each column, of whole rows, and of pairs of columns. SQL does the counting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from actions.stored.database import name
from actions.stored.delimited import disambiguated

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

TOP = 10
SHOWN = 200
"""Characters of a value that are shown in ``top``."""
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
EXACT_ROWS = 1_000_000
"""Quantiles of more rows are estimated: exact ones need all values in memory."""
CORRELATED = 40
STRONG = 0.5
_KINDS = {
    "integer": "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT BIGNUM",
    "number": "FLOAT DOUBLE DECIMAL",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "datetime": "TIMESTAMP TIMESTAMP_S TIMESTAMP_MS TIMESTAMP_NS",
    "object": "STRUCT MAP",
}
_BY_TYPE = {sql: kind for kind, types in _KINDS.items() for sql in types.split()}

Warn = Callable[[str], None]


def summary(
    connection: Database, table: str, notes: Mapping[str, dict[str, Any]], warn: Warn
) -> dict[str, Any]:
    """Profile a table. Structs are flattened one level (``a.b``).

    :param notes: what is known of columns already; it is added, and its ``type`` wins.
    """
    flat = _flattened(connection, table)
    columns = dict(
        zip(disambiguated([each for each, _ in flat], warn), (each for _, each in flat), strict=True)
    )
    whole = " AND ".join(f"({value}) IS NOT NULL" for value, _ in columns.values()) or "false"
    rows, distinct, complete = _one(
        connection,
        f"SELECT count(*), count(DISTINCT hash({', '.join(value for value, _ in columns.values()) or 0})), "
        f"count(*) FILTER ({whole}) FROM {name(table)}",
    )
    found = [
        {"name": column, **_column(connection, table, value, kind, rows, notes.get(column, {}))}
        for column, (value, kind) in columns.items()
    ]
    if mixed := [each["name"] for each in found if each["type"] == "mixed"]:
        warn(f"columns that mix types: {_listed(mixed)}")
    if padded := [each["name"] for each in found if "padded" in each]:
        warn(f"white space around values was not counted as part of them in columns: {_listed(padded)}")
    numeric = {each["name"]: _double(columns[each["name"]][0]) for each in found if "mean" in each}
    if len(numeric) > CORRELATED:
        warn(f"correlations cover the first {CORRELATED} of {len(numeric)} numeric columns")
    if rows > EXACT_ROWS and numeric:
        warn(f"quantiles are estimates: there are over {EXACT_ROWS:,} rows")
    pairs = list(combinations(list(numeric.items())[:CORRELATED], 2))
    return {
        "rows": rows,
        "column_count": len(columns),
        "duplicate_rows": rows - distinct,
        "complete_rows": complete,
        "columns": found,
        "correlations": {"pairs": _correlations(connection, table, pairs)},
    }


def _flattened(connection: Database, table: str) -> list[tuple[str, tuple[str, str]]]:
    """Names of columns, each with the SQL of its value and its kind."""
    found: list[tuple[str, tuple[str, str]]] = []
    relation = connection.table(name(table))
    for column, sql in zip(relation.columns, relation.types, strict=True):
        if sql.id != "struct":
            found.append((column, (name(column), _kind(str(sql)))))
            continue
        for inner, inner_type in sql.children:
            value = f"struct_extract({name(column)}, '{str(inner).replace("'", "''")}')"
            found.append((f"{column}.{inner}", (value, _kind(str(inner_type)))))
    return found


def _kind(sql: str) -> str:
    if sql.endswith("]"):
        return "array"
    base = sql.partition("(")[0]
    return "mixed" if base == "JSON" else _BY_TYPE.get(base.removesuffix(" WITH TIME ZONE"), "string")


def _column(
    connection: Database, table: str, value: str, kind: str, rows: int, notes: dict[str, Any]
) -> dict[str, Any]:
    connection.execute(f"CREATE OR REPLACE TEMP VIEW one AS SELECT {value} AS v FROM {name(table)}")
    count, distinct = _one(connection, "SELECT count(v), count(DISTINCT v) FROM one")
    if kind == "mixed":
        found = connection.execute(
            "SELECT lower(json_type(v)), count(*) FROM one WHERE v IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
        types = {"varchar": "string", "ubigint": "integer", "bigint": "integer", "double": "number"}
        notes = {**notes, "types": {types.get(each, each): n for each, n in found}}
    unique = 0 < count == rows == distinct
    result: dict[str, Any] = {
        "type": kind if count else "empty",
        "count": count,
        "missing": rows - count,
        "distinct": distinct,
        "unique": unique,
        **notes,
    }
    if not count:
        return result
    match kind:
        case "integer" | "number":
            result |= _numbers(connection, kind == "integer", rows)
        case "boolean":
            (true,) = _one(connection, "SELECT count_if(v) FROM one")
            return {**result, "true": true, "false": count - true}
        case "date" | "datetime":
            low, high = _one(connection, "SELECT min(v)::VARCHAR, max(v)::VARCHAR FROM one")
            result |= {"min": iso(low), "max": iso(high)}
        case "string":
            low, high, mean = _one(
                connection,
                "SELECT min(n), max(n), avg(n) FROM (SELECT length(v::VARCHAR) AS n FROM one)",
            )
            result["length"] = {"min": low, "max": high, "mean": mean}
        case _:
            pass
    shown = "to_json(v)" if kind in ("object", "array") else "v"
    shown = "v" if kind in ("integer", "number") else f"left({shown}::VARCHAR, {SHOWN + 1})"
    top = connection.execute(
        f"SELECT {shown}{'::DOUBLE' if kind == 'number' else ''}, count(*) FROM one WHERE v IS NOT NULL "
        f"GROUP BY v ORDER BY 2 DESC, v LIMIT {0 if unique else TOP}"
    ).fetchall()
    moments = kind in ("date", "datetime")
    result["top"] = [{"value": iso(v) if moments else _cut(v), "count": n} for v, n in top]
    return result


def _numbers(connection: Database, whole: bool, rows: int) -> dict[str, Any]:
    """What is no finite double is left out."""
    quantile = "quantile_cont" if rows <= EXACT_ROWS else "approx_quantile"
    low, high, mean, stdev, total, quantiles, zeros, negatives, count = _one(
        connection,
        f"SELECT min({'v' if whole else 'x'}), max({'v' if whole else 'x'}), favg(x), stddev_samp(x), "
        f"{'sum(v)' if whole else 'fsum(x)'}, {quantile}(x, {list(QUANTILES.values())}), count_if(x = 0), "
        f"count_if(x < 0), count(x) FROM (SELECT v, {_double('v')} AS x FROM one)",
    )
    if not count:
        return {}
    spread = 1.5 * (quantiles[3] - quantiles[1])
    below, above = quantiles[1] - spread, quantiles[3] + spread
    outside = "SELECT count(*) FROM one WHERE v < ? OR v > ?"
    return {
        "min": low,
        "max": high,
        "mean": _finite(mean),
        "stdev": _finite(stdev),
        "sum": int(total) if whole else _finite(total),
        "quantiles": dict(zip(QUANTILES, quantiles, strict=True)),
        "zeros": zeros,
        "negatives": negatives,
        # Further from the middle half than 1.5 times its width (Tukey).
        "outliers": {"count": _one(connection, outside, [below, above])[0], "below": below, "above": above}
        if math.isfinite(spread)
        else None,
    }


def _correlations(
    connection: Database, table: str, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]]
) -> list[dict[str, Any]]:
    """The ten strongest pairs with ``|r| >= 0.5`` (Pearson), over the rows where both have a value."""
    if not pairs:
        return []
    wanted = ", ".join(f"corr({a}, {b}), regr_count({a}, {b})" for (_, a), (_, b) in pairs)
    values = _one(connection, f"SELECT {wanted} FROM {name(table)}")
    found: list[tuple[float, dict[str, Any]]] = []
    for ((a, _), (b, _)), r, rows in zip(pairs, values[::2], values[1::2], strict=True):
        # Two points always lie on a line; and r is no number where a column is constant.
        if r is not None and rows > 2 and abs(r) >= STRONG:
            found.append((-abs(r), {"columns": [a, b], "r": max(-1.0, min(1.0, r)), "rows": rows}))
    return [pair for _, pair in sorted(found, key=lambda each: each[0])[:TOP]]


def _double(value: str) -> str:
    return f"CASE WHEN isfinite(({value})::DOUBLE) THEN ({value})::DOUBLE END"


def _one(connection: Database, sql: str, parameters: list[Any] | None = None) -> tuple[Any, ...]:
    found = connection.execute(sql, parameters or []).fetchone()
    assert found is not None  # noqa: S101 - an aggregate has a row
    return found


def iso(moment: str) -> str:
    """DuckDB's text of a date or timestamp as ISO 8601: ``2024-02-29T10:00:00Z``. The year before 1 is 0."""
    text = moment.replace(" (BC)", "", 1)
    if text != moment:
        year, rest = text.split("-", 1)
        text = f"{'-' if int(year) > 1 else ''}{int(year) - 1:04}-{rest}"
    text = text.replace(" ", "T", 1)
    return text[:-3] + "Z" if text.endswith("+00") else text


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cut(value: Any) -> Any:
    return value[:SHOWN] + "…" if isinstance(value, str) and len(value) > SHOWN else value


def _listed(items: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(map(repr, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
