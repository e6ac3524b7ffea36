"""Layers: one that changes nothing passes every contract, each sees one operation for each call of a caller,
and sizes are the caller's whatever a layer stores."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from storage_lib import keys
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.errors import (
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.layers.base import Layer, ObjectLayer, Operation, QueueLayer, TableLayer
from storage_lib.layers.retry import RetryBackend
from storage_lib.manager import StorageManager
from storage_lib.ports import hidden
from storage_lib.ports.backend import ObjectStore, StorageBackend
from storage_lib.ports.drivers import (
    PLAIN_GET,
    ListOptions,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    QueueDriver,
    Repeat,
    TableDriver,
    once,
)
from storage_lib.ports.object_model import ListEntry, PutResult, StoredObject
from storage_lib.ports.streaming import Parts
from storage_lib.ports.tables import Delete, Insert
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract
from tests.layers import CountingLayer, Deflating, DeflatingLayer, PassThrough


def innermost(objects: ObjectStore) -> Any:
    """The driver of the store itself."""
    driver: Any = objects.driver
    while isinstance(driver, ObjectLayer):
        driver = driver.inner
    return driver


class MemoryBehindALayer(ObjectStoreContract):
    # No other program can put anything into memory.
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        stored = innermost(objects)._objects
        stored[key] = replace(stored[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        core = innermost(objects)
        await ObjectStore(core).put(key, data, content_type=content_type)
        core._objects[key] = StoredObject(replace(core._objects[key].info, sha256=None), data)


class TestObjectsBehindALayer(MemoryBehindALayer):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return PassThrough(MemoryBackend()).objects


class TestObjectsOfAnotherSize(MemoryBehindALayer):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return DeflatingLayer(MemoryBackend()).objects


class TestTablesBehindALayer(TableStoreContract):
    @pytest.fixture
    def tables(self) -> object:
        return PassThrough(MemoryBackend()).tables


class TestQueuesBehindALayer(QueueStoreContract):
    @pytest.fixture
    def queues(self) -> object:
        return PassThrough(MemoryBackend()).queues


# -- one call of a caller is one operation

Call = Callable[[StorageBackend], Awaitable[Any]]


async def all_of(listing: Any) -> None:
    async for _ in listing:
        pass


async def read(backend: StorageBackend) -> None:
    async with backend.objects.open_reader("k") as reader:
        await reader.read()


CALLS: dict[str, Call] = {
    "put": lambda b: b.objects.put("k", b"1"),
    "put with a time to live": lambda b: b.objects.put("k", b"1", ttl=60),
    "put if absent": lambda b: b.objects.put("new", b"1", if_absent=True, ttl=60),
    "put any version": lambda b: b.objects.put("k", b"1", if_match="*"),
    "put_stream of one part": lambda b: b.objects.put_stream("k", [b"1"], ttl=60),
    "put_stream": lambda b: b.objects.put_stream("k", io.BytesIO(b"x" * 9_000_000), if_match="*", ttl=60),
    "get": lambda b: b.objects.get("k"),
    "get any version": lambda b: b.objects.get("k", if_match="*"),
    "get if changed": lambda b: b.objects.get("k", if_none_match="*"),
    "open_reader": read,
    "head": lambda b: b.objects.head("k"),
    "delete": lambda b: b.objects.delete("k"),
    "delete any version": lambda b: b.objects.delete("k", if_match="*"),
    "copy": lambda b: b.objects.copy("k", "l"),
    "copy if absent": lambda b: b.objects.copy("k", "new", if_absent=True),
    "touch": lambda b: b.objects.touch("k", ttl=60),
    "touch a version": lambda b: b.objects.touch("short", metadata={"m": "1"}, if_match="*"),
    "list_page": lambda b: b.objects.list_page(delimiter="/"),
    "iterate": lambda b: all_of(b.objects.iterate()),
    "stats": lambda b: b.objects.stats(skip=".system/"),
    "create_table": lambda b: b.tables.create_table("t"),
    "insert": lambda b: b.tables.insert("t", "p", "new", {}),
    "upsert": lambda b: b.tables.upsert("t", "p", "r", {}),
    "update": lambda b: b.tables.update("t", "p", "r", {}, etag="*"),
    "get entity": lambda b: b.tables.get("t", "p", "r"),
    "delete entity": lambda b: b.tables.delete("t", "p", "r"),
    "batch": lambda b: b.tables.batch("t", "p", [Insert("a"), Delete("r")]),
    "query": lambda b: b.tables.query("t", "n gt 1"),
    "iterate entities": lambda b: all_of(b.tables.iterate("t")),
    "create_queue": lambda b: b.queues.create_queue("q"),
    "send": lambda b: b.queues.send("q", b"1"),
    "send_text": lambda b: b.queues.send_text("q", "1"),
    "receive": lambda b: b.queues.receive("q"),
    "peek": lambda b: b.queues.peek("q"),
    "length": lambda b: b.queues.length("q"),
    "clear": lambda b: b.queues.clear("q"),
    "save": lambda b: StorageManager(backend=b).save("k", {"a": 1}, ttl=60),
    "load": lambda b: StorageManager(backend=b).load("k"),
    "exists": lambda b: StorageManager(backend=b).exists("missing"),
    "list_keys": lambda b: all_of(StorageManager(backend=b).list_keys()),
}


@pytest.mark.parametrize("retries", [False, True], ids=["alone", "above retries"])
@pytest.mark.parametrize("name", CALLS)
async def test_one_call_is_one_operation(name: str, retries: bool) -> None:
    memory = MemoryBackend()
    await memory.objects.put("k", b"1")
    await memory.objects.put("short", b"1", ttl=60)  # A marker, below the system's prefix.
    await memory.objects.put("z/k", b"1")
    await memory.tables.insert("t", "p", "r", {"n": 1})
    await memory.queues.send("q", b"1")
    backend = CountingLayer(RetryBackend(memory) if retries else memory)
    await CALLS[name](backend)
    assert sum(backend.counted.values()) == 1, backend.counted


async def test_each_layer_counts_and_none_changes_the_inner_one() -> None:
    memory = MemoryBackend()
    before = {name: dict(vars(getattr(memory, name).driver)) for name in ("objects", "tables", "queues")}
    inner = CountingLayer(memory)
    outer = CountingLayer(PassThrough(inner))
    await outer.objects.put("k", b"1", ttl=60)
    (message_id,) = [await outer.queues.send("q", b"1")]
    (message,) = await outer.queues.receive("q")
    message = await outer.queues.update("q", message, visibility_timeout=5)
    await outer.queues.delete("q", message)
    assert message.id == message_id
    assert inner.counted == outer.counted == {"objects": 1, "queues": 4}
    for name, state in before.items():
        assert {key: id(value) for key, value in vars(getattr(memory, name).driver).items()} == {
            key: id(value) for key, value in state.items()
        }


async def test_a_refused_operation_is_one_too() -> None:
    backend = CountingLayer(MemoryBackend())
    with pytest.raises(KeyNotFoundError):
        await backend.objects.get("k")
    await backend.objects.put("k", b"1")
    with pytest.raises(PreconditionFailedError):
        await backend.objects.put("k", b"1", if_match="other")
    assert backend.counted == {"objects": 3}


def test_a_layer_has_all_that_is_behind_it() -> None:
    """What a driver gains one day, its layer delegates too."""
    memory = MemoryBackend()
    layer = PassThrough(memory)
    for base, outer, kind in (
        (ObjectDriver, layer.objects.driver, ObjectLayer),
        (TableDriver, layer.tables.driver, TableLayer),
        (QueueDriver, layer.queues.driver, QueueLayer),
        (StorageBackend, layer, Layer),
    ):
        public = {name for name in vars(base) if not name.startswith("_")}
        own = vars(outer).keys() | vars(kind).keys()
        assert public <= own, public - own


@pytest.mark.parametrize("delimiter", [None, "/"])
async def test_a_layer_sees_the_whole_of_a_listing(delimiter: str | None) -> None:
    """Also what comes behind the names that the store skips."""

    class Shown(ObjectLayer):
        async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
            async for found in super().scan(prefix, options):
                if isinstance(found, str) or not found.key.endswith(".hidden"):
                    yield found

    class Hiding(Layer):
        def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
            return Shown(inner, self.around)

    storage = StorageManager(backend=Hiding(MemoryBackend()))
    await storage.save_many({"!.hidden": 1, "!": 1, "a.hidden": 1, "a": 1}, ttl=60)
    page = await storage.list_page(delimiter=delimiter)
    assert [entry.key for entry in page.entries] == ["!", "a"]
    assert await storage.list_keys() == ["!", "a"]


# -- sizes


async def test_sizes_are_the_callers() -> None:
    memory = MemoryBackend()
    backend = DeflatingLayer(memory)
    storage = StorageManager(backend=backend)
    data = b"x" * 10_000
    await storage.write("k", data)
    await storage.write_stream("s", [data] * 1000)
    await storage.copy("s", "t")
    stored = await memory.objects.driver.get("k", PLAIN_GET)
    assert stored is not None
    assert len(stored.data) < 100
    assert (await storage.info("k")).size == 10_000
    assert (await storage.info("t")).size == 10_000_000
    page = await backend.objects.list_page(details=True)
    assert [(entry.key, entry.size) for entry in page.entries] == [
        ("k", 10_000),
        ("s", 10_000_000),
        ("t", 10_000_000),
    ]
    stats = await storage.stats()
    assert (stats.count, stats.bytes) == (3, 20_010_000)
    assert (await storage.read("t")).data == data * 1000
    async with storage.open_reader("s") as reader:
        assert reader.info.size == 10_000_000
        assert await reader.read() == data * 1000


async def test_sizes_that_listings_give_of_their_own_are_not_taken_for_the_callers() -> None:
    """S3's have the sizes of what is stored, without any further request."""

    class Listing(MemoryObjects):
        capabilities = ObjectCapabilities(lists_sizes=True)

        async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
            async for found in super().scan(prefix, options):
                if isinstance(found, str) or options.details:
                    yield found
                else:
                    yield ListEntry(found.key, len(self._objects[found.key].data))

    memory = MemoryBackend()
    memory.objects = ObjectStore(Listing())
    await memory.objects.put("k", b"x" * 1000)
    assert (await memory.objects.stats()).bytes == 1000
    backend = DeflatingLayer(memory)
    await backend.objects.put("l", b"x" * 1000)
    assert (await backend.objects.stats()).bytes == 2000


