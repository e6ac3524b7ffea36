"""A table profile, fed batch by batch: columns, duplicate and complete rows, correlations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from actions.report.column import Column, Reader
from actions.report.correlation import MAX_COLUMNS as CORRELATED_COLUMNS
from actions.report.correlation import strong_pairs
from actions.report.sketch import HashSet, Reservoir

MAX_COLUMNS = 1_000
CORRELATED_ROWS = 50_000
_CORRELATED_CELLS = 1_000_000
_SPARSE = 4
"""A batch with a cell in fewer than one place of so many is taken cell by cell."""


def is_sparse(cells: int, rows: int, width: int) -> bool:
    """Whether so many cells of a batch are better given to `Table.add_sparse`: filling up the others would
    take longer than the report is long."""
    return cells * _SPARSE < rows * width


class Table:
    """Rows go in as columns (lists of equal length) or, where most cells are absent, as mappings of the
    others; `summary` gives the finished profile."""

    def __init__(self, reader: Reader, width: int, absent: Hashable) -> None:
        self._reader = reader
        self._absent = absent
        self._columns: list[Column] = []
        self._hashes = HashSet()
        sample = min(CORRELATED_ROWS, _CORRELATED_CELLS // max(1, width))
        self._sample: Reservoir[Sequence[Hashable] | dict[int, Hashable]] = Reservoir(sample)
        self._complete = 0
        self.rows = 0
        self._grow(width)

    def add(
        self, columns: Sequence[Sequence[Hashable]], rows: int, hashes: Iterable[int] | None = None
    ) -> None:
        """Take a batch. More columns than before are new ones; ``hashes`` stand for whole rows, which
        without them are compared up to their last cell that is not absent."""
        self._grow(len(columns))
        cleaned: list[Sequence[Hashable]] = []
        incomplete: set[int] = set()
        for column, cells in zip(self._columns, columns, strict=True):
            values, absent = column.add(cells)
            cleaned.append(values)
            incomplete.update(absent)
        lines = list(zip(*cleaned, strict=True)) if cleaned else [()] * rows
        if hashes is None:
            ends = cleaned and self._absent in cleaned[-1]
            hashes = map(hash, map(self._trimmed, lines) if ends else lines)
        self._hashes.add(hashes)
        self._sample.add(lines)
        self._complete += rows - len(incomplete)
        self.rows += rows

    def add_sparse(
        self, rows: Sequence[Mapping[int, Hashable]], width: int, hashes: Iterable[int] | None = None
    ) -> None:
        """As `add`, of rows that have few of the columns, in time that depends on the cells there are."""
        self._grow(width)
        taken: list[tuple[list[int], list[Hashable]]] = [([], []) for _ in range(width)]
        for at, row in enumerate(rows):
            for index, cell in row.items():
                positions, cells = taken[index]
                positions.append(at)
                cells.append(cell)
        cleaned: list[dict[int, Hashable]] = [{} for _ in rows]
        incomplete: set[int] = {at for at, row in enumerate(rows) if len(row) < width}
        for index, (column, (positions, cells)) in enumerate(zip(self._columns, taken, strict=True)):
            if cells:
                values, absent = column.add(cells)
                for at, value in zip(positions, values, strict=True):
                    cleaned[at][index] = value
                incomplete.update(positions[each] for each in absent)
            if len(cells) < len(rows):
                column.skip(len(rows) - len(cells), self._absent)
        self._hashes.add(
            (hash(self._trimmed(tuple(row.values()))) for row in cleaned) if hashes is None else hashes
        )
        self._sample.add(cleaned)
        self._complete += len(rows) - len(incomplete)
        self.rows += len(rows)

    def _trimmed(self, line: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        end = len(line)
        while end and line[end - 1] == self._absent:
            end -= 1
        return line[:end]

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
            columns[i]["name"]: [self._columns[i].number_of(self._cell(row, i)) for row in rows]
            for i in numeric
        }
        pairs = strong_pairs(series, warn)
        return {"pairs": pairs, "rows": len(rows), "is_sampled": not self._sample.complete}

    def _cell(self, row: Sequence[Hashable] | dict[int, Hashable], index: int) -> Hashable:
        if isinstance(row, dict):
            return row.get(index, self._absent)
        return row[index] if index < len(row) else self._absent

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
