"""The action `migrate`: shared out, only to stores that are allowed, and run again without harm."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import actions.migrate
from storage_lib import StorageManager
from storage_lib.backends.file.objects import FileObjects
from storage_lib.config import StorageConfig
from storage_lib.conversations import Conversations
from storage_lib.migration import check
from storage_lib.tasks.model import TaskRecord
from storage_lib.tasks.submission import NewTask
from tests.task_worker import Worker


async def ended(worker: Worker, payload: dict[str, Any]) -> tuple[TaskRecord, list[TaskRecord]]:
    """The record of a migration and of its children, after all of their messages were delivered twice."""
    new = NewTask(action="migrate", agent_id="ceo", payload=payload)
    (submitted,) = await worker.engine.submission.submit_many([new])
    assert isinstance(submitted, TaskRecord), submitted
    for _ in range(20):
        if not (texts := await worker.take()):
            break
        await worker.run(texts)
        await worker.run(texts)
    record = await worker.engine.records.get(submitted.task_id)
    return record, (await worker.engine.records.list(parent_id=submitted.task_id)).records


async def test_it_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions.migrate, "RANGE_KEYS", 10)
    url = f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", f"s3://other, {url}")
    worker = Worker()
    storage = worker.engine.storage
    for n in range(35):
        await storage.save(f"k/{n:02}", n, metadata={"n": str(n)})
    await storage.save_versioned("k/plan", 1)
    async with StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy:
        await copy.save("k/055", "not in the source")
        await copy.save("k/zz", "behind all")
        record, children = await ended(worker, {"target": url, "delete": True})
        assert record.status == "succeeded", record
        assert len(children) == 4
        assert sum(child.result["copied"] for child in children if child.result) == 37
        assert (await check(storage, copy)).equal


PART = 1024 * 1024


@pytest.mark.parametrize("resumes", [True, False])
async def test_what_takes_longer_is_gone_on_with(
    resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range may have more than a task can copy in its time, even an object; it fails if it gets nowhere."""
    monkeypatch.setattr(actions.migrate, "RANGE_SECONDS", 2.0)
    can = replace(FileObjects.capabilities, part_bytes=PART, resumes_streams=resumes)
    monkeypatch.setattr(FileObjects, "capabilities", can)
    source, target = f"file:{tmp_path}/source", f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", f"{source} {target}")
    worker = Worker()
    async with (
        StorageManager(StorageConfig(base_path=tmp_path / "source")) as storage,
        StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy,
    ):
        await storage.write_stream("k/large", [random.Random(1).randbytes(24 * PART + 17)])
        await storage.save_many({f"k/{n:02}": n for n in range(5)})
        payload = {"source": source, "target": target, "bytes_per_second": 5 * PART, "delete": True}
        record, _ = await ended(worker, payload)
        ranges = (await worker.engine.records.list(action="migrate_range")).records
        assert await copy.list_keys(prefix="k/0") == [f"k/{n:02}" for n in range(5)]
        if resumes:
            assert record.status == "succeeded", record
            assert 2 < len(ranges) < 25
            assert (await check(storage, copy, content=True)).equal
        else:
            assert record.status == "failed", record
            assert len(ranges) == 3
            told = [each.error.message for each in ranges if each.error]
            assert any("no object of the range was copied within" in text for text in told), told


async def test_keys_that_take_long_to_list_are_cut_by_another_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions.migrate, "RANGE_KEYS", 10)
    monkeypatch.setattr(actions.migrate, "RANGE_SECONDS", 0)
    url = f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", url)
    worker = Worker()
    plan = NewTask(action="migrate", agent_id="ceo", payload={"target": url, "until": "k/33"})
    await worker.engine.storage.save_many({f"k/{n:02}": n for n in range(35)})
    (submitted,) = await worker.engine.submission.submit_many([plan])
    assert isinstance(submitted, TaskRecord)
    await worker.run(await worker.take())
    monkeypatch.undo()
    monkeypatch.setattr(actions.migrate, "RANGE_KEYS", 10)
    monkeypatch.setenv("AGENT_MIGRATION_STORES", url)
    await worker.settle()
    assert (await worker.get(submitted.task_id)).status == "succeeded"
    plans = (await worker.engine.records.list(action="migrate")).records
    assert sorted(each.payload.get("after") or "" for each in plans) == ["", "k/09"]
    async with StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy:
        assert await copy.list_keys() == [f"k/{n:02}" for n in range(34)]


async def test_within_the_store_of_the_app() -> None:
    worker = Worker()
    await worker.engine.storage.save("a/1", 1)
    record, _ = await ended(worker, {"prefix": "a/", "target_prefix": "b/"})
    assert record.status == "succeeded"
    assert await worker.engine.storage.load("b/1") == 1


@pytest.mark.parametrize("name", ["source", "target"])
async def test_a_store_that_is_not_allowed_is_not_touched(name: str, tmp_path: Path) -> None:
    record, children = await ended(Worker(), {name: f"file:{tmp_path}/secret"})
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.code == "access-denied"
    assert not children
    assert not (tmp_path / "secret").exists()


