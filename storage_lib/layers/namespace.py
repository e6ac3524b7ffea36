"""The tables and queues of one namespace of a store; objects are let through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

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
from storage_lib.ports.drivers import NamePage, ObjectDriver, QueueDriver, TableDriver


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

    async def _do[T](
        self, name: str, table: str, call: Callable[[str], Awaitable[T]], arguments: tuple[Any, ...] = ()
    ) -> T:
        with _stored_as(table_in(self._namespace, table), table) as stored:
            return await call(stored)

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        page = await self.inner.list_tables(before_tables(self._namespace) + prefix, cursor)
        return NamePage(tables_of(self._namespace, page.names), page.cursor)


class _Queues(QueueLayer):
    def __init__(self, inner: QueueDriver, around: Around, namespace: str) -> None:
        super().__init__(inner, around)
        self._namespace = namespace

    async def _do[T](
        self, name: str, queue: str, call: Callable[[str], Awaitable[T]], size: int | None = None
    ) -> T:
        with _stored_as(queue_in(self._namespace, queue), queue) as stored:
            return await call(stored)

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
