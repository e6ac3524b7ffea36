"""A migration copies tables entity by entity, and moves messages; `check` compares tables."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import AuditOptions
from storage_lib.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from storage_lib.migration import Migration, MigrationOptions, MigrationReport, check
from storage_lib.names import table_name
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import StorageBackend, Upsert
from storage_lib.ports.errors import missing_table
from storage_lib.reserved_names import AUDIT, owners_of_tables
from storage_lib.testing.tables import PROPERTIES


async def migrate(source: StorageManager, target: StorageManager, **options: Any) -> MigrationReport:
    return await Migration(source, target, MigrationOptions(**options)).run()


@asynccontextmanager
async def memory(**options: Any) -> AsyncGenerator[StorageManager]:
    async with StorageManager(StorageConfig(storage_type="memory", **options)) as storage:
        yield storage


@pytest.fixture
async def source() -> AsyncGenerator[StorageManager]:
    async with memory() as storage:
        yield storage


@pytest.fixture
async def target() -> AsyncGenerator[StorageManager]:
    async with memory() as storage:
        yield storage


@pytest.fixture(params=["memory-file", "file-azurite", "azurite-memory"])
def two_kinds(request: pytest.FixtureRequest, tmp_path: Path) -> list[StorageConfig]:
    """The configurations of two stores without objects."""
    found: list[StorageConfig] = []
    for kind in request.param.split("-"):
        if kind == "azurite":
            text = request.getfixturevalue("azurite").connection_string
            name = f"t-{os.urandom(6).hex()}"
            found.append(StorageConfig(storage_type="azure", connection_string=text, container=name))
        else:
            found.append(StorageConfig(storage_type=kind, base_path=str(tmp_path / kind)))
    return found


@asynccontextmanager
async def opened(configs: list[StorageConfig]) -> AsyncGenerator[tuple[StorageManager, StorageManager]]:
    async with StorageManager(configs[0]) as first, StorageManager(configs[1]) as second:
        yield first, second


def names_for_a_test() -> list[str]:
    """Of tables nobody else uses: Azurite's are shared."""
    tail = os.urandom(4).hex()
    return [f"People{tail}", f"agent_metrics_{tail}", f"none{tail}"]


async def fill(storage: StorageManager, people: str, metrics: str, empty: str) -> None:
    tables = storage.backend.tables
    await tables.create_table(empty)
    await tables.insert(people, "eu", "all types", PROPERTIES)
    await tables.insert(people, "", "", {})
    for n in range(230):
        await tables.upsert(metrics, f"p{n % 2}", f"r{n:03}", {"n": n})
    # Stores do not order these alike.
    for n, key in enumerate(("\ue000", "\U00010000", "\uffee", "ü")):
        await tables.insert(people, key, key, {"n": n})


async def test_tables_go_from_any_store_to_any(two_kinds: list[StorageConfig]) -> None:
    async with opened(two_kinds) as stores:
        await _tables_go_from_any_store_to_any(*stores)


async def _tables_go_from_any_store_to_any(source: StorageManager, target: StorageManager) -> None:
    names = names_for_a_test()
    await fill(source, *names)
    options: dict[str, Any] = {"tables": names, "concurrency": 8}
    planned = await migrate(source, target, dry_run=True, **options)
    assert (planned.tables, planned.entities_copied, planned.failures) == (3, 236, 0)
    assert not {*names} & {*await target.list_tables()}
    report = await migrate(source, target, verify=True, **options)
    assert (report.tables, report.entities_copied, report.failed) == (3, 236, [])
    assert {*names} <= {*await target.list_tables()}
    there = await target.backend.tables.get(names[0], "eu", "all types")
    assert there.properties == PROPERTIES
    found = await check(source, target, MigrationOptions(tables=names))
    assert (found.equal, found.same) == (True, 236)
    again = await migrate(source, target, **options)
    assert (again.entities_copied, again.entities_skipped, again.failed) == (0, 236, [])

    # What differs stays, unless it is to be updated.
    await target.backend.tables.upsert(names[0], "eu", "all types", {"small": 5.0}, mode="merge")
    await target.backend.tables.delete(names[1], "p0", "r000")
    await target.backend.tables.insert(names[1], "q", "extra", {})
    found = await check(source, target, MigrationOptions(tables=names))
    assert [(each.name, each.kind, each.fields) for each in found.differences] == [
        (f"table {names[0]}, entity 'eu' 'all types'", "differs", ("small",)),
        (f"table {names[1]}, entity 'p0' 'r000'", "only_in_first", ()),
        (f"table {names[1]}, entity 'q' 'extra'", "only_in_second", ()),
    ]
    report = await migrate(source, target, **options)
    assert (report.entities_copied, report.entities_updated, report.entities_skipped) == (1, 0, 234)
    assert [(each.name, each.code) for each in report.failed] == [
        (f"table {names[0]}, entity 'eu' 'all types'", "precondition-failed")
    ]
    planned = await migrate(source, target, update=True, delete=True, dry_run=True, **options)
    assert (planned.entities_updated, planned.entities_deleted) == (1, 1)
    report = await migrate(source, target, update=True, delete=True, verify=True, **options)
    assert (report.entities_updated, report.entities_deleted, report.failed) == (1, 1, [])
    assert (await check(source, target, MigrationOptions(tables=names))).equal


