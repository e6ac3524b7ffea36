"""Thousands of calls at once: bounded by the process, in turn, without waiting for each other."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from storage_lib.azure_backend import AzureStorageBackend
from storage_lib.backends.cloud import byte_stores
from storage_lib.backends.cloud.requests import Requests
from storage_lib.backends.cloud.turns import KEYS
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, StorageUnavailableError
from storage_lib.layers.retry import RetryBackend, RetryOptions, breaker
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.deadline import EACH_SECONDS, Deadline
from storage_lib.s3_backend import S3StorageBackend
from tests.conftest import PROJECT
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.stub_service import Answer, Request, StubService

SOAK = os.environ.get("SOAK") == "1"
CALLS, DESCRIPTORS = (3000, 1024) if SOAK else (400, 256)

MANY = """
import asyncio, json, resource, sys
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.config import StorageConfig
from storage_lib.manager import StorageManager

config, calls, descriptors = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

async def main():
    async with StorageManager(StorageConfig(**config)) as storage:
        await asyncio.gather(*(storage.save(f"many/{n}", {"n": n}) for n in range(calls)))
        found = await asyncio.gather(*(storage.load(f"many/{n}") for n in range(calls)))
        assert found == [{"n": n} for n in range(calls)]
        if config["storage_type"] == "s3":
            return

        async def stream(n):
            async with storage.open_reader(f"many/{n}") as reader:
                return await reader.read()

        await asyncio.gather(*(stream(n) for n in range(calls)))
        tables, queues = storage.backend.tables, storage.backend.queues
        await tables.create_table("many")
        await queues.create_queue("many")
        await asyncio.gather(
            *(tables.upsert("many", "p", f"r{n}", {"n": n}) for n in range(calls)),
            *(queues.send("many", f"{n}") for n in range(calls)),
            *(storage.save(f"more/{n}", n) for n in range(calls)),
        )
        rows = await asyncio.gather(*(tables.get("many", "p", f"r{n}") for n in range(calls)))
        assert [row.properties["n"] for row in rows] == list(range(calls))
        assert await queues.length("many") == calls

