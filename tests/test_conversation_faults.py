"""Conversations where answers are lost, processes are killed, and time passes; and what they cost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage_lib import FileStorageBackend, MemoryBackend, StorageManager
from storage_lib.access import Grant, confined
from storage_lib.conversations import Conversations
from storage_lib.errors import (
    ForbiddenError,
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    UnsupportedOperationError,
)
from storage_lib.layers.base import Operation, TableLayer
from storage_lib.ports.absent import no_tables
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.tables import TableStore
from tests.conftest import PROJECT

SOAK = os.environ.get("SOAK") == "1"
type Around = Callable[[Operation, Callable[[], Awaitable[Any]]], Awaitable[Any]]


def storage_of(around: Around | None = None, clock: Callable[[], float] = time.time) -> StorageManager:
    backend = MemoryBackend(clock=clock)
    if around is not None:
        backend.tables = TableStore(TableLayer(backend.tables.driver, around))  # type: ignore[arg-type]
    return StorageManager(backend=backend)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


# -- what it costs


class Counted:
    def __init__(self) -> None:
        self.calls = Counter[str]()

    async def __call__(self, operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls[operation.name] += 1
        return await call()

    def taken(self) -> dict[str, int]:
        taken, self.calls = dict(self.calls), Counter[str]()
        return taken


async def test_an_append_is_one_request_and_so_is_the_end_of_a_conversation() -> None:
    counted = Counted()
    storage = storage_of(counted)
    log = Conversations(storage)
    await log.append("c", [{"n": 0}], participants=["ceo"], topic="t")
    assert counted.taken() == {"get": 1, "batch": 4}  # Three facets, and the conversation.
    for n in range(1, 300):
        await log.append("c", [{"id": f"m{n}", "n": n}, {"n": n}], if_position=2 * n - 1)
    assert counted.taken() == {"batch": 299}
    assert len(await log.read("c", last=20)) == 20
    assert counted.taken() == {"query": 1}
    cold = Conversations(storage)
    await cold.append("c", [{"n": 1}])
    assert counted.taken() == {"get": 1, "batch": 1}
    assert len(await log.read("c", after=100, limit=10)) == 10
    assert counted.taken() == {"get": 1, "query": 1}
    await log.describe("c")
    assert counted.taken() == {"get": 1}
    assert (await log.append("c", [{"id": "m7", "n": 7}])).added == 0
    assert sum(counted.taken().values()) <= 6
    await log.page(participant="ceo")
    assert counted.taken() == {"query": 1, "get": 1}


async def test_the_last_append_sends_as_much_as_the_first() -> None:
    sizes: list[int] = []

    async def measured(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        if operation.name == "batch":
            sizes.append(len(repr(operation.arguments)))
        return await call()

    log = Conversations(storage_of(measured))
    await log.append("c", [])
    for n in range(1000):
        await log.append("c", [{"role": "user", "content": f"{n:05}"}])
    assert sizes[-1] <= 1.2 * sizes[2]


# -- lost answers


@pytest.mark.parametrize("seed", range(40 if SOAK else 8))
async def test_lost_answers_lose_and_double_nothing(seed: int) -> None:
    chance = random.Random(seed)

    async def unsure(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        if operation.name != "batch" or not operation.arguments[0].startswith("c:"):
            return await call()
        if chance.random() < 0.15:
            raise UnknownOutcomeError("lost before")
        done = await call()
        if chance.random() < 0.25:
            raise UnknownOutcomeError("lost after")
        return done

    storage = storage_of(unsure)
    logs = [Conversations(storage) for _ in range(3)]

    async def work(log: Conversations, by: int) -> None:
        for n in range(25):
            ids = [{"id": f"{by}.{n}"}, {}][n % 2]
            appended = await log.append("c", [{"by": by, "n": n, **ids}, {"by": by, "n": n + 0.5}])
            assert appended.positions[1] == appended.positions[0] + 1
            await asyncio.sleep(0)

    await asyncio.gather(*(work(log, by) for by, log in enumerate(logs)))
    entries = await logs[0].read("c")
    assert [each.position for each in entries] == list(range(1, 151))
    for by in range(3):
        wanted = [n / 2 for n in range(50)]
        assert [each.message["n"] for each in entries if each.message["by"] == by] == wanted
    popped = [(await logs[n % 3].pop("c")).position for n in range(50)]
    assert popped == list(range(150, 100, -1))
    assert (await logs[1].describe("c")).count == 100


@pytest.mark.parametrize("fails", ["stage", "end"])
@pytest.mark.parametrize("ids", [False, True])
async def test_who_loses_the_race_to_make_a_conversation_appends_to_it(fails: str, ids: bool) -> None:
    """The others were first, and what was sent last got no answer: it was not done."""
    clock, batches = Clock(), 0

    async def unsure(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        nonlocal batches
        if operation.name == "batch" and operation.arguments[0].startswith("c:"):
            batches += 1
            if batches == (1 if fails == "stage" else 3 if ids else 2):
                await other.append("c", [{"by": "other"}] * 150)
                raise UnknownOutcomeError("lost")
        return await call()

    storage = storage_of(clock=clock)
    other, plain = Conversations(storage), storage.backend.tables
    storage.backend.tables = TableStore(TableLayer(plain.driver, unsure))  # type: ignore[arg-type]
    log = Conversations(storage)
    messages = [{"n": n} | ({"id": f"m{n}"} if ids else {}) for n in range(110)]
    appended = await log.append("c", messages)
    assert appended.positions == tuple(range(151, 261))
    assert [each.message for each in await other.read("c", after=150)] == messages
    clock.now += 100_000
    await other.sweep()
    await other.clear("c")
    rows = [row async for row in plain.iterate("conversationlog") if row.partition_key == "c:c"]
    assert [row.row_key for row in rows] == ["head"]


async def test_what_a_killed_process_has_left_of_few_long_messages_is_removed() -> None:
    clock = Clock()

    async def dies(operation: Operation, call: Callable[[], Awaitable[Any]]) -> Any:
        if operation.name == "batch" and len(operation.arguments[1]) > 1 and died:
            raise asyncio.CancelledError
        if operation.name == "batch" and operation.arguments[0].startswith("c:"):
            died.append(True)
        return await call()

    died: list[bool] = []
    storage = storage_of(dies, clock=clock)
    with pytest.raises(asyncio.CancelledError):
        await Conversations(storage).append("c", [{"text": "x" * 200_000}] * 20)
    assert died
    died.clear()
    clock.now += 100_000
    await Conversations(storage).sweep()
    rows = [row async for row in storage.backend.tables.iterate("conversationlog")]
    assert [row.row_key for row in rows if row.partition_key.startswith("c:")] == []


# -- processes

APPENDS = """
import asyncio, sys
from storage_lib import StorageConfig, StorageManager
from storage_lib.conversations import Conversations
async def main(where, by, count):
    config = StorageConfig.from_env() if where == "env" else StorageConfig(base_path=where)
    async with StorageManager(config) as storage:
        log = Conversations(storage)
        for n in range(int(count)):
            await log.append("c", [{"id": f"{by}.{n}", "by": by, "n": n}])
            print(n, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


def appending(where: str, by: str, count: int, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", APPENDS, where, by, str(count)]
    return subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )


async def check_all(log: Conversations, by: str, count: int) -> None:
    entries = await log.read("c")
    assert [each.position for each in entries] == list(range(1, len(entries) + 1))
    for name in by:
        assert [each.message["n"] for each in entries if each.message["by"] == name] == list(range(count))


@pytest.mark.parametrize("count", [500 if SOAK else 60])
async def test_two_processes_lose_and_double_nothing(tmp_path: Path, count: int) -> None:
    running = [appending(str(tmp_path), by, count) for by in "ab"]
    for each in running:
        out, _ = await asyncio.to_thread(each.communicate, timeout=300)
        assert (each.returncode, len(out.split())) == (0, count)
    async with FileStorageBackend(tmp_path) as backend:
        await check_all(Conversations(StorageManager(backend=backend)), "ab", count)


@pytest.mark.parametrize("count", [500 if SOAK else 40])
async def test_two_processes_on_azure(azurite: Any, count: int) -> None:
    env = {
        "AGENT_STORAGE_TYPE": "azure",
        "AgentStorage": azurite.connection_string,
        "AGENT_STORAGE_CONTAINER": f"c{os.getpid()}",
        "AGENT_STORAGE_NAMESPACE": f"n{os.getpid()}",
    }
    running = [appending("env", by, count, **env) for by in "ab"]
    for each in running:
        out, _ = await asyncio.to_thread(each.communicate, timeout=500)
        assert (each.returncode, len(out.split())) == (0, count)
    from storage_lib import StorageConfig

    config = StorageConfig.from_env({**os.environ, **env})
    async with StorageManager(config) as storage:
        await check_all(Conversations(storage), "ab", count)


@pytest.mark.parametrize("after", [1, 3, 7, 20])
async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, after: int) -> None:
    """And the rest of the appends, made again, adds what was not."""
    process = appending(str(tmp_path), "a", 100_000)
    assert process.stdout is not None
    for _ in range(after):
        assert await asyncio.to_thread(process.stdout.readline)
    process.send_signal(signal.SIGKILL)
    rest = await asyncio.to_thread(process.stdout.read)
    process.wait()
    process.stdout.close()
    acknowledged = after + len(rest.split())
    async with FileStorageBackend(tmp_path) as backend:
        log = Conversations(StorageManager(backend=backend))
        there = len(await log.read("c"))
        assert there in (acknowledged, acknowledged + 1)
        again = await log.append("c", [{"id": f"a.{n}", "by": "a", "n": n} for n in range(there + 2)])
        assert again.added == 2
        await check_all(log, "a", there + 2)


