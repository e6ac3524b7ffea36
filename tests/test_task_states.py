"""No history leads to two winners, leaves a final state (but for a requeue), or leaves a task behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage_lib.backends.memory import MemoryBackend
from storage_lib.backends.queues import QueueMessage
from storage_lib.errors import KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import FINAL, POISON_QUEUE, TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import Registry, task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError


class Tasks(RuleBasedStateMachine):
    """One task; workers that claim it, stop for as long as they like, end it in any way or die."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 1_800_000_000.0
        self.backend = MemoryBackend(clock=lambda: self.now)
        self.storage = StorageManager(backend=self.backend)
        self.engine = TaskEngine(self.storage, clock=lambda: self.now)
        self.running: list[tuple[asyncio.Task[Any], QueueMessage, str]] = []
        self.waiting: dict[int, asyncio.Future[str]] = {}
        self.leases: dict[int, float] = {}
        self.overlaps: list[float] = []
        self.seen: tuple[TaskStatus, int] | None = None
        self.requeued = False
        Registry().names()
        registry_module._actions.pop("steps", None)

        @task("steps", retry=RetryPolicy(max_attempts=3, base_seconds=1))
        async def steps(context: TaskContext, payload: Any) -> int:
            claimed = context.task
            self.overlaps += [until for until in self.leases.values() if until > self.now]
            assert claimed.lease_until is not None
            self.leases[claimed.fence] = claimed.lease_until.timestamp()
            future = self.waiting[claimed.fence] = self.loop.create_future()
            try:
                end = await future
            finally:
                self.leases.pop(claimed.fence, None)
            if end == "fail":
                raise ValueError("as asked")
            if end == "retry":
                raise RetryTaskError("as asked")
            return context.task.fence

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    async def settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    @initialize()
    def submit(self) -> None:
        self.task_id = self.run(self.engine.submit("steps", "a")).task_id
        self.run(self.backend.queues.create_queue(POISON_QUEUE))

    def record(self) -> Any:
        return self.run(self.engine.records.get(self.task_id))

    # Few rules, and time passes within them: so that whole histories (claimed, late, claimed again, both
    # ended) are likely, not only their first steps.
    @rule(wait=st.sampled_from([0, 0.5, 5, 61, 61]), poison=st.sampled_from([False, False, False, True]))
    def deliver_after(self, wait: float, poison: bool) -> None:
        self.now += wait
        self.deliver(poison)

    def deliver(self, poison: bool) -> None:
        queue = POISON_QUEUE if poison else TASK_QUEUE

        async def begin() -> None:
            for message in await self.backend.queues.receive(queue, visibility_timeout=30):
                if poison:
                    work = self.engine.process_poison(message.text, queue=TASK_QUEUE, message_id=message.id)
                else:
                    work = self.engine.process(message.text, queue=TASK_QUEUE, dequeue_count=1)
                self.running.append((asyncio.ensure_future(work), message, queue))
            await self.settle()

        self.run(begin())
        self.acknowledge()

    @rule()
    def duplicate(self) -> None:
        """The queue delivers a message twice."""
        for message in self.run(self.backend.queues.peek(TASK_QUEUE)):
            self.run(self.backend.queues.send_text(TASK_QUEUE, message.text))

    @precondition(lambda self: self.waiting)
    @rule(end=st.sampled_from(["ok", "fail", "retry"]), data=st.data())
    def end_a_run(self, end: str, data: Any) -> None:
        """A worker, in time or long after its lease, comes to the end of the action."""
        fence = data.draw(st.sampled_from(sorted(self.waiting)))

        async def release() -> None:
            future = self.waiting.pop(fence)
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

    abandoned: list[Any] = []  # noqa: RUF012 - kept, so that none is collected and resumed

    @rule(really=st.sampled_from([False, False, False, True]))
    def cancel(self, really: bool) -> None:
        """Now and then only: what it ends can not go wrong in other ways any more."""
        if not really:
            return
        try:
            self.run(self.engine.cancel(self.task_id))
        except TaskStateError:
            return

    @precondition(lambda self: self.record().is_final)
    @rule()
    def requeue(self) -> None:
        try:
            self.run(self.engine.control.requeue(self.task_id))
        except TaskStateError:
            return
        self.requeued = True

    def acknowledge(self) -> None:
        """What was handled is deleted from its queue, if its receipt still holds."""
        for entry in list(self.running):
            work, message, queue = entry
            if work.done():
                self.running.remove(entry)
                assert work.exception() is None
                try:
                    self.run(self.backend.queues.delete(queue, message))
                except KeyNotFoundError:
                    continue

    @invariant()
    def a_final_state_stays(self) -> None:
        if not hasattr(self, "task_id"):
            return
        assert not self.overlaps, "two workers ran the task within a lease"
        record = self.record()
        seen, self.seen = self.seen, (record.status, record.fence)
        if seen is not None and seen[0] in FINAL and not self.requeued:
            assert self.seen == seen, "a final state was left without a requeue"
        self.requeued = False
        ends = [a.outcome for a in record.history if a.outcome in FINAL]
        requeued = [a.outcome for a in record.history].count("requeued")
        # Between two ends lies a requeue: nothing else leaves a final state, and no two workers win. An end
        # that came from outside (a cancel) leaves no attempt behind.
        assert len(ends) <= requeued + 1
        assert ends.count("succeeded") <= 1
        if record.status is TaskStatus.SUCCEEDED:
            assert 1 <= record.result <= record.fence

    def teardown(self) -> None:
        """Left alone with a healthy worker, the task comes to its end."""
        if hasattr(self, "task_id"):
            for _ in range(400):
                if self.record().is_final:
                    break
                self.now += 10
                self.deliver(False)
                self.deliver(True)
                for fence in list(self.waiting):
                    future = self.waiting.pop(fence)
                    if not future.done():
                        self.loop.call_soon(future.set_result, "ok")
                self.run(self.settle())
                self.acknowledge()
            assert self.record().is_final
        for work in [*(entry[0] for entry in self.running), *self.abandoned]:
            if work.get_loop() is self.loop:
                work.cancel()
        self.run(self.settle())
        self.loop.close()


Tasks.TestCase.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
TestTaskStates = pytest.mark.timeout(300)(Tasks.TestCase)
