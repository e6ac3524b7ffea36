"""One column: its type over all rows, and the figures that fit that type.

While a column has at most 10,000 distinct values only these are counted, and everything is computed from the
counts at the end. Beyond that every batch is read into running figures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import date
from operator import is_not, mul
from typing import Any

from actions.report.numbers import Numbers
from actions.report.sketch import ValueCounter
from actions.report.values import (
    MISSING_JSON,
    MISSING_TEXT,
    Huge,
    Marker,
    classify_json,
    classify_text,
    number_key,
    order,
    read_numbers,
)

TOP = 10
MOSTLY_STRINGS = 0.1
"""In a text table, where everything can be a string, a column with at most this share of other values is one:
``1E5`` among airport codes is no number. Its ``types`` still show them."""
SHOWN = 200
"""Characters of a value that are shown in ``top`` and ``examples``."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How the cells of a table are understood: as text or as decoded JSON."""

    missing: frozenset[Hashable]
    classify: Callable[[Any], tuple[str, Any]]
    textual: bool


TEXT = Reader(frozenset(MISSING_TEXT), classify_text, textual=True)
JSON = Reader(frozenset(MISSING_JSON), classify_json, textual=False)


class Column:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._values: ValueCounter[Hashable] = ValueCounter()
        self._tally = _Tally(reader)
        self._rows = 0
        self._padded = 0
        self._floats = False
        self._missing: Counter[Hashable] = Counter()

    def skip(self, rows: int, marker: Hashable) -> None:
        """Account for rows that came before this column was first seen."""
        self._rows += rows
        self._missing[marker] += rows

    def add(self, cells: Sequence[Hashable]) -> tuple[Sequence[Hashable], list[int]]:
        """Take a batch; returns it without padding, and the positions where a value is missing."""
        self._rows += len(cells)
        values: Sequence[Hashable] = cells
        if self._reader.textual:
            values = list(map(str.strip, cells))  # pyright: ignore[reportArgumentType] - text cells are str
            self._padded += sum(map(is_not, values, cells))
        elif not self._floats:
            self._floats = float in set(map(type, values))
        missing = self._reader.missing
        absent: list[int] = []
        present = values
        if not missing.isdisjoint(values):
            absent = [i for i, value in enumerate(values) if value in missing]
            self._missing.update(values[i] for i in absent)
            present = [value for value in values if value not in missing]
        self._count(present)
        return values, absent

    def summary(self, name: str) -> dict[str, Any]:
        if self._values.exact:
            self._tally.add(list(self._values.counts), list(self._values.counts.values()))
        kind = self._kind()
        distinct, estimated = self._distinct(kind)
        present = self._tally.count
        result: dict[str, Any] = {
            "name": name,
            "type": kind,
            "count": present,
            "missing": self._rows - present,
            "distinct": distinct,
            "distinct_is_estimate": estimated,
            "unique": present > 0 and present == self._rows and distinct == present and not estimated,
        }
        if self._missing:
            result["missing_values"] = {_token(token): n for token, n in self._missing.most_common()}
        if self._padded:
            result["padded"] = self._padded
        result.update(self._figures(kind))
        if present and kind != "boolean":
            result["top"] = [] if result["unique"] else self._top(kind)
            if not self._values.exact:
                result["top_counts_are_low_by_at_most"] = self._values.error
        return result

    def number_of(self, cell: Hashable) -> float:
        """A cell of a numeric column as a float; nan where it has none."""
        if cell in self._reader.missing:
            return float("nan")
        try:
            return float(cell)  # pyright: ignore[reportArgumentType] - only called for numeric columns
        except OverflowError:
            return float("nan")

    def _count(self, present: Sequence[Hashable]) -> None:
        if not self._values.exact:
            self._values.add(present)
            self._tally.add(present, [1] * len(present))
        elif (spilled := self._values.add(present)) is not None:
            self._tally.add(list(spilled), list(spilled.values()))

    def _kind(self) -> str:
        kinds = set(self._tally.kinds)
        if "code" in kinds:
            # Codes make their column's numbers codes too: 12345 beside 00123 is no quantity.
            kinds = kinds - {"code", "integer", "number"} | {"string"}
        if self._reader.textual and "string" in kinds:
            others = self._tally.count - self._tally.kinds["string"] - self._tally.kinds["code"]
            if kinds == {"boolean", "string"} or others <= MOSTLY_STRINGS * self._tally.count:
                kinds = {"string"}
        if self._floats and "integer" in kinds:
            kinds.add("number")
        if kinds == {"integer", "number"}:
            return "number"
        if kinds == {"date", "datetime"}:
            return "datetime"
        if not kinds:
            return "empty"
        return kinds.pop() if len(kinds) == 1 else "mixed"

    def _distinct(self, kind: str) -> tuple[int, bool]:
        if self._values.exact and kind in ("integer", "number", "boolean", "date", "datetime"):
            # As values, not as written: 1.0 and 1.00 are one.
            parsed = (self._reader.classify(value)[1] for value in self._values.counts)
            numeric = kind in ("integer", "number")
            return len(set(map(number_key, parsed)) if numeric else set(parsed)), False
        return self._values.distinct()

    def _figures(self, kind: str) -> dict[str, Any]:
        tally = self._tally
        match kind:
            case "integer" | "number":
                return tally.numbers.summary()
            case "boolean":
                return {"true": tally.trues, "false": tally.count - tally.trues}
            case "date" | "datetime":
                return {"min": _iso(tally.earliest), "max": _iso(tally.latest)}
            case "string":
                return {
                    "length": tally.length(),
                    **({"types": self._types()} if len(self._types()) > 1 else {}),
                }
            case "mixed":
                numeric = tally.numbers.summary()
                return {
                    "types": self._types(),
                    "examples": {k: shown(v) for k, v in tally.examples.items() if k in self._types()},
                    **({"length": tally.length()} if tally.lengths else {}),
                    **({"numeric": numeric} if numeric else {}),
                }
            case _:
                return {}

    def _types(self) -> dict[str, int]:
        """Values by kind, where codes are the strings they are and make the numbers beside them strings."""
        types: Counter[str] = Counter()
        codes = "code" in self._tally.kinds
        for kind, n in self._tally.kinds.items():
            types["string" if kind == "code" or (codes and kind in ("integer", "number")) else kind] += n
        return dict(types.most_common())

    def _top(self, kind: str) -> list[dict[str, Any]]:
        if kind not in ("integer", "number"):
            common = self._values.counts.most_common(TOP)
            return [{"value": shown(value), "count": n} for value, n in common]
        merged: Counter[Hashable] = Counter()
        numbers: dict[Hashable, float] = {}
        for value, n in self._values.counts.items():
            number = self._reader.classify(value)[1]
            key = number_key(number)
            numbers.setdefault(key, number)
            merged[key] += n
        return [{"value": shown(numbers[key]), "count": n} for key, n in merged.most_common(TOP)]


