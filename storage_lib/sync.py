"""`SyncStorageManager`: `StorageManager` for code without async.

Written by ``python -m tests.sync_source`` from the methods of `StorageManager`; a test says when to run it.
"""

# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Awaitable, Buffer, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from storage_lib.blocking import Blocking, Listing, Opened, Streamed
from storage_lib.config import StorageConfig
from storage_lib.errors import (
    StorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
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
    PutResult,
    ReadOptions,
    SaveOptions,
    StoredObject,
)
from storage_lib.ports.objects import ByteSource, ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from storage_lib.layers.encryption.rotation import Rotation
    from storage_lib.layers.fallback import FallbackLayer, RepairResult
    from storage_lib.links import Link
    from storage_lib.prefixes import Bounds, PrefixResult, TransferOptions
    from storage_lib.versioning import Version

from storage_lib.manager import _NOTHING  # pyright: ignore[reportPrivateUsage]

__all__ = ["SyncObjectReader", "SyncObjectWriter", "SyncStorageManager"]


class SyncStorageManager:
    """`StorageManager` for code without async, with the same methods.

        with SyncStorageManager(StorageConfig(base_path="data")) as storage:
            storage.save("configs/ceo.json", {"model": "large"})
            config = storage.load("configs/ceo.json")

    Any number of threads may use it at once, and a notebook, whose event loop waits meanwhile. Listings are
    iterated with ``for``, and `open_reader` is used with ``with``. In async code use `StorageManager`: this
    one blocks the thread. What layers do in the background goes on during the next call, at the latest in
    `close`.
    """

    def __init__(self, config: StorageConfig | None = None, *, backend: StorageBackend | None = None) -> None:
        """Choose the storage; nothing is opened yet. The parameters are those of `StorageManager`."""
        self._storage = StorageManager(config, backend=backend)
        self._blocking = Blocking()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._storage.backend!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied as `StorageManager` is."""
        return {name: value for name, value in vars(self).items() if name != "_blocking"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._blocking = Blocking()

    @property
    def backend(self) -> StorageBackend:
        """The backend, whose methods are coroutines."""
        return self._storage.backend

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and not opened again."""
        return self._storage.is_closed

    def close(self) -> None:
        """Release connections; a backend that was passed in stays open."""
        try:
            self._blocking.call(self._storage.close())
        finally:
            self._blocking.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Check that the store exists and answers. Optional: the first operation opens what it needs."""
        return self._blocking.call(self._storage.open())

    def save(
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
        return self._blocking.call(
            self._storage.save(
                key,
                data,
                content_type=content_type,
                metadata=metadata,
                headers=headers,
                if_match=if_match,
                if_absent=if_absent,
                ttl=ttl,
            )
        )

    @overload
    def load(self, key: str, *, default: Any = ..., fresh: bool = False) -> Any: ...

    @overload
    def load[T](self, key: str, model: type[T], *, fresh: bool = False) -> T: ...

    @overload
    def load[T, Default](
        self, key: str, model: type[T], *, default: Default, fresh: bool = False
    ) -> T | Default: ...

    def load(self, key: str, model: Any = None, *, default: Any = _NOTHING, fresh: bool = False) -> Any:
        """Return the value of an object.

        :param key: the object.
        :param model: a class (dataclass, pydantic model, …) to validate the value against and convert it to.
        :param default: returned as it is if there is no such object; without it that is an error.
        :param fresh: what the store has now, even if the caching layer has kept what it had before.
        :raises KeyNotFoundError: there is no such object, and no ``default``.
        :raises IntegrityError: its bytes are not the ones that were saved.
        :raises SerializationError: its bytes do not match its content type, or do not fit ``model``.
        """
        return self._blocking.call(self._storage.load(key, model, default=default, fresh=fresh))

    @overload
    def load_with_info(self, key: str, *, fresh: bool = False) -> Loaded[Any]: ...

    @overload
    def load_with_info[T](self, key: str, model: type[T], *, fresh: bool = False) -> Loaded[T]: ...

    def load_with_info(self, key: str, model: Any = None, *, fresh: bool = False) -> Loaded[Any]:
        """Return the value of an object and the info of this very version, for its ETag or metadata. The
        parameters and the errors are those of `load`.

            loaded = storage.load_with_info(key)
            storage.save(key, changed(loaded.value), if_match=loaded.etag)
        """
        return self._blocking.call(self._storage.load_with_info(key, model, fresh=fresh))

    def update(
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
        return self._blocking.call(self._storage.update(key, change, initial=initial, once=once))

    def write(self, key: str, data: Buffer, **options: Unpack[SaveOptions]) -> PutResult:
        """Store bytes as they are, provided that `load` can read them under their content type.

        :param key: the object to create or replace.
        :param data: bytes or a bytes-like object; what it holds at this moment is stored.
        :param options: ``content_type`` is what the bytes are, by default ``application/octet-stream``;
            ``metadata``, ``headers``, ``if_match``, ``if_absent`` and ``ttl`` are those of `save`.
        :raises SerializationError: the bytes do not match the content type; nothing was stored.
        :raises PreconditionFailedError: ``if_match`` or ``if_absent`` does not hold; nothing was stored.
        :raises InvalidArgumentError: ``data`` is not a bytes-like object.
        """
        return self._blocking.call(self._storage.write(key, data, **options))

    def write_stream(self, key: str, source: ByteSource, **options: Unpack[SaveOptions]) -> PutResult:
        """Store a stream of any length with constant memory, all or nothing.

        The errors are those of `write`, but the bytes are not checked against the content type.

        :param source: an async or plain iterable of bytes, or a binary file object.
        :param options: those of `write`.
        """
        return self._blocking.call(self._storage.write_stream(key, source, **options))

    def open_writer(
        self, key: str, **options: Unpack[SaveOptions]
    ) -> AbstractContextManager[SyncObjectWriter]:
        """Store what is written in the block, of any size with constant memory: for a source that pushes. The
        object appears when the block has ended; if the block raises, nothing is stored.

            with storage.open_writer(key) as writer:
                writer.write(chunk)

        The options and errors are those of `write_stream`. ``writer.result`` has the ETag afterwards.
        """
        return Opened(self._blocking, self._storage.open_writer(key, **options), SyncObjectWriter)

    def open_reader(
        self, key: str, **options: Unpack[ReadOptions]
    ) -> AbstractContextManager[SyncObjectReader]:
        """Read an object of any size with constant memory; it is verified before the last chunk is returned.
        The options (``byte_range``, ``if_match``, ``fresh``) and errors are those of `read`.

        with storage.open_reader(key) as reader:
            for chunk in reader:
                ...
        """
        return Opened(self._blocking, self._storage.open_reader(key, **options), SyncObjectReader)

    def read(
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
        return self._blocking.call(
            self._storage.read(key, byte_range=byte_range, if_match=if_match, fresh=fresh)
        )

    def read_if_changed(
        self, key: str, etag: str, *, byte_range: ByteRange | None = None, fresh: bool = False
    ) -> StoredObject | None:
        """Like `read`, but return None if the object still has this ETag."""
        return self._blocking.call(
            self._storage.read_if_changed(key, etag, byte_range=byte_range, fresh=fresh)
        )

    def info(self, key: str, *, fresh: bool = False) -> ObjectInfo:
        """Return the size, type, ETag, times and metadata of an object.

        :param key: the object.
        :param fresh: as for `read`.
        :raises KeyNotFoundError: there is no such object.
        """
        return self._blocking.call(self._storage.info(key, fresh=fresh))

    def exists(self, key: str, *, fresh: bool = False) -> bool:
        """Whether there is such an object. If the store cannot tell, its error is raised.

        :param key: the object.
        :param fresh: as for `read`.
        """
        return self._blocking.call(self._storage.exists(key, fresh=fresh))

    def delete(self, key: str, *, if_match: str | None = None, missing_ok: bool = False) -> None:
        """Delete an object.

        :param if_match: only if it has this ETag.
        :param missing_ok: it is no error if there is no such object.
        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: there is one with another ETag than ``if_match``.
        """
        return self._blocking.call(self._storage.delete(key, if_match=if_match, missing_ok=missing_ok))

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object, on the server side where the store supports it.

        :raises KeyNotFoundError: there is no source.
        :raises PreconditionFailedError: ``if_absent`` is set and there is a target.
        """
        return self._blocking.call(self._storage.copy(source, target, if_absent=if_absent))

    def move(self, source: str, target: str, *, if_absent: bool = False) -> PutResult:
        """Copy an object and delete the source; a crash in between leaves both."""
        return self._blocking.call(self._storage.move(source, target, if_absent=if_absent))

    def touch(
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
        return self._blocking.call(
            self._storage.touch(key, ttl=ttl, metadata=metadata, headers=headers, if_match=if_match)
        )

    def link(
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
        return self._blocking.call(
            self._storage.link(
                key,
                method=method,
                expires_in=expires_in,
                ip=ip,
                content_type=content_type,
                max_bytes=max_bytes,
                app_url=app_url,
                secrets=secrets,
            )
        )

    def stats(self, prefix: str = "") -> ObjectStats:
        """Count the objects whose keys start with ``prefix``, and their bytes, by listing them."""
        return self._blocking.call(self._storage.stats(prefix))

    def sweep_expired(self, limit: int = 1000, *, seconds: float | None = None) -> int:
        """Remove expired objects and return how many were removed.

        :param limit: remove at most this many.
        :param seconds: stop after this long; None means no limit.
        """
        return self._blocking.call(self._storage.sweep_expired(limit, seconds=seconds))

    @property
    def fallback(self) -> FallbackLayer | None:
        """The layer with the second store: its status, and the conflicts that it keeps. None if it is off."""
        return self._storage.fallback

    def repair(
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
        return self._blocking.call(self._storage.repair(limit=limit, seconds=seconds, full=full))

    def rotate_keys(
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
        return self._blocking.call(
            self._storage.rotate_keys(
                prefix, after=after, include_plaintext=include_plaintext, concurrency=concurrency
            )
        )

    def save_versioned(
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
        return self._blocking.call(
            self._storage.save_versioned(
                key,
                data,
                version,
                content_type=content_type,
                metadata=metadata,
                saved_by=saved_by,
                label=label,
            )
        )

    @overload
    def load_version(self, key: str, version: int | str | None = None, *, default: Any = ...) -> Any: ...

    @overload
    def load_version[T](self, key: str, version: int | str | None, model: type[T]) -> T: ...

    @overload
    def load_version[T, Default](
        self, key: str, version: int | str | None, model: type[T], *, default: Default
    ) -> T | Default: ...

    def load_version(
        self, key: str, version: int | str | None = None, model: Any = None, *, default: Any = _NOTHING
    ) -> Any:
        """Return the value of a version.

        :param key: the object that has versions.
        :param version: its number, as ``3`` or ``"v3"``, or its label; None means the current version.
        :param model: as for `load`.
        :param default: returned as it is if there is no such version; without it that is an error.
        :raises KeyNotFoundError: there is no such version, and no ``default``.
        """
        return self._blocking.call(self._storage.load_version(key, version, model, default=default))

    def list_versions(self, key: str, *, details: bool = False) -> list[Version]:
        """Return the versions of ``key``, oldest first; an empty list if it has none.

        :param details: also say who saved each one, and exactly when. That reads the metadata of each.
        """
        return self._blocking.call(self._storage.list_versions(key, details=details))

    def current_version(self, key: str) -> int:
        """Return the number of the current version.

        :raises KeyNotFoundError: there are no versions.
        """
        return self._blocking.call(self._storage.current_version(key))

    def rollback(self, key: str, version: int | str) -> int:
        """Make an earlier version the current one and return its number. Later versions stay.

        :param key: the object that has versions.
        :param version: the number or label.
        :raises KeyNotFoundError: there is no such version.
        """
        return self._blocking.call(self._storage.rollback(key, version))

    def label_version(self, key: str, version: int | str, label: str) -> int:
        """Give a version a label, such as ``v1.2`` or ``production``, and return the version's number.

        A label belongs to one version; another one that had it loses it at the same moment.

        :param key: the object that has versions.
        :param version: the number, or another label.
        :param label: up to 100 printable characters; not what looks like a number, such as ``v3``.
        :raises KeyNotFoundError: there is no such version.
        """
        return self._blocking.call(self._storage.label_version(key, version, label))

    def unlabel_version(self, key: str, label: str) -> None:
        """Remove a label; its version stays.

        :raises KeyNotFoundError: there is no such label.
        """
        return self._blocking.call(self._storage.unlabel_version(key, label))

    def prune_versions(
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
        return self._blocking.call(
            self._storage.prune_versions(key, keep_last=keep_last, younger_than=younger_than, dry_run=dry_run)
        )

    def diff_versions(self, key: str, old: int | str, new: int | str | None = None) -> list[dict[str, Any]]:
        """Return what changes from one version to another, as a JSON Patch (RFC 6902): between them of up to
        some 5,000 items a short one, beyond that one that may replace whole lists.

        :param key: the object that has versions.
        :param old: a number or label.
        :param new: likewise; None means the current version.
        :raises KeyNotFoundError: there is no such version.
        :raises SerializationError: one of them is not JSON.
        """
        return self._blocking.call(self._storage.diff_versions(key, old, new))

    def delete_prefix(self, prefix: str, *, dry_run: bool = False, **bounds: Unpack[Bounds]) -> PrefixResult:
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
        return self._blocking.call(self._storage.delete_prefix(prefix, dry_run=dry_run, **bounds))

    def copy_prefix(self, source: str, target: str, **options: Unpack[TransferOptions]) -> PrefixResult:
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
        return self._blocking.call(self._storage.copy_prefix(source, target, **options))

    def move_prefix(self, source: str, target: str, **options: Unpack[TransferOptions]) -> PrefixResult:
        """Move each object ``source + rest`` to ``target + rest``, as `move` does: at any moment each is
        whole at one of them or at both. Called again, it goes on where it was cut off. The parameters and
        the errors are those of `copy_prefix`.
        """
        return self._blocking.call(self._storage.move_prefix(source, target, **options))

    @overload
    def save_many(
        self, items: Mapping[str, Any], *, raise_errors: Literal[True], **options: Any
    ) -> dict[str, PutResult]: ...

    @overload
    def save_many(
        self, items: Mapping[str, Any], *, raise_errors: bool = False, **options: Any
    ) -> dict[str, PutResult | StorageError]: ...

    def save_many(
        self, items: Mapping[str, Any], *, raise_errors: bool = False, concurrency: int = 16, **options: Any
    ) -> Any:
        """`save` each value under its key; return the result or the `StorageError` of each.

        :param items: values by key.
        :param raise_errors: raise the error of the first item that failed, with notes about the others, once
            all have been tried. The same holds for the other methods for many.
        :param concurrency: how many to save at a time.
        :param options: options of `save`, applied to all.
        """
        return self._blocking.call(
            self._storage.save_many(items, raise_errors=raise_errors, concurrency=concurrency, **options)
        )

    @overload
    def load_many[T](
        self,
        keys: Iterable[str],
        model: type[T],
        *,
        raise_errors: Literal[True],
        **options: Unpack[ManyOptions],
    ) -> dict[str, T]: ...

    @overload
    def load_many(
        self,
        keys: Iterable[str],
        model: Any = None,
        *,
        default: Any = ...,
        raise_errors: bool = False,
        **options: Unpack[ManyOptions],
    ) -> dict[str, Any]: ...

    def load_many(
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
        return self._blocking.call(
            self._storage.load_many(
                keys, model, default=default, raise_errors=raise_errors, concurrency=concurrency, fresh=fresh
            )
        )

    def delete_many(
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
        return self._blocking.call(
            self._storage.delete_many(
                keys, missing_ok=missing_ok, raise_errors=raise_errors, concurrency=concurrency
            )
        )

    @overload
    def info_many(
        self, keys: Iterable[str], *, raise_errors: Literal[True], **options: Unpack[ManyOptions]
    ) -> dict[str, ObjectInfo]: ...

    @overload
    def info_many(
        self, keys: Iterable[str], *, raise_errors: bool = False, **options: Unpack[ManyOptions]
    ) -> dict[str, ObjectInfo | StorageError]: ...

    def info_many(
        self, keys: Iterable[str], *, raise_errors: bool = False, concurrency: int = 16, fresh: bool = False
    ) -> Any:
        """`info` of each key; return it or the `StorageError` of each.

        :param raise_errors: as for `save_many`.
        """
        return self._blocking.call(
            self._storage.info_many(keys, raise_errors=raise_errors, concurrency=concurrency, fresh=fresh)
        )

    def list_keys(self, prefix: str = "", *, start_after: str | None = None) -> Listing[str]:
        """List the keys that start with ``prefix``, ordered by their UTF-8 bytes.

        ``await`` returns a list; ``async for`` streams the keys and holds one page at a time.

        :param start_after: only keys behind this one, in that order; it need not exist.
        """
        return Listing(self._blocking, self._storage.list_keys(prefix, start_after=start_after))

    def list_tables(self, prefix: str = "") -> Listing[str]:
        """List the names of the tables that begin with ``prefix``, as they were given, in order.

        ``await`` returns a list; ``async for`` iterates over it. Those of the library are listed too: of the
        tasks (``tasks``, ``taskkeys``) and of the audit log.

        :raises UnsupportedOperationError: the store has no tables.
        """
        return Listing(self._blocking, self._storage.list_tables(prefix))

    def list_queues(self, prefix: str = "") -> Listing[str]:
        """List the names of the queues that begin with ``prefix``, in order, likewise.

        :raises UnsupportedOperationError: the store has no queues.
        """
        return Listing(self._blocking, self._storage.list_queues(prefix))

    def list_objects(self, prefix: str = "", *, start_after: str | None = None) -> Listing[ListEntry]:
        """Like `list_keys`, with the size, ETag, time, content type, metadata and expiry of each object.

        On S3 that takes a request for each object, many at a time; elsewhere it costs little.
        """
        return Listing(self._blocking, self._storage.list_objects(prefix, start_after=start_after))

    def list_page(
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
        return self._blocking.call(
            self._storage.list_page(
                prefix,
                delimiter=delimiter,
                limit=limit,
                cursor=cursor,
                start_after=start_after,
                details=details,
                cheap=cheap,
            )
        )


class SyncObjectReader(Streamed[ObjectReader]):
    """An open object: ``info``, and its bytes as an iterator of chunks.

    ``start`` is the offset of the first byte. Reading to the end verifies the length and checksum of a
    whole object before the last chunk is returned.
    """

    @property
    def info(self) -> ObjectInfo:
        return self._opened.info

    @property
    def start(self) -> int:
        return self._opened.start

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks(aiter(self._opened))

    def read(self) -> bytes:
        """All that is left, at once."""
        return self._line.call(self._opened.read())


class SyncObjectWriter(Streamed[ObjectWriter]):
    """The open end of a save. ``result`` is set once the block has ended."""

    @property
    def result(self) -> PutResult | None:
        return self._opened.result

    @property
    def size(self) -> int:
        return self._opened.size

    def write(self, data: Buffer) -> int:
        """Add bytes and return how many they are. Waits while the store is slower than the writer.

        :param data: bytes or a bytes-like object, which may be reused afterwards.
        :raises StorageError: the save has failed; nothing will be stored.
        :raises InvalidArgumentError: ``data`` is not bytes-like, or the block has ended.
        """
        return self._line.call(self._opened.write(data))