# -- time


async def test_a_conversation_ends_so_long_after_its_last_append() -> None:
    clock = Clock()
    storage = storage_of(clock=clock)
    log = Conversations(storage, ttl=100)
    other = Conversations(storage)
    await log.append("c", [{"id": "a"}], participants=["ceo"])
    clock.now += 60
    await other.append("c", [{"id": "b"}])
    clock.now += 60
    assert len(await other.read("c", last=5)) == 2
    assert await log.sweep() == 1  # It is still alive, and looked at again later.
    assert (await log.describe("c")).count == 2
    clock.now += 60
    for handle in (log, other):
        for call in (handle.read("c"), handle.read("c", last=1), handle.describe("c"), handle.pop("c")):
            with pytest.raises(KeyNotFoundError):
                await call
        assert await handle.list(participant="ceo") == []
    appended = await other.append("c", [{"id": "a"}, {"id": "c"}], if_position=0)
    assert (appended.positions, appended.added) == ((1, 2), 2)
    assert (await other.describe("c")).expires_at is None
    await log.sweep()
    clock.now += 10_000
    await log.sweep()
    assert [each.id for each in await other.read("c")] == ["a", "c"]
    await other.delete("c")
    assert await _left(storage) == []


async def _left(storage: StorageManager) -> list[str]:
    tables = storage.backend.tables
    rows = [f"{row.partition_key} {row.row_key}" async for row in tables.iterate("conversationlog")]
    # Rows of the index may be those of a head that is on its way.
    rows = [each for each in rows if not each.startswith(("all:", "participant:", "topic:"))]
    objects = storage.backend.objects.iterate(".system/conversations/")
    return rows + [str(each) async for each in objects]


