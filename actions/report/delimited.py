"""CSV and its kin: rows streamed from the bytes into a table profile."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from actions.report.column import TEXT
from actions.report.dialect import Dialect, lay_out, sniff
from actions.report.encoding import Source
from actions.report.errors import MalformedReportError
from actions.report.table import MAX_COLUMNS, Table, is_sparse, listed

_BATCH_CELLS = 1 << 16
_LINE_END = re.compile(r"\r\n|\r|\n")

Row = list[str]


def profile_delimited(
    source: Source, delimiter: str | None, header: str | None, warn: Callable[[str], None]
) -> dict[str, Any]:
    """The ``table`` part for a delimited file. `MalformedReportError` names the line of a broken row."""
    dialect, sample, _ = sniff(source, delimiter)
    try:
        return _profile(source, dialect, sample, header, warn)
    except csv.Error:
        # text/tab-separated-values (IANA) has no quoting: there a quote is a letter like any other.
        if dialect.delimiter != "\t":
            raise _broken(source, dialect) from None
    literal = Dialect("\t", quoted=False)
    sample = list(islice(filter(None, literal.rows(source.open())), 200))
    try:
        table = _profile(source, literal, sample, header, warn)
    except csv.Error:
        raise _broken(source, literal) from None
    warn("quotes are not balanced, so they were taken as ordinary characters, as in tab-separated values")
    return table


def _profile(
    source: Source, dialect: Dialect, sample: list[Row], header: str | None, warn: Callable[[str], None]
) -> dict[str, Any]:
    warnings: list[str] = []
    layout = lay_out(sample, header, MAX_COLUMNS, warnings.append)
    width, shown = layout.width, len(layout.names)
    if width > shown:
        warnings.append(f"the table has {width} columns; the first {shown} are profiled")
    table = Table(TEXT, shown, "")
    lines = _Lines(dialect.skip_lines, layout.skip, width)
    with source.open() as stream:
        for _ in range(dialect.skip_lines):
            stream.readline()
        reader = dialect.rows(stream)
        for batch in _batches(reader):
            rows = lines.take(batch, dialect.skip_lines + reader.line_num)
            if lines.regular:
                table.add([list(column) for column in islice(zip(*rows, strict=True), shown)], len(rows))
            elif rows:
                _add_ragged(table, rows, shown)
    for warning in chain(warnings, lines.warnings()):
        warn(warning)
    summary = table.summary(layout.names, warn)
    return {
        "delimiter": dialect.delimiter,
        "header": layout.header,
        **summary,
        "ragged_rows": lines.ragged,
        "blank_lines": lines.blank,
    }


def _batches(reader: Iterable[Row]) -> Iterator[list[Row]]:
    """By cells, not by rows: these may be of any length."""
    batch: list[Row] = []
    cells = 0
    for row in reader:
        batch.append(row)
        cells += len(row) + 1
        if cells >= _BATCH_CELLS:
            yield batch
            batch, cells = [], 0
    if batch:
        yield batch


def _add_ragged(table: Table, rows: list[Row], shown: int) -> None:
    cut = [row[:shown] for row in rows]
    if is_sparse(sum(map(len, cut)), len(cut), shown):
        table.add_sparse([dict(enumerate(row)) for row in cut], shown)
        return
    filled = [row + [""] * (shown - len(row)) for row in cut]
    table.add([list(column) for column in zip(*filled, strict=True)], len(filled))


class _Lines:
    """Leaves out what is no row of the table, and remembers which rows are not as wide as it."""

    def __init__(self, line: int, skip: int, width: int) -> None:
        self._line = line + 1
        self._skip = skip
        self._width = width
        self._short: list[int] = []
        self._long: list[int] = []
        self.regular = True
        """Whether all rows of the last batch have the width of the table."""
        self.ragged = 0
        self.blank = 0
        self._lost = 0

    def take(self, batch: list[Row], last_line: int) -> list[Row]:
        self.regular = not self._skip and set(map(len, batch)) == {self._width}
        rows = batch if self.regular else list(self._rows(batch))
        self._line = last_line + 1
        return rows

    def warnings(self) -> Iterator[str]:
        if self.ragged:
            yield (
                f"{self.ragged} rows do not have {self._width} cells: first shorter ones (cells counted as "
                f"missing) in lines {listed(self._short) or 'none'}; first longer ones (surplus cells, "
                f"{self._lost} in all, left out of the columns) in lines {listed(self._long) or 'none'}"
            )
        if self.blank:
            yield f"{self.blank} blank lines were skipped"

    def _rows(self, batch: list[Row]) -> Iterator[Row]:
        line = self._line
        for row in batch:
            at = line
            line += 1 + _line_ends(row)
            if not row:
                self.blank += 1
                continue
            if self._skip:
                self._skip -= 1
                continue
            if len(row) == self._width:
                yield row
                continue
            self.ragged += 1
            if len(row) < self._width:
                if len(self._short) < 5:
                    self._short.append(at)
            else:
                if len(self._long) < 5:
                    self._long.append(at)
                self._lost += len(row) - self._width
            yield row


def _line_ends(row: Row) -> int:
    text = "".join(row)
    return len(_LINE_END.findall(text)) if "\n" in text or "\r" in text else 0


def _broken(source: Source, dialect: Dialect) -> MalformedReportError:
    """Read again, row by row, to name the line on which the broken row begins."""
    with source.open() as stream:
        for _ in range(dialect.skip_lines):
            stream.readline()
        reader = dialect.rows(stream)
        start = 1
        try:
            for _ in reader:
                start = reader.line_num + 1
        except csv.Error as error:
            line = dialect.skip_lines + start
            text = str(error)
            if "unexpected end" in text:
                reason, remedy = (
                    "opens a quote that is never closed",
                    "close the quote, or double it inside a cell",
                )
            elif "field limit" in text:
                limit = csv.field_size_limit()
                reason = f"has a cell of more than {limit:,} characters"
                remedy = "close the quote before it, or store such a text by itself"
            else:
                reason, remedy = f"is not readable ({text})", 'write a quote inside a quoted cell twice ("")'
            return MalformedReportError(
                f"line {line}: the row that begins here {reason}; {remedy}", field="data", remedy=remedy
            )
    raise AssertionError("a report that failed to parse parsed")
