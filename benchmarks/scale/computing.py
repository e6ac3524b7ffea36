"""Processor time of what is done most, on files, also as a multiple of fixed work in the same run: so that a
tree can be compared with the one before it, on whatever machine."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable

from benchmarks.scale.folders import folder
from benchmarks.scale.rows import Row
from benchmarks.scale.tasks import served
from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine

TASKS = 20
PAGE = 100
LOADS = 50
TURNS = 40
_DOCUMENT = {"list": list(range(100)), "map": {str(n): n for n in range(100)}}


def computing(size: float) -> list[Row]:
    """A task that does nothing, a page of a list of tasks, and a load."""
    with folder() as path:
        return asyncio.run(_computing(path))


async def _computing(path: str) -> list[Row]:
    async with StorageManager(StorageConfig(base_path=path)) as storage:
        engine = TaskEngine(storage, events=False, remembered=TASKS)

        async def tasks() -> None:
            for n in range(TASKS):
                await engine.submit("scale_no_op", "a", n)
            await served([engine], TASKS)

        async def page() -> None:
            await engine.list(limit=PAGE)

        async def loads() -> None:
            for _ in range(LOADS):
                await storage.load("one")

        async def reference() -> None:
            for _ in range(100):
                json.loads(json.dumps(_DOCUMENT))

        while len((await engine.list(limit=PAGE)).records) < PAGE:
            await tasks()
        await storage.save("one", {"name": "ceo", "notes": ["n" * 80] * 10})
        works = {
            "reference": (reference, 100),
            "task": (tasks, TASKS),
            "page": (page, 1),
            "load": (loads, LOADS),
        }
        least = dict.fromkeys(works, math.inf)
        for _ in range(TURNS):
            for name, (work, count) in works.items():
                least[name] = min(least[name], await _cpu(work) / count)
    reference_seconds = least.pop("reference")
    told = {
        "task": "a task that does nothing, one after the other, on files",
        "page": f"a page of {PAGE} records on files",
        "load": "storage.load of 1 KiB on files",
    }
    rows: list[Row] = []
    for name, seconds in least.items():
        rows.append(Row(f"{told[name]}: processor time", seconds * 1e6, " µs"))
        rows.append(Row("  / to JSON and back of 200 numbers", seconds / reference_seconds, " x"))
    return rows


async def _cpu(work: Callable[[], Awaitable[None]]) -> float:
    began = time.process_time()
    await work()
    return time.process_time() - began
