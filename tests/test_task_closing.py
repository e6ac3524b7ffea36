"""A host that stops closes its storage, whatever still runs there: no task fails by that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageManager
from storage_lib.errors import BackendClosedError
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskMessage, TaskStatus
from storage_lib.tasks.registry import task
from tests.http_app import config_of


class Stop:
    """What happens to a host's storage while its task runs."""

    def __init__(self) -> None:
        self.closed: StorageManager | None = None
        self.is_slow = False
        self.closing: asyncio.Task[None] | None = None
        self.go_on = asyncio.Event()

    async def come(self) -> None:
        assert self.closed is not None
        if not self.is_slow:
            await self.closed.close()
            return
        close = self.closed.backend.close

        async def slowly() -> None:
            await self.go_on.wait()
            await close()

        self.closed.backend.close = slowly  # type: ignore[method-assign]
        self.closing = asyncio.create_task(self.closed.close())
        await asyncio.sleep(0)


@pytest.fixture
def stop() -> Iterator[Stop]:
    before = dict(registry_module._actions)
    found = Stop()

    @task("cut_off")
    async def cut_off(context: TaskContext, payload: Any) -> str:
        if found.closed is None:
            return "done"
        await found.come()
        found.closed = None
        if payload == "reads":
            await context.storage.exists("anything")
        raise ValueError("what it needed is gone")

    yield found
    registry_module._actions.clear()
    registry_module._actions.update(before)


@pytest.mark.parametrize("payload", ["reads", "fails"])
@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_run_that_lost_its_storage_is_run_again(
    stop: Stop, any_store: tuple[str, Any], tmp_path: Path, payload: str, is_slow: bool
) -> None:
    """Also where the task's record could still be written: the stores close one after the other."""
    config = await config_of(*any_store, tmp_path)
    storage = stop.closed = StorageManager(config)
    stop.is_slow = is_slow
    engine = TaskEngine(storage)
    submitted = await engine.submit("cut_off", "a", payload)
    text = TaskMessage.of(submitted).to_bytes().decode()
    with pytest.raises(BackendClosedError):
        await engine.deliver(text, queue=TASK_QUEUE)
    if stop.closing is not None:
        stop.go_on.set()
        await stop.closing
    async with StorageManager(config) as other:
        later = TaskEngine(other, clock=lambda: time.time() + 120)
        record = await later.get(submitted.task_id)
        assert not record.is_final
        if is_slow:
            assert (record.status, record.attempts) == (TaskStatus.QUEUED, 0)
            assert record.history[-1].outcome == "interrupted"
        await later.deliver(text, queue=TASK_QUEUE, dequeue_count=2)
        record = await later.get(submitted.task_id)
        assert (record.status, record.result) == (TaskStatus.SUCCEEDED, "done")


async def test_a_message_that_comes_while_the_storage_closes_comes_again(
    stop: Stop, any_store: tuple[str, Any], tmp_path: Path
) -> None:
    """It is not taken for one that cannot be handled."""
    config = await config_of(*any_store, tmp_path)
    storage = StorageManager(config)
    engine = TaskEngine(storage)
    submitted = await engine.submit("cut_off", "a")
    text = TaskMessage.of(submitted).to_bytes().decode()
    await storage.close()
    with pytest.raises(BackendClosedError):
        await engine.deliver(text, queue=TASK_QUEUE)
    async with StorageManager(config) as other:
        assert (await TaskEngine(other).get(submitted.task_id)).status is TaskStatus.QUEUED
