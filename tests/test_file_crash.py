"""Processes that are killed while they write, and processes that write the same key at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.objects import ListEntry
from storage_lib.manager import StorageManager

SOAK = os.environ.get("SOAK") == "1"
KILLS = int(os.environ.get("SOAK_KILLS", "200" if SOAK else "10"))
UPDATES = 100 if SOAK else 25
RACES = 1000 if SOAK else 100
PROCESSES = 8
KEYS = 12
LARGE = 50_000_000
LARGE_KEYS = ("large", "stream", "copied")

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

def blocks(version):
    yield b"%d;" % version
    left = {LARGE} - len(b"%d;" % version)
    while left:
        yield (b"%d" % (version % 10)) * min(left, 1_000_000)
        left -= min(left, 1_000_000)

async def stream(backend, version):
    while True:
        version += 1
        await backend.objects.put_stream(
            "dir/stream", blocks(version), content_type=f"text/x-{{version}}"
        )
        print("object", "stream", version, flush=True)
        await backend.objects.copy("dir/stream", "dir/copied")
        print("object", "copied", version, flush=True)

async def main():
    backend = FileStorageBackend(sys.argv[1])
    start = int(sys.argv[2])
    keys = ["large", *(f"k{{n}}" for n in range({KEYS}))]
    await asyncio.gather(stream(backend, start), *(write(backend, key, start) for key in keys))

asyncio.run(main())
"""

COUNTER = f"""
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend
from storage_lib.errors import PreconditionFailedError
from storage_lib.manager import StorageManager

async def main():
    async with FileStorageBackend(sys.argv[1]) as backend:
        storage = StorageManager(backend=backend)
        print("ready", flush=True)
        input()
        for _ in range({UPDATES}):
            await storage.update("counter", lambda value: value + 1)
        for n in range(10):
            await backend.queues.send("queue", f"{{n}}")
            while True:
                entity = await backend.tables.get("table", "p", "r")
                try:
                    changed = {{"n": entity.properties["n"] + 1}}
                    await backend.tables.update("table", "p", "r", changed, etag=entity.etag)
                    break
                except PreconditionFailedError:
                    pass

asyncio.run(main())
"""

CREATOR = f"""
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend
from storage_lib.errors import PreconditionFailedError

async def create(backend, numbers):
    for n in numbers:
        try:
            await backend.objects.put(f"races/{{n}}", sys.argv[2].encode(), if_absent=True)
        except PreconditionFailedError:
            continue
        print(n)

async def main():
    async with FileStorageBackend(sys.argv[1]) as backend:
        print("ready", flush=True)
        input()
        numbers = iter(range({RACES}))
        await asyncio.gather(*(create(backend, numbers) for _ in range(8)))

asyncio.run(main())
"""


@pytest.mark.timeout(60 + 15 * KILLS)
async def test_a_killed_process_leaves_every_object_old_or_new(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    acknowledged: dict[tuple[str, str], int] = {}
    left_behind = 0
    start = 0
    for kill in range(KILLS):
        newest = _write_until_killed(tmp_path, start, chance, acknowledged)
        try:
            left_behind += _age_temporary_files(tmp_path)
            start = max(newest, await _check(tmp_path, acknowledged))
        except BaseException as error:
            error.add_note(f"after kill {kill}, seed {seed}")
            raise
    assert start > KILLS
    assert left_behind > 0


def _write_until_killed(
    folder: Path, start: int, chance: random.Random, acknowledged: dict[tuple[str, str], int]
) -> int:
    """Kill the writer at a random moment: when it has written a random number of lines, so that the moments
    lie around those of small writes, or after a random time, so that they lie within large ones. The first
    one lives until each large object is there. Note what it has acknowledged."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, folder, str(start)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline()]
    if start == 0:
        while lines[-1] and not {line.split()[1] for line in lines}.issuperset(LARGE_KEYS):
            lines.append(writer.stdout.readline())
    elif chance.random() < 0.5:
        lines += [writer.stdout.readline() for _ in range(chance.randrange(120))]
        for _ in range(chance.randrange(20_000)):  # not always at the moment of a line
            pass
    else:
        time.sleep(chance.random())
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


def _age_temporary_files(folder: Path) -> int:
    """Let some time pass for what was left behind, and say how much that is."""
    left = list((folder / "system/tmp").iterdir())
    for path in left:
        os.utime(path, (0, 0))
    return len(left)


async def _check(folder: Path, acknowledged: dict[tuple[str, str], int]) -> int:
    newest = 0
    async with FileStorageBackend(folder) as backend:
        assert not list((folder / "system/tmp").iterdir())
        listed = [entry.key async for entry in backend.objects.iterate() if isinstance(entry, ListEntry)]
        for key in listed:
            found = await backend.objects.get(key)
            assert found is not None
            version = int(found.data.partition(b";")[0])
            size = LARGE if key.removeprefix("dir/") in LARGE_KEYS else 10 + version % 5000
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
                assert key not in LARGE_KEYS
    return newest


def _run_at_once(code: str, folder: Path) -> list[str]:
    """Start processes, have them all begin at the same moment, and give what each of them printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    printed: list[str] = []
    for process in processes:
        output, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
        printed.append(output)
    return printed


@pytest.mark.timeout(600)
async def test_eight_processes_lose_no_update(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path) as backend:
        storage = StorageManager(backend=backend)
        await storage.save("counter", 0)
        await backend.tables.insert("table", "p", "r", {"n": 0})
        _run_at_once(COUNTER, tmp_path)
        assert await storage.load("counter") == PROCESSES * UPDATES
        assert (await backend.tables.get("table", "p", "r")).properties == {"n": 80}
        assert await backend.queues.length("queue") == 80


@pytest.mark.timeout(600)
async def test_racing_creators_of_different_processes_have_one_winner(tmp_path: Path) -> None:
    printed = _run_at_once(CREATOR, tmp_path)
    wins = Counter(int(line) for output in printed for line in output.split())
    assert wins == dict.fromkeys(range(RACES), 1)
    async with FileStorageBackend(tmp_path) as backend:
        for process, output in enumerate(printed):
            for n in output.split():
                found = await backend.objects.get(f"races/{n}")
                assert found is not None
                assert found.data == b"%d" % process


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
