"""Tasks that are spread over several queues: how evenly, that each runs once, and what a change of their
number does."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from functions import maintenance, watch
from functions import state as state_module
from functions.gauges import Gauges
from functions.state import AppState
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.errors import ConfigurationError, InvalidArgumentError, KeyNotFoundError
from storage_lib.layers.namespace import NamespaceLayer
from storage_lib.manager import StorageManager
from storage_lib.metrics import Registry as Metrics
from storage_lib.reserved_names import TASKS, owner_of_queue
from storage_lib.resource_names import queues as declared
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import (
    EVENT_QUEUE,
    HIGH_QUEUE,
    TASK_QUEUE,
    Priority,
    TaskMessage,
    TaskRecord,
    child_task_id,
    derived_task_id,
)
from storage_lib.tasks.queues import MAX_QUEUES, NAMES, POISON, TaskQueues, queue_count
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from storage_lib.tasks.submission import NewTask
from tests.cli_runs import Cli
from tests.conftest import PROJECT
from tests.task_stores import opened
from tests.test_task_chaos import start, stored_on

STARTED = datetime(2026, 11, 30, tzinfo=UTC)
AT_ONCE = 32


@task("queues_note", retry=RetryPolicy(base_seconds=0.01))
async def note(context: TaskContext, payload: Any) -> Any:
    await context.update_once(f"effects/{context.task.task_id}", lambda n: n + 1, initial=0)
    return payload


@task("queues_flaky", retry=RetryPolicy(base_seconds=0.01, max_seconds=0.01))
async def flaky(context: TaskContext, payload: Any) -> None:
    await note(context, payload)
    if context.task.attempts < 3:
        raise RetryTaskError("not yet")


@task("queues_fan", retry=RetryPolicy(base_seconds=0.01))
async def fan(context: TaskContext, payload: int) -> None:
    for n in range(payload):
        await context.submit("queues_note", n)


@pytest.fixture
async def storage(task_store: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with opened(task_store, tmp_path) as storage:
        yield storage


@pytest.fixture
def many(task_store: tuple[str, Any]) -> int:
    """As many tasks as take little time."""
    return 6 if task_store[0] == "azure" else 24


class Host:
    """Delivers messages as a host does whose functions are those of the engine's queues."""

    def __init__(self, engine: TaskEngine) -> None:
        self.engine = engine
        self.seen: dict[str, set[str]] = {}
        """The texts from each queue."""

    async def look(self) -> int:
        """Handle what is visible in each queue, and return how much it was."""
        return sum(await asyncio.gather(*map(self._look, self.engine.queues.every)))

    async def _look(self, queue: str) -> int:
        queues = self.engine.storage.backend.queues
        try:
            found = await queues.receive(queue, max_messages=AT_ONCE)
        except KeyNotFoundError:
            return 0
        self.seen.setdefault(queue, set()).update(message.text for message in found)

        async def one(message: Any) -> None:
            if queue.endswith(POISON):
                await self.engine.deliver_poison(
                    message.text,
                    queue=queue.removesuffix(POISON),
                    message_id=message.id,
                    inserted_at=message.inserted_at,
                    dequeue_count=message.dequeue_count,
                )
            else:
                await self.engine.deliver(message.text, queue=queue, dequeue_count=message.dequeue_count)
            await queues.delete(queue, message)

        await asyncio.gather(*map(one, found))
        return len(found)


async def served(*hosts: Host, until: Callable[[], Any], drains: bool = False) -> None:
    """Look with each host until it holds."""
    async with asyncio.timeout(600):
        while not await until():
            if drains:
                await asyncio.gather(*(host.engine.drain(5) for host in hosts))
            if not sum(await asyncio.gather(*(host.look() for host in hosts))):
                await asyncio.sleep(0.01)


