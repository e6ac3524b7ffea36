"""How a delimited file is written: delimiter, lines before the table, header, width.

The delimiter is the one of ``,`` tab ``;`` ``|`` that splits the first rows into the same number of cells,
parsed with quoting, because counting characters is misled by quoted text. On a tie more cells win, except
that a comma which only stands between digits is a decimal comma.

The first row is the header when its cells are no numbers, dates or booleans and

* a column below holds typed values (``detected``), or
* all its cells are distinct and none occurs again in the column below (``assumed``: nothing proves it), or
* the content type says ``header=present`` (RFC 4180); ``header=absent`` rules it out (``declared``).

Otherwise columns are called ``column_1``, ``column_2`` … (``none``). Ascending years among the names of a
wide table (``country,2001,2002,2003``) do not prevent a header.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from actions.report.encoding import Source
from actions.report.values import MISSING_TEXT, classify_text

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = ",\t;|"
SAMPLE_ROWS = 200
_SAMPLE_CHARACTERS = 1 << 16
_DECLARED = re.compile(r"sep=([,\t;|])\r?\n?")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_NO_NAME = re.compile(r"(?=\D*\d)[\W\d_]+")
"""Digits and signs without a letter: "1,5" is not the name of a column."""
_PREAMBLE_ROWS = 20
_BROKEN = 0.25
"""What a delimiter loses in the comparison when the quotes do not fit it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    delimiter: str
    skip_space: bool = False
    quoted: bool = True
    skip_lines: int = 0
    """Physical lines before the first row (``sep=;``)."""

    def rows(self, lines: io.TextIOBase, strict: bool = True) -> CsvReader:
        """A strict reader: a quote left open or text behind a closing one is an error, never a guess."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            skipinitialspace=self.skip_space,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            strict=strict,
        )


@dataclass(frozen=True, slots=True)
class Layout:
    skip: int
    """Rows before the data: what precedes the table, and the header."""
    header: str
    width: int
    names: list[str]
    """Of the columns that are profiled, which may be fewer than ``width``."""


def sniff(source: Source, delimiter: str | None = None) -> tuple[Dialect, list[list[str]], float]:
    """The dialect, the first rows parsed with it, and the share of these that have the usual width.

    A share of 0 means that nothing splits the rows: one column.
    """
    sample, whole = _sample(source)
    declared = _DECLARED.match(sample)
    if declared and delimiter is None:
        lines = sample[declared.end() :]
        dialect = Dialect(declared[1], skip_lines=1)
        return dialect, _parse(dialect, lines, whole) or [], 1.0
    decimal_comma = "," in sample and len(_DECIMAL_COMMA.findall(sample)) == sample.count(",")
    found: list[tuple[tuple[float, int, int], Dialect, list[list[str]]]] = []
    explained: list[tuple[tuple[float, int, int], Dialect, list[list[str]]]] = []
    for candidate in delimiter or DELIMITERS:
        dialect = Dialect(candidate, skip_space=f'{candidate} "' in sample)
        if dialect.skip_space and _parse(dialect, sample, whole) is None:
            dialect = Dialect(candidate)
        rows, penalty = _parse(dialect, sample, whole), 0.0
        if rows is None:
            # A file with one broken quote still has its delimiter; reading it will name the line.
            rows, penalty = _parse(dialect, sample, whole, strict=False) or [], _BROKEN
            # With the wrong delimiter it is not one quote that is out of place.
            penalty += sum('"' in "".join(row) for row in rows) / max(1, len(rows))
        width, share = _usual_width(rows)
        wide = 0 if candidate == "," and decimal_comma else width
        found.append(((share - penalty, wide, max(map(len, rows), default=0)), dialect, rows))
        if penalty == 0 and '"' in sample and not any('"' in cell for row in rows for cell in row):
            explained.append(found[-1])
    # A delimiter under which every quote is a quote is right where another one leaves the quotes broken.
    found = explained or found
    # max() takes the first of equals: the comma.
    (share, _, _), dialect, rows = max(found, key=lambda candidate: candidate[0])
    return dialect, rows, max(share, 0.0)


def lay_out(rows: list[list[str]], declared: str | None, most: int, warn: Callable[[str], None]) -> Layout:
    """Find header, names and width in the first rows (blank ones already removed). Only the first ``most``
    columns are looked at."""
    width, share = _usual_width(rows)
    width = max(width, 1)
    shown = min(width, most)
    preamble = 0
    if width > 1 and share >= 0.5:
        while preamble < min(len(rows) - 1, _PREAMBLE_ROWS) and len(rows[preamble]) == 1:
            preamble += 1
    if preamble:
        warn(f"{preamble} rows before the table are not part of it: they have 1 cell, the others {width}")
    whole = rows[preamble:]
    unnamed = bool(whole) and len(whole[0]) == width - 1
    unnamed = unnamed and any(row[-1].strip() for row in whole[1:] if len(row) == width)
    rows = [[cell.strip() for cell in row[:most]] for row in whole]
    first, rest = (rows[0], rows[1:]) if rows else ([], [])
    header = _header(first, rest, declared)
    if header == "none" or (header == "declared" and declared == "absent"):
        return Layout(preamble, header, width, [f"column_{i + 1}" for i in range(shown)])
    if header == "assumed":
        warn("the first row was taken as header, but no typed column proves it; header=absent makes it data")
    if unnamed:
        warn("the header has one name less than the rows have cells: the first column is taken as row names")
        first = ["", *first]
    first = (first + [""] * (shown - len(first)))[:shown]
    return Layout(preamble + 1, header, width, disambiguated(first, warn))


def disambiguated(names: Sequence[str], warn: Callable[[str], None]) -> list[str]:
    """Every name once: empty ones become ``column_n``, repeated ones get ``_2``, ``_3`` …"""
    result: list[str] = []
    taken = set(names)
    used: set[str] = set()
    following: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        base = name or f"column_{position}"
        unique, n = base, following.get(base, 2)
        while unique in used or (unique != name and unique in taken):
            unique, n = f"{base}_{n}", n + 1
        following[base] = n
        if unique != name:
            problem = f"the name {name!r} again" if name else "no name"
            warn(f"column {position} has {problem}: called {unique!r}")
        used.add(unique)
        result.append(unique)
    return result


def _sample(source: Source) -> tuple[str, bool]:
    size = _SAMPLE_CHARACTERS
    while True:
        with source.open() as stream:
            sample = stream.read(size)
            whole = not stream.read(1)
        # Very wide rows: two complete ones are the least that says anything.
        if whole or len(sample.splitlines()) > 2:
            return sample, whole
        size *= 8


def _parse(dialect: Dialect, sample: str, whole: bool, strict: bool = True) -> list[list[str]] | None:
    rows: list[list[str]] = []
    reader = dialect.rows(io.StringIO(sample, newline=""), strict)
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) > SAMPLE_ROWS:
                return rows[:-1]
    except csv.Error as error:
        # The sample ends within a quoted cell; anything else means that this is not the delimiter.
        if strict and (whole or "unexpected end" not in str(error)):
            return None
        return rows
    return rows if whole or len(rows) < 2 else rows[:-1]


def _usual_width(rows: Sequence[Sequence[str]]) -> tuple[int, float]:
    widths = Counter(len(row) for row in rows)
    single = widths.pop(1, 0)
    if not widths:
        return 1, 0.0
    width, n = max(widths.items(), key=lambda item: (item[1], item[0]))
    # Mostly unsplit rows are one column of text in which the delimiter happens to occur.
    return (width, n / len(rows)) if n * 2 >= single else (1, 0.0)


def _header(first: Sequence[str], rest: Sequence[Sequence[str]], declared: str | None) -> str:
    if declared in ("present", "absent"):
        return "declared"
    if not any(first) or any(cell in MISSING_TEXT for cell in first if cell):
        return "none"
    typed = [cell for cell in first if _typed(cell) or _NO_NAME.fullmatch(cell)]
    if typed and not _years(typed, len(first)):
        return "none"
    below = [
        [row[i] for row in rest if i < len(row) and row[i] not in MISSING_TEXT] for i in range(len(first))
    ]
    for name, cells in zip(first, below, strict=True):
        if name and cells and sum(map(_typed, cells)) >= 0.9 * len(cells):
            return "detected"
    named = all(first) and len(set(first)) == len(first)
    return "assumed" if named and not any(map(list.__contains__, below, first)) else "none"


def _typed(cell: str) -> bool:
    return classify_text(cell)[0] != "string"


def _years(typed: Sequence[str], width: int) -> bool:
    if (
        len(typed) < 3
        or len(typed) == width
        or not all(re.fullmatch(r"1[89]\d\d|20\d\d", cell) for cell in typed)
    ):
        return False
    steps = {int(b) - int(a) for a, b in pairwise(typed)}
    return len(steps) == 1 and min(steps) > 0
