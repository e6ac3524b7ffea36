"""Lists of task records: each filter, alone and with others, says what a look at every record says."""

from __future__ import annotations

import asyncio
from collections import Counter
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
from storage_lib.tasks import lists, searchable
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.layout import OPEN, SEARCHED, key_of, record_keys
from storage_lib.tasks.model import TASK_TABLE, TaskRecord, TaskStatus, child_task_id, new_task_id
from storage_lib.tasks.records import TaskRecords
from storage_lib.tasks.searchable import MARK
from tests.counting import Requests
from tests.effort import SOAK
from tests.test_task_records import SparseTables

START = datetime(2027, 1, 15, 12, tzinfo=UTC)
MINUTES = st.sampled_from([0, 0, 1, 60, 279, 280, 700, 60 * 24 * 3])
AGENTS, ACTIONS = ("a", "b", "ü/c"), ("note", "note_2", "other")
WORDS = ("a", "ü ~:/", "x" * 128)


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
        "correlation_id": draw(st.none() | st.sampled_from(WORDS)),
        "idempotency_key": draw(st.none() | st.sampled_from(WORDS)),
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
        correlation_id=given.get("correlation_id"),
        idempotency_key=given.get("idempotency_key"),
    )


def wanted(each: TaskRecord, filters: dict[str, Any]) -> bool:
    names = ("agent_id", "action", "correlation_id", "idempotency_key")
    statuses: Any = filters.get("status", tuple(TaskStatus))
    return (
        all(getattr(each, name) == filters[name] for name in names if name in filters)
        and each.status in ((statuses,) if isinstance(statuses, str) else statuses)
        and each.created_at >= filters.get("created_after", each.created_at)
        and each.created_at < filters.get("created_before", each.created_at + timedelta(1))
    )


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(list(TaskStatus))
        | st.sets(st.sampled_from(list(TaskStatus)), min_size=1).map(sorted),
        "correlation_id": st.sampled_from(WORDS),
        "idempotency_key": st.sampled_from(WORDS),
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
    @settings(max_examples=examples if SOAK else examples // 2, deadline=None)
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
            expected = [one for one in model if wanted(one, each)]
            assert await every(records, limit, each) == [one.task_id for one in expected], each
        if not isinstance(backend.tables.driver, SparseTables):  # It would take many pages.
            await counted(records, filters[0], [one for one in model if wanted(one, filters[0])])
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


async def counted(records: TaskRecords, filters: dict[str, Any], expected: list[TaskRecord]) -> None:
    """The counts are those of a list."""
    statuses: Any = filters.get("status", tuple(TaskStatus))
    statuses = (statuses,) if isinstance(statuses, str) else statuses
    real = {str(status): sum(one.status == status for one in expected) for status in statuses}
    found = await records.count(by="agent_id", **filters)
    assert (found.counts, found.at_least) == (real, []), filters
    assert found.groups is not None
    groups = {(name, status): n for name, group in found.groups.items() for status, n in group.items()}
    assert groups == Counter((one.agent_id, str(one.status)) for one in expected), filters
    few = await records.count(limit=2, **filters)
    for status, count in real.items():
        assert few.counts[status] <= count
        assert few.counts[status] == count or status in few.at_least, filters
        assert few.counts[status] >= min(count, 2) or status in few.at_least, filters


async def older(backend: Any) -> None:
    """Make a store that of a version without rows for searches."""
    async for row in backend.tables.iterate(TASK_TABLE):
        keys = row.partition_key, row.row_key
        if row.row_key.startswith(SEARCHED) or keys == MARK:
            await backend.tables.delete(TASK_TABLE, *keys)
        elif row.row_key.startswith(OPEN):
            kept = {name: row.properties[name] for name in row.properties if name not in SEARCHES}
            await backend.tables.update(TASK_TABLE, *keys, kept, mode="replace")


SEARCHES: Any = ("correlation_id", "idempotency_key")


async def filled(backend: Any, count: int) -> list[TaskRecord]:
    """Tasks in all states, of which some have what is searched for."""
    records, made = TaskRecords(backend), list[TaskRecord]()
    for n in range(count):
        base = {"kind": "own", "at": START - timedelta(seconds=n), "late": timedelta()}
        fields = {"agent_id": AGENTS[n % 3], "action": "note", "status": list(TaskStatus)[n % 6]}
        words = dict.fromkeys(SEARCHES, WORDS[n % 3] if n % 2 else None)
        made.append(await records.insert(record(n, base | fields | words)))
    return made


async def test_pages_without_records_do_not_stop_those_that_get_their_rows() -> None:
    with store("sparse") as backend:
        await filled(backend, 12)
        await older(backend)
        records = TaskRecords(backend)
        while await records.searchable.step(limit=1):
            pass
        assert await records.searchable.is_complete()
        assert await check_index(backend.tables) == []


async def test_who_makes_a_store_searchable_can_stop_after_each_page() -> None:
    """Also where hardly any record has something to be searched by."""
    backend = MemoryBackend()
    records = TaskRecords(backend)
    base = {"kind": "own", "late": timedelta(), "agent_id": "a", "action": "note", "status": "succeeded"}
    for n in range(200):
        await records.insert(record(n, base | {"at": START - timedelta(seconds=n)}))
    await older(backend)
    records = TaskRecords(backend)
    requests, steps, before = Requests(backend), 0, 0
    while await records.searchable.step(limit=10):
        # The mark is looked for, read and written, and between two records there may be many partitions.
        assert requests.total() - before <= 3 + 2 * 16
        steps, before = steps + 1, requests.total()
    assert steps >= 20
    assert await records.searchable.is_complete()


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_store_of_before_is_searched_and_gets_its_rows_while_it_is_used(kind: str) -> None:
    with store(kind) as backend:
        async with backend:
            made = await filled(backend, 48)
            await older(backend)
            for round_ in range(4):
                # Each round is a process that was started anew, and one that is cut off after a step.
                records = TaskRecords(backend)
                for word in WORDS[1:]:
                    for name in SEARCHES:
                        for status in (None, ["failed", "running"], ["succeeded", "dead"]):
                            filters = {name: word, **({"status": status} if status else {})}
                            expected = [one for one in made if wanted(one, filters)]
                            assert sorted(await every(records, 7, filters)) == sorted(
                                one.task_id for one in expected
                            )
                            if round_ in (0, 3):
                                await counted(records, filters, expected)
                assert await check_index(backend.tables) == []
                assert await records.searchable.is_complete() == (round_ == 3)
                if round_ == 0:
                    assert await records.searchable.step(limit=1)
                    # One that is changed meanwhile keeps what it became.
                    at = next(n for n, one in enumerate(made) if one.status is TaskStatus.RUNNING and n % 2)
                    made[at] = await records.change(
                        await records.get(made[at].task_id), status=TaskStatus.DEAD
                    )
                elif round_ == 1:
                    assert await records.searchable.step(limit=5)
                else:
                    while await records.searchable.step(limit=7):
                        pass
            # A new process reads the rows, and no records in vain.
            records = TaskRecords(backend)
            assert await records.searchable.step() == 0
            assert await records.searchable.is_complete()


async def test_a_record_that_changes_while_it_gets_its_rows_gets_those_that_it_needs_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = MemoryBackend()
    made = await filled(backend, 24)
    await older(backend)
    records = TaskRecords(backend)
    change = searchable.change_unchanged
    changed = [
        one for n, one in enumerate(made) if n % 2 and one.status in (TaskStatus.QUEUED, TaskStatus.DEAD)
    ]
    assert len(changed) > 2

    async def late(*arguments: Any) -> Any:
        for one in changed:
            current = await records.get(one.task_id)
            await records.change(current, status=TaskStatus.FAILED, updated_at=current.updated_at)
        changed.clear()
        return await change(*arguments)

    monkeypatch.setattr(searchable, "change_unchanged", late)
    while await records.searchable.step():
        pass
    assert await records.searchable.is_complete()
    assert await check_index(backend.tables) == []


@pytest.mark.parametrize("name", SEARCHES)
async def test_a_search_costs_what_it_finds(name: str) -> None:
    """Among a thousand others with another value, and among those without one."""
    backend = MemoryBackend()
    records = TaskRecords(backend)
    costs: list[tuple[int, int]] = []
    base = {"kind": "own", "late": timedelta(), "agent_id": "a", "action": "note"}
    at = iter(range(10_000))

    async def insert(word: str | None, count: int) -> None:
        for _ in range(count):
            n = next(at)
            status = list(TaskStatus)[n % 6]
            fields = {"at": START - timedelta(seconds=n), "status": status, name: word}
            await records.insert(record(n, base | fields))

    assert await records.searchable.is_complete()
    await insert("mine", 5)
    requests, read, query = Requests(backend), 0, backend.tables.driver.query

    async def counted(*arguments: Any) -> Any:
        nonlocal read
        page = await query(*arguments)
        read += len(page.entities)
        return page

    backend.tables.driver.query = counted  # type: ignore[method-assign]
    for more in (0, 500, 1000):
        await insert("other", more)
        await insert(None, more)
        requests.clear()
        read = 0
        filters: Any = {name: "mine"}
        assert len((await records.list(limit=100, **filters)).records) == 5
        assert sum((await records.count(**filters)).counts.values()) == 5
        costs.append((requests.total(), read))
    # The first also looks whether there are records of the layout before.
    assert costs[1] == costs[2]
    assert costs[1] <= costs[0]


async def test_a_count_reads_no_more_than_its_limit_whatever_there_is() -> None:
    backend = MemoryBackend()
    records = TaskRecords(backend)
    base = {"kind": "own", "late": timedelta(), "agent_id": "a", "action": "note"}
    for n in range(3000):
        fields = {"at": START - timedelta(seconds=n), "status": TaskStatus.SUCCEEDED}
        await records.insert(record(n, base | fields))
    read, query = 0, backend.tables.driver.query

    async def counted(*arguments: Any) -> Any:
        nonlocal read
        page = await query(*arguments)
        read += len(page.entities)
        return page

    backend.tables.driver.query = counted  # type: ignore[method-assign]
    for limit in (10, 100):
        read = 0
        found = await records.count(limit=limit)
        assert (found.counts["succeeded"], found.at_least) == (limit, ["succeeded"])
        assert read <= 16 * (limit + 1) + 100


CHANGES = [
    (None, "queued"),
    ("queued", "succeeded"),
    ("queued", "failed"),
    ("running", "dead"),
    ("failed", "queued"),
    ("cancelled", "queued"),
]


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"agent_id": "a"},
        {"action": "note"},
        {"correlation_id": "c"},
        {"status": ["queued", "running", "failed", "cancelled", "dead"]},
        {"status": ["succeeded"], "agent_id": "a"},
        {"status": ["succeeded", "dead"], "correlation_id": "c"},
    ],
    ids=str,
)
async def test_a_task_that_changes_while_tasks_are_counted_is_counted_as_it_was_or_as_it_is(
    filters: dict[str, Any],
) -> None:
    backend = MemoryBackend()
    records = TaskRecords(backend)
    await records.searchable.is_complete()
    query, at = backend.tables.query, 0

    async def changing(*arguments: Any, **options: Any) -> Any:
        nonlocal at
        if options["parameters"].get("partition") == where:
            if at == moment:
                if before is None:
                    await records.insert(subject)
                else:
                    found = await records.get(subject.task_id)
                    now = datetime.now(UTC)
                    await records.change(found, status=TaskStatus(after), updated_at=now)
            at += 1
        return await query(*arguments, **options)

    base = {"kind": "own", "late": timedelta(), "agent_id": "a", "action": "note", "correlation_id": "c"}
    others: Counter[str] = Counter()
    for n, status in enumerate(TaskStatus):
        await records.insert(record(n, base | {"at": START, "status": status}))
        others[status] += 1
    for before, after in CHANGES:
        moment, changed = 0, True
        while changed:
            subject = record(0, base | {"at": START, "status": TaskStatus(before or after)})
            where, _ = record_keys(subject.task_id)
            if before is not None:
                await records.insert(subject)
            backend.tables.query, at = changing, 0  # type: ignore[method-assign]
            found = await records.count(**filters)
            changed, moment = at > moment, moment + 1
            backend.tables.query = query  # type: ignore[method-assign]
            one = Counter(found.counts) - Counter({each: others[each] for each in found.counts})
            expected = [{each: 1} for each in (before, after) if each in found.counts]
            if before is None or len(expected) < 2:
                expected.append({})
            assert dict(one) in expected, (before, after, moment)
            if changed or before is not None:
                await records.remove(await records.get(subject.task_id), START)
        assert moment > 2


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
        *(("status", text) for text in ("", "ended", 5, [], ["failed", "ended"], [5], "failed,dead")),
        *(("correlation_id", text) for text in ("", "\x00", "x" * 129, "\ud800", 5)),
        *(("idempotency_key", text) for text in ("", "\x00", "x" * 256, "\ud800", 5)),
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