async def test_what_is_over_is_removed() -> None:
    clock = Clock()
    storage = storage_of(clock=clock)
    log = Conversations(storage, ttl=50)
    await log.append("a/c", [{"id": f"m{n}"} for n in range(150)], participants=["ceo"], topic="t")
    await log.append("a/c", [{"id": "large", "x": "y" * 1_500_000}])
    clock.now += 100
    assert await log.sweep() == 1
    assert await _left(storage) == []
    assert await log.list() == []
    clock.now += 10_000
    assert await log.list(participant="ceo", prefix="a/") == await log.list(topic="t") == []
    rows = [row async for row in storage.backend.tables.iterate("conversationlog")]
    assert rows == []


async def test_a_conversation_keeps_its_newest_messages() -> None:
    counted = Counted()
    log = Conversations(storage_of(counted), max_messages=10)
    for n in range(25):
        await log.append("c", [{"n": n}])
    found = await log.describe("c")
    assert (found.count, found.position, found.max_messages) == (10, 25, 10)
    assert [each.message["n"] for each in await log.read("c")] == list(range(15, 25))
    assert [each.message["n"] for each in await log.read("c", last=99)] == list(range(15, 25))
    assert [each.message["n"] for each in await log.read("c", after=2, limit=3)] == [15, 16, 17]
    await log.pop("c")
    await log.append("c", [{"n": 99}])
    assert [each.message["n"] for each in await log.read("c", limit=2)] == [15, 16]
    assert (await log.describe("c")).count == 10
    counted.taken()
    for n in range(400):
        await log.append("c", [{"n": n}])
    assert sum(counted.taken().values()) < 400 * 1.5
    assert [each.message["n"] for each in await log.read("c")] == list(range(390, 400))
    rows = [row async for row in log._store.tables.iterate("conversationlog") if row.row_key.startswith("m")]
    assert len(rows) < 150
    assert (await log.change("c", max_messages=None)).max_messages is None


