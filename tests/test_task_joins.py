"""Many children that end at once end their parent once, and do not spend themselves on its record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend, MemoryObjects, MemoryTables
from storage_lib.errors import StorageUnavailableError
from storage_lib.manager import StorageManager
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.tables import TableStore, Update
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.joins import Shared
from storage_lib.tasks.model import TASK_QUEUE, Children, TaskMessage, TaskStatus, child_task_id
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryTaskError

CHILDREN = 300


class SlowTables(MemoryTables):
    """Takes a while, as a store behind a network does, so that its callers meet."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    async def get(self, *arguments: Any) -> Any:
        self.calls["get"] += 1
        found = await super().get(*arguments)
        await asyncio.sleep(0.001)
        return found

    async def batch(self, table: str, pk: str, operations: Any) -> Any:
        if isinstance(operations[0], Update):
            self.calls["update"] += 1
            await asyncio.sleep(0.001)
        return await super().batch(table, pk, operations)


class CountedObjects(MemoryObjects):
    reads = 0

    async def get(self, *arguments: Any) -> Any:
        self.reads += 1
        return await super().get(*arguments)


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)

    @task("fan")
    async def fan(context: TaskContext, payload: Any) -> str:
        for n in range(CHILDREN):
            await context.submit("child", n)
        return "r" * 50_000

    @task("child")
    async def child(context: TaskContext, payload: int) -> None:
        if payload % 50 == 7:
            raise ValueError("as asked")

    yield
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.mark.parametrize("instances", [1, 8])
async def test_children_that_end_at_once_end_their_parent_at_a_bounded_cost(instances: int) -> None:
    backend = MemoryBackend()
    tables, objects = SlowTables(), CountedObjects()
    backend.tables, backend.objects = TableStore(tables), ObjectStore(objects)
    engines = [TaskEngine(StorageManager(backend=backend)) for _ in range(instances)]
    parent = await engines[0].submit("fan", "a", "p" * 50_000)

    async def received() -> list[str]:
        return [m.text for m in await backend.queues.receive(TASK_QUEUE, max_messages=32)]

    for text in await received():
        await engines[0].worker.process(text, queue=TASK_QUEUE)
    children: list[str] = []
    while found := await received():
        children += found
    assert len(children) == CHILDREN
    tables.calls.clear()
    objects.reads = 0
    ended = await asyncio.gather(
        *(engines[n % instances].worker.process(text, queue=TASK_QUEUE) for n, text in enumerate(children))
    )

    # A child's own record is read, claimed and ended; its parent's is looked at, read again and changed. What
    # is more are changes of two instances that met.
    assert tables.calls.total() < (6 if instances == 1 else 9) * CHILDREN + 10
    # The parent's payload and result, when it ended.
    assert objects.reads == 2
    events = [event for events in ended for event in events]
    assert len(events) == CHILDREN + 1
    record = await engines[0].records.get(parent.task_id)
    assert record.status is TaskStatus.FAILED
    failed = [n for n in range(CHILDREN) if n % 50 == 7]
    assert record.result == {
        "result": "r" * 50_000,
        "children": {
            "total": CHILDREN,
            "succeeded": CHILDREN - len(failed),
            "failed": [child_task_id(parent.task_id, parent.created_at, n) for n in failed],
        },
    }


LEASE = 60.0


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["with-events", "without-events"])
async def engine(request: pytest.FixtureRequest, clock: Clock) -> TaskEngine:
    storage = StorageManager(backend=MemoryBackend(clock=clock))
    return TaskEngine(storage, clock=clock, lease_seconds=LEASE, events=request.param == "with-events")


@pytest.fixture
def small() -> None:
    @task("two")
    async def two(context: TaskContext, payload: Any) -> None:
        for n in range(2):
            await context.submit("child", n)

    @task("two_with_large_result")
    async def two_with_large_result(context: TaskContext, payload: Any) -> str:
        for n in range(2):
            await context.submit("child", n)
        return "r" * 50_000

    @task("fewer")
    async def fewer(context: TaskContext, payload: Any) -> None:
        for n in range(3 if context.task.attempts == 1 else 1):
            await context.submit("child", n, delay_seconds=0 if n == 0 else 3600)
        if context.task.attempts == 1:
            raise RetryTaskError("again", retry_after=1)


async def received(engine: TaskEngine) -> list[str]:
    messages = await engine.storage.backend.queues.receive(TASK_QUEUE, max_messages=32)
    for message in messages:
        await engine.storage.backend.queues.delete(TASK_QUEUE, message)
    return [message.text for message in messages]


