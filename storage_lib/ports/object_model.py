"""What the object port speaks of: objects, their info, ranges and pages of listings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

ANY_VERSION = "*"
"""As ``if_match``: whichever version there is, but there must be one. No ETag is spelled so."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"

_ETAG = pattern(r"[!#-+\--~]{1,256}")
"""What an ETag may be made of (RFC 9110, 8.8.3); no store here gives a longer one, or one with a comma, which
Azure takes for two."""
_LARGEST_OFFSET = 2**50
"""No object is so long, and every service and client can read the number."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without its bytes.

    ``etag`` is an opaque strong validator that changes with every write, without quotes. ``sha256`` is
    the hex digest of the data, or None for an object that another program put there. At ``expires_at`` the
    object is gone for every reader; None means never.

    ``content_encoding``, ``content_disposition``, ``content_language`` and ``cache_control`` are the headers
    of these names that another program gave it. The bytes are as they are stored: encoded, if
    ``content_encoding`` says so; `StorageManager.load` decodes them.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    sha256: str | None = None
    expires_at: datetime | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None

    def has_etag(self, etag: str) -> bool:
        """Whether ``etag`` is this object's, with or without the end of its life, which is behind a ``~``."""
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


def read_etag(text: str, field: str, *, weakly: bool = False) -> str | None:
    """The ETag that a caller's condition means, or None where no object can have it: an empty one, one with
    blanks or control characters, a weak one. Quotes around it, as HTTP has them, are taken off, so ``"*"`` in
    quotes is an ETag (that no object has) and not `ANY_VERSION`.

    :param weakly: take a weak one for a strong one (RFC 9110, 8.8.3.2).

    :raises InvalidArgumentError: it is not a str.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(
            f"{field} is a {type(text).__name__}",
            field=field,
            limit='an ETag, or "*" for any version',
        )
    if text == ANY_VERSION:
        return text
    if weakly:
        text = text.removeprefix("W/")
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return text if text != ANY_VERSION and _ETAG.fullmatch(text) else None


def agrees(etag: str, if_match: str | None) -> bool:
    """Whether an object that is there, with this ETag, is one that ``if_match`` means."""
    return if_match is None or if_match in (ANY_VERSION, etag)


def is_after(candidate: str, after: str | None) -> bool:
    """Whether a listing that goes on behind ``after`` still has to give ``candidate``."""
    if after is None:
        return True
    if after.endswith("/") and candidate.startswith(after):
        return False
    return candidate.encode() > after.encode()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes as in RFC 9110, 14.1.2: from ``start`` up to, not including, ``end`` (None: to the
    end of the object). A negative ``start`` with no end means the last ``-start`` bytes. An end past the
    object's end is cut to it."""

    start: int
    end: int | None = None

    def checked(self) -> ByteRange:
        """This range, in numbers that every service can read.

        :raises InvalidArgumentError: it can hold no byte of any object.
        """
        start, end = self.start, self.end
        if type(start) is not int or (end is not None and type(end) is not int):
            raise InvalidArgumentError("a range is made of whole numbers", field="range", limit="int")
        if end is not None and not 0 <= start < end:
            raise InvalidArgumentError(
                f"the range from {_shown(start)} to {_shown(end)} holds no byte",
                field="range",
                limit="0 <= start < end, or a negative start without an end for the last bytes",
            )
        start = max(-_LARGEST_OFFSET, min(start, _LARGEST_OFFSET))
        return ByteRange(start, None if end is None else min(end, _LARGEST_OFFSET + 1))

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


def _shown(number: int) -> str:
    # Python refuses to print more than 4,300 digits.
    return str(number) if abs(number) < 10**20 else f"a number of {number.bit_length()} bits"


@dataclass(frozen=True, slots=True)
class ObjectStats:
    """How many objects there are, and how many bytes they hold together.

    ``unlisted`` are names that other programs gave and no key can address, and which are therefore in no
    listing: the first hundred. On Azure and S3 names in decomposed Unicode are among them (there are no keys
    in that form, and the order of the composed ones is another); the file backend lists those.
    """

    count: int
    bytes: int
    unlisted: tuple[str, ...] = ()
