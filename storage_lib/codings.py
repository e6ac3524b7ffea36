"""Content codings (RFC 9110, 8.4.1): objects that another program stored compressed are expanded, within
limits; so are those of the compression layer where it is off."""

from __future__ import annotations

import zlib
from typing import Final

from storage_lib.errors import SerializationError

MAX_RATIO: Final = 100
"""How many times larger than the stored bytes the expanded bytes may be, above `SMALL_BYTES`."""
SMALL_BYTES: Final = 64 * 1024 * 1024
"""Up to this size the expansion is not limited."""
MAX_BYTES: Final = 1024 * 1024 * 1024
"""The largest expanded size."""

_PIECE_BYTES = 1024 * 1024
_GZIP = 31
_ZLIB = zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS
_KNOWN = frozenset({"gzip", "x-gzip", "deflate", "zstd"})
_PLAIN = frozenset({"", "identity", "aws-chunked"})
"""Codings that do not change the bytes; some S3 servers keep the coding of the upload."""
_READ_RAW = "read the stored bytes with read(), and decode them"


def codings_of(content_encoding: str | None) -> list[str]:
    """The codings that were applied to the bytes, in this order."""
    names = (content_encoding or "").split(",")
    return [name for name in (name.strip().lower() for name in names) if name not in _PLAIN]


def decoded(data: bytes, codings: list[str]) -> bytes:
    """Return the bytes before ``codings`` were applied.

    :raises SerializationError: a coding is not ``gzip``, ``deflate`` or ``zstd``, the bytes are not in it, or
        they expand beyond the limits above.
    """
    limit = min(max(SMALL_BYTES, MAX_RATIO * len(data)), MAX_BYTES)
    for name in codings:
        if name not in _KNOWN:
            raise SerializationError(
                f"its content encoding is {name[:40]!a}",
                field="content_encoding",
                limit="gzip, deflate or zstd",
                remedy=_READ_RAW,
            )
    for name in reversed(codings):
        try:
            if name == "zstd":
                data = _unpacked(data, limit)
            else:
                data = _inflated(data, _ZLIB if name == "deflate" else _GZIP, limit)
        except ValueError as error:
            raise SerializationError(
                f"its bytes are not {name}, which is its content encoding: {error}",
                field="content_encoding",
                remedy=_READ_RAW,
            ) from error
    return data


def _inflated(data: bytes, format: int, limit: int) -> bytes:
    # Some programs write the zlib format as deflate, some the bare stream.
    if format == _ZLIB and (len(data) < 2 or data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31):
        format = _RAW_DEFLATE
    parts: list[bytes] = []
    total = 0
    while True:
        inflating = zlib.decompressobj(format)
        try:
            part = inflating.decompress(data, limit - total + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        total += len(part)
        parts.append(part)
        if total > limit:
            raise _too_large(limit)
        if not inflating.eof:
            raise ValueError("they end too early")
        # A gzip file may have several members, one after the other, and end in zeros.
        data = inflating.unused_data.lstrip(b"\0")
        if not data or format != _GZIP:
            return b"".join(parts)


def _unpacked(data: bytes, limit: int) -> bytes:
    from storage_lib.zstandard import ZstdFrames

    frames = ZstdFrames(_PIECE_BYTES)
    parts: list[bytes] = []
    total = 0
    try:
        for part in frames.expand(data):
            total += len(part)
            parts.append(part)
            if total > limit:
                raise _too_large(limit)
    except ZstdFrames.errors as error:
        raise ValueError(str(error)) from error
    if not frames.ended:
        raise ValueError("they end too early")
    return b"".join(parts)


def _too_large(limit: int) -> SerializationError:
    return SerializationError(
        f"it is more than {limit} bytes once its content encoding is removed",
        limit=f"{limit} bytes",
        remedy="read the stored bytes with read() or open_reader(), and decode them in parts",
    )