# -- a key is validated once


async def test_a_key_is_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = StorageManager(backend=CountingLayer(MemoryBackend()))
    seen: list[str] = []
    real = keys._check

    def counting(key: str, what: str, *, prefix: bool) -> None:
        seen.append(key)
        real(key, what, prefix=prefix)

    monkeypatch.setattr(keys, "_check", counting)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: storage.save("k", 1),
        lambda: storage.write("k", b"1"),
        lambda: storage.write_stream("k", [b"1"]),
        lambda: storage.write_stream("k", [b"x" * 9_000_000]),
        lambda: storage.load("k"),
        lambda: storage.info("k"),
        lambda: storage.touch("k"),
        lambda: storage.delete("k"),
    ]
    for call in calls:
        seen.clear()
        await call()
        assert seen == ["k"]
    for key in ("", "/", "a//b", ".", "a\\b"):
        for refused in (storage.save(key, 1), storage.write_stream(key, [b"1"]), storage.load(key)):
            with pytest.raises(InvalidKeyError):
                await refused
    with pytest.raises(InvalidKeyError, match="reserved"):
        await storage.save(".system/k", 1)


async def test_a_copy_tells_the_callers_size() -> None:
    objects = DeflatingLayer(MemoryBackend()).objects
    await objects.put("k", b"x" * 10_000, ttl=60)
    assert (await objects.copy("k", "l")).size == 10_000
    assert (await objects.move("l", "m", if_absent=True)).size == 10_000


