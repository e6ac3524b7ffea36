"""The audit layer: what is recorded of each operation, where, and what happens if it cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import pickle
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from storage_lib.audit import AuditUnavailableError, acting_as, audit_log, verify, verify_table
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.audit import AuditOptions
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    StorageUnavailableError,
)
from storage_lib.layers.audit import AuditLayer, files
from storage_lib.layers.base import Layer, Operation
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.tables import Delete, Insert, Upsert
from tests.descriptors import open_in
from tests.layers import CountingLayer
from tests.test_layers import MemoryBehindALayer

KEY = "a secret of forty characters, or longer.."
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


def logged(folder: Path, *, begins: bool = False) -> list[dict[str, Any]]:
    """The entries of all files, first the oldest writer's."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    found = [json.loads(line) for line in lines]
    return [entry for entry in found if begins or entry.get("kind") != "begin"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
async def layer(folder: Path) -> AsyncIterator[AuditLayer]:
    async with AuditLayer(
        MemoryBackend(), AuditOptions(path=str(folder), operations="all", key=KEY)
    ) as layer:
        yield layer


class TestObjectsWithAnAuditInFiles(MemoryBehindALayer):
    @pytest.fixture
    async def objects(self, folder: Path) -> AsyncIterator[ObjectStore]:  # type: ignore[override]
        options = AuditOptions(path=str(folder), operations="all", on_failure="refuse", rotate_bytes=4096)
        layer = AuditLayer(MemoryBackend(), options)
        yield layer.objects
        await layer.close()
        if folder.exists():
            report = verify(folder)
            assert report.findings == []
            assert report.unsealed == 0


# -- what is recorded

type Doing = Callable[[AuditLayer], Awaitable[Any]]


async def _read(layer: AuditLayer, key: str, most: int = 2**30) -> None:
    async with layer.objects.open_reader(key) as reader:
        async for chunk in reader:
            if (most := most - len(chunk)) <= 0:
                return


async def _queue(layer: AuditLayer, then: Doing) -> None:
    await layer.queues.create_queue("letters")
    await layer.send_message("letters", "hello")
    await then(layer)


async def _stream_of(size: int) -> AsyncGenerator[bytes]:
    for _ in range(size // 1_000_000):
        yield bytes(1_000_000)


CASES: list[tuple[str, Doing, dict[str, Any]]] = [
    (
        "put",
        lambda b: b.objects.put("a/b", b"12345"),
        {"action": "objects.put", "resource": "objects/a/b", "size": 5, "outcome": "success"},
    ),
    (
        "put refused",
        lambda b: b.objects.put("there", b"1", if_absent=True),
        {"action": "objects.put", "resource": "objects/there", "size": 1, "outcome": "precondition-failed"},
    ),
    (
        "stream",
        lambda b: b.objects.put_stream("s", _stream_of(20_000_000)),
        {"action": "objects.put_stream", "resource": "objects/s", "size": 20_000_000, "outcome": "success"},
    ),
    (
        "get",
        lambda b: b.objects.get("there"),
        {"action": "objects.get", "resource": "objects/there", "size": 6, "outcome": "success"},
    ),
    (
        "get nothing",
        lambda b: b.objects.get("nothing"),
        {"action": "objects.get", "resource": "objects/nothing", "outcome": "key-not-found"},
    ),
    (
        "head expired",
        lambda b: b.objects.head("expired"),
        {"action": "objects.head", "resource": "objects/expired", "outcome": "key-not-found"},
    ),
    (
        "fresh head expired",
        lambda b: b.objects.head("expired", fresh=True),
        {"action": "objects.head", "resource": "objects/expired", "outcome": "key-not-found"},
    ),
    (
        "stream expired",
        lambda b: _read(b, "expired"),
        {
            "action": "objects.read_stream",
            "resource": "objects/expired",
            "size": 0,
            "outcome": "key-not-found",
        },
    ),
    (
        "get expired",
        lambda b: b.objects.get("expired"),
        {"action": "objects.get", "resource": "objects/expired", "outcome": "key-not-found"},
    ),
    (
        "read",
        lambda b: _read(b, "there"),
        {"action": "objects.read_stream", "resource": "objects/there", "size": 6, "outcome": "success"},
    ),
    (
        "head",
        lambda b: b.objects.head("there"),
        {"action": "objects.head", "resource": "objects/there", "outcome": "success"},
    ),
    (
        "delete",
        lambda b: b.objects.delete("there"),
        {"action": "objects.delete", "resource": "objects/there", "outcome": "success"},
    ),
    (
        "copy",
        lambda b: b.objects.copy("there", "here"),
        {
            "action": "objects.copy",
            "resource": "objects/here",
            "source": "objects/there",
            "size": 6,
            "outcome": "success",
        },
    ),
    (
        "touch",
        lambda b: b.objects.touch("there", ttl=60),
        {"action": "objects.touch", "resource": "objects/there", "outcome": "success"},
    ),
    (
        "list",
        lambda b: b.objects.list_page("th"),
        {"action": "objects.scan", "resource": "objects/th", "outcome": "success"},
    ),
    (
        "insert",
        lambda b: b.tables.insert("people", "p", "r", {"name": "x"}),
        {"action": "tables.insert", "resource": "tables/people/p/r", "outcome": "success"},
    ),
    (
        "update nothing",
        lambda b: b.tables.update("people", "p", "q", {"name": "x"}),
        {"action": "tables.update", "resource": "tables/people/p/q", "outcome": "key-not-found"},
    ),
    (
        "entity",
        lambda b: b.tables.get("known", "p", "r"),
        {"action": "tables.get", "resource": "tables/known/p/r", "outcome": "success"},
    ),
    (
        "query",
        lambda b: b.tables.query("known", "n eq 1"),
        {"action": "tables.query", "resource": "tables/known", "outcome": "success"},
    ),
    (
        "send",
        lambda b: b.queues.send_text("known", "hello"),
        {"action": "queues.send", "resource": "queues/known", "size": 5, "outcome": "success"},
    ),
    (
        "receive",
        lambda b: b.queues.receive("known"),
        {"action": "queues.receive", "resource": "queues/known", "outcome": "success"},
    ),
    (
        "clear",
        lambda b: b.queues.clear("known"),
        {"action": "queues.clear", "resource": "queues/known", "outcome": "success"},
    ),
]


@pytest.mark.parametrize(("doing", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_an_operation_has_an_entry(doing: Doing, expected: dict[str, Any], folder: Path) -> None:
    now = time.time()
    backend = MemoryBackend(clock=lambda: now)
    await backend.objects.put("there", b"secret", metadata={"note": "secret"})
    await backend.objects.put("expired", b"secret", ttl=1)
    await backend.tables.insert("known", "p", "r", {"n": 1, "secret": "secret"})
    await backend.queues.create_queue("known")
    now += 2
    options = AuditOptions(path=str(folder), operations="all")
    async with AuditLayer(backend, options) as layer:
        with (
            acting_as("agent:ceo", "order-17"),
            contextlib.suppress(KeyNotFoundError, PreconditionFailedError),
        ):
            await doing(layer)
    (entry,) = logged(folder)
    assert entry.pop("ms") >= 0
    size = None if "size" in expected or expected["outcome"] == "success" else entry.pop("size", None)
    assert size in (None, 6)
    for name in ("writer", "seq", "prev", "time", "hash"):
        assert entry.pop(name)
    assert entry == expected | {"actor": "agent:ceo", "correlation": "order-17"}


async def test_a_batch_has_an_entry_for_each_of_its_operations(layer: AuditLayer, folder: Path) -> None:
    await layer.tables.insert("people", "p", "c", {})
    await layer.tables.batch("people", "p", [Insert("a", {"n": 1}), Upsert("b", {"n": 1}), Delete("c")])
    with pytest.raises(PreconditionFailedError):
        await layer.tables.batch("people", "p", [Upsert("z", {}), Insert("a", {})])
    found = [(entry["action"], entry["resource"], entry["outcome"]) for entry in logged(folder)][1:]
    assert found == [
        ("tables.insert", "tables/people/p/a", "success"),
        ("tables.upsert", "tables/people/p/b", "success"),
        ("tables.delete", "tables/people/p/c", "success"),
        ("tables.upsert", "tables/people/p/z", "precondition-failed"),
        ("tables.insert", "tables/people/p/a", "precondition-failed"),
    ]


async def test_neither_values_nor_metadata_are_in_it(layer: AuditLayer, folder: Path) -> None:
    secret = "xyzzy"
    await layer.objects.put("a", secret.encode(), metadata={"note": secret}, content_type=f"text/{secret}")
    await layer.objects.get("a")
    await layer.objects.copy("a", "b")
    await layer.tables.insert("t1t", "p", "r", {"a": secret})
    await layer.tables.query("t1t", f"a eq '{secret}'")
    await layer.queues.create_queue("letters")
    await layer.send_message("letters", secret)
    (message,) = await layer.queues.receive("letters")
    await layer.queues.delete("letters", message)
    text = "".join(path.read_text() for path in folder.glob("*.jsonl"))
    assert text.count("\n") == 10
    assert secret not in text
    assert KEY not in text


async def test_a_stream_ends_its_entry(tmp_path: Path, folder: Path) -> None:
    layer = AuditLayer(
        FileStorageBackend(tmp_path / "data"), AuditOptions(path=str(folder), operations="all")
    )
    await layer.objects.put_stream("s", _stream_of(20_000_000))
    await _read(layer, "s", most=1)
    async with layer.objects.open_reader("s"):
        pass
    with pytest.raises(KeyNotFoundError):
        await _read(layer, "nothing")
    await layer.close()
    cut, unread, missing = logged(folder)[1:]
    assert (cut["outcome"], 0 < cut["size"] < 20_000_000) == ("not-read-to-the-end", True)
    assert (unread["outcome"], unread["size"]) == ("not-read-to-the-end", 0)
    assert (missing["outcome"], missing.get("size")) == ("key-not-found", None)


class Held(Layer):
    """Never ends a put."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.begun = asyncio.Event()

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if operation.name == "put":
            self.begun.set()
            await asyncio.Event().wait()
        return await call()


async def test_a_cancelled_operation_has_an_entry(folder: Path) -> None:
    held = Held(MemoryBackend())
    layer = AuditLayer(held, AuditOptions(path=str(folder)))
    putting = asyncio.create_task(layer.objects.put("a", b"123"))
    await held.begun.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await layer.close()
    (entry,) = logged(folder)
    assert (entry["action"], entry["outcome"], entry["size"]) == ("objects.put", "cancelled", 3)


async def test_only_writes_are_recorded_by_default(folder: Path) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder)))
    await layer.objects.put("a", b"1")
    await layer.objects.get("a")
    await layer.objects.list_page()
    await layer.objects.delete("a")
    await layer.close()
    assert [entry["action"] for entry in logged(folder)] == ["objects.put", "objects.delete"]


async def test_prefixes_and_exclusions(folder: Path) -> None:
    options = AuditOptions(
        path=str(folder),
        operations="all",
        prefixes=("objects/configs/", "queues/"),
        exclude=("objects/configs/public/",),
    )
    layer = AuditLayer(MemoryBackend(), options)
    for key in ("configs/a", "configs/public/b", "other/c"):
        await layer.objects.put(key, b"1")
    await layer.objects.copy("configs/a", "other/d")
    await layer.objects.copy("other/c", "other/e")
    for prefix in ("", "con", "configs/", "other/"):
        await layer.objects.list_page(prefix)
    await layer.tables.insert("people", "p", "r", {})
    await layer.queues.create_queue("letters")
    await layer.close()
    assert [(entry["action"], entry["resource"]) for entry in logged(folder)] == [
        ("objects.put", "objects/configs/a"),
        ("objects.copy", "objects/other/d"),
        ("objects.scan", "objects/"),
        ("objects.scan", "objects/con"),
        ("objects.scan", "objects/configs/"),
        ("queues.create_queue", "queues/letters"),
    ]


# -- a program's own entries


async def test_an_entry_of_ones_own(layer: AuditLayer, folder: Path) -> None:
    await audit_log(
        actor="system",
        action="storage_write",
        resource="storage/a",
        outcome="success",
        context={"storage_type": "memory", "data_size": 3, "timestamp": "2026-01-01T00:00:00"},
    )
    with acting_as("agent:ceo", "order-17"):
        await audit_log(action="approve", resource="orders/17")
    first, second = logged(folder)
    assert (first["actor"], first["context"]["data_size"]) == ("system", 3)
    assert (second["actor"], second["correlation"], second["outcome"]) == ("agent:ceo", "order-17", "success")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"action": ""}, "action"),
        ({"action": 1}, "action"),
        ({"resource": "x" * 1025}, "resource"),
        ({"actor": "\ud800"}, "actor"),
        ({"outcome": None}, "outcome"),
        ({"context": [1]}, "context"),
        ({"context": {"a": object()}}, "context"),
        ({"context": {"a": "x" * 17_000}}, "context"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_entry_that_cannot_be_is_refused(
    layer: AuditLayer, folder: Path, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises((InvalidArgumentError, ObjectTooLargeError)) as refused:
        await audit_log(**{"action": "a", "resource": "r", **arguments})
    assert refused.value.field == field
    assert logged(folder) == []


async def test_it_goes_to_the_newest_that_is_in_use(layer: AuditLayer, folder: Path, tmp_path: Path) -> None:
    newer = AuditLayer(MemoryBackend(), AuditOptions(path=str(tmp_path / "newer")))
    await audit_log(action="one", resource="r")
    await newer.close()
    await audit_log(action="two", resource="r")
    await newer.open()
    await audit_log(action="three", resource="r")
    await newer.close()
    assert [entry["action"] for entry in logged(tmp_path / "newer")] == ["one", "three"]
    assert [entry["action"] for entry in logged(folder)] == ["two"]


@pytest.mark.parametrize(
    "given",
    [("",), (1,), ("x" * 513,), ("\ud800",), ("a", ""), ("a", "\udfff")],
    ids=lambda given: ascii(given)[:20],
)
def test_a_caller_that_cannot_be_recorded_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidArgumentError) as refused, acting_as(*given):
        pass
    assert refused.value.field == ("actor" if len(given) == 1 else "correlation")


async def test_without_a_log_it_goes_to_the_logger(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    monkeypatch.delenv("AGENT_STORAGE_AUDIT", raising=False)
    await audit_log(action="approve", resource="orders/17")
    begin, entry = [json.loads(record.message) for record in caplog.records if record.name == "AOS.Audit"][
        -2:
    ]
    assert (entry["action"], entry["prev"]) == ("approve", begin["hash"])


# -- the logger


async def test_the_logger_gives_a_log_that_can_be_verified(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(sink="log", key=KEY))
    async with layer:
        for n in range(20):
            await layer.objects.put(f"k{n}", b"x")
    records = [record for record in caplog.records if record.name == "AOS.Audit"]
    assert {record.levelno for record in records} == {logging.INFO}
    assert all(abs(record.created - time.time()) < 60 for record in records)
    lines = [f"2026-11-25 INFO {record.getMessage()}" for record in records]
    assert len(lines) == 22, "a begin, the entries, and the head"
    path = tmp_path / "app.log"
    path.write_text("\n".join(["started", *lines, "ended"]))
    report = verify(path, key=KEY)
    assert (report.findings, report.entries, report.notes) == ([], 21, [])
    for tampered in ([*lines[:5], *lines[6:]], [*lines[:-3], lines[-1]], [*lines[:5], lines[5], *lines[5:]]):
        path.write_text("\n".join(tampered))
        assert not verify(path, key=KEY).ok
    path.write_text("\n".join(lines[:-1]))
    assert len(verify(path, key=KEY).notes) == 1, "without its head"


async def test_the_logger_is_used_again_after_close(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also if the process is killed then, and the second head is never written."""
    layer = AuditLayer(MemoryBackend(), AuditOptions(sink="log", key=KEY))
    await layer.objects.put("a", b"1")
    await layer.close()
    await layer.objects.put("b", b"1")
    path = tmp_path / "app.log"
    for unsealed_writers in (1, 0):
        path.write_text("\n".join(record.getMessage() for record in caplog.records))
        report = verify(path, key=KEY)
        assert (report.findings, report.entries, report.writers) == ([], 4, 2)
        assert len(report.notes) == unsealed_writers
        await layer.close()


async def test_records_have_what_the_programs_factory_gives_them(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()

    class Record(logging.LogRecord):
        team = "blue"

    logging.setLogRecordFactory(Record)
    try:
        layer = AuditLayer(MemoryBackend(), AuditOptions(sink="log"))
        await layer.objects.put("a", b"1")
    finally:
        logging.setLogRecordFactory(before)
    assert {getattr(record, "team", "") for record in caplog.records if record.name == "AOS.Audit"} == {
        "blue"
    }


async def test_a_forked_process_logs_a_chain_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    handler = logging.FileHandler(path)
    logging.getLogger("AOS.Audit").addHandler(handler)
    try:
        layer = AuditLayer(MemoryBackend(), AuditOptions(sink="log", key=KEY))
        await layer.objects.put("a", b"1")
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                doing = layer.objects.put("b", b"1")
                with contextlib.suppress(StopIteration):
                    doing.send(None)
            os._exit(0)
        async with asyncio.timeout(120):
            await asyncio.to_thread(os.waitpid, child, 0)
        await layer.objects.put("c", b"1")
    finally:
        logging.getLogger("AOS.Audit").removeHandler(handler)
        handler.close()
    report = verify(path, key=KEY)
    assert (report.findings, report.entries, report.writers) == ([], 5, 2)


async def test_a_logger_without_a_handler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("AOS.Audit"), "propagate", False)
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Handler()
    logging.getLogger("AOS.Storage").addHandler(handler)
    try:
        async with AuditLayer(MemoryBackend(), AuditOptions(sink="log")):
            pass
    finally:
        logging.getLogger("AOS.Storage").removeHandler(handler)
    assert len(told) == 1
    assert "has no handler" in told[0]


# -- files


async def test_files_are_the_owners_alone(layer: AuditLayer, folder: Path) -> None:
    await layer.objects.put("a", b"1")
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_new_file_begins_at_its_size_and_each_day(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 24 * 3600
    now = [100 * day + day - 2.0]
    monkeypatch.setattr(files.time, "time", lambda: now[0])
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), rotate_bytes=4096))
    await layer.objects.put("a", b"1")
    now[0] += 3
    await layer.objects.put("b", b"1")
    await layer.objects.put("c", b"1")
    assert [len(path.read_text().splitlines()) for path in sorted(folder.glob("*.jsonl"))] == [2, 3]
    for n in range(60):
        await layer.objects.put(f"k{n}", b"1")
    await layer.close()
    sizes = [path.stat().st_size for path in sorted(folder.glob("*.jsonl"))]
    assert len(sizes) >= 5
    assert max(sizes) < 4096 + 1000
    assert verify(folder).ok


async def test_each_entry_is_synced_before_the_operation_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        real(fd)

    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), sync_ms=0))
    await layer.objects.put("first", b"1")
    monkeypatch.setattr(files.os, "fsync", fsync)
    await asyncio.gather(*(layer.objects.put(f"k{n}", b"1") for n in range(20)))
    (path,) = folder.glob("*.jsonl")
    assert max(synced) == path.stat().st_size
    await layer.close()
    assert verify(folder).ok


