"""``make bench``: every benchmark of this folder, one table. Ratios are taken in one run."""

from __future__ import annotations

import argparse
import os
import platform
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

PARTS = {
    "start": "cold_start",
    "host": "local_host",
    "handlers": "handlers",
    "tasks": "tasks",
    "tasklist": "task_list",
    "azure": "azure_small",
    "file": "file_small",
    "sync": "blocking",
    "list": "listing",
    "stream": "streams",
    "migration": "migration",
    "layers": "layers",
    "integrations": "integrations",
    "scale": "scale",
}
"""Its module, imported when it is measured: not every part needs all libraries."""
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
    parser.add_argument(
        "--size", type=float, default=1, help="of the stores that scale builds (default: %(default)s)"
    )
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()},", end=" ")
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, up to {arguments.runs} turns each,", end=" ")
    print(f"load of the machine before {os.getloadavg()[0]:.1f}")
    print(", ".join(f"{library} {found}" for library in LIBRARIES if (found := _version(library))))
    for part in arguments.only or PARTS:
        measure = import_module(f"benchmarks.{PARTS[part]}").measure
        size = {"size": arguments.size} if part == "scale" else {}
        for name, figure, aim in measure(arguments.runs, **size):
            print(f"{name:<84} {figure:>9}   {aim}", flush=True)
    time.sleep(0.1)  # bare obstore's threads may abort an interpreter that ends under them


def _version(library: str) -> str:
    with suppress(PackageNotFoundError):
        return version(library)
    return ""


if __name__ == "__main__":  # and not in a process that one of them starts
    main()
