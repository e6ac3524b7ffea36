"""Conversations: what the 5,000th append costs beside the first ones, in requests and in the client's own
time, and beside saving the whole conversation as one document each time."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

from storage_lib import MemoryBackend, StorageConfig, StorageManager, TableStore
from storage_lib.conversations import Conversations
from storage_lib.layers.base import Operation, TableLayer

APPENDS = 5000
_SHOWN = 200
MESSAGE = {"role": "user", "content": "What does the report say of the second quarter? " * 4}


def measure(runs: int) -> list[tuple[str, str, str]]:
    requests, first, last = asyncio.run(_appends())
    with tempfile.TemporaryDirectory() as folder:
        whole = asyncio.run(_beside_documents(folder, 10 * runs))
    return [
        ("conversation append, requests of the 5,000th", f"{requests}", "1"),
        (
            "conversation append, 5,000th / first (memory: client's own time)",
            f"{last / first:.2f} x",
            "<= 1.2 x",
        ),
        (
            "conversation of 5,000: one more turn, document saved anew / append (files)",
            f"{whole:.1f} x",
            ">= 1 x",
        ),
    ]


async def _appends() -> tuple[int, float, float]:
    """Requests of the last append, and the seconds of the first ones and of the last ones."""
    calls = 0

    async def counted(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal calls
        calls += 1
        return await call()

    backend = MemoryBackend()
    backend.tables = TableStore(TableLayer(backend.tables.driver, counted))  # type: ignore[arg-type]
    log = Conversations(StorageManager(backend=backend))
    await log.append("c", [])
    taken: list[float] = []
    for _ in range(APPENDS):
        calls, started = 0, time.perf_counter()
        await log.append("c", [MESSAGE])
        taken.append(time.perf_counter() - started)
    # The very first ones warm the interpreter up.
    return calls, statistics.median(taken[_SHOWN : 2 * _SHOWN]), statistics.median(taken[-_SHOWN:])


async def _beside_documents(folder: str, turns: int) -> float:
    async with StorageManager(StorageConfig(base_path=folder)) as storage:
        log = Conversations(storage)
        await log.append("c", [MESSAGE] * APPENDS)
        document: dict[str, Any] = {"messages": [MESSAGE] * APPENDS}
        await storage.save("conversations/c", document)

        async def saved() -> None:
            def more(value: dict[str, Any]) -> dict[str, Any]:
                value["messages"].append(MESSAGE)
                return value

            await storage.update("conversations/c", more)

        from benchmarks.integrations import ratio

        return await ratio(turns, lambda: log.append("c", [MESSAGE]), saved)
