"""A storage backend: three stores that are opened and closed together.

The stores are in objects.py, tables.py and queues.py, the drivers behind them in drivers.py. The names
that users of a backend need are exported here.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from storage_lib.ports.drivers import ObjectDriver, Repeat, once
from storage_lib.ports.listed import Listed
from storage_lib.ports.objects import (
    ByteRange,
    ByteSource,
    ListEntry,
    ListPage,
    ObjectInfo,
    ObjectReader,
    ObjectStats,
    ObjectStore,
    PutResult,
    StoredObject,
)
from storage_lib.ports.portable import Portable
from storage_lib.ports.queues import MessageEncoding, QueueMessage, QueueStore
from storage_lib.ports.shortcuts import TableAndQueueMethods
from storage_lib.ports.tables import (
    Delete,
    Entity,
    EntityPage,
    Insert,
    TableOperation,
    TableStore,
    Update,
    UpdateMode,
    Upsert,
)

__all__ = [
    "ByteRange",
    "ByteSource",
    "Delete",
    "Entity",
    "EntityPage",
    "Insert",
    "ListEntry",
    "ListPage",
    "Listed",
    "MessageEncoding",
    "ObjectInfo",
    "ObjectReader",
    "ObjectStats",
    "ObjectStore",
    "PutResult",
    "QueueMessage",
    "QueueStore",
    "StorageBackend",
    "StoredObject",
    "TableOperation",
    "TableStore",
    "Update",
    "UpdateMode",
    "Upsert",
]


class StorageBackend(Portable, TableAndQueueMethods):
    """Objects, tables and queues in one place. Use it as an async context manager, or `close` it.

    Opening is lazy: nothing is touched before the first operation or `open`. A pickled or copied
    backend, where that is possible, is another one with the same arguments.
    """

    objects: ObjectStore
    tables: TableStore
    queues: QueueStore

    async def open(self) -> None:
        """Check that the store exists and answers; each call checks again.

        :raises StorageUnavailableError: it cannot be reached.
        :raises AccessDeniedError: it refuses access.
        """
        raise NotImplementedError

    repeat: Repeat = staticmethod(once)
    """How requests are made that belong to none of the three stores."""

    def also(self, objects: ObjectDriver) -> ObjectDriver:
        """Another object driver in the same place, inside the layers around that of `objects`."""
        return objects

    async def close(self) -> None:
        """Release connections and threads; the backend cannot be used afterwards."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
