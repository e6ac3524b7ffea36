"""A private folder for one analysis: objects come in and a result goes out as files, never through memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from actions.stored.errors import AnalysisLimitError
from actions.stored.limits import Limits
from storage_lib import values
from storage_lib.errors import (
    KeyNotFoundError,
    ObjectTooLargeError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.object_model import ObjectInfo
from storage_lib.tasks.context import TaskContext

_ATTEMPTS = 100
_GENERATED = "generated-by"
_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
"""By loop, for a semaphore belongs to one."""


class Workspace:
    """What `open` gives: the folder, the limits, and what is left of them."""

    def __init__(self, context: TaskContext, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self._context = context
        self._room = limits.object_bytes

    async def fetch(self, key: str, name: str, field: str) -> tuple[Path, ObjectInfo]:
        """Copy an object into a file of the folder.

        :raises ObjectTooLargeError: the objects of this task are larger than they may be together.
        """
        path = self.folder / name
        async with self._context.storage.open_reader(key) as reader:
            self._take(reader.info.size, field)
            with path.open("xb") as file:
                async for chunk in reader:
                    await asyncio.to_thread(file.write, chunk)
        return path, reader.info

    async def run(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Call ``function`` in a process of its own, which ends when its time is over.

        :raises AnalysisLimitError: it is.
        """
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._context.run_isolated(function, *args)
        except TimeoutError as error:
            raise AnalysisLimitError(
                "it takes longer than it may",
                limit=f"{self.limits.seconds} seconds",
                remedy="analyse less at once, or raise AGENT_ANALYSIS_SECONDS",
            ) from error

    def _take(self, size: int, field: str) -> None:
        self._room -= size
        if self._room < 0:
            raise ObjectTooLargeError(
                f"the objects to read are at least {self.limits.object_bytes - self._room} bytes",
                field=field,
                limit=f"{self.limits.object_bytes} bytes together",
                remedy="split them, or raise AGENT_ANALYSIS_OBJECT_MB",
            )


@contextlib.asynccontextmanager
async def workspace(context: TaskContext) -> AsyncGenerator[Workspace]:
    """A folder that only this user may enter, until the end. As many at once as there are processors."""
    limits = Limits.from_env()
    loop = asyncio.get_running_loop()
    async with _places.setdefault(loop, asyncio.Semaphore(os.process_cpu_count() or 1)):
        folder = Path(tempfile.mkdtemp(prefix="agent-analysis-"))
        try:
            yield Workspace(context, folder, limits)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


async def put(
    context: TaskContext,
    key: str,
    content: Path | dict[str, Any],
    generated_by: str,
    *,
    overwrite: bool,
    content_type: str = values.JSON,
) -> None:
    """Write a result: a file's bytes, or a JSON value. Unless ``overwrite``, it takes the place of an earlier
    result of the same action only.

    :raises PreconditionFailedError: there is another object.
    """
    metadata = {_GENERATED: generated_by, "task-id": context.task.task_id}
    condition: dict[str, Any] = {} if overwrite else {"if_absent": True}
    for _ in range(_ATTEMPTS):
        try:
            await _write(context.storage, key, content, content_type, metadata, condition)
            return
        except PreconditionFailedError as error:
            try:
                there = await context.storage.info(key, fresh=True)
            except KeyNotFoundError:
                condition = {"if_absent": True}
                continue
            if there.metadata.get(_GENERATED) != generated_by:
                raise PreconditionFailedError(
                    f"object {key!r} exists and was not written by {generated_by.replace('-', '_')}",
                    field="output",
                    remedy='choose another output, or say "overwrite": true',
                ) from error
            condition = {"if_match": there.etag}  # Another task's, or an earlier one: the later one stays.
    raise TransientStorageError(f"object {key!r} is being replaced all the time")


async def _write(
    storage: StorageManager,
    key: str,
    content: Path | dict[str, Any],
    content_type: str,
    metadata: dict[str, str],
    condition: dict[str, Any],
) -> None:
    if isinstance(content, dict):
        await storage.save(key, content, metadata=metadata, **condition)
        return
    with content.open("rb") as file:
        await storage.write_stream(key, file, content_type=content_type, metadata=metadata, **condition)