async def test_entries_are_sealed_within_the_time(folder: Path) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), sync_ms=20))
    await layer.objects.put("a", b"1")
    async with asyncio.timeout(120):
        while verify(folder).unsealed:
            await asyncio.sleep(0.01)
    await layer.close()


async def test_a_log_goes_on_after_close(folder: Path) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder)))
    for n in range(3):
        async with layer:
            await layer.objects.put(f"k{n}", b"1")
        assert verify(folder).unsealed == 0
    assert [entry["resource"] for entry in logged(folder)] == [f"objects/k{n}" for n in range(3)]
    assert verify(folder).ok


def audit_threads() -> int:
    return sum(thread.name == "storage-audit" for thread in threading.enumerate())


async def test_a_layer_that_is_dropped_seals_and_keeps_nothing(folder: Path) -> None:
    before = audit_threads(), open_in(folder)
    layer: AuditLayer | None = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), sync_ms=60_000))
    await layer.objects.put("a", b"1")
    assert audit_threads() == before[0] + 1
    layer = None
    async with asyncio.timeout(120):
        while (audit_threads(), open_in(folder)) != before:
            gc.collect()
            await asyncio.sleep(0.01)
    assert verify(folder) == verify(folder)
    assert verify(folder).unsealed == 0


def test_several_event_loops_and_threads_share_one_chain(folder: Path) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), key=KEY))

    async def put(name: int) -> None:
        for n in range(50):
            await layer.objects.put(f"{name}/{n}", b"1")

    threads = [threading.Thread(target=lambda name=name: asyncio.run(put(name))) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    asyncio.run(layer.close())
    report = verify(folder, key=KEY)
    assert (report.findings, report.entries, report.writers) == ([], 201, 1)


def test_a_copy_is_another_writer(tmp_path: Path) -> None:
    options = AuditOptions(path=str(tmp_path / "log"), key=KEY)
    layer = AuditLayer(FileStorageBackend(tmp_path / "data"), options)
    other = pickle.loads(pickle.dumps(layer))  # noqa: S301 - of a moment ago
    assert other.options == layer.options

    async def put(each: AuditLayer) -> None:
        async with each:
            await each.objects.put("a", b"1")

    asyncio.run(put(layer))
    asyncio.run(put(other))
    report = verify(tmp_path / "log", key=KEY)
    assert (report.findings, report.entries, report.writers) == ([], 4, 2)


async def test_a_log_that_is_removed_begins_anew_and_shows_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), sync_ms=10))
    await layer.objects.put("a", b"1")
    (path,) = folder.glob("*.jsonl")
    path.unlink()
    async with asyncio.timeout(120):
        n = 0
        while not list(folder.glob("*.jsonl")):
            n += 1
            await layer.objects.put(f"k{n}", b"1")
            await asyncio.sleep(0.01)
    await layer.close()
    assert {finding.kind for finding in verify(folder).findings} == {"missing"}
    assert "was removed while it was written" in caplog.text


