"""Many children that end at once end their parent once, and do not spend themselves on its record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from storage_lib.backends.memory import MemoryBackend, MemoryObjects, MemoryTables
from storage_lib.manager import StorageManager
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.tables import TableStore, Update
from storage_lib.tasks import registry as registry_module
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskStatus, child_task_id
from storage_lib.tasks.registry import task

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

    async def write(self, table: str, pk: str, operation: Any) -> Any:
        if isinstance(operation, Update):
            self.calls["update"] += 1
            await asyncio.sleep(0.001)
        return await super().write(table, pk, operation)


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