@pytest.mark.parametrize("own", [False, True], ids=["status", "searched"])
@pytest.mark.parametrize(("before", "after"), [("running", "failed"), ("failed", "queued")])
async def test_a_task_that_changes_while_it_is_listed_is_seen(before: str, after: str, own: bool) -> None:
    """Whichever of the requests of a list it is before which one changes that is wanted before and after."""
    filters: dict[str, Any] = {"status": ["queued", "running", "failed", "dead"]}
    filters |= {"correlation_id": WORDS[0]} if own else {}
    request, requests = 0, 1
    while request < requests:
        backend = MemoryBackend()
        records, made = TaskRecords(backend), list[TaskRecord]()
        assert await records.searchable.is_complete()
        for n in range(4):
            base = {"kind": "own", "at": START - timedelta(seconds=n), "late": timedelta()}
            fields = {"agent_id": "a", "action": "note", "status": before, "correlation_id": WORDS[0]}
            made.append(await records.insert(record(n, base | fields)))
        left, query = request, backend.tables.driver.query
        requests = 0

        async def moving(
            *arguments: Any, query: Any = query, records: Any = records, made: Any = made
        ) -> Any:
            nonlocal left, requests
            requests += 1
            if left == 0:
                for one in made:
                    await records.change(one, status=TaskStatus(after))
            left -= 1
            return await query(*arguments)

        backend.tables.driver.query = moving  # pyright: ignore[reportAttributeAccessIssue]
        assert await every(records, 3, filters) == [one.task_id for one in made], request
        request += 5  # Of the three rounds of sixteen partitions, each at several places.
    assert requests > 32