async def test_a_conversation_keeps_messages_for_a_while() -> None:
    clock = Clock()
    storage = storage_of(clock=clock)
    log = Conversations(storage, max_age=100)
    for n in range(30):
        await log.append("c", [{"id": f"m{n}", "n": n}])
        clock.now += 10
    assert [each.message["n"] for each in await log.read("c")] == list(range(21, 30))
    assert [each.message["n"] for each in await log.read("c", last=20)] == list(range(21, 30))
    assert [each.message["n"] for each in await log.read("c", after=1, limit=2)] == [21, 22]
    assert (await log.describe("c")).count == 9
    assert await log.sweep() == 1
    rows = [row async for row in storage.backend.tables.iterate("conversationlog") if row.row_key[0] == "m"]
    assert len(rows) == 9
    clock.now += 1000
    assert (await log.read("c"), (await log.describe("c")).count) == ([], 0)
    assert (await log.append("c", [{"n": 1}])).position == 31


# -- what is left behind


async def test_what_died_halfway_is_never_seen_and_then_removed() -> None:
    """Every request in turn is the last one that a process makes."""
    for last in range(200):
        clock, done = Clock(), 0

        class Died(BaseException):
            pass

        async def dies(operation: Operation, call: Callable[[], Awaitable[Any]], last: int = last) -> Any:
            nonlocal done
            if done >= last:
                raise Died
            done += 1
            return await call()

        storage = storage_of(clock=clock)
        healthy = Conversations(storage)
        await healthy.append("source", [{"id": f"m{n}"} for n in range(120)], participants=["ceo"])
        plain = storage.backend.tables
        storage.backend.tables = TableStore(TableLayer(plain.driver, dies))  # type: ignore[arg-type]
        log = Conversations(storage)
        storage.backend.tables = plain
        try:
            await log.append("new", [{"id": f"m{n}"} for n in range(110)], participants=["ceo"], topic="t")
            await log.append("new", [{"id": "large", "x": "y" * 1_500_000}])
            await log.fork("source", "copy")
            await log.delete("copy")
        except Died:
            is_whole = False
        else:
            is_whole = True
        for name, counts in (("new", (110, 111)), ("copy", (120,))):
            if found := [each for each in await healthy.list() if each.id == name]:
                assert found[0].count in counts
                assert len(await healthy.read(name)) == found[0].count
            else:
                with pytest.raises(KeyNotFoundError):
                    await healthy.read(name)
        clock.now += 100_000
        await healthy.sweep()
        for each in await healthy.list():
            await healthy.delete(each.id)
        clock.now += 100_000
        await healthy.list()
        for facet in ("participant", "topic"):
            await healthy.list(**{facet: {"participant": "ceo", "topic": "t"}[facet]})  # type: ignore[arg-type]
        await healthy.sweep()
        rows = [row async for row in plain.iterate("conversationlog")]
        assert [(row.partition_key, row.row_key) for row in rows] == [], last
        assert [each async for each in storage.backend.objects.iterate(".system/conversations/")] == [], last
        if is_whole:
            break
    assert 20 < last < 199


