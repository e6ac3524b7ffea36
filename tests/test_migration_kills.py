"""A migration that is killed at any moment goes on where it was: nothing that the target has is sent again,
and nothing is seen in part."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import MigrationOptions, check
from tests.conftest import PROJECT
from tests.request_log import RequestLog
from tests.test_migration import config_of, opened

SOAK = bool(os.environ.get("SOAK"))
PART = 8 * 1024 * 1024
SIZES = {"large/a": (12 if SOAK else 4) * PART + 17, "large/b": (9 if SOAK else 3) * PART}
SMALL = 600 if SOAK else 60
KILLS = 10 if SOAK else 2

RUN = """
import asyncio, json, sys
from storage_lib import StorageConfig, StorageManager
from storage_lib.migration import Migration, MigrationOptions
from storage_lib.ports.streaming import Parts

async def main(source, target, log, options):
    with open(log, "a", buffering=1) as told:
        here, there = StorageConfig(**source), StorageConfig(**target)
        async with StorageManager(here) as one, StorageManager(there) as two:
            store = two.backend.objects
            real = store.adopt
            async def adopt(key, data, *arguments, **given):
                told.write(f"{key} {data.start if isinstance(data, Parts) else 0}\\n")
                return await real(key, data, *arguments, **given)
            store.adopt = adopt
            print("ready", flush=True)
            report = await Migration(one, two, MigrationOptions(tables=(), **options)).run()
            assert report.ok, report
    print("done")

asyncio.run(main(*map(json.loads, sys.argv[1:])))
"""


def arguments_of(config: StorageConfig) -> dict[str, str]:
    names = ("storage_type", "base_path", "connection_string", "container", "s3_bucket", "s3_endpoint")
    names += ("s3_access_key_id", "s3_secret_access_key", "tables_and_queues")
    given = {name: getattr(config, name) for name in names}
    return {name: str(value) for name, value in given.items() if value is not None}


class Killed:
    """Runs of one migration in processes of their own, which are killed."""

    def __init__(self, source: StorageConfig, target: StorageConfig, log: Path, **options: Any) -> None:
        self._arguments = [arguments_of(source), arguments_of(target), str(log), options]
        self._log = log
        log.touch()

    async def start(self, **options: Any) -> asyncio.subprocess.Process:
        *others, given = self._arguments
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", RUN, *map(json.dumps, [*others, given | options])),
            cwd=PROJECT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def end(self) -> None:
        """One more, which is let go."""
        process = await self.start()
        out, _ = await process.communicate()
        assert (process.returncode, out) == (0, b"done\n")

    def begun(self) -> list[tuple[str, int]]:
        """The objects that were begun to be stored, and from which byte on."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [(key, int(start)) for key, start in lines]


async def proxied(config: StorageConfig, stack: AsyncExitStack) -> tuple[StorageConfig, RequestLog | None]:
    """The same store behind a proxy; files have none."""
    match config.storage_type:
        case "azure":
            text = config.connection_string or ""
            port = int(text.partition("BlobEndpoint=http://127.0.0.1:")[2].partition("/")[0])
            log = await stack.enter_async_context(RequestLog(port))
            return replace(config, connection_string=text.replace(f":{port}/", f":{log.port}/")), log
        case "s3":
            endpoint = config.s3_endpoint or ""
            port = endpoint.rpartition(":")[2]
            log = await stack.enter_async_context(RequestLog(int(port)))
            return replace(config, s3_endpoint=endpoint.replace(port, str(log.port))), log
        case _:
            return config, None


def sent(log: RequestLog) -> Counter[tuple[str, str]]:
    """How often the service was sent each object, each part of one, and what completes it."""
    found: Counter[tuple[str, str]] = Counter()
    for request in log.seen:
        key, query = "/".join(request.path.rsplit("/", 2)[1:]), request.query
        if "/.system/" in request.path:
            continue
        is_begin = "uploads" in query  # Once more if its id was not kept yet: it has no part.
        if request.method in ("PUT", "POST") and key.startswith(("small/", "large/")) and not is_begin:
            found[key, query.get("partNumber") or query.get("blockid") or query.get("comp") or "all"] += 1
    return found