async def submitted(engine: TaskEngine, count: int, **fields: Any) -> list[TaskRecord]:
    new = [NewTask(action="queues_note", agent_id="a", payload=n, **fields) for n in range(count)]
    found = await engine.submit_many(new)
    return [each for each in found if isinstance(each, TaskRecord)]


def ended(engine: TaskEngine, records: list[TaskRecord]) -> Callable[[], Any]:
    async def every() -> bool:
        return all([(await engine.get(each.task_id, contents=False)).is_final for each in records])

    return every


async def check(engine: TaskEngine, records: list[TaskRecord], attempts: int = 1) -> None:
    """Each has succeeded, and its effect is there once."""
    for each in records:
        found = await engine.get(each.task_id)
        assert found.status == "succeeded", (found.error, found.history)
        assert found.attempts == attempts, found.history
        assert await engine.storage.load(f"effects/{each.task_id}") == 1


async def lengths(storage: StorageManager) -> dict[str, int]:
    queues = storage.backend.queues
    names = [name async for name in queues.list_queues(TASK_QUEUE)]
    return {name: length for name in names if (length := await queues.length(name))}


# -- names and the setting


def test_one_queue_has_the_names_that_it_always_had() -> None:
    assert TaskQueues().every == (
        "agent-tasks",
        "agent-tasks-poison",
        "agent-tasks-high",
        "agent-tasks-high-poison",
    )


def test_further_queues_have_numbers() -> None:
    assert TaskQueues(3).named(Priority.NORMAL) == ("agent-tasks", "agent-tasks-2", "agent-tasks-3")
    assert TaskQueues(2).named(Priority.HIGH) == ("agent-tasks-high", "agent-tasks-high-2")
    assert "agent-tasks-high-2-poison" in TaskQueues(2).every
    assert set(TaskQueues(MAX_QUEUES).every) == NAMES
    assert {*declared(3)} == {*TaskQueues(3).every, EVENT_QUEUE}


@pytest.mark.parametrize("wrong", [0, -1, MAX_QUEUES + 1, True, 1.5, "2"])
def test_a_number_of_queues_is_checked(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        TaskEngine(StorageManager(backend=MemoryBackend()), queues=wrong)
    assert refused.value.field == "queues"
    assert "1 to 16" in str(refused.value.limit)


@pytest.mark.parametrize(("text", "count"), [("", 1), ("1", 1), (" 4 ", 4), ("16", 16), ("08", 8)])
def test_the_setting_is_read(text: str, count: int) -> None:
    assert queue_count({"AGENT_TASK_QUEUES": text}) == count
    assert queue_count({}) == 1


@pytest.mark.parametrize(
    "wrong", ["0", "17", "-1", "two", "1.5", "²", "\uff11", "1_0", "99999999999999999999", "4,2"]
)
def test_a_wrong_setting_is_refused_with_its_limit_and_remedy(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        queue_count({"AGENT_TASK_QUEUES": wrong})
    assert refused.value.field == "AGENT_TASK_QUEUES"
    assert refused.value.limit == "a whole number from 1 to 16"
    assert refused.value.remedy
    monkeypatch.setenv("AGENT_TASK_QUEUES", wrong)
    with pytest.raises(ConfigurationError):
        AppState(StorageConfig(storage_type="memory")).check_numbers()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_queue_of_tasks_belongs_to_the_library(name: str) -> None:
    assert owner_of_queue(name) == owner_of_queue(f"dev-{name}") == TASKS


@pytest.mark.parametrize(
    "name", ["agent-tasks-1", "agent-tasks-17", "agent-tasks-02", "agent-tasks-2-high", "agent-tasks-x"]
)
def test_other_names_belong_to_users(name: str) -> None:
    assert owner_of_queue(name) is None
    assert name not in NAMES


# -- which queue


def ids_of(kind: str, count: int) -> list[str]:
    if kind == "children":
        parent = derived_task_id(STARTED, hashlib.sha256(b"parent").digest())
        return [child_task_id(parent, STARTED, n) for n in range(count)]
    if kind == "uuids":
        return [derived_task_id(STARTED, hashlib.sha256(str(n).encode()).digest()) for n in range(count)]
    return [
        {"numbers": f"{n}", "names": f"report-{n:05}", "times": f"2026-11-30T00:{n // 60:02}:{n % 60:02}"}[
            kind
        ]
        for n in range(count)
    ]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 16])