async def ran(engine: TaskEngine) -> int:
    texts = await received(engine)
    for text in texts:
        await engine.deliver(text, queue=TASK_QUEUE)
    return len(texts)


def dies(engine: TaskEngine, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The host is killed when it asks this of the records."""

    async def killed(*_: Any, **__: Any) -> Any:
        raise StorageUnavailableError("the host was killed here")

    monkeypatch.setattr(engine.records, where, killed)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("where", ["has_open_child", "children_of"])
async def test_a_parent_ends_soon_if_the_host_of_its_last_child_is_killed(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Its last child has ended, which nobody was told. The queue shows the child's message much later."""
    parent = await engine.submit("two", "a")
    assert await ran(engine) == 1
    with monkeypatch.context() as patch:
        first, last = await received(engine)
        await engine.deliver(first, queue=TASK_QUEUE)
        dies(engine, patch, where)
        with pytest.raises(StorageUnavailableError):
            await engine.deliver(last, queue=TASK_QUEUE)
    assert (await engine.get(parent.task_id)).is_waiting
    clock.now += LEASE / 2 + 1
    await engine.take_over()
    await ran(engine)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("small")
async def test_a_parent_ends_soon_if_the_host_that_was_ending_it_is_killed(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has noticed that all children have ended, and others leave the rest to it."""
    parent = await engine.submit("two_with_large_result", "a")
    assert await ran(engine) == 1
    first, last = await received(engine)
    await engine.deliver(first, queue=TASK_QUEUE)
    get = engine.records.get

    async def killed(task_id: str, *, contents: bool = True) -> Any:
        if task_id == parent.task_id and contents:
            raise StorageUnavailableError("the host was killed here")
        return await get(task_id, contents=contents)

    with monkeypatch.context() as patch:
        patch.setattr(engine.records, "get", killed)
        with pytest.raises(StorageUnavailableError):
            await engine.deliver(last, queue=TASK_QUEUE)
    await engine.deliver(first, queue=TASK_QUEUE)
    assert (await engine.get(parent.task_id)).is_waiting
    clock.now += LEASE / 2 + 1
    await engine.take_over()
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("small")
async def test_a_message_that_comes_again_ends_the_parent_at_once(
    engine: TaskEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = await engine.submit("two", "a")
    assert await ran(engine) == 1
    first, last = await received(engine)
    await engine.deliver(first, queue=TASK_QUEUE)
    with monkeypatch.context() as patch:
        dies(engine, patch, "children_of")
        with pytest.raises(StorageUnavailableError):
            await engine.deliver(last, queue=TASK_QUEUE)
    await engine.deliver(last, queue=TASK_QUEUE, dequeue_count=2)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("small")
async def test_children_of_a_run_that_submitted_more_are_not_waited_for(
    engine: TaskEngine, clock: Clock
) -> None:
    parent = await engine.submit("fewer", "a")
    assert await ran(engine) == 1
    texts = await received(engine)
    clock.now += 2
    while (await engine.get(parent.task_id)).attempts < 2:
        await ran(engine)
    for text in texts:
        await engine.deliver(text, queue=TASK_QUEUE)
    record = await engine.get(parent.task_id)
    assert record.status is TaskStatus.SUCCEEDED
    assert record.result["children"] == {"total": 1, "succeeded": 1, "failed": []}


@pytest.mark.usefixtures("small")
async def test_a_waiting_parent_tells_how_far_it_is(engine: TaskEngine, clock: Clock) -> None:
    parent = await engine.submit("two", "a")
    assert await ran(engine) == 1
    await engine.deliver((await received(engine))[0], queue=TASK_QUEUE)
    waiting = await engine.get(parent.task_id)
    assert waiting.children is not None
    assert (waiting.children.total, waiting.children.done.bit_count()) == (2, 1)


@pytest.mark.usefixtures("small")
async def test_what_waits_long_is_looked_at_more_and_more_rarely(clock: Clock) -> None:
    storage = StorageManager(backend=MemoryBackend(clock=clock))
    engine = TaskEngine(storage, clock=clock, lease_seconds=LEASE, events=False)
    await engine.submit("two", "a")
    assert await ran(engine) == 1
    await received(engine)
    looks: list[float] = []
    children_of = engine.records.children_of

    async def noted(parent: Any) -> Any:
        looks.append(clock.now)
        return await children_of(parent)

    engine.records.children_of = noted
    for _ in range(4 * 60):  # an hour
        clock.now += 15
        await engine.take_over()
        await received(engine)
    assert 4 <= len(looks) <= 20


class Gates:
    """Children that end when they are told."""

    def __init__(self) -> None:
        self.began = [asyncio.Event() for _ in range(9)]
        self.may_end = [asyncio.Event() for _ in range(9)]
        self.runs: dict[int, asyncio.Task[None]] = {}

    async def begin(self, engine: TaskEngine) -> None:
        for text in await received(engine):
            index = TaskMessage.parse(text).child_index
            assert index is not None
            self.runs[index] = asyncio.create_task(engine.deliver(text, queue=TASK_QUEUE))
        await asyncio.gather(*(self.began[n].wait() for n in self.runs))

    async def end(self, *children: int) -> None:
        for n in children:
            self.may_end[n].set()
            await self.runs[n]


@pytest.fixture
def gates() -> Gates:
    gates = Gates()

    @task("gated")
    async def gated(context: TaskContext, payload: int) -> None:
        gates.began[payload].set()
        await gates.may_end[payload].wait()

    @task("fan_gated")
    async def fan_gated(context: TaskContext, payload: int) -> None:
        for n in range(payload):
            await context.submit("gated", n)

    return gates


async def test_of_children_that_run_in_one_process_the_last_looks_for_all(
    engine: TaskEngine, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    has_open_child = engine.records.has_open_child

    async def noted(parent_id: str, child_id: str, total: int | None) -> bool:
        looks.append(child_id)
        return await has_open_child(parent_id, child_id, total)

    monkeypatch.setattr(engine.records, "has_open_child", noted)
    parent = await engine.submit("fan_gated", "a", 9)
    await ran(engine)
    await gates.begin(engine)
    await gates.end(*range(8))
    assert len(looks) == 1, "how far it is was just told, and the others see to the rest"
    await gates.end(8)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED
    assert len(looks) == 2


async def test_children_that_run_long_do_not_keep_a_parent_from_telling_how_far_it_is(
    engine: TaskEngine, clock: Clock, gates: Gates
) -> None:
    parent = await engine.submit("fan_gated", "a", 9)
    await ran(engine)
    await gates.begin(engine)
    for n in range(8):
        clock.now += 1.01
        await gates.end(n)
        children = (await engine.get(parent.task_id)).children
        assert children is not None
        assert children.done.bit_count() == n + 1
    await gates.end(8)


async def test_a_parent_ends_if_the_child_that_was_to_look_was_taken_over_and_has_ended_elsewhere(
    engine: TaskEngine, gates: Gates
) -> None:
    """There nobody saw that all have ended: a child that ran here still did, and it left its look here."""
    parent = await engine.submit("fan_gated", "a", 3)
    await ran(engine)
    await gates.begin(engine)
    await gates.end(1)
    taken = await engine.records.get(child_task_id(parent.task_id, parent.created_at, 0))
    await engine.records.change(taken, fence=taken.fence + 1, status=TaskStatus.SUCCEEDED)
    await gates.end(2, 0)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


async def test_a_parent_ends_if_it_was_taken_over_and_waits_since_it_ran_elsewhere(
    engine: TaskEngine, gates: Gates
) -> None:
    """Its children run where it ran before, and left their look to it."""
    began, may_end = asyncio.Event(), asyncio.Event()

    @task("fan_slowly")
    async def fan_slowly(context: TaskContext, payload: Any) -> None:
        for n in range(2):
            await context.submit("gated", n)
        began.set()
        await may_end.wait()

    parent = await engine.submit("fan_slowly", "a")
    (text,) = await received(engine)
    run = asyncio.create_task(engine.deliver(text, queue=TASK_QUEUE))
    await began.wait()
    await gates.begin(engine)
    await gates.end(1)
    taken = await engine.records.get(parent.task_id)
    await engine.records.change(taken, fence=taken.fence + 1, children=Children(2))
    await gates.end(0)
    may_end.set()
    await run
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.parametrize("concurrent", [1, 3])
async def test_a_shared_call_begins_after_all_who_share_it_have_come(concurrent: int) -> None:
    shared, clock = Shared[int](concurrent), 0
    running = 0

    async def look() -> int:
        nonlocal running
        running += 1
        assert running <= concurrent
        began = clock
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        return began

    async def come(delay: int) -> bool:
        nonlocal clock
        for _ in range(delay):
            await asyncio.sleep(0)
        clock += 1
        came = clock
        began, ours = await shared.call("k", look)
        assert began >= came
        return ours

    calls = await asyncio.gather(*(come(n % 17) for n in range(100)))
    assert 1 < sum(calls) < 100


async def test_a_shared_call_goes_on_if_the_first_who_came_is_cancelled_and_its_error_is_everybodys() -> None:
    shared = Shared[int](1)
    gate = asyncio.Event()

    async def fails() -> int:
        await gate.wait()
        raise ValueError("shared")

    first, second = (asyncio.create_task(shared.call("k", fails)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    found = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert isinstance(found[1], ValueError)
    assert await shared.call("k", lambda: asyncio.sleep(0, 7)) == (7, True)


@pytest.mark.usefixtures("small")
async def test_an_open_child_of_a_run_that_submitted_more_does_not_hide_the_last_end(
    engine: TaskEngine, clock: Clock
) -> None:
    """The last child began before its parent waited, so this process has not seen for how many it waits, and
    it ends so soon after another that the parent's record is not told."""
    began, may_end = asyncio.Event(), asyncio.Event()
    deliveries: list[asyncio.Task[None]] = []
    texts: dict[int | None, str] = {}

    @task("slow")
    async def slow(context: TaskContext, payload: Any) -> None:
        began.set()
        await may_end.wait()

    @task("fewer_later")
    async def fewer_later(context: TaskContext, payload: Any) -> None:
        await context.submit("slow")
        await context.submit("child", 1)
        if context.task.attempts == 1:
            await context.submit("child", 2, delay_seconds=3600)
            raise RetryTaskError("again", retry_after=1)
        deliveries.append(asyncio.create_task(engine.deliver(texts[0], queue=TASK_QUEUE)))
        await began.wait()
        await engine.deliver(texts[1], queue=TASK_QUEUE)

    parent = await engine.submit("fewer_later", "a")
    assert await ran(engine) == 1
    texts |= {TaskMessage.parse(text).child_index: text for text in await received(engine)}
    clock.now += 2
    assert await ran(engine) == 1
    assert (await engine.get(parent.task_id)).is_waiting
    may_end.set()
    await asyncio.gather(*deliveries)
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.usefixtures("small")
async def test_a_parent_ends_soon_if_its_last_child_ended_on_a_host_of_the_version_before(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That host counts in the parent's record, where the children that ended elsewhere are missing, and
    publishes the event of the child."""

    async def counts(child: Any, **_: Any) -> list[Any]:
        return []

    parent = await engine.submit("two", "a")
    assert await ran(engine) == 1
    with monkeypatch.context() as patch:
        patch.setattr(engine.worker._joins, "child_ended", counts)  # pyright: ignore[reportPrivateUsage]
        assert await ran(engine) == 2
    assert (await engine.get(parent.task_id)).is_waiting
    clock.now += LEASE / 2 + 1
    await engine.take_over()
    assert (await engine.get(parent.task_id)).status is TaskStatus.SUCCEEDED


@pytest.mark.parametrize("earlier", [False, True], ids=["child-ends-later", "child-has-ended"])
async def test_a_parent_that_was_asked_to_stop_before_it_waited_ends_cancelled(
    engine: TaskEngine, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, earlier: bool
) -> None:
    """Also if its host was killed when it began to wait, and the end of a child or a search notices first."""

    @task("stopped")
    async def stopped(context: TaskContext, payload: Any) -> None:
        await context.submit("child", 1)
        if earlier:
            assert await ran(engine) == 1
        await engine.cancel(context.task.task_id)

    async def killed(task_id: str) -> Any:
        raise StorageUnavailableError("the host was killed here")

    parent = await engine.submit("stopped", "a")
    (text,) = await received(engine)
    cancel = engine.worker.cancel
    with monkeypatch.context() as patch:
        patch.setattr(engine.worker, "cancel", killed)
        patch.setattr(engine, "cancel", cancel)
        with pytest.raises(StorageUnavailableError):
            await engine.deliver(text, queue=TASK_QUEUE)
    waiting = await engine.get(parent.task_id)
    assert waiting.is_waiting
    assert waiting.cancel_requested
    assert await ran(engine) == (0 if earlier else 1)
    clock.now += LEASE / 2 + 1
    await engine.take_over()
    ended = await engine.get(parent.task_id)
    assert (ended.status, ended.history[-1].outcome) == (TaskStatus.CANCELLED, "cancelled")
