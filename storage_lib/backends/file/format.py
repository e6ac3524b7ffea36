"""An object's file: a header that says everything about the object, then its bytes as they are.

::

    AOSOBJ1 000000d2 5f3a90c1\\n     magic, length and CRC-32 of the header, both as 8 hex digits
    {"key":"configs/ceo.json",…}\\n  the header: JSON, UTF-8, possibly padded with spaces at its end
    {"name": "CEO", …}               the data

Content type, metadata, checksum and bytes are one file, so they can never come apart, and renaming it into
place is the one atomic step of a save. ``cat`` shows it. A writer that learns the size and the checksum
only at the end reserves a header of fixed length (``pad_to``) and overwrites it before the rename.

A header is accepted only if it is bit for bit what was written: magic, lengths, CRC-32, the key it was
asked for, and a file of exactly the length it names. The data has its SHA-256 in the header.

A file of another program has no header: its type is told by its name, its ETag by its inode, time and size.
"""

from __future__ import annotations

import os
import zlib

import msgspec

from storage_lib import content_types
from storage_lib.errors import IntegrityError
from storage_lib.patterns import pattern

PREAMBLE_BYTES = 26
MAX_HEADER_BYTES = 64 * 1024
BLOCK_BYTES = 4096
READ_AHEAD_BYTES = 4096
"""What holds nearly every header (key, content type and metadata are limited), read in one go."""

_PREAMBLE = pattern(rb"AOSOBJ1 ([0-9a-f]{8}) ([0-9a-f]{8})\n")


class Header(msgspec.Struct, frozen=True):
    """``sha256`` and ``etag`` are lower-case hex; ``size`` counts the bytes of data."""

    key: str
    content_type: str
    metadata: dict[str, str]
    sha256: str
    etag: str
    size: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Header)


def encode_header(header: Header, *, pad_to: int = 0) -> bytes:
    """All that comes before the data, padded with spaces to ``pad_to`` bytes."""
    text = _encoder.encode(header)
    text = text.ljust(pad_to - PREAMBLE_BYTES - 1)
    return b"AOSOBJ1 %08x %08x\n%b\n" % (len(text), zlib.crc32(text), text)


def block_aligned(length: int) -> int:
    """``length`` rounded up to whole blocks. File systems that can share blocks between files (XFS, Btrfs)
    copy an object without copying its data if its data begins with a block."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def data_offset(start: bytes, key: str) -> int:
    """Where the data begins, by the first `PREAMBLE_BYTES` of the file. :raises IntegrityError: no object."""
    preamble = _PREAMBLE.match(start)
    if preamble is None:
        raise damaged(key, "it does not start as an object does")
    length = int(preamble[1], 16)
    if length > MAX_HEADER_BYTES:
        raise damaged(key, f"its header claims {length} bytes")
    return PREAMBLE_BYTES + length + 1


def decode_header(start: bytes, offset: int, key: str, file_size: int) -> Header:
    """The header in ``start``, which holds at least ``offset`` bytes (see `data_offset`) of the file.

    :raises IntegrityError: it is not the header of ``key`` as it was written, or the file has another size.
    """
    text = start[PREAMBLE_BYTES : offset - 1]
    if start[offset - 1 : offset] != b"\n" or zlib.crc32(text) != int(start[17:25], 16):
        raise damaged(key, "its header does not agree with its checksum")
    try:
        header = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise damaged(key, "its header is not readable") from error
    if header.key != key:
        raise damaged(key, f"its file holds the object {header.key!r}")
    if file_size != offset + header.size:
        raise damaged(key, f"it has {file_size - offset} bytes, expected {header.size}")
    return header


def damaged(key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"object {key!r} is damaged: {why}",
        field="key",
        remedy="restore the file from a backup, or save the object again; a file of another program must"
        " not end in .obj",
    )


def content_type_of(key: str) -> str:
    """By the extension."""
    return content_types.content_type_of(key) or "application/octet-stream"


def foreign_etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
