"""A process on two folders that is killed at one of its store operations: ``ACTION FOLDER KILL_AT``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from storage_lib.backends.file import FileStorageBackend
from storage_lib.config import StorageConfig
from storage_lib.config.fallback import FallbackOptions
from storage_lib.layers.fallback import FallbackLayer
from tests.outages import Switched

AWAY = "primary is away"
"""The file that makes the primary unavailable, for every process."""


def stores(folder: Path, mode: str = "fallback") -> tuple[FallbackLayer, Switched, Switched]:
    primary = Switched(FileStorageBackend(folder / "first"), folder / AWAY)
    secondary = Switched(FileStorageBackend(folder / "second"))
    options = FallbackOptions(
        secondary=StorageConfig(base_path=folder / "second"),
        mode=mode,  # type: ignore[arg-type]
        writes="secondary",
        check_seconds=0,
    )
    return FallbackLayer(primary, secondary, options), primary, secondary


async def run(action: str, folder: Path, kill_at: int) -> None:
    layer, primary, secondary = stores(folder, "mirror" if action == "mirror" else "fallback")
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    primary.before = secondary.before = count
    if action == "repair":
        await layer.repair()
    else:
        for key, data in (("k0", b"by the process"), ("k1", b"by the process"), ("new", b"by the process")):
            await layer.objects.put(key, data)
            (folder / f"acknowledged {key}").touch()
        await layer.objects.delete("k2")
        (folder / "acknowledged k2").touch()
    await layer.close()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
