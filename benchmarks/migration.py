"""Migration from files to Azurite, beside rclone: 10,000 objects of 4 KiB, the same again with nothing
changed, and one of 2 GiB; time, processor time and peak memory of whole processes.

rclone copies a folder of plain files with the best of several ``--transfers``; ours copies the objects of a
data folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.memory import peak_mib
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions

COUNT = int(os.environ.get("MIGRATION_COUNT", "10000"))
SMALL = 4096
LARGE = int(os.environ.get("MIGRATION_LARGE_MIB", "2048")) * 1024 * 1024
TRANSFERS = (8, 16, 32)
PROJECT = Path(__file__).resolve().parent.parent


def measure(runs: int) -> list[tuple[str, str, str]]:
    return asyncio.run(_measure())


async def _measure() -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await asyncio.to_thread(_make_plain, folder)
        await _make_objects(folder)
        async with Azurite(folder / "azurite") as server:
            return await asyncio.to_thread(_compare, folder, server)


def _make_plain(folder: Path) -> None:
    for n in range(COUNT):
        path = folder / "plain" / "small" / f"{n % 100:02}" / f"{n:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL))
    large = folder / "plain-large" / "large.bin"
    large.parent.mkdir()
    with large.open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(os.urandom(1 << 20))


async def _make_objects(folder: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        with (folder / "plain-large" / "large.bin").open("rb") as file:
            while data := file.read(1 << 20):
                yield data

    async with StorageManager(StorageConfig(base_path=folder / "data")) as storage:
        keys = [f"small/{n % 100:02}/{n:05}" for n in range(COUNT)]
        for start in range(0, COUNT, 500):
            await asyncio.gather(
                *(
                    storage.write(key, (folder / "plain" / key).read_bytes())
                    for key in keys[start : start + 500]
                )
            )
        await storage.write_stream("large.bin", chunks())


def _compare(folder: Path, server: Azurite) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    best = min((_rclone(folder / "plain", f"rclone-{n}", n, server), n) for n in TRANSFERS)
    (theirs, their_cpu, _), transfers = best
    ours, cpu, _ = _ours(folder, "ours", "small/", server)
    rows.append(
        (
            f"{COUNT} objects of 4 KiB from files to Azurite / rclone",
            f"{theirs / ours:.2f} x",
            "at least 1.0 x",
        )
    )
    rows.append(("its processor time / rclone", f"{cpu / their_cpu:.2f} x", "below 1 x"))
    again_theirs, _, _ = _rclone(folder / "plain", f"rclone-{transfers}", transfers, server)
    again, _, _ = _ours(folder, "ours", "small/", server)
    rows.append(("the same again, nothing changed / the first run", f"{ours / again:.1f} x", "at least 3 x"))
    rows.append(
        ("the same again, nothing changed / rclone", f"{again_theirs / again:.2f} x", "at least 1.0 x")
    )
    large_theirs, _, _ = _rclone(folder / "plain-large", "rclone-large", 4, server)
    large, _, peak = _ours(folder, "ours-large", "large", server)
    rows.append(("an object of 2 GiB / rclone", f"{large_theirs / large:.2f} x", "at least 0.9 x"))
    rows.append(("its peak memory", f"{peak:.0f} MiB", "under 200 MB"))
    return rows


Cost = tuple[float, float, float]
"""Seconds, seconds of the processor, MiB at the peak."""


def _rclone(source: Path, container: str, transfers: int, server: Azurite) -> Cost:
    settings = {
        "RCLONE_CONFIG_AZ_TYPE": "azureblob",
        "RCLONE_CONFIG_AZ_CONNECTION_STRING": server.connection_string,
    }
    command = ["rclone", "copy", str(source), f"az:{container}", "--transfers", str(transfers)]
    return _timed([*command, "--checkers", "16", "--config", os.devnull], os.environ | settings)[0]


def _ours(folder: Path, container: str, prefix: str, server: Azurite) -> Cost:
    command = [sys.executable, "-m", "benchmarks.migration", str(folder / "data"), container, prefix]
    cost, output = _timed([*command, server.connection_string], os.environ)
    assert json.loads(output)["ok"], output
    return cost[0], cost[1], json.loads(output)["peak"]


def _timed(command: list[str], environment: os._Environ[str] | dict[str, str]) -> tuple[Cost, str]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, cwd=PROJECT, env=dict(environment), check=True, capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (seconds, cpu, 0.0), done.stdout


async def _run(data: str, container: str, prefix: str, connection_string: str) -> bool:
    target = StorageConfig(storage_type="azure", connection_string=connection_string, container=container)
    async with StorageManager(StorageConfig(base_path=data)) as one, StorageManager(target) as two:
        report = await Migration(one, two, MigrationOptions(prefix=prefix)).run()
    return report.ok


if __name__ == "__main__":
    ok = asyncio.run(_run(*sys.argv[1:]))
    print(json.dumps({"ok": ok, "peak": peak_mib()}))
