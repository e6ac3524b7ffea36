"""A store that the version before wrote is carried over while it is in use.

tests/data/tasks_without_index.tar.gz is such a store: 42 tasks in all states, a family that has ended and one
that waits, large payloads, ids of other programs. The JSON file beside it says what the version that wrote it
said of them, newest first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import EntityPage
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import key_of
from storage_lib.tasks.legacy_records import FIRST, LAST, MARK
from storage_lib.tasks.model import TASK_QUEUE, TASK_TABLE, TaskStatus
from storage_lib.tasks.registry import task
from tests.conftest import PROJECT
from tests.counting import Requests

STORE = PROJECT / "tests" / "data" / "tasks_without_index.tar.gz"
SAID: dict[str, Any] = json.loads(STORE.with_suffix("").with_suffix(".json").read_text())
TASKS: list[dict[str, Any]] = SAID["tasks"]


class Clock:
    now: float = SAID["now"]

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    async def same(context: TaskContext, payload: Any) -> Any:
        return payload

    for name in ("note", "fails", "again", "hangs"):
        task(name)(same)

    @task("family")
    async def family(context: TaskContext, payload: int) -> None:
        for n in range(payload):
            await context.submit("note", n)

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def files(tmp_path: Path, clock: Clock) -> AsyncIterator[StorageManager]:
    with tarfile.open(STORE) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "system" / "locks").mkdir(exist_ok=True)
    async with StorageManager(backend=FileStorageBackend(tmp_path, clock=clock)) as storage:
        yield storage


@pytest.fixture
async def azure(files: StorageManager, azurite: Any) -> AsyncIterator[StorageManager]:
    """The same entities and objects; the table is shared with other tests, which do not run now."""
    backend = AzureStorageBackend(azurite.connection_string, container=f"carried-{uuid.uuid4().hex}")
    async with StorageManager(backend=backend) as storage:
        await emptied(storage)
        async for entity in files.backend.tables.iterate(TASK_TABLE):
            keys = entity.partition_key, entity.row_key
            await backend.tables.insert(TASK_TABLE, *keys, dict(entity.properties))
        async for found in files.backend.objects.iterate(".system/tasks/"):
            key = found if isinstance(found, str) else found.key
            stored = await files.backend.objects.get(key)
            assert stored is not None
            await backend.objects.put(key, stored.data)
        yield storage
        await emptied(storage)


async def emptied(storage: StorageManager) -> None:
    tables = storage.backend.tables
    with contextlib.suppress(KeyNotFoundError):
        async for entity in tables.iterate(TASK_TABLE):
            await tables.delete(TASK_TABLE, entity.partition_key, entity.row_key)
    with contextlib.suppress(KeyNotFoundError):
        await storage.backend.queues.clear(TASK_QUEUE)


@pytest.fixture(params=["files", "azure"])
def storage(request: pytest.FixtureRequest) -> StorageManager:
    return request.getfixturevalue(request.param)


@pytest.fixture
def engine(storage: StorageManager, clock: Clock) -> TaskEngine:
    return TaskEngine(storage, clock=clock)


async def listed(engine: TaskEngine, limit: int = 1000, **filters: Any) -> list[str]:
    found: list[str] = []
    page = await engine.list(limit=limit, **filters)
    while True:
        assert page.unreadable == []
        found += [record.task_id for record in page.records]
        if page.cursor is None:
            return found
        page = await engine.list(limit=limit, cursor=page.cursor, **filters)


def said(**wanted: Any) -> list[str]:
    return [each["task_id"] for each in TASKS if all(each[name] == wanted[name] for name in wanted)]


async def old_ones(engine: TaskEngine) -> int:
    rows = engine.storage.backend.tables.iterate(
        TASK_TABLE,
        "PartitionKey gt @first and PartitionKey lt @last",
        parameters={"first": FIRST, "last": LAST},
        select=[],
    )
    return len(await rows)


PARENTS = sorted({each["parent_id"] for each in TASKS if each["parent_id"]})
FILTERS: list[dict[str, Any]] = [
    *({"status": str(status)} for status in TaskStatus),
    *({"agent_id": agent} for agent in ("a", "b", "c", "other", "unknown", "nobody")),
    *({"action": action} for action in ("note", "family", "nothing")),
    *({"parent_id": parent} for parent in PARENTS),
    {"agent_id": "a", "status": "succeeded"},
    {"agent_id": "c", "action": "note", "status": "queued"},
]


async def test_lists_show_both_in_order_while_records_are_carried_over(
    engine: TaskEngine, request: pytest.FixtureRequest
) -> None:
    # Azurite takes long for each of many requests.
    fast = "azure" not in request.node.name
    some, at_once, limit = (FILTERS, 11, 5) if fast else (FILTERS[::6], 30, 25)
    every = [each["task_id"] for each in TASKS]
    assert every == sorted(every, key=key_of), "the order has stayed"
    middle = datetime.fromisoformat(TASKS[20]["created_at"])
    while True:
        assert await listed(engine) == every
        assert await listed(engine, limit) == every
        for filters in some:
            assert await listed(engine, **filters) == said(**filters), filters
        for name, holds in (("created_after", True), ("created_before", False)):
            found = await listed(engine, **{name: middle})
            of_then = [datetime.fromisoformat(each["created_at"]) >= middle for each in TASKS]
            assert found == [id_ for id_, later in zip(every, of_then, strict=True) if later is holds]
        if not await engine.records.older.step(at_once):
            break
    assert await old_ones(engine) == 0
    assert await check_index(engine.storage.backend.tables) == []
    await engine.storage.backend.tables.get(TASK_TABLE, *MARK)


async def test_each_record_is_had_by_its_id(engine: TaskEngine) -> None:
    for each in TASKS:
        record = await engine.get(each["task_id"])
        assert (record.status, record.agent_id, record.action) == (
            each["status"],
            each["agent_id"],
            each["action"],
        )
        assert (record.attempts, record.updated_at.isoformat()) == (each["attempts"], each["updated_at"])
        assert record.omitted == {}
    large = [record for each in TASKS if (record := await engine.get(each["task_id"])).payload_key]
    assert sorted(len(record.payload) for record in large) == [50_000, 100_000]
    assert await check_index(engine.storage.backend.tables) == []
    with pytest.raises(KeyNotFoundError):
        await engine.get("01a19f90-61d0-799e-8f39-da7af3b5a6bf")


async def test_open_tasks_run_on_while_records_are_carried_over(engine: TaskEngine, clock: Clock) -> None:
    """Their messages may have been lost, as on Azurite here: repair finds them as soon as they are carried
    over, which are the first."""
    others = TaskEngine(engine.storage, clock=clock)
    queues = engine.storage.backend.queues
    # What was due in a month is over by then, too.
    for _ in range(60):
        clock.now += 3 * 86_400
        await engine.records.older.step(3)
        await engine.redeliver()
        await others.take_over(older=True)
        with contextlib.suppress(KeyNotFoundError):
            for message in await queues.receive(TASK_QUEUE, max_messages=32):
                await others.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
                await queues.delete(TASK_QUEUE, message)
        if not await listed(engine, status="queued") and not await listed(engine, status="running"):
            break
    while await engine.records.older.step():
        pass
    for each in TASKS:
        record = await engine.get(each["task_id"])
        expected = "succeeded" if each["status"] in ("queued", "running") else each["status"]
        assert record.status == expected, (record, each)
        if record.action == "family":
            assert record.result["children"]["succeeded"] == 4
    assert await listed(engine) == [each["task_id"] for each in TASKS]
    assert await check_index(engine.storage.backend.tables) == []
    assert await old_ones(engine) == 0


async def test_the_old_ones_can_be_cancelled_requeued_and_removed(
    files: StorageManager, clock: Clock
) -> None:
    engine = TaskEngine(files, clock=clock)
    (failed, *_) = said(status="failed")
    assert (await engine.requeue(failed)).status is TaskStatus.QUEUED
    (waiting,) = said(status="running", action="family")
    assert (await engine.cancel(waiting)).status is TaskStatus.CANCELLED
    again = await engine.submit("note", "c", 0, idempotency_key="k0")
    assert again.task_id in said(agent_id="c")
    while await engine.carry_over(10):
        pass
    clock.now += 40 * 86_400
    before = datetime.fromtimestamp(clock.now, again.created_at.tzinfo) - timedelta(days=30)
    assert await engine.expire(before, 1000) != (0, 0)
    for _ in range(16):  # Spans are tidied in one partition at a time.
        await engine.expire(before, 1000)
    assert await check_index(files.backend.tables) == []
    for each in said(status="succeeded"):
        with pytest.raises(KeyNotFoundError):
            await engine.get(each)


class Cut(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("again_by_id", [False, True], ids=["by-another-step", "by-reads"])
@pytest.mark.parametrize("writes", range(0, 24, 3))
async def test_who_is_cut_off_loses_nothing(
    files: StorageManager, clock: Clock, writes: int, *, again_by_id: bool
) -> None:
    engine, tables = TaskEngine(files, clock=clock), files.backend.tables
    batch, done = tables.batch, 0

    async def cut(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        if done == writes:
            raise Cut
        done += 1
        return await batch(*arguments, **named)

    tables.batch = cut  # type: ignore[method-assign]
    with contextlib.suppress(Cut):
        while await engine.records.older.step(20):
            pass
    tables.batch = batch  # type: ignore[method-assign]
    await asyncio.sleep(0)
    after = TaskEngine(files, clock=clock)
    assert await listed(after, 7) == [each["task_id"] for each in TASKS]
    if again_by_id:
        for each in TASKS:
            assert (await after.get(each["task_id"])).status == each["status"]
    while await after.records.older.step():
        pass
    assert await listed(after) == [each["task_id"] for each in TASKS]
    assert await old_ones(after) == 0
    assert await check_index(tables) == []


async def test_several_carry_over_at_the_same_time(files: StorageManager, clock: Clock) -> None:
    engines = [TaskEngine(files, clock=clock) for _ in range(4)]

    async def carried(engine: TaskEngine) -> None:
        while await engine.records.older.step(10):
            await asyncio.sleep(0)

    async def read(engine: TaskEngine) -> None:
        for each in TASKS[::-1]:
            assert (await engine.get(each["task_id"])).status == each["status"]
            assert await listed(engine, status="succeeded") == said(status="succeeded")

    await asyncio.gather(*map(carried, engines[:3]), read(engines[3]))
    assert await listed(engines[0]) == [each["task_id"] for each in TASKS]
    assert await check_index(files.backend.tables) == []


async def test_a_failing_store_delays_it(files: StorageManager, clock: Clock) -> None:
    engine, tables = TaskEngine(files, clock=clock), files.backend.tables
    batch = tables.batch

    async def lost(*arguments: Any, **named: Any) -> Any:
        await batch(*arguments, **named)
        raise StorageUnavailableError("the response was lost")

    tables.batch = lost  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailableError):
        await engine.carry_over(1)
    tables.batch = batch  # type: ignore[method-assign]
    while await engine.carry_over(1):
        pass
    assert await listed(engine) == [each["task_id"] for each in TASKS]
    assert await check_index(tables) == []


async def test_a_new_store_is_not_searched_for_old_records(tmp_path: Path, clock: Clock) -> None:
    async with StorageManager(backend=FileStorageBackend(tmp_path, clock=clock)) as storage:
        engine = TaskEngine(storage, clock=clock)
        assert await listed(engine) == []
        await engine.submit("note", "a")
        other = TaskEngine(storage, clock=clock)
        assert len(await listed(other)) == 1
        for each in (engine, other):
            requests = Requests(storage.backend)
            for _ in range(3):
                with pytest.raises(KeyNotFoundError):
                    await each.get("missing")
            assert requests.total() == 3


async def test_a_host_of_the_version_before_that_ran_once_more_is_forgiven(
    files: StorageManager, clock: Clock
) -> None:
    """What it has written is found by the next start, although all had been carried over."""
    engine, tables = TaskEngine(files, clock=clock), files.backend.tables
    (late,) = [each async for each in tables.iterate(TASK_TABLE) if each.properties.get("action") == "hangs"]
    await tables.delete(TASK_TABLE, late.partition_key, late.row_key)
    while await engine.carry_over(1):
        pass
    await tables.insert(TASK_TABLE, late.partition_key, late.row_key, dict(late.properties))
    with pytest.raises(KeyNotFoundError):
        await engine.get(late.properties["task_id"])
    assert await TaskEngine(files, clock=clock).carry_over(1) == 1
    assert (await engine.get(late.properties["task_id"])).action == "hangs"
    assert await listed(engine) == [each["task_id"] for each in TASKS]


@pytest.mark.parametrize("asked", ["get", "exists"])
async def test_a_record_that_is_carried_over_while_it_is_read_is_found(
    files: StorageManager, clock: Clock, asked: str
) -> None:
    """It is not at its new place yet, and then no longer at its old one."""
    engine, other = TaskEngine(files, clock=clock), TaskEngine(files, clock=clock)
    tables, wanted = files.backend.tables, TASKS[-1]["task_id"]
    get, raced = tables.get, False

    async def while_others_work(table: str, *keys: str, **named: Any) -> Any:
        nonlocal raced
        found = await get(table, *keys, **{"default": None, **named})
        if not raced and key_of(wanted).endswith(keys[1]):
            raced = True
            while await other.records.older.step():
                pass
        if found is None and "default" not in named:
            raise KeyNotFoundError("it is not there")
        return found

    tables.get = while_others_work  # type: ignore[method-assign]
    if asked == "get":
        assert (await engine.get(wanted)).task_id == wanted
    else:  # as the expiry asks for the parents of what it may remove
        assert await engine.records._exists(wanted)  # pyright: ignore[reportPrivateUsage]
    assert raced


@pytest.mark.parametrize("limit", [1, 1000])
async def test_what_has_changed_since_it_was_carried_over_is_shown_as_it_is_now(
    files: StorageManager, clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Who was cut off has left it at its old place, too."""

    async def cut(*_: Any) -> None:
        raise Cut

    monkeypatch.setattr("storage_lib.tasks.legacy_records.delete_unchanged", cut)
    with contextlib.suppress(Cut):
        await TaskEngine(files, clock=clock).records.older.step()
    engine, every = TaskEngine(files, clock=clock), [each["task_id"] for each in TASKS]
    cancelled = said(status="queued")[0]
    await engine.cancel(cancelled)
    assert await listed(engine, limit, status="queued") == [
        each for each in said(status="queued") if each != cancelled
    ]
    assert await listed(engine, limit, status="cancelled") == [
        each for each in every if each in (cancelled, *said(status="cancelled"))
    ]
    assert await listed(engine, limit) == every
    shown = {record.task_id: str(record.status) for record in (await engine.list(limit=1000)).records}
    assert shown == {each["task_id"]: each["status"] for each in TASKS} | {cancelled: "cancelled"}
    monkeypatch.undo()
    while await engine.carry_over(1):
        pass
    assert (await engine.get(cancelled)).status is TaskStatus.CANCELLED
    assert await listed(engine) == every
    assert await check_index(files.backend.tables) == []


async def test_a_long_look_for_open_tasks_does_not_hold_up_the_others(
    files: StorageManager, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that looks through millions of records for a few answers with pages that are empty, each with a
    cursor for the next."""
    engine = TaskEngine(files, clock=clock)
    tables, looks = files.backend.tables, 0
    query = tables.query

    async def slow(table: str, filter: str | None = None, **named: Any) -> EntityPage:
        nonlocal looks
        if filter is not None and "event_due" in filter:
            looks += 1
            return EntityPage([], f"page-{looks}")
        return await query(table, filter, **named)

    monkeypatch.setattr(tables, "query", slow)
    assert await engine.records.older.step(10) == 10
    assert looks <= 4
    assert await engine.records.older.step(10) == 10
    monkeypatch.undo()
    engine = TaskEngine(files, clock=clock)
    while await engine.records.older.step(10):
        pass
    assert await old_ones(engine) == 0
    assert await check_index(files.backend.tables) == []
