"""`SyncStorageManager`, beside the manager that it is the twin of."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import inspect
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager, SyncStorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.conversations import Conversations, SyncConversations
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports.backend import ByteRange
from storage_lib.ports.objects import ObjectReader, ObjectWriter
from storage_lib.sync import SyncObjectReader, SyncObjectWriter
from tests.effort import awaited, calls
from tests.http_app import config_of
from tests.layer_stacks import FULL, stacked

WAITED: contextvars.ContextVar[str] = contextvars.ContextVar("WAITED", default="")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SyncStorageManager]:
    with SyncStorageManager(StorageConfig(base_path=tmp_path / "data")) as storage:
        yield storage


@pytest.fixture
def anywhere(any_store: tuple[str, object], tmp_path: Path) -> Iterator[SyncStorageManager]:
    with SyncStorageManager(asyncio.run(config_of(*any_store, tmp_path))) as storage:
        yield storage


TWINS = {
    StorageManager: SyncStorageManager,
    Conversations: SyncConversations,
    ObjectReader: SyncObjectReader,
    ObjectWriter: SyncObjectWriter,
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in TWINS for name in dir(kind) if not name.startswith("_")]
)
def test_it_has_every_method_with_the_same_parameters(kind: type[Any], name: str) -> None:
    one, other = getattr(kind, name), getattr(TWINS[kind], name)
    if callable(one):
        assert not inspect.iscoroutinefunction(other)
        assert inspect.signature(one).parameters == inspect.signature(other).parameters
        assert vars(other).get("__wrapped__", one) is one, "it is the twin of another method"
        assert pickle.loads(pickle.dumps(other)) is other  # noqa: S301 - our own
        assert "Async" not in str(inspect.signature(other).return_annotation)
        assert "Listed" not in str(inspect.signature(other).return_annotation)
        assert other.__doc__
        assert "await " not in other.__doc__
        assert "async with" not in other.__doc__


def lived(storage: SyncStorageManager) -> None:
    """A life of some objects, through every kind of method."""
    value = {"model": "large", "weights": b"\x00\x01"}
    saved = storage.save("a/k", value, metadata={"m": "1"}, ttl=600)
    assert storage.load("a/k") == value
    assert storage.update("a/n", lambda n: n + 1, initial=0) == 1

    async def twice(n: int) -> int:
        await asyncio.sleep(0)
        return n * 2

    assert storage.update("a/n", twice) == 2
    with pytest.raises(PreconditionFailedError):
        storage.save("a/k", 1, if_absent=True)
    with pytest.raises(KeyNotFoundError):
        storage.load("none")
    assert storage.read("a/k", byte_range=ByteRange(0, 1)).info.etag == saved.etag
    assert storage.touch("a/k", ttl=None).etag != saved.etag
    long = bytes(range(256)) * 5000
    storage.write_stream("long", (long[at : at + 100_000] for at in range(0, len(long), 100_000)))
    with storage.open_reader("long") as reader:
        assert isinstance(reader, SyncObjectReader)
        assert reader.info.size == len(long)
        assert b"".join(reader) == long
    with storage.open_reader("long", byte_range=ByteRange(10, 20)) as reader:
        assert (reader.start, reader.read()) == (10, long[10:20])
    with storage.open_reader("long") as reader:
        for chunk in reader:
            assert storage.load("a/n") == 2, "another call, while this one is open"
            assert long.startswith(chunk)
            break
    with pytest.raises(KeyNotFoundError), storage.open_reader("none"):
        pass
    with pytest.raises(ZeroDivisionError), storage.open_reader("long"):
        raise ZeroDivisionError
    assert list(storage.list_keys()) == ["a/k", "a/n", "long"]
    listing = storage.list_keys("a/")
    assert [*listing, *listing] == ["a/k", "a/n"] * 2
    for key in storage.list_keys():
        assert storage.info(key).key == "a/k"
        break
    assert [entry.size for entry in storage.list_objects("long")] == [len(long)]
    assert storage.list_page(limit=1).cursor is not None
    assert storage.save_versioned("v", 1) == 1
    assert storage.load_version("v") == 1
    assert storage.move_prefix("a/", "b/").done == 2
    found = storage.load_many(["b/n", "none"])
    assert found["b/n"] == 2
    assert isinstance(found["none"], KeyNotFoundError)
    assert storage.delete_prefix("").is_complete
    assert list(storage.list_keys()) == []


def test_a_life(anywhere: SyncStorageManager) -> None:
    lived(anywhere)


def test_a_life_through_every_layer() -> None:
    with SyncStorageManager(backend=stacked(MemoryBackend(), FULL)) as storage:
        lived(storage)


async def test_a_life_where_an_event_loop_runs(tmp_path: Path) -> None:
    """As in a notebook."""
    running = asyncio.get_running_loop()
    with SyncStorageManager(StorageConfig(base_path=tmp_path / "data")) as storage:
        lived(storage)
        assert asyncio.get_running_loop() is running
        await asyncio.sleep(0)


def test_many_threads_use_one(anywhere: SyncStorageManager) -> None:
    barrier = threading.Barrier(8)

    def work(n: int) -> list[Any]:
        barrier.wait(120)
        for turn in range(5):
            anywhere.save(f"{n}/{turn}", [n, turn])
            anywhere.update("sum", lambda old: old + 1, initial=0)
        return [anywhere.load(key) for key in anywhere.list_keys(f"{n}/")]

    with ThreadPoolExecutor(8) as threads:
        for n, found in enumerate(threads.map(work, range(8))):
            assert found == [[n, turn] for turn in range(5)]
    assert anywhere.load("sum") == 40


def test_a_caller_keeps_its_context_and_its_thread(files: SyncStorageManager) -> None:
    seen: list[Any] = []

    def change(old: Any) -> Any:
        seen.append((WAITED.get(), threading.current_thread()))
        return old + 1

    token = WAITED.set("here")
    files.update("k", change, initial=0)
    WAITED.reset(token)
    assert seen == [("here", threading.current_thread())]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError, asyncio.CancelledError])
def test_what_a_callback_raises_arrives_and_the_next_call_works(
    files: SyncStorageManager, error: type[BaseException]
) -> None:
    async def later(old: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    def now(old: Any) -> Any:
        raise error

    changes: list[Callable[[Any], Any]] = [now, later]
    for change in changes:
        with pytest.raises(error):
            files.update("k", change, initial=0)
        files.save("k", 1)
        assert files.load("k") == 1
        files.delete("k")


def test_a_damaged_object_is_an_error_before_the_last_chunk(
    files: SyncStorageManager, tmp_path: Path
) -> None:
    files.write("k", b"the original bytes")
    (path,) = [each for each in (tmp_path / "data/objects").rglob("*") if each.is_file()]
    path.write_bytes(path.read_bytes().replace(b"original", b"0riginal"))
    with pytest.raises(IntegrityError), files.open_reader("k") as reader:
        reader.read()


def test_it_is_copied_and_pickled_as_its_configuration(files: SyncStorageManager) -> None:
    files.save("k", 1)
    for twin in (copy.copy(files), pickle.loads(pickle.dumps(files))):  # noqa: S301
        with twin:
            assert twin.load("k") == 1
    with pytest.raises(StorageError):
        pickle.dumps(SyncStorageManager(backend=MemoryBackend()))


def test_it_leaves_nothing_open(tmp_path: Path) -> None:
    """Warnings about loops and files that were left open fail the test."""
    storage = SyncStorageManager(StorageConfig(base_path=tmp_path / "data"))
    with storage:
        assert not storage.is_closed
        storage.save("k", 1)
    assert storage.is_closed
    with pytest.raises(StorageError):
        storage.save("k", 2)
    dropped = SyncStorageManager(StorageConfig(base_path=tmp_path / "data"))
    assert dropped.load("k") == 1
    del dropped, storage
    gc.collect()


def test_a_listing_that_is_dropped_half_read_does_no_harm(files: SyncStorageManager) -> None:
    for n in range(3):
        files.save(str(n), n)
    listing = iter(files.list_keys())
    assert next(listing) == "0"
    del listing
    gc.collect()
    assert list(files.list_keys()) == ["0", "1", "2"]


def test_a_small_load_costs_little_more_than_an_awaited_one(tmp_path: Path) -> None:
    """In functions that are called, all of them on the caller's thread."""
    config = StorageConfig(base_path=tmp_path / "data")

    async def of_the_awaited() -> int:
        async with StorageManager(config) as storage:
            return calls(lambda: awaited(storage.load("k")))

    with SyncStorageManager(config) as storage:
        storage.save("k", {"n": 1})
        assert calls(lambda: storage.load("k")) < 1.5 * asyncio.run(of_the_awaited())


