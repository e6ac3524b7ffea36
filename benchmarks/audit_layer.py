"""What the audit layer adds to an operation, by sink."""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
from pathlib import Path

from benchmarks.turns import Work, in_turn
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.audit import AuditOptions
from storage_lib.layers.audit import AuditLayer
from storage_lib.ports.backend import StorageBackend

Rows = list[tuple[str, str, str]]
COUNT = 2000
KEY = "k" * 32
AIMS = {"log": "<= 10 µs", "file": "<= 30 µs", "table": ""}


def measure(runs: int) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(runs, Path(folder)))


async def _measure(runs: int, folder: Path) -> Rows:
    logger = logging.getLogger("AOS.Audit")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    layers = {
        sink: AuditLayer(MemoryBackend(), AuditOptions(sink=sink, path=str(folder), key=KEY))
        for sink in ("log", "file", "table")
    }
    try:
        costs = await in_turn(
            runs, {"bare": _puts(MemoryBackend())} | {name: _puts(layers[name]) for name in layers}
        )
    finally:
        for layer in layers.values():
            await layer.close()
    rows: Rows = []
    for sink, aim in AIMS.items():
        added = statistics.median(
            one.cpu - bare.cpu for one, bare in zip(costs[sink], costs["bare"], strict=True)
        )
        rows.append((f"audit: processor time of an entry, sink {sink}", f"{added / COUNT * 1e6:.1f} µs", aim))
    return rows


def _puts(backend: StorageBackend) -> Work:
    async def work() -> None:
        for n in range(COUNT):
            await backend.objects.put(f"configs/{n % 100}.json", b"{}")

    return work
