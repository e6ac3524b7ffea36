"""Streams of the Azure backend against Azurite: what blocks, and bodies of any length, can get wrong."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.storage.blob import BlobBlock
from azure.storage.blob.aio import ContainerClient

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.azure.signed import SignedRequests
from storage_lib.backends.cloud.connections import Response
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.retry import RetryOptions
from storage_lib.layers.retry.objects import RetryingObjects
from storage_lib.layers.retry.retrier import Retrier
from storage_lib.ports.objects import ObjectStore

PART = 64 * 1024
PATIENCE = 300.0
"""Seconds."""


@pytest.fixture(scope="module")
def container() -> str:
    return f"c-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
async def backend(azurite: Any, container: str) -> AsyncIterator[AzureStorageBackend]:
    async with AzureStorageBackend(azurite.connection_string, container=container) as backend:
        yield backend


@pytest.fixture
def objects(backend: AzureStorageBackend, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(backend.objects, "part_bytes", PART)
    return backend.objects


@pytest.fixture(scope="module")
async def blobs(azurite: Any, backend: AzureStorageBackend, container: str) -> AsyncIterator[ContainerClient]:
    async with ContainerClient.from_connection_string(azurite.connection_string, container) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"k-{uuid.uuid4().hex[:12]}"


async def test_parts_of_the_real_size_pass(backend: AzureStorageBackend, key: str) -> None:
    """Without a warning of aiohttp about large bodies, too."""
    data = [bytes([n]) * 1_000_003 for n in range(18)]
    put = await backend.objects.put_stream(key, data)
    async with backend.objects.open_reader(key, if_match=put.etag) as reader:
        first = await anext(aiter(reader))
        assert len(first) < 4 * 1024 * 1024, "the first chunk does not wait for the rest"
    found = await backend.objects.get(key)
    assert found is not None
    assert found.data == b"".join(data)


async def test_no_more_than_a_few_parts_are_under_way(
    objects: ObjectStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, most = 0, 0
    two = asyncio.Event()
    real = SignedRequests.send

    async def counted(self: SignedRequests, method: str, path: str, *args: Any, **options: Any) -> Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            if most > 1:
                two.set()
            elif method == "PUT":  # However fast it is, the next part begins before it has ended.
                await asyncio.wait_for(two.wait(), PATIENCE)
            return await real(self, method, path, *args, **options)
        finally:
            now -= 1

    monkeypatch.setattr(SignedRequests, "send", counted)
    await objects.put_stream(key, [b"x" * PART] * 20)
    assert 1 < most <= 4


@pytest.mark.parametrize("parts", [1, 3, 7])
async def test_a_cancelled_stream_leaves_what_was_there(
    objects: ObjectStore, blobs: ContainerClient, key: str, parts: int
) -> None:
    given = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        for _ in range(parts):
            yield b"x" * PART
        given.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    for _ in range(2):
        task = asyncio.create_task(objects.put_stream(key, stalling()))
        await given.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)
        assert (await objects.list_page(key)).entries == []
    assert not asyncio.all_tasks() - before
    await objects.put(key, b"whole")
    task = asyncio.create_task(objects.put_stream(key, stalling()))
    await given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.size async for entry in _entries(objects, key)] == [5]


async def test_uploads_that_race_end_as_exactly_one_of_them(objects: ObjectStore, key: str) -> None:
    async def upload(n: int) -> int | None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(6):
                yield bytes([n]) * PART
                await asyncio.sleep(0)

        try:
            await objects.put_stream(key, source(), metadata={"n": str(n)}, content_type=f"text/x-{n}")
        except TransientStorageError:
            return None  # its blocks were dropped when another was committed
        return n

    ended = [n for n in await asyncio.gather(*map(upload, range(5))) if n is not None]
    found = await objects.get(key)
    assert found is not None
    n = int(found.info.metadata["n"])
    assert n in ended
    assert found.data == bytes([n]) * PART * 6
    assert found.info.content_type == f"text/x-{n}"


async def test_streams_that_race_to_create_have_one_winner(objects: ObjectStore, key: str) -> None:
    async def create(n: int) -> int | None:
        try:
            await objects.put_stream(key, [bytes([n]) * PART] * 3, if_absent=True)
        except PreconditionFailedError:
            return None
        return n

    (winner,) = [n for n in await asyncio.gather(*map(create, range(5))) if n is not None]
    found = await objects.get(key)
    assert found is not None
    assert found.data == bytes([winner]) * PART * 3


async def test_a_save_during_a_stream_is_not_mixed_with_it(objects: ObjectStore, key: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        for n in range(6):
            if n == 5:
                await objects.put(key, b"meanwhile")
            yield b"x" * PART

    whole = b"x" * PART * 6
    try:
        await objects.put_stream(key, source())
    except TransientStorageError:
        whole = b"meanwhile"  # Azure drops the blocks then, Azurite keeps them.
    found = await objects.get(key)
    assert found is not None
    assert found.data == whole


async def test_an_unfinished_upload_of_another_program_is_told_of(
    objects: ObjectStore, blobs: ContainerClient, key: str
) -> None:
    await blobs.get_blob_client(key).stage_block("short", b"x", length=1)
    with pytest.raises(StorageError) as refused:
        await objects.put_stream(key, [b"x" * PART] * 3)
    assert "unfinished upload" in (refused.value.remedy or "")
    with pytest.raises(KeyNotFoundError):
        await objects.head(key)


async def test_a_blob_of_other_programs_blocks_is_replaced(
    objects: ObjectStore, blobs: ContainerClient, key: str
) -> None:
    blob = blobs.get_blob_client(key)
    await blob.stage_block("short", b"x", length=1)
    await blob.commit_block_list([BlobBlock("short")])
    await objects.put_stream(key, [b"y" * PART] * 3)
    assert (await objects.head(key)).size == 3 * PART


async def test_one_version_is_read_though_it_is_replaced_meanwhile(objects: ObjectStore, key: str) -> None:
    size = 12 * 1024 * 1024
    await objects.put(key, b"1" * size)
    chunks: list[bytes] = []
    try:
        async with objects.open_reader(key) as reader:
            async for chunk in reader:
                if not chunks:
                    await objects.put(key, b"2" * size)
                chunks.append(chunk)
    except StorageError:
        return
    assert b"".join(chunks) == b"1" * size


async def test_a_reader_that_is_left_early_leaves_nothing_running(objects: ObjectStore, key: str) -> None:
    await objects.put(key, b"1" * 5_000_000)
    before = asyncio.all_tasks()
    async with objects.open_reader(key) as reader:
        async for _ in reader:
            break
    async with objects.open_reader(key):
        pass
    assert not asyncio.all_tasks() - before


async def test_a_copy_is_made_by_the_service_whatever_the_size(
    objects: ObjectStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = await objects.put_stream(key, [b"x" * PART] * 40, content_type="text/x-a", metadata={"m": "ä  1"})

    async def no_bytes(*_: Any) -> Any:
        raise AssertionError("the bytes went through here")

    monkeypatch.setattr(objects.driver, "read_stream", no_bytes)
    copied = await objects.copy(key, f"{key}-copy")
    info = await objects.head(f"{key}-copy")
    source = await objects.head(key)
    assert (info.etag, info.size, info.sha256) == (copied.etag, put.size, source.sha256)
    assert (info.content_type, dict(info.metadata)) == ("text/x-a", {"m": "ä  1"})
    assert copied.etag != source.etag
    assert copied.size == put.size


async def _entries(objects: ObjectStore, prefix: str) -> AsyncIterator[Any]:
    async for entry in objects.iterate(prefix, details=True):
        yield entry


async def test_a_block_that_fails_is_sent_again(
    objects: ObjectStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the layer: the source of a stream cannot be read twice."""
    failures = {"block": 3, "blocklist": 1}
    busy = Response(503, {"x-ms-error-code": "ServerBusy"}, b"")
    real = SignedRequests.send

    async def failing(self: SignedRequests, *args: Any, query: Any = None, **options: Any) -> Response:
        sent = (query or {}).get("comp", "")
        if not failures.get(sent):
            return await real(self, *args, query=query, **options)
        failures[sent] -= 1
        if sent == "blocklist":
            return busy
        raise StorageUnavailableError("reset")

    monkeypatch.setattr(SignedRequests, "send", failing)
    layered = ObjectStore(RetryingObjects(objects.driver, Retrier(RetryOptions(base_seconds=0))))
    monkeypatch.setattr(layered, "part_bytes", PART)
    await layered.put_stream(key, [b"x" * PART] * 6)
    found = await objects.get(key)
    assert found is not None
    assert found.data == b"x" * PART * 6
    assert failures == {"block": 0, "blocklist": 0}