@pytest.mark.parametrize("kind", ["uuids", "children", "numbers", "names", "times"])
def test_queues_get_equal_shares(kind: str, count: int) -> None:
    ids = ids_of(kind, 300 * count)
    for priority in Priority:
        shares = Counter(TaskQueues(count).of(each, priority) for each in ids)
        assert shares.keys() == set(TaskQueues(count).named(priority))
        assert all(200 <= share <= 400 for share in shares.values()), shares


def test_a_task_has_one_queue_in_every_process() -> None:
    assert [TaskQueues(4).of(f"t{n}", Priority.NORMAL) for n in range(6)] == [
        "agent-tasks-2",
        "agent-tasks-4",
        "agent-tasks-2",
        "agent-tasks-4",
        "agent-tasks",
        "agent-tasks-3",
    ]


@pytest.mark.parametrize("count", range(1, MAX_QUEUES + 1))
def test_each_unused_queue_has_one_that_takes_its_place(count: int) -> None:
    used = TaskQueues(count)
    for name in NAMES - set(used.every):
        instead = used.instead_of(name)
        assert instead in used.every
        assert instead.endswith(POISON) == name.endswith(POISON)
        assert instead.startswith(HIGH_QUEUE) == name.startswith(HIGH_QUEUE)


# -- tasks


async def test_tasks_are_spread_and_each_runs_once_in_its_own_queue(
    storage: StorageManager, many: int
) -> None:
    engine = TaskEngine(storage, queues=3)
    normal, high = await submitted(engine, many), await submitted(engine, many, priority=Priority.HIGH)
    found = await lengths(storage)
    assert found == Counter(engine.queues.of(each.task_id, each.priority) for each in [*normal, *high])
    host = Host(engine)
    await served(host, until=ended(engine, [*normal, *high]))
    await check(engine, [*normal, *high])
    for queue, texts in host.seen.items():
        for text in texts:
            message = TaskMessage.parse(text)
            assert engine.queues.of(message.task_id, message.priority) == queue
    assert await lengths(storage) == {}


