"""What is worth compressing: what shrinks, by samples if it is large, and is not of a compressed format."""

from __future__ import annotations

from collections.abc import Buffer, Callable

from storage_lib.keys import essence

SAMPLED_BYTES = 1024 * 1024
"""Larger objects are tried on samples first."""
_SAMPLE_BYTES = 64 * 1024
_SHARE = 0.9
"""What is stored must be smaller than this share of the object: less is not worth the time of its readers."""

_COMPRESSED = frozenset(
    {
        "application/epub+zip",
        "application/gzip",
        "application/java-archive",
        "application/vnd.apache.parquet",
        "application/vnd.rar",
        "application/x-7z-compressed",
        "application/x-brotli",
        "application/x-bzip",
        "application/x-bzip2",
        "application/x-compress",
        "application/x-gzip",
        "application/x-lz4",
        "application/x-lzma",
        "application/x-rar-compressed",
        "application/x-xz",
        "application/x-zip-compressed",
        "application/x-zstd",
        "application/zip",
        "application/zstd",
        "font/woff",
        "font/woff2",
    }
)
_KINDS = ("audio/", "image/", "video/", "application/vnd.openxmlformats-", "application/vnd.oasis.")
_PLAIN = frozenset(
    {
        "audio/basic",
        "audio/l16",
        "audio/midi",
        "audio/wav",
        "audio/x-aiff",
        "audio/x-wav",
        "image/bmp",
        "image/svg+xml",
        "image/tiff",
        "image/vnd.microsoft.icon",
        "image/x-icon",
        "image/x-ms-bmp",
        "image/x-portable-pixmap",
    }
)
"""Exceptions from those kinds."""


def is_compressed(content_type: str) -> bool:
    """Whether data of this type are compressed by their format."""
    kind = essence(content_type)
    if kind in _PLAIN:
        return False
    return kind in _COMPRESSED or kind.startswith(_KINDS) or kind.endswith(("+zip", "+gzip", "+zstd"))


def is_worth(stored: int, size: int) -> bool:
    """Whether ``size`` bytes had better be stored in ``stored`` ones."""
    return stored < size * _SHARE


def looks_worth(data: Buffer, compress: Callable[[Buffer], bytes]) -> bool:
    """Whether samples of large data shrink: of its beginning, middle and end."""
    view = memoryview(data)
    size, last = 0, len(view) - _SAMPLE_BYTES
    for at in (0, last // 2, last):
        size += len(compress(view[at : at + _SAMPLE_BYTES]))
    return is_worth(size, 3 * _SAMPLE_BYTES)
