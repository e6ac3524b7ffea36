"""A forked process may do everything if its parent has not used Azure or S3; else it is told at once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.stub_service import Answer, Request, StubService

STAMP = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}

PROGRAM = """
import asyncio, multiprocessing, os, signal, sys, tempfile
from concurrent.futures import ProcessPoolExecutor
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.errors import StorageError
from storage_lib.layers.retry import RetryBackend

kind, endpoint, case = sys.argv[1:]

def make():
    if kind == "s3":
        return S3StorageBackend("bucket", endpoint=endpoint, access_key_id="i", secret_access_key="s")
    address = f"{endpoint}/a"
    return AzureStorageBackend(
        f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint={address};"
        f"QueueEndpoint={address};TableEndpoint={address}"
    )

async def use(backend):
    await backend.objects.put("k", b"x")
    await backend.close()

async def collect(found):
    return [one async for one in found]

async def read(backend):
    async with backend.objects.open_reader("k") as reader:
        await reader.read()

def operations(backend):
    objects, tables, queues = backend.objects, backend.tables, backend.queues
    yield lambda: backend.open()
    yield lambda: objects.put("k", b"x")
    yield lambda: objects.put("k", b"x", ttl=60)
    yield lambda: objects.put("k", b"x", if_match="e")
    yield lambda: objects.put_stream("k", [b"x" * 9_000_000] * 2)
    yield lambda: objects.get("k")
    yield lambda: objects.head("k")
    yield lambda: objects.delete("k")
    yield lambda: objects.delete("k", if_match="e")
    yield lambda: objects.copy("k", "l")
    yield lambda: objects.list_page()
    yield lambda: collect(objects.iterate())
    yield lambda: read(backend)
    yield lambda: objects.sweep_expired()
    if kind == "s3":
        return
    yield lambda: tables.insert("table", "p", "r", {})
    yield lambda: tables.upsert("table", "p", "r", {})
    yield lambda: tables.get("table", "p", "r")
    yield lambda: tables.query("table")
    yield lambda: tables.create_table("table")
    yield lambda: queues.send("queue", b"x")
    yield lambda: queues.receive("queue")
    yield lambda: queues.length("queue")
    yield lambda: queues.create_queue("queue")

def refused(backend):
    for operation in operations(backend):
        try:
            asyncio.run(operation())
        except StorageError as error:
            assert "forked" in str(error) and "spawn" in error.remedy, error
        else:
            raise AssertionError("it worked")

def in_child(work):
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(300)
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status

def others_work():
    async def use(backend):
        async with backend:
            await backend.objects.put("k", b"x")
            assert (await backend.objects.get("k")).data == b"x"
            await backend.tables.upsert("table", "p", "r", {})
            await backend.queues.send("queue", b"x")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(use(FileStorageBackend(folder)))
    asyncio.run(use(MemoryBackend()))

def save():
    asyncio.run(use(make()))
    return "saved"

def main():
    if case == "unused":
        in_child(save)
        in_child(lambda: (save(), in_child(lambda: refused(make()))))
        # What its children did does not concern the parent.
        save()
        return
    backend = make()
    async def first():
        await backend.objects.put("k", b"x")
        if case == "running":
            in_child(lambda: (refused(backend), refused(make()), refused(RetryBackend(make()))))
        await backend.close()
    backend_used = asyncio.run(first())
    if case == "used":
        in_child(lambda: (refused(make()), refused(RetryBackend(make())), others_work()))
        in_child(lambda: in_child(lambda: refused(make())))
        in_child(others_work)
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            try:
                pool.submit(save).result(120)
            except StorageError as error:
                assert "forked" in str(error), error
            else:
                raise AssertionError("it worked")
        # The remedy.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(save).result(120) == "saved"
    save()

if __name__ == "__main__":
    main()
    print("done")
"""


def answer(request: Request) -> Answer:
    if request.method in ("GET", "HEAD"):
        return Answer(200, b"x", STAMP)
    return Answer(201 if "x-ms-version" in request.headers else 200, headers=STAMP)


@pytest.mark.parametrize("case", ["unused", "used", "running"])
@pytest.mark.parametrize("kind", ["azure", "s3"])
async def test_a_forked_process_is_told_what_to_do(kind: str, case: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    async with StubService(answer) as stub:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore::DeprecationWarning", script, kind, stub.endpoint, case),
            cwd=PROJECT,
            env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(600):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert (process.returncode, out, errors) == (0, b"done\n", b""), errors.decode()
