"""A task engine whose deliveries a test makes by hand, one at a time if it wants."""

from __future__ import annotations

import time

from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskRecord
from storage_lib.tasks.registry import Registry


class Clock:
    now = time.time()

    def __call__(self) -> float:
        return self.now


class Worker:
    """An engine, and the deliveries made to it by hand."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.clock = Clock()
        self.backend = MemoryBackend(clock=self.clock)
        self.engine = TaskEngine(StorageManager(backend=self.backend), registry, clock=self.clock)

    async def take(self, queue: str = TASK_QUEUE) -> list[str]:
        """Every message that is due, taken out of its queue."""
        try:
            found = await self.backend.queues.receive(queue, max_messages=32, visibility_timeout=30)
        except KeyNotFoundError:
            return []
        for message in found:
            await self.backend.queues.delete(queue, message)
        return [message.text for message in found]

    async def run(self, texts: list[str]) -> None:
        for text in texts:
            await self.engine.worker.process(text, queue=TASK_QUEUE)

    async def settle(self, rounds: int = 15) -> None:
        for _ in range(rounds):
            await self.run(await self.take())
            self.clock.now += 2

    async def get(self, task_id: str) -> TaskRecord:
        return await self.engine.records.get(task_id)

    async def child(self, parent: TaskRecord, action: str) -> TaskRecord:
        page = await self.engine.records.list(parent_id=parent.task_id, action=action)
        return await self.get(page.records[0].task_id)
