"""Several processes on one storage at once: no update is lost, and of those who create an object one wins."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import Counter
from typing import Any, NamedTuple

import pytest

from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.config import StorageConfig
from storage_lib.factory import build
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from tests.competing import at_once, told
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

SOAK = os.environ.get("SOAK") == "1"
PROCESSES = 8
AT_ONCE = 4
"""Creations that each process has under way."""

WORKER = """
import asyncio, json, sys
from storage_lib.config import StorageConfig
from storage_lib.errors import PreconditionFailedError, UnsupportedOperationError
from storage_lib.manager import StorageManager

config, name, me, updates, races, at_once = json.loads(sys.argv[1])

async def create(objects, numbers):
    for n in numbers:
        try:
            await objects.put(f"races/{n}", b"%d" % me, if_absent=True)
        except PreconditionFailedError:
            continue
        print(n)

async def count_entity(tables):
    while True:
        entity = await tables.get(name, "p", "r")
        try:
            return await tables.update(name, "p", "r", {"n": entity.properties["n"] + 1}, etag=entity.etag)
        except PreconditionFailedError:
            pass

async def main():
    async with StorageManager(StorageConfig(**config)) as storage:
        await storage.exists("counter")
        print("ready", flush=True)
        await asyncio.to_thread(input)
        for _ in range(updates):
            await storage.update("counter", lambda value: value + 1)
        numbers = iter(range(races))
        await asyncio.gather(*(create(storage.backend.objects, numbers) for _ in range(at_once)))
        try:
            for n in range(10):
                await storage.backend.queues.send(name, f"{me}-{n}")
                await count_entity(storage.backend.tables)
        except UnsupportedOperationError:
            pass

asyncio.run(main())
"""


class Run(NamedTuple):
    updates: int
    """By each process."""
    races: int


STORES = {
    "file": Run(25, 100),
    "azure": Run(5, 20),
    "moto": Run(5, 20),
    "seaweedfs": Run(10, 20),
}


def _config(name: str, request: pytest.FixtureRequest) -> StorageConfig:
    unique = f"c{uuid.uuid4().hex}"
    if name == "file":
        return StorageConfig(base_path=str(request.getfixturevalue("tmp_path")))
    server: Any = request.getfixturevalue("azurite" if name == "azure" else name)
    if name == "azure":
        return StorageConfig(
            storage_type="azure", connection_string=server.connection_string, container=unique
        )
    return StorageConfig(
        storage_type="s3",
        s3_bucket=unique,
        s3_endpoint=server.endpoint,
        s3_region=REGION,
        s3_access_key_id=ACCESS_KEY_ID,
        s3_secret_access_key=SECRET_ACCESS_KEY,
    )


@pytest.mark.timeout(1200 if SOAK else 900)
@pytest.mark.parametrize("name", STORES)
def test_processes_lose_no_update_and_every_race_has_one_winner(
    name: str, request: pytest.FixtureRequest
) -> None:
    config = _config(name, request)
    asyncio.run(_compete(config, Run(100, 1000) if SOAK else STORES[name]))


async def _compete(config: StorageConfig, run: Run) -> None:
    shared = f"n{uuid.uuid4().hex}"
    backend: StorageBackend
    if config.storage_type != "s3":
        backend = build(config)
    else:
        backend = S3StorageBackend(
            config.s3_bucket or "",
            endpoint=config.s3_endpoint,
            region=config.s3_region,
            access_key_id=config.s3_access_key_id,
            secret_access_key=config.s3_secret_access_key,
            create_bucket=True,
        )
    async with StorageManager(backend=backend) as storage:
        await storage.save("counter", 0)
        has_tables = not isinstance(backend, S3StorageBackend)
        if has_tables:
            await backend.tables.insert(shared, "p", "r", {"n": 0})
        given = [[told(config), shared, me, run.updates, run.races, AT_ONCE] for me in range(PROCESSES)]
        winners = _winners(await at_once(WORKER, given))
        assert await storage.load("counter") == PROCESSES * run.updates
        assert sorted(winners) == list(range(run.races))
        for n, process in winners.items():
            found = await backend.objects.get(f"races/{n}")
            assert found is not None
            assert found.data == b"%d" % process
        if has_tables:
            assert (await backend.tables.get(shared, "p", "r")).properties == {"n": PROCESSES * 10}
            assert await backend.queues.length(shared) == PROCESSES * 10


def _winners(printed: list[str]) -> dict[int, int]:
    """The process that won each race."""
    wins = [(int(line), process) for process, output in enumerate(printed) for line in output.split()]
    assert Counter(n for n, _ in wins).most_common(1)[0][1] == 1
    return dict(wins)