asyncio.run(main())
print("done")
"""


@pytest.mark.parametrize("name", ["file", "azure", "moto", "seaweedfs"])
def test_many_calls_at_once_need_few_descriptors(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = _config(name, request, tmp_path)
    told = msgspec.json.encode([asdict(config), CALLS, DESCRIPTORS]).decode()
    run = subprocess.run([sys.executable, "-c", MANY, told], cwd=PROJECT, capture_output=True, timeout=880)
    assert (run.returncode, run.stdout) == (0, b"done\n"), run.stderr.decode()[-3000:]


def _config(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    unique = f"c{uuid.uuid4().hex}"
    if name == "file":
        return StorageConfig(base_path=str(tmp_path))
    server: Any = request.getfixturevalue("azurite" if name == "azure" else name)
    if name == "azure":
        return StorageConfig(
            storage_type="azure", connection_string=server.connection_string, container=unique
        )

    async def create() -> None:
        backend = _s3(server, unique, 64)
        await backend.open()
        await backend.close()

    asyncio.run(create())
    return StorageConfig(
        storage_type="s3",
        s3_bucket=unique,
        s3_endpoint=server.endpoint,
        s3_region=REGION,
        s3_access_key_id=ACCESS_KEY_ID,
        s3_secret_access_key=SECRET_ACCESS_KEY,
    )


def _s3(server: Any, bucket: str, limit: int) -> S3StorageBackend:
    return S3StorageBackend(
        bucket,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        create_bucket=True,
        concurrent_requests=limit,
    )


@pytest.fixture(params=["azure", "moto"])
async def narrow(request: pytest.FixtureRequest) -> AsyncIterator[StorageBackend]:
    """A backend that may have one request under way."""
    unique = f"c{uuid.uuid4().hex}"
    if request.param == "moto":
        backend: StorageBackend = _s3(request.getfixturevalue("moto"), unique, 1)
    else:
        azurite: Any = request.getfixturevalue("azurite")
        backend = AzureStorageBackend(azurite.connection_string, container=unique, concurrent_requests=1)
    async with backend:
        yield backend


async def test_operations_within_operations_do_not_wait_for_each_other(narrow: StorageBackend) -> None:
    objects = narrow.objects
    data = os.urandom(9_000_000)
    await objects.put("a", data)
    await objects.put("b", b"small")
    async with objects.open_reader("a") as outer, objects.open_reader("b") as inner:
        # Both are open and unread; a stream is made of one of them, and others go on meanwhile.
        await objects.put("c", b"x")
        await objects.put_stream("copy", outer)
        assert await inner.read() == b"small"

        async def parts() -> AsyncIterator[bytes]:
            async with objects.open_reader("copy") as reader:
                async for chunk in reader:
                    await objects.head("b")
                    yield chunk

        await objects.put_stream("again", parts())
    found = await objects.get("again")
    assert found is not None
    assert found.data == data
    async for entry in objects.iterate():
        assert not isinstance(entry, str)
        await objects.copy(entry.key, f"copies/{entry.key}", if_absent=True)
        if entry.key == "c":
            break
    await objects.put("ends", b"x", ttl=0)
    assert await objects.sweep_expired() == 1
    await asyncio.gather(
        *(objects.put_stream(f"s{n}", [data]) for n in range(3)),
        *(objects.copy("a", f"t{n}") for n in range(3)),
        *(objects.move("b", f"u{n}", if_absent=True) for n in range(1)),
        *(objects.get("c") for _ in range(10)),
        *(objects.put("d", b"%d" % n) for n in range(10)),
    )
    assert KEYS == {}


def azure(service: StubService, limit: int = 64) -> StorageBackend:
    from storage_lib.backends import azure

    address = f"{service.endpoint}/account"
    return azure.AzureStorageBackend(
        f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=a2V5;BlobEndpoint={address};"
        f"QueueEndpoint={address};TableEndpoint={address}",
        concurrent_requests=limit,
    )


class Crowd:
    """A service that counts the requests that are there at the same time.

    :param waits_for: answers none until there have been so many.
    """

    def __init__(self, seconds: float = 0.01, waits_for: int = 1) -> None:
        self.now = self.most = 0
        self._seconds = seconds
        self._waits_for = waits_for

    async def __call__(self, request: Request) -> Answer:
        self.now += 1
        self.most = max(self.most, self.now)
        while self.most < self._waits_for:
            await asyncio.sleep(0.001)
        await asyncio.sleep(self._seconds)
        self.now -= 1
        headers = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if request.method in ("GET", "HEAD"):
            return Answer(200, b"x", headers)
        return Answer(204 if "(PartitionKey" in request.path else 201, headers=headers)


async def test_no_more_than_so_many_are_under_way() -> None:
    crowd = Crowd(waits_for=5)
    async with StubService(crowd) as service:
        backends = [azure(service, 5), azure(service, 5)]
        await asyncio.gather(*(backends[n % 2].objects.put(f"{n}", b"x") for n in range(60)))
        assert crowd.most == 5
        crowd.most = 0
        await asyncio.gather(*(backends[n % 2].objects.get(f"{n}") for n in range(60)))
        assert crowd.most == 5
        crowd.most = 0
        await asyncio.gather(*(backends[n % 2].tables.upsert("t", "p", f"{n}", {}) for n in range(60)))
        assert crowd.most == 5

        # Other services have slots of their own, and so many threads have one bound together.
        def work(n: int) -> None:
            async def put() -> None:
                other = azure(service, 5)
                await asyncio.gather(*(other.objects.put(f"{n}-{m}", b"x") for m in range(20)))
                await other.close()

            asyncio.run(put())

        crowd.most = 0
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert crowd.most == 5
        for backend in backends:
            await backend.close()


async def test_waiting_for_a_turn_does_not_count_as_a_store_that_is_silent() -> None:
    async with StubService(Crowd(0.25)) as service:
        backend = RetryBackend(azure(service, 1), RetryOptions(deadline_seconds=5))
        await asyncio.gather(
            *(backend.tables.upsert("t", "p", f"{n}", {}) for n in range(24)),
            *(backend.objects.head(f"{n}") for n in range(24)),
        )
        await backend.close()


async def test_a_silent_store_is_not_waited_for_longer_than_the_deadline() -> None:
    async with StubService(Crowd(3)) as service:
        backend = RetryBackend(azure(service, 1), RetryOptions(deadline_seconds=0.3))
        with pytest.raises(StorageUnavailableError, match="no answer"):
            await backend.objects.head("k")
        await backend.close()


async def test_a_request_for_many_may_take_as_much_longer() -> None:
    """A server that deletes one after the other is no silent one."""

    async def slow(request: Request) -> Answer:
        if b"DELETE" not in request.body:
            return Answer(201)
        await asyncio.sleep(3)
        numbers = re.findall(rb"Content-ID: (\d+)", request.body)
        parts = [b"--b\r\nContent-ID: %s\r\n\r\nHTTP/1.1 202 .\r\n\r\n" % number for number in numbers]
        return Answer(202, b"".join(parts) + b"--b--", {"Content-Type": "multipart/mixed; boundary=b"})

    async with StubService(slow) as service:
        backend = RetryBackend(azure(service), RetryOptions(attempts=1, deadline_seconds=2))
        done = await backend.objects.delete_many([f"{n}" for n in range(256)], missing_ok=True)
        assert set(done.values()) == {None}
        assert len([request for request in service.seen if b"DELETE" in request.body]) == 1
        await backend.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_the_deadline_grows_with_what_a_request_does(waits: bool) -> None:
    now = 0.0
    deadline = Deadline(30, lambda: now)
    async with asyncio.timeout(30) as limit:
        deadline.limit = limit
        before = limit.when()
        if waits:
            deadline.begin_wait()
        deadline.share(1)
        assert deadline.until == 30
        deadline.share(256)
        if waits:
            now = 4.0
            deadline.end_wait()
        after = limit.when()
        await asyncio.sleep(0)
    assert deadline.until == pytest.approx(30 + 255 * EACH_SECONDS + now)
    assert before is not None and after is not None  # noqa: PT018 - for the type checker
    assert after - before >= 255 * EACH_SECONDS - 0.001


async def test_those_in_line_for_a_store_that_is_left_alone_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each of thousands would be waited for until it has timed out, one after the other."""
    monkeypatch.setattr(byte_stores, "READ_SECONDS", 1)
    monkeypatch.setattr(breaker, "THRESHOLD", 1)
    monkeypatch.setattr(breaker, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(breaker, "PAUSE_SECONDS", 60)
    over = asyncio.Event()

    async def silent(_: Request) -> Answer:
        await over.wait()
        return Answer(500)

    async with StubService(silent) as service:
        backend = RetryBackend(azure(service, 1), RetryOptions(attempts=1))
        reads = [backend.objects.get(f"{n}") for n in range(20)]
        writes = [backend.objects.put("k", b"x") for _ in range(20)]
        failed = await asyncio.gather(*reads, *writes, return_exceptions=True)
        assert all(isinstance(failure, StorageUnavailableError) for failure in failed)
        assert ["not tried" in str(failure) for failure in failed] == [False] + 39 * [True]
        assert len(service.seen) == 1
        assert KEYS == {}
        over.set()
        await backend.close()


async def test_turns_are_taken_in_the_order_of_their_calls_and_none_is_lost() -> None:
    requests = Requests(f"test-{uuid.uuid4()}", 2)
    begun: list[int] = []
    go = asyncio.Event()

    async def call(n: int) -> None:
        begun.append(n)
        await go.wait()

    tasks = [asyncio.create_task(requests.send(lambda n=n: call(n))) for n in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == [0, 1]
    # One that is under way, one that is next, and one in the middle.
    for n in (1, 2, 6):
        tasks[n].cancel()
    await asyncio.gather(tasks[1], tasks[2], tasks[6], return_exceptions=True)
    assert begun == [0, 1, 3]
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert begun == [0, 1, 3, 4, 5, 7, 8, 9]
    assert requests._slots.taken == 0
    # Cancelled in the very turn in which the slot is handed over.
    for hops in range(6):
        go.clear()
        tasks = [asyncio.create_task(requests.send(lambda: call(0))) for _ in range(4)]
        await asyncio.sleep(0)
        go.set()
        for _ in range(hops):
            await asyncio.sleep(0)
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert requests._slots.taken == 0


async def test_a_loop_that_is_dropped_gives_its_turns_back() -> None:
    requests = Requests(f"test-{uuid.uuid4()}", 1)

    def drop() -> None:
        loop = asyncio.new_event_loop()
        never, neither = loop.create_future(), loop.create_future()
        held = loop.create_task(requests.send(lambda: never, [("k", 1)]))
        waits = loop.create_task(requests.send(lambda: neither, [("other", 1)]))
        loop.run_until_complete(asyncio.sleep(0.01))
        for task in (held, waits):
            task._log_destroy_pending = False  # pyright: ignore[reportAttributeAccessIssue]
        loop.close()

    thread = threading.Thread(target=drop)
    thread.start()
    await asyncio.to_thread(thread.join)
    for _ in range(3):
        gc.collect()  # one frees what the next one finds

    async def answer() -> str:
        return "sent"

    async with asyncio.timeout(120):
        assert await requests.send(answer, [("k", 1)]) == "sent"
        assert await requests.send(answer, [("other", 1)]) == "sent"
    assert requests._slots.taken == 0
    assert KEYS == {}


@pytest.mark.parametrize("wrong", [0, -1, 1001, True, 1.5, "64", None])
def test_the_bound_is_checked(wrong: Any) -> None:
    for make in (
        lambda: StorageConfig(concurrent_requests=wrong),
        lambda: AzureStorageBackend("UseDevelopmentStorage=true", concurrent_requests=wrong),
        lambda: S3StorageBackend("bucket", concurrent_requests=wrong),
    ):
        with pytest.raises(ConfigurationError) as refused:
            make()
        assert refused.value.field == "concurrent_requests"
        assert refused.value.limit == "1 to 1000"


def test_the_bound_is_a_setting() -> None:
    environ = {"AGENT_STORAGE_CONCURRENT_REQUESTS": "7"}
    assert StorageConfig.from_env(environ).concurrent_requests == 7
    assert StorageConfig.from_env({}).concurrent_requests == 64
    for text in ("0", "many", "-1", "1001", "7.5"):
        with pytest.raises(ConfigurationError) as refused:
            StorageConfig.from_env({"AGENT_STORAGE_CONCURRENT_REQUESTS": text})
        assert refused.value.field == "concurrent_requests"