async def test_a_layer_need_not_repair_the_size_that_a_save_returns() -> None:
    class Forgetful(Deflating):
        async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
            return replace(await super().put(key, data, options), size=1)

    class ForgetfulLayer(Layer):
        def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
            return Forgetful(inner, self.around)

    objects = ForgetfulLayer(MemoryBackend()).objects
    assert (await objects.put("k", b"x" * 100)).size == 100
    assert (await objects.put_stream("k", [b"x" * 100], ttl=60)).size == 100
    assert (await objects.put_stream("k", [b"x" * 9_000_000])).size == 9_000_000


@pytest.mark.parametrize(
    "size", ["9" * 5000, "-1", "x", "", "\u0663"], ids=["long", "negative", "text", "empty", "Arabic"]
)
async def test_a_size_that_is_none_hides_nothing(size: str) -> None:
    memory = MemoryBackend()
    await memory.objects.driver.put("k", b"abc", PutOptions("text/plain", {hidden.SIZE: size}))
    assert (await memory.objects.head("k")).size == 3
    page = await memory.objects.list_page(details=True)
    assert [entry.size for entry in page.entries] == [3]


# -- a layer that repeats operations, as if each could be


class Flaky(ObjectLayer):
    """The first request of each operation fails, some of it done."""

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        self._fail()
        async for found in super().scan(prefix, options):
            yield found

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        async for _ in parts:
            self._fail()
        return await super().put_stream(key, parts, options, repeat)

    failed = False

    def _fail(self) -> None:
        if not self.failed:
            self.failed = True
            raise TransientStorageError("away")