async def test_children_and_joins_across_queues(storage: StorageManager, many: int) -> None:
    engines = [TaskEngine(storage, queues=3) for _ in range(3)]
    families = [await engines[0].submit("queues_fan", "a", many // 2, priority=p) for p in Priority]
    hosts = [Host(each) for each in engines]
    await served(*hosts, until=ended(engines[0], families))
    for family in families:
        children = (await engines[0].list(parent_id=family.task_id)).records
        assert len(children) == many // 2
        await check(engines[0], children)
        for each in children:
            queue = engines[0].queues.of(each.task_id, each.priority)
            texts = set().union(*(host.seen.get(queue, set()) for host in hosts))
            assert each.task_id in {TaskMessage.parse(text).task_id for text in texts}
        assert (await engines[0].get(family.task_id)).status == "succeeded"


async def test_retries_stay_in_the_queue_of_the_first_delivery(storage: StorageManager) -> None:
    engine = TaskEngine(storage, queues=4)
    records = [await engine.submit("queues_flaky", "a", n) for n in range(4)]
    host = Host(engine)
    await served(host, until=ended(engine, records))
    await check(engine, records, attempts=3)
    for queue, texts in host.seen.items():
        assert {engine.queues.of(TaskMessage.parse(text).task_id, Priority.NORMAL) for text in texts} <= {
            queue
        }


@pytest.mark.parametrize("priority", [*Priority])
async def test_what_is_no_task_is_given_up_by_the_poison_queue_of_its_own_and_can_be_requeued(
    storage: StorageManager, priority: Priority
) -> None:
    engine = TaskEngine(storage, queues=3)
    queue = engine.queues.named(priority)[2]
    await storage.backend.queues.send_text(queue, "hello?")
    host = Host(engine)

    async def is_dead() -> bool:
        return bool((await engine.list(status="dead")).records)

    await served(host, until=is_dead)
    assert host.seen[queue + POISON] == {"hello?"}
    (dead,) = (await engine.list(status="dead")).records
    assert (dead.raw_message, dead.priority) == ("hello?", priority)
    await engine.requeue(dead.task_id)
    (again,) = await lengths(storage)
    assert again == engine.queues.of(dead.task_id, priority)
    await served(host, until=lambda: _empty(storage))
    assert len((await engine.list(status="dead")).records) == 2


async def _empty(storage: StorageManager) -> bool:
    return not await lengths(storage)


async def test_what_stays_in_any_poison_queue_is_sifted(storage: StorageManager) -> None:
    engine = TaskEngine(storage, queues=3)
    for n, queue in enumerate(engine.queues.named(Priority.HIGH)):
        await storage.backend.queues.send_text(queue + POISON, f"no task {n}")
    assert await engine.sift(Priority.NORMAL) == 0
    assert await engine.sift(Priority.HIGH) == 3
    assert await lengths(storage) == {}
    dead = (await engine.list(status="dead")).records
    assert {each.priority for each in dead} == {Priority.HIGH}


async def test_a_cancelled_and_requeued_task_and_one_with_a_key_go_to_the_queue_of_their_id(
    storage: StorageManager,
) -> None:
    engine = TaskEngine(storage, queues=4)
    record = await engine.submit("queues_note", "a", idempotency_key=f"k-{storage!r}"[:40])
    again = await engine.submit("queues_note", "a", idempotency_key=f"k-{storage!r}"[:40])
    assert again.task_id == record.task_id
    await engine.cancel(record.task_id)
    await engine.requeue(record.task_id)
    assert await lengths(storage) == {engine.queues.of(record.task_id, Priority.NORMAL): 2}
    await served(Host(engine), until=ended(engine, [record]))
    await check(engine, [record])


# -- another number


async def test_fewer_queues_lose_nothing_and_run_nothing_twice(storage: StorageManager, many: int) -> None:
    await fewer_queues(storage, 4, 1, many)


@pytest.mark.parametrize(("before", "after"), [(4, 3), (16, 2), (16, 15)])
async def test_any_fewer_queues_lose_nothing_and_run_nothing_twice(before: int, after: int) -> None:
    await fewer_queues(StorageManager(backend=MemoryBackend()), before, after, 40)


async def fewer_queues(storage: StorageManager, before: int, after: int, many: int) -> None:
    old, new = TaskEngine(storage, queues=before), TaskEngine(storage, queues=after)
    records = await submitted(old, many) + await submitted(old, many, priority=Priority.HIGH)
    family = await old.submit("queues_fan", "a", 5)
    await storage.backend.queues.send_text(f"{HIGH_QUEUE}-{before}{POISON}", "no task")
    left = (await lengths(storage)).items()
    waiting = sum(length for name, length in left if name not in new.queues.every)
    assert await new.drain(30) == (waiting, 0)
    assert (await lengths(storage)).keys() <= set(new.queues.every)
    host = Host(new)
    await served(host, until=ended(new, [*records, family]))
    await check(new, records)
    await served(host, until=lambda: _empty(storage))
    (dead,) = (await new.list(status="dead")).records
    assert (dead.raw_message, dead.priority) == ("no task", Priority.HIGH)
    await new.requeue(dead.task_id)
    assert set(await lengths(storage)) <= set(new.queues.every)


async def test_a_hidden_message_of_an_unused_queue_is_moved_once_it_is_visible(
    storage: StorageManager,
) -> None:
    old, new = TaskEngine(storage, queues=2), TaskEngine(storage)
    second = old.queues.named(Priority.NORMAL)[1]
    await storage.backend.queues.send_text(second, "hidden", delay=1.5)
    assert await new.drain(5) == (0, 1)
    assert (await new.queue_lengths())[second] == 1
    async with asyncio.timeout(600):
        while (await new.drain(5))[0] == 0:
            await asyncio.sleep(0.05)
    assert await lengths(storage) == {TASK_QUEUE: 1}
    assert second not in await new.queue_lengths()


async def test_what_expires_expires_where_it_was_moved_to(storage: StorageManager) -> None:
    old, new = TaskEngine(storage, queues=2), TaskEngine(storage)
    second = old.queues.named(Priority.NORMAL)[1]
    await storage.backend.queues.send_text(second, "soon", ttl=3600)
    await storage.backend.queues.send_text(second, "never")
    (soon,) = [m for m in await storage.backend.queues.peek(second, max_messages=2) if m.text == "soon"]
    assert await new.drain(5) == (2, 0)
    moved = {m.text: m for m in await storage.backend.queues.peek(TASK_QUEUE, max_messages=2)}
    assert abs((moved["soon"].expires_at - soon.expires_at).total_seconds()) < 60
    assert moved["never"].expires_at.year == 9999


async def test_a_store_without_unused_queues_is_asked_once(storage: StorageManager) -> None:
    engine = TaskEngine(storage, queues=2)
    await submitted(engine, 8)
    await storage.backend.queues.send_text("agent-tasks-1", "a user's own")
    await storage.backend.queues.send_text("agent-tasks-extra", "a user's own")
    assert await engine.drain(5) == (0, 0)
    assert (await lengths(storage))["agent-tasks-1"] == 1
    for name in ("agent-tasks-1", "agent-tasks-extra"):
        await storage.backend.queues.clear(name)


async def test_a_namespace_has_its_own_queues() -> None:
    backend = MemoryBackend()
    storages = [StorageManager(backend=NamespaceLayer(backend, name)) for name in ("dev", "prod")]
    for storage in storages:
        await submitted(TaskEngine(storage, queues=4), 12)
    others = await lengths(storages[1])
    assert sum(others.values()) == 12
    engine = TaskEngine(storages[0])
    await engine.drain(5)
    assert await lengths(storages[0]) == {TASK_QUEUE: 12}
    assert await lengths(storages[1]) == others


async def test_more_queues_work_off_what_waits_in_the_first(storage: StorageManager, many: int) -> None:
    old, new = TaskEngine(storage), TaskEngine(storage, queues=4)
    records = await submitted(old, many) + await submitted(new, many)
    host = Host(new)
    await served(host, until=ended(new, records))
    await check(new, records)


async def test_hosts_of_different_numbers_at_the_same_time(storage: StorageManager, many: int) -> None:
    """As while a deployment replaces the instances: those of the lower number empty the others' queues."""
    engines = [TaskEngine(storage, queues=count) for count in (1, 3, 4)]
    records: list[TaskRecord] = []
    for engine in engines:
        records += await submitted(engine, many // 2)
    family = await engines[2].submit("queues_fan", "a", 4)
    await served(*map(Host, engines), until=ended(engines[0], [*records, family]), drains=True)
    await check(engines[0], records)
    await check(engines[0], (await engines[0].list(parent_id=family.task_id)).records)


# -- repair


class Clock:
    def __init__(self) -> None:
        self.now = STARTED.timestamp()

    def __call__(self) -> float:
        return self.now


def ticking(count: int, backend: MemoryBackend, clock: Clock) -> TaskEngine:
    return TaskEngine(StorageManager(backend=backend), lease_seconds=60, clock=clock, queues=count)


async def test_a_message_that_a_killed_host_had_is_sent_again_to_its_queue() -> None:
    clock = Clock()
    backend = MemoryBackend(clock=clock)
    engine = ticking(3, backend, clock)
    (record,) = await submitted(engine, 1)
    queue = engine.queues.of(record.task_id, Priority.NORMAL)
    await backend.queues.receive(queue, visibility_timeout=600)  # the host is killed now
    clock.now += 40
    assert await engine.take_over() == 1
    (message,) = await backend.queues.peek(queue)
    assert TaskMessage.parse(message.text).task_id == record.task_id


async def test_a_long_queue_is_not_made_longer_after_their_number_has_grown() -> None:
    """The tasks of the one queue wait there in order, though new ones of their ids would go elsewhere."""
    clock = Clock()
    backend = MemoryBackend(clock=clock)
    old, new = ticking(1, backend, clock), ticking(4, backend, clock)
    await submitted(old, 100)
    clock.now += 3000
    assert await new.take_over(older=True) == 0
    assert await backend.queues.length(TASK_QUEUE) == 100


async def test_a_backlog_in_one_queue_does_not_hide_what_another_has_lost() -> None:
    clock = Clock()
    backend = MemoryBackend(clock=clock)
    engine = ticking(2, backend, clock)
    records = await submitted(engine, 200)
    own = [each for each in records if engine.queues.of(each.task_id, Priority.NORMAL) == TASK_QUEUE]
    assert len(own) > 40
    await backend.queues.clear(TASK_QUEUE)
    clock.now += 40
    assert await engine.take_over() == len(own)


# -- the app


_TELL = """
import json, function_app
found = {f.get_function_name(): f.get_raw_bindings() for f in function_app.app.get_functions()}
bindings = {name: json.loads(b) for name, all in found.items() for b in all}
print(json.dumps({name: b["queueName"] for name, b in bindings.items() if b["type"] == "queueTrigger"}))
"""


def triggers(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _TELL], cwd=PROJECT, env=variables, capture_output=True, text=True, check=False
    )


def test_each_queue_has_a_function() -> None:
    found = json.loads(triggers(AGENT_TASK_QUEUES="3", AGENT_STORAGE_NAMESPACE="dev").stdout)
    assert found["process_task"] == "dev-agent-tasks"
    assert found["process_task_2"] == "dev-agent-tasks-2"
    assert found["process_high_task_3"] == "dev-agent-tasks-high-3"
    assert found["process_poison_task_3"] == "dev-agent-tasks-3-poison"
    assert found["process_high_poison_task_2"] == "dev-agent-tasks-high-2-poison"
    assert sorted(found.values()) == sorted(f"dev-{queue}" for queue in TaskQueues(3).every)
    # The alerts know functions of poison queues by their names.
    assert all(("poison" in name) == queue.endswith("-poison") for name, queue in found.items())


def test_with_a_wrong_number_there_is_no_app() -> None:
    refused = triggers(AGENT_TASK_QUEUES="17")
    assert refused.returncode
    last = refused.stderr.splitlines()[-1]
    assert "AGENT_TASK_QUEUES is '17'; limit: a whole number from 1 to 16" in last
    assert "remedy: " in last


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AppState]:
    monkeypatch.setenv("AGENT_TASK_QUEUES", "2")
    app = AppState(StorageConfig(base_path=tmp_path))
    monkeypatch.setattr(state_module, "_states", {asyncio.get_running_loop(): app})
    yield app
    await app.storage.close()


async def run(timer: Any) -> None:
    await timer._function.get_user_function()(None)


async def test_the_app_spreads_its_tasks_as_the_setting_says(app: AppState) -> None:
    assert app.engine.queues.count == 2


async def test_the_line_of_the_timer_and_the_gauges_tell_of_each_queue(
    app: AppState, caplog: pytest.LogCaptureFixture
) -> None:
    queues = app.storage.backend.queues
    await queues.send("agent-tasks-2", b"x")
    await queues.send("agent-tasks-high-2-poison", b"x")
    caplog.set_level("INFO", "AOS.Maintenance")
    await run(maintenance.watch_queues)
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("queue lengths: ")]
    told = json.loads(line.removeprefix("queue lengths: "))
    assert told == dict.fromkeys(TaskQueues(2).every, 0) | {
        "agent-tasks-2": 1,
        "agent-tasks-high-2-poison": 1,
    }

    registry = Metrics()
    gauges = Gauges(app.storage, app.engine.queue_lengths, registry)
    await gauges.refresh()
    shown = {dict(tags)["queue"]: level.value for tags, level in gauges._length.series().items()}
    assert shown == told
    assert sum(shown.values()) == 2


