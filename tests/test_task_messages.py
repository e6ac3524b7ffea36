"""A message is taken as a whole or not at all, and what it says of others has to be true."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib.errors import InvalidArgumentError, SerializationError, StorageError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.model import (
    MAX_FENCE,
    POISON_QUEUE,
    TASK_QUEUE,
    Children,
    TaskMessage,
    TaskRecord,
    TaskStatus,
    child_task_id,
    new_task_id,
)
from storage_lib.tasks.registry import RegisteredAction
from storage_lib.tasks.retry import RetryPolicy
from storage_lib.tasks.submission import new_record
from tests.task_worker import Worker

FOREIGN = {"task_id": "t", "agent_id": "a", "action": "noop"}
OWN = {"v": 1, **FOREIGN}
PARENT = "01a2293a-47a9-768e-ac45-1605750fffe8"
CHILD = child_task_id(PARENT, datetime(2026, 11, 29, 21, 33, tzinfo=UTC), 3)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture(autouse=True)
def _noop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def noop(context: Any, payload: Any) -> None:
        return None

    registry_module.Registry().names()
    known = RegisteredAction("noop", noop, None, 10, RetryPolicy())
    monkeypatch.setitem(registry_module._actions, "noop", known)


WRONG = [
    ({"v": True}, "v"),
    ({"v": 1.0}, "v"),
    ({"v": "1"}, "v"),
    ({"v": 0}, "v"),
    ({"v": -1}, "v"),
    ({"v": 2}, "v"),
    ({"v": 10**30}, "v"),
    ({"v": []}, "v"),
    ({"task_id": None}, "task_id"),
    ({"task_id": 5}, "task_id"),
    ({"task_id": ["t"]}, "task_id"),
    ({"task_id": "t" * 129}, "task_id"),
    ({"task_id": "../t"}, "task_id"),
    ({"task_id": "t\n"}, "task_id"),
    ({"agent_id": ""}, "agent_id"),
    ({"agent_id": {}}, "agent_id"),
    ({"agent_id": "a" * 129}, "agent_id"),
    ({"action": "no op"}, "action"),
    ({"action": "n" * 65}, "action"),
    ({"correlation_id": 1}, "correlation_id"),
    ({"correlation_id": "c" * 129}, "correlation_id"),
    ({"priority": "urgent"}, "priority"),
    ({"priority": 1}, "priority"),
    ({"priority": ["high"]}, "priority"),
    ({"due_at": 5}, "due_at"),
    ({"due_at": "soon"}, "due_at"),
    ({"due_at": "9999-12-31T23:59:59-14:00"}, "due_at"),
    ({"due_at": "0001-01-01T00:00:00+14:00"}, "due_at"),
    ({"payloud": {}}, "payloud"),
    ({"Task_Id": "t"}, "Task_Id"),
    ({"x" * 1000: 1}, "x" * 40),
    ({"": 1}, ""),
    ({"fence": 7}, "fence"),
    ({"status": "succeeded"}, "status"),
    ({"payload": json.loads("[" * 200 + "]" * 200)}, "message"),
]
WRONG_OWN = [
    *[({name: wrong}, name) for name in ("requeue", "parent_fence") for wrong in (-1, 1.0, True, "1", [])],
    *[({name: MAX_FENCE + 1}, name) for name in ("requeue", "parent_fence")],
    ({"parent_fence": 1}, "parent_fence"),
    ({"parent_id": "t", "child_index": 0}, "parent_id"),
    ({"parent_id": PARENT, "child_index": 3}, "parent_id"),
    ({"parent_id": PARENT}, "child_index"),
    ({"child_index": 3}, "parent_id"),
    *[({"task_id": CHILD, "parent_id": PARENT, "child_index": index}, "child_index")
      for index in (-1, 10_000, 10**30, 1.0, True, "0", None)],
    ({"task_id": CHILD, "parent_id": PARENT, "child_index": 4}, "parent_id"),
    ({"task_id": CHILD, "parent_id": CHILD, "child_index": 3}, "parent_id"),
    ({"task_id": CHILD, "parent_id": 5, "child_index": 3}, "parent_id"),
    ({"idempotency_key": 5}, "idempotency_key"),
    ({"idempotency_key": "k" * 256}, "idempotency_key"),
    ({"payload_key": 5}, "payload_key"),
    ({"payload_key": ".system/tasks/t/payload-" + "0" * 32, "payload": 1}, "payload_key"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field"), WRONG, ids=str)
def test_what_cannot_be_right_is_refused_by_name(fields: dict[str, Any], field: str) -> None:
    for message in (FOREIGN, OWN):
        with pytest.raises((InvalidArgumentError, SerializationError)) as refused:
            TaskMessage.parse(json.dumps(message | fields))
        assert refused.value.field == field
        assert len(refused.value.message) < 300


@pytest.mark.parametrize(("fields", "field"), WRONG_OWN, ids=str)
def test_so_is_what_only_our_own_say(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        TaskMessage.parse(json.dumps(OWN | fields))
    assert refused.value.field == field


def test_a_misspelt_name_is_told_with_the_right_one() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        TaskMessage.parse(json.dumps(FOREIGN | {"corelation_id": "c"}))
    assert "correlation_id" in str(refused.value.remedy)


@given(
    st.dictionaries(
        st.sampled_from(["v", "requeue", "parent_id", "child_index", "parent_fence", "due_at", "priority"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
            ),
        ),
    )
)
def test_a_message_is_understood_or_refused_with_a_field(fields: dict[str, Any]) -> None:
    try:
        message = TaskMessage.parse(json.dumps(OWN | fields))
    except StorageError as error:
        assert error.field  # noqa: PT017 - either way is right
    else:
        assert TaskMessage.parse(message.to_bytes().decode()) == message


async def buried(worker: Worker, message: dict[str, Any]) -> TaskRecord:
    """The dead record of a message that is refused."""
    async with asyncio.timeout(120):
        assert await worker.engine.worker.process(json.dumps(message), queue=TASK_QUEUE) == []
        (poison,) = await worker.backend.queues.receive(POISON_QUEUE)
        (event,) = await worker.engine.worker.process_poison(
            poison.text, queue=TASK_QUEUE, message_id=poison.id, inserted_at=poison.inserted_at
        )
        return await worker.get(event.task_id)


@pytest.mark.parametrize(("fields", "field"), WRONG_OWN[:8] + WRONG[:3], ids=str)
async def test_a_refused_message_is_kept_with_its_reason(
    worker: Worker, fields: dict[str, Any], field: str
) -> None:
    record = await buried(worker, OWN | fields)
    assert (record.status, record.action) == (TaskStatus.DEAD, "unknown")
    assert record.raw_message == json.dumps(OWN | fields)
    assert (await worker.engine.records.list()).records[0].task_id == record.task_id


async def parent_of(worker: Worker) -> TaskRecord:
    return await worker.engine.submit("noop", "a")


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("forged", ["time", "fence"])
async def test_a_parent_is_asked_whether_it_is_so(worker: Worker, forged: str, existing: bool) -> None:
    parent = await parent_of(worker)
    task_id = child_task_id(parent.task_id, parent.created_at, 2)
    message: dict[str, Any] = OWN | {"task_id": task_id, "parent_id": parent.task_id, "child_index": 2}
    if existing:
        await worker.engine.worker.process(json.dumps(message), queue=TASK_QUEUE)
        message["requeue"] = 1
    if forged == "time":
        message["task_id"] = child_task_id(parent.task_id, parent.created_at - timedelta(days=1), 2)
    else:
        message["parent_fence"] = parent.fence + 1
    record = await buried(worker, message)
    assert record.error is not None
    assert record.error.code == "invalid-argument"
    assert ("parent_fence" if forged == "fence" else "parent_id") in record.error.message


async def test_a_message_may_not_give_a_task_another_parent(worker: Worker) -> None:
    first, parent = await parent_of(worker), await parent_of(worker)
    task_id = child_task_id(parent.task_id, parent.created_at, 0)
    alone = OWN | {"task_id": task_id}
    await worker.engine.worker.process(json.dumps(alone), queue=TASK_QUEUE)
    record = await buried(worker, alone | {"parent_id": parent.task_id, "child_index": 0})
    assert record.error is not None
    assert record.error.code == "task-id-taken"
    assert first.task_id != parent.task_id


async def test_a_real_child_runs_without_its_record(worker: Worker) -> None:
    parent = await parent_of(worker)
    task_id = child_task_id(parent.task_id, parent.created_at, 0)
    message = OWN | {"task_id": task_id, "parent_id": parent.task_id, "child_index": 0, "parent_fence": 0}
    (event,) = await worker.engine.worker.process(json.dumps(message), queue=TASK_QUEUE)
    assert (event.status, event.parent_id) == (TaskStatus.SUCCEEDED, parent.task_id)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("status", [TaskStatus.QUEUED, TaskStatus.FAILED, TaskStatus.RUNNING])
async def test_a_circle_of_parents_in_the_table_ends(worker: Worker, length: int, status: TaskStatus) -> None:
    ids = [new_task_id() for _ in range(length)]
    now = worker.engine.worker._now()
    for n, task_id in enumerate(ids):
        record = new_record(TaskMessage(task_id, "a", "noop", parent_id=ids[n - 1], child_index=0), now, None)
        children = Children(1) if status is TaskStatus.RUNNING else Children(1, 1, 1)
        await worker.engine.records.insert(
            replace(record, status=TaskStatus.QUEUED if n == 0 else status, children=children)
        )
    async with asyncio.timeout(120):
        await worker.engine.worker.process(json.dumps(OWN | {"task_id": ids[0]}), queue=TASK_QUEUE)
        record = await worker.get(ids[0])
        assert record.is_final
        await worker.engine.worker.process(
            json.dumps(OWN | {"task_id": ids[0]}), queue=TASK_QUEUE, dequeue_count=2
        )


async def test_a_message_is_not_due_in_a_thousand_years(worker: Worker) -> None:
    record = await buried(worker, FOREIGN | {"due_at": "3026-01-01T00:00:00Z"})
    assert record.error is not None
    assert "due_at" in record.error.message
    assert "a year" in record.error.message
    later = (worker.engine.worker._now() + timedelta(days=365)).isoformat()
    assert await worker.engine.worker.process(json.dumps(FOREIGN | {"due_at": later}), queue=TASK_QUEUE) == []
    assert (await worker.get("t")).status is TaskStatus.QUEUED


@pytest.mark.parametrize(
    ("submitter", "requeued_by", "is_told"),
    [("alice", "alice", False), (None, None, False), ("alice", "bob", True), (None, "bob", True)],
)
def test_a_message_says_who_requeued_it_only_if_that_bounds_its_rights(
    submitter: str | None, requeued_by: str | None, is_told: bool
) -> None:
    """During a deployment the version before takes what it knows, and must not run what has fewer rights."""
    message = TaskMessage(**FOREIGN, submitter=submitter, requeued_by=requeued_by, requeue=1)
    sent = json.loads(message.to_bytes())
    known_before = {"v", *FOREIGN, "priority", "submitter", "requeue"}
    assert (set(sent) <= known_before) is not is_told
    read = TaskMessage.parse(message.to_bytes().decode())
    assert {read.submitter, read.requeued_by} - {None} == {submitter, requeued_by} - {None}
