"""The library's threads are its own: what users put into the event loop's pool does not hold up its work."""

from __future__ import annotations

import asyncio
import contextvars
import io
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageManager
from storage_lib import threads as threads_module
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.ports.backend import StorageBackend
from storage_lib.threads import Threads
from tests.conftest import PROJECT
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

LARGE = os.urandom(3 * 1024 * 1024)


@pytest.fixture
async def full_pool() -> AsyncIterator[None]:
    """The loop's own pool has no thread left, as after many ``asyncio.to_thread`` of users."""
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(2)
    loop.set_default_executor(pool)
    release = threading.Event()
    held = [loop.run_in_executor(None, release.wait, 120) for _ in range(4)]
    yield
    assert not any(one.done() for one in held)
    release.set()
    await asyncio.gather(*held)
    loop.set_default_executor(ThreadPoolExecutor())
    pool.shutdown()


async def chunks(size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, len(LARGE), size):
        yield LARGE[start : start + size]


def backend_of(store: str, folder: Path, azurite: Any, moto: Any) -> StorageBackend:
    if store == "file":
        return FileStorageBackend(folder)
    if store == "azure":
        # Its address is a name, which has to be looked up.
        text = azurite.connection_string.replace("127.0.0.1", "localhost")
        return AzureStorageBackend(text, container=f"threads-{uuid.uuid4().hex}")
    if store == "s3":
        return S3StorageBackend(
            f"threads-{uuid.uuid4().hex}",
            endpoint=moto.endpoint.replace("127.0.0.1", "localhost"),
            region=REGION,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            create_bucket=True,
        )
    return MemoryBackend()


@pytest.mark.parametrize("store", ["memory", "file", "azure", "s3"])
async def test_nothing_waits_for_the_threads_of_users(
    store: str, tmp_path: Path, azurite: Any, moto: Any, full_pool: None
) -> None:
    async with asyncio.timeout(120), backend_of(store, tmp_path, azurite, moto) as backend:
        storage = StorageManager(backend=backend)
        await storage.save("bytes", LARGE)
        assert await storage.load("bytes") == LARGE
        for source in (io.BytesIO(LARGE), chunks(), [LARGE[:10], LARGE[10:]]):
            await storage.write_stream("streamed", source)
            async with storage.open_reader("streamed") as reader:
                assert await reader.read() == LARGE
        assert {key async for key in storage.list_keys()} == {"bytes", "streamed"}
        await storage.delete("bytes")
        if store != "s3":
            await backend.queues.send("threads", "a message")
            await backend.tables.upsert("threads", "p", "r", {"n": 1})
            assert (await backend.tables.get("threads", "p", "r")).properties["n"] == 1


async def test_a_stream_that_fails_is_cleared_up_without_the_threads_of_users(
    tmp_path: Path, full_pool: None
) -> None:
    async def fails() -> AsyncIterator[bytes]:
        yield LARGE
        raise ValueError("no more")

    async with asyncio.timeout(120), FileStorageBackend(tmp_path) as backend:
        with pytest.raises(ValueError, match="no more"):
            await backend.objects.put_stream("k", fails())
        assert [entry async for entry in backend.objects.iterate()] == []


async def test_sources_that_block_do_not_hold_up_what_has_none() -> None:
    release = threading.Event()

    def blocking() -> Iterator[bytes]:
        release.wait(600)
        yield b"x"

    storage = StorageManager(backend=MemoryBackend())
    streams = [asyncio.create_task(storage.write_stream(f"s{n}", blocking())) for n in range(40)]
    async with asyncio.timeout(120):
        await storage.save("bytes", LARGE)
        assert await storage.load("bytes") == LARGE
    release.set()
    await asyncio.gather(*streams)


# -- the threads themselves


def alive(name: str) -> int:
    return sum(thread.name == name for thread in threading.enumerate())


async def test_there_are_so_many_and_no_more() -> None:
    some = Threads("some", 3)
    release, lock = threading.Event(), threading.Lock()
    running, most = 0, 0

    def work(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(120)
        with lock:
            running -= 1
        return n

    tasks = [asyncio.create_task(some.run(work, n)) for n in range(20)]
    while running < 3:
        await asyncio.sleep(0)
    assert alive("some") == 3
    release.set()
    assert await asyncio.gather(*tasks) == list(range(20))
    assert most == 3


async def test_one_after_another_needs_one_thread_which_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads_module, "_IDLE_SECONDS", 2)
    few = Threads("few", 8)
    for n in range(50):
        assert await few.run(pow, n, 2) == n * n
        few.finish()  # It is idle again.
    assert alive("few") == 1
    async with asyncio.timeout(120):
        while alive("few"):
            await asyncio.sleep(0.01)
    assert await few.run(pow, 2, 2) == 4


async def test_what_is_raised_comes_back() -> None:
    one = Threads("one", 1)

    def stops() -> None:
        raise StopIteration(1)

    def exits() -> None:
        raise SystemExit(2)

    with pytest.raises(ZeroDivisionError):
        await one.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await one.run(stops)
    with pytest.raises(SystemExit):
        await one.run(exits)
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    assert await one.run(variable.get) == 7


async def test_a_caller_that_is_cancelled_before_its_turn_is_left_out() -> None:
    one = Threads("one", 1)
    begun, release = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        begun.set()
        release.wait(120)
        done.append("first")

    running = asyncio.create_task(one.run(first))
    while not begun.is_set():
        await asyncio.sleep(0)
    queued = asyncio.create_task(one.run(done.append, "queued"))
    await asyncio.sleep(0)
    for task in (running, queued):
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(running, queued, return_exceptions=True)
    )
    release.set()
    await one.run(done.append, "next")
    assert done == ["first", "next"]


def test_several_loops_share_them() -> None:
    shared = Threads("shared", 2)

    async def many() -> int:
        return sum(await asyncio.gather(*(shared.run(pow, n, 2) for n in range(100))))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: asyncio.run(many()), range(4))) == [328350] * 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_process_has_its_own() -> None:
    async def child() -> int:
        async with asyncio.timeout(120):
            return await threads_module.working.run(pow, 3, 2)

    assert await threads_module.working.run(pow, 3, 2) == 9
    pid = os.fork()
    if pid == 0:
        asyncio.events._set_running_loop(None)
        os._exit(asyncio.new_event_loop().run_until_complete(child()))
    assert await asyncio.to_thread(lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) == 9


FORKED = """
import asyncio, os, signal, sys, threading
from storage_lib.threads import Threads

pool = Threads("pool", 4)
asyncio.run(pool.run(int))
sys.setswitchinterval(1e-6)

def child():
    together, done = threading.Barrier(8), []

    async def work():
        together.wait()
        done.append(await pool.run(int, 1))

    workers = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(done)

for _ in range(30):
    pid = os.fork()
    if not pid:
        signal.alarm(300)
        os._exit(child())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 8, status
"""


def test_threads_of_a_forked_process_may_all_begin_at_once() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
