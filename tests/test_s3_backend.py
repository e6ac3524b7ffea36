"""The S3 backend against moto (logic) and SeaweedFS (authentication, durability, an order of its own)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

from storage_lib.backends.cloud.byte_stores import LARGE_UPLOAD_BYTES
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.factory import build
from storage_lib.keys import validate_metadata
from storage_lib.manager import StorageManager
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import PLAIN_GET, ListOptions, PutOptions
from storage_lib.ports.objects import ByteRange, ListEntry, ObjectStore, PutResult, StoredObject
from storage_lib.ports.streaming import Parts
from storage_lib.testing import ObjectStoreContract
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, S3Server, SeaweedFS

SOAK = os.environ.get("SOAK") == "1"


def a_bucket() -> str:
    return f"b-{uuid.uuid4().hex[:12]}"


def backend_of(server: Any, bucket: str, **options: Any) -> S3StorageBackend:
    keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
    return S3StorageBackend(bucket, **{"endpoint": server.endpoint, "region": REGION, **keys, **options})


def raw_store(server: Any, bucket: str) -> S3Store:
    """The bucket as obstore alone sees it."""
    return S3Store(
        bucket,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        client_options={"allow_http": True},
    )


@pytest.fixture(scope="module", params=["moto", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
async def lasting(server: S3Server) -> AsyncIterator[S3StorageBackend]:
    async with backend_of(server, a_bucket(), create_bucket=True) as backend:
        yield backend


@pytest.fixture
async def backend(server: S3Server, lasting: S3StorageBackend) -> AsyncIterator[S3StorageBackend]:
    """A new one in moto, whose listings go through all of a bucket; SeaweedFS takes long to make one."""
    if isinstance(server, SeaweedFS):
        yield lasting
        return
    async with backend_of(server, a_bucket(), create_bucket=True) as backend:
        yield backend


@pytest.fixture
def raw(server: S3Server, backend: S3StorageBackend) -> S3Store:
    return raw_store(server, repr(backend).rpartition("/")[2].rstrip(")"))


@pytest.mark.parametrize(
    "server", ["moto", "seaweedfs"] if SOAK else ["seaweedfs"], indirect=True, scope="module"
)
class TestS3Objects(ObjectStoreContract):
    small_part = 5 * 1024 * 1024  # "Amazon S3 multipart upload limits"

    @pytest.fixture(autouse=True)
    def _raw(self, raw: S3Store) -> None:
        self.raw = raw

    @pytest.fixture
    def objects(self, backend: S3StorageBackend) -> ObjectStore:
        return backend.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        was = await self.raw.get_async(key, options={"head": True})
        await self.raw.put_async(key, data, attributes=was.attributes)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await self.raw.put_async(key, data, attributes={"Content-Type": content_type})

    # The ETag of the service is that of the bytes, which a touch does not change (encoding.py).
    test_of_touches_of_one_version_one_succeeds = None  # type: ignore[assignment]


async def test_a_touch_moves_no_bytes(
    server: S3Server, backend: S3StorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(server, SeaweedFS):  # moto ignores the condition of a copy, which AWS does not.
        driver: Any = backend.objects.driver
        monkeypatch.setattr(driver._bucket, "_copies_conditionally", True)
    await backend.objects.put("touched", b"x", metadata={"m": "1"})
    monkeypatch.delattr(type(backend.objects.driver), "read_stream")
    monkeypatch.delattr(type(backend.objects.driver), "get")
    await backend.objects.touch("touched", metadata={"m": "2"})
    assert dict((await backend.objects.head("touched")).metadata) == {"m": "2"}


async def test_ours_is_an_ordinary_object(backend: S3StorageBackend, raw: S3Store) -> None:
    metadata = {
        "agent-id": "ceo",
        "note": "two  spaces",
        "empty": "",
        "content-type": "not the header",
        "storage-class": "ä",
    }
    body = json.dumps({"model": "gpt"}).encode()
    await backend.objects.put("configs/ceo.json", body, content_type="application/json", metadata=metadata)
    found = await raw.get_async("configs/ceo.json")
    assert json.loads(bytes(await found.bytes_async())) == {"model": "gpt"}
    assert found.attributes["Content-Type"] == "application/json"
    assert found.attributes["agent-id"] == "ceo"
    assert found.attributes["aos-sha256"] == hashlib.sha256(body).hexdigest()
    assert dict((await backend.objects.head("configs/ceo.json")).metadata) == metadata


async def test_metadata_of_other_programs_is_given_as_far_as_it_has_a_name(
    backend: S3StorageBackend, raw: S3Store
) -> None:
    theirs = {"Build_Number": "7", "_private": "y", "file": "caf%E9.txt", "rate": "100%25", "none": "%00"}
    await raw.put_async("foreign", b"x", attributes=theirs)
    await backend.objects.put("foreign-not", b"x", metadata={"file": "café.txt"})
    info = await backend.objects.head("foreign")
    kept = {"build-number": "7", "file": "caf%E9.txt", "rate": "100%25", "none": "%00"}
    assert dict(info.metadata) == kept
    page = await backend.objects.list_page("foreign", details=True)
    assert [entry.key for entry in page.entries] == ["foreign", "foreign-not"]


async def test_an_etag_of_the_same_bytes_written_before_is_not_current(backend: S3StorageBackend) -> None:
    objects = backend.objects
    first = await objects.put("twice", b"same", metadata={"n": "1"})
    second = await objects.put("twice", b"same", metadata={"n": "2"})
    with pytest.raises(PreconditionFailedError):
        await objects.put("twice", b"x", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):
        await objects.get("twice", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):
        await objects.delete("twice", if_match=first.etag)
    renewed = await objects.get("twice", if_none_match=first.etag)
    assert renewed is not None
    assert dict(renewed.info.metadata) == {"n": "2"}
    await objects.delete("twice", if_match=second.etag)


async def test_an_object_can_be_created_where_there_is_a_folder(backend: S3StorageBackend) -> None:
    objects = backend.objects
    part = b"x" * TestS3Objects.small_part
    for key in ("folder/a", "folder/b/c", "folder/d/e"):
        await objects.put(key, b"deeper")
    await objects.delete("folder/d/e")
    await objects.put("empty", b"")
    await objects.put("empty/below", b"x")
    with pytest.raises(InvalidArgumentError):
        await objects.get("empty", byte_range=ByteRange(0))
    winners = await asyncio.gather(
        *(objects.put("folder/b", b"%d" % n, if_absent=True) for n in range(8)), return_exceptions=True
    )
    assert len([won for won in winners if isinstance(won, PutResult)]) == 1
    assert len([lost for lost in winners if isinstance(lost, PreconditionFailedError)]) == 7
    await objects.put("folder/d", b"an empty folder", if_absent=True)
    for if_absent in (True, False):
        with suppress(UnsupportedOperationError):  # SeaweedFS; never "it is there" or "try again"
            await objects.put_stream("folder", [part, part], if_absent=if_absent)
    page = await objects.list_page("folder/")
    assert [entry.key for entry in page.entries] == [f"folder/{key}" for key in ("a", "b", "b/c", "d")]
    await objects.delete("folder/b")
    page = await objects.list_page("folder/", delimiter="/")
    assert ([entry.key for entry in page.entries], page.prefixes) == (["folder/a", "folder/d"], ["folder/b/"])


LAYERED = {
    hidden.ENCRYPTED: "e" * 212,
    hidden.COMPRESSION: "zstd-9999999999999-1048576-9999999999999",
    hidden.SIZE: "9999999999999",
    hidden.ATTEMPT: "r" * 33,
    hidden.JOURNAL: "j" * 164,
    expiry.METADATA: expiry.end_of(time.time(), 3600),
}
"""What the layers add at most."""


@pytest.mark.parametrize(
    "own", [{"m": "x" * 1535}, {f"m{n}": "x" * 27 for n in range(50)}], ids=["one value", "many names"]
)
async def test_the_largest_metadata_are_stored_though_s3_takes_two_kibibytes(
    backend: S3StorageBackend, raw: S3Store, own: dict[str, str]
) -> None:
    driver, unique = backend.objects.driver, f"room/{uuid.uuid4().hex[:8]}"
    metadata = {**validate_metadata(own), **LAYERED}

    async def sidecars() -> list[str]:
        return [entry["path"] for page in raw.list(prefix=".system/sums") for entry in page]

    async def source() -> AsyncIterator[bytes]:
        yield b"a" * backend.objects.part_bytes
        yield b"b"

    def options(data: bytes, **condition: Any) -> PutOptions:
        return PutOptions("text/plain", dict(metadata), hashlib.sha256(data).hexdigest(), **condition)

    before = await sidecars()
    first = await driver.put(f"{unique}/put", b"1", options(b"1", if_absent=True))
    parts = Parts(source(), backend.objects.part_bytes, 10**9)
    await driver.put_stream(f"{unique}/stream", parts, options(b""))
    for name in ("put", "stream"):
        await driver.copy(await driver.head(f"{unique}/{name}"), f"{unique}/{name}-copy", False)
    found = [
        one async for one in driver.scan(unique, ListOptions(details=True)) if isinstance(one, ListEntry)
    ]
    assert [entry.size for entry in found] == [int(LAYERED[hidden.SIZE])] * 4
    for entry in found:
        stored = await raw.get_async(entry.key, options={"head": True})
        sent = {name: text for name, text in stored.attributes.items() if name != "Content-Type"}
        assert sum(len(name + text) for name, text in sent.items()) <= 2048
        info = await driver.head(entry.key)
        assert dict(info.metadata) == metadata
        got = await driver.get(entry.key, PLAIN_GET)
        assert got is not None
        assert got.info == info
        assert hashlib.sha256(got.data).hexdigest() == info.sha256
    assert len(await sidecars()) == len(before) + 4
    for refused in ({"if_absent": True}, {"if_match": "another"}):
        with pytest.raises(PreconditionFailedError):
            await driver.put(f"{unique}/put", b"2", options(b"2", **refused))
    await driver.put(f"{unique}/put", b"3", options(b"3", if_match=first.etag))
    assert len(await sidecars()) == len(before) + 4, "one for each object"


async def test_a_stream_has_its_checksum_in_a_sidecar(backend: S3StorageBackend, raw: S3Store) -> None:
    objects = backend.objects

    async def sidecars() -> list[str]:
        return [entry.key async for entry in objects.iterate(".system/sums/") if isinstance(entry, ListEntry)]

    before = await sidecars()
    part = b"x" * TestS3Objects.small_part
    for key in ("streamed", "replaced", "broken"):
        put = await objects.put_stream(key, [part, part, b"end"])
        if key == "replaced":
            await objects.put(key, b"small", if_match=put.etag)
    (sidecar,) = [name for name in await sidecars() if name.endswith(put.etag.rpartition(".")[2])]
    await raw.delete_async(sidecar)
    for call in (objects.get, objects.head):
        with pytest.raises(IntegrityError, match="checksum"):
            await call("broken")
    await objects.copy("streamed", "copied")
    await objects.delete("streamed")
    await objects.delete("broken")
    found = await objects.get("copied")
    assert found is not None
    assert found.info.sha256 == hashlib.sha256(part + part + b"end").hexdigest()
    assert await sidecars() == before


@pytest.mark.parametrize("how", ["delete", "remove", "replace", "replace if", "stream", "touch", "copy over"])
@pytest.mark.parametrize("made", ["stream", "put"])
async def test_what_becomes_of_another_programs_copy_does_not_touch_the_original(
    backend: S3StorageBackend, raw: S3Store, made: str, how: str
) -> None:
    """With all metadata, as S3 copies objects unless it is told otherwise."""
    driver, unique = backend.objects.driver, uuid.uuid4().hex[:8]
    key, copied = f"{unique}/original", f"{unique}/copy"
    part = b"x" * TestS3Objects.small_part

    async def source() -> AsyncIterator[bytes]:
        yield part
        yield b"end"

    def of(data: bytes, **more: Any) -> PutOptions:
        return PutOptions("text/plain", {}, hashlib.sha256(data).hexdigest(), **more)

    metadata = {**validate_metadata({"m": "x" * 1400}), **LAYERED}
    if made == "stream":
        options = PutOptions("text/plain", dict(metadata), "")
        await driver.put_stream(key, Parts(source(), len(part), 10**9), options)
    else:
        await driver.put(key, b"1", PutOptions("text/plain", metadata, hashlib.sha256(b"1").hexdigest()))
    before = await driver.head(key)
    await raw.copy_async(key, copied)
    copy = await driver.head(copied)
    assert (copy.sha256, copy.metadata) == (before.sha256, before.metadata)
    if how == "delete":
        await driver.delete(copied, None)
    elif how == "remove":
        await driver.head(key)
        await driver.remove(copy)
    elif how == "touch":
        await driver.touch(copy, {"m": "2"})
    elif how == "copy over":
        await driver.put(f"{unique}/other", b"3", of(b"3"))
        await driver.copy(await driver.head(f"{unique}/other"), copied, False)
    elif how == "stream":
        options = PutOptions("text/plain", {}, "", if_match=copy.etag)
        await driver.put_stream(copied, Parts(source(), len(part), 10**9), options)
    else:
        await driver.put(copied, b"2", of(b"2", if_match=copy.etag if how == "replace if" else None))
    found = await driver.get(key, PLAIN_GET)
    assert found is not None
    assert found.info == before
    assert hashlib.sha256(found.data).hexdigest() == before.sha256
    # And the original takes its own along.
    await driver.delete(key, None)
    mark = before.etag.rpartition(".")[2]
    left = [entry["path"] for page in raw.list(prefix=".system/sums") for entry in page]
    assert not any(mark in name for name in left)


async def test_another_programs_copy_of_a_stream_outlives_the_original(
    backend: S3StorageBackend, raw: S3Store
) -> None:
    objects, unique = backend.objects, uuid.uuid4().hex[:8]
    key, copied = f"{unique}/original", f"{unique}/copy"

    part = b"x" * TestS3Objects.small_part

    async def source() -> AsyncIterator[bytes]:
        yield part
        yield b"end"

    options = PutOptions("text/plain", {"m": "1"}, "")
    await objects.driver.put_stream(key, Parts(source(), len(part), 10**9), options)
    await raw.copy_async(key, copied)
    before = await objects.head(copied)
    assert before.sha256 is not None
    await objects.delete(key)
    found = await objects.get(copied)
    assert found is not None
    assert hashlib.sha256(found.data).hexdigest() == before.sha256
    assert await objects.head(copied) == replace(before, sha256=None)
    await objects.touch(copied, metadata={"m": "2"})
    assert (await objects.head(copied)).metadata == {"m": "2"}
    await objects.delete(copied)
    with pytest.raises(KeyNotFoundError):
        await objects.head(copied)


async def test_a_broken_stream_leaves_no_upload(server: S3Server, backend: S3StorageBackend) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * TestS3Objects.small_part * 2
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await backend.objects.put_stream("never", breaking())
    stopped = asyncio.create_task(backend.objects.put_stream("never", endless()))
    await asyncio.sleep(0.3)
    stopped.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    async with asyncio.timeout(120):
        while b"<UploadId>" in (await backend._client.request("GET", query={"uploads": ""})).body:
            await asyncio.sleep(0.05)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * TestS3Objects.small_part
        await asyncio.sleep(0.05)


async def test_large_values_and_details_of_many(backend: S3StorageBackend) -> None:
    large = b"0123456789abcdef" * (LARGE_UPLOAD_BYTES // 16) + b"!"
    await backend.objects.put("large/one", large)
    found = await backend.objects.get("large/one")
    assert found is not None
    assert found.data == large
    puts = await asyncio.gather(*(backend.objects.put(f"many/{n:03}", b"x" * n, ttl=1e6) for n in range(70)))
    page = await backend.objects.list_page("many/", details=True)
    assert [(entry.key, entry.size, entry.etag) for entry in page.entries] == [
        (put.key, put.size, put.etag) for put in puts
    ]


async def test_tables_and_queues_say_what_to_configure(backend: S3StorageBackend) -> None:
    for call in (
        backend.tables.insert("table", "p", "r", {}),
        backend.tables.query("table"),
        backend.queues.send("queue-1", "x"),
        backend.queues.receive("queue-1"),
        backend.queues.length("queue-1"),
        backend.insert_entity(table_name="table", entity={"PartitionKey": "p", "RowKey": "r"}),
    ):
        with pytest.raises(UnsupportedOperationError) as refused:
            await call
        assert "AGENT_STORAGE_TABLES_AND_QUEUES" in (refused.value.remedy or "")


def test_it_works_in_one_event_loop_after_another(server: S3Server, backend: S3StorageBackend) -> None:
    async def use() -> bytes:
        await backend.objects.put("loops", b"x")
        assert (await backend.objects.list_page("loops")).entries
        found = await backend.objects.get("loops")
        await backend.objects.delete("loops")
        return found.data if found else b""

    with ThreadPoolExecutor(2) as threads:
        assert [done.result() for done in [threads.submit(asyncio.run, use()) for _ in range(1)]] == [b"x"]
        assert threads.submit(asyncio.run, use()).result() == b"x"


async def test_a_missing_bucket_is_made_when_wanted_and_never_reads_as_a_missing_key(
    server: S3Server,
) -> None:
    missing = backend_of(server, a_bucket())
    for name, call in CALLS.items():
        with pytest.raises(ConfigurationError) as refused:
            await call(missing)
        assert refused.value.field == "bucket", name
    await missing.close()
    lazily = backend_of(server, a_bucket(), create_bucket=True)
    with pytest.raises(KeyNotFoundError):
        await lazily.objects.head("k")
    assert (await lazily.objects.list_page()).entries == []
    await lazily.close()
    with pytest.raises(StorageError, match="closed"):
        await lazily.objects.get("k")
    async with backend_of(server, a_bucket(), create_bucket=True, region="eu-west-1") as elsewhere:
        await elsewhere.objects.put("k", b"x")


# -- failures


CALLS: dict[str, Callable[[S3StorageBackend], Awaitable[object]]] = {
    "open": lambda backend: backend.open(),
    "get": lambda backend: backend.objects.get("k"),
    "get if none match": lambda backend: backend.objects.get("k", if_none_match="x"),
    "head": lambda backend: backend.objects.head("k"),
    "put": lambda backend: backend.objects.put("k", b"x"),
    "put if absent": lambda backend: backend.objects.put("k", b"x", if_absent=True),
    "put if match": lambda backend: backend.objects.put("k", b"x", if_match="x"),
    "put stream": lambda backend: backend.objects.put_stream("k", [b"x" * 9_000_000]),
    "delete": lambda backend: backend.objects.delete("k"),
    "delete if match": lambda backend: backend.objects.delete("k", if_match="x"),
    "copy": lambda backend: backend.objects.copy("k", "l"),
    "list": lambda backend: backend.objects.list_page(),
}


@pytest.mark.parametrize(
    "keys", [{"secret_access_key": "wrong"}, {"access_key_id": "nobody"}, {"session_token": "expired"}]
)
async def test_wrong_keys_are_denied(seaweedfs: S3Server, keys: dict[str, str]) -> None:
    async with backend_of(seaweedfs, "a-bucket", create_bucket=True) as right:
        await right.objects.put("k", b"x")
    wrong = backend_of(seaweedfs, "a-bucket", **keys)
    for name, call in CALLS.items():
        with pytest.raises(AccessDeniedError) as refused:
            await call(wrong)
        assert refused.value.remedy, name
        shown = "".join(traceback.format_exception(refused.value))
        assert SECRET_ACCESS_KEY not in shown
    await wrong.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with Stub(b"") as stub:
        endpoint = stub.endpoint
    backend = S3StorageBackend("bucket", endpoint=endpoint, access_key_id="a", secret_access_key="b")
    for call in CALLS.values():
        with pytest.raises(StorageUnavailableError):
            await call(backend)
    await backend.close()


class Stub:
    """A server that gives every request the same answer and hangs up; ``seen`` has the request lines."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.seen: list[str] = []

    async def __aenter__(self) -> Stub:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        if length:
            await reader.readexactly(int(length[1]))
        self.seen.append(head)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if head.startswith("HEAD"):
            answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        writer.write(answer)
        await writer.drain()
        writer.close()

    def backend(self, **options: Any) -> S3StorageBackend:
        return backend_of(self, "bucket", **options)


