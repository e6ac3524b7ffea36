"""`SyncStorageManager`: `StorageManager` for code without async."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from storage_lib.blocking import Blocking, Streamed, Twin, called, listed, opened
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.object_model import ObjectInfo, PutResult
from storage_lib.ports.objects import ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from storage_lib.layers.fallback import FallbackLayer

__all__ = ["SyncObjectReader", "SyncObjectWriter", "SyncStorageManager"]


class SyncObjectReader(Streamed[ObjectReader]):
    """An open object: ``info``, and its bytes as an iterator of chunks.

    ``start`` is the offset of the first byte. Reading to the end verifies the length and checksum of a
    whole object before the last chunk is returned.
    """

    @property
    def info(self) -> ObjectInfo:
        return self._of.info

    @property
    def start(self) -> int:
        return self._of.start

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks(aiter(self._of))

    read = called(ObjectReader.read)


class SyncObjectWriter(Streamed[ObjectWriter]):
    """The open end of a save. ``result`` is set once the block has ended."""

    @property
    def result(self) -> PutResult | None:
        return self._of.result

    @property
    def size(self) -> int:
        return self._of.size

    write = called(ObjectWriter.write)


class SyncStorageManager(Twin[StorageManager]):
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
        super().__init__(StorageManager(config, backend=backend), Blocking())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backend!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied as `StorageManager` is."""
        return {name: value for name, value in vars(self).items() if name != "_blocking"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._blocking = Blocking()

    @property
    def backend(self) -> StorageBackend:
        """The backend, whose methods are coroutines."""
        return self._of.backend

    @property
    def fallback(self) -> FallbackLayer | None:
        """The layer with the second store: its status, and the conflicts that it keeps. None if it is off."""
        return self._of.fallback

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and not opened again."""
        return self._of.is_closed

    def close(self) -> None:
        """Release connections; a backend that was passed in stays open."""
        try:
            self._blocking.call(self._of.close())
        finally:
            self._blocking.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    open = called(StorageManager.open)
    save = called(StorageManager.save)
    load = called(StorageManager.load)
    load_with_info = called(StorageManager.load_with_info)
    update = called(StorageManager.update)
    write = called(StorageManager.write)
    write_stream = called(StorageManager.write_stream)
    open_writer = opened(StorageManager.open_writer, SyncObjectWriter)
    open_reader = opened(StorageManager.open_reader, SyncObjectReader)
    read = called(StorageManager.read)
    read_if_changed = called(StorageManager.read_if_changed)
    info = called(StorageManager.info)
    exists = called(StorageManager.exists)
    delete = called(StorageManager.delete)
    copy = called(StorageManager.copy)
    move = called(StorageManager.move)
    touch = called(StorageManager.touch)
    link = called(StorageManager.link)
    stats = called(StorageManager.stats)
    sweep_expired = called(StorageManager.sweep_expired)
    repair = called(StorageManager.repair)
    rotate_keys = called(StorageManager.rotate_keys)
    save_versioned = called(StorageManager.save_versioned)
    load_version = called(StorageManager.load_version)
    list_versions = called(StorageManager.list_versions)
    current_version = called(StorageManager.current_version)
    rollback = called(StorageManager.rollback)
    label_version = called(StorageManager.label_version)
    unlabel_version = called(StorageManager.unlabel_version)
    prune_versions = called(StorageManager.prune_versions)
    diff_versions = called(StorageManager.diff_versions)
    delete_prefix = called(StorageManager.delete_prefix)
    copy_prefix = called(StorageManager.copy_prefix)
    move_prefix = called(StorageManager.move_prefix)
    save_many = called(StorageManager.save_many)
    load_many = called(StorageManager.load_many)
    delete_many = called(StorageManager.delete_many)
    info_many = called(StorageManager.info_many)
    list_keys = listed(StorageManager.list_keys)
    list_tables = listed(StorageManager.list_tables)
    list_queues = listed(StorageManager.list_queues)
    list_objects = listed(StorageManager.list_objects)
    list_page = called(StorageManager.list_page)
