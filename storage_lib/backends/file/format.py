"""How an object is stored: in which file, and what stands in the file.

The name of a file is pure text, reversible and collision-free. The segments of a key are directories, its
last segment with the suffix ``.obj`` is the file: the object ``configs/ceo.json`` is
``objects/configs/ceo.json.obj``. Hence ``a``, ``a/b``, ``a.json`` and ``a_b`` can all exist. What a directory
entry cannot say is escaped as ``%XX`` for each byte of UTF-8:

* ``%`` itself, so that an escape is never mistaken;
* a leading ``.``: dot files belong to other programs (``.DS_Store``) and are no objects;
* the ``j`` of a segment that ends in ``.obj``, so that a directory is never mistaken for an object's file;
* on a file system that ignores case, every character that case folding changes, so that ``A`` and ``a``
  never share a file.

An escaped segment of more than 200 bytes is cut into nested directories, each but the last ending in
``%+``: names may be 255 bytes, and escaping can triple them.

Files of other programs have no ``.obj`` suffix. A name that is exactly what escaping would write stands for
the text it escapes; every other name (``100%.txt``, ``README`` where case is folded, a name of 230 bytes)
stands for itself. Where both spellings of a key exist, the escaped one is the object.

Keys are composed (NFC). A name that another program has decomposed (NFD, as macOS does) stands for the
composed one, also of a file of ours. Two files of others that differ in nothing else are an error.

A file of ours is a header that says everything about the object, then its bytes as they are.

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
import re
import unicodedata
import zlib
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from storage_lib import content_types
from storage_lib.errors import IntegrityError
from storage_lib.patterns import pattern

SUFFIX = ".obj"
CONTINUED = "%+"
MAX_NAME_BYTES = 200

_ESCAPE = pattern(rb"%([0-9A-F]{2})")
_UNIT = pattern(r"%[0-9A-F]{2}|.", re.DOTALL)


class PathMap:
    """Keys to names and back, below a root that the caller knows. ``fold_case``: see the module."""

    def __init__(self, fold_case: bool) -> None:
        self.fold_case = fold_case

    def own(self, key: str) -> str:
        """The relative path of the file that this library stores ``key`` in."""
        if (
            key.isascii()
            and len(key) <= MAX_NAME_BYTES
            and "%" not in key
            and not key.startswith(".")
            and "/." not in key
            and SUFFIX not in key
            and not (self.fold_case and key != key.lower())
        ):
            return key + SUFFIX
        return "/".join(name for segment in key.split("/") for name in self.encode(segment)) + SUFFIX

    def encode(self, segment: str) -> tuple[str, ...]:
        """The directory entry that spells ``segment``; several, nested, where one would be too long."""
        if self._is_plain(segment):
            return (segment,)
        text = "".join(_escaped(ch) if ch == "%" or self._folds(ch) else ch for ch in segment)
        if text.startswith("."):
            text = "%2E" + text[1:]
        if text.endswith(SUFFIX):
            text = text[:-1] + "%6A"
        if len(text.encode()) <= MAX_NAME_BYTES:
            return (text,)
        return tuple(_cut(text))

    def decode(self, names: tuple[str, ...]) -> str | None:
        """The segment that these nested names spell, or None if `encode` would not have written them."""
        if len(names) == 1 and self._is_plain(names[0]):
            return names[0]
        escaped = "".join([*(name.removesuffix(CONTINUED) for name in names[:-1]), names[-1]])
        try:
            raw = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), escaped.encode())
            segment = raw.decode()
        except UnicodeError:  # a name that is no UTF-8 on disk, or an escape that is none once undone
            return None
        return segment if segment and "/" not in segment and self.encode(segment) == names else None

    def key_of(self, path: str) -> str | None:
        """The key that a relative path, without the suffix, spells; None if it spells none."""
        segments: list[str | None] = []
        names: list[str] = []
        for name in path.split("/"):
            names.append(name)
            if not name.endswith(CONTINUED):
                segments.append(self.decode(tuple(names)))
                names.clear()
        known = [segment for segment in segments if segment is not None]
        return "/".join(known) if len(known) == len(segments) and not names else None

    def stands_for_itself(self, name: str) -> bool:
        """Whether a name of another program is its own segment although `encode` would not write it."""
        return (
            len(name.encode("utf-8", "surrogateescape")) <= 255
            and not name.startswith(".")
            and not name.endswith((SUFFIX, CONTINUED))
            and self.decode((name,)) is None
        )

    def spellings(self, segment: str) -> Iterator[tuple[str, bool]]:
        """The relative paths, best first, in which an entry for ``segment`` may be, and of each whether what
        is ours may be there: the others are other programs'."""
        for form in _forms(segment):
            names = self.encode(form)
            yield "/".join(names), True
            if names != (form,) and self.stands_for_itself(form):
                yield form, False

    def foreign(self, segment: str) -> Iterator[str]:
        """The relative paths, best first, in which another program's entry for ``segment`` may be."""
        return (path for path, _ in self.spellings(segment))

    def only_foreign(self, key: str) -> str | None:
        """The one path in which another program's file for ``key`` may be; None if there may be several."""
        if not key.isascii() or self.own(key) != key + SUFFIX:
            return None
        return key

    def own_forms(self, segment: str) -> list[str]:
        """The names, without the suffix, that a file of ours may have once another program has decomposed the
        names on its way, or some of them."""
        return ["/".join(self.encode(form)) for form in _forms(segment)]

    def _is_plain(self, name: str) -> bool:
        return (
            "%" not in name
            and not name.startswith(".")
            and not name.endswith(SUFFIX)
            and (len(name) if name.isascii() else len(name.encode("utf-8", "surrogateescape")))
            <= MAX_NAME_BYTES
            and not (self.fold_case and any(map(_changes_with_case, name)))
        )

    def _folds(self, ch: str) -> bool:
        return self.fold_case and _changes_with_case(ch)


def composed(segment: str) -> str | None:
    """The segment of a key that a decoded name stands for: itself, or for a decomposed one, as macOS writes
    them, the composed one. None for a name in neither form, which no key can find."""
    if segment.isascii():
        return segment
    key = unicodedata.normalize("NFC", segment)
    return key if segment in _forms(key) else None


def _forms(segment: str) -> tuple[str, ...]:
    if segment.isascii():
        return (segment,)
    decomposed = unicodedata.normalize("NFD", segment)
    return (segment,) if decomposed == segment else (segment, decomposed)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _cut(text: str) -> Iterator[str]:
    piece, size = "", 0
    for unit in _UNIT.findall(text):
        width = len(unit.encode())
        if size + width > MAX_NAME_BYTES:
            yield piece + CONTINUED
            piece, size = "", 0
        if not piece and unit == ".":
            unit, width = "%2E", 3
        piece += unit
        size += width
    yield piece


@lru_cache(maxsize=4096)
def _changes_with_case(ch: str) -> bool:
    """Whether some file system's idea of case may merge ``ch`` with another character.

    APFS compares folded, decomposed names, NTFS an upper-case table; a character that survives every one
    of those mappings unchanged (or comes back from its upper case) cannot meet another.
    """
    if ch.isascii():
        return "A" <= ch <= "Z"
    decomposed = unicodedata.normalize("NFD", ch)
    return (
        any(form != ch for form in (ch.casefold(), ch.lower(), ch.upper().casefold(), ch.upper().lower()))
        or decomposed.casefold() != decomposed
    )


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