def answer(status: int, code: str = "", body: bytes = b"", headers: str = "") -> bytes:
    content = f"<Error><Code>{code}</Code><Message>why</Message></Error>".encode() if code else body
    start = (
        f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}\r\n"
    )
    return start.encode() + content


LIST = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'
OBJECT = 'ETag: "abc"\r\nLast-Modified: Wed, 25 Nov 2026 03:28:15 GMT\r\n'


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        (answer(403, "RequestTimeTooSkewed"), AccessDeniedError, "clock"),
        (answer(403, "AccessDenied"), AccessDeniedError, "s3:GetObject"),
        (answer(400, "ExpiredToken"), AccessDeniedError, "access key"),
        (answer(400, "AuthorizationHeaderMalformed"), ConfigurationError, "region"),
        (answer(301, "PermanentRedirect"), ConfigurationError, "region"),
        (answer(404, "NoSuchBucket"), ConfigurationError, "create_bucket"),
        (answer(404, body=b"<html>nothing here</html>"), StorageUnavailableError, "endpoint"),
        (answer(503, "SlowDown"), StorageUnavailableError, None),
        (answer(500, "InternalError"), StorageUnavailableError, None),
        (answer(200, "InternalError"), StorageError, None),
        (answer(409, "OperationAborted"), TransientStorageError, None),
        (answer(501, "NotImplemented"), UnsupportedOperationError, None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", StorageUnavailableError, None),
        (b"", StorageUnavailableError, None),
    ],
    ids=lambda value: value.decode()[9:].replace("\r\n", " ")[:3] if isinstance(value, bytes) else None,
)
async def test_what_the_service_answers_is_told_apart(
    said: bytes, kind: type[StorageError], remedy: str | None
) -> None:
    async with Stub(said) as stub:
        backend = stub.backend()
        for name in ("get", "put", "list"):
            if name != "list" and said.startswith(b"HTTP/1.1 200 Whatever"):
                continue
            with pytest.raises(kind) as raised:
                await CALLS[name](backend)
            assert not isinstance(raised.value, KeyNotFoundError)
            if remedy is not None:
                assert remedy in (raised.value.remedy or ""), name
        await backend.close()


