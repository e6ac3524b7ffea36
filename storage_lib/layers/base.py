"""The base of every layer: a backend around another that delegates everything.

A uniform layer (metrics, audit, time limits) overrides `Layer.around`, which sees each operation of a caller
once. A transforming layer (compression, encryption, caching) returns from `Layer.object_layer` a subclass of
`ObjectLayer` that overrides the few methods it changes. factory.py has the order of the layers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from storage_lib.ports.backend import ObjectStore, QueueStore, QuotaUsage, StorageBackend, TableStore
from storage_lib.ports.drivers import (
    GetOptions,
    ListOptions,
    NamePage,
    ObjectDriver,
    PutOptions,
    QueryOptions,
    QueueDriver,
    Repeat,
    TableDriver,
    once,
)
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult, StoredObject
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage
from storage_lib.ports.reach import Reach
from storage_lib.ports.statistics import Statistic
from storage_lib.ports.streaming import Parts, SentPart
from storage_lib.ports.table_model import Entity, EntityPage, TableOperation

_WORDS = {
    "create_table": "create",
    "create_queue": "create",
    "send": "send to",
    "receive": "receive from",
    "peek": "peek into",
    "length": "length of",
}


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One operation on its way to a driver.

    ``name`` is the driver's method; a write to a table is named by its kind: ``insert``, ``upsert``,
    ``update``, ``delete``. ``target`` is the key, prefix, table or queue; ``arguments`` are what follows it.
    ``size`` is the number of bytes that it brings, where they are known before: a put's, a message's text.
    """

    port: Literal["objects", "tables", "queues"]
    name: str
    target: str
    arguments: tuple[Any, ...] = ()
    size: int | None = None

    def __str__(self) -> str:
        if self.name in ("list_tables", "list_queues"):
            return f"list {self.port}"
        if self.port == "objects":
            return f"{self.name} {self.target!r}"
        keys = [getattr(each, "row_key", each) for each in self.arguments] if self.port == "tables" else []
        shown = ", ".join(repr(key) for key in keys if isinstance(key, str))
        if self.port == "queues" and self.name in ("delete", "update"):
            shown = "a message"
        doing = _WORDS.get(self.name, self.name)
        return f"{doing} {shown}{' in ' if shown else ''}{self.port[:-1]} {self.target!r}"