class _Tally:
    """Running figures over weighted values, kept for every kind that turns up."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.count = 0
        self.kinds: Counter[str] = Counter()
        self.examples: dict[str, Hashable] = {}
        self.numbers = Numbers()
        self.trues = 0
        self.earliest: date | None = None
        self.latest: date | None = None
        self.lengths = 0
        self._shortest = 0
        self._longest = 0
        self._characters = 0

    def add(self, values: Sequence[Any], weights: Sequence[int]) -> None:
        if not values:
            return
        self.count += sum(weights)
        if self._reader.textual:
            self._measure(values, weights)
            if (numeric := read_numbers(values)) is not None:
                kind, parsed = numeric
                self._note(kind, values[0], sum(weights))
                self.numbers.add(parsed, weights)
                return
        self._sort(values, weights)

    def length(self) -> dict[str, Any]:
        """Lengths in characters."""
        return {"min": self._shortest, "max": self._longest, "mean": self._characters / max(1, self.lengths)}

    def _sort(self, values: Sequence[Any], weights: Sequence[int]) -> None:
        numbers: list[float] = []
        number_weights: list[int] = []
        moments: list[date] = []
        strings: list[str] = []
        string_weights: list[int] = []
        for value, weight in zip(values, weights, strict=True):
            kind, parsed = self._reader.classify(value)
            self._note(kind, value, weight)
            match kind:
                case "integer" | "number":
                    numbers.append(parsed)
                    number_weights.append(weight)
                case "date" | "datetime":
                    moments.append(parsed)
                case "boolean" if parsed:
                    self.trues += weight
                case _:
                    pass
            if not self._reader.textual and isinstance(value, str):
                strings.append(value)
                string_weights.append(weight)
        self._extend(moments)
        self.numbers.add(numbers, number_weights)
        self._measure(strings, string_weights)

    def _note(self, kind: str, example: Hashable, weight: int) -> None:
        self.kinds[kind] += weight
        if kind not in self.examples:
            self.examples[kind] = example

    def _extend(self, moments: list[date]) -> None:
        if not moments:
            return
        try:
            ends = [min(moments), max(moments)]
        except TypeError:
            # Days beside times, or times with an offset beside times without.
            ends = [min(moments, key=order), max(moments, key=order)]
        self.earliest = min(ends if self.earliest is None else [self.earliest, *ends], key=order)
        self.latest = max(ends if self.latest is None else [self.latest, *ends], key=order)

    def _measure(self, texts: Sequence[str], weights: Sequence[int]) -> None:
        if not texts:
            return
        lengths = list(map(len, texts))
        self._shortest = min(lengths) if not self.lengths else min(self._shortest, min(lengths))
        self._longest = max(self._longest, max(lengths))
        self._characters += sum(map(mul, lengths, weights))
        self.lengths += sum(weights)


def shown(value: Hashable) -> Any:
    """A value for the report: numbers as they are if JSON has them, long text cut."""
    if isinstance(value, Marker):
        return value.value
    if isinstance(value, Huge):
        return int(value.digits)
    if isinstance(value, str) and len(value) > SHOWN:
        return value[:SHOWN] + "…"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _token(token: Hashable) -> str:
    return token.value if isinstance(token, Marker) else str(token)


def _iso(moment: date | None) -> str | None:
    return moment.isoformat() if moment else None
