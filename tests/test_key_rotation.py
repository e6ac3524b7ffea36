"""Keys are changed while the store is used, and tasks keep nothing in clear."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import FallbackOptions, StorageConfig
from storage_lib.config.caching import CachingOptions
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.errors import (
    EncryptionError,
    InvalidArgumentError,
    KeyNotFoundError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.layers.caching import CachingLayer
from storage_lib.layers.compression import CompressionLayer
from storage_lib.layers.encryption import EncryptionLayer
from storage_lib.layers.encryption.record import key_id_of
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import PLAIN_GET as _PLAIN
from storage_lib.ports.drivers import PutOptions
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import EVENT_QUEUE, TASK_QUEUE, TASK_TABLE, TaskStatus
from storage_lib.tasks.registry import task
from tests.outages import Switched

OLD, NEW = b"o" * 32, b"n" * 32
BEFORE = EncryptionOptions(keys={"old": OLD})
BOTH = EncryptionOptions(keys={"new": NEW, "old": OLD})
AFTER = EncryptionOptions(keys={"new": NEW})


@pytest.fixture(params=["memory", "file", "azurite"])
def kind(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, request.getfixturevalue("azurite") if request.param == "azurite" else None


@pytest.fixture
async def store(kind: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageBackend]:
    name, server = kind
    backend: StorageBackend
    if name == "memory":
        backend = MemoryBackend()
    elif name == "file":
        backend = FileStorageBackend(tmp_path / "data")
    else:
        backend = AzureStorageBackend(server.connection_string, container=f"keys-{uuid.uuid4().hex}")
    async with backend:
        yield backend


def manager(store: StorageBackend, options: EncryptionOptions) -> StorageManager:
    return StorageManager(backend=EncryptionLayer(store, options))


async def keys_used(store: StorageBackend) -> dict[str, str | None]:
    driver = store.objects.driver
    found = [entry.key async for entry in store.objects.iterate() if not isinstance(entry, str)]
    return {key: key_id_of(await driver.head(key)) for key in found if not key.startswith(".system/ttl/")}


async def test_after_a_rotation_the_earlier_key_is_not_needed(store: StorageBackend) -> None:
    before = manager(store, BEFORE)
    await before.save("a/config", {"n": 1}, metadata={"agent": "ceo"})
    await before.save("a/empty", b"")
    await before.save("a/session", "gone in an hour", ttl=3600)
    await before.write_stream("a/model", [b"x" * 1_000_000] * 9)
    await before.backend.objects.put(".system/tasks/t/payload-1", b"1", content_type="application/json")
    both = manager(store, BOTH)
    await both.save("a/new", 2)
    untouched = (await both.info("a/new")).etag

    done = await both.rotate_keys()
    assert (done.examined, done.encrypted, done.failed) == (6, 5, {})
    assert set((await keys_used(store)).values()) == {"new"}
    assert (await both.info("a/new")).etag == untouched
    after = manager(store, AFTER)
    assert await after.load("a/config") == {"n": 1}
    assert (await after.info("a/config")).metadata == {"agent": "ceo"}
    assert await after.load("a/empty") == b""
    assert (await after.info("a/session")).expires_at is not None
    async with after.open_reader("a/model") as reader:
        assert await reader.read() == b"x" * 9_000_000
    again = await both.rotate_keys()
    assert (again.examined, again.encrypted) == (6, 0)
    assert await both.backend.objects.sweep_expired() == 0


async def test_an_object_that_expires_during_a_rotation_is_swept(store: StorageBackend) -> None:
    """A sweep has found it with the earlier key, and removes the marker of its end."""
    now = [1_000_000.0]
    objects = store.objects.driver
    objects.clock = lambda: now[0]
    await manager(store, BEFORE).save("a/session", 1, ttl=60)
    now[0] += 61
    both = manager(store, BOTH)
    delete = objects.delete
    rotated = 0

    async def rotate_first(key: str, if_match: str | None) -> None:
        nonlocal rotated
        if key == "a/session" and not rotated:
            rotated = (await both.rotate_keys("a/")).encrypted
        await delete(key, if_match)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "delete", rotate_first)
        swept = await store.objects.sweep_expired()
    assert rotated == 1
    assert await both.list_keys("a/") == []
    assert swept + await store.objects.sweep_expired() == 1
    with pytest.raises(KeyNotFoundError):
        await objects.head("a/session")


async def test_a_cached_object_is_updated_after_a_rotation(store: StorageBackend) -> None:
    """The cache knows it by its earlier ETag."""
    await manager(store, BEFORE).save("a/counter", 1)
    both = StorageManager(backend=CachingLayer(EncryptionLayer(store, BOTH), CachingOptions()))
    assert await both.load("a/counter") == 1
    assert (await both.rotate_keys()).encrypted == 1
    assert await both.load("a/counter") == 1
    assert await both.update("a/counter", lambda value: value + 1) == 2
    assert await manager(store, AFTER).load("a/counter") == 2


async def test_compressed_objects_stay_compressed(store: StorageBackend) -> None:
    text, stream = "a" * 10_000, b"b" * 9_000_000

    def compressed(options: EncryptionOptions) -> StorageManager:
        layer = CompressionLayer(EncryptionLayer(store, options), CompressionOptions())
        return StorageManager(backend=layer)

    before = compressed(BEFORE)
    await before.save("a/text", text, metadata={"agent": "ceo"})
    await before.write_stream("a/stream", [stream], content_type="text/plain")
    shown = await before.info("a/text")
    sizes = {key: (await store.objects.driver.head(key)).size for key in ("a/text", "a/stream")}
    assert max(sizes.values()) < 9_000
    assert (await compressed(BOTH).rotate_keys()).encrypted == 2
    assert {key: (await store.objects.driver.head(key)).size for key in sizes} == sizes
    after = compressed(AFTER)
    assert await after.load("a/text") == text
    assert (await after.info("a/text")).size == shown.size
    async with after.open_reader("a/stream") as reader:
        assert await reader.read() == stream
    shown = await after.info("a/stream")
    assert (shown.size, shown.content_type) == (len(stream), "text/plain")


async def test_a_rotation_is_of_a_prefix_and_goes_on_where_it_ended(store: StorageBackend) -> None:
    before = manager(store, BEFORE)
    for key in ("a/1", "a/2", "a/3", "b/1"):
        await before.save(key, key)
    both = manager(store, BOTH)
    assert (await both.rotate_keys("a/", after="a/1", concurrency=1)).encrypted == 2
    assert await keys_used(store) == {"a/1": "old", "a/2": "new", "a/3": "new", "b/1": "old"}
    done = await both.rotate_keys("a/")
    assert (done.examined, done.encrypted, done.last) == (3, 1, "a/3")


async def test_what_cannot_be_decrypted_is_told_and_stays(store: StorageBackend) -> None:
    await manager(store, EncryptionOptions(keys={"lost": b"l" * 32})).save("lost", 1)
    await manager(store, BEFORE).save("old", 1)
    await StorageManager(backend=store).save("plain", 1)
    both = manager(store, BOTH)
    done = await both.rotate_keys()
    assert (done.encrypted, done.failures, list(done.failed)) == (1, 1, ["lost"])
    assert isinstance(done.failed["lost"], EncryptionError)
    assert "lost" in str(done.failed["lost"])
    assert await keys_used(store) == {"lost": "lost", "old": "new", "plain": None}
    done = await both.rotate_keys(include_plaintext=True)
    assert sorted(done.failed) == ["lost", "plain"], "clear objects are not trusted unless they may be read"
    allowing = manager(store, EncryptionOptions(keys={"new": NEW, "old": OLD}, allow_plaintext_reads=True))
    assert (await allowing.rotate_keys(include_plaintext=True)).encrypted == 1
    assert await both.load("plain") == 1


async def test_what_cannot_be_decrypted_is_not_kept_in_memory(tmp_path: Path) -> None:
    async with FileStorageBackend(tmp_path / "data") as store:
        driver, before = store.objects.driver, manager(store, BEFORE)
        for n in range(20):
            await before.save(f"{n}", b"x" * 1_000_000)
            found = await driver.get(f"{n}", _PLAIN)
            assert found is not None
            data = found.data[:-1] + bytes((found.data[-1] ^ 1,))
            digest = hashlib.sha256(data).hexdigest()
            await driver.put(
                f"{n}", data, PutOptions(found.info.content_type, dict(found.info.metadata), digest)
            )
        del data, found
        tracemalloc.start()
        try:
            done = await manager(store, BOTH).rotate_keys()
            assert (done.failures, done.encrypted) == (20, 0)
            assert tracemalloc.get_traced_memory()[0] < 3_000_000
        finally:
            tracemalloc.stop()


async def test_a_rotation_needs_the_layer() -> None:
    with pytest.raises(UnsupportedOperationError, match="encryption is off"):
        await StorageManager(backend=MemoryBackend()).rotate_keys()
    with pytest.raises(InvalidArgumentError):
        await manager(MemoryBackend(), BOTH).rotate_keys(concurrency=0)


async def test_a_rotation_during_traffic_loses_nothing(store: StorageBackend, kind: tuple[str, Any]) -> None:
    """Counters are counted up, objects replaced, deleted and made, by processes with either current key."""
    count = 10 if kind[0] == "azurite" else 40
    old_first = manager(store, EncryptionOptions(keys={"old": OLD, "new": NEW}))
    new_first = manager(store, BOTH)
    for n in range(8):
        await old_first.save(f"counter/{n}", 0)
        await old_first.save(f"value/{n}", "first")
    latest: dict[str, Any] = {}
    ended = asyncio.Event()

    async def count_up(storage: StorageManager, seed: int) -> list[str]:
        chance = random.Random(seed)
        counted: list[str] = []
        for _ in range(count):
            key = f"counter/{chance.randrange(8)}"
            await storage.update(key, lambda value: value + 1)
            counted.append(key)
        return counted

    async def replace(storage: StorageManager, own: int) -> None:
        key = f"value/{own}"
        for n in range(count):
            if n % 5 == 4:
                await storage.delete(key)
                latest[key] = None
            await storage.save(key, f"{n}")
            latest[key] = f"{n}"
            assert await storage.load(key) == f"{n}"
        await storage.delete(key)
        latest[key] = None

    async def rotate() -> int:
        rounds = 0
        while not ended.is_set() or rounds < 2:
            assert (await new_first.rotate_keys(concurrency=4)).failed == {}
            rounds += 1
        return rounds

    rotating = asyncio.create_task(rotate())
    work = [count_up(old_first, 1), count_up(new_first, 2)]
    counted = await asyncio.gather(*work, replace(old_first, 0), replace(new_first, 1))
    ended.set()
    assert await rotating >= 2
    expected = [key for keys in counted if keys for key in keys]
    assert (await new_first.rotate_keys()).failed == {}
    after = manager(store, AFTER)
    assert {key: await after.load(key) for key in {*expected}} == {
        key: expected.count(key) for key in {*expected}
    }
    for key in latest:
        with pytest.raises(KeyNotFoundError):
            await after.load(key)
    assert [await after.load(f"value/{n}") for n in range(2, 8)] == ["first"] * 6


# -- tasks

SECRET = "a-secret-of-the-payload"


@pytest.fixture
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("whisper")
    async def whisper(context: TaskContext, payload: dict[str, str]) -> dict[str, str]:
        if payload.get("child"):
            await context.submit("whisper", {"told": payload["told"]})
        return {"answer": payload["told"] * 2}

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


async def _everything(store: StorageBackend) -> list[bytes]:
    """All that somebody sees who can read the store, but has no key."""
    found: list[bytes] = []
    async for entry in store.objects.iterate():
        assert not isinstance(entry, str)
        stored = await store.objects.driver.get(entry.key, _PLAIN)
        assert stored is not None
        found += [stored.data, repr(stored.info).encode()]
    async for entity in store.tables.iterate(TASK_TABLE):
        found.append(repr(entity).encode())
    for queue in (TASK_QUEUE, EVENT_QUEUE, f"{TASK_QUEUE}-poison"):
        try:
            found += [message.body for message in await store.queues.peek(queue, max_messages=32)]
        except KeyNotFoundError:
            continue
    return found


async def test_tasks_keep_no_payload_and_no_result_in_clear(actions: None) -> None:
    store = MemoryBackend()
    engine = TaskEngine(manager(store, BOTH), payloads_as_objects=True)
    parent = await engine.submit("whisper", "ceo", {"told": SECRET, "child": "yes"}, idempotency_key="once")
    again = await engine.submit("whisper", "ceo", {"told": SECRET, "child": "yes"}, idempotency_key="once")
    assert again.task_id == parent.task_id
    empty = await engine.submit("whisper", "ceo", None)
    seen = await _everything(store)
    while messages := await store.queues.receive(TASK_QUEUE, max_messages=32):
        seen += await _everything(store)
        for message in messages:
            for event in await engine.worker.process(message.text, queue=TASK_QUEUE):
                seen.append(msgspec.json.encode(event))
            await store.queues.delete(TASK_QUEUE, message)
    seen += await _everything(store)
    assert len(seen) > 20
    assert [each for each in seen if SECRET.encode() in each] == []

    record = await engine.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert record.payload == {"told": SECRET, "child": "yes"}
    assert record.result["result"] == {"answer": SECRET * 2}
    assert (await engine.get(empty.task_id)).status is TaskStatus.FAILED
    assert await manager(store, BOTH).rotate_keys() is not None


async def test_messages_with_payloads_are_understood_too(actions: None) -> None:
    """Of a host that is not told yet, or of another program."""
    store = MemoryBackend()
    engine = TaskEngine(manager(store, BOTH), payloads_as_objects=True)
    submitted = await TaskEngine(manager(store, BOTH)).submit("whisper", "ceo", {"told": SECRET})
    (message,) = await store.queues.receive(TASK_QUEUE)
    assert SECRET.encode() in message.body
    await engine.worker.process(message.text, queue=TASK_QUEUE)
    assert (await engine.get(submitted.task_id)).result == {"answer": SECRET * 2}


async def test_a_rotation_in_an_outage_does_not_bring_back_older_values() -> None:
    """A replica that is behind: what it has must not be taken for newer because it was encrypted anew."""
    first, second = MemoryBackend(), MemoryBackend()
    await manager(second, BEFORE).save("k", "older")
    await manager(first, BEFORE).save("k", "newer")
    primary = Switched(first)
    chosen = FallbackOptions(
        secondary=StorageConfig(storage_type="memory"), writes="secondary", check_seconds=0
    )
    fallback = FallbackLayer(primary, second, chosen)
    both = manager(fallback, BOTH)
    primary.away = True
    done = await both.rotate_keys()
    assert (done.encrypted, list(done.failed)) == (0, ["k"])
    assert isinstance(done.failed["k"], TransientStorageError)
    await both.save("during", 1)
    primary.away = False
    repaired = await both.repair()
    assert (list(repaired.conflicts), await both.load("k")) == ([], "newer")
    assert (await both.rotate_keys()).encrypted == 1
    assert (await both.load("k"), await both.load("during")) == ("newer", 1)
    assert set((await keys_used(first)).values()) == {"new"}


async def test_a_rotation_whose_responses_are_lost_is_no_conflict_with_itself() -> None:
    store = MemoryBackend()
    before = manager(store, BEFORE)
    for n in range(5):
        await before.save(f"k/{n}", n)
    switched = Switched(store)
    switched.lose_responses = 5
    options = RetryOptions(attempts=10, base_seconds=0.0001)
    both = manager(RetryBackend(switched, options), BOTH)
    done = await both.rotate_keys(concurrency=2)
    assert (done.encrypted, done.failed) == (5, {})
    assert switched.lose_responses == 0
    assert set((await keys_used(store)).values()) == {"new"}
    assert [await manager(store, AFTER).load(f"k/{n}") for n in range(5)] == list(range(5))


async def test_a_version_that_lost_a_conflict_is_told_until_it_is_restored_or_dismissed() -> None:
    first, second = MemoryBackend(), MemoryBackend()
    primary = Switched(first)
    chosen = FallbackOptions(
        secondary=StorageConfig(storage_type="memory"), writes="secondary", check_seconds=0
    )

    def process(options: EncryptionOptions) -> StorageManager:
        return manager(FallbackLayer(primary, second, chosen), options)

    before = process(BEFORE)
    await before.save("k", 0)
    primary.away = True
    await before.save("k", "in the second store")
    await manager(first, BEFORE).save("k", "in the primary")
    primary.away = False
    await before.repair()
    both = process(BOTH)
    done = await both.rotate_keys()
    assert both.fallback is not None
    (kept,) = [each async for each in both.fallback.conflicts()]
    assert (done.encrypted, list(done.failed)) == (1, [kept.kept])
    await both.fallback.restore(kept)
    await both.fallback.dismiss(kept)
    assert (await both.rotate_keys()).failures == 0
    assert set((await keys_used(first)).values()) == {"new"}
    assert await process(AFTER).load("k") == "in the second store"