async def test_a_warning_where_files_vanish(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    AuditLayer(MemoryBackend(), AuditOptions(path=str(folder)))
    assert caplog.text == ""
    monkeypatch.setenv("WEBSITE_INSTANCE_ID", "i")
    AuditLayer(MemoryBackend(), AuditOptions(sink="table"))
    assert caplog.text == ""
    AuditLayer(MemoryBackend(), AuditOptions(path=str(folder)))
    assert "use the sink table" in caplog.text


# -- the table


@pytest.fixture
async def store(task_store: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageBackend]:
    kind, server = task_store
    if kind == "memory":
        yield MemoryBackend()
    elif kind == "file":
        async with FileStorageBackend(tmp_path / "data") as backend:
            yield backend
    else:
        name = f"a-{uuid.uuid4().hex}"
        async with AzureStorageBackend(server.connection_string, container=name) as backend:
            yield backend


class Kept(Layer):
    """Keeps the inner backend open."""

    async def close(self) -> None:
        return


async def test_entries_in_a_table(store: StorageBackend) -> None:
    table = f"audit{uuid.uuid4().hex[:8]}"
    counting = CountingLayer(
        AuditLayer(Kept(store), AuditOptions(sink="table", table=table, operations="all"))
    )
    with acting_as("agent:ceo", "order-17"):
        for n in range(120):
            await counting.objects.put(f"k{n}", b"123")
        with pytest.raises(KeyNotFoundError):
            await counting.objects.get("nothing")
    assert counting.counted == {"objects": 121}, "what the layer does itself is no caller's operation"
    await counting.close()
    found = [entity async for entity in store.tables.iterate(table, "outcome eq 'key-not-found'")]
    (entity,) = found
    assert entity.properties["actor"] == "agent:ceo"
    assert entity.properties["correlation"] == "order-17"
    assert entity.properties["resource"] == "objects/nothing"
    assert json.loads(entity.properties["entry"])["seq"] == int(entity.row_key) == 122
    entries = [json.loads(each.properties["entry"]) async for each in store.tables.iterate(table)]
    assert [entry["action"] for entry in entries[1:]] == ["objects.put"] * 120 + ["objects.get"]
    report = await verify_table(store, table)
    assert (report.findings, report.entries, report.unsealed) == ([], 122, 0)


async def test_entries_are_written_in_batches_and_within_the_time() -> None:
    inner = CountingLayer(MemoryBackend())
    layer = AuditLayer(inner, AuditOptions(sink="table", sync_ms=10))
    for n in range(350):
        await layer.objects.put(f"k{n}", b"1")
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(KeyNotFoundError):
                report = await verify_table(inner.inner)
                if (report.entries, report.unsealed) == (351, 0):
                    break
            await asyncio.sleep(0.01)
    assert inner.counted["tables"] < 40
    assert report.ok


@pytest.mark.parametrize("options", [{"sync_ms": 0}, {"on_failure": "refuse"}], ids=["sync", "refuse"])
async def test_an_entry_is_in_the_table_before_the_operation_returns(options: dict[str, Any]) -> None:
    inner = MemoryBackend()
    layer = AuditLayer(inner, AuditOptions(sink="table", **options))
    count = 0
    for n in range(3):
        await asyncio.gather(*(layer.objects.put(f"k{n}/{m}", b"1") for m in range(10)))
        count += 10 * (2 if options.get("on_failure") else 1)
        assert (await verify_table(inner)).entries == 1 + count
    await layer.close()


def test_each_event_loop_is_a_writer_of_the_table_and_leaves_nothing_behind() -> None:
    backend = MemoryBackend()
    layer = AuditLayer(backend, AuditOptions(sink="table", sync_ms=60_000))

    async def put(key: str) -> None:
        await layer.objects.put(key, b"1")  # and the loop ends

    for key in ("a", "b"):
        asyncio.run(put(key))
    report = asyncio.run(verify_table(backend))
    assert (report.findings, report.entries, report.writers, report.unsealed) == ([], 4, 2, 0)


async def test_a_store_without_tables_is_told(moto: Any) -> None:
    from storage_lib.backends.s3 import S3StorageBackend
    from storage_lib.errors import UnsupportedOperationError
    from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

    keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY, "region": REGION}
    name = f"audit-{uuid.uuid4().hex[:12]}"
    backend = S3StorageBackend(name, endpoint=moto.endpoint, create_bucket=True, **keys)
    layer = AuditLayer(backend, AuditOptions(sink="table"))
    try:
        with pytest.raises(UnsupportedOperationError, match="no tables"):
            await layer.open()
    finally:
        await layer.close()


