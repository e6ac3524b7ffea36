"""A storage backend: three stores that are opened and closed together.

The stores are in objects.py, tables.py and queues.py, the drivers behind them in drivers.py. The names
that users of a backend need are exported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from storage_lib.ports.drivers import ObjectDriver, Repeat, once
from storage_lib.ports.lifetime import Lifetime
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import (
    ByteRange,
    ListEntry,
    ListPage,
    ObjectInfo,
    ObjectStats,
    PutResult,
    StoredObject,
)
from storage_lib.ports.objects import ByteSource, ObjectReader, ObjectStore, ObjectWriter
from storage_lib.ports.portable import Portable
from storage_lib.ports.queues import MessageEncoding, QueueMessage, QueueStore
from storage_lib.ports.reach import Reach
from storage_lib.ports.shortcuts import TableAndQueueMethods
from storage_lib.ports.statistics import QuotaUsage, Statistic
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

if TYPE_CHECKING:
    from storage_lib.metrics.registry import Registry

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
    "ObjectWriter",
    "PutResult",
    "QueueMessage",
    "QueueStore",
    "QuotaUsage",
    "Statistic",
    "StorageBackend",
    "StoredObject",
    "TableOperation",
    "TableStore",
    "Update",
    "UpdateMode",
    "Upsert",
    "layers_of",
    "statistics_of",
]


class StorageBackend(Lifetime, Portable, TableAndQueueMethods):
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

    traced: bool = False
    """Whether operations are spans, and those who use this backend make spans of their own."""

    repeat: Repeat = staticmethod(once)
    """How requests are made that belong to none of the three stores."""

    metrics: Registry | None = None
    """Where this backend is measured; None if metrics are off."""

    def statistics(self) -> Iterable[Statistic]:
        """What it counts about itself, not about what is inside it: the same names each time, also those
        that are still 0."""
        return ()

    def inside(self) -> Mapping[str, StorageBackend]:
        """What it is around, by name; the name of the only one is empty."""
        return {}

    def system(self, port: str) -> str:
        """What stores its ``objects``, ``tables`` or ``queues``: ``azure``, ``s3``, ``file``, ``memory``."""
        return type(self).__name__.removesuffix("Backend").removesuffix("Storage").lower()

    def place(self, port: str) -> str:
        """Where its ``objects``, ``tables`` or ``queues`` are: the same text for backends that share them."""
        return repr(self) if type(self).__repr__ is not object.__repr__ else f"{id(self):#x}"

    def also(self, objects: ObjectDriver) -> ObjectDriver:
        """Another object driver in the same place, inside the layers around that of `objects`."""
        return objects

    def reach(self) -> Reach:
        """What the library keeps by names like keys, as far as whoever uses this backend may reach it."""
        return Reach(self.tables, self.objects)

    def quotas(self) -> list[QuotaUsage]:
        """The usage of each quota; empty without any."""
        return []

    async def close(self) -> None:
        """Release connections and threads; the backend cannot be used afterwards."""


def layers_of(backend: StorageBackend) -> Iterator[StorageBackend]:
    """``backend`` and everything inside it, from outer to inner."""
    yield backend
    for inner in backend.inside().values():
        yield from layers_of(inner)


def statistics_of(backend: StorageBackend) -> Iterator[Statistic]:
    """The statistics of ``backend`` and of everything inside it. What is inside under a name, such as the
    secondary store of a fallback, has that name as its tag ``store``."""
    yield from backend.statistics()
    for name, inner in backend.inside().items():
        for each in statistics_of(inner):
            yield each.tagged("store", name) if name else each
