"""A 1 GiB stream to and from Azurite, beside bare obstore: time, and the peak memory of the whole process.

Each stream is a process of its own, ours and obstore's in turn; both send parts of one size, as many at a
time, from the same source, and both have moved a smaller stream before. Azurite, not the client, is what
limits the speed. Ours also takes and verifies a SHA-256 of everything, obstore does not.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.bare import CONTAINER, bare_store
from benchmarks.memory import peak_mib
from devhost.azurite import Azurite
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.azure.objects import AzureObjects
from storage_lib.backends.cloud.objects import PARTS_AT_ONCE

SIZE = 1024 * 1024 * 1024
WARM_UP = 32 * 1024 * 1024
CHUNK = 1024 * 1024
PROJECT = Path(__file__).resolve().parent.parent
UPLOADS = 3
DOWNLOADS = 4


def measure(runs: int) -> list[tuple[str, str, str]]:
    return asyncio.run(_measure())


async def _measure() -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(Path(folder)) as server:
            async with AzureStorageBackend(server.connection_string, container=CONTAINER):
                pass
            for way, turns, words in (("up", UPLOADS, "to"), ("down", DOWNLOADS, "from")):
                seconds: dict[str, list[float]] = {"ours": [], "obstore": []}
                peak = 0.0
                for turn in range(turns):
                    for who in ("obstore", "ours") if turn % 2 == 0 else ("ours", "obstore"):
                        took, held = await asyncio.to_thread(_run, server, who, way)
                        seconds[who].append(took)
                        if who == "ours":
                            peak = max(peak, held)
                ratio = min(seconds["obstore"]) / min(seconds["ours"])
                rows.append(
                    (
                        f"speed of a 1 GiB stream {words} Azurite / bare obstore",
                        f"{ratio:.2f} x",
                        "at least 0.9 x",
                    )
                )
                rows.append(
                    (f"peak memory of a 1 GiB stream {words} Azurite", f"{peak:.0f} MiB", "under 150 MB")
                )
    return rows


def _run(server: Azurite, who: str, way: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.streams", who, way, server.url(server.blob_port)]
    run = subprocess.run(
        [*command, server.connection_string], cwd=PROJECT, check=True, capture_output=True, text=True
    )
    seconds, peak = run.stdout.split()
    return float(seconds), float(peak)


async def _source(size: int) -> AsyncIterator[bytes]:
    body = os.urandom(CHUNK)
    for n in range(size // CHUNK):
        yield n.to_bytes(8) + body[8:]


async def _ours(connection_string: str, way: str) -> float:
    async with AzureStorageBackend(connection_string, container=CONTAINER) as backend:
        started = 0.0
        for key, size in (("ours-small", WARM_UP), ("ours", SIZE)):
            started = time.perf_counter()
            if way == "up":
                await backend.objects.put_stream(key, _source(size))
            else:
                received = 0
                async with backend.objects.open_reader(key) as reader:
                    async for chunk in reader:
                        received += len(chunk)
                assert received == size
        return time.perf_counter() - started


async def _obstore(endpoint: str, way: str) -> float:
    store = bare_store(endpoint)
    started = 0.0
    for key, size in (("ours-small", WARM_UP), ("ours", SIZE)):
        started = time.perf_counter()
        if way == "up":
            await store.put_async(
                key.replace("ours", "obstore"),
                _source(size),
                use_multipart=True,
                chunk_size=AzureObjects.capabilities.part_bytes,
                max_concurrency=PARTS_AT_ONCE,
            )
        else:
            received = 0
            async for chunk in (await store.get_async(key)).stream():
                received += len(chunk)
            assert received == size
    return time.perf_counter() - started


def _print(who: str, way: str, endpoint: str, connection_string: str) -> None:
    seconds = asyncio.run(_ours(connection_string, way) if who == "ours" else _obstore(endpoint, way))
    print(seconds, peak_mib())
    time.sleep(0.1)  # bare obstore's threads may abort an interpreter that ends under them


if __name__ == "__main__":
    _print(*sys.argv[1:])
