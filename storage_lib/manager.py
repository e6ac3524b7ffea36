"""`StorageManager`: the one door to the storage, for values of any type and for raw bytes."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Buffer, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, overload

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
)
from storage_lib.factory import build
from storage_lib.keys import SYSTEM_PREFIX, essence, validate_content_type, validate_user_key
from storage_lib.ports.backend import (
    ByteRange,
    ByteSource,
    Listed,
    ListPage,
    ObjectInfo,
    ObjectReader,
    ObjectStats,
    PutResult,
    StorageBackend,
    StoredObject,
)
from storage_lib.ports.specified import names_below, paused, value_of

if TYPE_CHECKING:
    from storage_lib.pickling import Pickling

_UPDATE_ATTEMPTS = 1000
_NOTHING: Any = object()


class StorageManager:
    """Save, load and list objects on whatever backend the configuration names.

    ::

        async with StorageManager(StorageConfig(base_path="data")) as storage:
            await storage.save("configs/ceo.json", {"model": "large"})
            config = await storage.load("configs/ceo.json")

    Values come back with the type they went in with (see `storage_lib.values`); `write` and `read` move
    bytes with a content type of your choice. Keys follow `storage_lib.keys`. Every method raises what
    `storage_lib.errors` says; none turns an error into None or False.
    """

    def __init__(self, config: StorageConfig | None = None, *, backend: StorageBackend | None = None) -> None:
        """:param config: what to open; None reads the environment (`StorageConfig.from_env`).
        :param backend: an own backend instead. Who made it closes it.
        """
        self._config = None if backend is not None else _anywhere(config or StorageConfig.from_env())
        self._owned = backend is None
        chosen = self._config if self._config is not None else config
        self._pickling = None if chosen is None else _pickling(chosen)
        self.backend = build(self._config) if self._config is not None else cast("StorageBackend", backend)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend!r})"

    def __reduce__(self) -> Any:
        """Pickled and copied as its configuration: the copy is another manager of the same store, not open
        yet. A backend that was passed in goes with it.

        :raises NotPortableError: it is in memory, or its backend cannot.
        """
        if self._config is not None and "memory" in (
            self._config.storage_type,
            self._config.tables_and_queues,
        ):
            self.backend.__reduce__()
        backend = None if self._config is not None else self.backend
        more = {name: value for name, value in vars(self).items() if name not in _OWN}
        return _rebuilt, (type(self), self._config, backend), more or None

    async def open(self) -> None:
        """Check that the store is there and answers. Optional: the first operation opens what it needs."""
        await self.backend.open()

    async def close(self) -> None:
        """Release connections; a backend that was passed in stays open."""
        if self._owned:
            await self.backend.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- values

    async def save(
        self,
        key: str,
        data: Any,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> PutResult:
        """Store ``data``, a value, so that `load` gives it back with the same type.

        :param content_type: a closer description than the default of the value's type: another
            ``text/…`` for a str, ``…+json`` for JSON, any other for bytes.
        :param metadata: small texts kept with the object.
        :param if_match: replace only the object with this ETag. :param if_absent: create only.
        :param ttl: seconds after which the object is gone; None means never.
        :raises SerializationError: the value could not come back as it is; nothing was stored.
        :raises PreconditionFailedError: the object is not as ``if_match`` / ``if_absent`` say.
        """
        encoded = values.encode(data, self._pickling)
        chosen = encoded.content_type if content_type is None else _narrowed(content_type, encoded)
        return await self.backend.objects.put(
            validate_user_key(key),
            encoded.data,
            content_type=chosen,
            metadata=metadata,
            if_match=if_match,
            if_absent=if_absent,
            ttl=ttl,
        )

    @overload
    async def load(self, key: str) -> Any: ...
    @overload
    async def load[T](self, key: str, model: type[T]) -> T: ...
    async def load(self, key: str, model: Any = None) -> Any:
        """The value of an object; with ``model`` validated and converted to it.

        :raises KeyNotFoundError: there is no such object.
        :raises IntegrityError: its bytes are not the ones that were saved.
        :raises SerializationError: its bytes are not what its content type says, or not a ``model``.
        """
        found = await self.read(key)
        return await value_of(found, model, self._pickling)

    async def update(
        self,
        key: str,
        change: Callable[[Any], Any | Awaitable[Any]],
        *,
        initial: Any = _NOTHING,
        once: tuple[str, str] | None = None,
    ) -> Any:
        """Replace a value by ``change(value)``, again if another writer was faster; nothing is lost.

        ``change`` may be called several times and may be a coroutine function. Returns the new value. The
        object keeps its metadata, the end of its life, and its content type if the new value fits it.

        :param initial: what ``change`` gets when there is no object yet.
        :param once: a metadata name and value that the change leaves on the object; where the object has
            it already, the value is returned as it is.
        :raises KeyNotFoundError: there is no object and no ``initial``.
        :raises InvalidArgumentError: ``change`` returned None for a value that was not None, as
            ``lambda turns: turns.append(turn)`` does: to store None use `save`. Nothing was stored.
        """
        if not callable(change):
            raise InvalidArgumentError(
                f"change is a {type(change).__name__}",
                field="change",
                limit="a function of the old value that returns the new one",
                remedy="to store a value whatever was there, use save",
            )
        for attempt in range(_UPDATE_ATTEMPTS):
            try:
                found = await self.read(key)
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
                    if_match=None if found is None else found.info.etag,
                    if_absent=found is None,
                    ttl=None if found is None else self._remaining(found.info),
                )
            except PreconditionFailedError:
                # Whoever won has gone on; a random pause keeps many writers from meeting again.
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

    async def write(
        self,
        key: str,
        data: Buffer,
        *,
        content_type: str = values.BYTES,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> PutResult:
        """Store bytes as they are, if `load` can read them by their content type. Conditions and ``ttl`` as
        for `save`.

        :param data: bytes, or any bytes-like object: what it holds now is stored.
        :raises SerializationError: the bytes are not what the content type says; nothing was stored.
        :raises InvalidArgumentError: ``data`` is no bytes-like object.
        """
        validate_user_key(key)
        data = as_bytes(data)
        await paused(values.checking(data, validate_content_type(content_type)))
        return await self.backend.objects.put(
            key,
            data,
            content_type=content_type,
            metadata=metadata,
            if_match=if_match,
            if_absent=if_absent,
            ttl=ttl,
        )

    async def write_stream(
        self,
        key: str,
        source: ByteSource,
        *,
        content_type: str = values.BYTES,
        metadata: Mapping[str, str] | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
        ttl: float | None = None,
    ) -> PutResult:
        """Store what ``source`` gives, of any length, with constant memory; all or nothing, as `write`. What
        it holds is not checked against its content type.

        :param source: an async or plain iterable of bytes, or a binary file object.
        """
        return await self.backend.objects.put_stream(
            validate_user_key(key),
            source,
            content_type=content_type,
            metadata=metadata,
            if_match=if_match,
            if_absent=if_absent,
            ttl=ttl,
        )

    def open_reader(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> AbstractAsyncContextManager[ObjectReader]:
        """``async with storage.open_reader(key) as reader: async for chunk in reader: …`` reads an object of
        any size with constant memory, and verifies it before it gives the last chunk."""
        return self.backend.objects.open_reader(
            validate_user_key(key), byte_range=byte_range, if_match=if_match
        )

    async def read(
        self, key: str, *, byte_range: ByteRange | None = None, if_match: str | None = None
    ) -> StoredObject:
        """An object's bytes (or a range of them) with its info."""
        found = await self.backend.objects.get(
            validate_user_key(key), byte_range=byte_range, if_match=if_match
        )
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return found

    async def read_if_changed(
        self, key: str, etag: str, *, byte_range: ByteRange | None = None
    ) -> StoredObject | None:
        """As `read`, or None if the object still has this ETag."""
        return await self.backend.objects.get(
            validate_user_key(key), byte_range=byte_range, if_none_match=etag
        )

    # -- objects

    async def info(self, key: str) -> ObjectInfo:
        """Size, type, ETag, time and metadata. :raises KeyNotFoundError: there is no such object."""
        return await self.backend.objects.head(validate_user_key(key))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object. Raises, as everything does, if the store can not tell."""
        try:
            await self.info(key)
        except KeyNotFoundError:
            return False
        return True

    async def delete(self, key: str, *, if_match: str | None = None) -> None:
        """:raises KeyNotFoundError: there is no such object."""
        await self.backend.objects.delete(validate_user_key(key), if_match=if_match)

    async def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object, within the store where it can. :raises KeyNotFoundError: there is no source."""
        return await self.backend.objects.copy(
            validate_user_key(source), validate_user_key(target), if_absent=if_absent
        )

    async def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy, then delete the source; a crash in between leaves both."""
        return await self.backend.objects.move(
            validate_user_key(source), validate_user_key(target), if_absent=if_absent
        )

    async def stats(self, prefix: str = "") -> ObjectStats:
        """How many objects start with ``prefix`` and how many bytes they hold, found by listing them."""
        return await self.backend.objects.stats(prefix, skip=SYSTEM_PREFIX)

    async def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove up to ``limit`` objects whose time to live is over, for ``seconds`` at most; how many were
        removed."""
        return await self.backend.objects.sweep_expired(limit, seconds=seconds)

    # -- many at once

    async def save_many(
        self, items: Mapping[str, Any], *, concurrency: int = 16, **options: Any
    ) -> dict[str, PutResult | StorageError]:
        """`save` each value under its key. The result of each, or the error that it alone had.

        :param concurrency: at most so many at a time. :param options: of `save`, for all of them.
        """
        given = mapping("items", items)
        return await _each(given, lambda key: self.save(key, given[key], **options), concurrency)

    async def load_many(
        self, keys: Iterable[str], model: Any = None, *, concurrency: int = 16
    ) -> dict[str, Any | StorageError]:
        """`load` each key: its value, or the error that it alone had."""
        return await _each(several("keys", keys), lambda key: self.load(key, model), concurrency)

    async def delete_many(
        self, keys: Iterable[str], *, concurrency: int = 16
    ) -> dict[str, StorageError | None]:
        """`delete` each key: None, or the error that it alone had."""
        return await _each(several("keys", keys), self.delete, concurrency)

    def list_keys(self, prefix: str = "") -> Listed[str]:
        """Every key that starts with ``prefix``, in order of its UTF-8 bytes: ``await`` makes a list, ``async
        for`` takes one after the other and holds a page at a time."""
        return names_below(self.backend.objects, prefix)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str | None = None,
        limit: int = 1000,
        cursor: str | None = None,
        details: bool = False,
    ) -> ListPage:
        """A page of a listing; see `ObjectStore.list_page`."""
        return await self.backend.objects.list_page(
            prefix, delimiter=delimiter, limit=limit, cursor=cursor, details=details, skip=SYSTEM_PREFIX
        )