async def test_a_whole_store_is_copied_with_its_tables(
    source: StorageManager, target: StorageManager
) -> None:
    names = names_for_a_test()
    await fill(source, *names)
    await source.save("a", 1)
    for table in ("tasks", "taskkeys", "audit", "auditheads"):
        await source.backend.tables.insert(table, "p", "r", {})
    report = await migrate(source, target)
    assert (report.copied, report.tables, report.entities_copied, report.failed) == (1, 3, 236, [])
    assert report.tables_left_out == ["audit", "auditheads", "taskkeys", "tasks"]
    assert await target.list_tables() == sorted(names)
    found = await check(source, target)
    assert (found.equal, found.same) == (True, 237)
    assert (await migrate(source, target, tables=["audit"])).tables == 1
    assert (await migrate(source, target, tables=["*"])).tables == 3


async def test_what_belongs_to_the_library_in_other_namespaces_is_not_copied_either(
    target: StorageManager, tmp_path: Path
) -> None:
    """Without a namespace the tables of all are seen."""
    own = ["audit", "auditheads", "taskkeys", "tasks"]
    for namespace in ("dev", ""):
        config = StorageConfig(base_path=str(tmp_path), namespace=namespace)
        async with StorageManager(config) as source:
            for table in ("tasks", "taskkeys", "audit", "auditheads", "people", "agent_metrics"):
                await source.backend.tables.insert(table, "p", "r", {})
            await source.backend.queues.send("agent-tasks", "x")
            report = await migrate(source, target)
            assert report.failed == []
            if namespace:
                assert report.tables_left_out == own
                continue
            assert report.tables_left_out == sorted([*own, *(f"n03dev{table}" for table in own)])
            assert (report.tables, report.entities_copied, report.entities_skipped) == (4, 2, 2)
            with pytest.raises(InvalidArgumentError):
                await migrate(source, target, queues=["dev-agent-tasks"])


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ({}, 2),
        ({"prefix": "a/"}, 0),
        ({"include": ["x*"]}, 0),
        ({"until": "b"}, 0),
        ({"prefix": "a/", "tables": ["p*"]}, 1),
        ({"tables": ()}, 0),
        ({"tables": ["people", "people"]}, 1),
        ({"tables": ["[pq]*", "no*"]}, 1),
        ({"tables": ["PEOPLE"]}, 1),
        ({"objects": False}, 2),
    ],
    ids=str,
)
async def test_which_tables_are_meant(
    source: StorageManager, target: StorageManager, options: dict[str, Any], tables: int
) -> None:
    await source.save("a/x", 1)
    for name in ("people", "agent_metrics"):
        await source.backend.tables.insert(name, "p", "r", {})
    report = await migrate(source, target, **options)
    assert (report.tables, report.entities_copied, report.failed) == (tables, tables, [])
    assert report.copied == ("until" in options or (options.get("objects", True) and True))
    assert (await check(source, target, MigrationOptions(**options))).same == tables + report.copied


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        ({"tables": ["nobody"]}, KeyNotFoundError, "tables"),
        ({"tables": "people"}, InvalidArgumentError, "tables"),
        ({"tables": [""]}, InvalidArgumentError, "tables"),
        ({"tables": ["tasks"]}, InvalidArgumentError, "tables"),
        ({"queues": ["agent-tasks"]}, InvalidArgumentError, "queues"),
        ({"queues": ["nobody"]}, KeyNotFoundError, "queue"),
        ({"queues": [3]}, InvalidArgumentError, "queues"),
    ],
    ids=str,
)
async def test_what_cannot_be_copied_is_refused_before_anything_is(
    source: StorageManager, target: StorageManager, options: dict[str, Any], error: type, field: str
) -> None:
    await source.save("a", 1)
    await source.backend.tables.insert("tasks", "p", "r", {})
    await source.backend.queues.send("agent-tasks", "x")
    with pytest.raises(error) as refused:
        await migrate(source, target, **options)
    assert refused.value.field == field
    assert await target.list_keys() == []