def test_a_writer_without_async(files: SyncStorageManager) -> None:
    with files.open_writer("written", content_type="text/plain") as writer:
        for piece in (b"one ", b"two"):
            writer.write(piece)
    assert files.load("written") == "one two"
    assert writer.result is not None
    assert (writer.result.etag, writer.size) == (files.info("written").etag, 7)
    with pytest.raises(InvalidArgumentError), files.open_writer("written") as writer:
        writer.write("text")  # pyright: ignore[reportArgumentType]
    assert files.load("written") == "one two"


def test_conversations_without_async(files: SyncStorageManager) -> None:
    log = SyncConversations(files, max_messages=100)
    assert log.append("c", [{"id": "a"}, {"n": 2}], participants=["ceo"]).position == 2
    with pytest.raises(PreconditionFailedError):
        log.append("c", [{}], if_position=1)
    assert [each.message for each in log.read("c", last=5)] == [{"id": "a"}, {"n": 2}]
    assert log.compact("c", lambda messages: {"of": len(messages)}, keep=0) is not None
    assert [each.id for each in log.list(participant="ceo")] == ["c"]
    assert log.pop("c").message == {"of": 2}
    assert log.pop("c", default=None) is None

    def appended(n: int) -> int:
        return log.append("c", [{"n": n}]).position

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(appended, range(40)))
    assert sorted(found) == list(range(3, 43))
