"""The stores on which tasks run, each without the tasks of other tests."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError
from storage_lib.manager import StorageManager
from storage_lib.tasks.model import EVENT_QUEUE, TASK_QUEUE, TASK_TABLE


@asynccontextmanager
async def opened(
    store: tuple[str, Any], folder: Path, clock: Callable[[], float] = time.time
) -> AsyncIterator[StorageManager]:
    """:param store: as the fixture `task_store` gives it. :param clock: Azurite has its own."""
    kind, server = store
    if kind == "memory":
        backend: Any = MemoryBackend(clock=clock)
    elif kind == "file":
        backend = FileStorageBackend(folder, clock=clock)
    else:
        backend = AzureStorageBackend(server.connection_string, container=f"tasks-{uuid.uuid4().hex}")
    async with StorageManager(backend=backend) as storage:
        if server is not None:
            await _emptied(backend)
        yield storage


async def _emptied(backend: Any) -> None:
    for queue in [EVENT_QUEUE, *[name async for name in backend.queues.list_queues(TASK_QUEUE)]]:
        with contextlib.suppress(KeyNotFoundError):
            await backend.queues.clear(queue)
    with contextlib.suppress(KeyNotFoundError):
        async for entity in backend.tables.iterate(TASK_TABLE):
            await backend.tables.delete(TASK_TABLE, entity.partition_key, entity.row_key)