async def test_the_same_tables_are_not_copied_onto_themselves(azurite: Any) -> None:
    """Containers are others, tables and queues are the account's."""
    config = StorageConfig(
        storage_type="azure", connection_string=azurite.connection_string, container="one-x"
    )
    async with StorageManager(config) as first, StorageManager(replace(config, container="two-x")) as second:
        name = names_for_a_test()[2]
        await first.backend.tables.insert(name, "p", "r", {})
        await first.backend.queues.send(name, "x")
        assert (await migrate(first, second)).tables == 0
        for options in ({"tables": [name]}, {"queues": [name]}):
            with pytest.raises(InvalidArgumentError, match="have the same"):
                await migrate(first, second, **options)
        assert await first.backend.queues.length(name) == 1


async def test_the_target_s_audit_log_is_no_part_of_a_mirror(source: StorageManager) -> None:
    await source.backend.tables.insert("log", "p", "r", {})
    async with memory(audit=AuditOptions(sink="table", table="log", sync_ms=0)) as target:
        await target.save("a", 1)
        report = await migrate(source, target, delete=True)
        assert report.failed == []
        before = len(await target.backend.tables.iterate("log"))
        assert before > 0
        await migrate(source, target, delete=True)
        assert len(await target.backend.tables.iterate("log")) >= before


async def test_a_target_without_tables_is_reported(source: StorageManager) -> None:
    class Objects(StorageBackend):
        tables = no_tables("this store")
        queues = no_queues("this store")

    async with memory() as other:
        bare = Objects()
        bare.objects = other.backend.objects
        target = StorageManager(backend=bare)
        await source.save("a", 1)
        await source.backend.queues.send("q", "x")
        assert (await migrate(source, target)).ok
        await source.backend.tables.insert("people", "p", "r", {})
        report = await migrate(source, target)
        assert [(each.name, each.code) for each in report.failed] == [
            ("table people", "unsupported-operation")
        ]
        assert (await migrate(source, target, tables=())).ok
        assert not (await check(source, target)).equal
        assert (await check(source, target, MigrationOptions(tables=()))).equal
        report = await migrate(source, target, tables=(), queues=["q"])
        assert [each.name for each in report.failed] == ["queue q"]
        assert await source.backend.queues.length("q") == 1
        # And as a source it simply has none.
        assert (await migrate(target, source)).ok
        with pytest.raises(UnsupportedOperationError):
            await migrate(target, source, tables=["people"])


async def test_a_run_that_was_cut_off_goes_on(source: StorageManager, target: StorageManager) -> None:
    for n in range(1000):
        await source.backend.tables.insert("t", f"p{n % 7}", f"{n:04}", {"n": n})
    writing, written = target.backend.tables.driver.batch, 0

    async def failing(table: str, pk: str, operations: list[Any]) -> Any:
        nonlocal written
        if written >= 300:
            raise StorageUnavailableError("away")
        written += len(operations)
        return await writing(table, pk, operations)

    target.backend.tables.driver.batch = failing  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StorageUnavailableError):
        await migrate(source, target, concurrency=1)
    target.backend.tables.driver.batch = writing  # pyright: ignore[reportAttributeAccessIssue]
    report = await migrate(source, target)
    assert (report.entities_copied, report.entities_skipped) == (1000 - written, written)
    assert (await check(source, target)).equal


async def test_what_the_target_refuses_is_named_and_the_others_are_copied(
    source: StorageManager, target: StorageManager
) -> None:
    for n in range(5):
        await source.backend.tables.insert("people", "p", f"r{n}", {"n": n})
    # As another program may have stored it on Azure.
    foreign = Upsert("r3", {"bad-name": 1})
    await source.backend.tables.driver.write("people", "p", foreign)
    report = await migrate(source, target)
    assert (report.entities_copied, report.failures) == (4, 1)
    assert [(each.name, each.code) for each in report.failed] == [
        ("table people, entity 'p' 'r3'", "invalid-argument")
    ]


