"""The adapters beside what their frameworks bring: each ratio of one run, with the same promise on both
sides, that what was written survives a crash of the machine.

A framework's rows are a function in a module of this folder; one that is not installed is left out.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

FRAMEWORKS = {
    "langgraph": "benchmarks.integrations_langgraph",
    "key_value": "benchmarks.integrations_key_value",
    "storage_lib": "benchmarks.integrations_conversations",
}
"""The package that must be there, and the module that measures."""


def measure(runs: int) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for package, module in FRAMEWORKS.items():
        try:
            import_module(package)
        except ImportError:
            continue
        rows += import_module(module).measure(runs)
    return rows


class Disk:
    """What the disk takes, without any library: nothing that promises as much can be faster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
        self._names = itertools.count()

    async def commit(self) -> None:
        """A row of 1 KiB, committed by itself."""
        self._connection.execute("INSERT INTO t (v) VALUES (?)", (bytes(1024),))

    async def file(self) -> None:
        """A file of 1 KiB that is whole or not there: written, synced, renamed, and its folder synced."""
        path = self._folder / f"{next(self._names)}"
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(bytes(1024))
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def close(self) -> None:
        self._connection.close()


async def ratio(
    turns: int, ours: Callable[[], Awaitable[object]], theirs: Callable[[], Awaitable[object]]
) -> float:
    """How many times as long theirs takes: of each the median of many short turns, taken by turns, for what a
    disk takes for a commit changes within seconds."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for call, found in zip((ours, theirs), seconds, strict=True):
            started = time.perf_counter()
            await call()
            found.append(time.perf_counter() - started)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])
