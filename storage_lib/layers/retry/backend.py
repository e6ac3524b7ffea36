"""`RetryBackend`: the retry layer around a backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.retry.objects import RetryingObjects
from storage_lib.layers.retry.options import RetryOptions
from storage_lib.layers.retry.retrier import Retrier, unknown
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.statistics import Statistic
from storage_lib.ports.table_model import Delete, Upsert


class RetryBackend(Layer):
    """Retries transient failures. It is the only place that retries, because the clients of services do
    not know what a second attempt means. Objects, tables and queues each have a circuit breaker.

    Entities and messages have no room for a mark that is invisible to readers. So an insert, or an
    update with an ETag, that meets a conflict after a lost response raises `TransientStorageError`, not
    a conflict. Messages are delivered at least once: a lost response may duplicate a sent message, and
    hide received ones until their visibility timeout is over.

    `open` is not retried: it asks whether the store is available now.

    :param clock: monotonic seconds; tests inject their own.
    :param sleep: waits that many seconds; tests inject their own.
    """

    portable = True

    def __init__(
        self,
        inner: StorageBackend,
        options: RetryOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._retriers = {
            port: Retrier(options or RetryOptions(), clock=clock, sleep=sleep)
            for port in ("objects", "tables", "queues")
        }
        super().__init__(inner)
        self.repeat = self._retriers["objects"].step

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return RetryingObjects(inner, self._retriers["objects"])

    def statistics(self) -> Iterator[Statistic]:
        for port, retrier in self._retriers.items():
            tags = (("port", port),)
            breaker = retrier.breaker
            yield Statistic(
                "agent_storage.retries", retrier.retries, "counter", tags, "{attempt}", "Repeated attempts"
            )
            yield Statistic(
                "agent_storage.breaker.open",
                int(breaker.is_open),
                "gauge",
                tags,
                description="1 while the store is left alone because it does not answer",
            )
            yield Statistic(
                "agent_storage.breaker.trips",
                breaker.trips,
                "counter",
                tags,
                description="How often the store began to be left alone",
            )

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        async def attempt(unsure: bool) -> T:
            try:
                return await call()
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if not unsure or not _may_be_ours(operation):
                    raise
                if not _is_plain_delete(operation):
                    raise unknown(operation) from error
                # It is gone, as intended. A message whose receipt is invalid is delivered again.
                return cast("T", None)

        return await self._retriers[operation.port].call(operation, attempt, small=True)


def _may_be_ours(operation: Operation) -> bool:
    """Whether an earlier attempt of the operation may have caused its conflict."""
    if operation.name == "batch":
        changes: list[Any] = operation.arguments[1]
        return not all(isinstance(change, Upsert) for change in changes)
    return operation.name in ("insert", "update", "delete")


def _is_plain_delete(operation: Operation) -> bool:
    if operation.port == "queues":
        return operation.name == "delete"
    change = operation.arguments[1]
    return isinstance(change, Delete) and change.etag is None
