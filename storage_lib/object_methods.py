"""Objects as values of any type, or as bytes: what `StorageManager` does by key, on any backend."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Buffer, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from storage_lib import values
from storage_lib.arguments import mapping, several, whole
from storage_lib.buffers import as_bytes
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.keys import SYSTEM_PREFIX, essence, user_key, validate_content_type
from storage_lib.many import for_each, raise_first
from storage_lib.ports.backend import Listed, StorageBackend
from storage_lib.ports.kept_headers import keepable
from storage_lib.ports.object_model import (
    KEPT,
    ByteRange,
    Kept,
    ListEntry,
    ListPage,
    Loaded,
    ManyOptions,
    ObjectInfo,
    ObjectStats,
    PutResult,
    ReadOptions,
    SaveOptions,
    StoredObject,
)
from storage_lib.ports.objects import ByteSource, ObjectReader, ObjectWriter
from storage_lib.ports.shortcuts import names_below, paused, value_of

if TYPE_CHECKING:
    from datetime import datetime

    from storage_lib.pickling import Pickling

_UPDATE_ATTEMPTS = 1000
NOTHING: Any = object()
"""The default that stands for none: None is a value."""


class ObjectMethods:
    """Save, load, list and delete objects, one or many.

    :param backend: where they are.
    :param pickling: for values that have no other form; None refuses them.
    """

    def __init__(self, backend: StorageBackend, pickling: Pickling | None) -> None:
        self.backend = backend
        self._pickling = pickling

    # -- values

    async def save(
        self,
        key: str,
        data: Any,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | datetime | None = None,
    ) -> PutResult:
        """Store a value so that `load` returns it with the same type.

        :param key: the object to create or replace.
        :param data: the value.
        :param content_type: more specific than the default for the value's type: another ``text/…`` for a
            str, ``…+json`` for JSON, any other for bytes.
        :param metadata: short texts stored with the object.
        :param headers: ``Cache-Control``, ``Content-Disposition`` and ``Content-Language``, under which it is
            served over HTTP.
        :param if_match: replace only the object with this ETag.
        :param if_absent: create only, never replace.
        :param ttl: seconds after which the object is gone, or that moment; None means never.
        :raises SerializationError: the value could not be restored as it is; nothing was stored.
        :raises PreconditionFailedError: ``if_match`` or ``if_absent`` does not hold; nothing was stored.
        """
        encoded = values.encode(data, self._pickling)
        chosen = encoded.content_type if content_type is None else _narrowed(content_type, encoded)
        return await self.backend.objects.put(
            user_key(key),
            encoded.data,
            content_type=chosen,
            metadata=metadata,
            headers=headers,
            if_match=if_match,
            if_absent=if_absent,
            ttl=ttl,
        )

    @overload
    async def load(self, key: str, *, default: Any = ..., fresh: bool = False) -> Any: ...
    @overload
    async def load[T](self, key: str, model: type[T], *, fresh: bool = False) -> T: ...
    @overload
    async def load[T, Default](
        self, key: str, model: type[T], *, default: Default, fresh: bool = False
    ) -> T | Default: ...
    async def load(self, key: str, model: Any = None, *, default: Any = NOTHING, fresh: bool = False) -> Any:
        """Return the value of an object.

        :param key: the object.
        :param model: a class (dataclass, pydantic model, …) to validate the value against and convert it to.
        :param default: returned as it is if there is no such object; without it that is an error.
        :param fresh: what the store has now, even if the caching layer has kept what it had before.
        :raises KeyNotFoundError: there is no such object, and no ``default``.
        :raises IntegrityError: its bytes are not the ones that were saved.
        :raises SerializationError: its bytes do not match its content type, or do not fit ``model``.
        """
        objects, key = self.backend.objects, user_key(key)
        found = None if fresh else objects.at_hand(key)
        if found is None:
            try:
                found = await objects.get(key, fresh=fresh, dated=False)
            except KeyNotFoundError:
                if default is NOTHING:
                    raise
                return default
            assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        if model is None and found.info.content_type == values.JSON and found.info.content_encoding is None:
            try:
                return values.decode_json(found.data)
            except (ValueError, RecursionError):
                pass  # What follows says more.
        return await value_of(found, model, self._pickling)

    @overload
    async def load_with_info(self, key: str, *, fresh: bool = False) -> Loaded[Any]: ...
    @overload
    async def load_with_info[T](self, key: str, model: type[T], *, fresh: bool = False) -> Loaded[T]: ...
    async def load_with_info(self, key: str, model: Any = None, *, fresh: bool = False) -> Loaded[Any]:
        """Return the value of an object and the info of this very version, for its ETag or metadata. The
        parameters and the errors are those of `load`.

            loaded = await storage.load_with_info(key)
            await storage.save(key, changed(loaded.value), if_match=loaded.etag)
        """
        found = await self.read(key, fresh=fresh)
        return Loaded(await value_of(found, model, self._pickling), found.info)

    async def update(
        self,
        key: str,
        change: Callable[[Any], Any | Awaitable[Any]],
        *,
        initial: Any = NOTHING,
        once: tuple[str, str] | None = None,
    ) -> Any:
        """Replace a value with ``change(value)`` and return the new value.

        If another writer was faster, ``change`` is called again with the newer value, so no update is lost.
        The object keeps its metadata, its headers, its expiry, and its content type if the new value fits it.

        :param key: the object.
        :param change: a function or coroutine function of the current value; it may be called several times.
        :param initial: what ``change`` gets when there is no object yet.
        :param once: a metadata name and value that the change leaves on the object. If the object already
            has them, its value is returned unchanged.
        :raises KeyNotFoundError: there is no object and no ``initial``.
        :raises InvalidArgumentError: ``change`` returned None for a value that was not None, as
            ``lambda turns: turns.append(turn)`` does; to store None, use `save`. Nothing was stored.
        """
        if not callable(change):
            raise InvalidArgumentError(
                f"change is a {type(change).__name__}",
                field="change",
                limit="a function of the old value that returns the new one",
                remedy="to store a value regardless of the old one, use save",
            )
        for attempt in range(_UPDATE_ATTEMPTS):
            try:
                found = await self.read(key, fresh=True)
            except KeyNotFoundError:
                if initial is NOTHING:
                    raise
                found = None
            old = initial if found is None else await value_of(found, None, self._pickling)
            metadata = {} if found is None else dict(found.info.metadata)
            if once is not None:
                if metadata.get(once[0]) == once[1]:
                    return old
                metadata[once[0]] = once[1]
            new = change(old)
            if isinstance(new, Awaitable):
                new = await new
            if new is None and old is not None:
                raise InvalidArgumentError(
                    f"object {key!r}: the change of a {type(old).__name__} returned None",
                    field="change",
                    remedy="return the new value; to store None use save",
                )
            encoded = values.encode(new, self._pickling)
            try:
                await self.backend.objects.put(
                    key,
                    encoded.data,
                    content_type=encoded.content_type if found is None else _kept_type(found.info, encoded),
                    metadata=metadata,
                    headers=None if found is None else keepable(found.info.headers),
                    if_match=None if found is None else found.info.etag,
                    if_absent=found is None,
                    ttl=None if found is None else self._remaining(found.info),
                )
            except PreconditionFailedError:
                # A random pause keeps many writers from colliding again.
                await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, 0.1)))  # noqa: S311
                continue
            return new
        raise TransientStorageError(
            f"object {key!r} was changed by others {_UPDATE_ATTEMPTS} times in a row",
            remedy="try again later",
        )

    def _remaining(self, info: ObjectInfo) -> float | None:
        if info.expires_at is None:
            return None
        return max(info.expires_at.timestamp() - self.backend.objects.clock(), 0)

    # -- bytes

    async def write(self, key: str, data: Buffer, **options: Unpack[SaveOptions]) -> PutResult:
        """Store bytes as they are, provided that `load` can read them under their content type.

        :param key: the object to create or replace.
        :param data: bytes or a bytes-like object; what it holds at this moment is stored.
        :param options: ``content_type`` is what the bytes are, by default ``application/octet-stream``;
            ``metadata``, ``headers``, ``if_match``, ``if_absent`` and ``ttl`` are those of `save`.
        :raises SerializationError: the bytes do not match the content type; nothing was stored.
        :raises PreconditionFailedError: ``if_match`` or ``if_absent`` does not hold; nothing was stored.
        :raises InvalidArgumentError: ``data`` is not a bytes-like object.
        """
        user_key(key)
        data = as_bytes(data)
        await paused(values.checking(data, validate_content_type(options.get("content_type", values.BYTES))))
        return await self.backend.objects.put(key, data, **options)

    async def write_stream(self, key: str, source: ByteSource, **options: Unpack[SaveOptions]) -> PutResult:
        """Store a stream of any length with constant memory, all or nothing.

        The errors are those of `write`, but the bytes are not checked against the content type.

        :param source: an async or plain iterable of bytes, or a binary file object.
        :param options: those of `write`.
        """
        return await self.backend.objects.put_stream(user_key(key), source, **options)

    def open_writer(
        self, key: str, **options: Unpack[SaveOptions]
    ) -> AbstractAsyncContextManager[ObjectWriter]:
        """Store what is written in the block, of any size with constant memory: for a source that pushes. The
        object appears when the block has ended; if the block raises, nothing is stored.

            async with storage.open_writer(key) as writer:
                await writer.write(chunk)

        The options and errors are those of `write_stream`. ``writer.result`` has the ETag afterwards.
        """
        return self.backend.objects.open_writer(user_key(key), **options)

    def open_reader(
        self, key: str, **options: Unpack[ReadOptions]
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """Read an object of any size with constant memory; it is verified before the last chunk is returned.
        The options (``byte_range``, ``if_match``, ``fresh``) and errors are those of `read`.

        async with storage.open_reader(key) as reader:
            async for chunk in reader:
                ...
        """
        return self.backend.objects.open_reader(user_key(key), **options)

    async def read(
        self,
        key: str,
        *,
        byte_range: ByteRange | None = None,
        if_match: str | None = None,
        fresh: bool = False,
    ) -> StoredObject:
        """Return an object's bytes, or a range of them, with its info.

        :param key: the object.
        :param byte_range: return only this range.
        :param if_match: only if it has this ETag.
        :param fresh: what the store has now, even if the caching layer has kept what it had before.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: it does not have the ETag ``if_match``.
        """
        found = await self.backend.objects.get(
            user_key(key), byte_range=byte_range, if_match=if_match, fresh=fresh
        )
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return found

    async def read_if_changed(
        self, key: str, etag: str, *, byte_range: ByteRange | None = None, fresh: bool = False
    ) -> StoredObject | None:
        """Like `read`, but return None if the object still has this ETag."""
        return await self.backend.objects.get(
            user_key(key), byte_range=byte_range, if_none_match=etag, fresh=fresh
        )

    # -- objects

    async def info(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        """Return the size, type, ETag, times and metadata of an object.

        :param key: the object.
        :param fresh: as for `read`.
        :raises KeyNotFoundError: there is no such object.
        """
        return await self.backend.objects.head(user_key(key), fresh=fresh)

    async def exists(self, key: str, *, fresh: bool = False) -> bool:
        """Whether there is such an object. If the store cannot tell, its error is raised.

        :param key: the object.
        :param fresh: as for `read`.
        """
        try:
            await self.info(key, fresh=fresh)
        except KeyNotFoundError:
            return False
        return True

    async def delete(self, key: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        """Delete an object.

        :param if_match: only if it has this ETag.
        :param missing_ok: it is no error if there is no such object.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: there is one with another ETag than ``if_match``.
        """
        await self.backend.objects.delete(user_key(key), if_match=if_match, missing_ok=missing_ok)

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object, on the server side where the store supports it.

        :raises KeyNotFoundError: there is no source.
        :raises PreconditionFailedError: ``if_absent`` is set and there is a target.
        """
        return await self.backend.objects.copy(user_key(source), user_key(target), if_absent=if_absent)

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object and delete the source; a crash in between leaves both."""
        return await self.backend.objects.move(user_key(source), user_key(target), if_absent=if_absent)

    async def touch(
        self,
        key: str,
        *,
        ttl: float | datetime | Kept | None = KEPT,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str | None] | None = None,
        if_match: str | None = None,
    ) -> PutResult:
        """Give an object another time to live, other metadata or other headers; with none of them, it only
        counts as changed now. Its bytes are not sent again.

        :param key: the object.
        :param ttl: seconds from now after which it is gone, or that moment; None means never. Left out, the
            end of its life stays as it is.
        :param metadata: all of its metadata from now on; None keeps them.
        :param headers: those of `save` that change; None as a value removes one, and the others stay.
        :param if_match: only if it has this ETag.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: it does not have the ETag ``if_match``.
        """
        return await self.backend.objects.touch(
            user_key(key), ttl=ttl, metadata=metadata, headers=headers, if_match=if_match
        )

    async def stats(self, prefix: str = "") -> ObjectStats:
        """Count the objects whose keys start with ``prefix``, and their bytes, by listing them."""
        return await self.backend.objects.stats(prefix, skip=SYSTEM_PREFIX)

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove expired objects and return how many were removed.

        :param limit: remove at most this many.
        :param seconds: stop after this long; None means no limit.
        """
        return await self.backend.objects.sweep_expired(limit, seconds=seconds)

    # -- listings

    def list_keys(self, prefix: str = "", *, start_after: str | None = None) -> Listed[str]:
        """List the keys that start with ``prefix``, ordered by their UTF-8 bytes.

        ``await`` returns a list; ``async for`` streams the keys and holds one page at a time.

        :param start_after: only keys behind this one, in that order; it need not exist.
        """
        return names_below(self.backend.objects, prefix, start_after)

    def list_objects(self, prefix: str = "", *, start_after: str | None = None) -> Listed[ListEntry]:
        """Like `list_keys`, with the size, ETag, time, content type, metadata and expiry of each object.

        On S3 that takes a request for each object, many at a time; elsewhere it costs little.
        """

        async def entries() -> AsyncGenerator[ListEntry]:
            found = self.backend.objects.iterate(
                prefix, start_after=start_after, details=True, skip=SYSTEM_PREFIX
            )
            async for entry in found:
                if not isinstance(entry, str):
                    yield entry

        return Listed(entries)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        limit: int = 1000,
        cursor: str | None = None,
        start_after: str | None = None,
        details: bool = False,
        cheap: bool = False,
    ) -> ListPage:
        """Return one page of a listing.

        :param prefix: only keys that start with it.
        :param delimiter: fold keys that continue after the next delimiter into a prefix.
        :param limit: at most this many entries.
        :param cursor: the cursor of the previous page.
        :param start_after: only keys and prefixes behind this key or prefix; it need not exist.
        :param details: also return what is known of each object: `ListEntry.info`.
        :param cheap: with ``details``, only those that need no request for each object: on S3 size and time
            of the last change, but no ``info``.
        :raises InvalidArgumentError: the cursor belongs to another listing, or an argument is out of range.
        """
        return await self.backend.objects.list_page(
            prefix,
            delimiter=delimiter,
            limit=limit,
            cursor=cursor,
            start_after=start_after,
            details=details,
            cheap=cheap,
            skip=SYSTEM_PREFIX,
        )

    # -- many at once

    @overload
    async def save_many(
        self, items: Mapping[str, Any], *, raise_errors: Literal[True], **options: Any
    ) -> dict[str, PutResult]: ...
    @overload
    async def save_many(
        self, items: Mapping[str, Any], *, raise_errors: bool = False, **options: Any
    ) -> dict[str, PutResult | StorageError]: ...
    async def save_many(
        self,
        items: Mapping[str, Any],
        *,
        raise_errors: bool = False,
        concurrency: int = 16,
        **options: Any,
    ) -> Any:
        """`save` each value under its key; return the result or the `StorageError` of each.

        :param items: values by key.
        :param raise_errors: raise the error of the first item that failed, with notes about the others, once
            all have been tried. The same holds for the other methods for many.
        :param concurrency: how many to save at a time.
        :param options: options of `save`, applied to all.
        """
        given = mapping("items", items)
        return await for_each(
            given, lambda key: self.save(key, given[key], **options), concurrency, raise_errors
        )

    @overload
    async def load_many[T](
        self,
        keys: Iterable[str],
        model: type[T],
        *,
        raise_errors: Literal[True],
        **options: Unpack[ManyOptions],
    ) -> dict[str, T]: ...
    @overload
    async def load_many(
        self,
        keys: Iterable[str],
        model: Any = None,
        *,
        default: Any = ...,
        raise_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> dict[str, Any]: ...
    async def load_many(
        self,
        keys: Iterable[str],
        model: Any = None,
        *,
        default: Any = NOTHING,
        raise_errors: bool = False,
        concurrency: int = 16,
        fresh: bool = False,
    ) -> dict[str, Any]:
        """`load` each key; return the value or the `StorageError` of each.

        :param default: the value of what does not exist; without it that is an error.
        :param raise_errors: as for `save_many`.
        :param concurrency: how many to load at a time.
        :param fresh: as for `load`.
        """

        async def load(key: str) -> Any:
            return await self.load(key, model, default=default, fresh=fresh)

        return await for_each(several("keys", keys), load, concurrency, raise_errors)

    async def delete_many(
        self,
        keys: Iterable[str],
        *,
        missing_ok: bool = False,
        raise_errors: bool = False,
        concurrency: int = 256,
    ) -> dict[str, StorageError | None]:
        """`delete` each key; return None or the `StorageError` of each.

        :param missing_ok: as for `delete`; no object is looked at first then.
        :param raise_errors: as for `save_many`.
        :param concurrency: how many to delete at a time: to Azure they go in one request, 256 at most.
        """
        results: dict[str, StorageError | None] = dict.fromkeys(several("keys", keys))
        for key in results:
            try:
                user_key(key)
            except StorageError as error:
                results[key] = error
        valid = [key for key, error in results.items() if error is None]
        together = whole("concurrency", concurrency, 1)
        results |= await self.backend.objects.delete_many(valid, missing_ok=missing_ok, together=together)
        if raise_errors:
            raise_first(results)
        return results

    @overload
    async def info_many(
        self, keys: Iterable[str], *, raise_errors: Literal[True], **options: Unpack[ManyOptions]
    ) -> dict[str, ObjectInfo]: ...
    @overload
    async def info_many(
        self, keys: Iterable[str], *, raise_errors: bool = False, **options: Unpack[ManyOptions]
    ) -> dict[str, ObjectInfo | StorageError]: ...
    async def info_many(
        self,
        keys: Iterable[str],
        *,
        raise_errors: bool = False,
        concurrency: int = 16,
        fresh: bool = False,
    ) -> Any:
        """`info` of each key; return it or the `StorageError` of each.

        :param raise_errors: as for `save_many`.
        """

        async def info(key: str) -> ObjectInfo:
            return await self.info(key, fresh=fresh)

        return await for_each(several("keys", keys), info, concurrency, raise_errors)


def _kept_type(info: ObjectInfo, encoded: values.Encoded) -> str:
    """The object's content type, unless the new value could not be restored under it."""
    try:
        return _narrowed(info.content_type, encoded)
    except InvalidArgumentError:
        return encoded.content_type


def _narrowed(content_type: str, encoded: values.Encoded) -> str:
    """The caller's content type, if the value can still be restored with its type."""
    wanted = essence(validate_content_type(content_type))
    own = essence(encoded.content_type)
    if own == essence(values.TEXT):
        fits = wanted.startswith("text/") and values.charset(content_type).lower() in ("utf-8", "utf8")
    elif own == values.JSON:
        fits = wanted == values.JSON or wanted.endswith("+json")
    elif own == values.BYTES:
        fits = not wanted.startswith("text/") and not wanted.endswith("+json")
        fits = fits and wanted not in (values.JSON, values.PACKED, values.NPY)
    else:
        fits = wanted == own
    if not fits:
        raise InvalidArgumentError(
            f"a value stored as {own} could not be restored under the content type {content_type!r}",
            field="content_type",
            remedy="use write() to store bytes with any content type",
        )
    return content_type
