"""What `verify` finds in the chain of one writer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from storage_lib.layers.audit.entries import UNREADABLE, Head, Seal, split


class Finding(msgspec.Struct, frozen=True):
    """A trace of tampering.

    :param kind: ``edited``, ``missing``, ``reordered``, ``inserted``, ``cut-off``, ``head`` or
        ``unverifiable``.
    :param where: the file, or the table.
    :param sequence: the number of the entry, the first of several; None if it is not about an entry.
    """

    kind: str
    where: str
    writer: str
    sequence: int | None
    detail: str

    def __str__(self) -> str:
        entry = "" if self.sequence is None else f", entry {self.sequence}"
        return f"{self.where}: writer {self.writer or '?'}{entry}: {self.kind}: {self.detail}"


class Report(msgspec.Struct):
    """What a log holds.

    :param entries: how many were read.
    :param writers: how many chains.
    :param findings: traces of tampering; none in a log that is as it was written.
    :param unsealed: entries after the last head of a writer that did not end in order, such as a process that
        was killed. Their chain holds, but it cannot be told whether more have followed.
    :param gaps: entries that a failing sink has not taken, as the log itself tells.
    :param notes: what is to be known and is no tampering.
    """

    entries: int = 0
    writers: int = 0
    findings: list[Finding] = []
    unsealed: int = 0
    gaps: int = 0
    notes: list[str] = []

    def find(self, kind: str, where: str, writer: str, sequence: int | None, detail: str) -> None:
        self.findings.append(Finding(kind, where, writer, sequence, detail))

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def remarks(self) -> list[str]:
        """The notes, and what ``unsealed`` and ``gaps`` mean."""
        said = list(self.notes)
        if self.unsealed:
            said.append(f"{self.unsealed} entries follow the last seal of a writer that did not end in order")
        if self.gaps:
            said.append(f"the sink failed, and {self.gaps} entries were not recorded")
        return said

    @property
    def summary(self) -> str:
        return f"{self.entries} entries of {self.writers} writers, {len(self.findings)} findings"


class _Told(msgspec.Struct):
    """What the context of a begin or of a gap tells."""

    count: int = 0
    known: list[tuple[str, int]] = []
    key: str = ""
    torn: bool = False


class Line(msgspec.Struct, gc=False):
    """What is needed of an entry to check its place."""

    writer: str
    seq: int
    prev: str = ""
    kind: str = "entry"
    context: msgspec.Raw = msgspec.Raw(b"{}")

    @property
    def follows_a_torn_file(self) -> bool:
        with suppress(msgspec.ValidationError):
            return self.kind == "begin" and self.told().torn
        return False

    def told(self) -> _Told:
        """:raises msgspec.ValidationError: the context is not that of a begin or of a gap."""
        return msgspec.json.decode(self.context, type=_Told)


class Keys:
    """The keys that a log may be sealed with, and whether it may have none."""

    def __init__(self, key: str | bytes | Sequence[str | bytes] | None, allow_unsealed: bool) -> None:
        given = [] if key is None else [key] if isinstance(key, str | bytes) else list(key)
        self._seals = {seal.name: seal for seal in map(Seal, given)}
        if not given or allow_unsealed:
            self._seals[""] = Seal(None)

    def seal(self, name: str) -> Seal | None:
        return self._seals.get(name)

    def lacks(self, name: str) -> str:
        if name:
            return f"it is sealed with the key {name}, which is not given"
        return "it is not sealed with a key, and only sealed logs are allowed"


class ChainCheck:
    """Reads the entries of one writer in the order in which they are stored."""

    def __init__(self, report: Report, keys: Keys, writer: str, head: Head | None) -> None:
        self._report = report
        self._keys = keys
        self._writer = writer
        self._head = head
        self._seal: Seal | None = None
        self._expected = 1
        self._prev: str | None = ""
        self._missing: list[tuple[int, int, str]] = []
        self._held: tuple[str, Line, str] | None = None
        self._displaced: dict[int, str] = {}
        self._count = 0
        self._where = ""
        self.known: dict[str, int] = {}
        """Other writers and how far they were, as the entries of this one tell."""
        self.is_unverifiable = False
        report.writers += 1

    def find(self, kind: str, where: str, sequence: int | None, detail: str) -> None:
        self._report.find(kind, where, self._writer, sequence, detail)

    def take(self, where: str, line: bytes) -> Line | None:
        """Check the next entry; return it if it is one."""
        self._where = where
        parts = split(line)
        entry: Line | None = None
        if parts is not None:
            with suppress(*UNREADABLE):
                entry = _decode(line)
        if parts is None or entry is None:
            self.find("edited", where, self._expected, "here stands something that is no entry")
            self._prev = None
            return None
        self._report.entries += 1
        seal = self._seal or self._found_seal(where, entry)
        if seal is None:
            return entry
        body, mark_bytes = parts
        mark = mark_bytes.decode("ascii", "replace")
        if not seal.is_on(body, mark_bytes):
            if entry.seq == self._expected:
                self.find("edited", where, entry.seq, "its hash is not that of its content")
                self._advance(entry.seq, mark)
            else:
                self.find(
                    "edited", where, self._expected, f"here stands a forged entry with the number {entry.seq}"
                )
                self._prev = None
            return entry
        if entry.writer != self._writer:
            self.find("inserted", where, entry.seq, f"an entry of the writer {entry.writer}")
        else:
            self._place(where, entry, mark)
        return entry

    def _place(self, where: str, entry: Line, mark: str) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            if self._expected <= entry.seq < held[1].seq:
                self._displaced[held[1].seq] = held[0]
            else:
                self._accept(*held)
        if entry.seq > self._expected:
            # Are those before it missing, or does it stand too early? The next entry tells.
            self._held = (where, entry, mark)
        elif entry.seq < self._expected:
            self._out_of_place(where, entry.seq)
        else:
            if self._prev is not None and entry.prev != self._prev:
                self.find("edited", where, entry.seq, "it does not follow from the entry before")
            self._accept(where, entry, mark)

    def _accept(self, where: str, entry: Line, mark: str) -> None:
        if entry.seq > self._expected:
            self._missing.append((self._expected, entry.seq, where))
        self._advance(entry.seq, mark)
        self._read(entry)

    def _found_seal(self, where: str, entry: Line) -> Seal | None:
        name = self._head.key if self._head is not None else ""
        if self._head is None:
            with suppress(msgspec.ValidationError):
                name = entry.told().key
        self._seal = self._keys.seal(name)
        if self._seal is None and not self.is_unverifiable:
            self.is_unverifiable = True
            if self._head is None:  # Else it was found there.
                self.find("unverifiable", where, None, self._keys.lacks(name))
        return self._seal

    def _advance(self, seq: int, mark: str) -> None:
        self._expected, self._prev = seq + 1, mark
        self._count = seq
        head = self._head
        if head is not None and head.count == seq and head.last != mark:
            self.find("edited", self._where, seq, "it is not the entry that the head was sealed with")

    def _read(self, entry: Line) -> None:
        if entry.kind not in ("gap", "begin"):
            return
        try:
            told = entry.told()
        except msgspec.ValidationError:
            self.find("edited", self._where, entry.seq, f"its context is not that of a {entry.kind}")
            return
        self._report.gaps += told.count
        self.known |= dict(told.known)

    def _out_of_place(self, where: str, seq: int) -> None:
        for n, (first, end, place) in enumerate(self._missing):
            if first <= seq < end:
                self.find("reordered", where, seq, "it does not stand between those around it")
                rest = [(first, seq, place), (seq + 1, end, place)]
                self._missing[n : n + 1] = [each for each in rest if each[0] < each[1]]
                return
        self.find("inserted", where, seq, "the entry stands here once more")

    def end(self, where: str) -> None:
        """All has been read."""
        if self._held is not None:
            self._accept(*self._held)
        for seq, place in self._displaced.items():
            self._out_of_place(place, seq)
        for first, end, place in self._missing:
            what = "it is missing" if end == first + 1 else f"it is missing, with all up to {end - 1}"
            self.find("missing", place, first, what)
        head = self._head
        if head is None or self.is_unverifiable:
            return
        if head.count > self._count:
            self.find(
                "cut-off",
                self._where or where,
                self._count + 1,
                f"the log ends with entry {self._count}, and its head tells of {head.count}",
            )
        elif head.count < self._count:
            if head.closed:
                self.find("inserted", self._where, head.count + 1, "it stands behind the end of the log")
            self._report.unsealed += self._count - head.count

    @property
    def count(self) -> int:
        return self._count


def read_head(report: Report, keys: Keys, where: str, writer: str, line: bytes) -> Head | None:
    """The head of a writer. One that is forged is a finding, and is not used."""
    parts = split(line)
    head: Head | None = None
    if parts is not None:
        with suppress(*UNREADABLE):
            head = msgspec.json.decode(line, type=Head)

    def find(kind: str, detail: str) -> None:
        report.find(kind, where, writer, None, detail)

    if parts is None or head is None or head.kind != "head" or head.writer != writer:
        find("head", "it is no head of this writer")
        return None
    seal = keys.seal(head.key)
    if seal is None:
        find("unverifiable", keys.lacks(head.key))
        return head
    if not seal.is_on(*parts):
        find("head", "its hash is not that of its content")
        return None
    return head


_decode = msgspec.json.Decoder(Line).decode
