"""Lists of task records: each filter, alone and with others, says what a look at every record says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.tables import TableStore
from storage_lib.tasks import lists
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import key_of, record_keys
from storage_lib.tasks.model import TaskRecord, TaskStatus, child_task_id, new_task_id
from storage_lib.tasks.records import TaskRecords
from tests.counting import Requests
from tests.test_task_records import SparseTables

START = datetime(2027, 1, 15, 12, tzinfo=UTC)
MINUTES = st.sampled_from([0, 0, 1, 60, 279, 280, 700, 60 * 24 * 3])
AGENTS, ACTIONS = ("a", "b", "ü/c"), ("note", "note_2", "other")


@st.composite
def new(draw: st.DrawFn) -> dict[str, Any]:
    """A record: of a task of its own, of another program's, or of a child, which may be made late."""
    return {
        "kind": draw(st.sampled_from(["own", "foreign", "child"])),
        "at": START - timedelta(minutes=draw(MINUTES), milliseconds=draw(st.integers(0, 2000))),
        "late": timedelta(minutes=draw(MINUTES)),
        "agent_id": draw(st.sampled_from(AGENTS)),
        "action": draw(st.sampled_from(ACTIONS)),
        "status": draw(st.sampled_from(list(TaskStatus))),
        "then": draw(st.none() | st.sampled_from(list(TaskStatus))),
    }


PARENT = new_task_id(START.timestamp() - 7200)


def record(n: int, given: dict[str, Any]) -> TaskRecord:
    kind, at = given["kind"], given["at"]
    task_id = {
        "own": new_task_id(at.timestamp()),
        "foreign": f"of-another-{n}",
        "child": child_task_id(PARENT, at, n),
    }[kind]
    made = at if kind == "own" else at + given["late"]
    return TaskRecord(
        task_id,
        given["agent_id"],
        given["action"],
        given["status"],
        created_at=made,
        updated_at=made,
        parent_id=PARENT if kind == "child" else None,
        child_index=n if kind == "child" else None,
    )


def wanted(each: TaskRecord, filters: dict[str, Any]) -> bool:
    plain = {name: filters[name] for name in ("status", "agent_id", "action") if name in filters}
    return (
        all(getattr(each, name) == value for name, value in plain.items())
        and each.created_at >= filters.get("created_after", each.created_at)
        and each.created_at < filters.get("created_before", each.created_at + timedelta(1))
    )


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(list(TaskStatus)),
        "agent_id": st.sampled_from(AGENTS),
        "action": st.sampled_from(ACTIONS),
        "created_after": MINUTES.map(lambda minutes: START - timedelta(minutes=minutes)),
        "created_before": MINUTES.map(lambda minutes: START - timedelta(minutes=minutes)),
    },
)


async def every(records: TaskRecords, limit: int, filters: dict[str, Any]) -> list[str]:
    found: list[str] = []
    page = await records.list(limit=limit, **filters)
    while True:
        assert len(page.records) <= limit
        assert page.unreadable == []
        found += [each.task_id for each in page.records]
        if page.cursor is None:
            return found
        page = await records.list(limit=limit, cursor=page.cursor, **filters)


@contextmanager
def store(kind: str) -> Iterator[Any]:
    if kind == "file":
        with TemporaryDirectory() as folder:
            yield FileStorageBackend(Path(folder))
        return
    backend = MemoryBackend()
    if kind == "sparse":
        backend.tables = TableStore(SparseTables())
    yield backend


