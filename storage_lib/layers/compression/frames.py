"""Objects in frames, each expanded on its own, and the table that tells where they are.

A large object is a sequence of zstd frames that expand to one size each, so that a range costs only the
frames it lies in. Behind them is a table in a frame that decoders skip: the "Zstandard Seekable Format"
(version 0.1.0, contrib/seekable_format of facebook/zstd), with the checksums that the frames carry.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from storage_lib.layers.compression.mark import Mark, damaged

FRAME_BYTES = 1024 * 1024
"""What a frame expands to: small for a range, large enough to shrink as well as the whole."""
MAX_TABLE_BYTES = 64 * 1024 * 1024

_HEADER = struct.Struct("<II")
_ENTRY = struct.Struct("<III")
_FOOTER = struct.Struct("<IBI")
_SKIPPED = 0x184D2A5E
_MAGIC = 0x8F92EAB1
_HAS_CHECKSUMS = 0x80


class Frame(NamedTuple):
    """A frame, and the size that it expands to."""

    stored: bytes
    size: int

    @property
    def entry(self) -> bytes:
        """Of the table: both sizes and the checksum."""
        return _ENTRY.pack(len(self.stored), self.size, checksum_of(self.stored))


def encoded_table(entries: Sequence[bytes]) -> bytes:
    """The table with the entry of each frame."""
    joined = b"".join(entries)
    footer = _FOOTER.pack(len(entries), _HAS_CHECKSUMS, _MAGIC)
    return _HEADER.pack(_SKIPPED, len(joined) + len(footer)) + joined + footer


def checksum_of(frame: bytes) -> int:
    """The checksum at the end of a frame: 32 bits of the XXH64 of what it expands to."""
    return int.from_bytes(frame[-4:], "little")


class Table:
    """Where the frames of an object are.

    :raises IntegrityError: by each method: the table is not the one of the object.
    """

    def __init__(self, key: str, mark: Mark) -> None:
        self._key = key
        self._mark = mark
        self._count = -(-mark.size // mark.frame)
        self._length = _HEADER.size + self._count * _ENTRY.size + _FOOTER.size
        if self._length > min(mark.stored, MAX_TABLE_BYTES):
            raise self._damaged()
        self._stored = array("I")
        self._checksums = array("I")
        self._offsets = array("Q")

    @property
    def span(self) -> tuple[int, int]:
        """Where the table is in the stored bytes."""
        return self._mark.stored - self._length, self._mark.stored

    def read(self, stored: bytes) -> None:
        """Read the stored bytes at `span`."""
        footer = _FOOTER.pack(self._count, _HAS_CHECKSUMS, _MAGIC)
        header = _HEADER.pack(_SKIPPED, self._length - _HEADER.size)
        if len(stored) != self._length or not stored.startswith(header) or not stored.endswith(footer):
            raise self._damaged()
        entries = array("I", stored[_HEADER.size : -_FOOTER.size])
        if sys.byteorder == "big":
            entries.byteswap()
        self._stored, sizes, self._checksums = entries[0::3], entries[1::3], entries[2::3]
        self._offsets = array("Q", accumulate(self._stored, initial=0))
        expected = array("I", [self._mark.frame]) * self._count
        if self._count:
            expected[-1] = self.size(self._count - 1)
        if sizes != expected or self._offsets[-1] != self.span[0]:
            raise self._damaged()
        # An incompressible frame grows by less than 1 %.
        if max(self._stored, default=0) > 2 * self._mark.frame + 1024:
            raise self._damaged()

    def frames(self, start: int, end: int) -> range:
        """The frames that have the bytes from ``start`` up to ``end``."""
        return range(start // self._mark.frame, (end - 1) // self._mark.frame + 1)

    def stored_span(self, frames: range) -> tuple[int, int]:
        """Where ``frames`` are in the stored bytes."""
        return self._offsets[frames.start], self._offsets[frames.stop]

    def start(self, index: int) -> int:
        """The offset in the object of what a frame expands to."""
        return index * self._mark.frame

    def size(self, index: int) -> int:
        """What a frame expands to."""
        return min(self._mark.frame, self._mark.size - index * self._mark.frame)

    def stored_size(self, index: int) -> int:
        return self._stored[index]

    def check(self, index: int, frame: bytes) -> None:
        """Check that the frame is the one that was stored here: it has the same checksum."""
        if checksum_of(frame) != self._checksums[index]:
            raise damaged(self._key, f"frame {index} is another")

    def _damaged(self) -> Exception:
        return damaged(self._key, "the table of its frames has changed")
