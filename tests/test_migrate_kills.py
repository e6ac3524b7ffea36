"""Hosts that are killed while they run `migrate`: others go on, and both sides are equal in the end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import MigrationOptions, check
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TaskRecord
from storage_lib.tasks.submission import NewTask
from tests.test_task_chaos import SOAK, stored_on
from tests.test_task_kills import AT_ONCE, HOSTS, Killed

COUNT = 2500
LARGE = 24 * 1024 * 1024


@pytest.mark.timeout(300 if SOAK else 150)
async def test_killed_hosts_share_a_migration(tmp_path: Path) -> None:
    chance, data, copied = random.Random(3), tmp_path / "data", tmp_path / "copy"
    url = f"file:{copied}"
    hosts = Killed(data, tmp_path / "begun", stored_on("file", data, None) | {"AGENT_MIGRATION_STORES": url})
    async with (
        StorageManager(StorageConfig(base_path=data)) as source,
        StorageManager(StorageConfig(base_path=copied)) as target,
    ):
        engine = TaskEngine(source)
        await source.save_many({f"k/{n:04}": {"n": n} for n in range(COUNT)})
        await source.write_stream("k/large", [bytes(LARGE)])
        options = {"target": url, "prefix": "k/", "bytes_per_second": 8 * 1024 * 1024}
        new = NewTask(action="migrate", agent_id="ceo", payload=options)
        try:
            await hosts.add(HOSTS)
            (record,) = await engine.submission.submit_many([new])
            assert isinstance(record, TaskRecord), record
            for _ in range(5 if SOAK else 2):
                await asyncio.sleep(chance.uniform(0.2, 2))  # the instant is meant to be any
                await hosts.kill(chance, AT_ONCE)
                await hosts.add(AT_ONCE)
            async with asyncio.timeout(100):
                while not (record := await engine.records.get(record.task_id)).is_final:
                    await asyncio.sleep(0.2)
        finally:
            await hosts.end()
        assert record.status == "succeeded", record
        compared = await check(source, target, MigrationOptions(tables=()))
        assert compared.only_in_second == compared.different == 0
        assert compared.same == COUNT + 1, compared