@pytest.mark.parametrize(("kind", "examples"), [("memory", 60), ("sparse", 12), ("file", 12)])
def test_lists_say_what_a_look_at_each_record_says(kind: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(
        st.lists(new(), max_size=25),
        st.lists(FILTERS, min_size=1, max_size=4),
        st.sampled_from([1, 2, 7, 100]),
    )
    def check(several: list[dict[str, Any]], filters: list[dict[str, Any]], limit: int) -> None:
        with store(kind) as backend:
            asyncio.run(compared(backend, several, filters, limit))

    check()


async def compared(
    backend: Any, several: list[dict[str, Any]], filters: list[dict[str, Any]], limit: int
) -> None:
    async with backend:
        records, model = TaskRecords(backend), list[TaskRecord]()
        for n, given_ in enumerate(several):
            made = await records.insert(record(n, given_))
            if given_["then"] is not None and made.status is not TaskStatus.SUCCEEDED:  # which stays so
                made = await records.change(made, status=given_["then"])
            model.append(made)
        model.sort(key=lambda each: key_of(each.task_id))
        assert await check_index(backend.tables) == []
        for each in ({}, *filters):
            expected = [one.task_id for one in model if wanted(one, each)]
            assert await every(records, limit, each) == expected, each
        children = [one for one in model if one.parent_id is not None]
        for child in children[:1]:
            # As if that were the time of the parent's record, which is gone.
            same = [
                one.task_id
                for one in children
                if key_of(one.task_id)[:13] == key_of(PARENT)[:13] and wanted(one, filters[0])
            ]
            assert child.parent_id is not None
            assert await every(records, limit, {**filters[0], "parent_id": child.parent_id}) == same


async def test_children_are_found_by_the_time_of_their_parent_s_record() -> None:
    records = TaskRecords(MemoryBackend())
    for parent_id in (PARENT, "of-another-program"):
        base = {"kind": "own", "at": START, "late": timedelta(), "agent_id": "a", "action": "note"}
        parent = replace(record(0, base | {"status": TaskStatus.RUNNING}), task_id=parent_id)
        await records.insert(parent)
        children = [
            replace(
                record(n, base | {"status": TaskStatus.QUEUED}),
                task_id=child_task_id(parent_id, START, n),
                parent_id=parent_id,
                child_index=n,
            )
            for n in range(40)
        ]
        for child in children:
            await records.insert(child)
        found = await every(records, 7, {"parent_id": parent_id})
        assert found == sorted((child.task_id for child in children), key=key_of)
        for child in children[::2]:
            await records.change(child, status=TaskStatus.DEAD) if child.etag else None
    assert await every(records, 7, {"parent_id": "nobody"}) == []
    assert await every(records, 7, {"parent_id": new_task_id()}) == []


@pytest.mark.parametrize("changed", [{"agent_id": "b"}, {"status": "failed"}, {"created_after": START}, {}])
async def test_a_cursor_is_of_its_filters(changed: dict[str, Any]) -> None:
    records = TaskRecords(MemoryBackend())
    for n in range(3):
        base = {"kind": "own", "at": START, "late": timedelta(), "agent_id": "a", "action": "note"}
        await records.insert(record(n, base | {"status": TaskStatus.QUEUED}))
    first = await records.list(limit=1, agent_id="a")
    assert first.cursor is not None
    with pytest.raises(InvalidArgumentError) as caught:
        await records.list(limit=1, cursor=first.cursor, **changed)
    assert caught.value.field == "cursor"


@pytest.mark.parametrize("limit", [0, 1001, True])
async def test_a_limit_out_of_range_is_refused(limit: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await TaskRecords(MemoryBackend()).list(limit=limit)
    assert caught.value.field == "limit"


NOBODY: list[dict[str, Any]] = [
    *({"status": str(status)} for status in TaskStatus if status is not TaskStatus.SUCCEEDED),
    {"agent_id": "nobody"},
    {"action": "nothing"},
    {"parent_id": "nobody"},
    {"parent_id": PARENT},
    {"created_after": START + timedelta(hours=1)},
    {"agent_id": "a", "status": "failed"},
    {"agent_id": "nobody", "status": "succeeded"},
    {"action": "nothing", "status": "succeeded"},
]
"""Filters that find none of the tasks that have succeeded."""


async def test_a_list_that_finds_nothing_reads_nothing_that_grows() -> None:
    """A query of each partition, and two more where a list looks for what was made late as well."""
    backend = MemoryBackend()
    records = TaskRecords(backend)
    base = {"kind": "own", "late": timedelta(), "agent_id": "a", "action": "note"}
    for n in range(3000):
        at = START - timedelta(seconds=n)
        await records.insert(record(n, base | {"at": at, "status": TaskStatus.SUCCEEDED}))
    assert (await records.list(limit=1)).records
    requests = Requests(backend)
    read = 0
    query = backend.tables.driver.query

    async def counted(*arguments: Any) -> Any:
        nonlocal read
        page = await query(*arguments)
        read += len(page.entities)
        return page

    backend.tables.driver.query = counted  # type: ignore[method-assign]
    for filters in NOBODY:
        requests.clear()
        assert (await records.list(limit=100, **filters)).records == []
        assert requests.total() <= 48, filters
        assert read == 0


NAIVE = START.replace(tzinfo=None)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("moment", [FIRST, datetime(1600, 1, 1, tzinfo=UTC), LAST - timedelta(hours=1), LAST])
@pytest.mark.parametrize("status", [None, "succeeded", "queued", "failed"])
async def test_the_first_and_the_last_moments_are_bounds(moment: datetime, status: str | None) -> None:
    records = TaskRecords(MemoryBackend())
    base = {"kind": "own", "at": START, "late": timedelta(), "agent_id": "a", "action": "note"}
    for n, each in enumerate(TaskStatus):
        await records.insert(record(n, base | {"status": each}))
    found = await every(records, 100, {} if status is None else {"status": status})
    assert len(found) == (len(TaskStatus) if status is None else 1)
    filters: dict[str, Any] = {} if status is None else {"status": status}
    late = moment > START
    assert await every(records, 100, {**filters, "created_before": moment}) == (found if late else [])
    assert await every(records, 100, {**filters, "created_after": moment}) == ([] if late else found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, at) for name in ("created_after", "created_before") for at in (NAIVE, 5)),
        *(("parent_id", text) for text in ("", "a/b", "x" * 2000, "\ud800", 5)),
        *(("agent_id", text) for text in ("", "\x00", "\ud800", 5)),
        *(("action", text) for text in ("", "a/b", "a:b", "\ud800", 5)),
        *(("status", text) for text in ("", "ended", 5)),
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("others", [{}, {"status": "failed"}, {"agent_id": "a"}], ids=str)
async def test_a_filter_that_no_task_can_meet_is_refused_by_its_name(
    name: str, value: Any, others: dict[str, Any]
) -> None:
    filters: Any = others | {name: value}
    with pytest.raises(InvalidArgumentError) as caught:
        await TaskRecords(MemoryBackend()).list(**filters)
    assert caught.value.field == name


def child(n: int, at: datetime, late: timedelta) -> TaskRecord:
    base = {"kind": "child", "agent_id": "a", "action": "note", "status": TaskStatus.SUCCEEDED}
    return record(n, base | {"at": at, "late": late})


@pytest.mark.parametrize("minutes", [(180, 1), (1, 180), (60, 5, 30)], ids=str)
async def test_a_clock_that_is_behind_hides_nothing_that_was_made_late(minutes: tuple[int, ...]) -> None:
    """Of one family some children are made by a host whose clock is hours behind."""
    backend = MemoryBackend()
    for n, late in enumerate(minutes):
        await TaskRecords(backend).insert(child(n, START, timedelta(minutes=late)))
    for late in minutes:
        for moment in (START + timedelta(minutes=late, seconds=offset) for offset in (-1, 0, 1)):
            found = await every(TaskRecords(backend), 100, {"created_after": moment})
            assert len(found) == sum(START + timedelta(minutes=each) >= moment for each in minutes)
    assert await check_index(backend.tables) == []


@pytest.mark.parametrize("hours", [0, 2, 4])
async def test_of_what_was_made_late_only_that_of_the_last_minutes_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Of 1,500 children of the last five hours."""
    now = START + timedelta(hours=hours)
    backend = MemoryBackend()
    records = TaskRecords(backend)
    placed: list[tuple[str, str]] = []
    for n in reversed(range(1500)):
        made = await records.insert(child(n % 100, now - timedelta(seconds=12 * n), timedelta(seconds=1)))
        placed.append(record_keys(made.task_id))
    looked_at: set[tuple[str, str]] = set()
    page_of = lists.page_of

    async def noted(tables: Any, partition: str, behind: str, end: str, *more: Any, **named: Any) -> Any:
        looked_at.update(keys for keys in placed if keys[0] == partition and behind < keys[1] < end)
        return await page_of(tables, partition, behind, end, *more, **named)

    monkeypatch.setattr(lists, "page_of", noted)
    wanted: list[dict[str, Any]] = [{}, {"action": "note"}, {"status": "succeeded"}]
    for filters in (*wanted, {"action": "note", "status": "succeeded"}):
        looked_at.clear()
        found = await every(records, 100, {**filters, "created_after": now})
        assert len(found) == 1
        assert len(looked_at) <= 100, filters
