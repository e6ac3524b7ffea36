"""What compresses: zstd in frames, gzip as one member."""

from __future__ import annotations

import zlib
from collections.abc import Buffer
from typing import Any

from storage_lib.config.compression import CompressionOptions

GZIP = 31
"""The format to zlib: window of 32 KiB, with gzip's header and CRC-32."""


class Zstd:
    """Compresses into frames that carry their size and a checksum, in any number of threads.

    A compressor takes longer to make than to compress a small value, so they are used again.
    """

    def __init__(self, level: int) -> None:
        from storage_lib.zstandard import zstd

        self._new = zstd.ZstdCompressor
        self._whole: Any = zstd.ZstdCompressor.FLUSH_FRAME
        parameters = zstd.CompressionParameter
        self._options: Any = {parameters.compression_level: level, parameters.checksum_flag: 1}
        self._idle: list[Any] = []

    def compress(self, data: Buffer) -> bytes:
        """One frame."""
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = self._new(options=self._options)
        frame = compressor.compress(data, self._whole)
        self._idle.append(compressor)
        return frame


class Gzip:
    def __init__(self, level: int) -> None:
        self._level = level

    def compress(self, data: Buffer) -> bytes:
        return zlib.compress(data, self._level, GZIP)

    def compressor(self) -> Any:
        """For the parts of a stream."""
        return zlib.compressobj(self._level, zlib.DEFLATED, GZIP)


def codec_of(options: CompressionOptions) -> Zstd | Gzip:
    return (Zstd if options.codec == "zstd" else Gzip)(options.chosen_level)
