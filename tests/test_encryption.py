"""Encryption: what is stored cannot be read, and what was changed, moved, cut off or swapped is refused."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import logging
import os
import pickle
import tracemalloc
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from storage_lib import EncryptedStorage, StorageConfig, StorageManager
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.backends.s3.encoding import new_mark, to_metadata
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.errors import (
    ConfigurationError,
    EncryptionError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from storage_lib.keys import MAX_METADATA_BYTES
from storage_lib.layers.compression import CompressionLayer
from storage_lib.layers.encryption import EncryptionLayer, Key, KeyRing
from storage_lib.layers.encryption.envelope import CHUNK_BYTES, HEADER_BYTES, SEALED_BYTES, stored_size
from storage_lib.layers.retry import RetryBackend
from storage_lib.ports import hidden
from storage_lib.ports.backend import ByteRange, ObjectInfo, ObjectStore, StorageBackend
from storage_lib.ports.drivers import PLAIN_GET, GetOptions, PutOptions, Repeat, once
from storage_lib.ports.object_model import PutResult, StoredObject
from storage_lib.ports.streaming import Parts, one_chunk

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


@pytest.mark.parametrize("fresh", [False, True], ids=["any", "fresh"])
async def test_an_info_is_that_of_the_saved_object_or_refused(memory: Store, fresh: bool) -> None:
    objects = memory.objects()
    data = data_of(SIZE)
    await objects.put("k", data, metadata={"a": "1"}, content_type="text/plain")
    info = await objects.head("k", fresh=fresh)
    assert (info.size, info.sha256) == (SIZE, hashlib.sha256(data).hexdigest())
    assert dict(info.metadata) == {"a": "1"}
    found = await memory.stored("k")
    for changes in ({"content_type": "text/html"}, {"metadata": {**found.info.metadata, "a": "2"}}):
        await memory.place("k", found, **changes)
        with pytest.raises(IntegrityError):
            await objects.head("k", fresh=fresh)
    await memory.place("elsewhere", found)
    await memory.inner.objects.put("plain", data)
    for key in ("elsewhere", "plain"):
        with pytest.raises(IntegrityError):
            await objects.head(key, fresh=fresh)


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


async def test_a_stream_is_an_envelope_like_any_other(store: Store) -> None:
    objects = store.objects()
    for extra in (1,) if store.is_slow else (-1, 0, 1, CHUNK_BYTES + 1):
        await check_stream(store, objects, f"{store.unique}/{extra}", 2 * objects.part_bytes + extra)


async def check_stream(store: Store, objects: ObjectStore, key: str, size: int) -> None:
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
    page = await objects.list_page(key, details=True)
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


# -- Fernet tokens

FERNET = Fernet.generate_key()
READING_TOKENS = EncryptionOptions(
    keys=KEYS, fernet_keys=f"{Fernet.generate_key().decode()},{FERNET.decode()}"
)


async def save_as_before(storage: StorageManager, key: str, data: Any) -> None:
    encrypted = Fernet(FERNET).encrypt(json.dumps(data).encode())
    await storage.save(key, encrypted)


async def test_fernet_tokens_that_were_saved_as_bytes_are_read(store: Store) -> None:
    key, value_ = f"{store.unique}/k", {"token": "abc", "list": [1, 2.5, None, "ü" * 1000]}
    await save_as_before(StorageManager(backend=store.inner), key, value_)
    storage = StorageManager(backend=EncryptionLayer(store.inner, READING_TOKENS))
    assert await storage.load(key) == value_
    text = json.dumps(value_).encode()
    info = await storage.info(key)
    assert (info.size, info.content_type) == (len(text), "application/json")
    assert (await storage.read(key)).info == info
    objects = storage.backend.objects
    assert await streamed(objects, key) == text
    found = await objects.get(key, byte_range=ByteRange(3, 9))
    assert found is not None
    assert (found.data, found.start) == (text[3:9], 3)
    async with objects.open_reader(key, byte_range=ByteRange(-4)) as reader:
        assert await reader.read() == text[-4:]
    await storage.update(key, lambda old: {**old, "new": 1})
    await storage.move(key, f"{key}2")
    assert await StorageManager(backend=EncryptionLayer(store.inner, OPTIONS)).load(f"{key}2") == {
        **value_,
        "new": 1,
    }


async def test_a_fernet_token_that_does_not_decrypt_is_an_error(memory: Store) -> None:
    plain = StorageManager(backend=memory.inner)
    await save_as_before(plain, "k", {"a": 1})
    token = await plain.load("k")
    reading = memory.objects(READING_TOKENS)
    await plain.save("changed", token[:-3] + b"AA=")
    await plain.save("other", Fernet(Fernet.generate_key()).encrypt(b"1"))
    for key in ("changed", "other"):
        for read in (value, streamed):
            with pytest.raises(EncryptionError, match="Fernet"):
                await read(reading, key)
    with pytest.raises(EncryptionError, match="not encrypted"):
        await memory.objects().get("k")  # no Fernet keys
    await plain.write("text", b"gAAAAA but text", content_type="text/plain")
    with pytest.raises(EncryptionError, match="not encrypted"):
        await reading.get("text")


async def test_encrypted_storage(store: Store) -> None:
    storage = StorageManager(backend=store.inner)
    encrypted = EncryptedStorage(storage, FERNET)
    key, other = f"{store.unique}/secret", f"{store.unique}/other"
    for data in ({"token": "not in hex"}, [1, (2, b"x")], "text", b"bytes", None, 1.5):
        await encrypted.save_encrypted(key, data)
        loaded = await encrypted.load_encrypted(key)
        assert (loaded, type(loaded)) == (data, type(data))
    await encrypted.save_encrypted(key, {"token": "not in hex"})
    stored = await storage.load(key)
    assert type(stored) is bytes
    assert b"not in hex" not in stored
    with pytest.raises(EncryptionError, match="fernet-"):
        await EncryptedStorage(storage, Fernet.generate_key()).load_encrypted(key)
    newer = EncryptedStorage(storage, Fernet.generate_key(), old_keys=[FERNET])
    assert await newer.load_encrypted(key) == {"token": "not in hex"}
    for at in range(0, len(stored), 7):
        await storage.save(other, flipped(stored, at))
        with pytest.raises(IntegrityError):
            await encrypted.load_encrypted(other)
    await storage.save(other, stored)
    with pytest.raises(IntegrityError, match="moved here"):
        await encrypted.load_encrypted(other)
    await save_as_before(storage, other, {"before": [1]})
    assert await encrypted.load_encrypted(other) == {"before": [1]}
    for plain in ({"token": "not in hex"}, b"bytes", "text"):
        await storage.save(other, plain)
        with pytest.raises(EncryptionError, match="is not encrypted"):
            await encrypted.load_encrypted(other)
    with pytest.raises(KeyNotFoundError):
        await encrypted.load_encrypted(f"{store.unique}/missing")


async def test_encrypted_storage_behind_the_layer(memory: Store) -> None:
    storage = StorageManager(backend=EncryptionLayer(memory.inner, OPTIONS))
    encrypted = EncryptedStorage(storage, FERNET)
    await encrypted.save_encrypted("k", {"token": "not in hex"})
    assert await encrypted.load_encrypted("k") == {"token": "not in hex"}


@pytest.mark.parametrize("key", ["", "short", b"short", "x" * 44, 5])
def test_a_key_that_is_none_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="Fernet") as refused:
        EncryptedStorage(StorageManager(backend=MemoryBackend()), key)
    assert refused.value.field == "encryption_key"
    assert refused.value.remedy


# -- configuration

NEW, OLD = (base64.b64encode(secret).decode() for secret in KEYS.values())


def from_env(**settings: str) -> StorageConfig:
    env = {f"AGENT_STORAGE_ENCRYPTION_{name}": text for name, text in settings.items()}
    switch = {"AGENT_STORAGE_TYPE": "memory", "AGENT_STORAGE_ENCRYPTION": "true"}
    return StorageConfig.from_env({**switch, **env})


async def test_settings(tmp_path: Path) -> None:
    config = from_env(
        KEYS=f"new:{NEW}, old:{OLD}",
        CONTEXT="production",
        ALLOW_PLAINTEXT_READS="true",
        FERNET_KEYS=FERNET.decode(),
    )
    assert config.encryption == EncryptionOptions(
        keys=KEYS, context="production", allow_plaintext_reads=True, fernet_keys=(FERNET.decode(),)
    )
    assert hash(config) == hash(copy.deepcopy(config))
    async with StorageManager(config) as storage:
        await storage.save("k", {"a": 1})
        assert await storage.load("k") == {"a": 1}
        assert "EncryptionLayer" in repr(storage)


@pytest.mark.parametrize(
    ("settings", "field", "says"),
    [
        ({"KEYS": NEW}, "KEYS", "no colon"),
        ({"KEYS": "new:c2hvcnQ="}, "KEYS", "'new' of AGENT_STORAGE_ENCRYPTION_KEYS is 5 bytes"),
        ({"KEYS": "new:%%%"}, "KEYS", "is not base64"),
        ({"KEYS": f"a b:{NEW}"}, "KEYS", "id of entry 1"),
        ({"KEYS": f"{NEW}:new"}, "KEYS", "id of entry 1"),
        ({"KEYS": f"{'x' * 33}:{NEW}"}, "KEYS", "id of entry 1"),
        ({"KEYS": f"a:{NEW},a:{OLD}"}, "KEYS", "twice"),
        ({"KEYS": f"a:{NEW}", "FERNET_KEYS": "x"}, "FERNET_KEYS", "not a Fernet key"),
        ({"KEYS": f"a:{NEW}", "CONTEXT": "x" * 1025}, "CONTEXT", "not a short text"),
        ({"KEYS": f"a:{NEW}", "ALLOW_PLAINTEXT_READS": "perhaps"}, "ALLOW_PLAINTEXT_READS", "perhaps"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:20],
)
def test_settings_that_cannot_work(settings: dict[str, str], field: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        from_env(**settings)
    error = refused.value
    assert error.field == f"AGENT_STORAGE_ENCRYPTION_{field}"
    assert says in error.message
    for secret in (NEW, OLD):
        assert secret not in error.explained() + repr(error.__context__)


def test_encryption_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no key") as refused:
        StorageManager(from_env())
    assert "AGENT_STORAGE_ENCRYPTION_KEYS" in (refused.value.remedy or "")


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    path.write_text(f"# the keys of production\nold:{OLD}\n")
    return path


async def test_a_file_of_keys_is_read_again_when_it_changes(memory: Store, keys_file: Path) -> None:
    reading = memory.objects(EncryptionOptions(keys_file=str(keys_file)))
    await reading.put("k", b"1")
    assert b"old" in (await memory.stored("k")).data[:HEADER_BYTES]
    await memory.objects().put("k", b"2")
    with pytest.raises(EncryptionError, match="'new'"):
        await reading.get("k")
    keys_file.write_text(f"new:{NEW}\nold:{OLD}\n")
    assert await value(reading, "k") == b"2"  # An unknown key is looked for at once.
    await reading.put("k", b"3")
    assert b"new" in (await memory.stored("k")).data[:HEADER_BYTES]


@pytest.mark.parametrize("content", ["", f"new:{NEW[:20]}", None], ids=["empty", "half a line", "missing"])
async def test_while_a_file_of_keys_cannot_be_read_those_that_are_known_are_used(
    memory: Store,
    keys_file: Path,
    content: str | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("storage_lib.layers.encryption.keys._LOOK_AGAIN_SECONDS", -1)
    objects = memory.objects(EncryptionOptions(keys_file=str(keys_file)))
    if content is None:
        keys_file.rename(keys_file.with_name("elsewhere"))
    else:
        keys_file.write_text(content)
    await objects.put("k", b"1")
    assert await value(objects, "k") == b"1"
    assert "the keys known so far are used on" in caplog.text
    assert NEW[:20] not in caplog.text
    await memory.objects().put("other", b"2")
    with pytest.raises(ConfigurationError):  # Its key may be there.
        await objects.get("other")
    if content is None:
        keys_file.with_name("elsewhere").rename(keys_file)
    keys_file.write_text(f"new:{NEW}\nold:{OLD}\n")
    await objects.put("k", b"3")
    assert b"new" in (await memory.stored("k")).data[:HEADER_BYTES]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_file_of_keys_that_others_can_read_is_refused(keys_file: Path, mode: int) -> None:
    keys_file.chmod(mode)
    with pytest.raises(ConfigurationError, match="is open to others") as refused:
        EncryptionLayer(MemoryBackend(), EncryptionOptions(keys_file=str(keys_file)))
    assert refused.value.field == "keys_file"
    assert "chmod 600" in (refused.value.remedy or "")


def test_a_file_of_keys_that_cannot_work(keys_file: Path, tmp_path: Path) -> None:
    more = {"new": KEYS["new"]}
    cases: list[tuple[Path, str, dict[str, bytes], str]] = [
        (tmp_path / "missing", "", {}, "cannot be read"),
        (keys_file, "# none", {}, "there is no key"),
        (keys_file, f"new:{NEW[:-8]}", {}, "'new' of keys_file is 27 bytes"),
        (keys_file, f"new:{OLD}", more, "different keys with the id 'new'"),
    ]
    for path, text, keys, says in cases:
        keys_file.write_text(text)
        with pytest.raises(ConfigurationError, match=says) as refused:
            EncryptionLayer(MemoryBackend(), EncryptionOptions(keys=keys, keys_file=str(path)))
        assert refused.value.field in ("keys", "keys_file")


# -- secrets stay where they are


async def test_no_secret_is_shown(memory: Store, caplog: pytest.LogCaptureFixture) -> None:
    options = EncryptionOptions(keys=KEYS, fernet_keys=FERNET.decode())
    layer = EncryptionLayer(memory.inner, options)
    encrypted = EncryptedStorage(StorageManager(backend=layer), FERNET)
    config = StorageConfig(storage_type="memory", encryption=options)
    with caplog.at_level(logging.DEBUG):
        await layer.objects.put("k", b"1")
        await encrypted.save_encrypted("e", 1)
    key = await layer.ring.current()
    shown = "".join(
        repr(one) + str(one)
        for one in (options, layer, config, StorageManager(config), encrypted, key, layer.ring)
    )
    shown += repr(options.__rich_repr__())
    for secret in (*KEYS.values(), NEW, OLD, FERNET.decode()):
        for form in (secret, repr(secret)[2:-1], secret.hex() if isinstance(secret, bytes) else secret):
            assert str(form) not in shown + caplog.text
    for one in (key, encrypted, layer.objects):
        with pytest.raises(TypeError):
            pickle.dumps(one)


# -- where it meets the rest


async def test_without_the_layer_nothing_encrypted_is_returned(memory: Store) -> None:
    await memory.objects().put("k", data_of(SIZE))
    for read in READS.values():
        with pytest.raises(EncryptionError, match="encryption is off here") as refused:
            await read(memory.inner.objects, "k")
        assert "AGENT_STORAGE_ENCRYPTION_KEYS" in (refused.value.remedy or "")
    await memory.inner.objects.delete("k")


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_behind_compression_too_it_is_told_that_encryption_is_off(
    memory: Store, read: Callable[[ObjectStore, str], Awaitable[bytes]]
) -> None:
    encryption = EncryptionLayer(memory.inner, OPTIONS)
    await CompressionLayer(encryption, CompressionOptions()).objects.put("k", b"text " * SIZE)
    for objects in (CompressionLayer(memory.inner, CompressionOptions()).objects, memory.inner.objects):
        with pytest.raises(EncryptionError, match="encryption is off here"):
            await read(objects, "k")
        info = await objects.head("k")
        assert (info.size, info.content_encoding) == (5 * SIZE, None)


async def test_the_largest_metadata_leave_room_on_s3(memory: Store) -> None:
    """S3 takes 2 KB of metadata: names, values, and what the backend and the retries add."""
    objects = memory.objects(EncryptionOptions(keys={"k" * 32: KEYS["new"]}))
    largest = {"m": "x" * (MAX_METADATA_BYTES - 1)}
    await objects.put("k", b"1", metadata=largest, ttl=1000)
    stored = (await memory.stored("k")).info.metadata
    compressed = {**stored, hidden.SIZE: "9" * 13, "aos-compression": "zstd-" + "9" * 30}
    of_s3 = to_metadata({**compressed, hidden.ATTEMPT: "x" * 32}, new_mark(), "0" * 64)
    assert sum(len(name) + len(text) for name, text in of_s3.items()) + len("zstd") * 4 // 3 <= 2048
    info = await objects.head("k")
    assert dict(info.metadata) == largest


@pytest.mark.parametrize("retries", [False, True], ids=["alone", "with retries"])
async def test_conditions_and_copies_are_those_of_the_store(memory: Store, retries: bool) -> None:
    inner = RetryBackend(memory.inner) if retries else memory.inner
    objects = EncryptionLayer(inner, OPTIONS).objects
    first = await objects.put("k", data_of(SIZE), ttl=1000, metadata={"a": "1"})
    before = await memory.stored("k")
    with pytest.raises(PreconditionFailedError):
        await objects.put("k", b"2", if_absent=True)
    copied = await objects.copy("k", "copy")
    after = await memory.stored("copy")
    assert before.data[42:] != after.data[42:]  # another salt, and all that follows
    assert (await objects.head("copy")).expires_at == (await objects.head("k")).expires_at
    with pytest.raises(PreconditionFailedError):
        await objects.copy("k", "copy", if_absent=True)
    stale = await memory.inner.objects.driver.head("k")
    await objects.put("k", b"newer", if_match=first.etag)
    with pytest.raises(PreconditionFailedError):  # The very version that was looked at, or none.
        await objects.driver.copy(stale, "copy", False)
    assert (await objects.head("copy")).etag == copied.etag
    moved = await objects.move("k", "copy")
    assert await value(objects, "copy") == b"newer"
    assert (await objects.get("copy", if_none_match=moved.etag)) is None


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
async def test_a_copied_layer_reads_what_the_other_wrote(way: Callable[[Any], Any], tmp_path: Path) -> None:
    config = StorageConfig(base_path=tmp_path, encryption=OPTIONS)
    async with StorageManager(config) as storage, way(storage) as other:
        await storage.save("k", {"a": 1})
        assert await other.load("k") == {"a": 1}
        assert way(config) == config


async def test_a_key_ring_of_your_own(memory: Store) -> None:
    class Fetched(KeyRing):
        fetched = 0
        closed = False

        async def current(self) -> Key:
            return Key("v2", KEYS["new"])

        async def find(self, key_id: str) -> Key | None:
            self.fetched += 1
            return {"v2": Key("v2", KEYS["new"])}.get(key_id)

        async def close(self) -> None:
            self.closed = True

    ring = Fetched()
    async with EncryptionLayer(memory.inner, EncryptionOptions(), ring) as layer:
        await layer.objects.put("k", b"1")
        assert await value(layer.objects, "k") == b"1"
        assert ring.fetched
    assert ring.closed


async def test_two_layers_are_refused(memory: Store) -> None:
    outer = EncryptionLayer(EncryptionLayer(memory.inner, OPTIONS), OPTIONS)
    with pytest.raises(UnsupportedOperationError, match="two encryption layers"):
        await outer.objects.put("k", b"1")


async def test_a_large_stream_has_constant_memory(memory: Store) -> None:
    """No more than a few parts are held at a time."""

    class Dropping(MemoryObjects):
        async def put_stream(
            self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
        ) -> PutResult:
            async for _ in parts:
                pass
            return PutResult(key, "e", parts.size, None)

    objects = EncryptionLayer(memory.inner, OPTIONS).object_layer(Dropping())
    part = bytes(objects.capabilities.part_bytes)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield part

    tracemalloc.start()
    try:
        await ObjectStore(objects).put_stream("k", source())
        assert tracemalloc.get_traced_memory()[1] < 8 * len(part)
    finally:
        tracemalloc.stop()


async def test_a_stream_that_the_store_cuts_short_raises() -> None:
    """Between two chunks, where each one that arrives is whole."""

    class Cutting(MemoryObjects):
        async def read_stream(
            self, key: str, options: GetOptions
        ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
            found = await self.get(key, options)
            assert found is not None
            end = _CHUNK[1] - found.start
            return found.info, found.start, one_chunk(found.data[:end])

    memory = MemoryBackend()
    memory.objects = ObjectStore(Cutting())
    objects = EncryptionLayer(memory, OPTIONS).objects
    await objects.put("k", data_of(SIZE))
    for byte_range in (None, ByteRange(1), ByteRange(1, CHUNK_BYTES + 1)):
        with pytest.raises(IntegrityError):
            async with objects.open_reader("k", byte_range=byte_range) as reader:
                await reader.read()
    async with objects.open_reader("k", byte_range=ByteRange(1, CHUNK_BYTES)) as reader:
        assert await reader.read() == data_of(SIZE)[1:CHUNK_BYTES]
