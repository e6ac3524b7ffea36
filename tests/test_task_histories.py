"""Unlucky orders of events: what a task and its family come to, step by step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from storage_lib.errors import ObjectTooLargeError, StorageUnavailableError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskCancelledError, TaskContext
from storage_lib.tasks.model import POISON_QUEUE, TASK_QUEUE, TaskMessage, TaskRecord, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError
from tests.task_worker import Worker

LARGE = "x" * 30_000


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture(autouse=True)
def actions() -> Iterator[dict[str, bool]]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)
    state = {"away": True}

    @task("measure")
    async def measure(context: TaskContext, payload: dict[str, str]) -> int:
        if context.task.attempts == 1:
            raise RetryTaskError("not yet", retry_after=0)
        return len(payload["text"])

    @task("fine")
    async def fine(context: TaskContext, payload: Any) -> None: ...

    @task("bad")
    async def bad(context: TaskContext, payload: Any) -> None:
        raise ValueError("bad")

    @task("away", retry=RetryPolicy(max_attempts=1))
    async def away(context: TaskContext, payload: Any) -> None:
        if state["away"]:
            raise StorageUnavailableError("away")

    @task("fewer")
    async def fewer(context: TaskContext, payload: Any) -> None:
        for _ in range(3 if context.task.attempts == 1 else 2):
            await context.submit("fine")
        if context.task.attempts == 1:
            raise RetryTaskError("again, with fewer", retry_after=0)

    @task("asks")
    async def asks(context: TaskContext, payload: list[str]) -> None:
        for action in payload:
            await context.submit(action)

    @task("noise", retry=RetryPolicy(max_attempts=30))
    async def noise(context: TaskContext, payload: Any) -> None:
        raise RetryTaskError("\0" * 600, retry_after=0)

    @task("at_once")
    async def at_once(context: TaskContext, payload: list[str]) -> None:
        async def fail(name: str) -> None:
            raise {
                "away": StorageUnavailableError("away"),
                "cancelled": TaskCancelledError(),
                "wrong": ValueError("wrong"),
            }[name]

        async with asyncio.TaskGroup() as group:
            for name in payload:
                group.create_task(fail(name))

    yield state
    registry_module._actions.clear()
    registry_module._actions.update(before)


async def test_a_large_payload_of_another_program_survives_its_retry(worker: Worker) -> None:
    message = {"task_id": "ext-1", "agent_id": "a", "action": "measure", "payload": {"text": LARGE}}
    await worker.backend.queues.send_text(TASK_QUEUE, json.dumps(message))
    await worker.settle()
    record = await worker.get("ext-1")
    assert (record.status, record.result) == (TaskStatus.SUCCEEDED, len(LARGE))
    assert record.payload == {"text": LARGE}
    assert await worker.take(POISON_QUEUE) == []


async def test_a_lost_message_with_a_large_payload_is_repaired_with_it(worker: Worker) -> None:
    message = {"task_id": "ext-1", "agent_id": "a", "action": "measure", "payload": {"text": LARGE}}
    await worker.run([json.dumps(message)])
    await worker.take()  # the message of the retry, lost
    worker.clock.now += 8000
    assert await worker.engine.repair.run() == 1
    await worker.settle()
    assert (await worker.get("ext-1")).result == len(LARGE)


async def test_an_end_of_a_child_that_is_no_longer_asked_for_does_not_stand_for_another(
    worker: Worker,
) -> None:
    parent = await worker.engine.submit("fewer", "a")
    await worker.run(await worker.take())
    worker.clock.now += 1
    messages = {TaskMessage.parse(text).child_index: text for text in await worker.take()}
    await worker.run([messages[None], messages[0], messages[2]])
    assert (await worker.get(parent.task_id)).status is TaskStatus.RUNNING
    await worker.run([messages[1]])
    ended = await worker.get(parent.task_id)
    assert ended.status is TaskStatus.SUCCEEDED
    assert ended.result["children"]["total"] == 2


async def test_an_end_from_before_the_requeue_does_not_fail_the_parent_again(
    worker: Worker, actions: dict[str, bool]
) -> None:
    parent = await worker.engine.submit("asks", "a", ["away"])
    await worker.settle(3)
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
    actions["away"] = False
    await worker.engine.control.requeue(parent.task_id)
    late = await worker.backend.queues.receive(POISON_QUEUE)
    for message in late:
        await worker.engine.worker.process_poison(
            message.text, queue=TASK_QUEUE, message_id=message.id, inserted_at=message.inserted_at
        )
    assert late
    await worker.settle(5)
    assert (await worker.child(parent, "away")).status is TaskStatus.SUCCEEDED
    assert (await worker.get(parent.task_id)).status is TaskStatus.SUCCEEDED


async def test_a_child_that_was_cancelled_before_it_ran_can_be_requeued(worker: Worker) -> None:
    parent = await worker.engine.submit("asks", "a", ["fine", "bad"])
    await worker.run(await worker.take())
    child = await worker.child(parent, "fine")
    await worker.engine.worker.cancel(child.task_id)
    await worker.settle(3)
    assert (await worker.get(parent.task_id)).status is TaskStatus.FAILED
    await worker.engine.control.requeue(child.task_id)
    await worker.settle(3)
    assert (await worker.get(child.task_id)).status is TaskStatus.SUCCEEDED


async def test_errors_full_of_control_characters_do_not_outgrow_the_record(worker: Worker) -> None:
    record = await worker.engine.submit("noise", "a")
    await worker.settle(40)
    ended = await worker.get(record.task_id)
    assert (ended.status, ended.attempts) == (TaskStatus.DEAD, 30)
    assert ended.history[-1].number == 30


async def test_one_task_that_can_not_be_repaired_holds_up_no_other(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [await worker.engine.submit("fine", "a") for _ in range(3)]
    await worker.take()  # lost
    worker.clock.now += 8000
    change = worker.engine.records.change

    async def broken(record: TaskRecord, **changes: Any) -> TaskRecord:
        if record.task_id == tasks[1].task_id:
            raise ObjectTooLargeError("too large")
        return await change(record, **changes)

    monkeypatch.setattr(worker.engine.records, "change", broken)
    with pytest.raises(ObjectTooLargeError):
        await worker.engine.repair.run()
    monkeypatch.undo()
    await worker.settle(2)
    ends = [(await worker.get(one.task_id)).status for one in tasks]
    assert ends == [TaskStatus.SUCCEEDED, TaskStatus.QUEUED, TaskStatus.SUCCEEDED]


@pytest.mark.parametrize(
    ("names", "status", "code"),
    [
        (["away", "away"], TaskStatus.QUEUED, "storage-unavailable"),
        (["away", "cancelled"], TaskStatus.CANCELLED, None),
        (["away", "wrong"], TaskStatus.FAILED, "ValueError"),
        (["wrong", "wrong"], TaskStatus.FAILED, "ExceptionGroup"),
    ],
)
async def test_errors_of_a_task_group_decide_as_the_errors_in_it(
    worker: Worker, names: list[str], status: TaskStatus, code: str | None
) -> None:
    record = await worker.engine.submit("at_once", "a", names)
    await worker.run(await worker.take())
    ended = await worker.get(record.task_id)
    assert (ended.status, ended.error and ended.error.code) == (status, code)


async def test_the_event_of_a_parent_is_given_again_with_that_of_its_last_child(worker: Worker) -> None:
    await worker.engine.submit("asks", "a", ["fine"])
    await worker.run(await worker.take())
    [message] = await worker.take()
    first = await worker.engine.worker.process(message, queue=TASK_QUEUE)
    again = await worker.engine.worker.process(message, queue=TASK_QUEUE, dequeue_count=2)
    assert [event.action for event in first] == ["fine", "asks"]
    assert again == first