async def test_what_changes_in_the_target_at_this_moment_is_not_overwritten(
    source: StorageManager, target: StorageManager
) -> None:
    await source.backend.tables.insert("people", "p", "r", {"n": 1})
    await target.backend.tables.insert("people", "p", "r", {"n": 0})
    getting, races = target.backend.tables.driver.get, 0

    async def racing(table: str, pk: str, rk: str) -> Any:
        nonlocal races
        found = await getting(table, pk, rk)
        races += 1
        await target.backend.tables.update(table, pk, rk, {"races": races}, mode="merge")
        return found

    target.backend.tables.driver.get = racing  # pyright: ignore[reportAttributeAccessIssue]
    report = await migrate(source, target, update=True)
    assert [each.code for each in report.failed] == ["precondition-failed"]
    assert (await getting("people", "p", "r")).properties == {"n": 0, "races": 3}


async def test_entities_in_another_order_are_read_back(two_kinds: list[StorageConfig]) -> None:
    """Rows of one batch whose order as UTF-16 is not that of their characters."""
    table = f"people{os.urandom(4).hex()}"
    rows = ["\ue000", "\uff01", "\U0001f600", "\U0010fffd", "a", "A", "'", "%41", "x y", "", "\u00e9"]
    async with opened(two_kinds) as (source, target):
        for row in rows:
            await source.backend.tables.insert(table, "o'q \U0001f600", row, PROPERTIES)
        report = await migrate(source, target, tables=[table], verify=True)
        assert (report.entities_copied, report.failed) == (len(rows), [])
        compared = await check(source, target, MigrationOptions(tables=[table]))
        assert (compared.equal, compared.same) == (True, len(rows))
        report = await migrate(source, target, tables=[table], verify=True, delete=True)
        assert (report.entities_skipped, report.entities_deleted, report.failed) == (len(rows), 0, [])


