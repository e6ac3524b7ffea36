"""The database of the file backend gives back what deletes leave unused, and nobody notices but the disk."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend, space
from tests.conftest import PROJECT

PAGE = 4096
LEAST = (space.MIN_PAGES + 200) * PAGE
"""So much may be left of a file: what is kept, and what is not worth being given back."""
PATIENCE = 600.0
TEXT = "x" * 20_000
"""Of a message; its row has some pages of its own."""


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileStorageBackend]:
    monkeypatch.setattr(space, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(space, "PAUSE_SECONDS", 0.002)
    async with FileStorageBackend(tmp_path) as backend:
        yield backend


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "system/store.db"


async def _fill(backend: FileStorageBackend, count: int) -> None:
    await backend.queues.create_queue("kept")
    await backend.queues.create_queue("gone")
    for start in range(0, count, 50):
        await asyncio.gather(
            *(backend.queues.send("gone", TEXT) for _ in range(start, min(start + 50, count)))
        )
        await backend.queues.send("kept", f"{start}{TEXT}")


async def _until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


def _pragma(database: Path, name: str) -> Any:
    connection = sqlite3.connect(database, timeout=120)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


async def _kept(backend: FileStorageBackend) -> list[str]:
    return [message.text for message in await backend.queues.peek("kept", max_messages=32)]


async def test_the_file_shrinks_while_nobody_writes(backend: FileStorageBackend, database: Path) -> None:
    await _fill(backend, 400)
    kept = await _kept(backend)
    await _until(lambda: database.stat().st_size > 400 * 5 * PAGE)
    await backend.queues.clear("gone")
    await _until(lambda: database.stat().st_size < LEAST)
    await _until(lambda: os.stat(f"{database}-wal").st_size == 0)
    assert await _kept(backend) == kept
    assert _pragma(database, "integrity_check") == "ok"


async def test_a_little_unused_space_is_left_for_what_is_written_next(
    backend: FileStorageBackend, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float | None] = []
    give_back = space.UnusedSpace.give_back
    monkeypatch.setattr(
        space.UnusedSpace,
        "give_back",
        lambda self, connection: looked.append(give_back(self, connection)) or looked[-1],
    )
    await _fill(backend, 30)
    await backend.queues.clear("gone")
    looked.clear()
    await backend.queues.send("kept", "one more")
    await _until(lambda: bool(looked))
    assert set(looked) == {None}
    assert isinstance(found := _pragma(database, "freelist_count"), int)
    assert found > 100


async def test_what_is_written_meanwhile_waits_for_no_more_than_a_step(
    backend: FileStorageBackend, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[float | None] = []
    give_back = space.UnusedSpace.give_back

    def counted(self: space.UnusedSpace, connection: sqlite3.Connection) -> float | None:
        self._step = 4  # so that there are many more than are counted here
        steps.append(give_back(self, connection))
        return steps[-1]

    monkeypatch.setattr(space.UnusedSpace, "give_back", counted)
    await _fill(backend, 400)
    await backend.queues.clear("gone")
    between: list[int] = []
    for n in range(10):
        await _until(lambda: bool(steps) and steps[-1] is not None)
        with monkeypatch.context() as calm:
            # The next step does not come before it is seen how many there were.
            calm.setattr(space, "IDLE_SECONDS", 600)
            before = len(steps)
            await backend.queues.send("kept", f"meanwhile {n}")
            between.append(len(steps) - before)
        steps.append(None)
        await backend.queues.send("kept", "and on it goes")
    assert max(between) <= 1, "one that was under way"
    await _until(lambda: database.stat().st_size < LEAST)
    assert _pragma(database, "integrity_check") == "ok"


async def test_no_step_is_done_while_another_process_writes(
    backend: FileStorageBackend, database: Path
) -> None:
    await _fill(backend, 100)
    full = _pragma(database, "page_count")
    other = sqlite3.connect(database, isolation_level=None)
    try:
        await backend.queues.clear("gone")
        other.execute("BEGIN IMMEDIATE")
        # Not the size of the file, which what was written back of an earlier step may still cut off.
        pages = _pragma(database, "page_count")
        await asyncio.sleep(0.2)  # ten times as long as it waits
        assert _pragma(database, "page_count") == pages
        assert await _kept(backend), "nobody is kept from reading"
        other.execute("ROLLBACK")
        await _until(lambda: _pragma(database, "page_count") < full / 4)
    finally:
        other.close()


async def test_the_file_shrinks_once_nobody_reads_what_was_there_before(
    backend: FileStorageBackend, database: Path
) -> None:
    await _fill(backend, 400)
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN")
        count = other.execute("SELECT count(*) FROM messages").fetchone()
        await backend.queues.clear("gone")
        await _until(lambda: _pragma(database, "freelist_count") == 0)
        await asyncio.sleep(0.1)
        assert other.execute("SELECT count(*) FROM messages").fetchone() == count
        other.execute("ROLLBACK")
        await _until(lambda: database.stat().st_size < LEAST)
    finally:
        other.close()


async def test_the_log_stays_short_as_long_as_somebody_reads_what_was_there_before(
    backend: FileStorageBackend, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "MAX_MOVED_PAGES", 128)
    looked: list[float | None] = []
    give_back = space.UnusedSpace.give_back
    for queue in ("gone", "kept"):  # All that is kept has to be moved.
        await backend.queues.create_queue(queue)
        for _ in range(8):
            await asyncio.gather(*(backend.queues.send(queue, TEXT) for _ in range(50)))
    other = sqlite3.connect(database, isolation_level=None)
    try:
        other.execute("BEGIN")
        count = other.execute("SELECT count(*) FROM messages").fetchone()
        await backend.queues.clear("gone")
        log = os.stat(f"{database}-wal").st_size
        monkeypatch.setattr(
            space.UnusedSpace,
            "give_back",
            lambda self, connection: looked.append(give_back(self, connection)) or looked[-1],
        )
        await _until(lambda: looked.count(space.IDLE_SECONDS) > 3)
        assert os.stat(f"{database}-wal").st_size < log + 2 * (128 + space._MAX_STEP) * PAGE
        assert other.execute("SELECT count(*) FROM messages").fetchone() == count
        other.execute("ROLLBACK")
        await _until(lambda: _pragma(database, "freelist_count") == 0)
        await _until(lambda: os.stat(f"{database}-wal").st_size == 0)
    finally:
        other.close()
    assert await backend.queues.length("kept") == 400
    assert _pragma(database, "integrity_check") == "ok"


def test_the_file_is_cut_off_though_whoever_emptied_its_end_was_killed_before(tmp_path: Path) -> None:
    database = tmp_path / "store.db"
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        space.prepare(connection)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("CREATE TABLE messages (text TEXT)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO messages VALUES (?)", [(TEXT,)] * 300)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("DELETE FROM messages")
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        assert database.stat().st_size > 300 * 5 * PAGE
        assert space.UnusedSpace().give_back(connection) is None
        assert database.stat().st_size < 10 * PAGE
        assert space.UnusedSpace().give_back(connection) is None
    finally:
        connection.close()


WORKER = """
import asyncio, sys
from storage_lib.backends.file import FileStorageBackend, space
space.IDLE_SECONDS, space.PAUSE_SECONDS = 0.005, 0.001
async def main():
    async with FileStorageBackend(sys.argv[1]) as backend:
        await backend.queues.create_queue("mine")
        print("ready", flush=True)
        for n in range(int(sys.argv[2])):
            sent = await asyncio.gather(*(backend.queues.send("mine", "x" * 20_000) for _ in range(100)))
            await backend.queues.send("kept", f"{n} of {sys.argv[3]}")
            print("kept", n, flush=True)
            await backend.queues.clear("mine")
            await asyncio.sleep(0.03)
