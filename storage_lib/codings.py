"""Content codings (RFC 9110, 8.4.1): the bytes of an object that another program stored compressed, expanded
within bounds. This library stores none."""

from __future__ import annotations

import zlib
from typing import Final

from storage_lib.errors import SerializationError

MAX_RATIO: Final = 100
"""How many times larger than what is stored the expanded bytes may be,"""
SMALL_BYTES: Final = 64 * 1024 * 1024
"""if they are more than this,"""
MAX_BYTES: Final = 1024 * 1024 * 1024
"""and how large at most."""

_GZIP = 31
_ZLIB = zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})
_PLAIN = frozenset({"", "identity", "aws-chunked"})
"""What says nothing of the bytes; some S3 servers keep the coding that a client uploaded with."""
_READ_RAW = "read the stored bytes with read(), and decode them"


def codings_of(content_encoding: str | None) -> list[str]:
    """What was done to the bytes, in this order."""
    names = (content_encoding or "").split(",")
    return [name for name in (name.strip().lower() for name in names) if name not in _PLAIN]


def decoded(data: bytes, codings: list[str]) -> bytes:
    """The bytes before ``codings`` were applied.

    :raises SerializationError: a coding is not known (``gzip`` and ``deflate`` are), the bytes are not of it,
        or they become larger than the bounds above.
    """
    limit = min(max(SMALL_BYTES, MAX_RATIO * len(data)), MAX_BYTES)
    for name in codings:
        if name not in _KNOWN:
            raise SerializationError(
                f"its content encoding is {name[:40]!a}",
                field="content_encoding",
                limit="gzip or deflate",
                remedy=_READ_RAW,
            )
    for name in reversed(codings):
        try:
            data = _inflated(data, _ZLIB if name == "deflate" else _GZIP, limit)
        except zlib.error as error:
            raise SerializationError(
                f"its bytes are not {name}, which is its content encoding: {error}",
                field="content_encoding",
                remedy=_READ_RAW,
            ) from error
    return data


def _inflated(data: bytes, format: int, limit: int) -> bytes:
    # Some programs mean by deflate what is in the zlib format, some the bare stream.
    if format == _ZLIB and (len(data) < 2 or data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31):
        format = _RAW_DEFLATE
    parts: list[bytes] = []
    total = 0
    while True:
        inflating = zlib.decompressobj(format)
        part = inflating.decompress(data, limit - total + 1)
        total += len(part)
        parts.append(part)
        if total > limit:
            raise SerializationError(
                f"it is more than {limit} bytes once its content encoding is taken off",
                limit=f"{limit} bytes",
                remedy="read the stored bytes with read() or open_reader(), and decode them bit by bit",
            )
        if not inflating.eof:
            raise zlib.error("they end too early")
        # A gzip file may be several, one behind the other, and end in zeros.
        data = inflating.unused_data.lstrip(b"\0")
        if not data or format != _GZIP:
            return b"".join(parts)
