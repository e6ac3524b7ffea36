"""Zstandard (RFC 8878): Python 3.14 brings it, for 3.13 it is a package. Imported where it is used."""

from __future__ import annotations

import sys
from collections.abc import Buffer, Iterator
from typing import Any

from storage_lib.buffers import slices
from storage_lib.errors import ConfigurationError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError as error:
        raise ConfigurationError(
            "zstd needs the package backports.zstd, which is not installed",
            field="compression",
            remedy="install agent-storage[compression], or use gzip",
        ) from error

__all__ = ["ZstdFrames", "zstd"]

_SLICE_BYTES = 64 * 1024
"""How much is given to a decoder at a time: what follows the end of a frame is copied for each frame."""
_MAX_WINDOW_LOG = 23
"""8 MiB: what every decoder of the content coding must allow, and an encoder may not exceed (RFC 9659)."""


class ZstdFrames:
    """Frames, one after the other, expanded as their bytes come in.

    :param most: of bytes in one piece.
    """

    errors = (zstd.ZstdError,)

    def __init__(self, most: int) -> None:
        self._most = most
        self._decoder: Any = None
        self.count = 0
        """How many have begun."""

    @property
    def ended(self) -> bool:
        """Whether the last one that has begun is complete."""
        return self._decoder is not None and self._decoder.eof

    def expand(self, data: Buffer) -> Iterator[bytes]:
        """What the next bytes expand to, in pieces. :raises ZstdError: they are not what they should be."""
        for part in slices(data, _SLICE_BYTES):
            rest: Buffer = part
            while rest:
                if self._decoder is None or self._decoder.eof:
                    self._decoder = zstd.ZstdDecompressor(options=_OPTIONS)
                    self.count += 1
                decoder = self._decoder
                if piece := decoder.decompress(rest, self._most):
                    yield piece
                while not (decoder.eof or decoder.needs_input):
                    if piece := decoder.decompress(b"", self._most):
                        yield piece
                rest = decoder.unused_data if decoder.eof else b""


_OPTIONS: Any = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