@pytest.mark.parametrize("after", [0, 1], ids=["before-it-is-copied", "before-it-is-mirrored"])
async def test_a_table_that_is_deleted_meanwhile_does_not_empty_that_of_the_target(
    source: StorageManager, target: StorageManager, after: int
) -> None:
    for storage in (source, target):
        for n in range(3):
            await storage.backend.tables.insert("people", "p", f"{n}", {"n": n})
    querying, calls = source.backend.tables.driver.query, 0

    async def query(table: str, options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise missing_table(table)
        return await querying(table, options)

    source.backend.tables.driver.query = query  # pyright: ignore[reportAttributeAccessIssue]
    report = await migrate(source, target, delete=True)
    assert [(each.name, each.code) for each in report.failed] == [("table people", "key-not-found")]
    assert report.entities_deleted == 0
    assert len(await target.backend.tables.iterate("people")) == 3


@pytest.mark.parametrize("table", ["log", "my_audit"])
async def test_the_tables_of_an_audit_log_are_known_by_any_of_their_names(table: str) -> None:
    """Also as stores call them, where an older version did not keep what they were given."""
    async with memory(audit=AuditOptions(sink="table", table=table, sync_ms=0)) as source:
        await source.save("a", 1)
        names = [table, f"{table}heads"]
        assert sorted(await source.list_tables()) == sorted(names)
        unknown = [f"={stored}" for name in names if (stored := table_name(name)) != name]
        stored = [table_name(name).lower() for name in names]
        found = owners_of_tables([*names, *unknown, *stored, "users"], source)
        assert found == dict.fromkeys([*names, *unknown, *stored], AUDIT)


# -- queues


async def test_messages_move_and_none_is_lost(two_kinds: list[StorageConfig]) -> None:
    async with opened(two_kinds) as stores:
        await _messages_move_and_none_is_lost(*stores)


async def _messages_move_and_none_is_lost(source: StorageManager, target: StorageManager) -> None:
    queue = f"work_{os.urandom(4).hex()}"
    bodies = [f"m{n}".encode() for n in range(70)]
    for body in bodies:
        await source.backend.queues.send(queue, body)
    await source.backend.queues.send(queue, b"ends", ttl=600)
    report = await migrate(source, target, tables=(), queues=[queue], dry_run=True)
    assert report.messages_moved == 71
    assert await source.backend.queues.length(queue) == 71
    told: list[tuple[str, str]] = []
    options = MigrationOptions(tables=(), queues=[queue])
    report = await Migration(
        source, target, options, on_object=lambda name, outcome: told.append((name, outcome))
    ).run()
    assert (report.messages_moved, report.failed) == (71, [])
    assert {outcome for _, outcome in told} == {"moved"}
    assert await source.backend.queues.length(queue) == 0
    found = []
    while received := await target.backend.queues.receive(queue, max_messages=32):
        found += received
    assert sorted(each.body or b"" for each in found) == sorted([*bodies, b"ends"])
    (ending,) = [each for each in found if each.body == b"ends"]
    assert 0 < (ending.expires_at - datetime.now(UTC)).total_seconds() <= 605
    assert (await migrate(source, target, tables=(), queues=[queue])).messages_moved == 0


async def test_hidden_messages_stay_and_are_reported(source: StorageManager, target: StorageManager) -> None:
    await source.backend.queues.send("q", b"now")
    await source.backend.queues.send("q", b"later", delay=3600)
    await source.backend.queues.create_queue("untouched")
    report = await migrate(source, target, queues=["q"])
    assert report.messages_moved == 1
    assert [(each.name, each.code) for each in report.failed] == [("queue q", "transient-storage-error")]
    assert await source.backend.queues.length("q") == 1
    assert await target.list_queues() == ["q"]


async def test_a_message_that_the_target_refuses_stays_and_is_visible(
    source: StorageManager, target: StorageManager
) -> None:
    target.backend.queues.message_encoding = "none"
    for body in (b"text", b"\xff\xfe", b"more"):
        await source.backend.queues.send("q", body)
    report = await migrate(source, target, queues=["q"])
    assert report.messages_moved == 2
    assert [each.code for each in report.failed] == ["invalid-argument"], report.failed
    assert report.failed[0].name.startswith("queue q, message ")
    (left,) = await source.backend.queues.peek("q", max_messages=32)
    assert left.body == b"\xff\xfe"
    assert {each.text for each in await target.backend.queues.peek("q", max_messages=32)} == {"text", "more"}


async def test_a_target_that_goes_away_loses_no_message(
    source: StorageManager, target: StorageManager
) -> None:
    for n in range(100):
        await source.backend.queues.send("q", f"{n}")
    sending, sent = target.backend.queues.driver.send, 0

    async def failing(*args: Any) -> str:
        nonlocal sent
        if sent == 40:
            raise StorageUnavailableError("away")
        sent += 1
        return await sending(*args)

    target.backend.queues.driver.send = failing  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(StorageUnavailableError):
        await migrate(source, target, queues=["q"])
    assert await source.backend.queues.length("q") == 60
    target.backend.queues.driver.send = sending  # pyright: ignore[reportAttributeAccessIssue]
    report = await migrate(source, target, queues=["q"])
    assert (report.messages_moved, report.failed) == (60, [])
    assert await target.backend.queues.length("q") == 100


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0], ids=["slow", "fast"])
async def test_clocks_that_differ_lose_no_message_and_leave_it_its_time(ahead: float) -> None:
    """Here the source's is behind ours, or ahead of it."""
    now = datetime.now(UTC).timestamp() + ahead
    source = StorageManager(backend=MemoryBackend(clock=lambda: now))
    target = StorageManager(backend=MemoryBackend())
    await source.backend.queues.send("q", b"ends", ttl=600)
    await source.backend.queues.send("q", b"stays")
    report = await migrate(source, target, queues=["q"])
    assert (report.messages_moved, report.failed) == (2, [])
    assert await source.backend.queues.length("q") == 0
    found = {each.body: each for each in await target.backend.queues.receive("q", max_messages=9)}
    assert 300 < (found[b"ends"].expires_at - datetime.now(UTC)).total_seconds() < 610
    assert found[b"stays"].expires_at.year == 9999


@pytest.mark.parametrize("side", ["target", "source"])
async def test_where_access_is_denied_the_queue_is_left_to_those_who_work_on_it(
    source: StorageManager, target: StorageManager, side: str
) -> None:
    """A target that takes none, and a source that gives none away."""
    for n in range(200):
        await source.backend.queues.send("q", f"{n}")

    async def denied(*_: Any) -> Any:
        raise AccessDeniedError("no")

    if side == "target":
        target.backend.queues.driver.send = denied  # pyright: ignore[reportAttributeAccessIssue]
    else:
        source.backend.queues.driver.delete = denied  # pyright: ignore[reportAttributeAccessIssue]
    report = await migrate(source, target, queues=["q"])
    assert [(each.name, each.code) for each in report.failed] == [("queue q", "access-denied")]
    assert report.messages_moved == 0
    assert await target.backend.queues.length("q") <= 32
    visible = 0
    while found := await source.backend.queues.receive("q", max_messages=32):
        visible += len(found)
    assert visible == 200