async def test_a_lost_object_is_told(tmp_path: Path) -> None:
    storage = storage_of()
    log = Conversations(storage)
    await log.append("c", [{"n": 1}, {"x": "y" * 1_500_000}, {"n": 3}])
    async for each in storage.backend.objects.iterate(".system/conversations/"):
        await storage.backend.objects.delete(each.key)  # type: ignore[union-attr]
    with pytest.raises(IntegrityError) as told:
        await log.read("c")
    assert "position 2" in told.value.message
    assert told.value.remedy
    assert [each.message for each in await log.read("c", last=1)] == [{"n": 3}]
    await log.clear("c")
    assert await log.read("c") == []


# -- who may do what


async def test_a_caller_reaches_only_what_its_policy_allows() -> None:
    storage = storage_of()
    everything = Conversations(storage)
    for name in ("tenants/acme/a/1", "tenants/acme/b/1", "tenants/other/a/1"):
        await everything.append(name, [{"of": name}], participants=["ceo"])
    may = {"load": ["a"], "list": ["a"], "save": ["a/new"]}
    log = Conversations(confined(storage, Grant("key:acme", "tenants/acme/", may)))
    assert [each.id for each in await log.list()] == ["a/1"]
    assert [each.id for each in await log.list(participant="ceo")] == ["a/1"]
    assert [each.message for each in await log.read("a/1")] == [{"of": "tenants/acme/a/1"}]
    await log.append("a/new", [{"x": 1}])
    assert (await everything.describe("tenants/acme/a/new")).count == 1
    for call in (
        log.read("b/1"),
        log.append("a/1", [{}]),
        log.pop("a/1"),
        log.clear("a/1"),
        log.delete("a/1"),
        log.change("a/1", topic="x"),
        log.fork("a/1", "a/2"),
        log.fork("b/1", "a/new/2"),
        log.compact("a/1", lambda messages: {}, keep=0),
        log.read("tenants/other/a/1"),
        log.page(prefix="b/"),
    ):
        with pytest.raises(ForbiddenError):
            await call
    assert (await log.fork("a/1", "a/new/2")).id == "a/new/2"


async def test_pages_tell_nothing_of_what_is_hidden() -> None:
    storage = storage_of()
    everything = Conversations(storage)
    for n in range(30):
        await everything.append(f"{'mine' if n % 5 == 0 else 'hidden'}/{n}", [])
    log = Conversations(confined(storage, Grant("key:x", "", {"list": ["mine"], "load": ["mine"]})))
    first = await log.page(limit=3)
    second = await log.page(limit=3, cursor=first.cursor)
    assert [each.id for each in first.conversations] == ["mine/25", "mine/20", "mine/15"]
    assert [each.id for each in second.conversations] == ["mine/10", "mine/5", "mine/0"]
    assert second.cursor is None


async def test_a_storage_without_tables_says_so() -> None:
    backend = MemoryBackend()
    backend.tables = no_tables("s3")
    log = Conversations(StorageManager(backend=backend))
    for call in (log.append("c", [{}]), log.read("c", last=1), log.list(), log.sweep()):
        with pytest.raises(UnsupportedOperationError) as refused:
            await call
        assert refused.value.remedy


# -- against a model


