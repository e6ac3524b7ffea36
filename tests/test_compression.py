"""The compression layer: what goes in comes out, and is smaller in between; what is damaged is an error."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from azure.storage.blob.aio import ContainerClient
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.config import StorageConfig
from storage_lib.config.compression import CompressionOptions, from_env
from storage_lib.errors import (
    ConfigurationError,
    IntegrityError,
    InvalidArgumentError,
    ObjectTooLargeError,
    PreconditionFailedError,
)
from storage_lib.layers.compression import CompressionLayer
from storage_lib.layers.compression.frames import FRAME_BYTES, Table, encoded_table
from storage_lib.layers.compression.mark import Mark
from storage_lib.manager import StorageManager
from storage_lib.ports import hidden
from storage_lib.ports.backend import ByteRange, StorageBackend
from storage_lib.ports.drivers import PLAIN_GET, GetOptions
from storage_lib.ports.object_model import ObjectInfo, StoredObject
from storage_lib.ports.objects import ObjectStore
from storage_lib.zstandard import zstd
from tests.conftest import PROJECT
from tests.descriptors import open_in
from tests.layers import DeflatingLayer
from tests.test_azure_backend import a_container
from tests.test_s3_backend import a_bucket, backend_of, raw_store

SOAK = os.environ.get("SOAK") == "1"
CODECS = ["zstd", "gzip"]
LARGE = 8 * 1024 * 1024 + 1
"""More than one part of a stream."""


def text(size: int, seed: int = 1) -> bytes:
    """Bytes that shrink to about half."""
    return random.Random(seed).randbytes(size // 2).hex().encode().ljust(size, b"!")


TEXT = text(3 * FRAME_BYTES)
LONG = text(LARGE, 2)
STREAMED = text(LARGE + FRAME_BYTES, 2) + LONG
"""More than one part even if it is compressed."""


def layered(backend: StorageBackend | None = None, **options: Any) -> CompressionLayer:
    fast: dict[str, Any] = {"level": 1} if options.get("codec") == "gzip" else {}
    return CompressionLayer(backend or MemoryBackend(), CompressionOptions(**fast | options))


async def stored(backend: StorageBackend, key: str) -> StoredObject:
    """What the store itself has."""
    found = await backend.objects.driver.core.get(key, PLAIN_GET)
    assert found is not None
    return found


def put_back(backend: StorageBackend, key: str, data: bytes, mark: str | None = None) -> None:
    """Change what a store in memory has, as another program might."""
    core: Any = backend.objects.driver.core
    was: StoredObject = core._objects[key]
    metadata = dict(was.info.metadata)
    if mark is not None:
        metadata[hidden.COMPRESSION] = mark
    core._objects[key] = StoredObject(replace(was.info, size=len(data), metadata=metadata), data)


async def read(objects: ObjectStore, key: str, byte_range: ByteRange | None = None) -> bytes:
    async with objects.open_reader(key, byte_range=byte_range) as reader:
        return await reader.read()


async def got(objects: ObjectStore, key: str, byte_range: ByteRange | None = None) -> bytes:
    found = await objects.get(key, byte_range=byte_range)
    assert found is not None
    return found.data


# -- what goes in comes out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "size", [0, 1, 1023, 1024, 20_000, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 5_000_000]
)
async def test_bytes_come_back(codec: str, size: int) -> None:
    backend = layered(codec=codec)
    data = text(size)
    await backend.objects.put("k", data, metadata={"mine": "1"})
    assert await got(backend.objects, "k") == await read(backend.objects, "k") == data
    info = await backend.objects.head("k")
    assert (info.size, dict(info.metadata), info.content_encoding) == (size, {"mine": "1"}, None)
    there = await stored(backend, "k")
    assert len(there.data) < size * 0.6 if size >= 1024 else there.data == data


@pytest.mark.parametrize("codec", CODECS)
async def test_streams_come_back(codec: str) -> None:
    backend = layered(codec=codec)
    await backend.objects.put_stream(
        "k", [STREAMED[at : at + 99_999] for at in range(0, len(STREAMED), 99_999)]
    )
    assert await read(backend.objects, "k") == await got(backend.objects, "k") == STREAMED
    assert (await backend.objects.head("k")).size == len(STREAMED)
    assert len((await stored(backend, "k")).data) < 0.6 * len(STREAMED)


SAVED: dict[str, CompressionLayer] = {}


async def saved(codec: str) -> CompressionLayer:
    """A store with objects to read, saved once."""
    if codec not in SAVED:
        backend = layered(codec=codec)
        await backend.objects.put("small", TEXT[:9000])
        await backend.objects.put("large", TEXT + b"end")
        await backend.objects.put("plain", os.urandom(9000))
        SAVED[codec] = backend
    return SAVED[codec]


@settings(max_examples=400 if SOAK else 60, deadline=None)
@given(st.sampled_from(CODECS), st.sampled_from(["small", "large", "plain"]), st.data())
def test_any_range_is_that_of_the_bytes(codec: str, key: str, draw: st.DataObject) -> None:
    async def check() -> None:
        objects = (await saved(codec)).objects
        data = await got(objects, key)
        near = st.sampled_from(
            [0, 1, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES, len(data) - 1, len(data)]
        )
        start = draw.draw(st.integers(-len(data) - 2, len(data) + 2) | near)
        end = None if start < 0 else draw.draw(st.none() | st.integers(start + 1, max(start, len(data)) + 9))
        wanted = data[start:end] if start < len(data) else b""
        if not wanted:
            for reading in (got, read):
                with pytest.raises(InvalidArgumentError):
                    await reading(objects, key, ByteRange(start, end))
            return
        found = await objects.get(key, byte_range=ByteRange(start, end))
        assert found is not None
        assert (found.data, found.start) == (wanted, max(len(data) + start, 0) if start < 0 else start)
        assert await read(objects, key, ByteRange(start, end)) == wanted

    asyncio.run(check())


async def test_a_range_reads_only_its_frames() -> None:
    """Of an object of 17 MiB with frames of 1 MiB."""
    memory = MemoryBackend()
    backend = layered(memory)
    await backend.objects.put_stream("k", [STREAMED])
    asked: list[int] = []

    class Counting(MemoryObjects):
        async def get(self, key: str, options: GetOptions) -> StoredObject | None:
            found = await super().get(key, options)
            assert found is not None
            asked.append(len(found.data))
            return found

    counting = Counting()
    counting.__dict__.update(vars(memory.objects.driver))
    memory.objects = ObjectStore(counting)
    backend = layered(memory)
    for start in (0, FRAME_BYTES - 5, 10_000_000, len(STREAMED) - 10):
        asked.clear()
        assert await got(backend.objects, "k", ByteRange(start, start + 10)) == STREAMED[start : start + 10]
        assert sum(asked) < 2 * FRAME_BYTES


async def test_a_range_is_of_one_version_though_the_object_is_replaced() -> None:
    new = text(2_000_000, 3)
    memory = MemoryBackend()
    await layered(memory).objects.put("k", TEXT)

    class Replacing(MemoryObjects):
        async def head(self, key: str) -> ObjectInfo:
            info = await super().head(key)
            if replacing:
                replacing.pop()
                await layered(memory).objects.put("k", new)
            return info

    replacing = [1]
    driver = Replacing()
    driver.__dict__.update(vars(memory.objects.driver))
    other = MemoryBackend()
    other.objects = ObjectStore(driver)
    backend = layered(other)
    old = (await memory.objects.head("k")).etag
    assert await got(backend.objects, "k", ByteRange(-9)) == new[-9:]
    replacing.append(1)
    assert await read(backend.objects, "k", ByteRange(100, 200)) == new[100:200]
    with pytest.raises(PreconditionFailedError):
        await backend.objects.get("k", byte_range=ByteRange(0, 5), if_match=old)


async def test_saves_at_once_share_nothing() -> None:
    backend = layered(min_bytes=1)
    values = {f"k{n}": text(50 + 1700 * n, n) for n in range(60)}
    await asyncio.gather(*(backend.objects.put(key, data) for key, data in values.items()))
    for key, data in values.items():
        assert await got(backend.objects, key) == data


# -- what is there already, and what comes later


async def test_objects_of_any_codec_and_level_and_of_none_are_read() -> None:
    memory = MemoryBackend()
    await memory.objects.put("before", TEXT)
    for name, options in {
        "zstd": {"level": 9},
        "fast": {"level": 1},
        "gzip": {"codec": "gzip", "level": 2},
    }.items():
        await layered(memory, **options).objects.put(name, TEXT[:2_000_000])
        await layered(memory, **options).objects.put_stream(f"{name}-stream", [LONG])
    for codec in CODECS:
        objects = layered(memory, codec=codec).objects
        assert await got(objects, "before") == TEXT
        assert await got(objects, "before", ByteRange(5, 9)) == TEXT[5:9]
        for name in ("zstd", "fast", "gzip"):
            assert await got(objects, name) == TEXT[:2_000_000]
            assert await read(objects, f"{name}-stream") == LONG


@pytest.fixture(scope="module", params=["memory", "file", "azurite", "moto"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "memory":
        return MemoryBackend(), None
    if request.param == "file":
        return FileStorageBackend(str(tmp_path_factory.mktemp("compressed"))), None
    service = request.getfixturevalue(request.param)
    name = a_container()
    if request.param == "azurite":
        return AzureStorageBackend(service.connection_string, container=name), (service, name)
    name = a_bucket()
    return backend_of(service, name, create_bucket=True), (service, name)


@pytest.fixture(scope="module")
async def store(server: Any) -> AsyncIterator[StorageBackend]:
    async with server[0] as backend:
        yield backend


@pytest.mark.parametrize("codec", CODECS)
async def test_values_load_where_the_layer_is_off(store: StorageBackend, codec: str) -> None:
    value = {"rows": [{"n": n, "name": f"agent {n % 7}"} for n in range(2000)]}
    on, off = StorageManager(backend=layered(store, codec=codec)), StorageManager(backend=store)
    await on.save("off/value", value)
    await on.save("off/text", "ä" * 90_000, ttl=3600)
    await on.write_stream("off/stream", [LONG], content_type="application/octet-stream")
    await on.copy("off/value", "off/copy")
    for storage in (on, off):
        assert await storage.load("off/value") == await storage.load("off/copy") == value
        assert await storage.load("off/text") == "ä" * 90_000
        assert await storage.load("off/stream") == LONG
    found = await off.read("off/value")
    assert found.info.content_encoding == codec, "the bytes are told to be compressed"
    assert found.info.size == len(found.data) < 20_000
    assert (await off.info("off/value")).size == len(found.data)
    async with off.open_reader("off/stream") as reader:
        assert reader.info.content_encoding == codec
        assert len(await reader.read()) == reader.info.size
    assert await off.update("off/value", lambda old: {**old, "n": 1}) == {**value, "n": 1}
    assert await on.load("off/value") == {**value, "n": 1}


async def test_compressed_bytes_are_never_a_value_though_their_header_is_lost() -> None:
    memory = MemoryBackend()
    await StorageManager(backend=layered(memory)).save("k", TEXT)
    core: Any = memory.objects.driver
    info = core._objects["k"].info
    kept = {name: value for name, value in info.metadata.items() if name != "aos-content-encoding"}
    core._objects["k"] = replace(core._objects["k"], info=replace(info, metadata=kept))
    assert await StorageManager(backend=memory).load("k") == TEXT
    assert await StorageManager(backend=layered(memory)).load("k") == TEXT


async def test_other_clients_read_it(server: Any, store: StorageBackend) -> None:
    """By its content encoding, with what decodes zstd or gzip."""
    backend, place = server
    for codec, decode in (("zstd", zstd.decompress), ("gzip", gzip.decompress)):
        objects = layered(store, codec=codec).objects
        await objects.put("seen", TEXT, content_type="text/plain")
        await objects.put_stream("seen-stream", [STREAMED], content_type="text/plain")
        for key, data in (("seen", TEXT), ("seen-stream", STREAMED)):
            if isinstance(backend, AzureStorageBackend):
                service, name = place
                async with ContainerClient.from_connection_string(service.connection_string, name) as client:
                    blob = await client.download_blob(key, decompress=False)
                    content, encoding = (
                        await blob.readall(),
                        blob.properties.content_settings.content_encoding,
                    )
            elif place is not None:
                answer = await raw_store(*place).get_async(key)
                content = bytes(await answer.bytes_async())
                encoding = answer.attributes["Content-Encoding"]
            else:
                found = await store.objects.get(key)
                assert found is not None
                content, encoding = found.data, found.info.content_encoding
            assert encoding == codec
            assert decode(content) == data


async def test_the_encodings_of_other_programs_stay_theirs() -> None:
    """Their bytes are not compressed again, and decoded once."""
    memory = MemoryBackend()
    storage = StorageManager(backend=layered(memory, min_bytes=1))
    packed = gzip.compress(json.dumps(["x" * 5000]).encode())
    core: Any = memory.objects.driver
    await memory.objects.put("k", packed, content_type="application/json")
    info = replace(core._objects["k"].info, sha256=None, metadata={"aos-content-encoding": "gzip"})
    core._objects["k"] = StoredObject(info, packed)
    await storage.copy("k", "l")
    for key in ("k", "l"):
        assert (await storage.info(key)).content_encoding == "gzip"
        assert (await storage.read(key)).data == packed
        assert await storage.load(key) == ["x" * 5000]


async def test_it_can_be_stacked_with_a_layer_that_changes_sizes_too() -> None:
    for stack in (
        lambda inner: layered(DeflatingLayer(inner)),
        lambda inner: DeflatingLayer(layered(inner)),
        lambda inner: layered(layered(inner, codec="gzip")),
    ):
        objects = stack(MemoryBackend()).objects
        await objects.put("k", TEXT)
        await objects.put_stream("s", [LONG])
        for key, data in (("k", TEXT), ("s", LONG)):
            assert await got(objects, key) == await read(objects, key) == data
            assert await got(objects, key, ByteRange(-7)) == data[-7:]
            assert (await objects.head(key)).size == len(data)


# -- what is not worth it


@pytest.mark.parametrize("codec", CODECS)
async def test_what_does_not_shrink_is_stored_as_it_is(codec: str) -> None:
    backend = layered(codec=codec, min_bytes=1)
    for key, data in {"small": os.urandom(3000), "large": os.urandom(3_000_000), "tiny": b"ab"}.items():
        await backend.objects.put(key, data)
        assert (await stored(backend, key)).data == data
    data = os.urandom(LARGE * 2)
    await backend.objects.put_stream("stream", [data])
    assert (await stored(backend, "stream")).data == data
    assert await read(backend.objects, "stream") == data


@pytest.mark.parametrize(
    ("content_type", "compressed"),
    [
        ("application/octet-stream", True),
        ("image/png", False),
        ("image/svg+xml", True),
        ("Video/MP4; codecs=avc1", False),
        ("audio/wav", True),
        ("application/zip", False),
        ("application/vnd.apache.parquet", False),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", False),
        ("application/pdf", True),
        ("application/geo+json", True),
    ],
)
async def test_compressed_formats_are_left_alone(content_type: str, compressed: bool) -> None:
    backend = layered()
    await backend.objects.put("k", TEXT[:5000], content_type=content_type)
    await backend.objects.put_stream("s", [LONG], content_type=content_type)
    assert (len((await stored(backend, "k")).data) < 5000) is compressed
    assert (len((await stored(backend, "s")).data) < len(LONG)) is compressed


async def test_large_data_that_do_not_shrink_are_only_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = layered()
    seen: list[int] = []
    codec: Any = backend.objects.driver._codec  # type: ignore[attr-defined]
    compress = codec.compress

    def counting(data: bytes) -> bytes:
        seen.append(len(data))
        return compress(data)

    monkeypatch.setattr(codec, "compress", counting)
    data = os.urandom(20_000_000)
    await backend.objects.put("k", data)
    assert sum(seen) < len(data) / 50
    seen.clear()
    await backend.objects.put_stream("s", [data])
    assert sum(seen) < len(data) / 50


# -- bombs


def bomb(codec: str, size: int) -> bytes:
    if codec == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        zeros = bytes(1_000_000)
        return b"".join(packer.compress(zeros) for _ in range(size // 1_000_000)) + packer.flush()
    frame = zstd.compress(bytes(1_000_000))
    return frame * (size // 1_000_000)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("reading", [got, read], ids=["value", "stream"])
async def test_a_bomb_is_refused_within_its_bound(codec: str, reading: Callable[..., Any]) -> None:
    """What expands to more than it says, in little memory."""
    backend = layered(codec=codec)
    await backend.objects.put("k", TEXT[:50_000])
    put_back(backend, "k", bomb(codec, 1_000_000_000 if SOAK else 300_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="more than 50000 bytes"):
            await reading(backend.objects, "k")
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
        with pytest.raises(IntegrityError):
            await reading(backend.objects, "k", ByteRange(10, 20))
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", CODECS)
async def test_a_bomb_that_says_how_large_it_is_is_refused_as_a_value(codec: str) -> None:
    backend = layered(codec=codec, max_expanded_bytes=1_000_000)
    await backend.objects.put("k", TEXT[:50_000])
    put_back(backend, "k", bomb(codec, 100_000_000), f"{codec}-100000000")
    tracemalloc.start()
    try:
        for byte_range in (None, ByteRange(0), ByteRange(1, 99_999_999), ByteRange(-50_000_000)):
            with pytest.raises(ObjectTooLargeError) as caught:
                await backend.objects.get("k", byte_range=byte_range)
            assert "open_reader" in (caught.value.remedy or "")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        async with backend.objects.open_reader("k", byte_range=ByteRange(0)) as reader:
            assert sum([len(chunk) async for chunk in reader]) == 100_000_000
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


async def test_values_that_could_not_be_read_in_one_piece_are_not_compressed() -> None:
    backend = layered(max_expanded_bytes=1_000_000)
    zeros = bytes(30_000_000)
    await backend.objects.put("k", zeros)
    assert await got(backend.objects, "k") == zeros


async def test_frames_that_want_too_much_memory_or_give_nothing_are_refused() -> None:
    backend = layered()
    await backend.objects.put("k", TEXT[:50_000])
    parameters = zstd.CompressionParameter
    wide: Any = zstd.ZstdCompressor(options={parameters.window_log: 27, parameters.compression_level: 1})
    put_back(backend, "k", wide.compress(TEXT[:50_000]) + wide.flush())
    with pytest.raises(IntegrityError, match="memory"):
        await backend.objects.get("k")
    nothing = b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 50_000  # frames to be skipped, of no bytes
    put_back(backend, "k", nothing)
    with pytest.raises(IntegrityError, match="ends after 0"):
        await asyncio.wait_for(backend.objects.get("k"), 120)


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "zstd",
        "lz4-5",
        "zstd--5",
        "zstd-5x",
        "zstd-" + "9" * 40,
        "zstd-5-99999999-5",
        "zstd-5-1",
        "ZSTD-5",
    ],
)
async def test_an_unreadable_mark_is_an_error(mark: str) -> None:
    backend = layered()
    await backend.objects.put("k", TEXT)
    put_back(backend, "k", (await stored(backend, "k")).data, mark)
    for reading in (got, read):
        for byte_range in (None, ByteRange(0, 1)):
            with pytest.raises(IntegrityError):
                await reading(backend.objects, "k", byte_range)
    with pytest.raises(IntegrityError):
        await backend.objects.head("k")
    await backend.objects.delete("k")


# -- damage


DAMAGED = text(2_300_000, 5)


WHOLE: dict[tuple[str, int], tuple[CompressionLayer, bytes]] = {}


async def _damaged(codec: str, change: Callable[[bytes], bytes], size: int) -> None:
    """Whatever has become of the stored bytes, reading gives what was saved, or an IntegrityError."""
    data = DAMAGED[:size]
    if (codec, size) not in WHOLE:
        backend = layered(codec=codec)
        await backend.objects.put("k", data)
        WHOLE[codec, size] = backend, (await stored(backend, "k")).data
    backend, was = WHOLE[codec, size]
    now = change(was)
    put_back(backend, "k", now)
    outcomes: list[bool] = []
    for reading in (got, read):
        for start, end in (
            (None, None),
            (0, 10),
            (size // 2, size // 2 + 1000),
            (size - 10, size),
            (0, size),
        ):
            byte_range = None if start is None else ByteRange(start, end)
            try:
                assert await reading(backend.objects, "k", byte_range) == data[start:end]
                outcomes.append(True)
            except IntegrityError:
                outcomes.append(False)
    if len(now) < len(was):
        # What is missing is missed by all that read it: a value, a range to the end, a stream.
        assert not outcomes[0]
        assert not outcomes[3]
        assert not outcomes[5]


@settings(max_examples=600 if SOAK else 80, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.sampled_from(["flip", "cut", "cut start", "append", "zero", "twice"]),
    st.floats(0, 1, exclude_max=True) | st.floats(0.9999, 1, exclude_max=True) | st.floats(0, 0.0001),
    st.integers(1, 255),
    st.sampled_from([20_000, 2_300_000]),
)
def test_damaged_bytes_are_an_integrity_error_or_were_not_needed(
    codec: str, kind: str, place: float, bits: int, size: int
) -> None:
    def change(was: bytes) -> bytes:
        at = int(place * len(was))
        return {
            "flip": was[:at] + bytes([was[at] ^ bits]) + was[at + 1 :],
            "cut": was[:at],
            "cut start": was[at + 1 :],
            "append": was + bytes([bits]) * (at % 100 + 1),
            "zero": was[:at] + bytes(len(was[at : at + 50])) + was[at + 50 :],
            "twice": was + was,
        }[kind]

    asyncio.run(_damaged(codec, change, size))


def test_the_table_of_a_very_large_object_takes_little_memory() -> None:
    count, frame = 100_000, 1024
    mark = Mark("zstd", count * frame - 24, frame, count * 10 + 17 + count * 12)
    entries = [struct.pack("<III", 10, frame, 7)] * (count - 1) + [struct.pack("<III", 10, frame - 24, 7)]
    stored, table = encoded_table(entries), Table("k", mark)
    del entries
    tracemalloc.start()
    try:
        table.read(stored)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(stored)
    finally:
        tracemalloc.stop()
    assert table.stored_span(table.frames(frame * 3, frame * 5 + 1)) == (30, 60)
    other = Table("k", mark)
    with pytest.raises(IntegrityError):
        other.read(stored[:20] + struct.pack("<I", frame + 1) + stored[24:])


async def test_frames_in_another_order_are_an_integrity_error() -> None:
    """Each of them is whole, and of the right size."""
    backend = layered()
    data = b"".join(bytes([97 + n]) * FRAME_BYTES for n in range(3)) + b"end"
    await backend.objects.put("k", data)
    was = (await stored(backend, "k")).data
    one = was.index(b"\x28\xb5\x2f\xfd", 4)
    assert was[one * 2 : one * 2 + 4] == b"\x28\xb5\x2f\xfd"
    put_back(backend, "k", was[one : one * 2] + was[:one] + was[one * 2 :])
    for reading in (got, read):
        with pytest.raises(IntegrityError):
            await reading(backend.objects, "k")
        with pytest.raises(IntegrityError, match="another"):
            await reading(backend.objects, "k", ByteRange(5, 10))
        assert await reading(backend.objects, "k", ByteRange(-3)) == b"end"


# -- work and resources


async def test_the_event_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = layered(level=15)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    for work in (
        lambda: backend.objects.put("k", TEXT),
        lambda: backend.objects.put("m", TEXT[:200_000]),
        lambda: backend.objects.get("k"),
        lambda: backend.objects.get("k", byte_range=ByteRange(5, 2_000_000)),
    ):
        turns = 0
        await work()
        assert turns > 3
    turning.cancel()
    with suppress(asyncio.CancelledError):
        await turning


async def test_streams_need_little_memory() -> None:
    """Through a store that only counts, and back from one that only repeats."""

    class Sink(MemoryObjects):
        async def put_stream(self, key: Any, parts: Any, options: Any, repeat: Any = None) -> Any:
            self.total = sum([len(part) async for part in parts])
            return await super().put(key, b"", replace_options(options, parts))

    def replace_options(options: Any, parts: Any) -> Any:
        import msgspec

        return msgspec.structs.replace(
            options, metadata=parts.complete(options.metadata), sha256=parts.sha256
        )

    memory = MemoryBackend()
    memory.objects = ObjectStore(sink := Sink())
    backend = layered(memory, level=1)
    count = 200 if SOAK else 60
    pieces = [text(FRAME_BYTES, n) for n in range(4)]

    async def source() -> AsyncIterator[bytes]:
        for n in range(count):
            yield pieces[n % 4]

    tracemalloc.start()
    try:
        await backend.objects.put_stream("k", source())
        assert tracemalloc.get_traced_memory()[1] < 80_000_000
    finally:
        tracemalloc.stop()
    assert (await backend.objects.head("k")).size == count * FRAME_BYTES
    assert sink.total < 0.6 * count * FRAME_BYTES


@pytest.mark.parametrize("byte_range", [None, ByteRange(5)])
async def test_a_reader_that_is_left_closes_what_it_reads(
    tmp_path: Any, byte_range: ByteRange | None
) -> None:
    async with FileStorageBackend(str(tmp_path)) as files:
        backend = layered(files)
        await backend.objects.put_stream("k", [STREAMED])
        before = open_in(tmp_path)
        for taken in (0, 1, 3):
            async with backend.objects.open_reader("k", byte_range=byte_range) as reader:
                chunks = aiter(reader)
                for _ in range(taken):
                    await anext(chunks)
            assert open_in(tmp_path) == before


# -- configuration


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"codec": "lz4"}, "compression.codec"),
        ({"level": 0}, "compression.level"),
        ({"level": 23}, "compression.level"),
        ({"codec": "gzip", "level": 10}, "compression.level"),
        ({"level": True}, "compression.level"),
        ({"min_bytes": -1}, "compression.min_bytes"),
        ({"max_expanded_bytes": 1.5}, "compression.max_expanded_bytes"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CompressionOptions(**options)
    assert caught.value.field == field
    assert caught.value.limit


def test_settings() -> None:
    assert from_env({}) is None
    assert from_env({"AGENT_STORAGE_COMPRESSION": "true"}) == CompressionOptions()
    assert from_env({"AGENT_STORAGE_COMPRESSION": "gzip"}) == CompressionOptions(codec="gzip")
    env = {
        "AGENT_STORAGE_COMPRESSION": "zstd",
        "AGENT_STORAGE_COMPRESSION_LEVEL": "9",
        "AGENT_STORAGE_COMPRESSION_MIN_BYTES": "4096",
        "AGENT_STORAGE_COMPRESSION_MAX_EXPANDED_BYTES": "1000000",
    }
    assert from_env(env) == CompressionOptions(level=9, min_bytes=4096, max_expanded_bytes=1_000_000)
    for name, text in {"": "brotli", "_LEVEL": "high", "_MIN_BYTES": "1k"}.items():
        with pytest.raises(ConfigurationError) as caught:
            from_env({"AGENT_STORAGE_COMPRESSION": "zstd", f"AGENT_STORAGE_COMPRESSION{name}": text})
        assert caught.value.field == f"AGENT_STORAGE_COMPRESSION{name}"


async def test_by_configuration_alone(tmp_path: Any) -> None:
    config = StorageConfig(base_path=str(tmp_path), compression=CompressionOptions())
    large = {"rows": [{"n": n, "text": "the same again"} for n in range(5000)]}
    async with StorageManager(config) as storage:
        await storage.save("large_dataset", large)
        assert await storage.load("large_dataset") == large
        copy = pickle.loads(pickle.dumps(storage))  # noqa: S301
    async with copy as storage:
        assert await storage.load("large_dataset") == large
        assert isinstance(storage.backend, CompressionLayer)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 30_000


def test_what_is_off_is_not_imported_and_gzip_needs_no_package() -> None:
    code = """
import asyncio, sys
sys.modules["backports.zstd"] = None
from storage_lib.manager import StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.compression import CompressionOptions
assert "storage_lib.layers.compression" not in sys.modules
from storage_lib.layers.compression import CompressionLayer
from storage_lib.errors import ConfigurationError
async def main():
    storage = StorageManager(backend=CompressionLayer(MemoryBackend(), CompressionOptions(codec="gzip")))
    await storage.save("k", "x" * 9000)
    assert await storage.load("k") == "x" * 9000
asyncio.run(main())
assert "storage_lib.zstandard" not in sys.modules
try:
    CompressionLayer(MemoryBackend())
except ConfigurationError as error:
    assert "install" in str(error)
else:
    assert sys.version_info >= (3, 14)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT, timeout=120)
