"""Processes that are killed while they write, and processes that write the same key at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.objects import ListEntry

KILLS = int(os.environ.get("SOAK_KILLS", "20"))
KEYS = 12
LARGE = 5_000_000

# Every version of an object says which it is, in its data and in its content type.
WRITER = f"""
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend

async def write(backend, key, version):
    while True:
        version += 1
        size = {LARGE} if key == "large" else 10 + version % 5000
        data = (b"%d;" % version).ljust(size, b"%d" % (version % 10))
        await backend.objects.put("dir/" + key, data, content_type=f"text/x-{{version}}")
        print("object", key, version, flush=True)
        if version % 3 == 0:
            await backend.tables.upsert("versions", "p", key, {{"version": version}})
            print("entity", key, version, flush=True)
        if version % 7 == 0 and key != "large":
            await backend.objects.delete("dir/" + key)
            print("gone", key, version, flush=True)

async def main():
    backend = FileStorageBackend(sys.argv[1])
    start = int(sys.argv[2])
    keys = ["large", *(f"k{{n}}" for n in range({KEYS - 1}))]
    await asyncio.gather(*(write(backend, key, start) for key in keys))

asyncio.run(main())
"""

COUNTER = """
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend
from storage_lib.errors import PreconditionFailedError

async def main():
    async with FileStorageBackend(sys.argv[1]) as backend:
        for _ in range(25):
            while True:
                found = await backend.objects.get("counter")
                try:
                    await backend.objects.put(
                        "counter", b"%d" % (int(found.data) + 1), if_match=found.info.etag
                    )
                    break
                except PreconditionFailedError:
                    pass
        for n in range(10):
            await backend.queues.send("queue", f"{n}")
            while True:
                entity = await backend.tables.get("table", "p", "r")
                try:
                    changed = {"n": entity.properties["n"] + 1}
                    await backend.tables.update("table", "p", "r", changed, etag=entity.etag)
                    break
                except PreconditionFailedError:
                    pass

asyncio.run(main())
"""


async def test_a_killed_process_leaves_every_object_old_or_new(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    acknowledged: dict[tuple[str, str], int] = {}
    start = 0
    for kill in range(KILLS):
        newest = _write_until_killed(tmp_path, start, chance, acknowledged)
        try:
            start = max(newest, await _check(tmp_path, acknowledged))
        except BaseException as error:
            error.add_note(f"after kill {kill}, seed {seed}")
            raise
    assert len(list((tmp_path / "system/tmp").iterdir())) <= KILLS * KEYS
    assert start > KILLS


def _write_until_killed(
    folder: Path, start: int, chance: random.Random, acknowledged: dict[tuple[str, str], int]
) -> int:
    """Kill the writer behind a random number of its lines; note what it has acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(start)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 120))]
    for _ in range(chance.randrange(20_000)):  # not always at the moment of a line
        pass
    writer.kill()
    lines += writer.stdout.readlines()
    writer.stdout.close()
    writer.wait()
    newest = start
    for line in lines:
        if line.endswith("\n"):
            kind, key, version = line.split()
            acknowledged["object" if kind == "gone" else kind, key] = int(version)
            newest = max(newest, int(version))
    return newest


async def _check(folder: Path, acknowledged: dict[tuple[str, str], int]) -> int:
    newest = 0
    async with FileStorageBackend(folder) as backend:
        listed = [entry.key async for entry in backend.objects.iterate() if isinstance(entry, ListEntry)]
        for key in listed:
            found = await backend.objects.get(key)
            assert found is not None
            version = int(found.data.partition(b";")[0])
            size = LARGE if key == "dir/large" else 10 + version % 5000
            assert found.data == (b"%d;" % version).ljust(size, b"%d" % (version % 10))
            assert found.info.content_type == f"text/x-{version}"
            assert version >= acknowledged.get(("object", key.removeprefix("dir/")), 0)
            newest = max(newest, version)
        for (kind, key), version in acknowledged.items():
            if kind == "entity":
                entity = await backend.tables.get("versions", "p", key)
                assert entity.properties["version"] >= version
            elif f"dir/{key}" not in listed:
                # Deleted by the version acknowledged last, or by one that no one was told of.
                assert key != "large"
    return newest


async def test_eight_processes_lose_no_update(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        await backend.objects.put("counter", b"0")
        await backend.tables.insert("table", "p", "r", {"n": 0})
        processes = [
            subprocess.Popen([sys.executable, "-c", COUNTER, tmp_path], stderr=subprocess.PIPE)  # noqa: ASYNC220
            for _ in range(8)
        ]
        for process in processes:
            _, errors = process.communicate()
            assert (process.returncode, errors) == (0, b"")
        found = await backend.objects.get("counter")
        assert found is not None
        assert found.data == b"200"
        assert (await backend.tables.get("table", "p", "r")).properties == {"n": 80}
        assert await backend.queues.length("queue") == 80


@pytest.mark.parametrize("name", ["objects", "store"])
def test_processes_that_make_the_folder_at_once_agree(tmp_path: Path, name: str) -> None:
    code = (
        "import asyncio, sys; from storage_lib.backends.file import FileStorageBackend\n"
        "async def main():\n"
        "  async with FileStorageBackend(sys.argv[1]) as b:\n"
        "    await b.objects.put(sys.argv[2], b'x')\n"
        f"    {name == 'store'} and await b.queues.send('queue', sys.argv[2])\n"
        "asyncio.run(main())"
    )
    folder = tmp_path / "deep/er"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, folder, f"k{n}"], stderr=subprocess.PIPE)
        for n in range(6)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    assert len(list((folder / "objects").iterdir())) == 6
