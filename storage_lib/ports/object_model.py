"""The data types of the object port: objects, their info, ranges and pages of listings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final, TypedDict

from storage_lib.errors import InvalidArgumentError, RangeNotSatisfiableError
from storage_lib.frozen import quick
from storage_lib.patterns import pattern

ANY_VERSION = "*"
"""As ``if_match``: any version, but one must exist. No ETag is spelled like this."""


class Kept(Enum):
    """The type of `KEPT`."""

    KEPT = "kept"

    def __repr__(self) -> str:
        return "KEPT"


KEPT: Final = Kept.KEPT
"""As an argument: what there is stays as it is."""

DEFAULT_CONTENT_TYPE = "application/octet-stream"

_ETAG = pattern(r"[!#-+\--~]{1,256}")
"""What an ETag may be made of (RFC 9110, 8.8.3); no store here gives a longer one, or one with a comma, which
Azure takes for two."""
_LARGEST_OFFSET = 2**50
"""No object is so long, and every service and client can read the number."""


class Properties(TypedDict, total=False):
    """What is saved with the bytes of an object."""

    content_type: str
    """What the bytes are."""
    metadata: Mapping[str, str] | None
    """Short texts stored with the object."""
    headers: Mapping[str, str] | None
    """``Cache-Control``, ``Content-Disposition`` and ``Content-Language``, under which it is served; 1,024
    bytes of printable ASCII together."""


class SaveOptions(Properties, total=False):
    """The options of a save."""

    if_match: str | None
    """Replace only the object with this ETag, with or without quotes; ``"*"`` replaces any version but
    creates none. An ETag that no object can have (empty, weak, with white space) never matches."""
    if_absent: bool
    """Create only, never replace."""
    ttl: float | datetime | None
    """Seconds after which the object is gone, or that moment; None means never."""


class ReadOptions(TypedDict, total=False):
    """The options of reading an object; `ObjectStore.get` says what each means."""

    byte_range: ByteRange | None
    if_match: str | None
    fresh: bool


class ManyOptions(TypedDict, total=False):
    """How many objects are read; `StorageManager.load_many` says what each means."""

    concurrency: int
    fresh: bool


class ListingOptions(TypedDict, total=False):
    """The options of a listing; `ObjectStore.list_page` says what each means."""

    delimiter: str | None
    start_after: str | None
    details: bool
    skip: str | None


class PageOptions(ListingOptions, total=False):
    """The options of a page of a listing; `ObjectStore.list_page` says what each means."""

    limit: int
    cursor: str | None
    cheap: bool


@quick
@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known about an object without its bytes.

    ``etag`` is an opaque strong validator that changes with every write, without quotes. ``sha256`` is
    the hex digest of the data, or None for an object that another program stored. At ``expires_at`` the
    object is gone for every reader; None means never.

    ``content_disposition``, ``content_language`` and ``cache_control`` are headers that it was saved with.
    ``content_encoding`` is what another program gave it. The bytes are returned as stored, encoded if it says
    so; `StorageManager.load` decodes them.
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
    authenticated: bool = field(default=False, repr=False, compare=False)
    """Whether the bytes are proved as they are read, piece by piece, by more than ``sha256``: it need not be
    computed again."""

    def with_metadata(
        self, metadata: Mapping[str, str], expires_at: datetime | None, *, authenticated: bool = False
    ) -> ObjectInfo:
        """A copy with these. `replace` takes five times as long, and listings do this for each object."""
        return ObjectInfo(
            self.key,
            self.size,
            self.etag,
            self.last_modified,
            self.content_type,
            metadata,
            self.sha256,
            expires_at,
            self.content_encoding,
            self.content_disposition,
            self.content_language,
            self.cache_control,
            authenticated,
        )

    @property
    def headers(self) -> dict[str, str]:
        """The headers that it was saved with, by their names."""
        given = {
            "Cache-Control": self.cache_control,
            "Content-Disposition": self.content_disposition,
            "Content-Language": self.content_language,
        }
        return {name: value for name, value in given.items() if value is not None}

    def has_etag(self, etag: str) -> bool:
        """Whether ``etag`` is this object's, with or without the expiry that follows a ``~``."""
        return self.etag.partition("~")[0] == etag.partition("~")[0]


