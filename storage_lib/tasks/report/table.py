"""A table profile, fed batch by batch: columns, duplicate and complete rows, correlations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from storage_lib.tasks.report.column import Column, Reader
from storage_lib.tasks.report.correlation import MAX_COLUMNS as CORRELATED_COLUMNS
from storage_lib.tasks.report.correlation import strong_pairs
from storage_lib.tasks.report.sketch import HashSet, Reservoir

MAX_COLUMNS = 1_000
CORRELATED_ROWS = 50_000
_CORRELATED_CELLS = 1_000_000


class Table:
    """Rows go in as columns (lists of equal length); `summary` gives the finished profile."""

    def __init__(self, reader: Reader, width: int, absent: Hashable) -> None:
        self._reader = reader
        self._absent = absent
        self._columns: list[Column] = []
        self._hashes = HashSet()
        sample = min(CORRELATED_ROWS, _CORRELATED_CELLS // max(1, width))
        self._sample: Reservoir[Sequence[Hashable]] = Reservoir(sample)
        self._complete = 0
        self.rows = 0
        self._grow(width)

    def add(
        self, columns: Sequence[Sequence[Hashable]], rows: int, hashes: Iterable[int] | None = None
    ) -> None:
        """Take a batch. More columns than before are new ones; ``hashes`` stand for whole rows."""
        self._grow(len(columns))
        cleaned: list[Sequence[Hashable]] = []
        incomplete: set[int] = set()
        for column, cells in zip(self._columns, columns, strict=True):
            values, absent = column.add(cells)
            cleaned.append(values)
            incomplete.update(absent)
        lines = list(zip(*cleaned, strict=True)) if cleaned else [()] * rows
        self._hashes.add(map(hash, lines) if hashes is None else hashes)
        self._sample.add(lines)
        self._complete += rows - len(incomplete)
        self.rows += rows

    def summary(self, names: Sequence[str], warn: Callable[[str], None]) -> dict[str, Any]:
        columns = [column.summary(name) for column, name in zip(self._columns, names, strict=True)]
        if mixed := [column["name"] for column in columns if column["type"] == "mixed"]:
            warn(f"columns that mix types: {listed(mixed)}")
        if padded := [column["name"] for column in columns if "padded" in column]:
            warn(f"white space around values was not counted as part of them in columns: {listed(padded)}")
        return {
            "rows": self.rows,
            "column_count": len(columns),
            "duplicate_rows": self.rows - self._hashes.distinct(),
            "complete_rows": self._complete,
            "columns": columns,
            "correlations": self._correlations(columns, warn),
        }

    def _correlations(self, columns: list[dict[str, Any]], warn: Callable[[str], None]) -> dict[str, Any]:
        numeric = [i for i, column in enumerate(columns) if column["type"] in ("integer", "number")]
        if len(numeric) > CORRELATED_COLUMNS:
            warn(f"correlations cover the first {CORRELATED_COLUMNS} of {len(numeric)} numeric columns")
            numeric = numeric[:CORRELATED_COLUMNS]
        rows = self._sample.items
        series = {
            columns[i]["name"]: [
                self._columns[i].number_of(row[i]) if i < len(row) else float("nan") for row in rows
            ]
            for i in numeric
        }
        return {"pairs": strong_pairs(series), "rows": len(rows), "is_sampled": not self._sample.complete}

    def _grow(self, width: int) -> None:
        while len(self._columns) < width:
            column = Column(self._reader)
            if self.rows:
                column.skip(self.rows, self._absent)
                self._complete = 0
            self._columns.append(column)


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first few of ``items`` for a warning."""
    text = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return text if len(items) <= most else f"{text} and {len(items) - most} more"
