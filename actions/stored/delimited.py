"""CSV and its kin: how a file is written, and a strict copy that DuckDB reads without a guess.

The delimiter is the one of ``,`` tab ``;`` ``|`` that splits the first rows into the same number of cells,
parsed with quoting, because counting characters is misled by quoted text. On a tie more cells win, except
that a comma which only stands between digits is a decimal comma.

The first row is the header when its cells are no numbers, dates or booleans and

* a column below holds typed values (``detected``), or
* all its cells are distinct and none occurs again in the column below (``assumed``: nothing proves it), or
* the content type says ``header=present`` (RFC 4180); ``header=absent`` rules it out (``declared``).

Otherwise columns are called ``column_1``, ``column_2`` … (``none``).
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import pairwise
from pathlib import Path

from actions.stored.errors import MalformedReportError

MAX_COLUMNS = 1_000
MAX_CELL = 131_072
MAX_LINE = 1 << 24
"""Characters between two line ends."""
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "null", "NULL", "Null", "NaN", "nan", "NAN")
DELIMITERS = ",\t;|"
_SAMPLE = 1 << 16
_SAMPLE_ROWS = 200
_PREAMBLE_ROWS = 20
_LISTED = 5
_REMEDY = (
    "quote cells that hold delimiters, quotes or line ends, and double the quotes inside them (RFC 4180)"
)
_DECLARED = re.compile(r"sep=([,\t;|])\r?\n?")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_TYPED = re.compile(
    r"[+-]?(?:\d[\d.]*+|\.\d++)(?:[eE][+-]?\d++)?|true|false|yes|no|\d{4}[-/]\d\d[-/]\d\d(?:[T ]\d\d:.*)?"
    r"|[a-z]{3,9}\.? \d{1,2},? \d{4}|\d{1,2}[ -][a-z]{3,9}\.?[ -]\d{4}|(?=\D*\d)[\W\d_]++",
    re.IGNORECASE,
)
_YEAR = re.compile(r"1[89]\d\d|20\d\d")

Warn = Callable[[str], None]


@dataclass(slots=True)
class Delimited:
    """How a file is written, and what was met on the way to its copy."""

    delimiter: str
    header: str
    names: list[str]
    width: int
    rows: int = 0
    ragged: int = 0
    blank: int = 0
    quoted: bool = True
    _short: list[int] = field(default_factory=list[int])
    _long: list[int] = field(default_factory=list[int])

    def warn(self, warn: Warn) -> None:
        if self.width > len(self.names):
            warn(f"the table has {self.width} columns; the first {len(self.names)} are read")
        if self.ragged:
            warn(
                f"{self.ragged} rows do not have {self.width} cells: first shorter ones (cells counted as "
                f"missing) in lines {self._short or 'none'}; first longer ones (surplus cells left out) "
                f"in lines {self._long or 'none'}"
            )
        if self.blank:
            warn(f"{self.blank} blank lines were skipped")
        if not self.quoted:
            warn("quotes are not balanced, so they were taken as characters, as in tab-separated values")

    def fitted(self, row: list[str], line: int) -> list[str]:
        if len(row) != self.width:
            self.ragged += 1
            lines = self._short if len(row) < self.width else self._long
            if len(lines) < _LISTED:
                lines.append(line)
            row = row + [""] * (self.width - len(row))
        return row[: len(self.names)]


def splits(head: str) -> bool:
    """Whether a delimiter splits all rows of a text's beginning alike."""
    _, rows, share = _dialect(head, "")
    return len(rows) > 1 and share == 1.0


