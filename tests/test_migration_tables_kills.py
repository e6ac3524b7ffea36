"""Killed at any moment, a migration of tables and queues goes on, and nothing is lost or there in part."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions, check
from storage_lib.ports.backend import Insert
from tests.cli_runs import PROGRAM, environment
from tests.effort import SOAK

ENTITIES = 3000 if SOAK else 1200
MESSAGES = 400 if SOAK else 160
BANDWIDTH = "120K" if SOAK else "60K"
KILLS = 10 if SOAK else 2


@pytest.fixture(params=["file", "azurite"])
def target_config(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    if request.param == "file":
        return StorageConfig(base_path=str(tmp_path / "copy"))
    text = request.getfixturevalue("azurite").connection_string
    return StorageConfig(storage_type="azure", connection_string=text, container=f"t-{os.urandom(6).hex()}")


async def killed(arguments: list[str], variables: dict[str, str], folder: Path, seconds: float) -> bool:
    """Whether it was killed before it had ended."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, *arguments, env=environment(**variables), cwd=folder, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        return True
    assert process.returncode in (0, 1)
    return False


async def test_a_migration_is_killed_again_and_again(target_config: StorageConfig, tmp_path: Path) -> None:
    chance = random.Random(14)
    tail = os.urandom(4).hex()
    table, queue = f"agent_metrics_{tail}", f"letters-{tail}"
    source_config = StorageConfig(base_path=str(tmp_path / "data"))
    async with StorageManager(source_config) as source:
        for start in range(0, ENTITIES, 100):
            batch = [Insert(f"{n:05}", {"n": n, "text": "x" * 300}) for n in range(start, start + 100)]
            await source.backend.tables.batch(table, f"p{start // 500}", batch)
        for n in range(MESSAGES):
            await source.backend.queues.send(queue, f"{n}")
    variables = {}
    url = "file:./copy"
    if target_config.storage_type == "azure":
        url = f"azure://devstoreaccount1/{target_config.container}"
        variables["AgentStorage"] = str(target_config.connection_string)
    slow = ["--bandwidth", BANDWIDTH, "--no-objects", "--table", table]
    kills = 0
    async with StorageManager(source_config) as source, StorageManager(target_config) as target:
        options = MigrationOptions(objects=False, tables=[table], queues=[queue])
        for _ in range(KILLS):
            arguments = ["migrate", "file:./data", url, *slow]
            kills += await killed(arguments, variables, tmp_path, chance.uniform(1.5, 5))
            found = await check(source, target, options)
            assert (found.different, found.only_in_second, found.failed) == (0, 0, [])
        assert kills, "nothing was cut off, so nothing was tested"
        report = await Migration(source, target, MigrationOptions(objects=False, tables=[table])).run()
        assert report.failed == []
        found = await check(source, target, options)
        assert (found.equal, found.same) == (True, ENTITIES)

        moving = ["migrate", "file:./data", url, "--no-objects", "--no-tables", "--queue", queue, "--yes"]
        for _ in range(KILLS):
            await killed(moving, variables, tmp_path, chance.uniform(0.5, 2))
        there = await bodies(target, queue)
        left = MESSAGES - len(there)
        assert await source.backend.queues.length(queue) >= left, "a message was lost"


async def bodies(storage: StorageManager, queue: str) -> set[bytes | None]:
    """The messages of a queue, all of them visible."""
    found: set[Any] = set()
    if queue not in await storage.list_queues(queue):
        return found
    while received := await storage.backend.queues.receive(queue, max_messages=32, visibility_timeout=600):
        found |= {each.body for each in received}
    return found