async def test_a_truncated_object_is_never_given(tmp_path: Path) -> None:
    whole = answer(200, body=b"0123456789", headers=OBJECT)
    async with Stub(whole[:-4]) as stub:
        backend = stub.backend()
        with pytest.raises(StorageUnavailableError):
            await backend.objects.get("k")
        with pytest.raises(StorageUnavailableError):
            async with backend.objects.open_reader("k") as reader:
                await reader.read()
        await backend.close()


async def test_a_range_that_is_ignored_is_no_data() -> None:
    async with Stub(answer(200, body=b"0123456789", headers=OBJECT)) as stub:
        backend = stub.backend()
        with pytest.raises(StorageError, match="non-partial"):
            await backend.objects.get("k", byte_range=ByteRange(2, 4))
        await backend.close()


async def test_a_server_that_ignores_conditions_on_deletes_is_not_trusted() -> None:
    found = answer(200, headers=OBJECT)
    async with Stub(found, answer(200, headers=OBJECT), answer(204), found, found, answer(204)) as stub:
        backend = stub.backend()
        with pytest.raises(UnsupportedOperationError, match="If-Match"):
            await backend.objects.delete("k", if_match="abc")
        assert [line.split()[0] for line in stub.seen] == ["HEAD", "PUT", "DELETE"]
        assert "/bucket/.system/probe/" in stub.seen[2]
        await backend.objects.delete("k")
        # First whether it has expired, then which version there is.
        assert [line.split()[:2] for line in stub.seen[3:]] == [
            ["HEAD", "/bucket/k"],
            ["HEAD", "/bucket/k"],
            ["DELETE", "/bucket/k"],
        ]
        await backend.close()


