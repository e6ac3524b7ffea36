"""What the object port speaks of: objects, their info, ranges and pages of listings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage_lib.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without its bytes.

    ``etag`` is an opaque strong validator that changes with every write, without quotes. ``sha256`` is
    the hex digest of the data, or None for an object that another program put there. At ``expires_at`` the
    object is gone for every reader; None means never.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    sha256: str | None = None
    expires_at: datetime | None = None

    def has_etag(self, etag: str) -> bool:
        """Whether ``etag`` is this object's, as it is here or as a listing tells it: without the end of its
        life, which is behind a ``~``."""
        return self.etag.partition("~")[0] == etag.partition("~")[0]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes, or the asked-for range of them, with its info.

    ``start`` is the offset of ``data[0]`` in the object: 0 unless a range was asked for.
    """

    info: ObjectInfo
    data: bytes
    start: int = 0


@dataclass(frozen=True, slots=True)
class PutResult:
    """``created`` tells a new object from a replaced one; None where the store does not say."""

    key: str
    etag: str
    size: int
    created: bool | None


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One object of a listing. ``size``, ``etag`` and ``last_modified`` are set with ``details=True``."""

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing. Pass ``cursor`` on for the next page; None means there is none.

    ``prefixes`` are the common prefixes up to the delimiter, each given once, sorted among the keys.
    """

    entries: list[ListEntry]
    prefixes: list[str]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes as in RFC 9110, 14.1.2: from ``start`` up to, not including, ``end`` (None: to the
    end of the object). A negative ``start`` with no end means the last ``-start`` bytes. An end past the
    object's end is cut to it."""

    start: int
    end: int | None = None

    def resolve(self, size: int) -> tuple[int, int]:
        """The first byte and the one past the last, for an object of ``size`` bytes.

        :raises InvalidArgumentError: no byte of the object lies in the range.
        """
        start = max(size + self.start, 0) if self.start < 0 else self.start
        end = size if self.end is None else min(self.end, size)
        if start >= end:
            raise InvalidArgumentError(
                f"the range starts at byte {start}, the object has {size} bytes", field="range"
            )
        return start, end


@dataclass(frozen=True, slots=True)
class ObjectStats:
    """How many objects there are, and how many bytes they hold together."""

    count: int
    bytes: int