async def test_gauges_show_an_unused_queue_until_it_is_empty(app: AppState) -> None:
    queues, now = app.storage.backend.queues, [0.0]
    gauges = Gauges(app.storage, app.engine.queue_lengths, Metrics(), lambda: now[0])
    await queues.send("agent-tasks-5", b"hidden", delay=600)
    await app.engine.drain(1)
    await gauges.refresh()
    assert "agent-tasks-5" in {dict(tags)["queue"] for tags in gauges._length.series()}
    await queues.clear("agent-tasks-5")
    await app.engine.drain(1)
    now[0] += 60
    await gauges.refresh()
    assert {dict(tags)["queue"] for tags in gauges._length.series()} == set(TaskQueues(2).every)


async def test_a_timer_and_each_running_host_empty_unused_queues(app: AppState) -> None:
    queues = app.storage.backend.queues
    await queues.send_text("agent-tasks-4", "x")
    await run(maintenance.take_over_tasks)
    assert await queues.length("agent-tasks-4") == 0
    assert await queues.length("agent-tasks-2") == 1
    await queues.send_text("agent-tasks-3-poison", "x")
    await queues.send_text("agent-tasks-3-poison", "y", delay=600)
    assert await watch._drain() == 0, "look again soon: one is hidden"
    assert await queues.length("agent-tasks-poison") == 1
    await queues.clear("agent-tasks-3-poison")
    assert await watch._drain() == watch.DRAINED_SECONDS


