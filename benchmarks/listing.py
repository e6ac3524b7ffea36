"""Listing 100,000 keys by prefix on the file backend, beside obstore's list of a folder of the same files.

A new store for each turn, so that nothing is remembered of the turn before. obstore gives size, time and ETag
with each name in whatever order the folder has; ours are in order, with and without those details. Memory is
measured in a process of its own: what it grows from listing a tenth to listing all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from obstore.store import LocalStore

from benchmarks.memory import peak_mib
from benchmarks.turns import in_turn, speed_ratio
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.file.format import Header, encode_header

FOLDERS = 100
KEYS = 100_000
PROJECT = Path(__file__).resolve().parent.parent


def measure(runs: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(max(3, runs // 2), folder))


async def _measure(runs: int, folder: str) -> list[tuple[str, str, str]]:
    await fill(folder)

    async def ours(details: bool) -> None:
        async with FileStorageBackend(folder) as backend:
            found = 0
            async for _ in backend.objects.iterate("agents/", details=details):
                found += 1
            assert found == KEYS

    async def obstore() -> None:
        found = 0
        async for chunk in LocalStore(f"{folder}/objects").list("agents", chunk_size=1000):
            found += len(chunk)
        assert found == KEYS

    costs = await in_turn(
        runs, {"names": lambda: ours(False), "details": lambda: ours(True), "obstore": obstore}
    )
    memory = [_growth(folder, kind) for kind in ("names", "details")]
    what = f"listing {KEYS:,} keys by prefix on files"
    return [
        (f"{what} / obstore's list", f"{speed_ratio(costs, 'names', 'obstore'):.2f} x", "at least 1 x"),
        ("the same with size, time and ETag", f"{speed_ratio(costs, 'details', 'obstore'):.2f} x", ""),
        ("growth of memory from 10,000 to 100,000 keys", f"{max(memory):.1f} MiB", "flat"),
    ]


async def fill(folder: str, folders: int = FOLDERS, keys: int = KEYS) -> None:
    """Files exactly as saves make them, which would take minutes, each waiting for the disk."""
    data = b"{}"
    sha256 = hashlib.sha256(data).hexdigest()

    def write() -> None:
        for n in range(folders):
            os.makedirs(f"{folder}/objects/agents/{n:03}")
        for n in range(keys):
            key = f"agents/{n % folders:03}/{n // folders:05}"
            header = Header(key, "application/json", {}, sha256, f"{n:032x}", len(data))
            with open(f"{folder}/objects/{key}.obj", "xb") as file:
                file.write(encode_header(header) + data)

    async with FileStorageBackend(folder) as backend:
        await asyncio.to_thread(write)
        found = await backend.objects.get("agents/000/00000")
        assert found is not None
        assert found.data == data


def _growth(folder: str, kind: str) -> float:
    command = [sys.executable, "-m", "benchmarks.listing", folder, kind]
    run = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    return float(run.stdout)


async def _print_growth(folder: str, kind: str) -> None:
    async with FileStorageBackend(folder) as backend:
        peaks: list[float] = []
        for prefix in ("agents/00", "agents/"):
            async for _ in backend.objects.iterate(prefix, details=kind == "details"):
                pass
            peaks.append(peak_mib())
    print(peaks[1] - peaks[0])


if __name__ == "__main__":
    asyncio.run(_print_growth(*sys.argv[1:]))
