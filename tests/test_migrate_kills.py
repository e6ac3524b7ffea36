"""Hosts that are killed while they run `migrate`: others go on, and both sides are equal in the end."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import MigrationOptions, check
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TaskRecord
from storage_lib.tasks.submission import NewTask
from tests.request_log import RequestLog
from tests.test_migration_kills import PART, SIZES, SMALL, fill, is_write, nothing_in_part, parts_sent, sent
from tests.test_task_chaos import SOAK, stored_on
from tests.test_task_kills import AT_ONCE, HOSTS, Killed

COUNT = 2500
LARGE = 24 * 1024 * 1024


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
            for _ in range(10 if SOAK else 2):
                await asyncio.sleep(chance.uniform(0.2, 2))  # the instant is meant to be any
                await hosts.kill(chance, AT_ONCE)
                await hosts.add(AT_ONCE)
            async with asyncio.timeout(600):
                while not (record := await engine.records.get(record.task_id)).is_final:
                    await asyncio.sleep(0.2)
        finally:
            await hosts.end()
        assert record.status == "succeeded", record
        compared = await check(source, target, MigrationOptions(tables=()))
        assert compared.only_in_second == compared.different == 0
        assert compared.same == COUNT + 1, compared


async def test_killed_hosts_share_a_migration_to_azure(
    tmp_path: Path, azurite: Any, record_property: Any
) -> None:
    """The app's tables, queues and objects are in Azurite, where it is counted what it is sent."""
    chance, url = random.Random(5), f"file:{tmp_path}/source"
    settings = stored_on("azure", tmp_path, azurite)
    direct = StorageConfig.from_env(settings)
    async with (
        RequestLog(azurite.blob_port) as log,
        StorageManager(StorageConfig(base_path=tmp_path / "source")) as source,
        StorageManager(direct) as target,
    ):
        settings["AgentStorage"] = settings["AgentStorage"].replace(f":{azurite.blob_port}/", f":{log.port}/")
        settings |= {"AGENT_MIGRATION_STORES": url, "CHAOS_RANGE_KEYS": str(SMALL // 6)}
        # Of a living host that a busy machine kept from renewing its lease, others would send the same again.
        settings["AGENT_TASK_LEASE_SECONDS"] = "10"
        hosts = Killed(tmp_path / "data", tmp_path / "begun", settings)
        engine = TaskEngine(target)
        await fill(source, chance)
        new = NewTask(action="migrate", agent_id="ceo", payload={"source": url})
        try:
            await hosts.add(HOSTS)
            (record,) = await engine.submission.submit_many([new])
            assert isinstance(record, TaskRecord), record
            kills, seen = 0, set[str]()
            while kills < (10 if SOAK else 2):
                count = chance.randint(1, 2 * SMALL // 20)
                try:
                    async with asyncio.timeout(5):  # or while they wait for the leases of the dead
                        await log.reached(count, is_write, answered=chance.random() < 0.5)
                except TimeoutError:
                    pass
                await hosts.kill(chance, AT_ONCE)
                kills += 1
                await log.settled()
                seen |= await nothing_in_part(target)
                await hosts.add(AT_ONCE)
            async with asyncio.timeout(600):
                while not (record := await engine.records.get(record.task_id)).is_final:
                    await asyncio.sleep(0.2)
        finally:
            await hosts.end()
        assert record.status == "succeeded", record
        ranges = (await engine.records.list(parent_id=record.task_id)).records
        lost = sum(past.outcome == "lost" for each in [record, *ranges] for past in each.history)
        compared = await check(source, target, MigrationOptions(tables=()), content=True)
        assert (compared.equal, compared.same) == (True, SMALL + len(SIZES)), compared
        again = [what for what, times in sent(log).items() if times > 1]
        assert not again
        assert parts_sent(log) == sum(-(-size // PART) for size in SIZES.values())
        record_property(
            "measured", f"{len(hosts.deaths)} hosts killed, {lost} of {len(ranges) + 1} runs lost"
        )
