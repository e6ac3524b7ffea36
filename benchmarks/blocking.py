"""`SyncStorageManager` beside `StorageManager`: small loads and saves on files, one after another."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable

from storage_lib import StorageConfig, StorageManager, SyncStorageManager

DOCUMENT = {"name": "ceo", "notes": ["n" * 80] * 10}
COUNT = 1000
SAVES = 50


def measure(runs: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        config = StorageConfig(base_path=folder)
        loads, saves = [_seconds(config, COUNT, runs, "load"), _seconds(config, SAVES, runs, "save")]
    return [
        ("sync: a small load on files, time against an awaited one", f"{loads:.2f} x", "at most 2 x"),
        ("sync: a small save on files, time against an awaited one", f"{saves:.2f} x", ""),
    ]


def _seconds(config: StorageConfig, count: int, runs: int, doing: str) -> float:
    """The median of the ratios of neighbouring turns."""
    with SyncStorageManager(config) as storage:
        storage.save("small", DOCUMENT)

        def called() -> None:
            for _ in range(count):
                if doing == "load":
                    assert storage.load("small") == DOCUMENT
                else:
                    storage.save("small", DOCUMENT)

        async def awaited() -> float:
            async with StorageManager(config) as ours:
                await ours.load("small")

                async def turn() -> None:
                    for _ in range(count):
                        if doing == "load":
                            assert await ours.load("small") == DOCUMENT
                        else:
                            await ours.save("small", DOCUMENT)

                begun = time.perf_counter()
                await turn()
                return time.perf_counter() - begun

        def ratio() -> float:
            return _timed(called) / asyncio.run(awaited())

        called()
        return statistics.median(ratio() for _ in range(runs))


def _timed(call: Callable[[], None]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    for name, figure, aim in measure(9):
        print(f"{name:<84} {figure:>9}   {aim}")