asyncio.run(main())
"""


async def _worker(folder: Path, rounds: int, name: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, str(folder), str(rounds), name),
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        limit=2**20,
    )


async def test_killed_at_any_moment_it_loses_nothing(
    backend: FileStorageBackend, tmp_path: Path, database: Path
) -> None:
    await backend.queues.create_queue("kept")
    kept = 0
    for n in range(6):
        worker = await _worker(tmp_path, 1000, "one that is killed")
        assert worker.stdout is not None
        for _ in range(3 + n):
            line = await asyncio.wait_for(worker.stdout.readline(), PATIENCE)
        await asyncio.sleep(n * 0.01)
        worker.send_signal(signal.SIGKILL)
        rest = await worker.stdout.read()
        await worker.wait()
        told = (line + rest).split(b"\n")
        kept += int(
            next(text for text in reversed(told) if text.startswith(b"kept") and len(told) > 0).split()[1]
        )
        kept += 1
        assert _pragma(database, "integrity_check") == "ok"
        assert await backend.queues.length("kept") >= kept
        await backend.queues.clear("mine")
    await _until(lambda: database.stat().st_size < LEAST)


async def test_several_processes_write_and_give_back_at_the_same_time(
    backend: FileStorageBackend, tmp_path: Path, database: Path
) -> None:
    await backend.queues.create_queue("kept")
    workers = [await _worker(tmp_path, 8, f"worker {n}") for n in range(3)]
    for worker in workers:
        await asyncio.wait_for(worker.communicate(), PATIENCE)
        assert worker.returncode == 0
    assert await backend.queues.length("kept") == 24
    assert _pragma(database, "integrity_check") == "ok"
    await backend.queues.send("kept", "one more")  # who deleted is gone: whoever writes next gives it back
    await _until(lambda: database.stat().st_size < LEAST)


@pytest.fixture
async def earlier(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file that was made before files could shrink, nine tenths of it unused."""
    with monkeypatch.context() as patch:
        patch.setattr(space, "prepare", lambda _: None)
        patch.setattr(space.UnusedSpace, "give_back", lambda *_: None)
        async with FileStorageBackend(tmp_path) as backend:
            await _fill(backend, 400)
            await backend.queues.clear("gone")
            kept = await _kept(backend)
    assert _pragma(database, "auto_vacuum") == 0
    assert database.stat().st_size > 400 * 5 * PAGE
    return kept


