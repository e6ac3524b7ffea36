"""One migration from a data folder to a container, in a process of its own: what `migration` measures."""

from __future__ import annotations

import asyncio
import gc
import json
import sys

from benchmarks.memory import peak_mib
from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions


async def run(data: str, container: str, prefix: str, connection_string: str) -> dict[str, object]:
    target = StorageConfig(storage_type="azure", connection_string=connection_string, container=container)
    async with StorageManager(StorageConfig(base_path=data)) as one, StorageManager(target) as two:
        report = await Migration(one, two, MigrationOptions(prefix=prefix)).run()
    return {"copied": report.copied, "skipped": report.skipped, "ok": report.ok, "peak": peak_mib()}


if __name__ == "__main__":
    gc.set_threshold(20_000, 20, 20)  # as the command line does
    print(json.dumps(asyncio.run(run(*sys.argv[1:]))))
