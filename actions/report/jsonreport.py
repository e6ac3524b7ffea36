"""JSON and JSON Lines: records become a table, anything else a summary of its structure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import batched
from typing import Any

import msgspec

from actions.report.column import JSON
from actions.report.dialect import disambiguated
from actions.report.encoding import Source
from actions.report.errors import MalformedReportError
from actions.report.structure import summarise
from actions.report.table import MAX_COLUMNS, Table, is_sparse
from actions.report.values import Marker, marked

_BATCH_ROWS = 2_000
_BYTE = re.compile(r"\(byte (\d+)\)")
# A string that is never closed reaches to the end, or a search would begin anew at each quote inside it.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_NUMBERS = re.compile(_STRING + r"|(-?\d[\d.eE+-]*+)", re.DOTALL)
_BRACKETS = re.compile(_STRING + r"|[\[{]|[\]}]", re.DOTALL)

Warn = Callable[[str], None]


def profile_json(source: Source, warn: Warn) -> dict[str, Any]:
    """``{"table": …}`` for an array of objects or of plain values, else ``{"structure": …}``."""
    data = source.utf8()
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise _broken(error, data, None) from error
    if isinstance(value, list) and value and (kinds := _kinds(value)):
        return {"table": _table(value, kinds, warn)}
    return {"structure": summarise(value, warn)}


def profile_json_lines(source: Source, warn: Warn) -> dict[str, Any]:
    """As `profile_json` over the lines; `MalformedReportError` names the first line that is no JSON."""
    data = source.utf8()
    starts = {line[:1] for _, line in _lines(data)}
    kinds = "object" if starts == {b"{"} else "scalar" if not starts & {b"{", b"["} else ""
    blank = data.count(b"\n") + (not data.endswith(b"\n")) - sum(1 for _ in _lines(data))
    if blank:
        warn(f"{blank} blank lines were skipped")
    values = (_decoded(number, line) for number, line in _lines(data))
    if kinds:
        return {"table": _table(values, kinds, warn)}
    return {"structure": summarise(list(values), warn)}


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    start, number = 0, 1
    while start < len(data):
        end = data.find(b"\n", start)
        end = len(data) if end < 0 else end
        if line := data[start:end].strip():
            yield number, line
        start, number = end + 1, number + 1


def _decoded(number: int, line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError) as error:
        raise _broken(error, line, number) from error


def _kinds(values: list[Any]) -> str:
    types = set(map(type, values))
    if types == {dict}:
        return "object"
    return "" if types & {dict, list} else "scalar"


def _table(values: Iterable[Any], kinds: str, warn: Warn) -> dict[str, Any]:
    records = _Records()
    for batch in batched(values, _BATCH_ROWS, strict=False):
        records.add(batch, flat=kinds == "scalar")
    if records.lost:
        warn(
            f"records have over {MAX_COLUMNS} different keys; {records.lost} values under others are left out"
        )
    names = disambiguated([".".join(path) or "(empty)" for path in records.paths], warn)
    note = {
        "object": "an array of objects; objects inside them are flattened one level (a.b)",
        "scalar": "an array of plain values, shown as one column",
    }[kinds]
    return {"records": note, **records.summary(names, warn)}


class _Records:
    """Collects records into columns, one for each path of one or two keys, in order of appearance."""

    def __init__(self) -> None:
        self.paths: dict[tuple[str, ...], int] = {}
        self.lost = 0
        self._table: Table | None = None

    def add(self, batch: tuple[Any, ...], flat: bool) -> None:
        rows: list[dict[int, Hashable]] = []
        for record in batch:
            row: dict[int, Hashable] = {}
            for path, value in [(("value",), record)] if flat else _flattened(record):
                index = self.paths.get(path)
                if index is None:
                    if len(self.paths) >= MAX_COLUMNS:
                        self.lost += 1
                        continue
                    index = self.paths[path] = len(self.paths)
                row[index] = marked(value)
            rows.append(row)
        if self._table is None:
            self._table = Table(JSON, len(self.paths), Marker.ABSENT)
        # Whole records are compared, also below the level that has columns.
        hashes = [hash(msgspec.json.encode(record, order="sorted")) for record in batch]
        if is_sparse(sum(map(len, rows)), len(rows), len(self.paths)):
            self._table.add_sparse(rows, len(self.paths), hashes)
            return
        columns: list[list[Hashable]] = [[Marker.ABSENT] * len(rows) for _ in self.paths]
        for i, row in enumerate(rows):
            for index, value in row.items():
                columns[index][i] = value
        self._table.add(columns, len(rows), hashes)

    def summary(self, names: list[str], warn: Warn) -> dict[str, Any]:
        table = self._table or Table(JSON, 0, Marker.ABSENT)
        return table.summary(names, warn)


def _flattened(record: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in record.items():
        if isinstance(value, dict) and value:
            for inner, deeper in value.items():
                yield (key, inner), deeper
        else:
            yield (key,), value


def _broken(error: Exception, data: bytes, line: int | None) -> MalformedReportError:
    text = data.decode("utf-8")
    if isinstance(error, RecursionError):
        problem, at, remedy = "nested too deeply", _deepest(text), "store it less nested"
    elif "out of range" in str(error):
        problem, at, remedy = (
            "a number beyond the range of a double",
            _first_huge(text),
            "write it as a string",
        )
    else:
        problem, at = _locate(error, text)
        remedy = (
            "correct the JSON there" if line else "correct the JSON there, or name the format it really has"
        )
    before = text[:at]
    row, column = line or before.count("\n") + 1, at - before.rfind("\n")
    return MalformedReportError(
        f"line {row}, column {column}: {problem}; {remedy}", field="data", remedy=remedy
    )


def _locate(error: Exception, text: str) -> tuple[str, int]:
    # msgspec's offsets may be one off, so the standard library, which is slower, says where it is.
    try:
        json.loads(text)
    except json.JSONDecodeError as located:
        return located.msg, located.pos
    except (ValueError, RecursionError):
        pass
    found = _BYTE.search(str(error))
    offset = int(found[1]) if found else 0
    return _BYTE.sub("", str(error)).strip(), len(text.encode()[:offset].decode("utf-8", "ignore"))


def _first_huge(text: str) -> int:
    for match in _NUMBERS.finditer(text):
        number = match[1]
        try:
            # As many digits as Python refuses to convert are beyond the range too.
            if number and float(number) in (float("inf"), float("-inf")):
                return match.start(1)
        except ValueError:
            continue
    return 0


def _deepest(text: str) -> int:
    depth = deepest = offset = 0
    for match in _BRACKETS.finditer(text):
        token = match[0]
        if token in ("[", "{"):
            depth += 1
            if depth > deepest:
                deepest, offset = depth, match.start()
        elif token in ("]", "}"):
            depth -= 1
    return offset