async def test_a_throttled_listing_tells_when_to_come_back() -> None:
    async with Stub(answer(503, "SlowDown", headers="Retry-After: 7\r\n")) as stub:
        backend = stub.backend()
        with pytest.raises(StorageUnavailableError) as raised:
            await backend.objects.list_page()
        assert raised.value.retry_after == 7
        await backend.close()


# -- other programs' names


async def test_names_that_are_no_keys_are_left_out_of_listings(moto: S3Server) -> None:
    async with backend_of(moto, a_bucket(), create_bucket=True) as backend:
        for name in ("odd/a//b", "odd/dir/", "odd/dot.", "odd/ok", "odd/x%2Fy", "odd/\x01"):
            await backend._bucket.send("PUT", name, doing="put")
        page = await backend.objects.list_page("odd/")
        assert [entry.key for entry in page.entries] == ["odd/ok"]
        assert (await backend.objects.stats("odd/")).count == 1


async def test_prefixes_are_told_apart_where_folders_are_listed(seaweedfs: S3Server) -> None:
    """More names than a page has, in folders whose names sort differently with a slash at their end."""
    names = ["f", *(f"f{c}{n:03}" for c in "!-./0" for n in range(210)), *(f"f/{n}/x" for n in range(9))]
    names = [f"order/{name}" for name in names]
    backend = backend_of(seaweedfs, a_bucket(), create_bucket=True)
    await asyncio.gather(*(backend.objects.put(name, b"") for name in names))
    expected = sorted(names)
    listed = [entry.key async for entry in backend.objects.iterate("order/f") if isinstance(entry, ListEntry)]
    assert listed == expected
    seen: list[str] = []
    cursor = None
    while True:
        page = await backend.objects.list_page("order/f", limit=400, cursor=cursor)
        seen += [entry.key for entry in page.entries]
        if (cursor := page.cursor) is None:
            break
    assert seen == expected
    await backend.close()