async def test_what_fails_is_named() -> None:
    worker = Worker()
    await worker.engine.storage.save("a/1", 1)
    await worker.engine.storage.save("b/1", 2)
    record, (child,) = await ended(worker, {"prefix": "a/", "target_prefix": "b/"})
    assert record.status == "failed"
    assert child.error is not None
    assert child.error.code == "migration-failed"
    assert "a/1" in child.error.message


async def test_tables_have_tasks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions.migrate, "_MOST_TABLE_TASKS", 2)
    url = f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", url)
    worker = Worker()
    storage = worker.engine.storage
    await storage.save("a", 1)
    for table in ("people", "agent_metrics", "third"):
        for n in range(3):
            await storage.backend.tables.insert(table, "p", f"r{n}", {"n": n})
    async with StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy:
        await copy.backend.tables.insert("people", "p", "extra", {})
        record, children = await ended(worker, {"target": url, "delete": True})
        assert record.status == "succeeded", record
        assert record.result is not None
        assert record.result["result"] == {"ranges": 1, "tables": 3}
        assert sorted(child.action for child in children) == ["migrate_range", *["migrate_tables"] * 2]
        results = [child.result for child in children if child.result]
        sums = {name: sum(each[name] for each in results) for name in ("copied", "tables", "entities_copied")}
        assert sums == {"copied": 1, "tables": 3, "entities_copied": 9}
        # Those of the tasks are not copied, though all are asked for.
        assert await copy.list_tables() == ["agent_metrics", "people", "third"]
        found = await check(storage, copy)
        assert (found.equal, found.same) == (True, 10)

        # What differs fails, named, unless it is updated; a part of the tables or none may be meant.
        await copy.backend.tables.update("people", "p", "r1", {"n": 5})
        record, children = await ended(worker, {"target": url, "tables": ["peo*"]})
        assert record.status == "failed"
        (failed,) = [child for child in children if child.status == "failed"]
        assert failed.error is not None
        assert "table people, entity 'p' 'r1'" in failed.error.message
        record, children = await ended(worker, {"target": url, "tables": []})
        assert record.result is not None
        assert record.result["result"] == {"ranges": 1, "tables": 0}
        record, _ = await ended(worker, {"target": url, "tables": ["people"], "update": True})
        assert record.status == "succeeded"
        assert (await check(storage, copy)).equal
        record, _ = await ended(worker, {"target": url, "tables": ["tasks"]})
        assert record.status == "failed"
        assert record.error is not None
        assert "records of tasks" in record.error.message


async def test_a_table_that_takes_longer_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions.migrate, "RANGE_SECONDS", 2.0)
    url = f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", url)
    worker = Worker()
    storage = worker.engine.storage
    for n in range(40):
        await storage.backend.tables.insert("people", f"p{n}", "r", {"text": "x" * 1000})
    async with StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy:
        record, _ = await ended(worker, {"target": url, "bytes_per_second": 8_000})
        assert record.status == "succeeded", record
        parts = (await worker.engine.records.list(action="migrate_tables")).records
        assert 2 <= len(parts) < 40
        assert (await check(storage, copy)).same == 40


LARGE = {"role": "user", "content": "x" * 1_000_000}


@pytest.mark.parametrize("table", ["conversationlog", "chats"])
async def test_large_messages_of_conversations_go_along(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do without a task, whatever their table is called."""
    url = f"file:{tmp_path}/copy"
    monkeypatch.setenv("AGENT_MIGRATION_STORES", url)
    worker = Worker()
    storage = worker.engine.storage
    await storage.save("notes/a", 1)
    await storage.backend.tables.insert("people", "eu", "1", {"n": 1})
    await Conversations(storage, table=table).append("c/1", [{"n": 1}, LARGE])
    record, _ = await ended(worker, {"target": url})
    assert record.status == "succeeded", record
    async with StorageManager(StorageConfig(base_path=tmp_path / "copy")) as copy:
        found = await Conversations(copy, table=table).read("c/1")
        assert [each.message for each in found] == [{"n": 1}, LARGE]
        assert await copy.backend.get_entity("people", "eu", "1")
        assert (await check(storage, copy)).equal


async def test_large_messages_go_along_where_tables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, copy = Worker(), Worker()
    worker.backend.tables = copy.backend.tables
    places = {id(worker.backend): "one", id(copy.backend): "two"}
    monkeypatch.setattr(
        type(worker.backend),
        "place",
        lambda backend, port: "shared" if port == "tables" else places[id(backend)],
    )

    @asynccontextmanager
    async def stores(*_: object) -> AsyncGenerator[tuple[StorageManager, StorageManager]]:
        yield worker.engine.storage, copy.engine.storage

    monkeypatch.setattr(actions.migrate, "_stores", stores)
    await Conversations(worker.engine.storage).append("c/1", [LARGE])
    record, _ = await ended(worker, {"target": "copy"})
    assert record.status == "succeeded", record
    (found,) = await Conversations(copy.engine.storage).read("c/1")
    assert found.message == LARGE
