"""Encryption: what is stored cannot be read, and what was changed, moved, cut off or swapped is refused."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.errors import (
    EncryptionError,
    IntegrityError,
    KeyNotFoundError,
)
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.encryption.envelope import CHUNK_BYTES, HEADER_BYTES, SEALED_BYTES, stored_size
from storage_lib.ports.backend import ByteRange, ObjectStore, StorageBackend
from storage_lib.ports.drivers import PLAIN_GET, PutOptions
from storage_lib.ports.object_model import StoredObject

KEYS = {"new": bytes(range(32)), "old": bytes(range(32, 64))}
OPTIONS = EncryptionOptions(keys=KEYS)


def data_of(size: int, seed: bytes = b"seed") -> bytes:
    return hashlib.shake_128(seed).digest(size)


@dataclass
class Store:
    """A store behind the layer, and what another program can do to it."""

    inner: StorageBackend
    unique: str
    is_slow: bool = False

    def objects(self, options: EncryptionOptions = OPTIONS) -> ObjectStore:
        return EncryptionLayer(self.inner, options).objects

    async def stored(self, key: str) -> StoredObject:
        found = await self.inner.objects.driver.get(key, PLAIN_GET)
        assert found is not None
        return found

    async def place(self, key: str, found: StoredObject, data: bytes | None = None, **changes: Any) -> None:
        """Store what was ``found``, or ``data`` instead of its bytes, with all of its metadata."""
        info = replace(found.info, **changes)
        data = found.data if data is None else data
        options = PutOptions(info.content_type, dict(info.metadata), hashlib.sha256(data).hexdigest())
        await self.inner.objects.driver.put(key, data, options)


@pytest.fixture(scope="module")
async def azure(azurite: Any) -> AsyncIterator[AzureStorageBackend]:
    async with AzureStorageBackend(azurite.connection_string) as backend:
        yield backend


@pytest.fixture(scope="module")
async def s3(moto: Any) -> AsyncIterator[StorageBackend]:
    from tests.test_s3_backend import a_bucket, backend_of

    async with backend_of(moto, a_bucket(), create_bucket=True) as backend:
        yield backend


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StorageBackend]:
    async with FileStorageBackend(tmp_path) as backend:
        yield backend


@pytest.fixture(params=["memory", "files", "azure", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    name = request.param
    backend = MemoryBackend() if name == "memory" else request.getfixturevalue(name)
    return Store(backend, f"t-{uuid.uuid4().hex[:12]}", name in ("azure", "s3"))


@pytest.fixture
def memory() -> Store:
    return Store(MemoryBackend(), "t")


async def value(objects: ObjectStore, key: str) -> bytes:
    found = await objects.get(key)
    assert found is not None
    return found.data


async def streamed(objects: ObjectStore, key: str) -> bytes:
    async with objects.open_reader(key) as reader:
        return await reader.read()


async def ranged(objects: ObjectStore, key: str) -> bytes:
    """All bytes, by ranges of three."""
    size, found = 2 * CHUNK_BYTES + 1, b""
    for start in range(0, size, CHUNK_BYTES):
        part = await objects.get(key, byte_range=ByteRange(start, start + CHUNK_BYTES))
        assert part is not None
        found += part.data
    return found


async def ranged_streams(objects: ObjectStore, key: str) -> bytes:
    found = b""
    for byte_range in (ByteRange(0, CHUNK_BYTES + 1), ByteRange(CHUNK_BYTES + 1)):
        async with objects.open_reader(key, byte_range=byte_range) as reader:
            found += await reader.read()
    return found


READS: dict[str, Callable[[ObjectStore, str], Awaitable[bytes]]] = {
    "value": value,
    "stream": streamed,
    "ranges": ranged,
    "ranges of a stream": ranged_streams,
}

SIZE = 2 * CHUNK_BYTES + 1
_CHUNK = [HEADER_BYTES + n * SEALED_BYTES for n in range(4)]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def swapped(data: bytes) -> bytes:
    return data[: _CHUNK[0]] + data[_CHUNK[1] : _CHUNK[2]] + data[_CHUNK[0] : _CHUNK[1]] + data[_CHUNK[2] :]


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "a bit of the first chunk": lambda data, other: flipped(data, _CHUNK[0]),
    "a bit of a tag": lambda data, other: flipped(data, _CHUNK[1] - 1),
    "a bit of the last chunk": lambda data, other: flipped(data, _CHUNK[2]),
    "the last byte cut off": lambda data, other: data[:-1],
    "the last chunk cut off": lambda data, other: data[: _CHUNK[2]],
    "all but the first chunk cut off": lambda data, other: data[: _CHUNK[1]],
    "nothing left": lambda data, other: b"",
    "a byte appended": lambda data, other: data + b"x",
    "a chunk appended": lambda data, other: data + data[_CHUNK[1] : _CHUNK[2]],
    "the last chunk twice": lambda data, other: data + data[_CHUNK[2] :],
    "a chunk left out": lambda data, other: data[: _CHUNK[1]] + data[_CHUNK[2] :],
    "a chunk twice": lambda data, other: data[: _CHUNK[1]] + data[_CHUNK[0] :],
    "chunks in another order": lambda data, other: swapped(data),
    "a chunk of another object": lambda data, other: (
        data[: _CHUNK[1]] + other[_CHUNK[1] : _CHUNK[2]] + data[_CHUNK[2] :]
    ),
    "another object behind this header": lambda data, other: data[:HEADER_BYTES] + other[HEADER_BYTES:],
    "another object": lambda data, other: other,
    "plaintext": lambda data, other: data_of(SIZE),
    "plaintext of this size": lambda data, other: data_of(len(data)),
}


LEAN = ("a bit of the last chunk", "the last chunk cut off", "a chunk of another object", "plaintext")
"""What is tried on servers."""


async def test_corrupted_truncated_or_spliced_bytes_raise_integrity_error(store: Store) -> None:
    objects, key, other = store.objects(), f"{store.unique}/k", f"{store.unique}/other"
    data = data_of(SIZE)
    await objects.put(key, data, metadata={"a": "1"})
    await objects.put(other, data_of(SIZE, b"other"), metadata={"a": "1"})
    stored, others = await store.stored(key), await store.stored(other)
    for read in READS.values():
        assert await read(objects, key) == data
    for name, damage in DAMAGES.items():
        if store.is_slow and name not in LEAN:
            continue
        await store.place(key, stored, damage(stored.data, others.data))
        for way, read in READS.items():
            with pytest.raises(IntegrityError):
                raise AssertionError((name, way, len(await read(objects, key))))
        if len(damage(stored.data, others.data)) != len(stored.data):
            with pytest.raises(IntegrityError):
                await objects.head(key)
        with pytest.raises(IntegrityError):
            await objects.copy(key, f"{store.unique}/copy")
    with pytest.raises(KeyNotFoundError):
        await objects.head(f"{store.unique}/copy")
    await objects.delete(key)  # What is damaged can be removed.


async def test_ciphertext_moved_to_another_key_by_another_program_is_refused(store: Store) -> None:
    objects, a, b = store.objects(), f"{store.unique}/a", f"{store.unique}/b"
    for key, seed in ((a, b"a"), (b, b"b")):
        await objects.put(key, data_of(SIZE, seed))
    of_a, of_b = await store.stored(a), await store.stored(b)
    moved = f"{store.unique}/moved"
    await store.place(moved, of_a)
    await store.place(a, of_b)
    await store.place(b, of_a)
    for key in (moved, a, b):
        for read in READS.values():
            with pytest.raises(IntegrityError, match="moved here from another key"):
                await read(objects, key)
        with pytest.raises(IntegrityError, match="moved here"):
            await objects.head(key)
        with pytest.raises(IntegrityError):
            await objects.copy(key, f"{store.unique}/copy")
    await store.place(a, of_a)
    assert await value(objects, a) == data_of(SIZE, b"a")


async def test_ciphertext_of_another_store_is_refused(memory: Store) -> None:
    """Two stores with the same keys and another context."""
    here = memory.objects()
    there = memory.objects(EncryptionOptions(keys=KEYS, context="production"))
    await there.put("k", b"secret")
    assert await value(there, "k") == b"secret"
    for read in (value, streamed):
        with pytest.raises(IntegrityError, match="another key or store"):
            await read(here, "k")


@pytest.mark.parametrize(
    "changes",
    [
        {"content_type": "text/html"},
        {"metadata": {"role": "admin"}},
        {"metadata": {"role": "user", "more": "1"}},
        {"metadata": {}},
        {"metadata": {"role": "user", "aos-expires": "99999999999999"}},
        {"metadata": {"role": "user", "aos-content-encoding": "gzip"}},
    ],
    ids=["type", "value", "one more", "one less", "end of life", "encoding"],
)
async def test_content_type_and_metadata_are_bound(memory: Store, changes: dict[str, Any]) -> None:
    objects = memory.objects()
    await objects.put("k", b"secret", content_type="text/plain", metadata={"role": "user"})
    stored = await memory.stored("k")
    if "metadata" in changes:
        kept = {name: text for name, text in stored.info.metadata.items() if name.startswith("aos-")}
        changes = {"metadata": {**kept, **changes["metadata"]}}
    await memory.place("k", stored, **changes)
    for call in (objects.head, objects.get):
        with pytest.raises(IntegrityError):
            await call("k")


@pytest.mark.parametrize("options", [OPTIONS, EncryptionOptions(keys=KEYS, allow_plaintext_reads=True)])
async def test_ciphertext_without_its_metadata_is_refused(memory: Store, options: EncryptionOptions) -> None:
    objects = memory.objects(options)
    await objects.put("k", data_of(SIZE))
    await memory.place("k", await memory.stored("k"), metadata={})
    for read in READS.values():
        with pytest.raises(IntegrityError, match="'k'"):
            await read(objects, "k")


async def test_an_earlier_record_does_not_open_a_later_object(memory: Store) -> None:
    objects = memory.objects()
    await objects.put("k", data_of(SIZE, b"1"))
    first = await memory.stored("k")
    await objects.put("k", data_of(SIZE, b"2"))
    later = await memory.stored("k")
    await memory.place("k", first, later.data)
    for read in READS.values():
        with pytest.raises(IntegrityError):
            await read(objects, "k")


# -- keys


async def test_the_first_key_encrypts_and_all_decrypt(memory: Store) -> None:
    old = memory.objects(EncryptionOptions(keys={"old": KEYS["old"]}))
    await old.put("k", b"1")
    assert await value(memory.objects(), "k") == b"1"
    await memory.objects().put("k", b"2")
    with pytest.raises(EncryptionError, match="'k' is encrypted with the key 'new'") as refused:
        await old.get("k")
    assert "AGENT_STORAGE_ENCRYPTION_KEYS" in (refused.value.remedy or "")
    for secret in KEYS.values():
        assert secret.hex() not in str(refused.value) + repr(refused.value.__context__)


async def test_another_key_with_the_same_id_is_told(memory: Store) -> None:
    await memory.objects().put("k", b"1")
    with pytest.raises(EncryptionError, match="another key than the one that has the id 'new'"):
        await memory.objects(EncryptionOptions(keys={"new": bytes(32)})).get("k")


async def test_a_changed_key_id_is_refused(memory: Store) -> None:
    objects = memory.objects()
    await objects.put("k", b"1")
    stored = await memory.stored("k")
    header = stored.data[:10] + b"old" + stored.data[13:]
    await memory.place("k", stored, header)
    with pytest.raises(IntegrityError):
        await objects.get("k")


# -- what is not encrypted


async def test_plaintext_is_refused_unless_it_is_allowed(store: Store) -> None:
    key = f"{store.unique}/k"
    await store.inner.objects.put(key, data_of(SIZE), content_type="text/plain")
    objects = store.objects()
    for read in READS.values():
        with pytest.raises(EncryptionError, match="not encrypted, and encryption is required") as refused:
            await read(objects, key)
        assert "ALLOW_PLAINTEXT_READS" in (refused.value.remedy or "")
    for call in (objects.head, lambda key: objects.copy(key, f"{key}2")):
        with pytest.raises(EncryptionError):
            await call(key)
    allowing = store.objects(EncryptionOptions(keys=KEYS, allow_plaintext_reads=True))
    for read in READS.values():
        assert await read(allowing, key) == data_of(SIZE)
    await allowing.copy(key, f"{key}2")
    assert await value(objects, f"{key}2") == data_of(SIZE)
    assert data_of(SIZE)[:100] not in (await store.stored(f"{key}2")).data
    await objects.put(key, b"now it is")
    assert await value(objects, key) == b"now it is"


# -- streams


@pytest.mark.parametrize("extra", [-1, 0, 1, CHUNK_BYTES + 1])
async def test_a_stream_is_an_envelope_like_any_other(store: Store, extra: int) -> None:
    if store.is_slow and extra != 1:
        pytest.skip("the chunks are the same on every store")
    objects, key = store.objects(), f"{store.unique}/k"
    size = 2 * objects.part_bytes + extra
    data = data_of(size)
    metadata = {"a": "ü  1"}
    put = await objects.put_stream(key, [data], content_type="text/csv", metadata=metadata, ttl=600)
    assert put.size == size
    stored = await store.stored(key)
    assert len(stored.data) == stored_size(size)
    assert hashlib.sha256(data).hexdigest() not in str(stored.info)
    async with objects.open_reader(key) as reader:
        assert (reader.info.size, reader.info.etag) == (size, put.etag)
        assert reader.info.sha256 == hashlib.sha256(data).hexdigest()
        assert dict(reader.info.metadata) == metadata
        assert await reader.read() == data
    assert await value(objects, key) == data
    page = await objects.list_page(store.unique, details=True)
    assert [(entry.size, entry.etag) for entry in page.entries] == [(size, put.etag)]
    middle = objects.part_bytes
    found = await objects.get(key, byte_range=ByteRange(middle - 1, middle + 1))
    assert found is not None
    assert (found.data, found.start) == (data[middle - 1 : middle + 1], middle - 1)
    copied = await objects.copy(key, f"{key}2", if_absent=True)
    assert copied.size == size
    assert await streamed(objects, f"{key}2") == data
    await store.place(key, stored, stored.data[: -(16 + (size - 1) % CHUNK_BYTES + 1)])
    for read in (value, streamed):
        with pytest.raises(IntegrityError):
            await read(objects, key)
