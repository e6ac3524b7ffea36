"""The mark of a compressed object: how it was compressed and how many bytes it had, in its metadata."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from storage_lib.errors import IntegrityError
from storage_lib.patterns import pattern
from storage_lib.ports import hidden
from storage_lib.ports.kept_headers import METADATA
from storage_lib.ports.object_model import ObjectInfo

CONTENT_ENCODING = METADATA["Content-Encoding"]
MAX_FRAME_BYTES = 64 * 1024 * 1024
"""What a range may have to expand in one piece; frames of this version are smaller."""

_MARK = pattern(r"(zstd|gzip)-([0-9]{1,18})(?:-([0-9]{1,8})-([0-9]{1,18}))?")


class Mark(msgspec.Struct, frozen=True, gc=False):
    """``size`` is what the layer was given. Of an object with a table of its frames, ``frame`` is the size
    that each but the last expands to, and ``stored`` the size of all that is stored; else both are 0."""

    codec: str
    size: int
    frame: int = 0
    stored: int = 0

    def __str__(self) -> str:
        frames = f"-{self.frame}-{self.stored}" if self.frame else ""
        return f"{self.codec}-{self.size}{frames}"

    @property
    def metadata(self) -> dict[str, str]:
        return {hidden.COMPRESSION: str(self), CONTENT_ENCODING: self.codec}


def mark_of(info: ObjectInfo) -> Mark | None:
    """The mark of an object; None if it is not compressed, or encrypted by a layer that is off now.

    :raises IntegrityError: it has a mark that cannot be read.
    """
    text = info.metadata.get(hidden.COMPRESSION)
    if text is None or hidden.ENCRYPTED in info.metadata:
        return None
    match = _MARK.fullmatch(text)
    mark = None if match is None else Mark(match[1], int(match[2]), int(match[3] or 0), int(match[4] or 0))
    if mark is None or mark.frame > MAX_FRAME_BYTES:
        raise IntegrityError(
            f"object {info.key!r} is compressed in a way that is not known: {text[:60]!r}",
            remedy="read it with the version that saved it, or restore its metadata",
        )
    return mark


def expanded_info(info: ObjectInfo, mark: Mark) -> ObjectInfo:
    """The info of a compressed object as if it had been stored as it was given."""
    metadata = {
        name: value
        for name, value in info.metadata.items()
        if name not in (hidden.COMPRESSION, CONTENT_ENCODING)
    }
    return replace(info, size=mark.size, sha256=None, metadata=metadata)


def damaged(key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"object {key!r} cannot be expanded: {why}",
        remedy="restore the object from a backup or an earlier version",
    )