# -- the end of the server


async def test_what_was_acknowledged_survives_the_death_of_the_server(tmp_path: Path) -> None:
    async with SeaweedFS(tmp_path) as server:
        acknowledged: dict[str, bytes] = {}
        backend = backend_of(server, "bucket", create_bucket=True)

        async def write(n: int) -> None:
            with suppress(StorageUnavailableError):
                for version in range(1000):
                    data = b"%d of %d " % (version, n) * (1 + n * 20_000)
                    await backend.objects.put(f"k{n}", data, content_type=f"text/x-{version}")
                    acknowledged[f"k{n}"] = data

        writers = [asyncio.create_task(write(n)) for n in range(4)]
        async with asyncio.timeout(120):
            while len(acknowledged) < len(writers):
                await asyncio.sleep(0.02)
        await server.kill()
        await asyncio.gather(*writers)
        with pytest.raises(StorageUnavailableError):
            await backend.objects.get("k0")
        await server.start()
        for key, data in acknowledged.items():
            found = await _when_available(backend, key)
            version = int(found.data.split()[0])
            assert found.info.content_type == f"text/x-{version}"
            assert version >= int(data.split()[0])
        await backend.close()


async def _when_available(backend: S3StorageBackend, key: str) -> StoredObject:
    """SeaweedFS answers before it has found its volumes again."""
    async with asyncio.timeout(120):
        while True:
            with suppress(StorageUnavailableError):
                found = await backend.objects.get(key)
                assert found is not None
                return found
            await asyncio.sleep(0.2)


