"""The entries of an archive: tar members (POSIX pax) with what the library knows of them in a ``comment``.

Every tar passes over the ``comment`` record of a pax header. An entry's path is for people and for those who
unpack the archive with another program: restore reads the key from the record, never from the path.
"""

from __future__ import annotations

import hashlib
import tarfile
from typing import Literal
from urllib.parse import quote

import msgspec

from storage_lib.patterns import pattern

FORMAT = 1
FORMAT_WITH_QUEUES = 2
MAX_ENTRY_BYTES = 2**43
_BLOCK = 512
_MAX_RECORDS_BYTES = 64 * 1024
_MAX_NAME_BYTES = 255
_NOT_ON_WINDOWS = pattern(r'[<>:"|?*%]|[ .]$')
_RESERVED_ON_WINDOWS = pattern(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)")


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an archive knows of an entry.

    ``name`` is the key of an object, or the name of a table or a queue. ``metadata`` includes the reserved
    names. An archive's first entry, of kind ``archive``, has its ``format`` and is ``sealed`` if objects are
    as their store has them, encrypted or compressed.
    """

    kind: Literal["archive", "object", "table", "queue", "report"]
    name: str
    size: int
    type: str = ""
    metadata: dict[str, str] = {}
    modified: int = 0
    sha256: str = ""
    format: int = 0
    sealed: bool = False

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name if self.kind == "object" else f"{self.kind} {self.name}".rstrip()


def tar_header(about: About, path: str) -> bytes:
    """The tar header of an entry with this path."""
    info = tarfile.TarInfo(path)
    info.size, info.mtime, info.mode = about.size, about.modified, 0o600
    info.pax_headers = {"comment": msgspec.json.encode(about).decode()}
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """What follows the content of an entry."""
    return bytes(-size % _BLOCK)


END_OF_TAR = bytes(2 * _BLOCK)


def parsed(block: bytes) -> tuple[About, int]:
    """The entry that begins with these bytes, and where its content begins.

    :raises ValueError: no entry begins here that this library has written.
    """
    try:
        records = tarfile.TarInfo.frombuf(block[:_BLOCK], "utf-8", "strict")
        if records.type != tarfile.XHDTYPE or not 0 < records.size <= _MAX_RECORDS_BYTES:
            raise ValueError(f"is of the type {records.type!r}")
        at = _BLOCK + records.size + len(padding(records.size))
        member = tarfile.TarInfo.frombuf(block[at : at + _BLOCK], "utf-8", "strict")
        if member.type != tarfile.REGTYPE:
            raise ValueError(f"is a member of the type {member.type!r}, not a file")
        about = _decode(_comment(block[_BLOCK : _BLOCK + records.size]))
    except (tarfile.TarError, msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError("has no header that can be read") from error
    if not 0 <= about.size <= MAX_ENTRY_BYTES:
        raise ValueError(f"says that it has {about.size} bytes")
    return about, at + _BLOCK


def _comment(records: bytes) -> bytes:
    while records:
        length = int(records[: records.index(b" ")])
        record, records = records[:length], records[length:]
        name, _, value = record[len(str(length)) + 1 : -1].partition(b"=")
        if length < 5 or len(record) != length:
            break
        if name == b"comment":
            return value
    raise ValueError("has no header of this library")


class Paths:
    """The paths of objects that come in the order of their keys: readable, and valid on Windows.

    What Windows cannot name is percent-encoded. Where an object has the name of a folder that follows, the
    folder's name gets a ``%2F`` at its end.
    """

    def __init__(self) -> None:
        self._open: list[str] = []
        """The keys so far that may still turn out to be the name of a folder: each begins with the one
        before."""

    def path(self, key: str) -> str:
        while self._open and not key.startswith(self._open[-1]):
            self._open.pop()
        taken = set(self._open)
        *folders, last = key.split("/")
        parts: list[str] = []
        for n, folder in enumerate(folders, 1):
            parts.append(_segment(folder, "%2F" if "/".join(folders[:n]) in taken else ""))
        self._open.append(key)
        return "/".join(["objects", *parts, _segment(last)])


def part_path(kind: Literal["table", "queue"], name: str, part: int) -> str:
    """The path of a part of a table or a queue."""
    return f"{kind}s/{_segment(name)}/{part:06}.jsonl"


def _segment(text: str, suffix: str = "") -> str:
    shown = _NOT_ON_WINDOWS.sub(lambda found: quote(found[0], safe="") if found[0] != "." else "%2E", text)
    if _RESERVED_ON_WINDOWS.match(shown):
        shown = f"%{ord(shown[0]):02X}{shown[1:]}"
    if len((shown + suffix).encode()) > _MAX_NAME_BYTES:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        cut = shown.encode()[: _MAX_NAME_BYTES - len(suffix) - 17].decode(errors="ignore")
        shown = f"{cut.rstrip('%. ')}%{digest}"
    return shown + suffix


_decode = msgspec.json.Decoder(About).decode
