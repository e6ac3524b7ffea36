"""Running an action at once, in this process, with no task: for programs that have the storage anyway."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from storage_lib.errors import UnsupportedOperationError
from storage_lib.manager import StorageManager
from storage_lib.tasks.context import TaskContext, TaskLog
from storage_lib.tasks.model import TaskMessage, TaskRecord, new_task_id
from storage_lib.tasks.registry import Registry
from storage_lib.tasks.submission import new_record, validated


async def run_here(storage: StorageManager, registry: Registry, action: str, payload: Any) -> Any:
    """Run an action and return its result; what it raises is raised. Nothing is recorded or repeated.

    :raises UnknownActionError: there is no such action.
    :raises InvalidArgumentError: the payload does not fit; ``field`` names the place.
    :raises TimeoutError: it takes longer than the action may.
    """
    registered = registry.get(action)
    _, argument = validated(registered, payload)
    now = datetime.now(UTC)
    message = TaskMessage(task_id=new_task_id(now.timestamp()), agent_id="here", action=action)
    record = new_record(message, now, payload)
    async with asyncio.timeout(registered.timeout):
        return await registered.run(
            _Here(storage, record, now + timedelta(seconds=registered.timeout)), argument
        )


class _Here(TaskContext):
    """Without a record that others see: nobody asks it to stop, and its progress is not kept."""

    def __init__(self, storage: StorageManager, record: TaskRecord, deadline: datetime) -> None:
        self.storage = storage
        self.task = record
        self.log = TaskLog(record.action, record.task_id)
        self.deadline = deadline
        self.children = 0
        self.unsubmitted = None
        self.ended_children = {}

    @property
    def cancelled(self) -> bool:
        return False

    async def checkpoint(self) -> None:
        return

    async def progress(self, value: Any) -> None:
        return

    async def submit(self, action: str, payload: Any = None, **options: Any) -> TaskRecord:
        raise UnsupportedOperationError(
            "an action without a task has no children", remedy="submit it as a task"
        )
