"""The object port: bytes by key, with content type, metadata, ETag and checksum.

A backend implements the ``_hooks``; the public methods validate, call the hook and verify, so that a rule
is kept once and not once a backend.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Buffer, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from storage_lib.arguments import mapping, whole
from storage_lib.buffers import as_bytes
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.keys import (
    SYSTEM_PREFIX,
    readable_content_type,
    validate_content_type,
    validate_key,
    validate_metadata,
    validate_prefix,
)
from storage_lib.ports import cursors, expiry, kept_headers, unlisted
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import (
    ANY_VERSION,
    ByteRange,
    ListEntry,
    ListPage,
    ObjectInfo,
    ObjectStats,
    PutResult,
    StoredObject,
    agrees,
    read_etag,
)
from storage_lib.ports.portable import Stationary
from storage_lib.ports.prefixes import without_empty
from storage_lib.ports.streaming import ByteSource, ObjectReader, Parts, one_chunk, sha256_of, verify

__all__ = [
    "ANY_VERSION",
    "ATTEMPT",
    "ByteRange",
    "ByteSource",
    "ListEntry",
    "ListPage",
    "ObjectInfo",
    "ObjectReader",
    "ObjectStats",
    "ObjectStore",
    "Parts",
    "PutResult",
    "Repeat",
    "StoredObject",
    "agrees",
    "is_after",
    "missing",
    "unmet",
]

DEFAULT_CONTENT_TYPE = "application/octet-stream"
_SWEEP_CONCURRENCY = 16
_SWEEP_MARKERS = 1000
"""How many markers are listed at a time: each listing begins anew."""
_ATTEMPTS = 8

ATTEMPT = "aos-attempt"
"""Metadata that is never shown: the mark of the one call that saved the object."""
_HIDDEN = frozenset({expiry.METADATA, ATTEMPT, *kept_headers.FIELDS})


class Repeat(Protocol):
    """How a backend takes a step of a longer operation: once, or again where it fails, as whoever owns the
    retries sets it.

    :param doing: what is done, for logs. :param step: does it; twice does no harm.
    :param only_refused: twice would do harm: again only where the store said that it did nothing.
    """

    async def __call__[T](
        self, doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
    ) -> T: ...


async def _once[T](doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False) -> T:
    return await step()


class ObjectStore(Stationary, ABC):
    """Bytes by key, with content type, metadata, ETag and checksum. The guarantees stand in the README."""

    reports_created: bool = True
    """Whether an unconditional `put` can tell a created object from a replaced one."""

    folds_what_is_no_key: bool = False
    """Whether a common prefix of `_scan` may have nothing below it but names that are no keys."""

    lists_sizes: bool = False
    """Whether a listing without details has the sizes all the same."""

    max_object_bytes: int = 5_000_000_000
    """The largest object of a single `put`, in bytes (Azure Put Blob: 5,000 MiB; S3 PutObject: 5 GB)."""

    part_bytes: int = 8 * 1024 * 1024
    """How much of a stream is held and sent at a time."""

    max_stream_bytes: int = 50_000 * part_bytes
    """The longest stream, in bytes (Azure: 50,000 blocks)."""

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch; what decides whether an object has expired."""

    repeat: Repeat = staticmethod(_once)
    """For the parts of a stream, whose source can not be read twice."""

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> PutResult:
        """Store ``data`` whole, durable when this returns; a failure leaves what was there.

        :param data: bytes, or any bytes-like object: what it holds now is stored.
        :param if_match: replace only the object with this ETag, with or without quotes; ``"*"`` replaces
            whichever version there is and creates none. One that no object can have (an empty or a weak one,
            one with blanks) is met by none.
        :param if_absent: create only.
        :param ttl: seconds after which the object is gone; None means never.
        :raises PreconditionFailedError: the object is not as ``if_match`` / ``if_absent`` say.
        """
        data = as_bytes(data)
        content_type, kept = self._checked(key, content_type, metadata, if_match, if_absent, ttl)
        if len(data) > self.max_object_bytes:
            raise ObjectTooLargeError(
                f"object is {len(data)} bytes",
                field="data",
                limit=f"{self.max_object_bytes} bytes",
                remedy="use put_stream",
            )
        digest = await sha256_of(data)
        raw = await self._replaceable(key, if_match)
        await self._mark(key, kept)

        for _ in range(_ATTEMPTS):
            try:
                result = await self._put(key, data, content_type, kept, digest, raw, if_absent)
                break
            except PreconditionFailedError:
                if not if_absent:
                    raise
            await self._make_way(key)
        else:
            raise _never_there(key)
        if if_absent:
            result = replace(result, created=True)
        await self._mark_again(key, kept)
        return replace(result, etag=expiry.join_etag(result.etag, kept))

    async def put_stream(
        self,
        key: str,
        source: ByteSource,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> PutResult:
        """Store what ``source`` gives, of any length, with constant memory; otherwise as `put`.

        The object appears, whole, when the source has ended; if the source raises, nothing is stored.

        :param source: an async or plain iterable of bytes-like objects, or a file object that is open in
            binary mode. Each chunk is taken at once: its owner may use the buffer again for the next.
        """
        content_type, kept = self._checked(key, content_type, metadata, if_match, if_absent, ttl)
        parts = Parts(source, self.part_bytes, self.max_stream_bytes)
        if (data := await parts.whole()) is not None:
            return await self.put(
                key,
                data,
                content_type=content_type,
                metadata=metadata,
                if_match=if_match,
                if_absent=if_absent,
                ttl=ttl,
            )
        raw = await self._replaceable(key, if_match)
        if if_absent:
            await self._make_way(key)  # before the long way, not at its end
        await self._mark(key, kept)
        try:
            result = await self._put_stream(key, parts, content_type, kept, raw, if_absent)
        except PreconditionFailedError as error:
            if if_absent:
                await self._make_way(key)
                raise _never_there(key) from error  # Its source can not be read twice.
            raise
        await self._mark_again(key, kept)
        return replace(
            result,
            etag=expiry.join_etag(result.etag, kept),
            created=True if if_absent else result.created,
        )

    async def get(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> StoredObject | None:
        """The object, its bytes verified against its checksum (a range can not be verified).

        :param if_match: as for `put`.
        :param if_none_match: return None if the object still has this ETag, or, for ``"*"``, any. Without it
            never None.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: the object does not have the ETag ``if_match``.
        :raises InvalidArgumentError: no byte of the object lies in the range.
        :raises IntegrityError: the bytes are not the ones that were saved.
        """
        validate_key(key)
        byte_range = _checked_range(byte_range)
        etag = await self._present(key, if_match)
        known = None if if_none_match is None else read_etag(if_none_match, "if_none_match", weakly=True)
        if known == ANY_VERSION:
            if not agrees((await self.head(key)).etag, etag):
                raise unmet(key, if_match)
            return None
        known, until = expiry.split_etag(known)
        try:
            found = await self._get(key, byte_range, expiry.split_etag(etag)[0], known)
        except PreconditionFailedError:
            await self.head(key)  # What has expired is not there, whatever its ETag.
            raise
        if found is None:
            if until is not None and until <= self.clock():
                raise expiry.gone(key)
            return None
        if byte_range is None:
            await verify(found)
        return replace(found, info=self._presented(found.info))

    def open_reader(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """``async with objects.open_reader(key) as reader: async for chunk in reader: …`` reads an object of
        any size with constant memory. The last chunk comes only if the whole agreed with the checksum.

        :raises KeyNotFoundError, PreconditionFailedError, IntegrityError: as `get`.
        """
        return self._reader(validate_key(key), _checked_range(byte_range), if_match)

    @asynccontextmanager
    async def _reader(
        self, key: str, byte_range: ByteRange | None, if_match: str | None
    ) -> AsyncGenerator[ObjectReader]:
        etag = expiry.split_etag(await self._present(key, if_match))[0]
        try:
            info, start, chunks = await self._read_stream(key, byte_range, etag)
        except PreconditionFailedError:
            await self.head(key)
            raise
        async with aclosing(chunks):
            yield ObjectReader(self._presented(info), start, chunks, verified=byte_range is None)

    async def head(self, key: str) -> ObjectInfo:
        """What is known of the object, without its bytes. :raises KeyNotFoundError: there is none."""
        validate_key(key)
        return self._presented(await self._head(key))

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove the object. :raises KeyNotFoundError: there is none, or it has expired (also with
        ``if_match``, which is as for `put`)."""
        validate_key(key)
        raw, until = expiry.split_etag(await self._present(key, if_match))
        if until is not None and until <= self.clock():
            raise expiry.gone(key)
        if raw is None:
            # What is damaged can be removed. What is missing may yet be made by a save that was cancelled:
            # `_delete` waits for that.
            with suppress(IntegrityError):
                try:
                    info = await self._head(key)
                except KeyNotFoundError:
                    pass
                else:
                    self._presented(info)
        try:
            await self._delete(key, raw)
        except PreconditionFailedError:
            await self.head(key)
            raise

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object with its type, metadata and time to live, within the store where it can.

        :raises KeyNotFoundError: there is no ``source``. :raises PreconditionFailedError: ``if_absent`` and
            there is a ``target``.
        """
        return (await self._copied(source, target, if_absent))[1]

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """`copy`, then delete ``source``. A crash in between leaves both; nothing is ever lost.

        :raises PreconditionFailedError: ``source`` was changed meanwhile; both are there.
        """
        etag, result = await self._copied(source, target, if_absent)
        await self.delete(source, if_match=etag)
        return result

    async def _copied(self, source: str, target: str, if_absent: bool) -> tuple[str, PutResult]:
        """Copy one version of the source; also its ETag."""
        validate_key(target)
        if source == target:
            raise InvalidArgumentError("source and target are the same key", field="target")
        validate_key(source)
        for _ in range(_ATTEMPTS):
            info = await self._head(source)
            etag = self._presented(info).etag
            await self._mark(target, info.metadata)
            if if_absent:
                await self._make_way(target)
            try:
                result = await self._copy(info, target, if_absent)
            except PreconditionFailedError:
                if (await self._head(source)).etag == info.etag:
                    if not if_absent:
                        raise
                    await self._make_way(target)
            else:
                await self._mark_again(target, info.metadata)
                return etag, replace(result, etag=expiry.join_etag(result.etag, info.metadata))
        raise TransientStorageError(f"copy {source!r}: it is being replaced all the time")

    async def stats(self, prefix: str = "", *, skip: str | None = None) -> ObjectStats:
        """Count the objects that start with ``prefix`` and their bytes, by listing them."""
        count = total = 0
        with unlisted.collected() as names:
            async for entry in self.iterate(prefix, details=not self.lists_sizes, skip=skip):
                if isinstance(entry, ListEntry):
                    count += 1
                    total += entry.size or 0
        return ObjectStats(count, total, tuple(names))

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove up to ``limit`` expired objects and return how many were removed. Any number of sweeps may
        run at once; an object that was saved anew meanwhile stays. It goes on until nothing is left that was
        due when it began: what tells of objects that were saved anew or deleted does not count.

        :param seconds: after which it stops, to be gone on with by the next; None means never.
        :raises StorageError: one can not be removed, say for a lease of another program. The others were,
            and the next sweep tries it again.
        """
        limit = whole("limit", limit, 0)
        removed = 0
        failures: list[BaseException] = []
        now, until = (
            expiry.end_of(self.clock(), 0),
            time.monotonic() + (math.inf if seconds is None else seconds),
        )
        due: deque[tuple[str, str]] = deque()
        after = None
        while removed < limit and time.monotonic() < until:
            if not due:
                due.extend([found async for found in self._expired_markers(_SWEEP_MARKERS, after, now)])
            if not due:
                break
            batch = [due.popleft() for _ in range(min(len(due), _SWEEP_CONCURRENCY, limit - removed))]
            after = batch[-1][0]
            swept = await asyncio.gather(
                *(self._remove_expired(*found) for found in batch), return_exceptions=True
            )
            removed += swept.count(True)
            failures += [result for result in swept if isinstance(result, BaseException)]
            if any(isinstance(failure, StorageUnavailableError) for failure in failures):
                break  # The others would fail alike.
            if len(failures) >= max(limit, _SWEEP_CONCURRENCY):
                break  # What can not be removed must not make one sweep endless.
        if failures:
            raise failures[0]
        return removed

    async def _remove_expired(self, marker: str, key: str) -> bool:
        removed = False
        try:
            info = await self._head(key)
            if self._is_expired(info):
                await self._delete(key, info.etag)
                removed = True
        except PreconditionFailedError:
            pass  # Saved anew; a newer marker tells of the new one's end.
        except KeyNotFoundError:
            # Deleted, or still on its way.
            if (late := expiry.late_marker(marker, key)) is not None:
                await self._put_marker(*late)
        with suppress(KeyNotFoundError):
            await self._delete(marker, None)
        return removed

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
        limit = whole("limit", limit, 1, 5000)
        if delimiter not in (None, "/"):
            raise InvalidArgumentError(
                f"delimiter {delimiter!r} is not supported", field="delimiter", limit="'/' or none"
            )
        after = _decode_cursor(cursor, prefix, delimiter) if cursor is not None else None
        entries: list[ListEntry] = []
        prefixes: list[str] = []
        last = ""
        # One more than asked for tells whether there is a next page, without an empty page at the end.
        async for found in self._scan_without(skip, prefix, delimiter, after, limit + 1, details):
            if len(entries) + len(prefixes) == limit:
                return ListPage(entries, prefixes, _encode_cursor(last, prefix, delimiter))
            if isinstance(found, str):
                prefixes.append(found)
                last = found
            else:
                entries.append(found)
                last = found.key
        return ListPage(entries, prefixes, None)

    def iterate(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        details: bool = False,
        skip: str | None = None,
    ) -> Listed[ListEntry | str]:
        """Every entry (and, with a delimiter, every common prefix as a str) in order: ``async for`` one by
        one, ``await`` as a list.

        Objects saved or deleted meanwhile may or may not be seen; all others are given exactly once.
        Arguments as for `list_page`.
        """

        async def found() -> AsyncGenerator[ListEntry | str]:
            validate_prefix(prefix)
            async for found in self._scan_without(skip, prefix, delimiter, None, None, details):
                yield found

        return Listed(found)

    async def _scan_without(
        self,
        skip: str | None,
        prefix: str,
        delimiter: str | None,
        after: str | None,
        count: int | None,
        details: bool,
    ) -> AsyncIterator[ListEntry | str]:
        hidden: set[str] = set()
        if not prefix.startswith(SYSTEM_PREFIX):
            hidden = {key async for _, key in self._expired_markers(None) if key.startswith(prefix)}
        async for found in self._folded(prefix, delimiter, after, count, details, skip):
            name = found if isinstance(found, str) else found.key
            if skip is not None and name.startswith(skip):
                break
            if not hidden or await self._is_visible(found, hidden):
                yield found
        else:
            return
        # The first name below `skip` was met: go on behind all of them instead of reading them.
        async for found in self._folded(prefix, delimiter, skip, count, details, None):
            if not hidden or await self._is_visible(found, hidden):
                yield found

    def _folded(
        self,
        prefix: str,
        delimiter: str | None,
        after: str | None,
        count: int | None,
        details: bool,
        skip: str | None,
    ) -> AsyncIterator[ListEntry | str]:
        found = self._scan(prefix, delimiter, after, count, details)
        if delimiter is None or not self.folds_what_is_no_key:
            return found

        def names(below: str, behind: str | None, size: int) -> AsyncIterator[ListEntry | str]:
            return self._scan(below, None, behind, size, False)

        return without_empty(found, names, prefix, after, count, skip)

    async def _is_visible(self, found: ListEntry | str, hidden: set[str]) -> bool:
        if isinstance(found, str):
            if not any(key.startswith(found) for key in hidden):
                return True
            async for entry in self._scan(found, None, None, None, False):
                if await self._is_visible(entry, hidden):
                    return True
            return False
        if found.key not in hidden:
            return True
        try:
            return not self._is_expired(await self._head(found.key))
        except KeyNotFoundError:
            return False

    # -- time to live

    def _checked(
        self,
        key: str,
        content_type: str,
        metadata: Mapping[str, str] | None,
        if_match: str | None,
        if_absent: bool,
        ttl: float | None,
    ) -> tuple[str, dict[str, str]]:
        """Check what a save is given; the content type and the metadata to store, the end of its life
        included."""
        validate_key(key)
        content_type = validate_content_type(content_type)
        kept = {} if metadata is None else validate_metadata(mapping("metadata", metadata))
        if if_match is not None and if_absent:
            raise InvalidArgumentError("if_match and if_absent exclude each other", field="if_match")
        if ttl is not None:
            kept[expiry.METADATA] = expiry.end_of(self.clock(), ttl)
        return content_type, kept

    def _is_expired(self, info: ObjectInfo) -> bool:
        until = expiry.end_in(info.metadata)
        return until is not None and until <= self.clock()

    def _presented(self, info: ObjectInfo) -> ObjectInfo:
        """The info as callers see it. :raises KeyNotFoundError: the object has expired."""
        if (content_type := readable_content_type(info.content_type)) != info.content_type:
            info = replace(info, content_type=content_type)
        if _HIDDEN.isdisjoint(info.metadata):
            return info
        until = expiry.end_in(info.metadata)
        if until is not None and until <= self.clock():
            raise expiry.gone(info.key)
        return replace(
            info,
            etag=expiry.join_etag(info.etag, info.metadata),
            metadata={name: value for name, value in info.metadata.items() if name not in _HIDDEN},
            expires_at=None if until is None else datetime.fromtimestamp(until, UTC),
            **{
                field: info.metadata[name]
                for name, field in kept_headers.FIELDS.items()
                if name in info.metadata
            },
        )

    async def _replaceable(self, key: str, if_match: str | None) -> str | None:
        """What the hooks of a save get for ``if_match``: the store's own ETag, or `ANY_VERSION`.

        :raises PreconditionFailedError: there is nothing that it means.
        """
        if if_match is None:
            return None
        etag = read_etag(if_match, "if_match")
        if etag is None:
            raise unmet(key, if_match)
        if etag == ANY_VERSION:
            try:
                self._presented(await self._head(key))
            except KeyNotFoundError as error:
                raise unmet(key, etag) from error
            except IntegrityError:
                pass  # What is damaged is there, and can be replaced.
            return etag
        raw, until = expiry.split_etag(etag)
        if until is not None and until <= self.clock():
            raise PreconditionFailedError(f"object {key!r} has expired", field="if_match")
        return raw

    async def _present(self, key: str, if_match: str | None) -> str | None:
        """The ETag that a read or a delete is to insist on, None for any version.

        :raises KeyNotFoundError: the object can not have ``if_match``, for there is none.
        :raises PreconditionFailedError: no object can have it.
        """
        etag = None if if_match is None else read_etag(if_match, "if_match")
        if etag is None and if_match is not None:
            await self.head(key)
            raise unmet(key, if_match)
        return None if etag == ANY_VERSION else etag

    async def _make_way(self, key: str) -> None:
        """Remove an object that has expired and is still there. A sweep may do the same at any moment, so it
        is not replaced: only "there must be none" holds before and after.

        :raises PreconditionFailedError: there is one that has not expired.
        """
        try:
            info = await self._head(key)
            if not self._is_expired(info):
                raise unmet(key, None)
        except KeyNotFoundError:
            return
        with suppress(KeyNotFoundError, PreconditionFailedError):  # swept, or saved anew, just now
            await self._delete(key, info.etag)

    async def _mark(self, key: str, metadata: Mapping[str, str]) -> None:
        """Leave a marker that tells listings and sweeps of the end of an object's life, before the object is
        there: a marker without an object does no harm, an object without one would stay for ever."""
        if (end := metadata.get(expiry.METADATA)) is not None:
            await self._put_marker(*expiry.marker(key, end))

    async def _mark_again(self, key: str, metadata: Mapping[str, str]) -> None:
        """Mark an object whose life was over before it was there: a sweep may have been there first."""
        until = expiry.end_in(metadata)
        if until is not None and (now := self.clock()) >= until:
            # By another name than the first: that one may be about to be removed.
            await self._put_marker(*expiry.marker(key, expiry.end_of(now, 0)))

    async def _put_marker(self, name: str, content: bytes) -> None:
        digest = await sha256_of(content)
        await self._put(name, content, "text/plain; charset=utf-8", {}, digest, None, False)

    async def _expired_markers(
        self, limit: int | None, after: str | None = None, now: str | None = None
    ) -> AsyncIterator[tuple[str, str]]:
        """(marker, key) of what has expired, first the longest gone, behind the marker ``after``.

        :param now: the moment, as `expiry.end_of` writes it, that decides; None takes the clock's.
        """
        now = now or expiry.end_of(self.clock(), 0)
        count = 0
        async for found in self._scan(expiry.MARKERS, None, after, limit, False):
            assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
            if not expiry.is_due(found.key, now) or count == limit:
                return
            count += 1
            key = expiry.marked_key(found.key)
            if key is None:
                try:
                    stored = await self._get(found.key, None, None, None)
                except KeyNotFoundError:
                    continue  # Another sweep was here.
                assert stored is not None  # noqa: S101 - only a get with if_none_match answers None
                key = stored.data.decode()
            yield found.key, key

    # -- what a backend implements; arguments are already validated. The ``if_match`` of a save may be
    # `ANY_VERSION`, that of a read or a delete is an ETag that an object can have.

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

    # -- what a backend may do better

    async def _put_stream(
        self,
        key: str,
        parts: Parts,
        content_type: str,
        metadata: dict[str, str],
        if_match: str | None,
        if_absent: bool,
    ) -> PutResult:
        """Store ``parts``, each of `part_bytes` but the last. ``parts.sha256`` and ``parts.size`` are known
        when they have ended; if they raise, nothing may be left. This default holds them all."""
        data = b"".join([part async for part in parts])
        return await self._put(key, data, content_type, metadata, parts.sha256, if_match, if_absent)

    async def _read_stream(
        self, key: str, byte_range: ByteRange | None, if_match: str | None
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """Info, offset of the first byte, and the bytes chunk by chunk, all of one version of the object;
        unverified. This default holds them all."""
        found = await self._get(key, byte_range, if_match, None)
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return found.info, found.start, one_chunk(found.data)

    async def _copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        """Copy bytes, type, metadata and checksum of this very version. This default moves the bytes through
        here.

        :raises PreconditionFailedError: the source has been replaced, or (``if_absent``) there is a target.
        """
        info, _, chunks = await self._read_stream(source.key, None, source.etag)
        async with aclosing(chunks):
            reader = ObjectReader(info, 0, chunks, verified=True)
            parts = Parts(reader, self.part_bytes, self.max_stream_bytes)
            data = await parts.whole()
            metadata = dict(info.metadata)
            if data is None:
                return await self._put_stream(target, parts, info.content_type, metadata, None, if_absent)
            digest = await sha256_of(data)
            return await self._put(target, data, info.content_type, metadata, digest, None, if_absent)


def missing(key: str) -> KeyNotFoundError:
    """The error, in the same words on every backend, for an object that is not there."""
    return KeyNotFoundError(f"object {key!r} does not exist", field="key")


def unmet(key: str, if_match: str | None) -> PreconditionFailedError:
    """The error for an object without the ETag ``if_match``; where that is None, for one that is there."""
    if if_match is None:
        return PreconditionFailedError(f"object {key!r} exists", field="if_absent")
    if if_match == ANY_VERSION:
        return PreconditionFailedError(f"object {key!r} does not exist", field="if_match")
    return PreconditionFailedError(
        f"object {key!r} does not have the ETag {if_match[:300]!r}", field="if_match"
    )


def _checked_range(byte_range: ByteRange | None) -> ByteRange | None:
    if byte_range is not None and not isinstance(byte_range, ByteRange):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"byte_range is a {type(byte_range).__name__}", field="range", limit="a ByteRange"
        )
    return None if byte_range is None else byte_range.checked()


def _never_there(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"object {key!r} can not be created: another was there, and expired or was removed meanwhile",
        remedy="try again",
    )


def is_after(candidate: str, after: str | None) -> bool:
    """Whether a listing that goes on behind ``after`` still has to give ``candidate``."""
    if after is None:
        return True
    if after.endswith("/") and candidate.startswith(after):
        return False
    return candidate.encode() > after.encode()


def _encode_cursor(last: str, *listing: str | None) -> str:
    return cursors.bound(base64.urlsafe_b64encode(last.encode()).decode().rstrip("="), *listing)


def _decode_cursor(cursor: str, *listing: str | None) -> str:
    text = cursors.unbound(cursor, *listing)
    try:
        return validate_prefix(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        )
    except (binascii.Error, ValueError) as error:
        raise cursors.refused() from error