# -- a sink that fails


class Failing(Layer):
    """A store whose tables fail while ``broken``; ``lost``: after they have done what was asked."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.broken = False
        self.lost = False

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        if operation.port != "tables":
            return await call()
        if self.broken:
            raise StorageUnavailableError("the table is gone")
        result = await call()
        if self.lost:
            raise StorageUnavailableError("the answer was lost")
        return result


async def test_a_file_sink_that_fails_leaves_a_gap(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.write_text("a file where the folder is to be")
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), key=KEY))
    for n in range(3):
        await layer.objects.put(f"k{n}", b"1")
    folder.unlink()
    await layer.objects.put("then", b"1")
    gap, entry = logged(folder)
    assert (gap["kind"], gap["context"]["count"], entry["resource"]) == ("gap", 3, "objects/then")
    assert gap["context"]["reason"].startswith(("NotADirectoryError", "FileExistsError"))
    await layer.close()
    report = verify(folder, key=KEY)
    assert (report.findings, report.gaps) == ([], 3)
    errors = [each for each in caplog.records if (each.name, each.levelname) == ("AOS.Storage", "ERROR")]
    assert len(errors) == 1, "an outage is told once"


async def test_a_gap_at_the_end_is_recorded(folder: Path) -> None:
    folder.write_text("a file where the folder is to be")
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder)))
    await layer.objects.put("a", b"1")
    folder.unlink()
    await layer.close()
    assert verify(folder).gaps == 1


async def test_a_file_sink_that_fails_refuses(folder: Path) -> None:
    backend = MemoryBackend()
    await backend.objects.put("there", b"secret")
    folder.write_text("a file where the folder is to be")
    options = AuditOptions(path=str(folder), operations="all", on_failure="refuse")
    layer = AuditLayer(backend, options)
    with pytest.raises(AuditUnavailableError):
        await layer.open()
    doings: list[Doing] = [
        lambda b: b.objects.put("a", b"1"),
        lambda b: b.objects.delete("there"),
        lambda b: b.objects.copy("there", "a"),
        lambda b: b.objects.put_stream("a", _stream_of(20_000_000)),
        lambda b: b.tables.insert("people", "p", "r", {}),
        lambda b: b.queues.create_queue("letters"),
        lambda b: b.objects.get("there"),
        lambda b: b.objects.head("there"),
        lambda b: _read(b, "there"),
        lambda b: b.objects.list_page(),
    ]
    for doing in doings:
        with pytest.raises(AuditUnavailableError):
            await doing(layer)
    assert await backend.objects.iterate() == [(await backend.objects.iterate())[0]]
    assert (await backend.objects.head("there")).size == 6
    with pytest.raises(KeyNotFoundError):
        await backend.tables.query("people")
    folder.unlink()
    await layer.objects.put("a", b"1")
    gap, intent, entry = logged(folder)
    assert (gap["kind"], gap["context"]["count"]) == ("gap", len(doings))
    assert (intent["kind"], intent["resource"], "outcome" in intent) == ("intent", "objects/a", False)
    assert (entry["outcome"], entry["intent"]) == ("success", intent["seq"])
    await layer.close()
    assert verify(folder).ok


@pytest.mark.parametrize("can_take_back", [True, False], ids=["taken-back", "torn"])
async def test_a_full_disk_leaves_no_half_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch, can_take_back: bool
) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), key=KEY, sync_ms=60_000))
    await layer.objects.put("before", b"1")
    real_write, real_truncate = os.write, os.ftruncate
    calls = 0

    def write(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            return real_write(fd, data[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    def truncate(fd: int, size: int) -> None:
        if not can_take_back:
            raise OSError(errno.EIO, "Input/output error")
        real_truncate(fd, size)

    monkeypatch.setattr(files.os, "write", write)
    monkeypatch.setattr(files.os, "ftruncate", truncate)
    await layer.objects.put("lost", b"1")
    monkeypatch.undo()
    await layer.objects.put("after", b"1")
    await layer.close()
    report = verify(folder, key=KEY)
    assert (report.findings, report.gaps) == ([], 1)
    names = [line["resource"] for path in sorted(folder.glob("*.jsonl")) for line in _whole(path)]
    assert names == ["objects/before", "objects/after"]


async def test_a_full_disk_leaves_no_half_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = AuditLayer(MemoryBackend(), AuditOptions(path=str(folder), key=KEY, sync_ms=60_000))
    await layer.objects.put("a", b"1")
    real_write, took = os.write, 0

    def write(fd: int, data: bytes) -> int:
        nonlocal took
        if took:
            raise OSError(errno.ENOSPC, "No space left on device")
        took += real_write(fd, data[:60])
        return took

    monkeypatch.setattr(files.os, "write", write)
    await layer.close()
    monkeypatch.undo()
    assert took == 60
    report = verify(folder, key=KEY)
    assert (report.findings, report.unsealed) == ([], 2)


def _whole(path: Path) -> list[dict[str, Any]]:
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [entry for entry in map(json.loads, lines) if "resource" in entry]


async def test_a_disk_that_cannot_sync_is_a_gap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = AuditOptions(path=str(folder), on_failure="refuse", sync_ms=0)
    backend = MemoryBackend()
    layer = AuditLayer(backend, options)
    await layer.objects.put("before", b"1")

    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(AuditUnavailableError):
        await layer.objects.put("lost", b"1")
    monkeypatch.undo()
    with pytest.raises(KeyNotFoundError):
        await backend.objects.head("lost")
    await layer.objects.put("after", b"1")
    await layer.close()
    report = verify(folder)
    assert (report.findings, report.gaps) == ([], 0)
    (gap,) = [entry for entry in logged(folder) if entry.get("kind") == "gap"]
    assert gap["context"]["unsure"] >= 1, "it is not known whether they are on the disk"


async def test_a_table_that_fails_for_a_while_loses_nothing() -> None:
    failing = Failing(MemoryBackend())
    layer = AuditLayer(failing, AuditOptions(sink="table", sync_ms=10, key=KEY))
    await layer.objects.put("before", b"1")
    failing.broken = True
    for n in range(20):
        await layer.objects.put(f"k{n}", b"1")
    failing.broken = False
    await layer.objects.put("after", b"1")
    await layer.close()
    report = await verify_table(failing.inner, key=KEY)
    assert (report.findings, report.entries, report.gaps) == ([], 23, 0)


async def test_a_batch_whose_answer_was_lost_is_no_tampering() -> None:
    failing = Failing(MemoryBackend())
    layer = AuditLayer(failing, AuditOptions(sink="table", sync_ms=0, key=KEY))
    await layer.objects.put("before", b"1")
    failing.lost = True
    await layer.objects.put("during", b"1")
    failing.lost = False
    await layer.objects.put("after", b"1")
    await layer.close()
    report = await verify_table(failing.inner, key=KEY)
    assert (report.findings, report.entries, report.unsealed) == ([], 4, 0)


async def test_a_table_that_fails_refuses(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(MemoryBackend())
    layer = AuditLayer(failing, AuditOptions(sink="table", on_failure="refuse", operations="all", key=KEY))
    await layer.objects.put("there", b"1")
    failing.broken = True
    with pytest.raises(AuditUnavailableError):
        await layer.objects.put("a", b"1")
    with pytest.raises(AuditUnavailableError):
        await layer.objects.get("there")
    with pytest.raises(KeyNotFoundError):
        await failing.inner.objects.head("a")
    failing.broken = False
    await layer.objects.put("b", b"1")
    await layer.close()
    report = await verify_table(failing.inner, key=KEY)
    assert (report.findings, report.unsealed) == ([], 0)
    entries = [json.loads(each.properties["entry"]) async for each in failing.inner.tables.iterate("audit")]
    (refused,) = [entry for entry in entries if entry.get("outcome") == "audit-unavailable"]
    (intent,) = [entry for entry in entries if entry["seq"] == refused["intent"]]
    assert (intent["kind"], intent["resource"]) == ("intent", "objects/a")


async def test_more_than_can_wait_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage_lib.layers.audit.tables.MAX_PENDING", 10)
    failing = Failing(MemoryBackend())
    layer = AuditLayer(failing, AuditOptions(sink="table", sync_ms=60_000))
    failing.broken = True
    for n in range(25):
        await layer.objects.put(f"k{n}", b"1")
    failing.broken = False
    await layer.close()
    report = await verify_table(failing.inner)
    assert (report.findings, report.entries, report.gaps) == ([], 11, 16)


async def test_what_is_lost_at_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    failing = Failing(MemoryBackend())
    layer = AuditLayer(failing, AuditOptions(sink="table"))
    await layer.objects.put("a", b"1")
    failing.broken = True
    await layer.close()
    assert "2 entries are lost" in caplog.text


# -- options

BAD: list[tuple[str, Any]] = [
    ("sink", "tape"),
    ("sink", None),
    ("path", ""),
    ("path", 5),
    ("heads", ""),
    ("table", ""),
    ("table", "a/b"),
    ("table", "x" * 201),
    ("key", "short"),
    ("key", b"short"),
    ("key", 5),
    ("operations", "some"),
    ("on_failure", "ignore"),
    ("sync_ms", -1),
    ("sync_ms", 60_001),
    ("sync_ms", 1.5),
    ("rotate_bytes", 100),
    ("rotate_daily", "yes"),
    ("prefixes", ["objects/"]),
    ("prefixes", ("configs/",)),
    ("exclude", (1,)),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{field}-{value!r:.20}" for field, value in BAD])
def test_options_that_cannot_work_are_refused(field: str, value: Any) -> None:
    with pytest.raises((ConfigurationError, ValueError)) as refused:
        AuditOptions(**{field: value})
    assert getattr(refused.value, "field", field) == field


def test_settings(tmp_path: Path) -> None:
    env = {
        "AGENT_STORAGE_TYPE": "file",
        "AGENT_STORAGE_AUDIT": "file",
        "AGENT_STORAGE_AUDIT_PATH": str(tmp_path),
        "AGENT_STORAGE_AUDIT_HEADS": str(tmp_path / "h"),
        "AGENT_STORAGE_AUDIT_KEY": KEY,
        "AGENT_STORAGE_AUDIT_OPERATIONS": "all",
        "AGENT_STORAGE_AUDIT_ON_FAILURE": "refuse",
        "AGENT_STORAGE_AUDIT_SYNC_MS": "0",
        "AGENT_STORAGE_AUDIT_TABLE": "log",
        "AGENT_STORAGE_AUDIT_PREFIXES": "objects/a/, queues/",
        "AGENT_STORAGE_AUDIT_EXCLUDE": "objects/a/b/",
        "AGENT_STORAGE_AUDIT_ROTATE_BYTES": "5000",
        "AGENT_STORAGE_AUDIT_ROTATE_DAILY": "false",
    }
    assert StorageConfig.from_env(env).audit == AuditOptions(
        sink="file",
        path=str(tmp_path),
        heads=str(tmp_path / "h"),
        key=KEY,
        operations="all",
        on_failure="refuse",
        sync_ms=0,
        table="log",
        prefixes=("objects/a/", "queues/"),
        exclude=("objects/a/b/",),
        rotate_bytes=5000,
        rotate_daily=False,
    )
    for sink in ("table", "log"):
        found = StorageConfig.from_env({"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_AUDIT": sink}).audit
        assert found == AuditOptions(sink=sink)  # type: ignore[arg-type]
    assert (
        StorageConfig.from_env({"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_AUDIT": "false"}).audit is None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "tape"),
        ("_KEY", "hush-hush"),
        ("_SYNC_MS", "soon"),
        ("_PREFIXES", "configs/"),
        ("_ON_FAILURE", "cry"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    env = {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_AUDIT": "log", f"AGENT_STORAGE_AUDIT{name}": value}
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig.from_env(env)
    assert refused.value.field == f"AGENT_STORAGE_AUDIT{name}"
    assert value not in str(refused.value) or name != "_KEY"


def test_the_key_is_never_shown() -> None:
    options = AuditOptions(key=KEY)
    config = StorageConfig(storage_type="memory", audit=options)
    layer = AuditLayer(MemoryBackend(), options)
    for shown in (repr(options), str(options), str(options.__rich_repr__()), repr(config), repr(layer)):
        assert KEY not in shown
    with pytest.raises(ConfigurationError) as refused:
        AuditOptions(key="hush-hush")
    assert "hush" not in refused.value.explained()


async def test_the_layer_is_switched_on_by_the_configuration(tmp_path: Path) -> None:
    options = AuditOptions(path=str(tmp_path / "log"))
    async with StorageManager(StorageConfig(base_path=tmp_path / "data", audit=options)) as storage:
        await storage.save("a", {"n": 1})
    (entry,) = logged(tmp_path / "log")
    assert (entry["actor"], entry["action"], entry["resource"]) == ("system", "objects.put", "objects/a")
    assert verify(tmp_path / "log").unsealed == 0
