"""What a log consists of: entries, each sealed and linked to the one before, and the head of their chain.

Each is one JSON object whose last field, ``hash``, seals all the others: HMAC-SHA-256 under the configured
key, or plain SHA-256 without one. An entry names its writer, its number and the hash of the entry before.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

_HASH = b',"hash":"'
_MARK_BYTES = 64 + len(b'"}')
_TAIL_BYTES = len(_HASH) + _MARK_BYTES
_BLOCK_BYTES = 64
_PURPOSE = b"agent-storage audit 1"

FORMAT = 1

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a forged line may raise; the last one if it is nested too deeply."""


class Entry(msgspec.Struct, omit_defaults=True, gc=False):
    """One entry.

    :param seq: its number in the chain of its writer, from 1.
    :param prev: the hash of the entry before; empty for the first.
    :param time: when the operation began.
    :param kind: ``entry``; ``intent``, written before an operation; ``begin`` of a file; ``gap``, for entries
        that could not be recorded.
    :param outcome: ``success``, or the code of the error.
    :param size: bytes of the object or message, as the caller knows it.
    :param ms: the duration in milliseconds.
    :param intent: the number of the entry that was written before the operation.
    :param source: what a copy read.
    """

    writer: str = ""
    seq: int = 0
    prev: str = ""
    time: datetime | None = None
    kind: str = "entry"
    actor: str = ""
    action: str = ""
    resource: str = ""
    outcome: str = ""
    size: int | None = None
    ms: float | None = None
    correlation: str | None = None
    intent: int | None = None
    source: str | None = None
    context: dict[str, Any] | None = None


class Head(msgspec.Struct):
    """How far a chain has come: the number and the hash of its last sealed entry.

    :param key: names the key, without telling it; empty for none.
    :param closed: whether the writer has ended, so that nothing may follow.
    """

    writer: str
    count: int
    last: str
    key: str
    closed: bool
    time: datetime
    kind: str = "head"


class Seal:
    """Seals with one key, or without."""

    def __init__(self, key: str | bytes | None) -> None:
        secret = key.encode() if isinstance(key, str) else key
        self.name = ""
        """Tells which key it is."""
        self._inner = self._outer = None
        if secret is not None:
            # RFC 2104 with the padded keys hashed beforehand, which takes a quarter of the time of
            # `hmac.digest`.
            derived = hmac.digest(secret, _PURPOSE, "sha256").ljust(_BLOCK_BYTES, b"\0")
            self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in derived))
            self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in derived))
            self.name = self.hash_of(b"name")[:16]

    def hash_of(self, body: bytes) -> str:
        if self._inner is None or self._outer is None:
            return hashlib.sha256(body).hexdigest()
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(body)
        outer.update(inner.digest())
        return outer.hexdigest()

    def is_on(self, body: bytes, mark: bytes) -> bool:
        """Whether ``mark`` is the hash of the body, compared in constant time."""
        return hmac.compare_digest(self.hash_of(body).encode(), mark)

    def sealed(self, what: Entry | Head) -> tuple[bytes, str]:
        """Its JSON with the hash, and the hash."""
        body = _encode(what)
        mark = self.hash_of(body)
        return b"".join((body[:-1], _HASH, mark.encode(), b'"}')), mark


def split(line: bytes) -> tuple[bytes, bytes] | None:
    """The sealed bytes and the hash of a line; None if it has none."""
    if line[-_TAIL_BYTES:-_MARK_BYTES] != _HASH or line[-2:] != b'"}':
        return None
    return line[:-_TAIL_BYTES] + b"}", line[-_MARK_BYTES:-2]


class Chain:
    """The chain of one writer: each entry follows the one before."""

    def __init__(self, seal: Seal) -> None:
        self.writer = new_writer()
        self.seal = seal
        self.seq = 0
        self.last = ""

    def link(self, entries: Sequence[Entry]) -> list[bytes]:
        """Number and seal the entries that come next, and return their lines. They belong to the chain once
        `advance` was called, so what could not be written leaves no hole."""
        lines: list[bytes] = []
        seq, last = self.seq, self.last
        for entry in entries:
            seq += 1
            entry.writer, entry.seq, entry.prev = self.writer, seq, last
            line, last = self.seal.sealed(entry)
            lines.append(line)
        self._next = (seq, last)
        return lines

    def advance(self) -> None:
        self.seq, self.last = self._next

    def head(self, count: int, last: str, *, closed: bool) -> Head:
        return Head(self.writer, count, last, self.seal.name, closed, datetime.now(UTC))


def new_writer() -> str:
    """Names sort by the time at which their writers began."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{os.urandom(6).hex()}"


_encode = msgspec.json.Encoder().encode
