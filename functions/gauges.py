"""Gauges of what is stored and what waits.

They are asked of the store, not counted by this process: `Gauges.refresh` asks again when metrics are
shown, but not more often than every few seconds, and does not wait long.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from storage_lib.errors import KeyNotFoundError, StorageError
from storage_lib.manager import StorageManager
from storage_lib.metrics import Registry

_log = logging.getLogger("AOS.Maintenance")

QUEUES_SECONDS = 15.0
SIZES_SECONDS = 300.0
"""How old what is shown may be."""
STALE_SECONDS = 660.0
"""When what nobody has asked for again is no longer shown. For an exporter the timer `watch_queues`
asks every 5 minutes; it runs on one instance, and later perhaps on another."""
ASK_SECONDS = 2.0
"""How long `Gauges.refresh` waits for the store, which may be what those who look want to know about."""


class Gauges:
    """The gauges of one storage.

    :param lengths: tells the number of messages in each queue of tasks.
    :param clock: monotonic seconds; tests inject their own.
    """

    def __init__(
        self,
        storage: StorageManager,
        lengths: Callable[[], Awaitable[dict[str, int]]],
        registry: Registry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._lengths = lengths
        self._clock = clock
        self._asked: dict[str, float] = {}
        self._stale: dict[str, asyncio.TimerHandle] = {}
        self._length = registry.gauge(
            "agent_task.queue.length", unit="{message}", description="Messages in a queue of tasks"
        )
        self._age = registry.gauge(
            "agent_task.queue.age", unit="s", description="Since when the next message is in a queue of tasks"
        )
        self._objects = registry.gauge(
            "agent_storage.prefix.objects", unit="{object}", description="Objects below a first-level prefix"
        )
        self._bytes = registry.gauge(
            "agent_storage.prefix.bytes", unit="By", description="Bytes below a first-level prefix"
        )
        self._growth = registry.gauge(
            "agent_storage.prefix.growth", unit="By", description="Bytes that a prefix grew by in a day"
        )
        self._measured = registry.gauge(
            "agent_storage.prefix.time", unit="s", description="When prefixes were measured, as a Unix time"
        )

    async def refresh(self) -> None:
        """Ask for what is too old. What the store does not tell is no longer shown, and the log says why."""
        await asyncio.gather(
            self._ask("queues", QUEUES_SECONDS, self._ask_queues),
            self._ask("sizes", SIZES_SECONDS, self._ask_sizes),
        )

    async def _ask(self, what: str, seconds: float, ask: Callable[[], Awaitable[None]]) -> None:
        now = self._clock()
        if now - self._asked.get(what, float("-inf")) < seconds:
            return
        self._asked[what] = now
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await ask()
        except (StorageError, TimeoutError) as error:
            self._forget(what)
            _log.warning("metrics of %s are missing: %s", what, error or "the store did not answer in time")

        else:
            if what in self._stale:
                self._stale[what].cancel()
            self._stale[what] = asyncio.get_running_loop().call_later(
                STALE_SECONDS, self._forget, what, context=contextvars.Context()
            )

    def _forget(self, what: str) -> None:
        self._asked.pop(what, None)
        sizes = (self._objects, self._bytes, self._growth, self._measured)
        for gauge in (self._length, self._age) if what == "queues" else sizes:
            for tags in gauge.series():
                gauge.forget(dict(tags))

    async def _ask_queues(self) -> None:
        lengths = await self._lengths()
        for gauge in (self._length, self._age):
            for tags in gauge.series():
                if dict(tags)["queue"] not in lengths:  # It is no longer in use, and empty now.
                    gauge.forget(dict(tags))
        await asyncio.gather(*(self._tell(queue, length) for queue, length in lengths.items()))

    async def _tell(self, queue: str, length: int) -> None:
        try:
            next_one = await self._storage.backend.queues.peek(queue) if length else []
        except KeyNotFoundError:
            next_one = []
        age = (datetime.now(UTC) - next_one[0].inserted_at).total_seconds() if next_one else 0
        self._length.set(length, {"queue": queue})
        self._age.set(max(age, 0), {"queue": queue})

    async def _ask_sizes(self) -> None:
        from storage_lib.sizes import Sizes

        series = await Sizes(self._storage).read()
        newest = series.newest
        if newest is None:
            return
        self._measured.set(newest.at.timestamp())
        grown = series.growth()
        for gauge, values in (
            (self._objects, {prefix: count for prefix, (count, _) in newest.prefixes.items()}),
            (self._bytes, {prefix: size for prefix, (_, size) in newest.prefixes.items()}),
            (self._growth, grown),
        ):
            for tags in gauge.series():
                if dict(tags).get("prefix") not in values:
                    gauge.forget(dict(tags))
            for prefix, value in values.items():
                gauge.set(value, {"prefix": prefix})