def copy_table(source: Path, target: Path, delimiter: str, header: str | None, warn: Warn) -> Delimited:
    """Write the table as plain CSV: UTF-8, commas, quotes doubled, all rows of one width, no header.

    :param delimiter: the one that is declared, or "".
    :param header: ``present`` or ``absent``, if declared.
    :raises MalformedReportError: quotes that do not fit, a cell or line that is too long; names the line.
    """
    with source.open(encoding="utf-8", newline="") as file:
        sample = file.read(_SAMPLE)
        while len(sample.splitlines()) < 3 and len(sample) < MAX_LINE and (more := file.read(len(sample))):
            sample += more  # very wide rows: two whole ones are the least that says anything
    found, rows, _ = _dialect(sample, delimiter)
    csv.field_size_limit(MAX_CELL)
    try:
        return _copied(source, target, found, rows, header, True, warn)
    except _QuotesError as error:
        # text/tab-separated-values (IANA) has no quoting: there a quote is a letter like any other.
        if found != "\t":
            raise MalformedReportError(str(error), field="data", remedy=_REMEDY) from None
    rows = list(_Rows(StringIO(sample, newline=""), found, quoted=False))
    return _copied(source, target, found, rows[:_SAMPLE_ROWS], header, False, warn)


class _QuotesError(Exception):
    pass


