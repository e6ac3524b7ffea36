"""``make bench``: every benchmark of this folder, one table. Ratios are taken in one run."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import (
    azure_small,
    blocking,
    cold_start,
    file_small,
    layers,
    listing,
    local_host,
    migration,
    streams,
    task_list,
    tasks,
)

Rows = list[tuple[str, str, str]]

PARTS: dict[str, Callable[[int], Rows]] = {
    "start": cold_start.measure,
    "host": local_host.measure,
    "tasks": tasks.measure,
    "tasklist": task_list.measure,
    "azure": azure_small.measure,
    "file": file_small.measure,
    "sync": blocking.measure,
    "list": listing.measure,
    "stream": streams.measure,
    "migration": migration.measure,
    "layers": layers.measure,
}
LIBRARIES = (
    "azure-functions",
    "azure-storage-blob",
    "aiohttp",
    "obstore",
    "msgspec",
    "pydantic",
    "py-key-value-aio",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="turns of each (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given again")
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()},", end=" ")
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, up to {arguments.runs} turns each,", end=" ")
    print(f"load of the machine before {os.getloadavg()[0]:.1f}")
    print(", ".join(f"{library} {version(library)}" for library in LIBRARIES))
    for part in arguments.only or PARTS:
        for name, figure, aim in PARTS[part](arguments.runs):
            print(f"{name:<84} {figure:>9}   {aim}", flush=True)
    time.sleep(0.1)  # bare obstore's threads may abort an interpreter that ends under them


main()