class Around(Protocol):
    """What a uniform layer does before and after ``call``, the operation itself."""

    async def __call__[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T: ...


class Layer(StorageBackend):
    """A backend around another. It opens and closes the inner one but never changes it."""

    def __init__(self, inner: StorageBackend) -> None:
        self.inner = inner
        self.traced = self.traced or inner.traced
        self.repeat = inner.repeat
        self.metrics = inner.metrics
        self.objects = ObjectStore(self.object_layer(inner.objects.driver))
        self.tables = TableStore(TableLayer(inner.tables.driver, self.around))
        self.queues = QueueStore(QueueLayer(inner.queues.driver, self.around))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        """Called once for each operation of a caller; ``call()`` performs it."""
        return await call()

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        """Return ``inner`` with this layer around it."""
        return ObjectLayer(inner, self.around)

    def statistics(self) -> Iterable[Statistic]:
        """What this layer counts about itself: the same names each time, also those that are still 0."""
        return ()

    def inside(self) -> Mapping[str, StorageBackend]:
        return {"": self.inner}

    def system(self, port: str) -> str:
        return self.inner.system(port)

    def place(self, port: str) -> str:
        return self.inner.place(port)

    def reach(self) -> Reach:
        return Reach(self.tables, self.objects)  # Through this layer, which the inner's would pass by.

    def also(self, objects: ObjectDriver) -> ObjectDriver:
        return self.object_layer(self.inner.also(objects))

    def quotas(self) -> list[QuotaUsage]:
        return self.inner.quotas()

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()


class ObjectLayer(ObjectDriver):
    """An object driver around another.

    What a layer stores instead of the caller's bytes may have another size. It then keeps the caller's
    size and checksum in the metadata (`hidden.SIZE`, `hidden.CHECKSUM`), which every listing and info
    shows.
    """

    changes_sizes = False
    """Whether it stores other bytes than the caller's, of another size."""

    def __init__(self, inner: ObjectDriver, around: Around) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        if self.changes_sizes:  # A listing without details has those of the store.
            self.capabilities = replace(inner.capabilities, lists_sizes=False, resumes_streams=False)
        self._around = around

    @property
    def clock(self) -> Callable[[], float]:
        return self.inner.clock

    @clock.setter
    def clock(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, clock: Callable[[], float]
    ) -> None:
        self._set_clock(clock)

    def _set_clock(self, clock: Callable[[], float]) -> None:
        self.inner.clock = clock

    @property
    def core(self) -> ObjectDriver:
        return self.inner.core

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        operation = Operation("objects", "put", key, (options,), len(data))
        return await self._around(operation, lambda: self.inner.put(key, data, options))

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        operation = Operation("objects", "put_stream", key, (options,))
        return await self._around(operation, lambda: self.inner.put_stream(key, parts, options, repeat))

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        operation = Operation("objects", "get", key, (options,))
        return await self._around(operation, lambda: self.inner.get(key, options))

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        operation = Operation("objects", "read_stream", key, (options,))
        return await self._around(operation, lambda: self.inner.read_stream(key, options))

    def at_hand(self, key: str) -> StoredObject | None:
        return None  # This layer is to see every operation.

    async def head(self, key: str) -> ObjectInfo:
        return await self._around(Operation("objects", "head", key), lambda: self.inner.head(key))

    async def fresh_head(self, key: str) -> ObjectInfo:
        return await self._around(Operation("objects", "head", key), lambda: self.inner.fresh_head(key))

    async def delete(self, key: str, if_match: str | None) -> None:
        operation = Operation("objects", "delete", key, (if_match,))
        await self._around(operation, lambda: self.inner.delete(key, if_match))

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        operation = Operation("objects", "copy", source.key, (target, if_absent))
        return await self._around(operation, lambda: self.inner.copy(source, target, if_absent))

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        operation = Operation("objects", "touch", source.key, (metadata,))
        return await self._around(operation, lambda: self.inner.touch(source, metadata))

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        if self.changes_sizes:
            return NoStoreLink("the store has other bytes than those that are saved here")
        operation = Operation("objects", "link", key, (options,))
        return await self._around(operation, lambda: self.inner.link(key, options))

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        """The operation is the listing up to its first entry."""

        async def begin() -> tuple[AsyncGenerator[ListEntry | str], ListEntry | str | None]:
            # A new listing for each call: one that failed would be an empty one if it were read on.
            listing = self.inner.scan(prefix, options)
            return listing, await anext(listing, None)

        operation = Operation("objects", "scan", prefix, (options,))
        listing, first = await (begin() if options.continued else self._around(operation, begin))
        async with aclosing(listing):
            if first is None:
                return
            yield first
            async for found in listing:
                yield found

    async def uploaded(self, key: str, upload: str) -> Mapping[int, SentPart]:
        return await self.inner.uploaded(key, upload)

    async def give_up(self, key: str, upload: str) -> None:
        await self.inner.give_up(key, upload)

    async def remove(self, info: ObjectInfo) -> None:
        await super().remove(info)  # With all that a layer does to a delete.

    async def discard(self, keys: Sequence[str]) -> None:
        await super().discard(keys)  # Likewise.

    async def remove_stale(self) -> None:
        await self.inner.remove_stale()


def stored_form(driver: ObjectDriver) -> ObjectDriver:
    """The driver below the innermost layer that stores other bytes than its caller's."""
    found = driver
    while isinstance(driver, ObjectLayer):
        if driver.changes_sizes:
            found = driver.inner
        driver = driver.inner
    return found


class TableLayer(TableDriver):
    """A table driver around another."""

    def __init__(self, inner: TableDriver, around: Around) -> None:
        self.inner = inner
        self.etags = inner.etags
        self._around = around

    async def _do[T](
        self, name: str, table: str, call: Callable[[str], Awaitable[T]], arguments: tuple[Any, ...] = ()
    ) -> T:
        """``call`` with the table's name, which is the inner driver's operation."""
        return await self._around(Operation("tables", name, table, arguments), partial(call, table))

    async def create_table(self, table: str) -> None:
        await self._do("create_table", table, self.inner.create_table)

    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        name = type(operation).__name__.lower()
        return await self._do(
            name, table, lambda stored: self.inner.write(stored, pk, operation), (pk, operation)
        )

    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        return await self._do(
            "batch", table, lambda stored: self.inner.batch(stored, pk, operations), (pk, operations)
        )

    async def get(self, table: str, pk: str, rk: str) -> Entity:
        return await self._do("get", table, lambda stored: self.inner.get(stored, pk, rk), (pk, rk))

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        return await self._do("query", table, lambda stored: self.inner.query(stored, options), (options,))

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        doing = Operation("tables", "list_tables", prefix)
        return await self._around(doing, lambda: self.inner.list_tables(prefix, cursor))


class QueueLayer(QueueDriver):
    """A queue driver around another."""

    def __init__(self, inner: QueueDriver, around: Around) -> None:
        self.inner = inner
        self._around = around

    @property
    def message_encoding(self) -> MessageEncoding:
        return self.inner.message_encoding

    @message_encoding.setter
    def message_encoding(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, encoding: MessageEncoding
    ) -> None:
        self.inner.message_encoding = encoding

    def decode(self, text: str) -> bytes | None:
        return self.inner.decode(text)

    async def _do[T](
        self, name: str, queue: str, call: Callable[[str], Awaitable[T]], size: int | None = None
    ) -> T:
        """``call`` with the queue's name, which is the inner driver's operation."""
        return await self._around(Operation("queues", name, queue, (), size), partial(call, queue))

    async def create_queue(self, queue: str) -> None:
        await self._do("create_queue", queue, self.inner.create_queue)

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        return await self._do(
            "send", queue, lambda stored: self.inner.send(stored, text, delay, ttl), len(text)
        )

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        return await self._do("receive", queue, lambda stored: self.inner.receive(stored, count, visibility))

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        await self._do("delete", queue, lambda stored: self.inner.delete(stored, message_id, pop_receipt))

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        return await self._do(
            "update", queue, lambda stored: self.inner.update(stored, message, visibility, text)
        )

    async def peek(self, queue: str, count: int) -> list[QueueMessage]:
        return await self._do("peek", queue, lambda stored: self.inner.peek(stored, count))

    async def length(self, queue: str) -> int:
        return await self._do("length", queue, self.inner.length)

    async def clear(self, queue: str) -> None:
        await self._do("clear", queue, self.inner.clear)

    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        doing = Operation("queues", "list_queues", prefix)
        return await self._around(doing, lambda: self.inner.list_queues(prefix, cursor))
