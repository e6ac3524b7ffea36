"""A backup of a whole store has its tables, and the messages of queues that are named; `check` agrees."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.archive import RestoreReport, restore, verify
from storage_lib.backends.memory import MemoryBackend
from storage_lib.entity_json import is_same, read, written
from storage_lib.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from storage_lib.migration import MigrationOptions, check
from storage_lib.names import table_name
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.errors import missing_queue, missing_table
from storage_lib.ports.table_model import Insert
from storage_lib.testing.tables import PROPERTIES
from tests.archives import archive_of, memory, restored


@pytest.fixture(params=["memory", "file", "azurite"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    if request.param != "azurite":
        return StorageConfig(storage_type=request.param, base_path=str(tmp_path))
    text = request.getfixturevalue("azurite").connection_string
    return StorageConfig(storage_type="azure", connection_string=text, container=f"t-{os.urandom(6).hex()}")


@asynccontextmanager
async def opened(config: StorageConfig) -> AsyncGenerator[StorageManager]:
    async with StorageManager(config) as storage:
        yield storage


async def into(archive: bytes, storage: StorageManager, **options: Any) -> RestoreReport:
    return await restore(storage, io.BytesIO(archive), **options)


async def fill(storage: StorageManager, *tables: str) -> None:
    await storage.save("a", 1)
    for table in tables:
        await storage.backend.tables.insert(table, "eu", "r", PROPERTIES)
        for n in range(30):
            await storage.backend.tables.insert(table, f"p{n % 3}", f"r{n}", {"n": n})


async def test_tables_and_messages_come_back_in_a_store_of_another_kind(kind: StorageConfig) -> None:
    tail = os.urandom(4).hex()
    tables, queue = [f"People{tail}", f"agent_metrics_{tail}"], f"agent_letters_{tail}"
    async with opened(kind) as storage:
        await fill(storage, *tables)
        bodies = [f"m{n}".encode() for n in range(40)]
        for body in bodies:
            await storage.backend.queues.send(queue, body)
        await storage.backend.queues.send(queue, b"ends", ttl=600)
        archive, report = await archive_of(storage, tables=[f"*{tail}"], queues=[queue])
        assert (report.tables, report.entities, report.queues, report.messages) == (2, 62, 1, 41)
        assert report.ok
        # They are where they were.
        assert await storage.backend.queues.length(queue) == 41
        assert len(await storage.backend.queues.peek(queue, max_messages=32)) == 32
        found = await verify(io.BytesIO(archive))
        assert (found.ok, found.objects, found.entities, found.messages) == (True, 1, 62, 41)

        other, done = await restored(archive)
        assert (done.ok, done.restored, done.queues_left_out) == (True, 63, [queue])
        assert await other.list_tables() == sorted(tables)
        assert await other.list_queues() == []
        compared = await check(storage, other, MigrationOptions(tables=tables))
        assert (compared.equal, compared.same) == (True, 63)
        done = await into(archive, other, queues=[queue])
        assert (done.ok, done.restored, done.unchanged) == (True, 41, 63)
        messages = []
        while received := await other.backend.queues.receive(queue, max_messages=32):
            messages += received
        assert sorted(each.body or b"" for each in messages) == sorted([*bodies, b"ends"])
        assert [each.body for each in messages if each.expires_at.year < 9999] == [b"ends"]
        # And into what it came from: nothing is there twice.
        done = await into(archive, storage, queues=True)
        assert (done.restored, done.kept.reasons) == (0, {f"queue {queue}": "it has messages already"})
        assert await storage.backend.queues.length(queue) == 41


async def test_a_whole_store_has_all_tables_but_those_of_the_library() -> None:
    storage = memory()
    for table in ("tasks", "taskkeys", "audit", "auditheads", "people"):
        await storage.backend.tables.insert(table, "p", "r", {})
    await storage.save("a/x", 1)
    archive, report = await archive_of(storage)
    assert (report.tables, report.objects) == (1, 1)
    assert report.tables_left_out == ["audit", "auditheads", "taskkeys", "tasks"]
    other, _ = await restored(archive)
    assert await other.list_tables() == ["people"]
    assert (await check(storage, other)).equal
    assert (await archive_of(storage, prefix="a/"))[1].tables == 0
    assert (await archive_of(storage, tables=()))[1].tables == 0
    assert (await archive_of(storage, prefix="a/", tables=["p*"]))[1].tables == 1
    assert (await archive_of(storage, tables=["tasks"]))[1].tables == 1
    with pytest.raises(KeyNotFoundError):
        await archive_of(storage, tables=["nobody"])
    with pytest.raises(KeyNotFoundError):
        await archive_of(storage, queues=["nobody"])


async def test_a_store_without_tables_is_backed_up_without() -> None:
    class Objects(StorageBackend):
        tables = no_tables("this store")
        queues = no_queues("this store")

    bare = Objects()
    bare.objects = memory().backend.objects
    storage = StorageManager(backend=bare)
    await storage.save("a", 1)
    assert (await archive_of(storage))[1].ok
    for wanted in ({"tables": ["people"]}, {"queues": ["q"]}):
        with pytest.raises(UnsupportedOperationError):
            await archive_of(storage, **wanted)


async def test_a_table_whose_given_name_is_not_known_comes_back_under_the_same() -> None:
    storage = memory()
    stored = str(table_name("agent_metrics"))
    await storage.backend.tables.driver.create_table(stored)
    await storage.backend.tables.insert("agent_metrics", "p", "r", {"n": 1})
    archive, _ = await archive_of(storage)
    other, report = await restored(archive)
    assert report.ok
    assert (await other.backend.tables.get("agent_metrics", "p", "r")).properties == {"n": 1}
    assert (await into(archive, memory(), tables=["agent_metrics"])).restored == 1


async def test_hidden_messages_are_reported_and_queues_of_tasks_refused() -> None:
    storage = memory()
    await storage.backend.queues.send("letters", b"now")
    await storage.backend.queues.send("letters", b"later", delay=3600)
    await storage.backend.queues.send("agent-tasks", b"x")
    archive, report = await archive_of(storage, queues=["letters", "letters"])
    assert (report.messages, [*report.failed.reasons]) == (1, ["queue letters"])
    with pytest.raises(InvalidArgumentError):
        await archive_of(storage, queues=["agent-tasks"])
    assert (await restored(archive, queues=["letters"]))[1].restored == 1


async def test_messages_of_another_encoding_are_encoded_anew() -> None:
    storage, other = memory(), memory()
    other.backend.queues.message_encoding = "none"
    for body in (b"text", b"\xff\xfe"):
        await storage.backend.queues.send("letters", body)
    archive, _ = await archive_of(storage, queues=["letters"])
    report = await into(archive, other, queues=["letters"])
    assert (report.restored, report.failed.count) == (1, 1)
    assert [each.text for each in await other.backend.queues.peek("letters", max_messages=9)] == ["text"]
    report = await into(archive, memory(), queues=True, dry_run=True)
    assert report.restored == 2


async def test_a_backup_that_fails_gives_the_messages_back() -> None:
    storage = memory()
    for n in range(50):
        await storage.backend.queues.send("letters", f"{n}")
    receiving, calls = storage.backend.queues.driver.receive, 0

    async def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StorageUnavailableError("away")
        return await receiving(*args)

    storage.backend.queues.driver.receive = failing  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StorageUnavailableError):
        await archive_of(storage, queues=["letters"])
    assert len(await receiving("letters", 50, 1.0)) == 50


async def test_messages_that_come_again_are_in_the_archive_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were hidden for too short a time."""
    now = 1e9
    storage = StorageManager(backend=MemoryBackend(clock=lambda: now))
    for n in range(70):
        await storage.backend.queues.send("letters", f"{n}")
    receiving = storage.backend.queues.driver.receive

    async def slow(*args: Any) -> Any:
        nonlocal now
        now += 1
        return await receiving(args[0], args[1], 3.5)

    monkeypatch.setattr(storage.backend.queues.driver, "receive", slow)
    archive, report = await archive_of(storage, queues=["letters"])
    assert report.messages == 70
    _, done = await restored(archive, queues=True)
    assert done.restored == 70


