"""Expansion within bounds: no more than the size in an object's mark, in pieces of limited size."""

from __future__ import annotations

import zlib
from collections.abc import Buffer, Iterator
from typing import TYPE_CHECKING, Any

from storage_lib.buffers import slices
from storage_lib.layers.compression.codecs import GZIP
from storage_lib.layers.compression.mark import Mark, damaged

if TYPE_CHECKING:
    from storage_lib.zstandard import ZstdFrames

PIECE_BYTES = 1024 * 1024
_SLICE_BYTES = 64 * 1024
"""How much is given to a decoder at a time: what it does not take at once is copied for each piece."""


class Expansion:
    """The bytes of an object, expanded as its stored bytes come in.

    :raises IntegrityError: by each method: the bytes are not what the layer stored.
    """

    def __init__(self, key: str, mark: Mark) -> None:
        self._key = key
        self._size = mark.size
        self._decoder = _frames() if mark.codec == "zstd" else _GzipMember()
        self._given = 0

    def pieces(self, stored: bytes) -> Iterator[bytes]:
        """What the next stored bytes expand to."""
        try:
            for piece in self._decoder.expand(stored):
                self._given += len(piece)
                if self._given > self._size:
                    raise damaged(self._key, f"it has more than {self._size} bytes")
                yield piece
        except self._decoder.errors as error:
            raise damaged(self._key, str(error)) from error

    def some(self, pieces: Iterator[bytes]) -> tuple[bytes, bool]:
        """The next of ``pieces``, together about `PIECE_BYTES`, and whether there may be more."""
        taken: list[bytes] = []
        total = 0
        for piece in pieces:
            taken.append(piece)
            total += len(piece)
            if total >= PIECE_BYTES:
                break
        return (taken[0] if len(taken) == 1 else b"".join(taken)), total >= PIECE_BYTES

    def end(self) -> None:
        """Check that all has been given."""
        if not self._decoder.ended or self._given != self._size:
            raise damaged(self._key, f"it ends after {self._given} of {self._size} bytes")

    def whole(self, stored: bytes) -> bytes:
        """All of it, from all that is stored."""
        data = b"".join(self.pieces(stored))
        self.end()
        return data


def expanded_frame(key: str, frame: bytes, size: int) -> bytes:
    """What a frame expands to. :raises IntegrityError: it does not expand to ``size`` bytes."""
    return Expansion(key, Mark("zstd", size)).whole(frame)


def _frames() -> ZstdFrames:
    from storage_lib.zstandard import ZstdFrames

    return ZstdFrames(PIECE_BYTES)


class _GzipMember:
    errors = (zlib.error,)

    def __init__(self) -> None:
        self._decoder: Any = zlib.decompressobj(GZIP)

    @property
    def ended(self) -> bool:
        return self._decoder.eof

    def expand(self, data: Buffer) -> Iterator[bytes]:
        for part in slices(data, _SLICE_BYTES):
            rest: Buffer = part
            more = True
            while more:
                if self._decoder.eof:
                    raise zlib.error("there are bytes behind its end")
                if piece := self._decoder.decompress(rest, PIECE_BYTES):
                    yield piece
                rest = self._decoder.unconsumed_tail or self._decoder.unused_data
                # A full piece may have left some in the decoder, without any bytes to go with it.
                more = bool(rest) or (len(piece) == PIECE_BYTES and not self._decoder.eof)
