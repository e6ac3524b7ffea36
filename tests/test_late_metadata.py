"""Streams behind layers that store other bytes: the caller's size and checksum, known only when the source
has ended, are on the object whatever the store; of stacked layers, those that the outermost was given."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.layers.base import Layer, ObjectLayer
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.layers.transforming import TransformingObjects, described
from storage_lib.ports import hidden
from storage_lib.ports.backend import ByteRange, StorageBackend
from storage_lib.ports.drivers import PLAIN_GET, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.object_model import ListEntry, PutResult
from storage_lib.ports.streaming import LATE_BYTES, Parts
from tests.layers import DeflatingLayer
from tests.test_azure_backend import a_container
from tests.test_s3_backend import a_bucket, backend_of

RANDOM = os.urandom(9_000_000)
"""More than a part, whatever a layer does with it."""


@pytest.fixture(scope="module", params=["memory", "file", "azurite", "moto"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StorageBackend:
    """A store, not yet open."""
    if request.param == "memory":
        return MemoryBackend()
    if request.param == "file":
        return FileStorageBackend(str(tmp_path_factory.mktemp("late")))
    service = request.getfixturevalue(request.param)
    if request.param == "azurite":
        return AzureStorageBackend(service.connection_string, container=a_container())
    return backend_of(service, a_bucket(), create_bucket=True)


@pytest.fixture(scope="module")
async def store(server: StorageBackend) -> AsyncIterator[StorageBackend]:
    async with server:
        yield server


@pytest.fixture
def backend(store: StorageBackend) -> StorageBackend:
    """The store in two layers that compress."""
    return DeflatingLayer(DeflatingLayer(store), "aos-outer")


async def check(backend: StorageBackend, key: str, data: bytes = RANDOM) -> None:
    objects = backend.objects
    info = await objects.head(key)
    assert (info.size, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    found = await objects.get(key)
    assert found is not None
    assert found.data == data
    assert found.info == info
    async with objects.open_reader(key) as reader:
        assert reader.info == info
        assert await reader.read() == data
    entries = [entry async for entry in objects.iterate(key, details=True)]
    (entry,) = entries
    assert isinstance(entry, ListEntry)
    assert (entry.key, entry.size, entry.etag) == (key, len(data), info.etag)
    assert entry.info is not None
    assert (entry.info.size, entry.info.content_type) == (len(data), info.content_type)
    stats = await objects.stats(key)
    assert (stats.count, stats.bytes) == (1, len(data))


@pytest.mark.parametrize("ttl", [None, 3600])
async def test_size_and_checksum_of_a_stream_are_the_callers(
    backend: StorageBackend, ttl: float | None
) -> None:
    objects = backend.objects
    result = await objects.put_stream("s", [RANDOM], metadata={"mine": "1"}, content_type="a/b", ttl=ttl)
    assert result.size == len(RANDOM)
    await check(backend, "s")
    info = await objects.head("s")
    assert info.etag == result.etag
    assert info.content_type == "a/b"
    assert info.metadata == {"mine": "1"}
    assert (info.expires_at is None) == (ttl is None)
    ranged = await objects.get("s", byte_range=ByteRange(-3))
    assert ranged is not None
    assert (ranged.start, ranged.data) == (len(RANDOM) - 3, RANDOM[-3:])


async def test_copies_and_moves_keep_them(backend: StorageBackend) -> None:
    objects = backend.objects
    await objects.put_stream("from", [RANDOM])
    assert (await objects.copy("from", "copy")).size == len(RANDOM)
    await check(backend, "copy")
    for key in ("new", "moved"):
        with suppress(KeyNotFoundError):
            await objects.delete(key)
    assert (await objects.copy("from", "new", if_absent=True)).size == len(RANDOM)
    await check(backend, "new")
    assert (await objects.move("copy", "moved", if_absent=True)).size == len(RANDOM)
    await check(backend, "moved")
    with pytest.raises(KeyNotFoundError):
        await objects.head("copy")


async def test_conditions_hold(backend: StorageBackend) -> None:
    objects = backend.objects
    first = await objects.put_stream("c", [RANDOM])
    second = await objects.put_stream("c", [RANDOM, b"2"], if_match=first.etag)
    await check(backend, "c", RANDOM + b"2")
    refused: list[Callable[[], Awaitable[Any]]] = [
        lambda: objects.put_stream("c", [RANDOM], if_match=first.etag),
        lambda: objects.put_stream("c", [RANDOM], if_absent=True),
    ]
    for write in refused:
        with pytest.raises(PreconditionFailedError):
            await write()
    assert await objects.get("c", if_none_match=second.etag) is None
    await objects.put("c", b"small", if_match=second.etag)
    await check(backend, "c", b"small")
    await objects.put_stream("c", [RANDOM], if_match="*")
    await check(backend, "c")


async def test_a_source_that_fails_leaves_what_was_there(backend: StorageBackend) -> None:
    await backend.objects.put("broken", b"old")

    async def failing() -> AsyncIterator[bytes]:
        yield RANDOM
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await backend.objects.put_stream("broken", failing())
    await check(backend, "broken", b"old")


async def test_a_stream_that_fits_into_one_part_is_stored_in_one_piece(store: StorageBackend) -> None:
    zeros = bytes(20_000_000)
    backend = DeflatingLayer(store)
    await backend.objects.put_stream("z", [zeros])
    await check(backend, "z", zeros)
    assert (await store.objects.driver.head("z")).size < 100_000


async def test_a_cancelled_stream_leaves_no_task(store: StorageBackend) -> None:
    started = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield RANDOM
        started.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    saving = asyncio.create_task(DeflatingLayer(store).objects.put_stream("w", waiting()))
    await started.wait()
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()
    with pytest.raises(KeyNotFoundError):
        await store.objects.head("w")


class Refusing(ObjectLayer):
    """Every step of an upload is refused once."""

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        async def refused_once[T](
            doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
        ) -> T:
            refused = iter([True])

            async def begin() -> T:
                if next(refused, False):
                    raise TransientStorageError("busy", refused=True)
                return await step()

            return await repeat(doing, begin, only_refused=only_refused)

        return await self.inner.put_stream(key, parts, options, refused_once)


class RefusingLayer(Layer):
    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return Refusing(inner, self.around)


async def test_steps_that_are_retried_store_them_too(store: StorageBackend) -> None:
    retrying = RetryBackend(RefusingLayer(store), RetryOptions(attempts=3, base_seconds=0))
    backend = DeflatingLayer(retrying)
    await backend.objects.put_stream("r", [RANDOM])
    await check(backend, "r")


async def test_an_outer_layers_size_wins_even_if_it_is_known_from_the_start(store: StorageBackend) -> None:
    driver = DeflatingLayer(store).objects.driver
    options = PutOptions("a/b", described({}, 5, "0" * 64))
    await driver.put_stream("k", Parts([RANDOM], driver.capabilities.part_bytes, 2**40), options)
    info = hidden.presented(await driver.head("k"))
    assert (info.size, info.sha256) == (5, "0" * 64)


async def test_files_have_room_for_what_is_known_late_and_refuse_more(tmp_path: Path) -> None:
    class Talkative(TransformingObjects):
        size = 0

        async def put_stream(
            self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
        ) -> PutResult:
            async def same() -> Any:
                async for part in parts:
                    yield part

            return await self.put_transformed(
                key, parts, same(), options, repeat, lambda: {"x": "x" * self.size}
            )

    async with FileStorageBackend(str(tmp_path)) as files:
        driver = Talkative(files.objects.driver, DeflatingLayer(MemoryBackend()).around)

        async def put(size: int) -> None:
            driver.size = size
            parts = Parts([RANDOM], driver.capabilities.part_bytes, 2**40)
            await driver.put_stream("k", parts, PutOptions("a/b", {"own": "y" * 3000}))

        await put(LATE_BYTES - 200)
        found = await driver.get("k", PLAIN_GET)
        assert found is not None
        assert found.data == RANDOM
        assert len(found.info.metadata["x"]) == LATE_BYTES - 200
        with pytest.raises(StorageError, match="too much metadata"):
            await put(10_000)
        found = await driver.get("k", PLAIN_GET)
        assert found is not None
        assert found.data == RANDOM


async def test_sidecars_of_s3_with_a_bare_digest_are_still_read_and_damaged_ones_are_told(moto: Any) -> None:
    async with backend_of(moto, a_bucket(), create_bucket=True) as s3:
        await s3.objects.put_stream("bare", [RANDOM])
        await DeflatingLayer(s3).objects.put_stream("full", [RANDOM])
        sidecars = [entry.key async for entry in s3.objects.iterate(".system/sums/")]  # type: ignore[union-attr]
        [bare, full] = sorted(sidecars, key=lambda name: name.endswith(".json"))
        found = await s3.objects.get(bare)
        assert found is not None
        assert found.data == hashlib.sha256(RANDOM).hexdigest().encode()
        assert (await s3.objects.head("bare")).sha256 == hashlib.sha256(RANDOM).hexdigest()
        for damaged in (b"", b"{}", b"[1]", b"\xff", zlib.compress(b"x")):
            await s3.objects.put(full, damaged)
            with pytest.raises(IntegrityError, match="damaged"):
                await s3.objects.head("full")
            page = await s3.objects.list_page("full", details=True)
            assert [entry.key for entry in page.entries] == ["full"]
        await s3.objects.delete("full")
        remaining = [entry.key async for entry in s3.objects.iterate(".system/sums/")]  # type: ignore[union-attr]
        assert remaining == [bare]
