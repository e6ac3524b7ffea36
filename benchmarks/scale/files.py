"""What grows on files: a busy folder, the database of tables and queues, and the import of the app."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks import cold_start, listing
from benchmarks.scale.folders import folder
from benchmarks.scale.rows import Row
from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.file import FileStorageBackend
from storage_lib.ports.tables import Delete, Insert

PAGE = 1_000
ROWS = 20_000
BATCH = 100
IDLE_SECONDS = 60.0
IMPORTS = 7


def busy_folder(size: float) -> list[Row]:
    """All pages of one folder, quiet, and with a save between any two."""
    with folder() as path:
        return asyncio.run(_busy_folder(path, int(100_000 * size)))


def start(size: float) -> list[Row]:
    """The import of the app, with byte code as the package ships it."""
    ((what, figure, _),) = cold_start.measure(IMPORTS)
    return [Row(what, float(figure.split()[0]), " x", most=1.2)]


def database(size: float) -> list[Row]:
    """The size of the database once what was in it is gone and nobody asks for anything."""
    with folder() as path:
        return asyncio.run(_database(path, int(ROWS * size) // BATCH * BATCH))


async def _busy_folder(path: str, count: int) -> list[Row]:
    await listing.fill(path, folders=1, keys=count)
    async with FileStorageBackend(path) as backend:

        async def pages(busy: bool) -> float:
            began, found, cursor, n = time.process_time(), 0, None, 0
            while True:
                page = await backend.objects.list_page("agents/000/", limit=PAGE, cursor=cursor)
                found += len(page.entries)
                if (cursor := page.cursor) is None:
                    break
                if busy:
                    n += 1
                    await backend.objects.put(f"agents/000/00000-{n:03}", b"{}")
            assert found >= count, found
            return time.process_time() - began

        quiet, busy = await pages(False), await pages(True)
    what = f"paged listing of a folder of {count:,} files"
    return [
        Row(f"{what}, quiet: CPU", quiet, " s"),
        Row(f"{what}, one save a page: CPU", busy, " s", most=1.5),
    ]


async def _database(path: str, count: int) -> list[Row]:
    async with StorageManager(StorageConfig(base_path=path)) as storage:
        tables, text = storage.backend.tables, "x" * 1_000
        names = [[f"{n + k:06}" for k in range(BATCH)] for n in range(0, count, BATCH)]
        for some in names:
            await tables.batch("scale", "p", [Insert(each, {"text": text}) for each in some])
        full = _bytes(path)
        for some in names:
            await tables.batch("scale", "p", [Delete(each) for each in some])
        began = time.monotonic()
        while (left := _bytes(path)) > full / 10 and time.monotonic() - began < IDLE_SECONDS:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.2)
    return [
        Row(f"SQLite file, {count:,} entities deleted and idle: bytes left", left / full, " x", most=0.1),
        Row("  seconds until then", time.monotonic() - began, " s"),
    ]


def _bytes(path: str) -> int:
    return sum(os.stat(each).st_size for each in Path(path).rglob("*") if each.is_file())
