"""Reading a log as a whole: files, text with entries among other lines, or a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from storage_lib.errors import KeyNotFoundError
from storage_lib.layers.audit.entries import UNREADABLE, Entry, Head
from storage_lib.layers.audit.findings import ChainCheck, Keys, Report, read_head
from storage_lib.layers.audit.heads import SUFFIX
from storage_lib.layers.audit.tables import columns, head_table, row_key
from storage_lib.patterns import pattern
from storage_lib.ports.tables import TableStore

_FILE = pattern(r"(\d{8}T\d{12}Z-[0-9a-f]{12})\.(\d{6,})\.jsonl")


def verify_files(
    path: str | os.PathLike[str],
    *,
    key: str | bytes | Sequence[str | bytes] | None = None,
    heads: str | os.PathLike[str] | None = None,
    allow_unsealed: bool = False,
) -> Report:
    """See `storage_lib.audit.verify`."""
    report, keys, place = Report(), Keys(key, allow_unsealed), Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{place} does not exist")
    only = None
    if place.is_file():
        named = _FILE.fullmatch(place.name)
        if named is None:
            return _verify_text(report, keys, place)
        only, place = named[1], place.parent
    _Folder(report, keys, place, Path(heads) if heads is not None else place / "heads", only).verify()
    return report


class _Folder:
    def __init__(self, report: Report, keys: Keys, folder: Path, heads: Path, only: str | None) -> None:
        self._report = report
        self._keys = keys
        self._folder = folder
        self._heads_folder = heads
        # Before the entries: those of a running process go on, and its head with them.
        self._heads = {
            found.name.removesuffix(SUFFIX): found
            for found in sorted(heads.glob(f"*{SUFFIX}"))
            if only in (None, found.name.removesuffix(SUFFIX))
        }
        self._lines = {writer: found.read_bytes() for writer, found in self._heads.items()}
        self._files: dict[str, list[Path]] = {}
        for found in sorted(folder.glob("*.jsonl")):
            named = _FILE.fullmatch(found.name)
            if named is None:
                report.find("inserted", str(found), "", None, "no file of this log")
            elif only in (None, named[1]):
                self._files.setdefault(named[1], []).append(found)
        self._known: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._unverifiable: set[str] = set()
        self._only = only

    def verify(self) -> None:
        if not self._files and not self._heads:
            raise FileNotFoundError(f"there is no audit log in {self._folder}")
        for writer in sorted({*self._files, *self._heads}):
            self._verify_writer(writer)
        if self._only is None:
            self._verify_known()

    def _verify_writer(self, writer: str) -> None:
        files, where = self._files.get(writer, []), str(self._heads.get(writer, self._heads_folder))
        head = None
        if writer in self._lines:
            head = read_head(self._report, self._keys, where, writer, self._lines[writer].rstrip(b"\n"))
            if not files and head is not None and head.count == 0:
                self._counts[writer] = 0
                return  # It died before its first entry.
        else:
            self._report.find(
                "head", str(files[0]), writer, None, f"its head is missing in {self._heads_folder}"
            )
        check = ChainCheck(self._report, self._keys, writer, head)
        torn = ""
        for path in files:
            begun = False
            for line, whole in _lines(path):
                if not whole:
                    torn = str(path)
                    continue
                entry = check.take(str(path), line)
                if torn and not begun and not (entry is not None and entry.follows_a_torn_file):
                    check.find("edited", torn, None, "an incomplete line at its end")
                begun, torn = True, ""
        check.end(where)
        if torn:
            if head is not None and head.closed:
                check.find("inserted", torn, None, "an incomplete line behind the end of the log")
            else:
                self._report.notes.append(f"{torn}: its last line is incomplete: the process died writing it")
        self._counts[writer] = check.count
        if check.is_unverifiable:
            self._unverifiable.add(writer)
        for other, count in check.known.items():
            self._known[other] = max(count, self._known.get(other, 0))

    def _verify_known(self) -> None:
        """What later writers have seen of earlier ones."""
        for writer, count in self._known.items():
            found = self._counts.get(writer)
            if writer in self._unverifiable:
                continue
            if found is None:
                detail = f"all of it is missing; a later writer has seen {count} entries"
                self._report.find("missing", str(self._heads_folder), writer, None, detail)
            elif found < count:
                place = self._files.get(writer)
                detail = f"the log ends with entry {found}, and a later writer has seen {count}"
                where = str(place[-1] if place else self._heads_folder)
                self._report.find("cut-off", where, writer, found + 1, detail)


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The lines of a file, and whether each has an end."""
    with path.open("rb") as file:
        for line in file:
            yield (line[:-1], True) if line.endswith(b"\n") else (line, False)


class _Named(msgspec.Struct):
    writer: str
    kind: str = "entry"


def _verify_text(report: Report, keys: Keys, path: Path) -> Report:
    """Entries as the logger gives them, in a text with other lines: what stands before the ``{`` of an entry,
    such as the time, is passed over."""
    heads: dict[str, Head | None] = {}
    found: dict[str, list[bytes]] = {}
    for line, _ in _lines(path):
        start = line.find(b'{"writer":"')
        if start < 0:
            continue
        text = line[start:].rstrip(b"\r")
        try:
            named = msgspec.json.decode(text, type=_Named)
        except UNREADABLE:
            report.find("edited", str(path), "", None, "a damaged entry")
            continue
        if named.kind == "head":
            heads[named.writer] = read_head(report, keys, str(path), named.writer, text)
        else:
            found.setdefault(named.writer, []).append(text)
    for writer in sorted({*found, *heads}):
        check = ChainCheck(report, keys, writer, heads.get(writer))
        for line in found.get(writer, []):
            check.take(str(path), line)
        check.end(str(path))
        if writer not in heads:
            report.notes.append(
                f"{path}: writer {writer} has no head: it cannot be told whether its end is cut off"
            )
    return report


async def verify_table(
    tables: TableStore,
    table: str = "audit",
    *,
    key: str | bytes | Sequence[str | bytes] | None = None,
    allow_unsealed: bool = False,
) -> Report:
    """See `storage_lib.audit.verify_table`."""
    report, keys = Report(), Keys(key, allow_unsealed)
    heads: dict[str, Head | None] = {}
    try:
        async for entity in tables.iterate(head_table(table)):
            line = str(entity.properties.get("head", "")).encode()
            heads[entity.row_key] = read_head(report, keys, head_table(table), entity.row_key, line)
    except KeyNotFoundError:
        report.notes.append(f"there is no table {head_table(table)!r}")
    writer, check = "", None
    seen: set[str] = set()
    async for entity in tables.iterate(table):
        if check is None or entity.partition_key != writer:
            if check is not None:
                check.end(table)
            writer = entity.partition_key
            seen.add(writer)
            check = ChainCheck(report, keys, writer, heads.get(writer))
            if writer not in heads:
                check.find("head", head_table(table), None, "its head is missing")
        properties: dict[str, Any] = dict(entity.properties)
        line = str(properties.pop("entry", "")).encode()
        if check.take(table, line) is None:
            continue
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except UNREADABLE:
            continue  # It was found to be forged.
        if entity.row_key != row_key(entry.seq):
            check.find("reordered", table, entry.seq, f"it stands in the row {entity.row_key}")
        if properties != columns(entry):
            check.find("edited", table, entry.seq, "its columns are not those of its entry")
    if check is not None:
        check.end(table)
    for other in sorted(heads.keys() - seen):
        head = heads[other]
        if head is None or head.count:
            ChainCheck(report, keys, other, head).end(table)
    return report
