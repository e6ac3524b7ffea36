"""What the record keeps of a run that was asked to stop, of its progress, and of results that are gone."""

from __future__ import annotations

import base64
import json
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib.errors import SerializationError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskMessage, TaskStatus, content_prefix
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryTaskError
from tests.task_stores import opened

LARGE = "x" * 50_000


@pytest.fixture
async def engine(task_store: tuple[str, Any], tmp_path: Path) -> AsyncIterator[TaskEngine]:
    async with opened(task_store, tmp_path) as storage:
        yield TaskEngine(storage)


@pytest.fixture(autouse=True)
def actions() -> Iterator[None]:
    registry_module.Registry().names()
    before = dict(registry_module._actions)  # pyright: ignore[reportPrivateUsage]

    @task("stopped_at_last")
    async def stopped_at_last(context: TaskContext, payload: Any) -> Any:
        await TaskEngine(context.storage).cancel(context.task.task_id)
        match payload:
            case "retry":
                raise RetryTaskError("busy", retry_after=3600)
            case "fail":
                raise RuntimeError("it broke")
            case _:
                return payload

    @task("counts")
    async def counts(context: TaskContext, payload: Any) -> Any:
        for n in range(5):
            await context.progress({"done": n})
        match payload:
            case "retry":
                raise RetryTaskError("busy", retry_after=3600)
            case "fail":
                raise RuntimeError("it broke")
            case "asks":
                await context.submit("counts")
            case _:
                pass

    @task("large")
    async def large(context: TaskContext, payload: Any) -> Any:
        return LARGE

    yield
    registry_module._actions.clear()  # pyright: ignore[reportPrivateUsage]
    registry_module._actions.update(before)  # pyright: ignore[reportPrivateUsage]


async def run(engine: TaskEngine, action: str, payload: Any = None) -> str:
    record = await engine.submit(action, "a", payload)
    (message,) = await engine.storage.backend.queues.receive(TASK_QUEUE)
    await engine.outbox.publish(await engine.worker.process(message.text, queue=TASK_QUEUE))
    await engine.storage.backend.queues.delete(TASK_QUEUE, message)
    return record.task_id


@pytest.mark.parametrize(
    ("payload", "status"),
    [("retry", TaskStatus.CANCELLED), ("fail", TaskStatus.FAILED), ("done", TaskStatus.SUCCEEDED)],
)
async def test_a_task_that_was_asked_to_stop_is_not_tried_again(
    engine: TaskEngine, payload: str, status: TaskStatus
) -> None:
    record = await engine.records.get(await run(engine, "stopped_at_last", payload))
    assert record.status is status
    assert record.finished_at is not None
    assert not record.event_due
    assert record.history[-1].outcome == status
    if status is TaskStatus.CANCELLED:
        assert record.error is not None
        assert record.error.code == "retry-task"
        assert await engine.storage.backend.queues.receive(TASK_QUEUE) == []


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (None, TaskStatus.SUCCEEDED),
        ("fail", TaskStatus.FAILED),
        ("retry", TaskStatus.QUEUED),
        ("asks", TaskStatus.RUNNING),
    ],
)
async def test_the_last_progress_is_kept(engine: TaskEngine, payload: Any, status: TaskStatus) -> None:
    record = await engine.records.get(await run(engine, "counts", payload))
    assert (record.status, record.progress) == (status, {"done": 4})


async def test_a_task_whose_result_is_gone_is_shown_without_it(engine: TaskEngine) -> None:
    task_id = await run(engine, "large")
    assert (await engine.records.get(task_id)).result == LARGE
    objects = engine.storage.backend.objects
    async for found in objects.iterate(content_prefix(task_id)):
        await objects.delete(found if isinstance(found, str) else found.key)
    record = await engine.records.get(task_id)
    assert (record.status, record.result) == (TaskStatus.SUCCEEDED, None)
    assert "gone" in record.omitted["result"]


async def test_a_task_whose_payload_is_gone_can_be_seen_and_cancelled(engine: TaskEngine) -> None:
    record = await engine.submit("large", "a", LARGE)
    objects = engine.storage.backend.objects
    async for found in objects.iterate(content_prefix(record.task_id)):
        await objects.delete(found if isinstance(found, str) else found.key)
    assert "gone" in (await engine.records.get(record.task_id)).omitted["payload"]
    cancelled, _ = await engine.worker.cancel(record.task_id)
    assert cancelled.status is TaskStatus.CANCELLED


async def test_a_list_says_what_it_leaves_out(engine: TaskEngine) -> None:
    task_id = await run(engine, "large", LARGE)
    small = await run(engine, "counts")
    listed = {record.task_id: record for record in (await engine.records.list()).records}
    assert listed[task_id].result is None
    assert set(listed[task_id].omitted) == {"payload", "result"}
    assert listed[small].omitted == {}
    assert (await engine.records.get(task_id)).omitted == {}


def lines(text: str, width: int, end: str) -> str:
    return end.join(textwrap.wrap(text, width)) + end


WRAPPINGS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: base64.b64encode(data).decode(),
    "lines of 76": lambda data: base64.encodebytes(data).decode(),
    "lines of 64, CR LF": lambda data: lines(base64.b64encode(data).decode(), 64, "\r\n"),
    "a line end": lambda data: base64.b64encode(data).decode() + "\n",
    "white space around": lambda data: f" \t{base64.b64encode(data).decode()} \r\n",
    "a BOM before": lambda data: "\ufeff" + base64.b64encode(data).decode(),
    "a BOM within": lambda data: base64.b64encode(b"\xef\xbb\xbf" + data).decode(),
    "for URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "JSON": lambda data: data.decode(),
    "JSON, BOM": lambda data: "\ufeff" + data.decode(),
    "JSON, white space": lambda data: f"\r\n {data.decode()}\n",
    "JSON, BOM and white space": lambda data: f" \ufeff\n{data.decode()}\n",
}


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 200])
def test_a_message_is_understood_as_tools_write_it(name: str, length: int) -> None:
    found = {"task_id": "t", "agent_id": "ÿ?ÿ>" + "é" * length, "action": "add"}
    found["agent_id"] = found["agent_id"][:120]
    data = json.dumps(found, ensure_ascii=False).encode()
    message = TaskMessage.parse(WRAPPINGS[name](data))
    assert (message.task_id, message.agent_id) == ("t", found["agent_id"])


@pytest.mark.parametrize("text", ["", "hello", "aGVsbG8=", "\ufeff", "====", "e30", "[1]", "'{}'"])
def test_what_is_no_message_is_refused(text: str) -> None:
    with pytest.raises((SerializationError, ValueError)):
        TaskMessage.parse(text)