class Model(RuleBasedStateMachine):
    """One conversation and two handles, against a list."""

    @initialize()
    def begin(self) -> None:
        self.storage = storage_of()
        self.logs = [Conversations(self.storage), Conversations(self.storage)]
        self.messages: list[tuple[int, dict[str, Any]]] = []
        self.position = 0
        self.exists = False

    def run[T](self, call: Awaitable[T]) -> T:
        async def made() -> T:
            return await call

        return asyncio.run(made())

    @property
    def ids(self) -> dict[str, int]:
        return {message["id"]: position for position, message in self.messages if "id" in message}

    @rule(
        which=st.integers(0, 1),
        ids=st.lists(st.one_of(st.none(), st.sampled_from("abcdef")), max_size=4),
        expected=st.sampled_from(("none", "right", "wrong")),
    )
    def append(self, which: int, ids: list[str | None], expected: str) -> None:
        own = [each for each in ids if each]
        if len(own) != len(set(own)):
            return
        messages: list[dict[str, Any]] = [{"x": 1} if each is None else {"id": each} for each in ids]
        given = {"none": None, "right": self.position, "wrong": self.position + 1}[expected]
        call = self.logs[which].append("c", messages, if_position=given)
        known = self.ids
        is_known = bool(ids) and all(each in known for each in ids)
        if expected == "wrong" and not (is_known and self.exists):
            with pytest.raises(PreconditionFailedError):
                self.run(call)
            return
        appended = self.run(call)
        positions: list[int] = []
        for each, message in zip(ids, messages, strict=True):
            if each in known:
                positions.append(known[each])
                continue
            self.position += 1
            positions.append(self.position)
            self.messages.append((self.position, message))
        self.exists = True
        assert (appended.positions, appended.position) == (tuple(positions), self.position)

    @rule(which=st.integers(0, 1))
    def pop(self, which: int) -> None:
        popped = self.run(self.logs[which].pop("c", default=None))
        wanted = self.messages.pop() if self.messages else None
        assert (None if popped is None else (popped.position, popped.message)) == wanted

    @rule(which=st.integers(0, 1))
    def clear(self, which: int) -> None:
        if self.exists:
            assert self.run(self.logs[which].clear("c")) == len(self.messages)
            self.messages = []

    @rule(which=st.integers(0, 1), keep=st.integers(0, 3))
    def compact(self, which: int, keep: int) -> None:
        if not self.exists:
            return
        done = self.run(self.logs[which].compact("c", lambda messages: {"of": len(messages)}, keep=keep))
        old = self.messages[: len(self.messages) - keep]
        if len(old) < 2:
            assert done is None
            return
        assert done is not None
        self.messages[: len(old)] = [(old[-1][0], {"of": len(old)})]

    @rule(which=st.integers(0, 1), until=st.integers(0, 20))
    def fork(self, which: int, until: int) -> None:
        if not self.exists or until > self.position:
            return
        log = self.logs[which]
        copy = self.run(log.fork("c", "copy", until=until))
        entries = self.run(log.read("copy"))
        assert [(each.position, each.message) for each in entries] == [
            each for each in self.messages if each[0] <= until
        ]
        assert copy.count == len(entries)
        self.run(log.delete("copy"))

    @rule(which=st.integers(0, 1))
    def delete(self, which: int) -> None:
        self.run(self.logs[which].delete("c", missing_ok=True))
        self.messages, self.position, self.exists = [], 0, False

    @rule(low=st.integers(0, 12), limit=st.integers(0, 5))
    def read(self, low: int, limit: int) -> None:
        if not self.exists:
            return
        some = self.run(self.logs[0].read("c", after=low, limit=limit))
        wanted = [each for each in self.messages if each[0] > low][:limit]
        assert [(each.position, each.message) for each in some] == wanted
        last = self.run(self.logs[1].read("c", last=limit))
        assert [(each.position, each.message) for each in last] == (self.messages[-limit:] if limit else [])

    @invariant()
    def is_as_the_model(self) -> None:
        if self.exists:
            found = self.run(self.logs[0].describe("c"))
            assert (found.position, found.count) == (self.position, len(self.messages))


Model.TestCase.settings = settings(
    max_examples=500 if SOAK else 40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestModel = Model.TestCase