_OWN = frozenset({"_config", "_owned", "backend"})


def _rebuilt(
    kind: type[StorageManager], config: StorageConfig | None, backend: StorageBackend | None
) -> StorageManager:
    manager = kind.__new__(kind)
    StorageManager.__init__(manager, config, backend=backend)
    return manager


def _anywhere(config: StorageConfig) -> StorageConfig:
    """With the folder's whole path, which means the same in another working directory."""
    if "file" not in (config.storage_type, config.tables_and_queues):
        return config
    return replace(config, base_path=os.path.abspath(config.base_path))


async def _each[T](
    keys: Iterable[str], work: Callable[[str], Awaitable[T]], concurrency: int
) -> dict[str, T | StorageError]:
    """Do ``work`` for each key, each once; an error that is no `StorageError` ends them all."""
    concurrency = whole("concurrency", concurrency, 1)
    results: dict[str, T | StorageError] = dict.fromkeys(keys, cast("T", None))
    waiting = iter(list(results))

    async def worker() -> None:
        for key in waiting:
            try:
                results[key] = await work(key)
            except StorageError as error:
                results[key] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(results))):
            group.create_task(worker())
    return results


def _pickling(config: StorageConfig) -> Pickling | None:
    if not config.allow_pickle:
        return None
    from storage_lib.pickling import Pickling

    return Pickling(config.signing_key or b"")


def _kept_type(info: ObjectInfo, encoded: values.Encoded) -> str:
    """The content type that the object has, unless the new value would not come back under it."""
    try:
        return _narrowed(info.content_type, encoded)
    except InvalidArgumentError:
        return encoded.content_type


def _narrowed(content_type: str, encoded: values.Encoded) -> str:
    """The caller's content type, if the value still comes back with its type."""
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
            f"a value stored as {own} would not come back as it is with the content type {content_type!r}",
            field="content_type",
            remedy="use write() to store bytes with any content type",
        )
    return content_type
