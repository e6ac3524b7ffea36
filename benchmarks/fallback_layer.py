"""What the fallback layer adds to an operation on memory: while its journal is empty, and as a mirror."""

from __future__ import annotations

import asyncio
import statistics
from typing import Literal

from benchmarks.turns import Work, in_turn
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.fallback import FallbackOptions
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.ports.objects import ObjectStore

Rows = list[tuple[str, str, str]]
COUNT = 2000
KEY, DATA = "configs/ceo.json", b"x" * 1024


def measure(runs: int) -> Rows:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> Rows:
    stores = {
        "bare": MemoryBackend().objects,
        "fallback": _layer("fallback").objects,
        "mirror": _layer("mirror").objects,
    }
    works: dict[str, Work] = {}
    for name, store in stores.items():
        await store.put(KEY, DATA)
        works |= {f"{name} save": _saves(store), f"{name} load": _loads(store)}
    costs = await in_turn(runs, works)

    def added(name: str, operation: str) -> str:
        pairs = zip(costs[f"{name} {operation}"], costs[f"bare {operation}"], strict=True)
        return f"{statistics.median(a.cpu - b.cpu for a, b in pairs) / COUNT * 1e6:.1f} µs"

    return [
        ("fallback: processor time of a load of 1 KiB, more", added("fallback", "load"), ""),
        ("fallback: processor time of a save of 1 KiB, more", added("fallback", "save"), ""),
        ("mirror: processor time of a save of 1 KiB, more (five requests)", added("mirror", "save"), ""),
    ]


def _layer(mode: Literal["fallback", "mirror"]) -> FallbackLayer:
    options = FallbackOptions(secondary=StorageConfig(storage_type="memory"), mode=mode, writes="secondary")
    return FallbackLayer(MemoryBackend(), MemoryBackend(), options)


def _saves(store: ObjectStore) -> Work:
    async def work() -> None:
        for _ in range(COUNT):
            await store.put(KEY, DATA)

    return work


def _loads(store: ObjectStore) -> Work:
    async def work() -> None:
        for _ in range(COUNT):
            await store.get(KEY)

    return work
