"""A hit of the caching layer: a load of JSON from memory, beside `cachetools` with the same decoding."""

from __future__ import annotations

import asyncio

import msgspec
from cachetools import TTLCache

from benchmarks.turns import Cost, Work, cpu_ratio, in_turn
from storage_lib import StorageManager, values
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.caching import CachingOptions
from storage_lib.layers.caching import CachingLayer

KEY = "configs/ceo.json"
DOCUMENT = {"name": "ceo", "history": [{"role": "user", "text": "why? " * 7, "n": n} for n in range(15)]}
COUNT = 5000


def measure(runs: int) -> list[tuple[str, str, str]]:
    return asyncio.run(_measure(runs))


async def _measure(runs: int) -> list[tuple[str, str, str]]:
    storage = StorageManager(backend=CachingLayer(MemoryBackend(), CachingOptions()))
    await storage.save(KEY, DOCUMENT)
    data = msgspec.json.encode(DOCUMENT)
    kept: TTLCache[str, bytes] = TTLCache(1000, 300)
    kept[KEY] = data

    async def ours() -> None:
        for _ in range(COUNT):
            await storage.load(KEY)

    async def checked() -> None:
        for _ in range(COUNT):
            values.decode(kept[KEY], values.JSON)

    async def bare() -> None:
        for _ in range(COUNT):
            msgspec.json.decode(kept[KEY])

    works: dict[str, Work] = {"ours": ours, "checked": checked, "bare": bare}
    costs = await in_turn(runs, works)

    def each(name: str) -> str:
        return f"{min(cost.cpu for cost in costs[name]) / COUNT * 1e6:.1f} us"

    def row(other: str, name: str, aim: str) -> tuple[str, str, str]:
        return name, f"{_ratio(costs, other):.2f} x", aim

    return [
        (f"load of {len(data)} bytes of JSON from memory", each("ours"), ""),
        row("checked", "the same / cachetools and the decoding of a load", "at most 1.5 x"),
        row("bare", "the same / cachetools and msgspec, which checks no depth", "at most 1.5 x"),
    ]


def _ratio(costs: dict[str, list[Cost]], other: str) -> float:
    return cpu_ratio(costs, "ours", other)
