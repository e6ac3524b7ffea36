"""`StorageManager`: the one door to the storage that a configuration selects."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, overload

from msgspec import structs

from storage_lib.arguments import whole
from storage_lib.config import StorageConfig
from storage_lib.errors import KeyNotFoundError, UnsupportedOperationError
from storage_lib.factory import build
from storage_lib.keys import user_key, validate_prefix
from storage_lib.object_methods import NOTHING, ObjectMethods
from storage_lib.ports.backend import Listed, StorageBackend, layers_of
from storage_lib.ports.lifetime import Lifetime
from storage_lib.ports.link_model import DEFAULT_LINK_SECONDS
from storage_lib.ports.object_model import Properties

if TYPE_CHECKING:
    from datetime import timedelta

    from storage_lib.layers.encryption.rotation import Rotation
    from storage_lib.layers.fallback import FallbackLayer, RepairResult
    from storage_lib.links import Link
    from storage_lib.pickling import Pickling
    from storage_lib.prefixes import Bounds, PrefixResult, TransferOptions
    from storage_lib.versioning import Version, Versions


class StorageManager(ObjectMethods, Lifetime):
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
        super().__init__(
            build(self._config) if self._config is not None else cast("StorageBackend", backend),
            None if chosen is None else _pickling(chosen),
        )

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

    # -- tables and queues

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
        default: Any = NOTHING,
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
            if default is NOTHING:
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
        return await self._versions.rollback(key, version)

    async def label_version(self, key: str, version: int | str, label: str) -> int:
        """Give a version a label, such as ``v1.2`` or ``production``, and return the version's number.

        A label belongs to one version; another one that had it loses it at the same moment.

        :param key: the object that has versions.
        :param version: the number, or another label.
        :param label: up to 100 printable characters; not what looks like a number, such as ``v3``.
        :raises KeyNotFoundError: there is no such version.
        """
        return await self._versions.label(key, version, label)

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