@pytest.mark.parametrize("damaged", [0, 3, 5])
async def test_a_block_that_is_damaged_on_its_way_is_refused_and_sent_again(
    objects: ObjectStore, key: str, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    real, sent = SignedRequests.send, 0

    async def damaging(self: SignedRequests, *args: Any, query: Any = None, **options: Any) -> Response:
        nonlocal sent
        if query is not None and query["comp"] == "block":
            sent += 1
            if sent == damaged + 1:
                body = bytearray(options["body"])
                body[len(body) // 2] ^= 1
                options["body"] = bytes(body)
        return await real(self, *args, query=query, **options)

    monkeypatch.setattr(SignedRequests, "send", damaging)
    with pytest.raises(TransientStorageError, match="Md5Mismatch"):
        await objects.put_stream(key, [b"x" * PART] * 6)
    with pytest.raises(KeyNotFoundError):
        await objects.head(key)
    sent = 0
    layered = ObjectStore(RetryingObjects(objects.driver, Retrier(RetryOptions(base_seconds=0))))
    monkeypatch.setattr(layered, "part_bytes", PART)
    await layered.put_stream(key, [b"x" * PART] * 6)
    found = await objects.get(key)
    assert found is not None
    assert found.data == b"x" * PART * 6
    assert sent == 7


async def test_a_stream_that_may_not_replace_leaves_nothing_behind(objects: ObjectStore, key: str) -> None:
    for etag in ("other", (await objects.put(f"{key}-2", b"x")).etag):
        with pytest.raises(PreconditionFailedError):
            await objects.put_stream(key, [b"y" * PART, b"y"], if_match=etag)
        with pytest.raises(KeyNotFoundError):
            await objects.delete(key)
    assert (await objects.put(key, b"z", if_absent=True)).created is True
