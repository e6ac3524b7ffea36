"""Small saves and loads on the file backend: operations a second, beside bare system calls and other stores.

All of them move the same JSON document, so many at a time. A save of ours and of FileTreeStore is on the disk
when it returns, as is the bare one; obstore's LocalStore and FileTreeStore check nothing when they load, ours
verifies its checksum.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from key_value.aio.stores.filetree import FileTreeStore
from obstore.store import LocalStore

from benchmarks.turns import Cost, in_turn, side_by_side, speed_ratio
from storage_lib import StorageConfig, StorageManager

DOCUMENT = {"name": "ceo", "notes": ["n" * 80] * 10}
COUNT = 256
CONCURRENCY = 32
THREADS = 16


def measure(runs: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(runs, folder))


async def _measure(runs: int, folder: str) -> list[tuple[str, str, str]]:
    for name in ("bare", "tree", "local"):
        os.mkdir(f"{folder}/{name}")
    store = LocalStore(f"{folder}/local")
    tree = FileTreeStore(data_directory=f"{folder}/tree")
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as threads:
        async with StorageManager(StorageConfig(base_path=f"{folder}/ours")) as ours:

            async def save(n: int) -> None:
                await ours.save(f"small-{n}", DOCUMENT)

            async def load(n: int) -> None:
                assert await ours.load(f"small-{n}") == DOCUMENT

            async def bare_save(n: int) -> None:
                data = msgspec.json.encode(DOCUMENT)
                await loop.run_in_executor(threads, _save, f"{folder}/bare/small-{n}", data, None)

            async def synced_save(n: int) -> None:
                data = msgspec.json.encode(DOCUMENT)
                await loop.run_in_executor(threads, _save, f"{folder}/bare/small-{n}", data, f"{folder}/bare")

            async def local_load(n: int) -> None:
                found = await store.get_async(f"small-{n}")
                assert msgspec.json.decode(bytes(await found.bytes_async())) == DOCUMENT

            async def tree_save(n: int) -> None:
                await tree.put(f"small-{n}", DOCUMENT)

            async def tree_load(n: int) -> None:
                assert await tree.get(f"small-{n}") == DOCUMENT

            for n in range(COUNT):
                store.put(f"small-{n}", msgspec.json.encode(DOCUMENT))
            saves = await _turns(
                runs, {"ours": save, "bare": bare_save, "synced": synced_save, "tree": tree_save}
            )
            loads = await _turns(runs, {"ours": load, "local": local_load, "tree": tree_load})

    def row(costs: dict[str, list[Cost]], other: str, name: str, aim: str) -> tuple[str, str, str]:
        return name, f"{speed_ratio(costs, 'ours', other):.2f} x", aim

    def rate(costs: dict[str, list[Cost]]) -> str:
        return f"{COUNT / statistics.median(cost.wall for cost in costs['ours']):.0f} /s"

    bare = "bare open/write/fsync/replace in a thread"
    return [
        (f"durable saves on files, 1 KiB, {CONCURRENCY} at a time", rate(saves), ""),
        (f"loads on files, 1 KiB, {CONCURRENCY} at a time", rate(loads), ""),
        row(saves, "bare", f"saves a second on files / {bare}", "at least 0.8 x"),
        row(saves, "synced", f"the same / {bare}, directory synced too, as ours", ""),
        row(loads, "local", "loads a second on files / obstore LocalStore's async get", "at least 2 x"),
        row(saves, "tree", "saves a second on files / py-key-value FileTreeStore", "at least 5 x"),
        row(loads, "tree", "loads a second on files / py-key-value FileTreeStore", "at least 5 x"),
    ]


async def _turns(runs: int, works: dict[str, Callable[[int], Awaitable[None]]]) -> dict[str, list[Cost]]:
    return await in_turn(
        runs,
        {name: lambda work=work: side_by_side(COUNT, CONCURRENCY, work) for name, work in works.items()},
    )


def _save(path: str, data: bytes, directory: str | None) -> None:
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    if directory is not None:
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
