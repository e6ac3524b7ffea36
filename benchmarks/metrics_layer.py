"""What the metrics layer adds to an operation, around a driver that does nothing."""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from benchmarks.turns import Work, in_turn
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.config.metrics import MetricsOptions
from storage_lib.layers.metrics import MetricsLayer
from storage_lib.metrics import Registry
from storage_lib.ports.backend import ObjectStore
from storage_lib.ports.drivers import ObjectDriver, PutOptions
from storage_lib.ports.object_model import PutResult

Rows = list[tuple[str, str, str]]
COUNT = 20_000


class _Nothing(MemoryObjects):
    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        return _RESULT


_RESULT = PutResult("k", "e", 1, True)


def measure(runs: int) -> Rows:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> Rows:
    bare = MemoryBackend()
    bare.objects = ObjectStore(_Nothing())
    layer = MetricsLayer(bare, MetricsOptions(), Registry())
    counter = Registry().counter("c").bound({"a": "b"})

    async def count() -> None:
        for _ in range(COUNT):
            counter.add()

    async def nothing() -> None:
        for _ in range(COUNT):
            pass

    works: dict[str, Work] = {
        "bare": _puts(bare.objects.driver),
        "metrics": _puts(layer.objects.driver),
        "count": count,
        "nothing": nothing,
    }
    costs = await in_turn(runs, works)

    def added(one: str, other: str) -> str:
        pairs = zip(costs[one], costs[other], strict=True)
        return f"{statistics.median(a.cpu - b.cpu for a, b in pairs) / COUNT * 1e6:.2f} µs"

    return [
        ("metrics: processor time of an operation, without an SDK", added("metrics", "bare"), "<= 2 µs"),
        ("metrics: a bound counter", added("count", "nothing"), "< 1 µs"),
    ]


def _puts(driver: ObjectDriver) -> Work:
    options: Any = PutOptions("text/plain", {})

    async def work() -> None:
        for _ in range(COUNT):
            await driver.put("k", b"1", options)

    return work
