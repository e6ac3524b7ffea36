"""Processes on two folders, killed in the middle of writes and repairs: nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from tests.conftest import PROJECT
from tests.fallback_process import AWAY, stores
from tests.test_fallback import marks, value

SOAK = os.environ.get("SOAK") == "1"
REPAIR_POINTS = range(1, 200) if SOAK else (1, 2, 4, 7, 11, 16, 23, 31, 42, 57)
WRITE_POINTS = range(1, 60) if SOAK else (2, 5, 9)

BIG = b"big " * 3_000_000

NEWEST: dict[str, bytes | None] = {
    "k0": b"2",
    "k1": b"2",
    "k2": None,
    "k3": b"newer in the primary",
    "k4": b"newer in the second",
    "k5": None,
    "new": b"2",
    "big": BIG,
    "untouched": b"1",
}
LOST = {
    "k3": b"older in the second",
    "k4": b"older in the primary",
    "k5": b"deleted unseen",
}


async def killed(action: str, folder: Path, kill_at: int) -> bool:
    """Run the process; whether it was killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fallback_process", action, str(folder), str(kill_at), cwd=PROJECT
    )
    try:
        code = await asyncio.wait_for(process.wait(), 600)
    finally:
        if process.returncode is None:
            process.kill()
    assert code in (0, -signal.SIGKILL)
    return code != 0


async def prepared(folder: Path) -> None:
    """After an outage, with changes in both stores."""
    layer, primary, secondary = stores(folder)
    first = FileStorageBackend(folder / "first")
    for key in ("k0", "k1", "k2", "k3", "k4", "k5", "untouched"):
        for store in (primary, secondary):
            await store.objects.put(key, b"1")
    await asyncio.sleep(0.02)  # The clock of a file system is coarse.
    (folder / AWAY).touch()
    objects = layer.objects
    await objects.put("k3", b"older in the second")
    await objects.put("k4", b"first")
    for key in ("k0", "k1", "new"):
        await objects.put(key, b"2")
    await objects.put_stream("big", [BIG])
    await objects.delete("k2")
    # Another process still reaches the primary.
    await asyncio.sleep(0.02)
    await first.objects.put("k3", b"newer in the primary")
    await first.objects.put("k4", b"older in the primary")
    await first.objects.put("k5", b"deleted unseen")
    await asyncio.sleep(0.02)
    await objects.put("k4", b"newer in the second")
    await objects.delete("k5")
    (folder / AWAY).unlink()
    await layer.close()
    await first.close()


async def check_repaired(folder: Path) -> None:
    """One more repair, and then both stores have the newest values, and every conflict is listed."""
    layer, primary, secondary = stores(folder)
    result = await layer.repair()
    assert (result.failed, result.pending) == ((), 0)
    for key, newest in NEWEST.items():
        for store in (layer, primary, secondary):
            assert await value(store.objects, key) == newest, key
    assert {
        each.key: each.kept and await value(primary.objects, each.kept) for each in result.conflicts
    } == LOST
    for store in (primary, secondary):
        assert await marks(store.objects) == []
    await layer.close()


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outage")
    asyncio.run(prepared(folder))
    return folder


@pytest.mark.parametrize("kill_at", REPAIR_POINTS)
async def test_a_repair_that_is_killed_loses_nothing(outage: Path, tmp_path: Path, kill_at: int) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(outage, folder)
    was_killed = await killed("repair", folder, kill_at)
    assert was_killed or SOAK
    # Before it is repaired every process reads the newest of what this layer has acknowledged.
    layer, _, _ = stores(folder)
    for key in ("k0", "k1", "k2", "new", "big", "untouched", "k4", "k5"):
        assert await value(layer.objects, key) == NEWEST[key], key
    await layer.close()
    await check_repaired(folder)


async def test_a_repair_that_is_killed_again_and_again_ends_right(outage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(outage, folder)
    for kill_at in (9, 12, 15, 18) if not SOAK else range(3, 40):
        await killed("repair", folder, kill_at)
    await check_repaired(folder)


@pytest.mark.parametrize("kill_at", WRITE_POINTS)
@pytest.mark.parametrize("action", ["outage", "mirror"])
async def test_a_writer_that_is_killed_loses_nothing_acknowledged(
    tmp_path: Path, action: str, kill_at: int
) -> None:
    layer, primary, secondary = stores(tmp_path, "mirror")
    for key in ("k0", "k1", "k2"):
        await layer.objects.put(key, b"0")
    await layer.close()
    if action == "outage":
        (tmp_path / AWAY).touch()
    await killed(action, tmp_path, kill_at)
    (tmp_path / AWAY).unlink(missing_ok=True)
    layer, primary, secondary = stores(tmp_path, "mirror" if action == "mirror" else "fallback")
    seen = {key: await value(layer.objects, key) for key in ("k0", "k1", "k2", "new")}
    for key in ("k0", "k1", "new"):
        if (tmp_path / f"acknowledged {key}").exists():
            assert seen[key] == b"by the process"
    if (tmp_path / "acknowledged k2").exists():
        assert seen["k2"] is None
    result = await layer.repair()
    assert (result.failed, result.conflicts, result.pending) == ((), (), 0)
    for key, newest in seen.items():
        for store in (layer, primary, secondary):
            assert await value(store.objects, key) == newest, key
    await layer.close()