@pytest.mark.parametrize("error", [None, AccessDeniedError("no")], ids=["deleted", "denied"])
async def test_a_table_or_queue_that_cannot_be_read_costs_no_other(error: StorageError | None) -> None:
    storage = memory()
    await fill(storage, "cars", "people")
    for queue in ("cards", "letters"):
        await storage.backend.queues.send(queue, queue)
    tables, queues = storage.backend.tables.driver, storage.backend.queues.driver
    querying, receiving = tables.query, queues.receive

    async def query(table: str, options: Any) -> Any:
        if table == "cars":
            raise error or missing_table(table)
        return await querying(table, options)

    async def receive(queue: str, *args: Any) -> Any:
        if queue == "cards":
            raise error or missing_queue(queue)
        return await receiving(queue, *args)

    tables.query, queues.receive = query, receive  # pyright: ignore[reportAttributeAccessIssue]
    archive, report = await archive_of(storage, queues=["cards", "letters"])
    told = report.deleted if error is None else report.failed
    assert set(told.reasons) == {"table cars", "queue cards"}
    assert report.ok is (error is None)
    assert (report.objects, report.tables, report.queues) == (1, 1, 1)
    other, restored_report = await restored(archive, queues=True)
    assert restored_report.restored == 1 + 31 + 1
    assert await other.list_tables() == ["people"]


async def test_a_table_or_queue_that_is_named_and_not_in_the_archive_has_failed() -> None:
    storage = memory()
    await fill(storage, "people")
    await storage.backend.queues.send("letters", "x")
    archive, _ = await archive_of(storage, queues=["letters"])
    other, report = await restored(archive, tables=["People", "agent_typo"], queues=["letters", "leters"])
    assert set(report.failed.reasons) == {"table agent_typo", "queue leters"}
    assert not report.ok
    assert report.restored == 1 + 31 + 1
    assert await other.list_queues() == ["letters"]
    assert (await restored(archive, tables=["people"], queues=["letters"]))[1].ok


async def test_numbers_that_json_does_not_have_are_in_an_archive_as_they_are() -> None:
    """Other programs can store them; no entity comes back without its property."""
    storage = memory()
    for name, number in (("a", float("nan")), ("b", float("inf")), ("c", float("-inf")), ("d", 1.5)):
        await storage.backend.tables.driver.write("people", "p", Insert(name, {"x": number}))
    other, report = await restored((await archive_of(storage))[0])
    assert report.restored == 1
    assert set(report.failed.reasons) == {f"table people, entity 'p' {name!r}" for name in "abc"}
    assert all("not a finite number" in why for why in report.failed.reasons.values())
    assert [each.properties for each in await other.backend.tables.iterate("people")] == [{"x": 1.5}]
    for number in (float("nan"), float("-inf")):
        assert is_same({"x": read(written(number))}, {"x": number})
