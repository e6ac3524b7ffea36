"""A migration that is killed at any moment goes on where it was: nothing is sent twice from its beginning,
and nothing is seen in part."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions, check
from tests.conftest import PROJECT
from tests.test_migration import config_of, opened

PART = 8 * 1024 * 1024
SIZES = {"large/a": 6 * PART + 17, "large/b": 5 * PART}
SMALL = 150
SOAK = bool(os.environ.get("SOAK"))

RUN = """
import asyncio, json, sys
from pathlib import Path
from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions
from storage_lib.ports.streaming import Parts

async def main(source, target, log):
    with open(log, "a", buffering=1) as told:
        here, there = StorageConfig(**source), StorageConfig(**target)
        async with StorageManager(here) as one, StorageManager(there) as two:
            print("ready", flush=True)
            store = two.backend.objects
            real = store.adopt
            async def adopt(key, data, *arguments, **options):
                if isinstance(data, Parts):
                    told.write(f"{key} {data.start}\\n")
                return await real(key, data, *arguments, **options)
            store.adopt = adopt
            migration = Migration(one, two, MigrationOptions(bytes_per_second=int(sys.argv[4])))
            report = await migration.run()
            assert report.ok, report
    print("done")

asyncio.run(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]))
"""


def arguments_of(config: StorageConfig) -> str:
    names = ("storage_type", "base_path", "connection_string", "container", "s3_bucket", "s3_endpoint")
    names += ("s3_access_key_id", "s3_secret_access_key", "tables_and_queues")
    given = {name: getattr(config, name) for name in names}
    return json.dumps({name: str(value) for name, value in given.items() if value is not None})


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kind", "many"), [("file", 10), ("azurite", 10 if SOAK else 4)])
async def test_killed_and_continued(kind: str, many: int, any_target: dict[str, Any], tmp_path: Path) -> None:
    chance = random.Random(7)
    source, target = StorageConfig(base_path=tmp_path / "source"), config_of(kind, any_target, tmp_path)
    log = tmp_path / "log"
    async with opened(source) as one, opened(target) as two:
        await fill(one, chance)
        ended = kills = 0
        while not ended:
            assert kills <= many, "it does not come to its end"
            # The first has time to send some parts, the last one is let go; the others die at any moment.
            patience = 5.0 if not kills else chance.uniform(0.05, 2.0) if kills < many else 60
            rate = PART if kills < many else 10**12
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", RUN, arguments_of(source), arguments_of(target), str(log), str(rate)),
                cwd=PROJECT,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            try:
                async with asyncio.timeout(patience):
                    out, _ = await process.communicate()
                assert process.returncode == 0
                assert out == b"done\n"
                ended = 1
            except TimeoutError:
                process.kill()
                await process.wait()
                kills += 1
            await nothing_in_part(two)
        compared = await check(one, two, content=True)
        assert (compared.equal, compared.same) == (True, SMALL + len(SIZES)), compared
        for key, size in SIZES.items():
            begun = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(key)]
            assert begun == sorted(begun), (key, begun)
            assert begun[-1] < size
        starts = [int(line.split()[1]) for line in log.read_text().splitlines()]
        assert kills == 0 or any(starts), "nothing was continued, so nothing was tested"


async def fill(storage: StorageManager, chance: random.Random) -> None:
    for n in range(SMALL):
        await storage.save(f"small/{n:04}", {"n": n, "text": "x" * 1000})
    for key, size in SIZES.items():
        piece = chance.randbytes(1 << 20)

        async def chunks(size: int = size, piece: bytes = piece) -> AsyncIterator[bytes]:
            for at in range(0, size, len(piece)):
                yield piece[: size - at]

        await storage.write_stream(key, chunks(), metadata={"owner": "ops"}, ttl=3600)


async def nothing_in_part(storage: StorageManager) -> None:
    """What can be listed can be read, whole."""
    async for key in storage.list_keys():
        info = await storage.info(key)
        assert info.size == SIZES.get(key, info.size)
        if key.startswith("small/"):
            assert (await storage.load(key))["n"] == int(key[-4:])


async def test_one_that_is_cancelled_is_continued(any_target: dict[str, Any], tmp_path: Path) -> None:
    """On each kind of store: the parts that were sent are not sent again, and not read again."""
    for kind in ("file", "azurite", "moto"):
        source = StorageConfig(base_path=tmp_path / f"from-{kind}")
        async with opened(source) as one, opened(config_of(kind, any_target, tmp_path)) as two:
            await fill(one, random.Random(1))
            options = MigrationOptions(prefix="large/a", bytes_per_second=3 * PART)
            migration = Migration(one, two, options)
            running = asyncio.create_task(migration.run())
            async with asyncio.timeout(30):
                while migration.report.bytes_copied < 6 * PART and not running.done():
                    await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.wait({running})
            assert await two.list_keys() == []
            report = await Migration(one, two, MigrationOptions(prefix="large/a", verify=True)).run()
            assert report.ok, report
            assert report.bytes_resumed >= PART, (kind, report)
            assert report.bytes_resumed + report.bytes_copied == SIZES["large/a"]
            assert (await check(one, two, MigrationOptions(prefix="large/a"), content=True)).equal


@pytest.fixture
def any_target(azurite: Any, moto: Any) -> dict[str, Any]:
    return {"azurite": azurite, "moto": moto}