class _Rows:
    """The rows of a file that are not blank, and how many lines were read or skipped on the way."""

    def __init__(self, lines: Iterable[str], delimiter: str, *, quoted: bool = True, skip: int = 0) -> None:
        self._lines = lines
        self._skip = skip
        self._options = (delimiter, quoted)
        self.line = self.blank = 0

    def __iter__(self) -> Iterator[list[str]]:
        delimiter, quoted = self._options
        lines = self._bounded()
        for _ in range(self._skip):
            next(lines, None)
        reader = csv.reader(
            lines,
            delimiter=delimiter,
            strict=quoted,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        self.line = self._skip + 1
        try:
            for row in reader:
                if row:
                    yield row
                else:
                    self.blank += 1
                self.line = self._skip + reader.line_num + 1
        except csv.Error as error:
            if "field larger" in str(error):
                raise _too_long(self.line, f"a cell has over {MAX_CELL:,} characters") from error
            how = (
                "a quote is never closed" if "unexpected end" in str(error) else "text stands behind a quote"
            )
            raise _QuotesError(f"line {self.line}: {how}") from error

    def _bounded(self) -> Iterator[str]:
        read = getattr(self._lines, "readline")  # noqa: B009 - any text stream
        while line := read(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise _too_long(self.line, f"it has over {MAX_LINE:,} characters")
            yield line


def _copied(
    source: Path,
    target: Path,
    delimiter: str,
    sample: list[list[str]],
    header: str | None,
    quoted: bool,
    warn: Warn,
) -> Delimited:
    with (
        source.open(encoding="utf-8", newline="") as file,
        target.open("w", encoding="utf-8", newline="") as copy,
    ):
        skip = 1 if _DECLARED.match(file.read(6)) else 0
        file.seek(0)
        notes: list[str] = []
        result, before = _layout(delimiter, sample, header, notes.append)
        result.quoted = quoted
        rows = _Rows(file, delimiter, quoted=quoted, skip=skip)
        writer = csv.writer(copy, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for number, row in enumerate(rows):
            if number >= before:
                writer.writerow(result.fitted(row, rows.line))
                result.rows += 1
        result.blank = rows.blank
    for note in notes:
        warn(note)
    result.warn(warn)
    return result


def _dialect(sample: str, delimiter: str) -> tuple[str, list[list[str]], float]:
    """The delimiter, the first rows split by it, and the share of these that have the usual width."""
    if (declared := _DECLARED.match(sample)) and not delimiter:
        return declared[1], _parsed(sample[declared.end() :], declared[1])[0], 1.0
    decimal_comma = "," in sample and len(_DECIMAL_COMMA.findall(sample)) == sample.count(",")
    best: tuple[tuple[float, int], str, list[list[str]]] | None = None
    for candidate in delimiter or DELIMITERS:
        rows, fits = _parsed(sample, candidate)
        width, share = _usual_width(rows)
        # A quote that is left among the cells, or does not fit, speaks against the delimiter.
        quotes = sum('"' in "".join(row) for row in rows) / max(1, len(rows)) if '"' in sample else 0.0
        rank = (share - quotes - (not fits), 0 if candidate == "," and decimal_comma else width)
        if best is None or rank > best[0]:
            best = rank, candidate, rows
    assert best is not None  # noqa: S101 - there is a candidate
    return best[1], best[2], max(best[0][0], 0.0)


def _parsed(sample: str, delimiter: str) -> tuple[list[list[str]], bool]:
    rows: list[list[str]] = []
    try:
        for row in _Rows(StringIO(sample, newline=""), delimiter):
            rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except (_QuotesError, MalformedReportError) as error:
        return rows, "never closed" in str(error)  # perhaps only the sample ends within a cell
    # The last row of a sample may be cut.
    return rows if len(rows) < 3 or len(sample) < _SAMPLE else rows[:-1], True


def _usual_width(rows: Sequence[Sequence[str]]) -> tuple[int, float]:
    widths = Counter(map(len, rows))
    single = widths.pop(1, 0)
    if not widths:
        return 1, 0.0
    width, count = max(widths.items(), key=lambda item: (item[1], item[0]))
    # Mostly unsplit rows are one column of text in which the delimiter happens to occur.
    return (width, count / len(rows)) if count * 2 >= single else (1, 0.0)


def _layout(delimiter: str, rows: list[list[str]], declared: str | None, warn: Warn) -> tuple[Delimited, int]:
    """What the sample says, and how many rows come before the data."""
    width, share = _usual_width(rows)
    shown = min(width, MAX_COLUMNS)
    before = 0
    if width > 1 and share >= 0.5:
        while before < min(len(rows) - 1, _PREAMBLE_ROWS) and len(rows[before]) == 1:
            before += 1
    if before:
        warn(f"{before} rows before the table are not part of it: they have 1 cell, the others {width}")
    first, *rest = [[cell.strip() for cell in row] for row in rows[before:]] or [[]]
    header = "declared" if declared in ("present", "absent") else _header(first[:shown], rest)
    if header == "none" or (header == "declared" and declared == "absent"):
        return Delimited(delimiter, header, [f"column_{i + 1}" for i in range(shown)], width), before
    if header == "assumed":
        warn("the first row was taken as header, but no typed column proves it; header=absent makes it data")
    if len(first) == width - 1 and any(row[-1] for row in rest if len(row) == width):
        warn("the header has one name less than the rows have cells: the first column is taken as row names")
        first = ["", *first]
    names = disambiguated((first + [""] * shown)[:shown], warn)
    return Delimited(delimiter, header, names, width), before + 1


def _header(first: Sequence[str], rest: Sequence[Sequence[str]]) -> str:
    if not any(first) or any(cell in MISSING for cell in first if cell):
        return "none"
    typed = [cell for cell in first if _TYPED.fullmatch(cell)]
    if typed and not _years(typed, len(first)):
        return "none"
    below = [[row[i] for row in rest if i < len(row) and row[i] not in MISSING] for i in range(len(first))]
    for name, cells in zip(first, below, strict=True):
        if name and cells and sum(map(bool, map(_TYPED.fullmatch, cells))) >= 0.9 * len(cells):
            return "detected"
    named = all(first) and len(set(first)) == len(first)
    return "assumed" if named and not any(map(list.__contains__, below, first)) else "none"


def _years(typed: Sequence[str], width: int) -> bool:
    """Whether the names of a wide table (``country,2001,2002,2003``) are ascending years."""
    if not 2 < len(typed) < width or not all(map(_YEAR.fullmatch, typed)):
        return False
    steps = {int(b) - int(a) for a, b in pairwise(typed)}
    return len(steps) == 1 and min(steps) > 0


def disambiguated(names: Sequence[str], warn: Warn) -> list[str]:
    """Every name once, whatever its case, as in SQL: empty ones become ``column_n``, others ``…_2``."""
    result: list[str] = []
    taken, used = {name.casefold() for name in names}, set[str]()
    following: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        base = name or f"column_{position}"
        unique, n = base, following.get(base.casefold(), 2)
        while unique.casefold() in used or (unique != name and unique.casefold() in taken):
            unique, n = f"{base}_{n}", n + 1
        following[base.casefold()] = n
        if unique != name:
            warn(
                f"column {position} has {f'the name {name!r} again' if name else 'no name'}: it is {unique!r}"
            )
        used.add(unique.casefold())
        result.append(unique)
    return result


def _too_long(line: int, problem: str) -> MalformedReportError:
    return MalformedReportError(
        f"line {line}: {problem}", field="data", remedy="split it, or close the quote before it"
    )
