"""py-key-value: our store beside its FileTreeStore, its DiskStore and its AzureTablesStore.

FileTreeStore syncs each file. DiskStore is SQLite, here with ``synchronous=FULL``; as it is by itself, the
last values are lost in a crash of the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from diskcache import Cache
from key_value.aio.stores.azure_tables import AzureTablesStore
from key_value.aio.stores.disk import DiskStore
from key_value.aio.stores.filetree import (
    FileTreeStore,
    FileTreeV1CollectionSanitizationStrategy,
    FileTreeV1KeySanitizationStrategy,
)

from benchmarks.integrations import Disk, ratio
from devhost.azurite import Azurite, ensure_installed
from integrations.key_value import KeyValueStore
from storage_lib import StorageConfig, StorageManager

TOGETHER = (16, 64)
CLOUD_CALLS = 100
VALUE = {"user": "ann@example.com", "scopes": ["read", "write"], "token": "t" * 200, "deep": {"count": 17}}


def measure(runs: int) -> list[tuple[str, str, str]]:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore", UserWarning)  # The package calls its stores unstable.
        return asyncio.run(_measure(runs, Path(folder)))


async def _measure(runs: int, folder: Path) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    names = itertools.count()
    async with StorageManager(StorageConfig(storage_type="file", base_path=folder / "ours")) as storage:
        ours = KeyValueStore(storage)
        tree = folder / "tree"
        others: dict[str, Any] = {
            "FileTreeStore": FileTreeStore(
                data_directory=tree,
                key_sanitization_strategy=FileTreeV1KeySanitizationStrategy(directory=folder),
                collection_sanitization_strategy=FileTreeV1CollectionSanitizationStrategy(directory=folder),
            ),
            "DiskStore, durable": DiskStore(disk_cache=Cache(str(folder / "disk"), sqlite_synchronous=2)),
        }

        def put(store: Any) -> Callable[[], Awaitable[object]]:
            return lambda: store.put(f"k{next(names)}", VALUE, collection="c")

        def put_together(count: int) -> Callable[[Any], Callable[[], Awaitable[object]]]:
            return lambda store: lambda: asyncio.gather(*(put(store)() for _ in range(count)))

        def get(store: Any) -> Callable[[], Awaitable[object]]:
            return lambda: store.get("one", collection="c")

        for store in (ours, *others.values()):
            await store.put("one", VALUE, collection="c")
        for name, other in others.items():
            for what, call, turns in (
                ("put", put, 40 * runs),
                *((f"{count} puts at a time", put_together(count), 4 * runs) for count in TOGETHER),
                ("get", get, 100 * runs),
            ):
                found = await ratio(turns, call(ours), call(other))
                row = f"AsyncKeyValue, files: {what}, as fast as {name}"
                rows.append((row, f"{found:.2f} x", "at least 3 x"))
        durable, disk = others["DiskStore, durable"], Disk(folder / "bare")
        for what, call in (("commit of SQLite", disk.commit), ("file, synced and renamed", disk.file)):
            found = await ratio(40 * runs, call, put(durable))
            rows.append(
                (f"the disk alone: a {what}, as fast as DiskStore's put", f"{found:.2f} x", "a limit")
            )
        disk.close()
        await durable.close()
    ensure_installed(Path(__file__).parent.parent)
    async with Azurite(folder / "azurite") as server:
        rows += await _cloud(runs, server.connection_string)
    return rows


async def _cloud(runs: int, connection_string: str) -> list[tuple[str, str, str]]:
    """The CPU time of this process; the emulator is another one."""
    config = StorageConfig(storage_type="azure", connection_string=connection_string, container="ours")
    theirs = AzureTablesStore(connection_string=connection_string, table_name="theirs")
    seconds: tuple[list[float], list[float]] = ([], [])
    async with StorageManager(config) as storage, theirs:
        stores = (KeyValueStore(storage), theirs)
        for run in range(runs + 1):
            for store, found in zip(stores, seconds, strict=True):
                started = time.process_time()
                for index in range(CLOUD_CALLS):
                    await store.put(f"k{index}", VALUE, collection="c")
                    await store.get(f"k{index}", collection="c")
                if run:
                    found.append(time.process_time() - started)
    share = min(seconds[0]) / min(seconds[1])
    row = "AsyncKeyValue, Azure: CPU time of put and get, of AzureTablesStore's"
    return [(row, f"{share:.2f} x", "at most 0.5 x")]
