"""Processes that are killed while they write, and processes that make the folder at once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.ports.objects import ListEntry

SOAK = os.environ.get("SOAK") == "1"
KILLS = int(os.environ.get("SOAK_KILLS", "200" if SOAK else "6"))
KEYS = 12
LARGE = 50_000_000 if SOAK else 10_000_000
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


@pytest.mark.timeout(900 + 15 * KILLS)
async def test_a_killed_process_leaves_every_object_old_or_new(tmp_path: Path) -> None:
    seed = random.randrange(2**32) if SOAK else 7
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