async def or_its_end(
    process: asyncio.subprocess.Process,
    moment: Coroutine[Any, Any, None] | asyncio.Future[None],
    patience: float = 600,
) -> None:
    """Wait for the moment, but no longer than the process runs, or so many seconds."""
    waiting = {asyncio.ensure_future(moment), asyncio.create_task(process.wait())}
    done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for task in done:
        task.result()


def is_write(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and "/.system/" not in path


def is_delete(method: str, path: str) -> bool:
    return method == "DELETE" and "/.system/" not in path


def is_read(method: str, path: str) -> bool:
    return method == "GET" and ("/small/" in path or "/large/" in path)


def parts_sent(log: RequestLog) -> int:
    return sum(what not in ("all", "blocklist") for _, what in sent(log))


def kept_of(folder: Path, key: str) -> int:
    """From where on the upload of an object goes on that is kept in files."""
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    for file in folder.rglob(f"{name}-*.part"):
        there = file.stat().st_size - int(file.stem.rpartition("-")[2])
        return max(min(there, SIZES[key] - 1), 0) // PART * PART
    return 0


PAIRS = [("file", "file"), ("file", "azurite"), ("file", "moto"), ("azurite", "moto"), ("moto", "file")]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_killed_and_continued(
    pair: tuple[str, str], any_target: dict[str, Any], tmp_path: Path, record_property: Any
) -> None:
    chance = random.Random(7)
    source, target = config_of(pair[0], any_target, tmp_path), config_of(pair[1], any_target, tmp_path)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(opened(source))
        two = await stack.enter_async_context(opened(target))
        await fill(one, chance)
        read, source_log = await proxied(source, stack)
        written, target_log = await proxied(target, stack)
        runs = Killed(read, written, tmp_path / "log")
        log, seen, kept = target_log or source_log, set[str](), dict.fromkeys(SIZES, 0)
        for kill in range(KILLS):
            began = len(runs.begun())
            process = await runs.start(
                **({} if target_log else {"bytes_per_second": (2 if SOAK else 4) * PART})
            )
            if target_log is None and kill % 4 == 0:  # when there is more to be continued
                while process.returncode is None and not any(
                    kept_of(tmp_path, key) > there for key, there in kept.items()
                ):
                    await asyncio.sleep(0.01)
            elif target_log is not None and not kill and not SOAK:
                await or_its_end(process, target_log.until(lambda: parts_sent(target_log) > 1))
            elif target_log is not None and (len(seen) >= SMALL or chance.random() < 0.5):
                await or_its_end(process, target_log.takes(chance.randint(1, 3 * PART)))
            elif log is not None:
                count, answered = chance.randint(1, 25), chance.random() < 0.5
                counted, patience = (is_write, 60) if target_log else (is_read, chance.uniform(0.3, 1.5))
                await or_its_end(process, log.reached(count, counted, answered=answered), patience)
            else:
                # The instant is meant to be any.
                await asyncio.sleep(chance.uniform(0.05, 1.5 if SOAK else 0.5))
            assert process.returncode is None or not SOAK, "it came to its end before it was killed"
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
            if target_log is not None:
                await target_log.settled()
            for key, start in runs.begun()[began:]:
                assert key not in seen, "what is there was sent again"
                if target_log is None and key in SIZES:
                    assert start == kept[key], (key, start, kept)
            seen |= await nothing_in_part(two)
            kept = {key: kept_of(tmp_path, key) for key in SIZES}
        began, parts = len(runs.begun()), 0 if target_log is None else parts_sent(target_log)
        await runs.end()
        starts = runs.begun()
        assert not {key for key, _ in starts[began:]} & seen
        compared = await check(one, two, MigrationOptions(tables=()), content=True)
        assert (compared.equal, compared.same) == (True, SMALL + len(SIZES)), compared
        assert parts or any(start for _, start in starts), "nothing was continued, so nothing was tested"
        if target_log is not None:
            again = [what for what, count in sent(target_log).items() if count > 1]
            assert not again, [each for each in target_log.seen if each.path.endswith(again[0][0])]
            assert parts_sent(target_log) == sum(-(-size // PART) for size in SIZES.values())
        begun_again = len(starts) - compared.same
        told = (
            f"{KILLS} kills; {parts} parts were there before the last run; {begun_again} objects begun again"
        )
        record_property("measured", told)


async def test_a_mirror_of_versions_that_is_killed(
    any_target: dict[str, Any], tmp_path: Path, record_property: Any
) -> None:
    """No version is named that is not there, and nothing is removed before all has been copied."""
    chance = random.Random(9)
    source, target = StorageConfig(base_path=tmp_path / "source"), config_of("azurite", any_target, tmp_path)
    keys, versions, more = 6, 6, 150
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(opened(source))
        two = await stack.enter_async_context(opened(target))
        for n in range(keys):
            for version in range(versions):
                await one.save_versioned(f"plan/{n}", {"version": version + 1})
            await one.label_version(f"plan/{n}", chance.randint(1, versions), "tested")
        await two.save_many({f"old/{n:02}": n for n in range(more)})
        written, log = await proxied(target, stack)
        assert log is not None
        runs = Killed(source, written, tmp_path / "log", delete=True, concurrency=1)
        wanted = {*await one.list_keys()}
        moments = [chance.randint(1, 4) for _ in range(1)]
        deletes = 0
        for count in [*moments, -3]:
            counted = is_write if count > 0 else is_delete
            # From now on: it may be fast.
            moment = asyncio.ensure_future(log.reached(abs(count), counted, answered=chance.random() < 0.5))
            process = await runs.start()
            await or_its_end(process, moment)
            assert process.returncode is None, "it came to its end before it was killed"
            process.kill()
            await process.communicate()
            await log.settled()
            there = {*await two.list_keys()}
            for key in there:
                if key.endswith("/current"):
                    for version in (None, "tested"):
                        assert await two.load_version(key.removesuffix("/current"), version)
            deletes = more - len(there - wanted)
            assert not deletes or wanted <= there, "removed before all was there"
        assert 0 < deletes < more, "it was not killed while it removed what is not in the source"
        await runs.end()
        compared = await check(one, two, MigrationOptions(tables=()), content=True)
        assert (compared.equal, compared.same) == (True, keys * (versions + 1)), compared
        record_property("measured", f"{len(moments) + 1} kills, the last after {deletes} of {more} deletions")


async def fill(storage: StorageManager, chance: random.Random) -> None:
    for n in range(SMALL):
        await storage.save(f"small/{n:04}", {"n": n, "text": "x" * 1000})
    for key, size in SIZES.items():
        piece = chance.randbytes(1 << 20)

        async def chunks(size: int = size, piece: bytes = piece) -> AsyncIterator[bytes]:
            for at in range(0, size, len(piece)):
                yield piece[: size - at]

        await storage.write_stream(key, chunks(), metadata={"owner": "ops"}, ttl=3600)


async def nothing_in_part(storage: StorageManager) -> set[str]:
    """What can be listed, and can be read, whole."""
    found: set[str] = set()
    async for key in storage.list_keys():
        found.add(key)
        info = await storage.info(key)
        assert info.size == SIZES.get(key, info.size)
        if key.startswith("small/"):
            assert (await storage.load(key))["n"] == int(key[-4:])
    return found


@pytest.fixture
def any_target(azurite: Any, moto: Any) -> dict[str, Any]:
    return {"azurite": azurite, "moto": moto}
