"""What an action works with: `TaskContext`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from typing import Any, Protocol, TypedDict, Unpack

from storage_lib.errors import SerializationError, TransientStorageError
from storage_lib.manager import StorageManager
from storage_lib.tasks.jsonvalues import json_of
from storage_lib.tasks.lease import Lease
from storage_lib.tasks.model import Priority, TaskRecord, TaskStatus

MAX_PROGRESS_BYTES = 8 * 1024
_CHECK_SECONDS = 1.0
_ISOLATED_CHECK_SECONDS = 2.0


class TaskCancelledError(Exception):
    """The task was asked to stop. An action may clean up, and lets this exception pass."""


class ChildOptions(TypedDict):
    """How a child is run. No ``priority`` is that of its parent."""

    priority: Priority | None
    delay_seconds: float


class SubmitChild(Protocol):
    """Submits child number ``index`` of a task: the fields are checked at once, the rest is awaited."""

    def __call__(
        self, parent: TaskRecord, index: int, action: str, payload: Any, **options: Unpack[ChildOptions]
    ) -> Awaitable[TaskRecord]: ...


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """The logger ``AOS.Tasks.ACTION``, with the task's id before each message."""

    def __init__(self, action: str, task_id: str) -> None:
        super().__init__(logging.getLogger(f"AOS.Tasks.{action}"), {"task_id": task_id})
        # No task id contains a formatting character.
        self._prefix = f"task {task_id}: "

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the prefix to the message, and the id to the record as ``task_id``."""
        kwargs["extra"] = {
            **kwargs.get("extra", {}),
            "task_id": self.extra["task_id"] if self.extra else None,
        }
        return self._prefix + str(msg), kwargs


class TaskContext:
    """What an action gets.

    ``storage`` reads and writes objects; ``task`` is the record as it was when the run began; ``log`` is a
    logger; ``deadline`` is the time (in UTC) at which this run is ended. ``is_confined``: under an access
    policy, ``storage`` can do only what whoever submitted the task may, and no other store is to be used.
    """

    def __init__(
        self,
        storage: StorageManager,
        lease: Lease,
        log: TaskLog,
        deadline: datetime,
        submit_child: SubmitChild,
        *,
        is_confined: bool = False,
    ) -> None:
        self.storage = storage
        self.is_confined = is_confined
        self.task: TaskRecord = lease.record
        self.log = log
        self.deadline = deadline
        self._lease = lease
        self._submit_child = submit_child
        self._checked_at = time.monotonic()
        self._progress_at = float("-inf")
        self.children = 0
        """How many children this run has submitted."""
        self.unsubmitted: Exception | None = None
        """Why it is unknown whether a child was submitted. The run is then repeated, however it ends."""
        self.ended_children: dict[int, bool] = {}
        """Children that had ended in an earlier run, and whether they succeeded."""

    @property
    def cancelled(self) -> bool:
        """Whether the task is known to have been asked to stop; see `checkpoint`."""
        return self._lease.record.cancel_requested

    async def checkpoint(self) -> None:
        """Stop here if the task was asked to stop. Call it as often as you like: the record is read at most
        once a second.

        :raises TaskCancelledError: the task was asked to stop.
        """
        now = time.monotonic()
        if not self.cancelled and now - self._checked_at >= _CHECK_SECONDS:
            self._checked_at = now
            await self._lease.refresh()
        if self.cancelled:
            raise TaskCancelledError

    async def progress(self, value: Any) -> None:
        """Report progress: any small JSON value, shown in the record until the next one. It is written
        at most once a second; the last value is written with the end of the run. Also a `checkpoint`.

        :raises TaskCancelledError: the task was asked to stop.
        :raises SerializationError: the value is not JSON, or exceeds 8 KiB.
        """
        size = len(json_of(value, "progress"))
        if size > MAX_PROGRESS_BYTES:
            raise SerializationError(
                f"the progress is {size} bytes", field="progress", limit=f"{MAX_PROGRESS_BYTES} bytes"
            )
        now = time.monotonic()
        if now - self._progress_at >= _CHECK_SECONDS:
            self._progress_at = self._checked_at = now
            await self._lease.change(progress=value)
        else:
            self._lease.change_later(progress=value)
        await self.checkpoint()

    async def update_once(
        self, key: str, change: Callable[[Any], Any | Awaitable[Any]], **options: Any
    ) -> Any:
        """Like `StorageManager.update`, but applied once by this task, however often the task runs.

        The object's metadata ``task-id`` names the task that changed it last, so no other task may change the
        object between two runs of this one.
        """
        return await self.storage.update(key, change, once=("task-id", self.task.task_id), **options)

    async def run_isolated(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Any:
        """Call ``function`` in a separate process, for long computations and for parsing untrusted bytes. The
        event loop, leases and other requests go on meanwhile. The process ends with the task: at its time
        limit, on a request to stop, or with the host. Exceptions of ``function`` are raised here.

        :param function: a function at the top of a module, not ``async``. It gets no app settings.
        :param args: its arguments, which can be pickled.
        :param named: its keyword arguments.
        :raises StorageError: the process failed, or the result cannot be returned; see
            `storage_lib.tasks.isolation.run`.
        :raises TaskCancelledError: the task was asked to stop.
        """
        from storage_lib.tasks import isolation

        running = asyncio.ensure_future(isolation.run(function, *args, **named))
        try:
            while not (await asyncio.wait({running}, timeout=_ISOLATED_CHECK_SECONDS))[0]:
                await self.checkpoint()
            return running.result()
        finally:
            if running.cancel():
                await asyncio.wait({running})

    async def submit(
        self,
        action: str,
        payload: Any = None,
        *,
        priority: Priority | None = None,
        delay_seconds: float = 0,
    ) -> TaskRecord:
        """Submit a child task. After the action has returned, the task keeps running until all of its
        children have ended. It succeeds if they all did, and its result says how each of them ended.

        A run after a retry submits the same children in the same order and finds the existing ones; a run
        after a requeue runs those again that did not succeed. The order is that of the calls, so concurrent
        calls (`asyncio.gather`) are fine if every run makes them in the same order.

        :raises InvalidArgumentError: a field or the payload is invalid, or there are too many children; the
            action may go on without this one.
        :raises StorageError: it is unknown whether the child was submitted. The run has failed, even if the
            action goes on, and can submit no more.
        """
        if self.unsubmitted is not None:
            # A child submitted now would get the number of another one in the next run.
            raise self.unsubmitted
        index = self.children
        submitting = self._submit_child(
            self.task, index, action, payload, priority=priority, delay_seconds=delay_seconds
        )
        # Taken before the first await, so that concurrent calls get different numbers.
        self.children += 1
        try:
            record = await submitting
        except BaseException as error:
            known = isinstance(error, Exception)
            self.unsubmitted = error if known else TransientStorageError(f"child {index} may be missing")
            raise
        if record.is_final:
            self.ended_children[index] = record.status is TaskStatus.SUCCEEDED
        return record
