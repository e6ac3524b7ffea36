"""The tables and queues of one namespace of a store; objects are let through."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager

from storage_lib.errors import StorageError
from storage_lib.layers.base import Around, Layer, QueueLayer, TableLayer
from storage_lib.namespaces import (
    before_queues,
    before_tables,
    check_namespace,
    queue_in,
    queues_of,
    table_in,
    tables_of,
)
from storage_lib.ports.backend import QueueStore, StorageBackend, TableStore
from storage_lib.ports.drivers import NamePage, ObjectDriver, QueryOptions, QueueDriver, TableDriver
from storage_lib.ports.queue_model import QueueMessage
from storage_lib.ports.table_model import Entity, EntityPage, TableOperation


class NamespaceLayer(Layer):
    """Calls tables and queues in the store as namespaces.py says. It is the innermost layer: the others, and
    errors, have the names of the app.

    :param namespace: not empty.
    """

    portable = True

    def __init__(self, inner: StorageBackend, namespace: str) -> None:
        super().__init__(inner)
        self.namespace = check_namespace(namespace)
        self.objects = inner.objects
        self.tables = TableStore(_Tables(inner.tables.driver, self.around, namespace))
        self.queues = QueueStore(_Queues(inner.queues.driver, self.around, namespace))

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return inner

    def place(self, port: str) -> str:
        place = self.inner.place(port)
        return place if port == "objects" else f"{place}, namespace {self.namespace}"


class _Tables(TableLayer):
    def __init__(self, inner: TableDriver, around: Around, namespace: str) -> None:
        super().__init__(inner, around)
        self._namespace = namespace

    def _in(self, table: str) -> AbstractContextManager[str]:
        return _stored_as(table_in(self._namespace, table), table)

    async def create_table(self, table: str) -> None:
        with self._in(table) as stored:
            await self.inner.create_table(stored)

    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        with self._in(table) as stored:
            return await self.inner.write(stored, pk, operation)

    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        with self._in(table) as stored:
            return await self.inner.batch(stored, pk, operations)

    async def get(self, table: str, pk: str, rk: str) -> Entity:
        with self._in(table) as stored:
            return await self.inner.get(stored, pk, rk)

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        with self._in(table) as stored:
            return await self.inner.query(stored, options)

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        page = await self.inner.list_tables(before_tables(self._namespace) + prefix, cursor)
        return NamePage(tables_of(self._namespace, page.names), page.cursor)


class _Queues(QueueLayer):
    def __init__(self, inner: QueueDriver, around: Around, namespace: str) -> None:
        super().__init__(inner, around)
        self._namespace = namespace

    def _in(self, queue: str) -> AbstractContextManager[str]:
        return _stored_as(queue_in(self._namespace, queue), queue)

    async def create_queue(self, queue: str) -> None:
        with self._in(queue) as stored:
            await self.inner.create_queue(stored)

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        with self._in(queue) as stored:
            return await self.inner.send(stored, text, delay, ttl)

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        with self._in(queue) as stored:
            return await self.inner.receive(stored, count, visibility)

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        with self._in(queue) as stored:
            await self.inner.delete(stored, message_id, pop_receipt)

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        with self._in(queue) as stored:
            return await self.inner.update(stored, message, visibility, text)

    async def peek(self, queue: str, count: int) -> list[QueueMessage]:
        with self._in(queue) as stored:
            return await self.inner.peek(stored, count)

    async def length(self, queue: str) -> int:
        with self._in(queue) as stored:
            return await self.inner.length(stored)

    async def clear(self, queue: str) -> None:
        with self._in(queue) as stored:
            await self.inner.clear(stored)

    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        page = await self.inner.list_queues(before_queues(self._namespace) + prefix, cursor)
        return NamePage(queues_of(self._namespace, page.names), page.cursor)


@contextmanager
def _stored_as(stored: str, name: str) -> Generator[str]:
    """The name in the store; errors have the other one."""
    try:
        yield stored
    except StorageError as error:
        for each in (stored, stored.lower()):  # A table's, on files.
            error.message = error.message.replace(repr(each), repr(name))
        error.args = (error.message,)
        raise
