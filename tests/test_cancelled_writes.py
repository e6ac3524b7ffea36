"""A write whose caller was cancelled never lands after one that was acknowledged later.

The service here holds the first write until it is told to carry it out, so that what counts is the order.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.cloud import requests as cloud_requests
from storage_lib.backends.cloud.turns import KEYS
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.errors import StorageError, StorageUnavailableError
from storage_lib.layers.retry import RetryBackend
from storage_lib.ports.backend import QueueMessage, StorageBackend
from storage_lib.ports.tables import Delete, Insert, Upsert
from tests.stub_service import Answer, Request, StubService

MESSAGE = QueueMessage("m1", "eA==", b"x", 1, "receipt", *[datetime(2026, 1, 1, tzinfo=UTC)] * 3)
ETAG = "W/\"datetime'2026-01-01T00%3A00%3A00.0000000Z'\""
STAMP = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
SENT = b"""<?xml version="1.0"?><QueueMessagesList><QueueMessage><MessageId>1</MessageId>
<InsertionTime>Thu, 01 Jan 2026 00:00:00 GMT</InsertionTime><PopReceipt>p</PopReceipt>
<ExpirationTime>Thu, 01 Jan 2026 00:00:00 GMT</ExpirationTime>
<TimeNextVisible>Thu, 01 Jan 2026 00:00:00 GMT</TimeNextVisible></QueueMessage></QueueMessagesList>"""
PART = (
    b"--c\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b'HTTP/1.1 204 No Content\r\nETag: W/"x"\r\n\r\n\r\n'
)
BATCHED = b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n" + 3 * PART + b"--c--\r\n--b--\r\n"


class Held:
    """A service whose first write takes effect only when it is told to. ``done`` is what took effect, in
    order; ``begun`` is set when the first write has arrived."""

    def __init__(self, *, status: int | None = None) -> None:
        self.done: list[Request] = []
        self.arrived = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self._status = status

    async def __call__(self, request: Request) -> Answer:
        if request.method in ("GET", "HEAD"):
            return Answer(200, b"x", STAMP)
        if ".system/probe/" in request.path:
            return Answer(412 if request.method == "DELETE" else 200, headers=STAMP)
        self.arrived += 1
        first = self.arrived == 1
        if first:
            self.begun.set()
            await self.go.wait()
        self.done.append(request)
        if first and self._status is not None:
            return Answer(self._status)
        return _answer(request)


def _answer(request: Request) -> Answer:
    headers = dict(STAMP)
    if request.path.endswith("$batch"):
        return Answer(202, BATCHED, {"Content-Type": "multipart/mixed; boundary=b"})
    if request.path.endswith("/messages") and request.method == "POST":
        return Answer(201, SENT, {"Content-Type": "application/xml"})
    if "/messages/" in request.path and request.method == "PUT":
        headers |= {"x-ms-popreceipt": "p", "x-ms-time-next-visible": "Thu, 01 Jan 2026 00:00:00 GMT"}
    if "(PartitionKey" in request.path or "/messages" in request.path:
        return Answer(204, headers=headers)
    if "/t" in request.path and request.method == "POST":
        return Answer(204, headers=headers)
    if "x-ms-copy-source" in request.headers:
        return Answer(202, headers={**STAMP, "x-ms-copy-status": "success", "x-ms-copy-id": "c"})
    if "x-amz-copy-source" in request.headers:
        return Answer(200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
    if request.method == "DELETE":
        return Answer(202 if "x-ms-version" in request.headers else 204)
    return Answer(201 if "x-ms-version" in request.headers else 200, headers=headers)


def azure(service: StubService) -> StorageBackend:
    address = f"{service.endpoint}/account"
    return AzureStorageBackend(
        f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=a2V5;BlobEndpoint={address};"
        f"QueueEndpoint={address};TableEndpoint={address}"
    )


def s3(service: StubService) -> StorageBackend:
    return S3StorageBackend(
        "bucket", endpoint=service.endpoint, access_key_id="id", secret_access_key="secret"
    )


type Write = Callable[[StorageBackend], Awaitable[Any]]


def put(data: bytes = b"v1", key: str = "k", **options: Any) -> Write:
    return lambda backend: backend.objects.put(key, data, **options)


def upsert(value: int, row: str = "r") -> Write:
    return lambda backend: backend.tables.upsert("table", "p", row, {"n": value})


def batch(*operations: Any) -> Write:
    return lambda backend: backend.tables.batch("table", "p", operations)


WRITES: dict[str, tuple[Callable[[StubService], StorageBackend], Write, Write]] = {
    "azure put, put": (azure, put(), put(b"v2")),
    "azure put, conditional put": (azure, put(), put(b"v2", if_match="e")),
    "azure conditional put, put": (azure, put(if_match="e"), put(b"v2")),
    "azure put of any version, put": (azure, put(if_match="*"), put(b"v2")),
    "azure put of any version, conditional put": (azure, put(if_match="*"), put(b"v2", if_match="e")),
    "azure create, conditional delete": (
        azure,
        put(if_absent=True),
        lambda backend: backend.objects.delete("k", if_match="e"),
    ),
    "azure copy, put": (azure, lambda backend: backend.objects.copy("source", "k"), put(b"v2")),
    "azure put, copy": (azure, put(), lambda backend: backend.objects.copy("source", "k")),
    "azure conditional delete, put": (
        azure,
        lambda backend: backend.objects.delete("k", if_match="e"),
        put(b"v2"),
    ),
    "s3 put, put": (s3, put(), put(b"v2")),
    "s3 put, delete": (s3, put(), lambda backend: backend.objects.delete("k")),
    "s3 copy, put": (s3, lambda backend: backend.objects.copy("source", "k"), put(b"v2")),
    "table upsert, upsert": (azure, upsert(1), upsert(2)),
    "table upsert, update": (azure, upsert(1), lambda backend: backend.tables.update("table", "p", "r", {})),
    "table update with an ETag, delete": (
        azure,
        lambda backend: backend.tables.update("table", "p", "r", {"n": 1}, etag=ETAG),
        lambda backend: backend.tables.delete("table", "p", "r"),
    ),
    "table insert, delete": (
        azure,
        lambda backend: backend.tables.insert("table", "p", "r", {}),
        lambda backend: backend.tables.delete("table", "p", "r", etag=ETAG),
    ),
    "table delete, insert": (
        azure,
        lambda backend: backend.tables.delete("table", "p", "r"),
        lambda backend: backend.tables.insert("table", "p", "r", {}),
    ),
    "table batch, upsert": (azure, batch(Upsert("q"), Insert("r"), Delete("s")), upsert(2, "s")),
    "table upsert, batch": (azure, upsert(1, "s"), batch(Upsert("q"), Insert("r"), Delete("s"))),
    "queue send, clear": (
        azure,
        lambda backend: backend.queues.send("queue", b"x"),
        lambda backend: backend.queues.clear("queue"),
    ),
    "queue clear, send": (
        azure,
        lambda backend: backend.queues.clear("queue"),
        lambda backend: backend.queues.send("queue", b"x"),
    ),
    "queue update, delete": (
        azure,
        lambda backend: backend.queues.update("queue", MESSAGE, visibility_timeout=0),
        lambda backend: backend.queues.delete("queue", MESSAGE),
    ),
    "queue delete, update": (
        azure,
        lambda backend: backend.queues.delete("queue", MESSAGE),
        lambda backend: backend.queues.update("queue", MESSAGE, visibility_timeout=60),
    ),
}


@asynccontextmanager
async def held(make: Callable[[StubService], StorageBackend], **options: Any) -> AsyncIterator[Any]:
    service = Held(**options)
    async with StubService(service) as stub:
        backend = make(stub)
        try:
            yield service, stub, backend
        finally:
            service.go.set()
            await backend.close()


async def cancelled(service: Held, write: Awaitable[Any]) -> None:
    """Cancel a write when its request has arrived."""
    task = asyncio.ensure_future(write)
    await service.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def turns(count: int = 50) -> None:
    """Let others do what they can do at once."""
    for _ in range(count):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("retrying", [False, True], ids=["bare", "retry layer"])
@pytest.mark.parametrize("kind", WRITES)
async def test_a_write_waits_for_a_cancelled_one_of_the_same_thing(kind: str, retrying: bool) -> None:
    make, first, second = WRITES[kind]
    async with held(make) as (service, _, backend):
        if retrying:
            backend = RetryBackend(backend)
        await cancelled(service, first(backend))
        later = asyncio.ensure_future(second(backend))
        await turns()
        assert service.arrived == 1
        assert not later.done()
        service.go.set()
        await later
        assert len(service.done) == 2
        assert service.arrived == 2
    assert KEYS == {}


async def test_other_keys_do_not_wait() -> None:
    async with held(azure) as (service, _, backend):
        await cancelled(service, backend.objects.put("k", b"v1"))
        await backend.objects.put("other", b"x")
        await backend.tables.upsert("table", "p", "k", {})
        assert not service.go.is_set()
        assert len(KEYS) == 1


async def test_two_backends_on_one_store_are_one_process() -> None:
    async with held(s3) as (service, stub, backend):
        other = s3(stub)
        await cancelled(service, backend.objects.put("k", b"v1"))
        later = asyncio.create_task(other.objects.put("k", b"v2"))
        await turns()
        service.go.set()
        await later
        await other.close()
        assert [request.body for request in service.done] == [b"v1", b"v2"]


async def test_a_write_in_another_thread_waits_too() -> None:
    async with held(azure) as (service, stub, backend):
        await cancelled(service, backend.objects.put("k", b"v1"))

        async def elsewhere() -> None:
            other = azure(stub)
            await other.objects.put("k", b"v2")
            await other.close()

        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        await turns()
        assert service.arrived == 1
        service.go.set()
        await asyncio.to_thread(thread.join)
        assert [request.body for request in service.done] == [b"v1", b"v2"]


async def test_writes_of_one_key_are_carried_out_in_the_order_of_their_calls() -> None:
    """Also those that were under way when another one was cancelled."""
    async with held(azure) as (service, _, backend):
        tasks = [asyncio.create_task(backend.objects.put("k", b"%d" % n)) for n in range(5)]
        await service.begun.wait()
        await turns()
        for task in (tasks[0], tasks[2]):
            task.cancel()
        await turns()
        assert service.arrived == 1
        service.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The third had not been sent, and never is.
        assert [request.body for request in service.done] == [b"0", b"1", b"3", b"4"]
        assert [task.cancelled() for task in tasks] == [True, False, True, False, False]


async def test_conditional_writes_of_one_key_run_side_by_side() -> None:
    async with held(azure) as (service, _, backend):
        first = asyncio.create_task(backend.objects.put("k", b"1", if_match="e"))
        await service.begun.wait()
        await backend.objects.put("k", b"2", if_match="e")
        assert not first.done()


async def test_a_cancelled_write_is_not_tried_again() -> None:
    async with held(azure, status=503) as (service, _, backend):
        backend = RetryBackend(backend)
        await cancelled(service, backend.objects.put("k", b"v1"))
        service.go.set()
        await backend.objects.put("k", b"v2")
        assert [request.body for request in service.done] == [b"v1", b"v2"]


@pytest.mark.parametrize("make", [azure, s3])
async def test_closing_waits_for_what_goes_on(make: Any) -> None:
    async with held(make) as (service, _, backend):
        await cancelled(service, backend.objects.copy("source", "k"))
        closing = asyncio.create_task(backend.close())
        await turns()
        assert not closing.done()
        service.go.set()
        await closing
        assert len(service.done) == 1


async def test_what_is_never_answered_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_requests, "ABANDONED_SECONDS", 0.2)
    async with held(azure) as (service, _, backend):
        await cancelled(service, backend.objects.put("k", b"v1"))
        await backend.objects.put("k", b"v2")
        assert [request.body for request in service.done] == [b"v2"]
        assert KEYS == {}


@pytest.mark.parametrize(
    "first",
    [put(), upsert(1), lambda backend: backend.objects.copy("source", "k")],
    ids=["put", "table", "sdk"],
)
@pytest.mark.parametrize("ends", ["cancelled before", "cancelled by the end"])
def test_an_event_loop_ends_after_what_goes_on(first: Write, ends: str) -> None:
    """So that the writes of the next one come later."""
    ready, address = threading.Event(), list[StubService]()
    service: list[Held] = []

    async def serve() -> None:
        service.append(Held())
        async with StubService(service[0]) as stub:
            address.append(stub)
            ready.set()
            await service[0].begun.wait()
            await asyncio.sleep(0.3)  # a slow service
            service[0].go.set()
            await finished.wait()

    async def finish() -> None:
        finished.set()

    loop = asyncio.new_event_loop()
    finished = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(120)

    async def cancel() -> None:
        backend = azure(address[0])
        task = asyncio.ensure_future(first(backend))
        while not service[0].arrived:
            await asyncio.sleep(0.01)
        if ends == "cancelled before":
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def again() -> None:
        backend = azure(address[0])
        assert len(service[0].done) == 1
        await first(backend)
        await backend.close()

    try:
        asyncio.run(cancel())
        asyncio.run(again())
        assert len(service[0].done) == 2
        assert KEYS == {}
    finally:
        asyncio.run_coroutine_threadsafe(finish(), loop).result(120)
        thread.join(120)
        loop.close()


@pytest.mark.parametrize("ends", ["closed", "not run any more", "run to its end"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_event_loop_that_is_left_does_not_keep_others_waiting(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_requests, "ABANDONED_SECONDS", 0.3)
    kept = len(cloud_requests._ABANDONED)
    async with held(_one_at_a_time) as (service, stub, backend):
        loop = asyncio.new_event_loop()

        async def leave() -> None:
            writing = asyncio.ensure_future(_one_at_a_time(stub).objects.put("k", b"v1"))
            while not service.arrived:
                await asyncio.sleep(0.01)
            writing.cancel()
            await asyncio.wait([writing])

        def run() -> None:
            loop.run_until_complete(leave())
            if ends == "run to its end":
                loop.run_until_complete(loop.shutdown_asyncgens())
            if ends != "not run any more":
                loop.close()

        await asyncio.to_thread(run)
        assert service.arrived == 1
        await asyncio.wait_for(backend.objects.put("k", b"v2"), 120)
        assert [request.body for request in service.done] == [b"v2"]
        assert KEYS == {}
        if ends == "not run any more":
            await asyncio.to_thread(loop.run_until_complete, loop.shutdown_asyncgens())
            loop.close()
    assert len(cloud_requests._ABANDONED) == kept


async def test_a_stream_that_is_cancelled_before_its_end_is_never_committed() -> None:
    commits: list[str] = []
    staged = asyncio.Event()

    async def answer(request: Request) -> Answer:
        if "comp=blocklist" in request.target or (request.method == "POST" and "uploadId" in request.target):
            commits.append(request.target)
        if "comp=block&" in request.target or request.target.endswith("comp=block"):
            staged.set()
        return Answer(201, headers=STAMP)

    async with StubService(answer) as stub:
        backend = azure(stub)
        backend.objects.part_bytes = 1000
        upload = asyncio.create_task(backend.objects.put_stream("k", endless()))
        await staged.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        await backend.objects.put("k", b"v2")
        await backend.close()
        assert commits == []


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 700
        await asyncio.sleep(0)


async def test_a_write_that_was_not_begun_leaves_nothing() -> None:
    async with held(_one_at_a_time) as (service, _, backend):
        first = asyncio.create_task(backend.objects.put("a", b"1"))
        await service.begun.wait()
        second = asyncio.create_task(backend.objects.put("b", b"2"))
        await turns(5)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert len(KEYS) == 1
        service.go.set()
        await first
        await backend.objects.put("b", b"3")
        assert [request.body for request in service.done] == [b"1", b"3"]


def _one_at_a_time(service: StubService) -> StorageBackend:
    return AzureStorageBackend(
        f"DefaultEndpointsProtocol=http;AccountName=account;AccountKey=a2V5;"
        f"BlobEndpoint={service.endpoint}/account;QueueEndpoint={service.endpoint}/account;"
        f"TableEndpoint={service.endpoint}/account",
        concurrent_requests=1,
    )


async def test_a_late_failure_of_a_cancelled_write_is_nobodys() -> None:
    async with held(azure, status=403) as (service, _, backend):
        await cancelled(service, backend.objects.put("k", b"v1"))
        service.go.set()
        await backend.objects.put("k", b"v2")
    async with held(azure, status=403) as (service, _, backend):
        service.go.set()
        with pytest.raises(StorageError) as refused:
            await backend.objects.put("k", b"v1")
        assert not isinstance(refused.value, StorageUnavailableError)