# -- configuration


async def test_objects_on_s3_with_tables_and_queues_in_files(moto: S3Server, tmp_path: Path) -> None:
    config = StorageConfig(
        storage_type="s3",
        s3_bucket="combined-bucket",
        s3_endpoint=moto.endpoint,
        s3_region=REGION,
        s3_access_key_id=ACCESS_KEY_ID,
        s3_secret_access_key=SECRET_ACCESS_KEY,
        tables_and_queues="file",
        base_path=tmp_path,
    )
    assert SECRET_ACCESS_KEY not in repr(config)
    async with backend_of(moto, "combined-bucket", create_bucket=True):
        pass
    async with StorageManager(config) as storage:
        await storage.save("k", {"a": 1})
        await storage.backend.insert_entity(table_name="table", entity={"PartitionKey": "p", "RowKey": "r"})
        await storage.backend.send_message(queue_name="queue-1", message="hello")
        received = await storage.backend.receive_message(queue_name="queue-1")
        assert received is not None
        assert received.body == b"hello"
    raw = await raw_store(moto, "combined-bucket").get_async("k")
    assert json.loads(bytes(await raw.bytes_async())) == {"a": 1}
    async with FileStorageBackend(tmp_path) as files:
        assert (await files.tables.get("table", "p", "r")).row_key == "r"
        assert (await files.objects.list_page()).entries == []


