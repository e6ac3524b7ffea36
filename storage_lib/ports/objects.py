"""`ObjectStore`: bytes by key, with content type, metadata, ETag and checksum, as users see them.

The store validates once, marks expiry, hides reserved metadata, binds cursors and verifies checksums. A
driver (drivers.py), with the layers around it, does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Buffer, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import batched
from typing import Unpack, cast

from msgspec.structs import replace as with_options

from storage_lib.arguments import mapping, whole
from storage_lib.buffers import as_bytes
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.keys import validate_content_type, validate_key, validate_metadata
from storage_lib.ports import expiry, hidden, kept_headers, pages, sweeping, unlisted
from storage_lib.ports.drivers import PLAIN_GET, UNASKED, GetOptions, ObjectDriver, PutOptions
from storage_lib.ports.errors import UnknownOutcomeError, UnknownPresenceError, too_large, unmet
from storage_lib.ports.hints import CALL, WANTS_CREATED, call_with, within
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import (
    ANY_VERSION,
    DEFAULT_CONTENT_TYPE,
    KEPT,
    ByteRange,
    Kept,
    ListEntry,
    ListingOptions,
    ListPage,
    ObjectInfo,
    ObjectStats,
    PageOptions,
    PutResult,
    SaveOptions,
    StoredObject,
    agrees,
    read_etag,
)
from storage_lib.ports.presence import Presence
from storage_lib.ports.streaming import ByteSource, ObjectReader, Parts, sha256_of, verify
from storage_lib.ports.writer import ObjectWriter, open_writer

DELETED_TOGETHER = 256
"""What Azure deletes in one request (Blob Batch)."""
_ATTEMPTS = 8
_STREAM = "stream"
"""Stands for the content of a stream in the mark of its call: who streams marks calls by what they stream."""


class ObjectStore(Presence):
    """Bytes by key, with content type, metadata, ETag and checksum. docs/guarantees.md has the guarantees.

    :param driver: the driver of a backend, with the layers around it.
    """

    def __init__(self, driver: ObjectDriver) -> None:
        super().__init__(driver)
        can = driver.capabilities
        self.reports_created = can.reports_created
        self.tells_created = can.tells_created
        self.max_object_bytes = can.max_object_bytes
        self.part_bytes = can.part_bytes
        self.max_stream_bytes = can.part_bytes * can.max_parts

    async def put(self, key: str, data: Buffer, **options: Unpack[SaveOptions]) -> PutResult:
        """Store ``data``; it is durable when this returns, and a failure leaves the old object.

        :param key: the object to create or replace.
        :param data: bytes or a bytes-like object; what it holds at this moment is stored.
        :param options: see `SaveOptions`.
        :raises PreconditionFailedError: ``if_match`` or ``if_absent`` does not hold.
        """
        data = as_bytes(data)
        content_type, kept = self._checked(key, **options)
        if_match, if_absent = options.get("if_match"), options.get("if_absent", False)
        return await self._save(key, data, content_type, kept, if_match, if_absent)

    async def _save(
        self,
        key: str,
        data: bytes,
        content_type: str,
        metadata: dict[str, str],
        if_match: str | None,
        if_absent: bool,
        sha256: str | None = None,
    ) -> PutResult:
        if len(data) > self.max_object_bytes:
            raise too_large(len(data), self.max_object_bytes)
        digest = sha256 or await sha256_of(data)
        if (if_match is not None or if_absent) and (call := call_with(digest)) is not None:
            metadata[hidden.CALL] = call
        options = PutOptions(content_type, metadata, digest, if_match, if_absent)
        if self.tells_created and WANTS_CREATED.get() and not options.is_conditional:
            options = with_options(options, tell_created=True)
        try:
            options = with_options(options, if_match=await self._replaceable(key, if_match))
        except PreconditionFailedError:
            if (earlier := await self._saved_before(key, options)) is None:
                raise
            return _saved(earlier, len(data), options)
        await self.mark(key, metadata)
        for _ in range(_ATTEMPTS):
            try:
                result = await self.driver.put(key, data, options)
                break
            except PreconditionFailedError:
                if (earlier := await self._saved_before(key, options)) is not None:
                    result = earlier
                    break
                if not if_absent:
                    raise
            await self._make_way(key)
        else:
            raise _never_there(key)
        await self.mark_again(key, metadata)
        return _saved(result, len(data), options)

    async def _saved_before(self, key: str, options: PutOptions) -> PutResult | None:
        """What the same call of a remote client has saved before, if its answer was lost and it calls again;
        None if it has saved nothing, or that is no longer there."""
        mark = options.metadata.get(hidden.CALL)
        if mark is None:
            return None
        with suppress(KeyNotFoundError, IntegrityError):
            info = await self._core.fresh_head(key)
            if info.metadata.get(hidden.CALL) == mark and not self._is_expired(info):
                if expiry.METADATA in info.metadata:
                    options.metadata[expiry.METADATA] = info.metadata[expiry.METADATA]
                return PutResult(key, info.etag, hidden.presented(info).size, options.has_created)
        return None

    async def put_stream(self, key: str, source: ByteSource, **options: Unpack[SaveOptions]) -> PutResult:
        """Store a stream of any length with constant memory; otherwise like `put`.

        The complete object appears when the source has ended; if the source raises, nothing is stored.

        :param source: an async or plain iterable of bytes-like objects, or a file object in binary mode. Each
            chunk is consumed at once, so its buffer may be reused.
        :param options: those of `put`.
        """
        content_type, kept = self._checked(key, **options)
        parts = Parts(source, self.part_bytes, self.max_stream_bytes)
        if_match, if_absent = options.get("if_match"), options.get("if_absent", False)
        return await self._save_stream(key, parts, content_type, kept, if_match, if_absent)

    async def _save_stream(
        self,
        key: str,
        parts: Parts,
        content_type: str,
        metadata: dict[str, str],
        if_match: str | None,
        if_absent: bool,
        upload: str | None = None,
    ) -> PutResult:
        if (data := await parts.whole()) is not None:
            return await self._save(key, data, content_type, metadata, if_match, if_absent)
        if (if_match is not None or if_absent) and (call := call_with(_STREAM)) is not None:
            metadata[hidden.CALL] = call
        options = PutOptions(content_type, metadata, if_absent=if_absent, upload=upload)
        try:
            options = with_options(options, if_match=await self._replaceable(key, if_match))
            if if_absent:
                with suppress(UnknownPresenceError):
                    await self._make_way(key)  # before the long way, not at its end
        except PreconditionFailedError:
            if (earlier := await self._saved_before(key, options)) is None:
                raise
            return _saved(earlier, earlier.size, options)
        await self.mark(key, metadata)
        try:
            result = await self.driver.put_stream(key, parts, options)
        except PreconditionFailedError as error:
            if (earlier := await self._saved_before(key, options)) is not None:
                return _saved(earlier, earlier.size, options)
            if if_absent:
                await self._make_way(key)
                raise _never_there(key) from error  # Its source cannot be read twice.
            raise
        await self.mark_again(key, metadata)
        return _saved(result, parts.size, options)

    async def adopt(
        self,
        key: str,
        data: bytes | Parts,
        content_type: str,
        metadata: Mapping[str, str],
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        upload: str | None = None,
        sha256: str | None = None,
    ) -> PutResult:
        """Store an object as it was elsewhere: like `put` and `put_stream`, but with all of its metadata,
        the end of its life and others with reserved names included. For copies from another store.

        :param data: its bytes, or parts of `part_bytes` each.
        :param upload: the name of an upload that can be continued; see `ObjectDriver.uploaded`.
        :param sha256: the checksum of the bytes, if it has been verified already.
        :raises PreconditionFailedError: ``if_match`` or ``if_absent`` does not hold.
        """
        own = {name: text for name, text in metadata.items() if not name.startswith(hidden.RESERVED)}
        content_type, kept = self._checked(key, content_type, own, None, if_match, if_absent, None)
        kept |= {name: text for name, text in metadata.items() if name not in own}
        if isinstance(data, Parts):
            if not self.driver.capabilities.resumes_streams:
                upload = None
            return await self._save_stream(key, data, content_type, kept, if_match, if_absent, upload)
        return await self._save(key, data, content_type, kept, if_match, if_absent, sha256)

    async def get(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        fresh: bool = False,
        dated: bool = True,
    ) -> StoredObject | None:
        """Return the object; its bytes are verified against its checksum, except for a range.

        :param key: the object.
        :param byte_range: return only this range.
        :param if_match: as for `put`.
        :param if_none_match: return None if the object still has this ETag (or any, for ``"*"``).
            Without it the result is never None.
        :param fresh: return what the store has now, even if a layer has kept what it had before.
        :param dated: False if nobody will look at ``last_modified``, which may then be wrong.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: the object does not have the ETag ``if_match``.
        :raises RangeNotSatisfiableError: no byte of the object lies in the range.
        :raises IntegrityError: the bytes are not the ones that were saved.
        """
        validate_key(key)
        byte_range = _checked_range(byte_range)
        etag = known = until = None
        if if_match is not None:
            etag = await self._present(key, if_match)
        if if_none_match is not None:
            known = read_etag(if_none_match, "if_none_match", weakly=True)
            if known == ANY_VERSION:
                if not agrees((await self.head(key, fresh=fresh)).etag, etag):
                    raise unmet(key, if_match)
                return None
            known, until = expiry.split_etag(known)
        try:
            options = _get_options(byte_range, expiry.split_etag(etag)[0], known, fresh, dated)
            found = await self.driver.get(key, options)
        except PreconditionFailedError:
            await self._exists(key)
            raise
        if found is None:
            if until is not None and until <= self.clock():
                raise expiry.gone(key)
            return None
        info = self._readable(found.info)
        if info is not found.info:
            found = StoredObject(info, found.data, found.start, found.verified)
        if byte_range is None and not found.verified:
            await verify(found)
        return found

    def at_hand(self, key: str) -> StoredObject | None:
        """What `get` with ``dated=False`` would return, if that needs no waiting; None if it needs to,
        whether or not there is such an object."""
        return self.driver.at_hand(key) if type(key) is str else None

    def open_reader(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        fresh: bool = False,
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """Read an object of any size with constant memory. The last chunk is returned only if the whole
        object matches its checksum. The errors are those of `get`.

            async with objects.open_reader(key) as reader:
                async for chunk in reader:
                    ...
        """
        return self._reader(validate_key(key), _checked_range(byte_range), if_match, fresh)

    @asynccontextmanager
    async def _reader(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, fresh: bool
    ) -> AsyncGenerator[ObjectReader]:
        etag = expiry.split_etag(await self._present(key, if_match))[0]
        try:
            options = _get_options(byte_range, etag, None, fresh)
            info, start, chunks = await self.driver.read_stream(key, options)
        except PreconditionFailedError:
            await self._exists(key)
            raise
        async with aclosing(chunks):
            yield ObjectReader(self._readable(info), start, chunks, verified=byte_range is None)

    @asynccontextmanager
    async def open_writer(self, key: str, **options: Unpack[SaveOptions]) -> AsyncGenerator[ObjectWriter]:
        """Store what is written in the block, of any length with constant memory; otherwise like
        `put_stream`. The object appears when the block has ended; if the block raises, nothing is stored.

            async with objects.open_writer(key) as writer:
                await writer.write(chunk)
            etag = writer.result.etag

        The errors of `put` are raised by `ObjectWriter.write` or at the end of the block.

        :param options: those of `put`.
        """
        self._checked(key, **options)
        async with open_writer(partial(self.put_stream, key, **options)) as writer:
            yield writer

    async def head(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        """Return what is known about an object, without its bytes.

        :param fresh: as for `get`.
        :raises KeyNotFoundError: there is no such object.
        """
        validate_key(key)
        info = await (self.driver.fresh_head(key) if fresh else self.driver.head(key))
        return self._presented(hidden.received(info))

    async def delete(self, key: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        """Delete an object.

        :param if_match: as for `put`.
        :param missing_ok: it is no error if there is no such object.
        :raises KeyNotFoundError: there is no such object, or it has expired.
        :raises PreconditionFailedError: there is one with another ETag than ``if_match``.
        """
        try:
            await self._delete(key, if_match, look=not missing_ok)
        except KeyNotFoundError:
            if not missing_ok:
                raise

    async def delete_listed(self, key: str) -> None:
        """Delete an object that a listing has just shown: it is not looked at again.

        :raises KeyNotFoundError: it has been deleted since.
        """
        await self._delete(key, None, look=False)

    async def delete_many(
        self, keys: Iterable[str], *, missing_ok: bool = False, together: int = DELETED_TOGETHER
    ) -> dict[str, StorageError | None]:
        """`delete` each key; None or the error of each.

        :param together: how many at a time, which go to the store in one request where it can do that.
        """
        results: dict[str, StorageError | None] = dict.fromkeys(keys)
        for some in batched(results, together, strict=False):
            if not missing_ok:
                results |= await _errors(some, lambda key: self._lives(validate_key(key)))
            left = [key for key in some if results[key] is None]
            with within(UNASKED, len(left) if missing_ok else 0):
                deleted = await _errors(left, lambda key: self._delete(key, None, look=False))
            for key, error in deleted.items():
                if not (missing_ok and isinstance(error, KeyNotFoundError)):
                    results[key] = error
        return results

    async def _delete(self, key: str, if_match: str | None, *, look: bool = True) -> None:
        validate_key(key)
        raw, until = expiry.split_etag(await self._present(key, if_match))
        if until is not None and until <= self.clock():
            raise expiry.gone(key)
        if raw is None and look:
            await self._lives(key)
        try:
            await self.driver.delete(key, raw)
        except PreconditionFailedError:
            await self._exists(key)
            raise

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object with its type, metadata and expiry, on the server side where the store supports it.

        :raises KeyNotFoundError: there is no ``source``.
        :raises PreconditionFailedError: ``if_absent`` is set and there is a ``target``.
        """
        return (await self._copied(source, target, if_absent))[1]

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object and delete ``source``. A crash in between leaves both; nothing is ever lost.

        :raises PreconditionFailedError: ``source`` was changed meanwhile; both exist.
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
        conflict: PreconditionFailedError | None = None
        for _ in range(_ATTEMPTS):
            info = await self._core.head(source)
            shown = self._presented(info)
            await self.mark(target, info.metadata)
            if if_absent:
                with suppress(UnknownPresenceError):
                    await self._make_way(target)
            try:
                result = await self.driver.copy(info, target, if_absent)
            except PreconditionFailedError as error:
                # The source was replaced, or two stores answered of which one is behind. If a target is in
                # the way, the next look finds it.
                conflict = error
            else:
                await self.mark_again(target, info.metadata)
                etag = expiry.join_etag(result.etag, info.metadata)
                return shown.etag, replace(result, etag=etag, size=shown.size)
        raise TransientStorageError(
            f"copy {source!r}: it is being replaced all the time, or is not the same in two stores",
            remedy="try again",
        ) from conflict

    async def touch(
        self,
        key: str,
        *,
        ttl: float | datetime | Kept | None = KEPT,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str | None] | None = None,
        if_match: str | None = None,
    ) -> PutResult:
        """Give an object another time to live, other metadata or other headers. Its bytes stay where they are
        (on Azure they are written again where a header changes); its ETag and the time of its last change are
        new.

        :param key: the object.
        :param ttl: seconds from now after which it is gone, or that moment; None means never, and without it
            the end of its life stays as it is.
        :param metadata: all of its metadata from now on; None keeps them.
        :param headers: those of `put` that change; None as a value removes one, and the others stay.
        :param if_match: as for `put`.
        :raises KeyNotFoundError: there is no such object, or it has expired.
        :raises PreconditionFailedError: the object does not have the ETag ``if_match``.
        """
        validate_key(key)
        changed = {} if headers is None else kept_headers.checked(mapping("headers", headers))
        given = None if metadata is None else validate_metadata(mapping("metadata", metadata))
        if ttl is not KEPT and ttl is not None:
            expiry.end_of(self.clock(), ttl)  # Refused before anything is asked.
        raw, call = expiry.split_etag(await self._present(key, if_match))[0], CALL.get()
        for _ in range(_ATTEMPTS):
            info = await self._core.head(key)
            self._sealable(info)
            if call is not None and info.metadata.get(hidden.CALL) == call:
                shown = hidden.presented(info)  # Its answer was lost.
                return PutResult(key, shown.etag, shown.size, created=False)
            if not agrees(info.etag, raw):
                raise unmet(key, if_match)
            kept = {name: text for name, text in info.metadata.items() if name not in hidden.OF_ONE_WRITE}
            if call is not None:
                kept[hidden.CALL] = call
            if given is not None:
                kept = {name: text for name, text in kept.items() if hidden.is_own(name)} | given
            if changed:
                kept = kept_headers.merged(kept, changed)
            if ttl is not KEPT:
                kept.pop(expiry.METADATA, None)
                if ttl is not None:
                    kept[expiry.METADATA] = expiry.end_of(self.clock(), ttl)
            if kept.get(expiry.METADATA) != info.metadata.get(expiry.METADATA):
                await self.mark(key, kept)
            try:
                result = await self.driver.touch(info, dict(kept))
            except (PreconditionFailedError, KeyNotFoundError):
                continue  # Replaced or deleted; the next look tells which.
            except UnknownOutcomeError:
                if raw is not None:
                    raise
                continue  # Whichever version is there now, it is to be touched.
            await self.mark_again(key, kept)
            size = hidden.presented(info).size
            return PutResult(key, expiry.join_etag(result.etag, kept), size, created=False)
        raise TransientStorageError(f"touch {key!r}: it is being replaced all the time", remedy="try again")

    async def stats(self, prefix: str = "", *, skip: str | None = None) -> ObjectStats:
        """Count the objects whose keys start with ``prefix``, and their bytes, by listing them."""
        count = total = 0
        details = not self.driver.capabilities.lists_sizes
        with unlisted.collected() as names:
            async for entry in self.iterate(prefix, details=details, skip=skip):
                if isinstance(entry, ListEntry):
                    count += 1
                    total += entry.size or 0
        return ObjectStats(count, total, tuple(names))

    async def need(self, key: str, *actions: str) -> None:
        """:raises ForbiddenError: the caller may not do all of this to the object. Without an access policy
        everyone may."""

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove expired objects and return how many were removed. Any number of sweeps may run at once; an
        object that is saved again meanwhile stays.

        :param limit: remove at most this many; markers of objects that were saved again or deleted do not
            count.
        :param seconds: stop after this long; the next sweep continues. None means no limit.
        :raises StorageError: an object cannot be removed, for example because another program holds a lease.
            The others were removed, and the next sweep tries again.
        """
        limit = whole("limit", limit, 0)
        return 0 if self._ends_objects else await sweeping.sweep(self._core, limit, seconds)

    async def list_page(self, prefix: str = "", **options: Unpack[PageOptions]) -> ListPage:
        """Return a page of the objects whose keys start with ``prefix``, ordered by their UTF-8 bytes.

        :param prefix: only keys that start with it.
        :param delimiter: ``"/"`` folds keys that continue after the next slash into `ListPage.prefixes`.
        :param limit: at most this many entries and prefixes together, 1 to 5,000 (Azure's page size).
        :param cursor: `ListPage.cursor` of the previous page, with the same prefix and delimiter.
        :param start_after: only keys and prefixes behind this key or prefix; it need not exist.
        :param details: also return what is known of each object: `ListEntry.info`.
        :param cheap: with ``details``, only those that need no request for each object. What a store does not
            tell in a listing is None then: on S3 ``info`` and ``etag``, behind layers that change sizes also
            ``size``.
        :param skip: a prefix that ends in ``/``; everything below it is left out, unread.
        """
        return await pages.page(self.driver, prefix, **options)

    def iterate(self, prefix: str = "", **options: Unpack[ListingOptions]) -> Listed[ListEntry | str]:
        """List every entry (and, with a delimiter, every common prefix as a str) in order: ``async for``
        streams them, ``await`` returns a list. The arguments are those of `list_page`.

        Objects saved or deleted meanwhile may or may not be seen; all others are listed exactly once.
        """
        return Listed(partial(pages.found, self.driver, prefix, **options))

    # -- links

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        """A URL of the store itself by which others load or save this object. It ends with the object's life.

        :return: the link, or why there is none: the store has no URLs, cannot enforce what is asked for, or a
            layer would be bypassed.
        :raises KeyNotFoundError: there is no object to load.
        """
        validate_key(key)
        if options.method == "PUT":
            return await self.driver.link(key, options)
        info = await self.driver.fresh_head(key)
        until = self._readable(info).expires_at
        if until is not None:
            end = until.replace(microsecond=0)
            options = with_options(options, expires_at=min(options.expires_at, end))
        if hidden.COMPRESSION in info.metadata:
            return NoStoreLink("the object is stored compressed", options.expires_at)
        found = await self.driver.link(key, options)
        return found if isinstance(found, StoreLink) else with_options(found, expires_at=options.expires_at)

    def _checked(
        self,
        key: str,
        content_type: str = DEFAULT_CONTENT_TYPE,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | datetime | None = None,
    ) -> tuple[str, dict[str, str]]:
        """Check what a save is given; the content type and the metadata to store, the headers and the end of
        its life included."""
        validate_key(key)
        content_type = validate_content_type(content_type)
        kept = {} if metadata is None else validate_metadata(mapping("metadata", metadata))
        if headers:
            given = kept_headers.checked(mapping("headers", headers))
            kept |= {name: value for name, value in given.items() if value is not None}
        if if_match is not None and if_absent:
            raise InvalidArgumentError("if_match and if_absent exclude each other", field="if_match")
        if ttl is not None:
            kept[expiry.METADATA] = expiry.end_of(self.clock(), ttl)
        return content_type, kept


async def _errors(
    keys: Iterable[str], work: Callable[[str], Awaitable[None]]
) -> dict[str, StorageError | None]:
    """Do ``work`` with all of them at once; the error of each."""
    keys = list(keys)
    done = await asyncio.gather(*(work(key) for key in keys), return_exceptions=True)
    for error in done:
        if error is not None and not isinstance(error, StorageError):
            raise error
    return dict(zip(keys, cast("list[StorageError | None]", done), strict=True))


def _checked_range(byte_range: ByteRange | None) -> ByteRange | None:
    if byte_range is not None and not isinstance(byte_range, ByteRange):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgumentError(
            f"byte_range is a {type(byte_range).__name__}", field="range", limit="a ByteRange"
        )
    return None if byte_range is None else byte_range.checked()


_UNDATED_GET = GetOptions(dated=False)


def _get_options(
    byte_range: ByteRange | None,
    if_match: str | None,
    if_none_match: str | None,
    fresh: bool,
    dated: bool = True,
) -> GetOptions:
    if byte_range is None and if_match is None and if_none_match is None and not fresh:
        return PLAIN_GET if dated else _UNDATED_GET
    return GetOptions(byte_range, if_match, if_none_match, fresh, dated)


def _saved(result: PutResult, size: int, options: PutOptions) -> PutResult:
    """The result of a save as callers see it, with the size of what they gave."""
    created = True if options.if_absent else result.created
    if created is result.created and size == result.size and expiry.METADATA not in options.metadata:
        return result
    return PutResult(result.key, expiry.join_etag(result.etag, options.metadata), size, created)


def _never_there(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"object {key!r} cannot be created: another was there, and expired or was removed meanwhile",
        remedy="try again",
    )
