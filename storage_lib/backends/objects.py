"""The object port: bytes by key, with content type, metadata, ETag and checksum.

A backend implements the ``_hooks``; the public methods validate, call the hook and verify, so that a rule
is kept once and not once a backend.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from storage_lib.errors import IntegrityError, InvalidArgumentError, ObjectTooLargeError
from storage_lib.keys import validate_content_type, validate_key, validate_metadata, validate_prefix


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What is known of an object without its bytes.

    ``etag`` is an opaque strong validator that changes with every write, without quotes. ``sha256`` is
    the hex digest of the data, or None for an object that another program put there.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    sha256: str | None = None


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


class ObjectStore(ABC):
    """Bytes by key, with content type, metadata, ETag and checksum. The guarantees stand in the README."""

    reports_created: ClassVar[bool] = True
    """Whether an unconditional `put` can tell a created object from a replaced one."""

    max_object_bytes: int = 5_000_000_000
    """The largest object of a single `put`, in bytes (Azure Put Blob: 5,000 MiB; S3 PutObject: 5 GB)."""

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> PutResult:
        """Store ``data`` whole, durable when this returns; a failure leaves what was there.

        :param if_match: replace only the object with this ETag.
        :param if_absent: create only.
        :raises PreconditionFailedError: the object is not as ``if_match`` / ``if_absent`` say.
        """
        validate_key(key)
        validate_content_type(content_type)
        meta = validate_metadata(dict(metadata)) if metadata else {}
        if if_match is not None and if_absent:
            raise InvalidArgumentError("if_match and if_absent exclude each other", field="if_match")
        if len(data) > self.max_object_bytes:
            raise ObjectTooLargeError(
                f"object is {len(data)} bytes", field="data", limit=f"{self.max_object_bytes} bytes"
            )
        digest = hashlib.sha256(data).hexdigest()
        return await self._put(key, data, content_type, meta, digest, if_match, if_absent)

    async def get(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> StoredObject | None:
        """The object, its bytes verified against its checksum (a range can not be verified).

        :param if_none_match: return None if the object still has this ETag. Without it never None.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: the object does not have the ETag ``if_match``.
        :raises IntegrityError: the bytes are not the ones that were saved.
        """
        validate_key(key)
        found = await self._get(key, byte_range, if_match, if_none_match)
        if found is not None and byte_range is None:
            verify(found)
        return found

    async def head(self, key: str) -> ObjectInfo:
        """What is known of the object, without its bytes. :raises KeyNotFoundError: there is none."""
        validate_key(key)
        return await self._head(key)

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove the object. :raises KeyNotFoundError: there is none (also with ``if_match``)."""
        validate_key(key)
        await self._delete(key, if_match)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        limit: int = 1000,
        cursor: str | None = None,
        details: bool = False,
        skip: str | None = None,
    ) -> ListPage:
        """Objects whose key starts with ``prefix``, ordered by the UTF-8 bytes of their keys.

        :param delimiter: ``"/"`` folds keys that go on after the next slash into `ListPage.prefixes`.
        :param limit: at most so many entries and prefixes together, 1 to 5,000 (Azure's page size).
        :param cursor: `ListPage.cursor` of the page before, with the same prefix and delimiter.
        :param skip: a prefix that ends in ``/``; what lies below it is left out, unread.
        """
        validate_prefix(prefix)
        if not 1 <= limit <= 5000:
            raise InvalidArgumentError(f"limit {limit} is out of range", field="limit", limit="1 to 5000")
        if delimiter not in (None, "/"):
            raise InvalidArgumentError(
                f"delimiter {delimiter!r} is not supported", field="delimiter", limit="'/' or none"
            )
        after = _decode_cursor(cursor) if cursor is not None else None
        entries: list[ListEntry] = []
        prefixes: list[str] = []
        last = ""
        # One more than asked for tells whether there is a next page, without an empty page at the end.
        async for found in self._scan_without(skip, prefix, delimiter, after, limit + 1, details):
            if len(entries) + len(prefixes) == limit:
                return ListPage(entries, prefixes, _encode_cursor(last))
            if isinstance(found, str):
                prefixes.append(found)
                last = found
            else:
                entries.append(found)
                last = found.key
        return ListPage(entries, prefixes, None)

    async def iterate(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        details: bool = False,
        skip: str | None = None,
    ) -> AsyncIterator[ListEntry | str]:
        """Every entry (and, with a delimiter, every common prefix as a str), one by one and in order.

        Holds a page at a time. Objects saved or deleted meanwhile may or may not be seen; all others are
        given exactly once. Arguments as for `list_page`.
        """
        validate_prefix(prefix)
        async for found in self._scan_without(skip, prefix, delimiter, None, None, details):
            yield found

    async def _scan_without(
        self,
        skip: str | None,
        prefix: str,
        delimiter: str | None,
        after: str | None,
        count: int | None,
        details: bool,
    ) -> AsyncIterator[ListEntry | str]:
        async for found in self._scan(prefix, delimiter, after, count, details):
            if skip is not None and (found if isinstance(found, str) else found.key).startswith(skip):
                break
            yield found
        else:
            return
        # The first name below `skip` was met: go on behind all of them instead of reading them.
        async for found in self._scan(prefix, delimiter, skip, count, details):
            yield found

    # -- what a backend implements; arguments are already validated

    @abstractmethod
    async def _put(
        self,
        key: str,
        data: bytes,
        content_type: str,
        metadata: dict[str, str],
        sha256: str,
        if_match: str | None,
        if_absent: bool,
    ) -> PutResult: ...

    @abstractmethod
    async def _get(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> StoredObject | None: ...

    @abstractmethod
    async def _head(self, key: str) -> ObjectInfo: ...

    @abstractmethod
    async def _delete(self, key: str, if_match: str | None) -> None: ...

    @abstractmethod
    def _scan(
        self, prefix: str, delimiter: str | None, after: str | None, count: int | None, details: bool
    ) -> AsyncIterator[ListEntry | str]:
        """Entries and common prefixes greater than ``after``, in order. ``count`` is a hint of how many
        will be read. With a common prefix as ``after``, nothing below that prefix is given again. A stored
        name that is no valid key is not an object of ours and is left out."""


def verify(found: StoredObject) -> None:
    """:raises IntegrityError: a whole object's bytes do not agree with its size or its checksum."""
    info = found.info
    if len(found.data) != info.size:
        raise IntegrityError(f"object {info.key!r} has {len(found.data)} bytes, expected {info.size}")
    if info.sha256 is not None and hashlib.sha256(found.data).hexdigest() != info.sha256:
        raise IntegrityError(
            f"object {info.key!r} does not agree with its checksum: the stored bytes have changed",
            remedy="restore the object from a backup or an earlier version",
        )


def is_after(candidate: str, after: str | None) -> bool:
    """Whether a listing that goes on behind ``after`` still has to give ``candidate``."""
    if after is None:
        return True
    if after.endswith("/") and candidate.startswith(after):
        return False
    return candidate.encode() > after.encode()


def _encode_cursor(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> str:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        validate_prefix(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(
            "cursor is not one that a listing returned", field="cursor", remedy="start again without a cursor"
        ) from error
    return text
