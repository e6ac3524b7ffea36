"""The caching layer: what is answered from memory, and that it is never what a reader must not be
given."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend, MemoryObjects
from storage_lib.config import StorageConfig
from storage_lib.config.caching import CachingOptions, from_env
from storage_lib.errors import (
    BackendClosedError,
    ConfigurationError,
    EncryptionError,
    IntegrityError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageUnavailableError,
)
from storage_lib.layers.caching import CachingLayer
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ByteRange, ObjectStore, StorageBackend, statistics_of
from storage_lib.ports.drivers import GetOptions, PutOptions
from storage_lib.ports.errors import missing
from storage_lib.ports.object_model import ObjectInfo, StoredObject
from storage_lib.ports.streaming import Parts
from tests import test_file_backend as files
from tests.gated import Gated, Phase
from tests.layer_stacks import LAYERS
from tests.layers import CountingLayer
from tests.test_layers import MemoryBehindALayer

shared = files.shared


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class House:
    """A manager whose cache is around a store that others write to as well."""

    def __init__(self, store: StorageBackend | None = None, **options: Any) -> None:
        self.store = store or MemoryBackend()
        self.gated = Gated(self.store)
        self.clock = Clock()
        self.layer = CachingLayer(self.gated, CachingOptions(**options), clock=self.clock)
        self.storage = StorageManager(backend=self.layer)
        self.others = StorageManager(backend=self.store)
        """Another process."""

    @property
    def calls(self) -> list[str]:
        """The operations that have reached the store since the last look."""
        calls, self.gated.calls = self.gated.calls, []
        return calls


@pytest.fixture(params=["memory", "files"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StorageBackend:
    return MemoryBackend() if request.param == "memory" else FileStorageBackend(tmp_path)


@pytest.fixture
def house(store: StorageBackend) -> House:
    return House(store)


async def stream(storage: StorageManager, key: str, **options: Any) -> bytes:
    async with storage.open_reader(key, **options) as reader:
        return await reader.read()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


READS: dict[str, Callable[[StorageManager, str], Awaitable[Any]]] = {
    "load": lambda storage, key: storage.load(key),
    "read": lambda storage, key: storage.read(key),
    "stream": lambda storage, key: stream(storage, key),
    "info": lambda storage, key: storage.info(key),
    "exists": lambda storage, key: storage.exists(key),
    "range": lambda storage, key: storage.read(key, byte_range=ByteRange(0, 1)),
}


# -- the whole contract, from memory


class TestOnMemory(MemoryBehindALayer):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        self.layer = CachingLayer(MemoryBackend(), CachingOptions())
        return self.layer.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        await super().tamper(objects, key, data)
        self.layer.clear()  # What was kept was right.

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await super().put_foreign(objects, key, data, content_type)
        self.layer.clear()


class TestOnFiles(files.TestFileObjects):
    race_rounds = 5

    @pytest.fixture
    def objects(self, shared: FileStorageBackend) -> ObjectStore:
        self.folder = Path(shared.base_path, "objects")
        self.layer = CachingLayer(shared, CachingOptions())
        return self.layer.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        await super().tamper(objects, key, data)
        self.layer.clear()

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await super().put_foreign(objects, key, data, content_type)
        self.layer.clear()


class TestWithoutTime(MemoryBehindALayer):
    """With no time to keep anything, the store is asked each time."""

    @pytest.fixture
    def objects(self) -> ObjectStore:
        return CachingLayer(MemoryBackend(), CachingOptions(ttl=0, keep_writes=False)).objects


class TestInLittleRoom(MemoryBehindALayer):
    """Everything is evicted all the time."""

    @pytest.fixture
    def objects(self) -> ObjectStore:
        return CachingLayer(MemoryBackend(), CachingOptions(max_bytes=3000, keep_writes=False)).objects


# -- by configuration


async def test_by_configuration_a_load_is_answered_from_memory() -> None:
    storage = StorageManager(StorageConfig(storage_type="memory", caching=CachingOptions()))
    layer = storage.backend
    assert isinstance(layer, CachingLayer)
    await layer.inner.objects.put("k", b'{"a":1}', content_type="application/json")
    assert await storage.load("k") == {"a": 1}
    await layer.inner.objects.put("k", b'{"a":2}', content_type="application/json")
    assert await storage.load("k") == {"a": 1}
    await storage.save("k", {"a": 3})
    assert await storage.load("k") == {"a": 3}
    await storage.close()


async def test_what_was_saved_is_loaded_without_a_request(house: House) -> None:
    saved = await house.storage.save("k", {"a": [1]}, metadata={"m": "1"}, content_type="application/ld+json")
    assert house.calls == ["put"]
    assert await house.storage.load("k") == {"a": [1]}
    assert house.calls == []
    # Its time is the store's: it is asked once, and no body is transferred.
    found = await house.storage.read("k")
    assert house.calls == ["head"]
    assert found == await house.others.read("k")
    assert found.info.etag == saved.etag
    assert await house.storage.info("k") == await house.others.info("k")
    assert house.calls == []


async def test_load_after_save_needs_no_request_below_other_layers() -> None:
    house = House()
    storage = StorageManager(backend=CountingLayer(house.layer))
    await storage.save("k", 1)
    assert await storage.load("k") == 1
    assert house.calls == ["put"]
    assert storage.backend.counted == {"objects": 2}  # type: ignore[attr-defined]


async def test_writes_that_are_not_kept_are_read_once() -> None:
    house = House(keep_writes=False)
    await house.storage.save("k", 1)
    assert [await house.storage.load("k") for _ in range(3)] == [1, 1, 1]
    assert house.calls == ["put", "get"]


@pytest.mark.parametrize("first", READS)
@pytest.mark.parametrize("then", READS)
async def test_what_was_read_whole_answers_every_other_read(first: str, then: str) -> None:
    house = House()
    await house.others.save("k", "text", metadata={"m": "1"})
    await READS[first](house.storage, "k")
    house.calls  # noqa: B018
    expected = await READS[then](house.others, "k")
    assert await READS[then](house.storage, "k") == expected
    whole = first in ("load", "read", "stream") or (
        first in ("info", "exists") and then in ("info", "exists")
    )
    assert bool(house.calls) is not whole
    assert (house.layer.counts().hits > 0) is whole


# -- one read for all


@pytest.mark.parametrize("name", ["load", "read", "stream", "info", "exists"])
async def test_50_concurrent_misses_make_1_read(house: House, name: str) -> None:
    await house.others.save("k", "text")
    found = await asyncio.gather(*(READS[name](house.storage, "k") for _ in range(50)))
    assert found == [await READS[name](house.others, "k")] * 50
    assert len(house.calls) == 1
    counts = house.layer.counts()
    assert counts.misses + counts.hits == 50
    assert counts.misses - counts.joined == 1


async def test_different_reads_share_one() -> None:
    house = House()
    await house.others.save("k", "text")
    hold = house.gated.hold("get")
    reads = [
        asyncio.ensure_future(READS[name](house.storage, "k")) for name in ("load", "read", "stream", "info")
    ]
    await hold.arrived.wait()
    await turns()
    hold.release()
    await asyncio.gather(*reads)
    assert house.calls == ["get"]


async def test_50_concurrent_reads_of_what_is_missing_make_1_read(house: House) -> None:
    for read in (house.storage.load, house.storage.read, lambda key: stream(house.storage, key)):
        house.layer.clear()
        failed = await asyncio.gather(*(read("k") for _ in range(50)), return_exceptions=True)
        assert [type(error) for error in failed] == [KeyNotFoundError] * 50
        assert len({id(error) for error in failed}) == 50
        assert len(house.calls) == 1


@pytest.mark.parametrize("name", ["load", "stream", "info"])
async def test_an_error_is_not_kept_and_each_waiter_has_its_own(name: str) -> None:
    house = House()
    await house.others.save("k", "text")
    cause = OSError("reset")

    def failing() -> Exception:
        error = StorageUnavailableError("away", retry_after=3)
        error.__cause__ = cause
        return error

    house.gated.failing = failing
    failed = await asyncio.gather(
        *(READS[name](house.storage, "k") for _ in range(20)), return_exceptions=True
    )
    assert len(house.calls) == 1
    assert len({id(error) for error in failed}) == 20
    lengths: set[int] = set()
    for error in failed:
        assert isinstance(error, StorageUnavailableError)
        assert (str(error), error.retry_after, error.__cause__) == ("away", 3, cause)
        length, trace = 0, error.__traceback__
        while trace is not None:
            length, trace = length + 1, trace.tb_next
        lengths.add(length)
    assert max(lengths) < 20
    house.gated.failing = None
    assert await READS[name](house.storage, "k") == await READS[name](house.others, "k")


async def test_an_error_that_cannot_be_copied_reaches_each_waiter_too() -> None:
    class OddError(Exception):
        def __init__(self, one: int, *, two: int) -> None:
            super().__init__(f"{one} and {two}")

    house = House()
    house.gated.failing = lambda: OddError(1, two=2)
    failed = await asyncio.gather(*(house.storage.load("k") for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in failed] == [OddError] * 5
    assert len({id(error) for error in failed}) == 5


@pytest.mark.parametrize("name", ["load", "stream", "info"])
@pytest.mark.parametrize("which", [0, 3])
async def test_a_cancelled_waiter_does_not_fail_the_others(name: str, which: int) -> None:
    house = House()
    await house.others.save("k", "text")
    holds = [house.gated.hold(operation) for operation in ("get", "read_stream", "head")]
    reads = [asyncio.ensure_future(READS[name](house.storage, "k")) for _ in range(5)]
    while not any(hold.arrived.is_set() for hold in holds):
        await asyncio.sleep(0)
    reads[which].cancel()
    await turns()
    for hold in holds:
        hold.release()
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert isinstance(found.pop(which), asyncio.CancelledError)
    assert found == [await READS[name](house.others, "k")] * 4
    if name != "stream":  # Its bytes are the first one's to read.
        assert len(house.calls) == 1


async def test_a_read_ends_when_all_who_wait_are_cancelled() -> None:
    house = House()
    await house.others.save("k", "text")
    hold = house.gated.hold("get")
    before = asyncio.all_tasks()
    reads = [asyncio.ensure_future(house.storage.load("k")) for _ in range(5)]
    await hold.arrived.wait()
    begun = asyncio.all_tasks() - before
    assert len(begun) == 6
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    assert not begun & asyncio.all_tasks()
    assert await house.storage.load("k") == "text"
    assert house.calls == ["get", "get"]


async def test_many_readers_of_a_large_object_share_it_though_it_is_not_kept() -> None:
    house = House(max_object_bytes=1000)
    data = os.urandom(5000)
    await house.others.write("k", data)
    found = await asyncio.gather(*(house.storage.read("k") for _ in range(20)))
    assert all(one.data == data for one in found)
    assert house.calls == ["get"]
    assert await stream(house.storage, "k") == data
    assert (await house.storage.read("k")).data == data
    assert (await house.storage.info("k")).size == 5000
    assert house.calls == ["read_stream", "get"]
    assert house.layer.counts().bytes < 3000


async def test_streams_of_a_large_object_are_each_their_own() -> None:
    house = House(max_object_bytes=1000)
    data = os.urandom(5000)
    await house.others.write("k", data)
    found = await asyncio.gather(
        *(stream(house.storage, "k") for _ in range(3)), *(house.storage.load("k") for _ in range(3))
    )
    assert found == [data] * 6
    assert sorted(house.calls) == ["get", *["read_stream"] * 3]


# -- writes and reads at the same time

WRITES: dict[str, Callable[[StorageManager], Awaitable[Any]]] = {
    "put": lambda storage: storage.save("k", "new"),
    "put if match": lambda storage: storage.save("k", "new", if_match="*"),
    "put_stream": lambda storage: storage.backend.objects.driver.put_stream(  # as for a long one
        "k", *_long("new")
    ),
    "copy": lambda storage: storage.copy("source", "k"),
    "move": lambda storage: storage.move("source", "k"),
}


def _long(text: str) -> Any:
    return Parts([text.encode()], 1000, 1000), PutOptions("text/plain; charset=utf-8", {})


FILLS = {"load": "get", "stream": "read_stream", "info": "head"}


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("write", WRITES)
async def test_a_put_racing_a_fill_is_never_hidden(write: str, fill: str, phase: Phase) -> None:
    """The read begins before the write, and ends after it."""
    house = House()
    await house.others.save("k", "old")
    await house.others.save("source", "new")
    hold = house.gated.hold(FILLS[fill], phase)
    reading = asyncio.ensure_future(READS[fill](house.storage, "k"))
    await hold.arrived.wait()
    await WRITES[write](house.storage)
    # Another one that begins now does not wait for what may have seen the old object.
    assert await house.storage.load("k") == "new"
    hold.release()
    await reading
    for _ in range(2):
        assert await house.storage.load("k") == "new"
        assert (await house.storage.read("k")).data == b"new"
        assert await stream(house.storage, "k") == b"new"
        assert (await house.storage.info("k")).etag == (await house.others.info("k")).etag


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("fill", FILLS)
async def test_a_delete_racing_a_fill_is_never_undone(fill: str, phase: Phase) -> None:
    house = House()
    await house.others.save("k", "old")
    hold = house.gated.hold(FILLS[fill], phase)
    reading = asyncio.ensure_future(READS[fill](house.storage, "k"))
    await hold.arrived.wait()
    await house.storage.delete("k")
    assert not await house.storage.exists("k")
    hold.release()
    await asyncio.gather(reading, return_exceptions=True)
    for name in ("load", "read", "stream", "info"):
        with pytest.raises(KeyNotFoundError):
            await READS[name](house.storage, "k")


@pytest.mark.parametrize("phase", ["before", "after"])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("write", [*WRITES, "delete"])
async def test_a_fill_within_a_write_does_not_outlive_it(write: str, fill: str, phase: Phase) -> None:
    """The read begins after the write, and ends before it."""
    house = House()
    await house.others.save("k", "old")
    await house.others.save("source", "new")
    name = {"put if match": "put", "move": "copy"}.get(write, write)
    hold = house.gated.hold(name, phase)
    change = WRITES.get(write, lambda storage: storage.delete("k"))
    writing = asyncio.ensure_future(change(house.storage))
    await hold.arrived.wait()
    await asyncio.gather(READS[fill](house.storage, "k"), return_exceptions=True)
    hold.release()
    await writing
    if write == "delete":
        assert not await house.storage.exists("k")
    else:
        assert await house.storage.load("k") == "new"
        assert await stream(house.storage, "k") == b"new"


@pytest.mark.parametrize("fill", FILLS)
async def test_a_fill_that_begins_within_a_write_and_outlives_it_is_not_kept(fill: str) -> None:
    house = House()
    await house.others.save("k", "old")
    put = house.gated.hold("put")
    writing = asyncio.ensure_future(house.storage.save("k", "new"))
    await put.arrived.wait()
    get = house.gated.hold(FILLS[fill], "after")
    reading = asyncio.ensure_future(READS[fill](house.storage, "k"))
    await get.arrived.wait()
    put.release()
    await writing
    get.release()
    await reading
    assert await house.storage.load("k") == "new"
    assert (await house.storage.info("k")).etag == (await house.others.info("k")).etag


async def test_of_two_saves_at_once_the_stores_last_one_is_loaded() -> None:
    """Whichever is acknowledged last."""
    house = House()
    first = house.gated.hold("put", "after")  # It is stored first, and acknowledged last.
    one = asyncio.ensure_future(house.storage.save("k", "one"))
    await first.arrived.wait()
    await house.storage.save("k", "two")
    first.release()
    await one
    assert await house.storage.load("k") == "two"


@pytest.mark.parametrize("phase", ["before", "after"])
async def test_a_write_that_fails_or_is_cancelled_leaves_nothing_behind(phase: Phase) -> None:
    house = House()
    await house.storage.save("k", "old")
    with pytest.raises(PreconditionFailedError):
        await house.storage.save("k", "new", if_match="other")
    assert await house.storage.load("k") == "old"
    hold = house.gated.hold("put", phase)
    writing = asyncio.ensure_future(house.storage.save("k", "new"))
    await hold.arrived.wait()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert await house.storage.load("k") == await house.others.load("k")
    await house.storage.save("k", "newer")
    assert await house.storage.load("k") == "newer"


async def test_a_later_read_is_not_undone_by_an_earlier_one() -> None:
    """Another process changes the object; a read that has seen the change ends first."""
    house = House()
    await house.others.save("k", "old")
    hold = house.gated.hold("get", "after")
    early = asyncio.ensure_future(house.storage.load("k"))
    await hold.arrived.wait()
    await house.others.save("k", "new")
    assert await house.storage.load("k", fresh=True) == "new"
    hold.release()
    assert await early == "old"
    assert await house.storage.load("k") == "new"
    assert await stream(house.storage, "k") == b"new"


# -- time


async def test_after_its_time_an_unchanged_object_costs_no_body(house: House) -> None:
    await house.others.save("k", "text")
    for step in range(4):
        found = await house.storage.read("k")
        assert found == await house.others.read("k")
        assert house.calls == ["get"]
        assert (house.gated.answers[-1] is None) is (step > 0)
        house.clock.now += 299
        assert await house.storage.load("k") == "text"
        assert house.calls == []
        house.clock.now += 1
    counts = house.layer.counts()
    assert (counts.misses, counts.stale, counts.unchanged, counts.hits) == (1, 3, 3, 4)


@pytest.mark.parametrize("name", READS)
async def test_what_another_changes_is_seen_after_its_time_at_the_latest(house: House, name: str) -> None:
    for change in ("one", "two", None, "three"):
        if change is None:
            await house.others.delete("k")
        else:
            await house.others.save("k", change)
        house.clock.now += 300
        expected, found = await asyncio.gather(
            READS[name](house.others, "k"), READS[name](house.storage, "k"), return_exceptions=True
        )
        assert (type(found), str(found)) == (type(expected), str(expected))


async def test_its_time_begins_when_it_was_read_and_not_when_the_answer_came() -> None:
    house = House(ttl=10)
    await house.others.save("k", "old")
    hold = house.gated.hold("get", "after")
    reading = asyncio.ensure_future(house.storage.load("k"))
    await hold.arrived.wait()
    await house.others.save("k", "new")
    house.clock.now += 9
    hold.release()
    assert await reading == "old"
    assert await house.storage.load("k") == "old"
    house.clock.now += 1
    assert await house.storage.load("k") == "new"


async def test_nobody_waits_for_a_read_that_began_too_long_ago() -> None:
    house = House(ttl=10)
    await house.others.save("k", "old")
    hold = house.gated.hold("get", "after")
    slow = asyncio.ensure_future(house.storage.load("k"))
    await hold.arrived.wait()
    await house.others.save("k", "new")
    house.clock.now += 10
    assert await house.storage.load("k") == "new"
    hold.release()
    assert await slow == "old"
    assert await house.storage.load("k") == "new"


async def test_without_a_time_the_store_is_always_asked() -> None:
    house = House(ttl=0)
    await house.storage.save("k", "one")
    for text in ("two", "three"):
        assert await house.storage.load("k") == await house.others.load("k")
        await house.others.save("k", text)
    assert await house.storage.load("k") == "three"
    assert await house.storage.load("k") == "three"
    assert house.gated.answers[-1] is None


async def test_an_error_after_its_time_is_not_answered_from_memory() -> None:
    house = House()
    await house.storage.save("k", "text")
    house.clock.now += 300
    house.gated.failing = lambda: StorageUnavailableError("away")
    for read in READS.values():
        with pytest.raises(StorageUnavailableError):
            await read(house.storage, "k")
    house.gated.failing = None
    assert await house.storage.load("k") == "text"


@pytest.mark.parametrize("name", ["load", "read", "stream", "info", "exists"])
async def test_fresh_reads_through(house: House, name: str) -> None:
    reads: dict[str, Callable[..., Awaitable[Any]]] = {
        "load": house.storage.load,
        "read": house.storage.read,
        "stream": lambda key, **options: stream(house.storage, key, **options),
        "info": house.storage.info,
        "exists": house.storage.exists,
    }
    await house.storage.save("k", "old")
    assert not await house.storage.exists("l")
    await house.others.save("k", "new")
    await house.others.save("l", "new")
    assert await house.storage.load("k") == "old"
    for key in ("k", "l"):
        assert await reads[name](key, fresh=True) == await READS[name](house.others, key)
        if name not in ("info", "exists"):
            assert await house.storage.load(key) == "new"
    await house.others.delete("k")
    assert await house.storage.load_many(["l"], fresh=True) == {"l": "new"}
    if name == "exists":
        assert not await house.storage.exists("k", fresh=True)
    else:
        with pytest.raises(KeyNotFoundError):
            await reads[name]("k", fresh=True)
    with pytest.raises(KeyNotFoundError):
        await house.storage.load("k")


async def test_fresh_costs_no_body_if_nothing_has_changed() -> None:
    house = House()
    await house.others.save("k", "text")
    for expected in (False, True, True):
        assert await house.storage.load("k", fresh=True) == "text"
        assert (house.gated.answers[-1] is None) is expected


async def test_update_begins_with_what_the_store_has(house: House) -> None:
    await house.storage.save("k", [1])
    assert not await house.storage.exists("l")
    await house.others.save("k", [1, 2])
    await house.others.save("l", [5])
    seen: list[Any] = []

    def change(value: list[int]) -> list[int]:
        seen.append(list(value))
        return [*value, 3]

    assert await house.storage.update("k", change) == [1, 2, 3]
    assert await house.storage.update("l", change) == [5, 3]
    assert seen == [[1, 2], [5]]


# -- what is missing


async def test_that_there_is_no_object_is_remembered_for_a_while(house: House) -> None:
    for _ in range(3):
        assert not await house.storage.exists("k")
        with pytest.raises(KeyNotFoundError):
            await house.storage.load("k")
        with pytest.raises(KeyNotFoundError):
            await stream(house.storage, "k")
    assert house.calls == ["head"]
    await house.others.save("k", "text")
    assert not await house.storage.exists("k")
    house.clock.now += 5
    assert await house.storage.load("k") == "text"


async def test_what_this_process_creates_or_deletes_is_known_at_once(house: House) -> None:
    assert not await house.storage.exists("k")
    await house.storage.save("k", "text", if_absent=True)
    assert await house.storage.load("k") == "text"
    await house.storage.copy("k", "l")
    assert await house.storage.load("l") == "text"
    await house.storage.move("l", "m")
    assert not await house.storage.exists("l")
    assert await house.storage.load("m") == "text"
    await house.storage.write_stream("k", [b"streamed"])
    assert await house.storage.load("k") == b"streamed"
    await house.storage.delete("k")
    house.calls  # noqa: B018
    with pytest.raises(KeyNotFoundError):
        await house.storage.load("k")
    assert house.calls == []


async def test_nothing_missing_is_remembered_without_a_time_for_it() -> None:
    house = House(negative_ttl=0)
    assert not await house.storage.exists("k")
    await house.others.save("k", "text")
    assert await house.storage.exists("k")


# -- the end of an object's life


async def test_an_expired_object_is_never_answered_from_memory(store: StorageBackend) -> None:
    house = House(store)
    wall = Clock()
    house.layer.objects.clock = wall
    await house.storage.save("k", "short", ttl=10)
    await house.storage.read("k")
    assert await house.storage.load("k") == "short"
    assert (await house.storage.read("k")).info.expires_at is not None
    wall.now += 10
    for name in ("load", "read", "stream", "info", "range"):
        with pytest.raises(KeyNotFoundError):
            await READS[name](house.storage, "k")
    assert not await house.storage.exists("k")
    await house.others.save("k", "again")  # by another process
    house.clock.now += 5
    assert await house.storage.load("k") == "again"
    await house.storage.save("l", "short", ttl=10)
    wall.now += 10
    assert await house.storage.sweep_expired() == 1
    await house.storage.save("l", "again", if_absent=True)
    assert await house.storage.load("l") == "again"


# -- conditions and ranges


async def test_a_condition_that_names_what_is_kept_needs_no_request() -> None:
    house = House()
    await house.others.save("k", "text")
    found = await house.storage.read("k")
    etag = found.info.etag
    house.calls  # noqa: B018
    assert await house.storage.read("k", if_match=etag) == found
    assert await house.storage.read_if_changed("k", etag) is None
    assert await house.storage.read_if_changed("k", "*") is None
    assert (await house.storage.read("k", if_match=etag, byte_range=ByteRange(1, 3))).data == b"ex"
    assert await stream(house.storage, "k", if_match=etag, byte_range=ByteRange(-2)) == b"xt"
    assert house.calls == []


@pytest.mark.parametrize("name", ["if_match", "if_none_match", "stream", "range"])
async def test_who_names_another_version_than_the_kept_one_may_know_more(house: House, name: str) -> None:
    await house.storage.save("k", "old")
    await house.storage.read("k")
    new = await house.others.save("k", "new")
    assert await house.storage.load("k") == "old"
    if name == "if_match":
        assert (await house.storage.read("k", if_match=new.etag)).data == b"new"
    elif name == "if_none_match":
        assert await house.storage.read_if_changed("k", new.etag) is None
    elif name == "stream":
        assert await stream(house.storage, "k", if_match=new.etag) == b"new"
    else:
        part = await house.storage.read("k", if_match=new.etag, byte_range=ByteRange(0, 1))
        assert part.data == b"n"
    # It knows now, too.
    assert await house.storage.load("k") == "new"


async def test_who_names_a_version_of_what_is_thought_missing_may_know_more(house: House) -> None:
    assert not await house.storage.exists("k")
    put = await house.others.save("k", "new")
    assert not await house.storage.exists("k")
    assert await house.storage.read_if_changed("k", put.etag) is None
    assert await house.storage.load("k") == "new"


async def test_conditions_after_the_time_of_what_is_kept(house: House) -> None:
    old = await house.storage.save("k", "old")
    for _ in range(2):
        house.clock.now += 300
        assert await house.storage.read_if_changed("k", old.etag) is None
        house.clock.now += 300
        assert (await house.storage.read("k", if_match=old.etag)).data == b"old"
        house.clock.now += 300
        part = await house.storage.read("k", if_match=old.etag, byte_range=ByteRange(1, 2))
        assert part.data == b"l"
        house.clock.now += 300
        assert await stream(house.storage, "k", if_match=old.etag) == b"old"
    assert not {"put_stream", "read_stream"} & set(house.calls)
    assert all(getattr(answer, "data", b"") == b"" for answer in house.gated.answers)
    await house.others.save("k", "new")
    house.clock.now += 300
    for refused in (
        house.storage.read("k", if_match=old.etag),
        house.storage.read("k", if_match=old.etag, byte_range=ByteRange(0, 1)),
        stream(house.storage, "k", if_match=old.etag),
    ):
        with pytest.raises(PreconditionFailedError):
            await refused
    changed = await house.storage.read_if_changed("k", old.etag)
    assert changed is not None
    assert changed.data == b"new"


async def test_a_version_that_another_replaces_is_not_offered_for_ever(house: House) -> None:
    """First the info, then these very bytes: as HTTP does."""
    await house.others.save("k", "old")
    info = await house.storage.info("k")
    await house.others.save("k", "new")
    with pytest.raises(PreconditionFailedError):
        await house.storage.read("k", if_match=info.etag)
    info = await house.storage.info("k")
    assert (await house.storage.read("k", if_match=info.etag)).data == b"new"
    assert await house.storage.load("k") == "new"


@pytest.mark.parametrize(
    "byte_range", [ByteRange(0, 3), ByteRange(2), ByteRange(-2), ByteRange(1, 99), ByteRange(-99)], ids=str
)
async def test_ranges_of_what_is_kept(byte_range: ByteRange) -> None:
    house = House()
    await house.others.write("k", b"0123456789")
    await house.storage.read("k")
    house.calls  # noqa: B018
    expected = await house.others.read("k", byte_range=byte_range)
    assert await house.storage.read("k", byte_range=byte_range) == expected
    assert await stream(house.storage, "k", byte_range=byte_range) == expected.data
    assert house.calls == []
    with pytest.raises(InvalidArgumentError):
        await house.storage.read("k", byte_range=ByteRange(10))
    with pytest.raises(InvalidArgumentError):
        await stream(house.storage, "k", byte_range=ByteRange(10))


async def test_a_range_of_a_changed_object_is_of_its_new_version(house: House) -> None:
    await house.others.write("k", b"old")
    await house.storage.read("k")
    await house.others.write("k", b"and now for another")
    house.clock.now += 300
    part = await house.storage.read("k", byte_range=ByteRange(-7))
    assert part.data == b"another"
    assert await house.storage.load("k") == b"and now for another"


# -- damage


@pytest.mark.parametrize("name", ["load", "read", "stream"])
async def test_damage_is_found_and_not_kept(name: str) -> None:
    store = MemoryBackend()
    house = House(store)
    await house.others.save("k", "text")
    objects = store.objects.driver._objects  # type: ignore[attr-defined]
    good = objects["k"]
    objects["k"] = type(good)(good.info, b"Text")
    for _ in range(2):
        with pytest.raises(IntegrityError):
            await READS[name](house.storage, "k")
    objects["k"] = good
    assert await house.storage.load("k") == "text"


# -- nobody's values are another's


async def test_what_a_caller_changes_is_the_callers_alone(house: House) -> None:
    value = {"list": [1], "bytes": b"x"}
    metadata = {"m": "1"}
    await house.storage.save("k", value, metadata=metadata)
    expected = {"list": [1], "bytes": b"x"}
    value["list"].append(2)  # type: ignore[attr-defined]
    metadata["m"] = "2"
    for _ in range(2):
        loaded = await house.storage.load("k")
        assert loaded == expected
        loaded["list"].append(3)
        for info in (
            (await house.storage.read("k")).info,
            await house.storage.info("k"),
            (await house.others.read("k")).info,
        ):
            assert info.metadata == {"m": "1"}
        for info in ((await house.storage.read("k")).info, await house.storage.info("k")):
            info.metadata["m"] = "3"  # type: ignore[index]
        async with house.storage.open_reader("k") as reader:
            assert reader.info.metadata == {"m": "1"}
            reader.info.metadata["n"] = "4"  # type: ignore[index]
    buffer = bytearray(b"abc")
    await house.storage.write("b", buffer)
    buffer[0] = 0
    assert await house.storage.load("b") == b"abc"


async def test_readers_that_share_a_read_share_nothing_that_can_change() -> None:
    house = House()
    await house.others.save("k", [1], metadata={"m": "1"})
    found = await asyncio.gather(*(house.storage.read("k") for _ in range(3)))
    found[0].info.metadata["m"] = "2"  # type: ignore[index]
    assert found[1].info.metadata == {"m": "1"}
    loaded = await asyncio.gather(*(house.storage.load("k") for _ in range(3)))
    loaded[0].append(2)
    assert loaded[1] == [1]


@pytest.mark.parametrize("key", [None, 1, b"k", ["k"], "", "a//b", ".system/k"], ids=repr)
async def test_a_key_that_is_none_is_refused(key: Any) -> None:
    house = House()
    await house.layer.objects.put(".system/k", b"1")
    with pytest.raises(InvalidKeyError):
        await house.storage.load(key)


# -- room


async def test_what_was_not_used_for_longest_makes_room() -> None:
    house = House(max_bytes=50_000, max_object_bytes=10_000)
    for n in range(4):
        await house.storage.write(f"k{n}", bytes(10_000))
    await house.storage.load("k0")
    await house.storage.write("k4", bytes(10_000))
    house.calls  # noqa: B018
    for n in (0, 2, 3, 4):
        await house.storage.load(f"k{n}")
    assert house.calls == []
    await house.storage.load("k1")
    assert house.calls == ["get"]
    counts = house.layer.counts()
    assert (counts.entries, counts.evictions) == (4, 2)
    assert 40_000 < counts.bytes <= 50_000


async def test_all_that_is_kept_is_within_its_room() -> None:
    """Also small objects, their metadata, and that there is none."""
    house = House(StoreOfAnything(), max_bytes=2_000_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(6000):
            key = f"{'long-' * 20}{n}"
            if n % 3:
                await house.storage.load(f"{key}-{n % 3}")
            else:
                await house.storage.exists(f"missing-{key}")
            house.gated.calls.clear()
            house.gated.answers.clear()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counts = house.layer.counts()
    assert counts.bytes <= 2_000_000
    assert counts.evictions > 1000
    assert taken < 2_600_000


class StoreOfAnything(MemoryBackend):
    """Has every object but those that are missing, and holds none."""

    def __init__(self) -> None:
        super().__init__()

        class Anything(MemoryObjects):
            async def get(self, key: str, options: GetOptions) -> StoredObject | None:
                return StoredObject(await self.head(key), b"x" * 100)

            async def head(self, key: str) -> ObjectInfo:
                if key.startswith("missing"):
                    raise missing(key)
                metadata = {f"name-{n}-{key[-4:]}": f"{key[-4:]}{n}" for n in range(key.endswith("1") * 8)}
                return ObjectInfo(key, 100, f"etag-{key}", datetime.now(UTC), "text/plain", metadata)

        self.objects = ObjectStore(Anything())


async def test_counts_are_statistics_of_the_layer() -> None:
    house = House()
    await house.storage.save("k", 1)
    await house.storage.load("k")
    await house.storage.exists("l")
    found = {each.name: (each.value, each.kind) for each in statistics_of(house.layer)}
    assert found["agent_storage.cache.hits"] == (1, "counter")
    assert found["agent_storage.cache.misses"] == (1, "counter")
    assert found["agent_storage.cache.entries"] == (2, "gauge")
    assert set(found) >= {
        f"agent_storage.cache.{name}" for name in ("stale", "unchanged", "joined", "evictions", "bytes")
    }
    assert {f"agent_storage.cache.{name}" for name in house.layer.counts().__struct_fields__} == set(found)


# -- loops, threads, processes


def test_one_loop_after_another_and_one_that_ended_in_the_middle(tmp_path: Path) -> None:
    layer = CachingLayer(FileStorageBackend(tmp_path), CachingOptions())
    storage = StorageManager(backend=layer)
    asyncio.run(storage.save("k", "text"))

    async def leave() -> None:
        asyncio.ensure_future(storage.load("l"))  # noqa: RUF006 - it is left behind on purpose
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert asyncio.run(storage.load("k")) == "text"
    for _ in range(2):
        assert not asyncio.run(storage.exists("l"))


def test_several_loops_at_once_never_see_what_was_before_a_save(tmp_path: Path) -> None:
    storage = StorageManager(backend=CachingLayer(FileStorageBackend(tmp_path), CachingOptions()))
    acknowledged = [0]
    problems: list[str] = []

    async def write() -> None:
        for n in range(1, 40):
            await storage.save("k", n)
            acknowledged[0] = n

    async def read() -> None:
        while acknowledged[0] < 39 and not problems:
            least = acknowledged[0]
            found = await storage.load("k")
            if found < least:
                problems.append(f"{found} after {least}")

    asyncio.run(storage.save("k", 0))
    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for work in (write, read, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not problems
    assert not any(thread.is_alive() for thread in threads)


def test_a_forked_process_does_not_wait_for_its_parents_threads() -> None:
    layer = CachingLayer(MemoryBackend(), CachingOptions())
    storage = StorageManager(backend=layer)
    asyncio.run(storage.save("k", "text"))
    cache = layer.objects.driver.cache  # type: ignore[attr-defined]
    with cache._lock:  # as a thread of the parent might
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(storage.save("k", "theirs"))
                code = 0 if asyncio.run(storage.load("k")) == "theirs" else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(storage.load("k")) == "text"


async def test_a_copy_begins_empty_and_a_closed_one_answers_nothing(tmp_path: Path) -> None:
    config = StorageConfig(base_path=tmp_path, caching=CachingOptions(ttl=20, max_bytes=10_000))
    storage = StorageManager(config)
    await storage.save("k", "text")
    layer = storage.backend
    assert isinstance(layer, CachingLayer)
    other = pickle.loads(pickle.dumps(storage))  # noqa: S301 - this test has written it
    assert other.backend.options == config.caching
    assert other.backend.counts().entries == 0
    assert await other.load("k") == "text"
    await other.close()
    assert await storage.load("k") == "text"
    await storage.close()
    assert layer.counts().entries == 0
    for read in READS.values():
        with pytest.raises(BackendClosedError):
            await read(storage, "k")


async def test_close_ends_the_reads_that_are_under_way() -> None:
    house = House()
    await house.others.save("k", "text")
    house.gated.hold("get")
    before = asyncio.all_tasks()
    reading = asyncio.ensure_future(house.storage.load("k"))
    await turns()
    await house.layer.close()
    assert await reading == "text"  # by itself, as the store is still open
    assert not asyncio.all_tasks() - before


@pytest.mark.parametrize("phase", ["before", "after"])
async def test_a_write_that_ends_after_close_is_not_kept(tmp_path: Path, phase: Phase) -> None:
    house = House(FileStorageBackend(tmp_path))
    hold = house.gated.hold("put", phase)
    saving = asyncio.ensure_future(house.storage.save("k", "text"))
    await hold.arrived.wait()
    house.layer.clear()
    hold.release()
    await saving
    assert house.layer.counts().entries == 0
    hold = house.gated.hold("put", "after")
    saving = asyncio.ensure_future(house.storage.save("k", "text"))
    await hold.arrived.wait()
    await house.layer.close()
    hold.release()
    await saving
    with pytest.raises(BackendClosedError):
        await house.storage.load("k")


# -- what a layer that is off now has stored


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("layer", ["compression", "encryption"])
async def test_what_a_layer_has_stored_that_is_off_now_is_read_as_without_a_cache(
    store: StorageBackend, layer: str, name: str
) -> None:
    then = StorageManager(backend=LAYERS[layer](store))
    await then.save("k", "text " * 1000)
    await then.write("b", b"bytes " * 1000, ttl=1000)
    house = House(store)

    async def found(storage: StorageManager, key: str) -> Any:
        try:
            return await READS[name](storage, key)
        except EncryptionError as error:
            return str(error)

    for key in ("k", "b"):
        expected = await found(house.others, key)
        for _ in range(3):
            assert await found(house.storage, key) == expected
            assert await found(house.storage, key) == expected
            house.clock.now += 1000
    for key, option in (("k", {}), ("b", {"byte_range": ByteRange(0, 10)})):
        with suppress(EncryptionError):
            assert (await house.storage.read(key, **option)).data == (
                await house.others.read(key, **option)
            ).data


# -- options


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("ttl", {"ttl": -1}),
        ("ttl", {"ttl": float("nan")}),
        ("ttl", {"ttl": 10**9}),
        ("ttl", {"ttl": True}),
        ("ttl", {"ttl": "5"}),
        ("negative_ttl", {"ttl": 5, "negative_ttl": 6}),
        ("max_bytes", {"max_bytes": 1.5}),
        ("max_bytes", {"max_bytes": -1}),
        ("max_object_bytes", {"max_bytes": 10, "max_object_bytes": 11}),
        ("keep_writes", {"keep_writes": 1}),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CachingOptions(**options)
    assert refused.value.field == field
    assert refused.value.limit


def test_options_from_the_environment() -> None:
    assert from_env({}) is None
    assert from_env({"AGENT_STORAGE_CACHING": "true"}) == CachingOptions()
    env = {
        "AGENT_STORAGE_CACHING": "true",
        "AGENT_STORAGE_CACHING_TTL": "2.5",
        "AGENT_STORAGE_CACHING_NEGATIVE_TTL": "0",
        "AGENT_STORAGE_CACHING_MAX_BYTES": "1000",
        "AGENT_STORAGE_CACHING_MAX_OBJECT_BYTES": "100",
        "AGENT_STORAGE_CACHING_KEEP_WRITES": "false",
    }
    options = CachingOptions(ttl=2.5, negative_ttl=0, max_bytes=1000, max_object_bytes=100, keep_writes=False)
    assert StorageConfig.from_env({"AGENT_STORAGE_TYPE": "memory", **env}).caching == options
    with pytest.raises(ConfigurationError):
        from_env({**env, "AGENT_STORAGE_CACHING_TTL": "soon"})