@pytest.mark.parametrize("own", [False, True], ids=["status", "searched"])
@pytest.mark.parametrize("stride", [1, 2, 7, 16, 17, 31])
async def test_a_task_that_goes_to_and_fro_while_it_is_listed_or_counted_is_seen(
    stride: int, own: bool
) -> None:
    """It exists throughout and is wanted at each moment, and slips from one row to another all the time."""
    filters: dict[str, Any] = {"status": ["queued", "running", "failed", "cancelled", "dead"]}
    filters |= {"correlation_id": WORDS[0]} if own else {}
    for first in range(0, 2 * stride, max(1, stride // 4)):
        backend = MemoryBackend()
        records, made = TaskRecords(backend), list[TaskRecord]()
        assert await records.searchable.is_complete()
        for n in range(5):
            base = {"kind": "foreign" if n == 4 else "own", "at": START - timedelta(seconds=n)}
            fields = {"agent_id": "a", "action": "note", "status": "failed", "correlation_id": WORDS[0]}
            made.append(await records.insert(record(n, base | fields | {"late": timedelta()})))
        expected = [one.task_id for one in made]
        query, requests = backend.tables.driver.query, 0

        async def moving(
            *arguments: Any, query: Any = query, records: Any = records, made: Any = made, first: int = first
        ) -> Any:
            nonlocal requests
            if requests >= first and (requests - first) % stride == 0:
                for n, one in enumerate(made):
                    ends = TaskStatus.CANCELLED if requests % 3 else TaskStatus.FAILED
                    made[n] = await records.change(one, status=TaskStatus.QUEUED if one.is_final else ends)
            requests += 1
            return await query(*arguments)

        backend.tables.driver.query = moving  # pyright: ignore[reportAttributeAccessIssue]
        assert await every(records, 2, filters) == expected, first
        requests = 0
        assert sum((await records.count(**filters)).counts.values()) == len(made), first
        backend.tables.driver.query = query  # pyright: ignore[reportAttributeAccessIssue]
        assert await check_index(backend.tables) == []
