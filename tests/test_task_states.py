"""No history leads to two winners, leaves a final state (but for a requeue), or leaves a task behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage_lib.backends.memory import MemoryBackend, MemoryQueues, MemoryTables
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError, TransientStorageError
from storage_lib.manager import StorageManager
from storage_lib.ports.queues import QueueMessage, QueueStore
from storage_lib.ports.tables import Insert, TableStore, Update
from storage_lib.tasks import lease as lease_module
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks import submission
from storage_lib.tasks import worker as worker_module
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.model import FINAL, POISON_QUEUE, TASK_QUEUE, TaskRecord, TaskStatus
from storage_lib.tasks.registry import Registry, task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from storage_lib.tasks.watch import LeaseWatch
from tests.effort import examples

MAX_DEQUEUE_COUNT = 5
NOW_AND_THEN = st.sampled_from([False, False, False, True])
"""For what ends a history early: it cannot go wrong in other ways then any more."""


class Faults:
    """What the next operation of a store does: nothing unusual, or it fails before or after its effect."""

    def __init__(self) -> None:
        self.armed: dict[str, str] = {}

    async def around(self, store: str, operation: Any) -> Any:
        when = self.armed.pop(store, None)
        if when == "before":
            operation.close()
            raise StorageUnavailableError("injected, before")
        result = await operation
        if when == "after":
            raise StorageUnavailableError("injected, after")
        return result


class FaultyQueues(MemoryQueues):
    faults: Faults

    async def send(self, *arguments: Any) -> str:
        return await self.faults.around("queues", super().send(*arguments))


class FaultyTables(MemoryTables):
    faults: Faults
    watch: Any

    async def get(self, *arguments: Any) -> Any:
        return await self.faults.around("tables", super().get(*arguments))

    async def batch(self, table: str, pk: str, operations: list[Any]) -> Any:
        """Of a record, which is the first, and its rows of the index."""
        return await self.faults.around("tables", self._written(table, pk, operations))

    async def _written(self, table: str, pk: str, operations: list[Any]) -> Any:
        operation = operations[0]
        assert isinstance(operation, Insert | Update)
        keys, before = (table, pk, operation.row_key), None
        if isinstance(operation, Update):
            before = (await super().get(*keys)).properties
        etags = await super().batch(table, pk, operations)
        self.watch(before, (await super().get(*keys)).properties)
        return etags


class Tasks(RuleBasedStateMachine):
    """A task that may have two children; workers that claim them, stop for as long as they like, end them in
    any way or die; a store that fails; a queue that loses what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1_800_000_000.0
        self.faults = Faults()
        self.backend = MemoryBackend(clock=lambda: self.now)
        tables, queues = self.stores(FaultyTables, FaultyQueues)
        self.backend.tables, self.backend.queues = TableStore(tables), QueueStore(queues)
        self.engine = TaskEngine(StorageManager(backend=self.backend), clock=lambda: self.now)
        self.ids: list[str] = []
        self.gone: set[str] = set()
        self.running: list[tuple[asyncio.Task[Any], QueueMessage, str]] = []
        self.abandoned: list[Any] = []  # kept, so that none is collected and resumed
        self.waiting: dict[tuple[str, int], asyncio.Future[str]] = {}
        self.leases: dict[tuple[str, int], float] = {}
        self.requeues: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.register()
        self.count_requeues()

    def stores(self, tables: type[FaultyTables], queues: type[FaultyQueues]) -> tuple[Any, Any]:
        found = tables(lambda: self.now), queues(clock=lambda: self.now)
        for store in found:
            store.faults = self.faults
        found[0].watch = self.watch
        return found

    def register(self) -> None:
        Registry().names()
        registry_module._actions.pop("steps", None)

        @task("steps", retry=RetryPolicy(max_attempts=3, base_seconds=1))
        async def steps(context: TaskContext, payload: Any) -> int:
            claimed = context.task
            others = [until for (task_id, _), until in self.leases.items() if task_id == claimed.task_id]
            if any(until > self.now for until in others):
                self.wrong.append("two workers ran the task within a lease")
            assert claimed.lease_until is not None
            for _ in range(payload):
                await context.submit("steps", 0)
            key = claimed.task_id, claimed.fence
            self.leases[key] = claimed.lease_until.timestamp()
            future = self.waiting[key] = self.loop.create_future()
            try:
                end = await future
            finally:
                self.leases.pop(key, None)
            if end == "fail":
                raise ValueError("as asked")
            if end == "retry":
                raise RetryTaskError("as asked")
            return claimed.fence

    def count_requeues(self) -> None:
        """Also those of a parent that runs again."""
        requeue = self.engine.control.requeue

        async def counted(task_id: str) -> TaskRecord:
            self.requeues[task_id] += 1
            return await requeue(task_id)

        self.engine.control.requeue = counted  # type: ignore[method-assign]

    def watch(self, before: Any, after: Any) -> None:
        """Every change of a record, as the table has it."""
        task_id = after["task_id"]
        if after.get("expired"):
            self.deleted(task_id, TaskStatus(before["status"]))
            return
        if task_id in self.gone:
            self.wrong.append("a deleted task came back")
            return
        status = TaskStatus(after["status"])
        if before is None:
            self.ids.append(task_id)
            return
        was = TaskStatus(before["status"])
        if was in FINAL and status is not was:
            self.requeues[task_id] -= 1
            if was is TaskStatus.SUCCEEDED or status is not TaskStatus.QUEUED or self.requeues[task_id] < 0:
                self.wrong.append(f"{was} became {status} without a requeue")
        if was in FINAL and status is was and after["fence"] != before["fence"]:
            self.wrong.append(f"{was} was run again without leaving its state")
        if status is TaskStatus.SUCCEEDED and was is not status and (total := after.get("children")):
            done, failed = int(after["children_done"], 16), int(after["children_failed"], 16)
            if failed or done.bit_count() < total:
                self.wrong.append("a parent succeeded before all its children had")

    def deleted(self, task_id: str, was: TaskStatus) -> None:
        if was not in FINAL:
            self.wrong.append(f"a task was deleted that was {was}")
        self.ids.remove(task_id)
        self.gone.add(task_id)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def settle(self) -> None:
        for _ in range(60):
            await asyncio.sleep(0)

    @initialize(children=st.sampled_from([0, 2]))
    def submit(self, children: int) -> None:
        self.run(self.backend.queues.create_queue(POISON_QUEUE))
        self.run(self.engine.submit("steps", "a", children))

    def record(self, task_id: str) -> TaskRecord:
        armed, self.faults.armed = self.faults.armed, {}
        try:
            return self.run(self.engine.records.get(task_id))
        finally:
            self.faults.armed = armed

    # Few rules, and time passes within them: so that whole histories (claimed, late, claimed again, both
    # ended) are likely, not only their first steps.
    @rule(wait=st.sampled_from([0, 0.5, 5, 61, 61]), poison=NOW_AND_THEN)
    def deliver_after(self, wait: float, poison: bool) -> None:
        self.now += wait
        self.deliver(poison)

    def deliver(self, poison: bool, count: int = 1) -> None:
        queue = POISON_QUEUE if poison else TASK_QUEUE

        async def begin() -> None:
            received = await self.backend.queues.receive(queue, max_messages=count, visibility_timeout=30)
            for message in received:
                if poison:
                    work = self.engine.worker.process_poison(
                        message.text,
                        queue=TASK_QUEUE,
                        message_id=message.id,
                        inserted_at=message.inserted_at,
                        dequeue_count=message.dequeue_count,
                    )
                elif message.dequeue_count > MAX_DEQUEUE_COUNT:
                    # As the host does: it gives a message up that it could not get handled.
                    self.faults.armed.clear()
                    await self.backend.queues.send_text(POISON_QUEUE, message.text)
                    await self.backend.queues.delete(queue, message)
                    continue
                else:
                    work = self.engine.worker.process(
                        message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count
                    )
                self.running.append((asyncio.ensure_future(work), message, queue))
            await self.settle()

        self.run(begin())
        self.acknowledge()

    def acknowledge(self) -> None:
        """What was handled is deleted from its queue, if its receipt still holds; what failed comes again."""
        for entry in list(self.running):
            work, message, queue = entry
            if not work.done():
                continue
            self.running.remove(entry)
            if error := work.exception():
                assert isinstance(error, TransientStorageError), error
                continue
            try:
                self.run(self.backend.queues.delete(queue, message))
            except KeyNotFoundError:
                continue

    @rule()
    def duplicate(self) -> None:
        """The queue delivers a message twice."""
        self.faults.armed.pop("queues", None)
        for message in self.run(self.backend.queues.peek(TASK_QUEUE)):
            self.run(self.backend.queues.send_text(TASK_QUEUE, message.text))

    @rule(store=st.sampled_from(["tables", "tables", "queues"]), when=st.sampled_from(["before", "after"]))
    def break_down(self, store: str, when: str) -> None:
        """The next operation of that store fails."""
        self.faults.armed[store] = when

    @precondition(lambda self: self.waiting)
    @rule(end=st.sampled_from(["ok", "fail", "retry"]), data=st.data())
    def end_a_run(self, end: str, data: Any) -> None:
        """A worker, in time or long after its lease, comes to the end of the action."""
        key = data.draw(st.integers(0, len(self.waiting) - 1))

        async def release() -> None:
            future = self.waiting.pop(list(self.waiting)[key])
            if not future.done():
                future.set_result(end)
            await self.settle()

        self.run(release())
        self.acknowledge()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def kill_a_worker(self, data: Any) -> None:
        """It writes nothing more, and its message comes again."""
        index = data.draw(st.integers(0, len(self.running) - 1))
        work, _, _ = self.running.pop(index)
        # Its coroutine is thrown away where it stands, as a killed process would be.
        self.abandoned.append(work)

    @precondition(lambda self: self.ids)
    @rule(really=NOW_AND_THEN, data=st.data())
    def cancel(self, really: bool, data: Any) -> None:
        if really:
            self.try_to(self.engine.worker.cancel(self.drawn(data)))

    @precondition(lambda self: any(self.record(task_id).is_final for task_id in self.ids))
    @rule(data=st.data())
    def requeue(self, data: Any) -> None:
        self.try_to(self.engine.control.requeue(self.drawn(data)))

    @precondition(lambda self: any(self.record(task_id).is_final for task_id in self.ids))
    @rule(really=NOW_AND_THEN, data=st.data())
    def delete(self, really: bool, data: Any) -> None:
        """Whatever messages of it are still on their way: it neither comes back nor runs."""
        if really:
            self.try_to(self.engine.delete(self.drawn(data)))

    @rule(really=NOW_AND_THEN, hours=st.sampled_from([1.1, 25]))
    def lose_messages_and_repair(self, really: bool, hours: float) -> None:
        if not really:
            return
        self.run(self.backend.queues.clear(TASK_QUEUE))
        self.now += hours * 3600
        self.try_to(self.engine.repair.run())

    def drawn(self, data: Any) -> str:
        return self.ids[data.draw(st.integers(0, len(self.ids) - 1))]

    def try_to(self, operation: Any) -> None:
        with suppress(TaskStateError, StorageUnavailableError):
            self.run(operation)

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.wrong == []
        for task_id in self.ids:
            record = self.record(task_id)
            # Between two ends lies a requeue: no two workers win. An end that came from its children leaves
            # no attempt behind.
            ends = [past.outcome for past in record.history if past.outcome in FINAL]
            requeued = [past.outcome for past in record.history].count("requeued")
            assert len(ends) <= requeued + 1
            assert ends.count("succeeded") <= 1

    def teardown(self) -> None:
        """Left alone with healthy workers and stores, every task comes to its end."""
        self.faults.armed.clear()
        for _ in range(400):
            if all(self.record(task_id).is_final for task_id in self.ids):
                break
            self.now += 600
            self.run(self.engine.repair.run())
            self.deliver(False, 32)
            self.deliver(True, 32)
            for key in list(self.waiting):
                future = self.waiting.pop(key)
                if not future.done():
                    self.loop.call_soon(future.set_result, "ok")
            self.run(self.settle())
            self.acknowledge()
        unfinished = [self.record(task_id) for task_id in self.ids]
        assert [record for record in unfinished if not record.is_final] == []
        self.nothing_went_wrong()
        assert self.run(check_index(self.backend.tables)) == []
        for work in [*(entry[0] for entry in self.running), *self.abandoned]:
            work.cancel()
        self.run(self.settle())
        self.loop.close()


@pytest.fixture(autouse=True)
def nothing_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real pauses, ids at random, and a thread that wakes who is late would decide between two histories."""

    async def pause(self: Conflicts) -> None:
        await asyncio.sleep(0)

    nobody = LeaseWatch()
    nobody.stop()
    monkeypatch.setattr(worker_module, "watch", nobody)
    monkeypatch.setattr(lease_module, "_CONCLUDE_SECONDS", 0)
    monkeypatch.setattr(Conflicts, "pause", pause)
    monkeypatch.setattr(submission, "new_task_id", lambda now: "01a3185c-5000-7000-8000-000000000000")


Tasks.TestCase.settings = settings(max_examples=examples(300), stateful_step_count=30, deadline=None)
TestTaskStates = Tasks.TestCase