class FlakyLayer(Layer):
    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return Flaky(inner, self.around)


class Twice(Layer):
    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        try:
            return await call()
        except TransientStorageError:
            return await call()


async def test_a_listing_that_is_repeated_is_not_empty() -> None:
    memory = MemoryBackend()
    await memory.objects.put("k", b"1")
    page = await Twice(FlakyLayer(memory)).objects.list_page()
    assert [entry.key for entry in page.entries] == ["k"]


async def test_the_rest_of_a_stream_is_never_stored_as_the_whole() -> None:
    memory = MemoryBackend()
    objects = Twice(FlakyLayer(memory)).objects
    with pytest.raises(StorageError, match="cannot be read twice"):
        await objects.put_stream("k", [b"x" * 9_000_000])
    with pytest.raises(KeyNotFoundError):
        await memory.objects.head("k")


# -- what logs and errors say of an operation


def test_operations_in_words() -> None:
    said = [
        Operation("objects", "get", "k"),
        Operation("tables", "insert", "t", ("p", Insert("r"))),
        Operation("tables", "get", "t", ("p", "r")),
        Operation("tables", "create_table", "t"),
        Operation("queues", "create_queue", "q"),
        Operation("queues", "send", "q"),
        Operation("queues", "receive", "q"),
        Operation("queues", "delete", "q"),
        Operation("queues", "update", "q"),
        Operation("queues", "clear", "q"),
    ]
    assert [str(operation) for operation in said] == [
        "get 'k'",
        "insert 'p', 'r' in table 't'",
        "get 'p', 'r' in table 't'",
        "create table 't'",
        "create queue 'q'",
        "send to queue 'q'",
        "receive from queue 'q'",
        "delete a message in queue 'q'",
        "update a message in queue 'q'",
        "clear queue 'q'",
    ]


async def test_an_operation_tells_the_bytes_that_it_brings() -> None:
    class Sizes(Layer):
        def __init__(self, inner: StorageBackend) -> None:
            super().__init__(inner)
            self.seen: dict[str, int | None] = {}

        async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
            self.seen[f"{operation.port}.{operation.name}"] = operation.size
            return await call()

    layer = Sizes(MemoryBackend())
    await layer.objects.put("a", b"12345")
    await layer.objects.head("a")
    await layer.queues.create_queue("letters")
    await layer.queues.send_text("letters", "hello")
    assert layer.seen == {
        "objects.put": 5,
        "objects.head": None,
        "queues.create_queue": None,
        "queues.send": 5,
    }