async def test_a_small_file_of_an_earlier_version_is_made_anew_once(
    earlier: list[str], backend: FileStorageBackend, database: Path
) -> None:
    await backend.queues.send("gone", "one more")
    await _until(lambda: database.stat().st_size < LEAST)
    assert await _kept(backend) == earlier
    assert (_pragma(database, "auto_vacuum"), _pragma(database, "integrity_check")) == (2, "ok")


async def test_a_large_file_of_an_earlier_version_is_made_anew_by_command(
    earlier: list[str],
    backend: FileStorageBackend,
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(space, "MAX_SMALL_PAGES", 10)
    size = database.stat().st_size
    looked: list[None] = []
    make_anew = space.make_anew
    monkeypatch.setattr(space, "make_anew", lambda _: looked.append(None))
    await backend.queues.send("gone", "one more")
    assert await _kept(backend) == earlier
    command = [sys.executable, "-m", "storage_lib.backends.file.anew", str(database)]
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=PROJECT, check=True, capture_output=True, text=True
    )
    assert looked == []
    monkeypatch.setattr(space, "make_anew", make_anew)
    assert f"{size / 1e6:.1f} MB before" in run.stdout
    assert database.stat().st_size < 200 * PAGE
    assert await _kept(backend) == earlier
    await backend.queues.send("kept", "still in use")
    assert (_pragma(database, "auto_vacuum"), _pragma(database, "integrity_check")) == (2, "ok")


@pytest.mark.parametrize(("content", "words"), [(None, "is not there"), (b"no database" * 500, "as it was")])
def test_the_command_says_what_it_cannot_do(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "store.db"
    if content is not None:
        path.write_bytes(content)
    command = [sys.executable, "-m", "storage_lib.backends.file.anew", str(path)]
    run = subprocess.run(command, cwd=PROJECT, check=False, capture_output=True, text=True)
    assert run.returncode == 1
    assert words in run.stderr
    assert content is None or path.read_bytes() == content


def test_the_documentation_has_the_command() -> None:
    text = (PROJECT / "docs" / "operations.md").read_text()
    assert "python -m storage_lib.backends.file.anew" in text