def test_the_environment_configures_it() -> None:
    settings = {
        "AGENT_STORAGE_TYPE": "s3",
        "AGENT_STORAGE_S3_BUCKET": "bucket",
        "AGENT_STORAGE_S3_ENDPOINT": "https://s3.example.com",
        "AGENT_STORAGE_S3_REGION": "eu-central-1",
        "AGENT_STORAGE_TABLES_AND_QUEUES": "azure",
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
    }
    config = StorageConfig.from_env(settings)
    assert (config.storage_type, config.s3_bucket, config.tables_and_queues) == ("s3", "bucket", "azure")
    assert config.connection_string == "UseDevelopmentStorage=true"
    built = repr(build(config))
    assert "S3StorageBackend(https://s3.example.com/bucket)" in built
    assert "AzureStorageBackend" in built
    for missing, field in (
        ("AGENT_STORAGE_S3_BUCKET", "s3_bucket"),
        ("AzureWebJobsStorage", "connection_string"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            StorageConfig.from_env({**settings, missing: ""})
        assert refused.value.field == field
    with pytest.raises(ConfigurationError):
        StorageConfig.from_env({**settings, "AGENT_STORAGE_TABLES_AND_QUEUES": "floppy"})


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ({"region": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/bucket"),
        ({"region": "cn-north-1"}, "https://s3.cn-north-1.amazonaws.com.cn/bucket"),
        ({"virtual_hosted": True}, "https://bucket.s3.us-east-1.amazonaws.com"),
        ({"endpoint": "http://host:9000/"}, "http://host:9000/bucket"),
        ({"endpoint": "https://host/base", "virtual_hosted": True}, "https://bucket.host/base"),
    ],
)
def test_where_a_bucket_is(arguments: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert repr(S3StorageBackend("bucket", **arguments)) == f"S3StorageBackend({url})"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"bucket": "No Bucket"}, "bucket"),
        ({"bucket": "a..b"}, "bucket"),
        ({"bucket": "fast--use1-az4--x-s3"}, "bucket"),
        ({"endpoint": "localhost:9000"}, "endpoint"),
        ({"endpoint": "http://host", "allow_http": False}, "endpoint"),
        ({"access_key_id": "a"}, "secret_access_key"),
        ({"secret_access_key": "a"}, "access_key_id"),
        (
            {"access_key_id": "a", "secret_access_key": "b", "credential_provider": dict},
            "credential_provider",
        ),
    ],
)
def test_arguments_that_can_not_work(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        S3StorageBackend(**{"bucket": "bucket", **arguments})
    assert refused.value.field == field


def test_importing_it_imports_no_vendor() -> None:
    code = "import sys, storage_lib.backends.s3; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"obstore", "aiohttp", "yarl", "botocore"} & set(run.stdout.split())


async def test_many_are_deleted_with_their_sidecars(backend: S3StorageBackend) -> None:
    objects = backend.objects
    part = b"x" * TestS3Objects.small_part

    async def sidecars() -> list[str]:
        return [entry.key async for entry in objects.iterate(".system/sums/") if isinstance(entry, ListEntry)]

    before = await sidecars()
    keys = [f"many-sidecars/{n}" for n in range(20)]
    await asyncio.gather(*(objects.put(key, b"x") for key in keys))
    await objects.put_stream(keys[0], [part, part, b"end"])
    assert await sidecars() != before
    assert set((await objects.delete_many(keys, missing_ok=True)).values()) == {None}
    assert (await objects.list_page("many-sidecars/")).entries == []
    assert await sidecars() == before


async def test_what_was_replaced_behind_a_look_is_deleted_with_its_sidecar(
    backend: S3StorageBackend, server: S3Server
) -> None:
    """The deletion insists on what the look saw; another version is looked at anew."""
    objects = backend.objects
    part = b"x" * TestS3Objects.small_part

    async def sidecars() -> list[str]:
        return [entry.key async for entry in objects.iterate(".system/sums/") if isinstance(entry, ListEntry)]

    await objects.put_stream("looked-at", [part, part, b"first"])
    await objects.head("looked-at")
    # What replaces any version leaves the sidecar of that one.
    before = await sidecars()
    async with backend_of(server, repr(backend).rpartition("/")[2].rstrip(")")) as another:
        await another.objects.put_stream("looked-at", [part, part, b"second"])
    assert await sidecars() != before
    await objects.driver.delete("looked-at", None)
    with pytest.raises(KeyNotFoundError):
        await objects.head("looked-at")
    assert await sidecars() == before