async def test_a_local_host_with_fewer_queues_runs_what_is_left_in_the_others(tmp_path: Path) -> None:
    settings = stored_on("file", tmp_path / "data", None)
    config = StorageConfig.from_env(settings)
    async with StorageManager(config) as storage:
        old = TaskEngine(storage, queues=4)
        new = [NewTask(action="chaos_ok", agent_id="a", payload=n) for n in range(12)]
        records = [each for each in await old.submit_many(new) if isinstance(each, TaskRecord)]
        await storage.backend.queues.send_text(f"{TASK_QUEUE}-4{POISON}", "no task")
        host = await start(PROJECT, tmp_path / "data", settings | {"AGENT_TASK_QUEUES": "2"})
        try:
            async with asyncio.timeout(600):
                while await lengths(storage):
                    await asyncio.sleep(0.1)
                while not await ended(old, records)():
                    await asyncio.sleep(0.1)
        finally:
            host.kill()
            await host.wait()
        await check(old, records)
        assert [each.raw_message for each in (await old.list(status="dead")).records] == ["no task"]


# -- the command line


async def test_the_command_line_tells_of_all_queues_and_their_sum(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path / "data")) as storage:
        for queue in ("agent-tasks", "agent-tasks-2", "agent-tasks-2", "agent-tasks-9-poison", "letters"):
            await storage.backend.queues.send(queue, b"x")
    cli = Cli(tmp_path)
    found = json.loads(cli("queues", "length", "--json").out)
    assert found == {
        "queues": {"agent-tasks": 1, "agent-tasks-2": 2, "agent-tasks-9-poison": 1},
        "length": 4,
    }
    assert cli("queues", "length").lines[-1].split() == ["together", "4"]
    assert "1 message in agent-tasks-9-poison" in cli("doctor").text