@quick
@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's bytes, or the requested range of them, with its info.

    ``start`` is the offset of ``data[0]`` in the object: 0 unless a range was requested. ``verified``: a
    layer has compared these very bytes with the size and the checksum of the info.
    """

    info: ObjectInfo
    data: bytes
    start: int = 0
    verified: bool = field(default=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Loaded[T]:
    """The value of an object, with the info of the version that it is of."""

    value: T
    info: ObjectInfo

    @property
    def etag(self) -> str:
        return self.info.etag


@dataclass(frozen=True, slots=True)
class PutResult:
    """The result of a save. ``created`` tells a new object from a replaced one; None if the store does
    not say."""

    key: str
    etag: str
    size: int
    created: bool | None


@quick
@dataclass(frozen=True, slots=True)
class ListEntry:
    """An object in a listing. Only ``key`` is set without ``details=True``.

    ``info`` has also the content type, the metadata and the expiry; it is None for an object that is damaged.
    What a store does not tell in a listing is None in it: ``sha256`` and ``content_encoding`` of encrypted
    objects, ``sha256`` of objects that were streamed to S3.

    ``source`` is the ETag of the version in another store that a migration has copied it from.
    """

    key: str
    size: int | None = None
    etag: str | None = None
    last_modified: datetime | None = None
    info: ObjectInfo | None = None
    source: str | None = field(default=None, repr=False, compare=False)
    until: float | None = field(default=None, repr=False, compare=False)
    """The end of its life in seconds since the epoch, where a driver was asked for that alone."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing. Pass ``cursor`` to get the next page; None means that there is none.

    ``prefixes`` are the common prefixes up to the delimiter, each listed once, in the order of the keys.
    """

    entries: list[ListEntry]
    prefixes: list[str]
    cursor: str | None


def read_etag(text: str, field: str, *, weakly: bool = False) -> str | None:
    """The ETag that a caller's condition means, or None if no object can have it: it is empty, weak, or
    has white space or control characters. Quotes, as in HTTP, are removed, so a quoted ``"*"`` is an
    ETag (that no object has) and not `ANY_VERSION`.

    :param weakly: treat a weak ETag as a strong one (RFC 9110, 8.8.3.2).
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
    """Whether an existing object with this ETag satisfies ``if_match``."""
    return if_match is None or if_match in (ANY_VERSION, etag)


def is_after(candidate: str, after: str | None) -> bool:
    """Whether a listing that continues after ``after`` must still return ``candidate``."""
    if after is None:
        return True
    if after.endswith("/") and candidate.startswith(after):
        return False
    return candidate.encode() > after.encode()


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A range of bytes as in RFC 9110, 14.1.2: from ``start`` up to, but not including, ``end`` (None:
    the end of the object). A negative ``start`` without an end means the last ``-start`` bytes. An end
    beyond the object's end is cut to it."""

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
        """The offsets of the first byte and after the last, for an object of ``size`` bytes.

        :raises RangeNotSatisfiableError: no byte of the object lies in the range.
        """
        start = max(size + self.start, 0) if self.start < 0 else self.start
        end = size if self.end is None else min(self.end, size)
        if start >= end:
            raise RangeNotSatisfiableError(
                f"the range starts at byte {start}, the object has {size} bytes", field="range"
            )
        return start, end


def _shown(number: int) -> str:
    # Python refuses to print more than 4,300 digits.
    return str(number) if abs(number) < 10**20 else f"a number of {number.bit_length()} bits"


@dataclass(frozen=True, slots=True)
class ObjectStats:
    """How many objects there are, and how many bytes they hold in total.

    ``unlisted`` has the first hundred names of other programs that no key can address and that therefore
    appear in no listing. On Azure and S3 they include names in decomposed Unicode, which the file
    backend lists.
    """

    count: int
    bytes: int
    unlisted: tuple[str, ...] = ()
