"""rclone's own client, reading both sides, agrees with `check` on plain objects."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from shutil import which
from sysconfig import get_path
from typing import Any

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions, check
from tests.test_migration import config_of

RCLONE = which("rclone", path=get_path("scripts")) or "rclone"


def rclone_finds(source: Path, container: str, server: Any) -> set[str]:
    """The names that are not the same on both sides, by all of their bytes."""
    settings = {
        "RCLONE_CONFIG_AZ_TYPE": "azureblob",
        "RCLONE_CONFIG_AZ_CONNECTION_STRING": server.connection_string,
    }
    ours = "--exclude=/.system/**"
    done = subprocess.run(
        [RCLONE, "check", str(source), f"az:{container}", ours, "--download", "--combined", "-"],
        env=os.environ | settings | {"RCLONE_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return {line[2:] for line in lines if not line.startswith("= ")}


async def test_rclone_agrees_with_check(azurite: Any, tmp_path: Path) -> None:
    target = config_of("azurite", {"azurite": azurite}, tmp_path)
    plain = tmp_path / "objects"
    for name, data in (("a.txt", b"hello"), ("d/e/c.bin", os.urandom(9_000_000)), ("d/ü x.csv", b"1,2\n")):
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_bytes(data)
    async with StorageManager(StorageConfig(base_path=tmp_path)) as one, StorageManager(target) as two:
        assert (await Migration(one, two).run()).copied == 3
        assert (await check(one, two, MigrationOptions(tables=()))).equal
        assert rclone_finds(plain, target.container, azurite) == set()

        await two.write("a.txt", b"hallo", content_type="text/plain")
        await two.write("new.bin", b"1")
        await two.delete("d/ü x.csv")
        compared = await check(one, two, MigrationOptions(tables=()))
        found = {each.name for each in compared.differences}
        assert found == rclone_finds(plain, target.container, azurite) == {"a.txt", "new.bin", "d/ü x.csv"}
