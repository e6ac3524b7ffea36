"""`StorageManager`: the one door to the storage, for values of any type and for raw bytes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Buffer, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

from msgspec import structs

from storage_lib import values
from storage_lib.arguments import mapping, several, whole
from storage_lib.buffers import as_bytes
from storage_lib.config import StorageConfig
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.factory import build
from storage_lib.keys import SYSTEM_PREFIX, essence, user_key, validate_content_type, validate_prefix
from storage_lib.many import for_each, raise_first
from storage_lib.ports.backend import Listed, StorageBackend, layers_of
from storage_lib.ports.kept_headers import keepable
from storage_lib.ports.lifetime import Lifetime
from storage_lib.ports.link_model import DEFAULT_LINK_SECONDS
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
    Properties,
    PutResult,
    ReadOptions,
    SaveOptions,
    StoredObject,
)
from storage_lib.ports.objects import ByteSource, ObjectReader, ObjectWriter
from storage_lib.ports.shortcuts import names_below, paused, value_of

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from storage_lib.layers.encryption.rotation import Rotation
    from storage_lib.layers.fallback import FallbackLayer, RepairResult
    from storage_lib.links import Link
    from storage_lib.pickling import Pickling
    from storage_lib.prefixes import Bounds, PrefixResult, TransferOptions
    from storage_lib.versioning import Version, Versions

_UPDATE_ATTEMPTS = 1000
_NOTHING: Any = object()


class StorageManager(Lifetime):
    """Save, load and list objects on the backend that the configuration selects.

        async with StorageManager(StorageConfig(base_path="data")) as storage:
            await storage.save("configs/ceo.json", {"model": "large"})
            config = await storage.load("configs/ceo.json")

    Values come back with the type they went in with (see `storage_lib.values`); `write` and `read` move
    bytes under a content type of your choice. Keys follow the grammar of `storage_lib.keys`. Every method
    raises the errors of `storage_lib.errors`; none turns an error into None or False.
    """

    is_closed = False
    """Whether it was closed, and not opened again."""

    def __init__(self, config: StorageConfig | None = None, *, backend: StorageBackend | None = None) -> None:
        """Choose the storage; nothing is opened yet.

        :param config: what to open; None reads the environment (`StorageConfig.from_env`).
        :param backend: a backend of your own instead. Its creator closes it.
        """
        self._config = None if backend is not None else _anywhere(config or StorageConfig.from_env())
        self._owned = backend is None
        chosen = self._config if self._config is not None else config
        self._pickling = None if chosen is None else _pickling(chosen)
        self.backend = build(self._config) if self._config is not None else cast("StorageBackend", backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend!r})"

    def __reduce__(self) -> Any:
        """Pickled and copied as its configuration: the copy is another manager of the same store, not yet
        open. A backend that was passed in goes with it.

        :raises NotPortableError: it is in memory, or its backend can be neither pickled nor copied.
        """
        if self._config is not None:
            for store in _stores(self.backend):
                store.__reduce__()
        backend = None if self._config is not None else self.backend
        more = {name: value for name, value in vars(self).items() if name not in _OWN}
        return _rebuilt, (type(self), self._config, backend), more or None

    async def open(self) -> None:
        """Check that the store exists and answers. Optional: the first operation opens what it needs."""
        self.is_closed = False
        await self.backend.open()

    async def close(self) -> None:
        """Release connections; a backend that was passed in stays open."""
        self.is_closed = True
        if self._owned:
            await self.backend.close()

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
    async def load(self, key: str, model: Any = None, *, default: Any = _NOTHING, fresh: bool = False) -> Any:
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
                if default is _NOTHING:
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
        initial: Any = _NOTHING,
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
                if initial is _NOTHING:
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

    async def link(
        self,
        key: str,
        *,
        method: Literal["GET", "PUT"] = "GET",
        expires_in: float = DEFAULT_LINK_SECONDS,
        ip: str | None = None,
        content_type: str | None = None,
        max_bytes: int | None = None,
        app_url: str | None = None,
        secrets: Sequence[str] = (),
    ) -> Link:
        """Make a URL by which somebody without credentials loads or saves one object for a while: of the
        store itself where it can be (Azure, S3), else of an app of this store.

        What is saved by a link of the store itself has no checksum, and is read by its content type.

        :param key: the object.
        :param method: ``GET`` to load, ``PUT`` to save.
        :param expires_in: seconds; the link ends earlier with the life of the object, or with the credentials
            that sign it.
        :param ip: only from these addresses: one, ``FIRST-LAST``, or a network.
        :param content_type: of what is saved.
        :param max_bytes: refuse to save more than this.
        :param app_url: of the API of an app (``https://HOST/api``), which serves what the store cannot.
        :param secrets: of the app (``AGENT_STORAGE_LINK_SECRETS``), if it does not keep them in the store.
        :raises KeyNotFoundError: there is no object to load.
        :raises UnsupportedOperationError: the store has no such link, and there is no ``app_url``.
        """
        from storage_lib.links import Signer, make_link, options_of  # Only where it is used.

        options = options_of(self.backend.objects.clock(), method, expires_in, ip, content_type, max_bytes)
        signer = None if app_url is None else Signer(self, secrets)
        return await make_link(self, user_key(key), options, signer=signer, app_url=app_url)

    async def stats(self, prefix: str = "") -> ObjectStats:
        """Count the objects whose keys start with ``prefix``, and their bytes, by listing them."""
        return await self.backend.objects.stats(prefix, skip=SYSTEM_PREFIX)

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove expired objects and return how many were removed.

        :param limit: remove at most this many.
        :param seconds: stop after this long; None means no limit.
        """
        return await self.backend.objects.sweep_expired(limit, seconds=seconds)

    # -- what layers can do

    @property
    def fallback(self) -> FallbackLayer | None:
        """The layer with the second store: its status, and the conflicts that it keeps. None if it is off."""
        if self._config is not None and self._config.fallback is None:
            return None  # The layer need not be imported.
        from storage_lib.layers.fallback import FallbackLayer

        return next((each for each in layers_of(self.backend) if isinstance(each, FallbackLayer)), None)

    async def repair(
        self, *, limit: int | None = None, seconds: float | None = None, full: bool = False
    ) -> RepairResult:
        """Make the two stores of a fallback or mirror agree after an outage: what the second store took goes
        to the primary, what a mirror missed to the second store. Any number of repairs may run at once.

        :param limit: repair at most this many keys.
        :param seconds: begin no more after this long; None means no limit.
        :param full: also compare all keys, and make a mirror's second store the same as the primary.
        :raises StorageUnavailableError: one of the stores is away; the next repair goes on.
        :raises UnsupportedOperationError: there is no second store.
        """
        layer = self.fallback
        if layer is None:
            raise UnsupportedOperationError(
                "there is no second store to repair from",
                remedy="configure one: fallback= in StorageConfig (AGENT_STORAGE_FALLBACK)",
            )
        return await layer.repair(limit=limit, seconds=seconds, full=full)

    async def rotate_keys(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        include_plaintext: bool = False,
        concurrency: int = 16,
    ) -> Rotation:
        """Encrypt anew with the current key what was encrypted with an earlier one.

        It may run while others save and load: an object that is saved meanwhile keeps what was saved. Running
        it again goes on; what has the current key already costs one request.

        :param prefix: only objects whose keys start with it.
        :param after: begin after this key, such as `Rotation.last` of a rotation that was cut off.
        :param include_plaintext: also encrypt what is stored in clear, if the configuration lets it be read.
        :param concurrency: how many objects at a time.
        :return: what was done; what could not be is in ``failed``, with its errors.
        :raises UnsupportedOperationError: encryption is off.
        :raises StorageUnavailableError: the store cannot be reached; what was done stays done.
        """
        from storage_lib.layers.encryption import EncryptionLayer  # Only where it is used.

        validate_prefix(prefix)
        concurrency = whole("concurrency", concurrency, 1)
        layer = next((each for each in layers_of(self.backend) if isinstance(each, EncryptionLayer)), None)
        if layer is None:
            raise UnsupportedOperationError(
                "there are no keys to rotate: encryption is off",
                remedy="switch the encryption layer on (AGENT_STORAGE_ENCRYPTION)",
            )
        return await layer.rotate(
            prefix, after=after, include_plaintext=include_plaintext, concurrency=concurrency
        )

    # -- versions

    async def save_versioned(
        self,
        key: str,
        data: Any,
        version: int | None = None,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        saved_by: str | None = None,
        label: str | None = None,
    ) -> int:
        """Store a value as a new version of ``key`` and make it the current one; return its number.

        Versions are objects of their own, ``KEY/v1``, ``KEY/v2``, …, and are never replaced. Numbers grow and
        are never given twice, whoever saves at the same time and whatever was deleted.

        :param key: the object that has versions.
        :param data: the value.
        :param version: its number; None gives it the next one. One below the highest does not become current.
        :param content_type: as for `save`.
        :param metadata: short texts stored with the version.
        :param saved_by: who saves it, kept in the metadata ``saved-by``; ``saved-at`` says when.
        :param label: a label that it gets, such as ``production``.
        :raises PreconditionFailedError: there is a version with this number already; nothing was stored.
        :raises SerializationError: the value could not be restored as it is; nothing was stored.
        """
        properties = Properties(metadata=metadata)
        if content_type is not None:
            properties["content_type"] = content_type
        saved = await self._versions.add(key, data, version, saved_by=saved_by, label=label, **properties)
        return saved[0]

    @overload
    async def load_version(
        self, key: str, version: int | str | None = None, *, default: Any = ...
    ) -> Any: ...
    @overload
    async def load_version[T](self, key: str, version: int | str | None, model: type[T]) -> T: ...
    @overload
    async def load_version[T, Default](
        self, key: str, version: int | str | None, model: type[T], *, default: Default
    ) -> T | Default: ...
    async def load_version(
        self,
        key: str,
        version: int | str | None = None,
        model: Any = None,
        *,
        default: Any = _NOTHING,
    ) -> Any:
        """Return the value of a version.

        :param key: the object that has versions.
        :param version: its number, as ``3`` or ``"v3"``, or its label; None means the current version.
        :param model: as for `load`.
        :param default: returned as it is if there is no such version; without it that is an error.
        :raises KeyNotFoundError: there is no such version, and no ``default``.
        """
        try:
            return await self._versions.load(key, version, model)
        except KeyNotFoundError:
            if default is _NOTHING:
                raise
            return default

    async def list_versions(self, key: str, *, details: bool = False) -> list[Version]:
        """Return the versions of ``key``, oldest first; an empty list if it has none.

        :param details: also say who saved each one, and exactly when. That reads the metadata of each.
        """
        return await self._versions.list(key, details=details)

    async def current_version(self, key: str) -> int:
        """Return the number of the current version.

        :raises KeyNotFoundError: there are no versions.
        """
        return await self._versions.number(key)

    async def rollback(self, key: str, version: int | str) -> int:
        """Make an earlier version the current one and return its number. Later versions stay.

        :param key: the object that has versions.
        :param version: the number or label.
        :raises KeyNotFoundError: there is no such version.
        """
        return await self._versions.point(key, version, None)

    async def label_version(self, key: str, version: int | str, label: str) -> int:
        """Give a version a label, such as ``v1.2`` or ``production``, and return the version's number.

        A label belongs to one version; another one that had it loses it at the same moment.

        :param key: the object that has versions.
        :param version: the number, or another label.
        :param label: up to 100 printable characters; not what looks like a number, such as ``v3``.
        :raises KeyNotFoundError: there is no such version.
        """
        return await self._versions.point(key, version, label)

    async def unlabel_version(self, key: str, label: str) -> None:
        """Remove a label; its version stays.

        :raises KeyNotFoundError: there is no such label.
        """
        await self._versions.unlabel(key, label)

    async def prune_versions(
        self,
        key: str,
        *,
        keep_last: int | None = None,
        younger_than: timedelta | None = None,
        dry_run: bool = False,
    ) -> list[int]:
        """Delete old versions and return their numbers. The current one and those with a label stay, also if
        they become current or get the label at this moment.

        :param key: the object that has versions.
        :param keep_last: keep so many of the highest numbers.
        :param younger_than: keep what the store got within this time.
        :param dry_run: return what would be deleted, and delete nothing.
        :raises StorageError: a version cannot be deleted; calling again goes on.
        """
        return await self._versions.prune(
            key, keep_last=keep_last, younger_than=younger_than, dry_run=dry_run
        )

    async def diff_versions(
        self, key: str, old: int | str, new: int | str | None = None
    ) -> list[dict[str, Any]]:
        """Return what changes from one version to another, as a JSON Patch (RFC 6902): between them of up to
        some 5,000 items a short one, beyond that one that may replace whole lists.

        :param key: the object that has versions.
        :param old: a number or label.
        :param new: likewise; None means the current version.
        :raises KeyNotFoundError: there is no such version.
        :raises SerializationError: one of them is not JSON.
        """
        return await self._versions.diff(key, old, new)

    @property
    def _versions(self) -> Versions:
        from storage_lib.versioning import Versions  # Only where it is used.

        return Versions(self)

    # -- all below a prefix

    async def delete_prefix(
        self, prefix: str, *, dry_run: bool = False, **bounds: Unpack[Bounds]
    ) -> PrefixResult:
        """Delete the objects whose keys start with ``prefix``, their versions included. Called again, it goes
        on where it was cut off.

        :param prefix: as for `list_keys`: ``"a"`` means ``a/b`` and ``ab``; ``""`` means everything.
        :param dry_run: tell what would be done, and change nothing.
        :param bounds: ``after`` begins after this key, such as `PrefixResult.last` of an earlier call;
            ``limit`` tries at most this many objects; ``seconds`` begins with no more after this long;
            ``concurrency`` is how many at a time (16); ``on_progress`` is called after each object with what
            has been done so far.
        :return: what was done; what could not be is in ``failed``, with its errors.
        :raises StorageUnavailableError: the store cannot be reached; what was done stays done.
        """
        from storage_lib import prefixes  # Only where it is used.

        return await prefixes.delete(self.backend.objects, prefix, dry_run=dry_run, **bounds)

    async def copy_prefix(self, source: str, target: str, **options: Unpack[TransferOptions]) -> PrefixResult:
        """Copy each object ``source + rest`` to ``target + rest``, as `copy` does: with its type, metadata
        and the end of its life, on the server side where the store supports it. Versions and their labels
        are copied, too. The errors are those of `delete_prefix`.

        What is saved meanwhile may be copied or not. If the target is below the source, what is there already
        is not copied.

        :param source: the prefix of the keys to copy, such as ``"models/ceo/"``.
        :param target: what it is replaced with.
        :param options: ``if_absent`` replaces nothing: keys that have a target are skipped. ``dry_run``,
            ``after``, ``limit``, ``seconds``, ``concurrency`` and ``on_progress`` are those of
            `delete_prefix`.
        :raises InvalidArgumentError: source and target are the same.
        """
        from storage_lib import prefixes  # Only where it is used.

        return await prefixes.transfer(self.backend.objects, source, target, move=False, **options)

    async def move_prefix(self, source: str, target: str, **options: Unpack[TransferOptions]) -> PrefixResult:
        """Move each object ``source + rest`` to ``target + rest``, as `move` does: at any moment each is
        whole at one of them or at both. Called again, it goes on where it was cut off. The parameters and
        the errors are those of `copy_prefix`.
        """
        from storage_lib import prefixes  # Only where it is used.

        return await prefixes.transfer(self.backend.objects, source, target, move=True, **options)

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
        default: Any = _NOTHING,
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

    def list_keys(self, prefix: str = "", *, start_after: str | None = None) -> Listed[str]:
        """List the keys that start with ``prefix``, ordered by their UTF-8 bytes.

        ``await`` returns a list; ``async for`` streams the keys and holds one page at a time.

        :param start_after: only keys behind this one, in that order; it need not exist.
        """
        return names_below(self.backend.objects, prefix, start_after)

    def list_tables(self, prefix: str = "") -> Listed[str]:
        """List the names of the tables that begin with ``prefix``, as they were given, in order.

        ``await`` returns a list; ``async for`` iterates over it. Those of the library are listed too: of the
        tasks (``tasks``, ``taskkeys``) and of the audit log.

        :raises UnsupportedOperationError: the store has no tables.
        """
        return self.backend.tables.list_tables(prefix)

    def list_queues(self, prefix: str = "") -> Listed[str]:
        """List the names of the queues that begin with ``prefix``, in order, likewise.

        :raises UnsupportedOperationError: the store has no queues.
        """
        return self.backend.queues.list_queues(prefix)

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


_OWN = frozenset({"_config", "_owned", "backend", "is_closed"})


def _rebuilt(
    kind: type[StorageManager], config: StorageConfig | None, backend: StorageBackend | None
) -> StorageManager:
    manager = kind.__new__(kind)
    StorageManager.__init__(manager, config, backend=backend)
    return manager


def _stores(backend: StorageBackend) -> Iterator[StorageBackend]:
    """The backends that store something, inside all layers."""
    inside = backend.inside()
    if not inside:
        yield backend
    for inner in inside.values():
        yield from _stores(inner)


def _anywhere(config: StorageConfig) -> StorageConfig:
    """With absolute paths, which mean the same in any working directory."""
    if (fallback := config.fallback) is not None:
        secondary = _anywhere(fallback.secondary)
        config = replace(config, fallback=structs.replace(fallback, secondary=secondary))
    if "file" not in (config.storage_type, config.tables_and_queues):
        return config
    return replace(config, base_path=os.path.abspath(config.base_path))


def _pickling(config: StorageConfig) -> Pickling | None:
    if not config.allow_pickle:
        return None
    from storage_lib.pickling import Pickling

    return Pickling(config.signing_key or b"")


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
