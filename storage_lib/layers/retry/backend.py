"""`RetryBackend`: the retry layer around a backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from storage_lib.layers.retry.objects import RetryingObjectStore
from storage_lib.layers.retry.options import RetryOptions
from storage_lib.layers.retry.queues import RetryingQueueStore
from storage_lib.layers.retry.retrier import Retrier
from storage_lib.layers.retry.tables import RetryingTableStore
from storage_lib.ports.backend import ObjectStore, StorageBackend


class RetryBackend(StorageBackend):
    """Tries again what another backend could not do at the moment: the only owner of retries, for clients of
    services do not know what a second try means. Objects, tables and queues have a circuit breaker each.

    `open` is not tried again: it asks whether the store is there now.

    :param clock: seconds that only go forward; ``sleep`` waits so many of them. Tests inject their own.
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
        self.inner = inner

        def retrier() -> Retrier:
            return Retrier(options or RetryOptions(), clock=clock, sleep=sleep)

        self._objects_retrier = retrier()
        self.objects = RetryingObjectStore(inner.objects, self._objects_retrier)
        self.tables = RetryingTableStore(inner.tables, retrier())
        self.queues = RetryingQueueStore(inner.queues, retrier())

    def __repr__(self) -> str:
        return f"RetryBackend({self.inner!r})"

    def also(self, objects: ObjectStore) -> ObjectStore:
        return RetryingObjectStore(self.inner.also(objects), self._objects_retrier)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()
