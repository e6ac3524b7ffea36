"""The tasks of an app, through its HTTP API: the methods of `TaskEngine` for clients."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, Unpack, cast
from urllib.parse import quote

import msgspec

from storage_lib.arguments import seconds as number_of_seconds
from storage_lib.backends.http.answers import decoded, not_ours
from storage_lib.backends.http.client import HttpClient, Response
from storage_lib.backends.http.errors import PROBLEM, error_of
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS, DEFAULT_RETRY_ATTEMPTS, StorageConfig
from storage_lib.errors import ConfigurationError, KeyNotFoundError, StorageError
from storage_lib.layers.retry.options import RetryOptions
from storage_lib.layers.retry.retrier import Retrier
from storage_lib.tasks.control import TaskStateError
from storage_lib.tasks.model import (
    TaskRecord,
    TaskStatus,
    check_agent_id,
    check_correlation_id,
    check_idempotency_key,
    check_task_id,
    check_trace_parent,
)
from storage_lib.tasks.records import RecordPage, TaskFilters, UnreadableRecord
from storage_lib.tasks.registry import UnknownActionError
from storage_lib.tasks.submission import IdempotencyConflictError, NewTask, payload_json

if TYPE_CHECKING:
    from storage_lib.tasks.bulk import BulkResult
    from storage_lib.tasks.counts import CountBy, TaskCounts

LONGEST_WAIT_SECONDS = 30
"""For how long an app holds an answer back."""
PAUSE_SECONDS = 1.0
"""From one request for a task to the next: an app for which enough wait already answers at once."""
_KINDS = {kind.code: kind for kind in (TaskStateError, IdempotencyConflictError, UnknownActionError)}


class RemoteTasks:
    """Submit, read and end the tasks of an app. Use it as an async context manager, or `close` it.

    Requests that fail transiently are repeated; a task is submitted once, even if an answer is lost.

    :param url: of the API, such as ``https://NAME.azurewebsites.net/api``.
    :param key: a function key of the app.
    :param retry_attempts: attempts in all for a request that fails transiently.
    """

    def __init__(
        self, url: str, *, key: str | None = None, retry_attempts: int = DEFAULT_RETRY_ATTEMPTS
    ) -> None:
        self._client = HttpClient(url, key, DEFAULT_CONCURRENT_REQUESTS, _KINDS)
        self._retrier = Retrier(RetryOptions(attempts=retry_attempts))

    @classmethod
    def of(cls, config: StorageConfig) -> Self:
        """Those of the app that is the store of ``config``.

        :raises ConfigurationError: its store is no app.
        """
        if config.storage_type != "http" or not config.http_url:
            raise ConfigurationError(
                f"storage_type is {config.storage_type!r}", field="storage_type", limit="http"
            )
        return cls(config.http_url, key=config.http_key, retry_attempts=config.retry_attempts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.close()

    async def submit(self, action: str, agent_id: str, payload: Any = None, **options: Any) -> TaskRecord:
        """Queue a task; when this returns, it will run. See `TaskEngine.submit`."""
        return await self.submit_new(NewTask(action=action, agent_id=agent_id, payload=payload, **options))

    async def submit_new(self, task: NewTask) -> TaskRecord:
        """Like `submit`, for a `NewTask`."""
        response = await self._post("tasks", f"submit {task.action!r}", _submitted(task), task.trace_parent)
        return _record(decoded(response.body, dict[str, Any], "submit"))

    async def submit_many(self, tasks: Sequence[NewTask]) -> list[TaskRecord | StorageError]:
        """Queue tasks, and return the record or the error of each. See `TaskEngine.submit_many`."""
        parent = next((task.trace_parent for task in tasks if task.trace_parent), None)
        body = {"tasks": [_submitted(task) for task in tasks]}
        response = await self._post("tasks", f"submit {len(tasks)} tasks", body, parent)
        found = decoded(response.body, _Submitted, "submit")
        return [self._outcome(each) for each in found.tasks]

    def _outcome(self, answer: dict[str, Any]) -> TaskRecord | StorageError:
        if (problem := answer.get("problem")) is None:
            return _record(answer)
        return self._error(problem)

    async def get(self, task_id: str) -> TaskRecord:
        """The record of a task, with its payload and result.

        :raises KeyNotFoundError: there is no such task.
        """
        return await self._get(task_id, 0)

    async def wait_for(self, task_id: str, seconds: float) -> TaskRecord:
        """The record of a task once it has ended, or as it is after that many seconds.

        :raises KeyNotFoundError: there is no such task.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + number_of_seconds("seconds", seconds, -math.inf, math.inf)
        while True:
            begun = loop.time()
            left = min(max(until - begun, 0), LONGEST_WAIT_SECONDS)
            record = await self._get(task_id, math.ceil(left))
            if record.is_final or loop.time() >= until:
                return record
            await asyncio.sleep(min(begun + PAUSE_SECONDS, until) - loop.time())

    async def list(
        self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> RecordPage:
        """A page of records, newest first, without large payloads and results. See `TaskEngine.list`."""
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {}) | _query(filters)
        page = await self._asked("tasks", "list tasks", _Page, query)
        return RecordPage([_record(each) for each in page.tasks], page.cursor, page.unreadable)

    async def count(
        self, *, by: CountBy | None = None, limit: int = 1000, **filters: Unpack[TaskFilters]
    ) -> TaskCounts:
        """How many tasks there are of each status, up to ``limit`` (10,000) of each. See
        `TaskEngine.count`."""
        from storage_lib.tasks.counts import TaskCounts

        doing, query = "count tasks", {"limit": str(limit)} | _query(filters) | ({"by": by} if by else {})
        found = await self._asked("tasks/counts", doing, _Counts, query)
        groups = None
        if by is not None:
            groups = {str(each[by]): cast("dict[str, int]", each["counts"]) for each in found.groups}
        return TaskCounts(found.counts, found.counted_up_to, found.at_least, groups)

    async def actions(self) -> list[dict[str, Any]]:
        """What can be submitted: each with its name, description, payload's JSON Schema, time limit and
        retries."""
        return (await self._asked("actions", "list actions", _Actions)).actions

    async def delete(self, task_id: str) -> None:
        """Remove the record of a task that has ended. See `TaskEngine.delete`.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has not ended, has children that have not, or its parent's record is there.
        """
        doing = f"delete task {task_id!r}"

        async def delete(unsure: bool) -> None:
            try:
                await self._client.send("DELETE", _path(task_id), doing=doing, expected=(204,))
            except KeyNotFoundError:
                if not unsure:
                    raise  # Otherwise it was deleted by the request whose answer was lost.

        await self._retrier.call(doing, delete)

    async def cancel_matching(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        dry_run: bool = False,
        **filters: Unpack[TaskFilters],
    ) -> BulkResult:
        """Cancel the tasks that filters find. See `TaskEngine.cancel_matching`."""
        return await self._change("cancel", limit, cursor, dry_run, filters)

    async def requeue_matching(
        self,
        *,
        limit: int = 100,
        cursor: str | None = None,
        dry_run: bool = False,
        **filters: Unpack[TaskFilters],
    ) -> BulkResult:
        """Run the tasks that filters find again. See `TaskEngine.requeue_matching`."""
        return await self._change("requeue", limit, cursor, dry_run, filters)

    async def _change(
        self, how: str, limit: int, cursor: str | None, dry_run: bool, filters: TaskFilters
    ) -> BulkResult:
        from storage_lib.tasks.bulk import BulkResult

        wanted: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        if "status" in wanted and not isinstance(wanted["status"], str):
            wanted["status"] = sorted(wanted["status"])
        body = {**wanted, "limit": limit, "cursor": cursor, "dry_run": dry_run}
        response = await self._post(f"tasks/{how}", f"{how} tasks", body)
        found = decoded(response.body, _Changed, f"{how} tasks")
        changed = [(each["task_id"], TaskStatus(each["status"])) for each in found.tasks]
        return BulkResult(
            changed, [(each["task_id"], self._error(each["problem"])) for each in found.failed], found.cursor
        )

    def _error(self, problem: dict[str, Any]) -> StorageError:
        body = msgspec.json.encode(problem)
        return error_of(int(problem["status"]), {"Content-Type": PROBLEM}, body, "submit", _KINDS)

    async def cancel(self, task_id: str) -> TaskRecord:
        """End a task that has not started, or ask a running one to stop.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it has ended in another way.
        """
        response = await self._post(f"{_path(task_id)}/cancel", f"cancel task {task_id!r}")
        return _record(decoded(response.body, dict[str, Any], "cancel"))

    async def requeue(self, task_id: str) -> TaskRecord:
        """Run a task that did not succeed again; its history is kept.

        :raises KeyNotFoundError: there is no such task.
        :raises TaskStateError: it succeeded, or has not ended.
        """
        doing = f"requeue task {task_id!r}"

        async def requeue(unsure: bool) -> TaskRecord:
            try:
                response = await self._client.send(
                    "POST", f"{_path(task_id)}/requeue", doing=doing, expected=(202,)
                )
            except TaskStateError:
                if not unsure:
                    raise
                return await self._get(task_id, 0)  # It was requeued by the request whose answer was lost.
            return _record(decoded(response.body, dict[str, Any], doing))

        return await self._retrier.call(doing, requeue)

    async def _get(self, task_id: str, wait: int) -> TaskRecord:
        doing, query = f"get task {task_id!r}", {"wait": str(wait)} if wait else None
        return _record(await self._asked(_path(task_id), doing, dict[str, Any], query))

    async def _asked[T](self, path: str, doing: str, kind: type[T], query: dict[str, str] | None = None) -> T:
        response = await self._retrier.step(
            doing, lambda: self._client.send("GET", path, doing=doing, query=query)
        )
        return decoded(response.body, kind, doing)

    async def _post(
        self, path: str, doing: str, body: Any = None, trace_parent: str | None = None
    ) -> Response:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if (parent := check_trace_parent(trace_parent)) is not None:
            headers["traceparent"] = parent
        sent = b"" if body is None else msgspec.json.encode(body)
        return await self._retrier.step(
            doing,
            lambda: self._client.send(
                "POST", path, doing=doing, headers=headers, body=sent, expected=(200, 202)
            ),
        )


class _Counts(msgspec.Struct):
    counts: dict[str, int]
    counted_up_to: int
    at_least: list[str]
    groups: list[dict[str, Any]] = []


class _Actions(msgspec.Struct):
    actions: list[dict[str, Any]]


class _Changed(msgspec.Struct):
    tasks: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    cursor: str | None = None


class _Submitted(msgspec.Struct):
    tasks: list[dict[str, Any]]


class _Page(msgspec.Struct):
    tasks: list[dict[str, Any]]
    cursor: str | None = None
    unreadable: list[UnreadableRecord] = []


def _query(filters: TaskFilters) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in cast("dict[str, Any]", filters).items():
        if value is None:
            continue
        if isinstance(value, datetime):
            value = value.isoformat()
        found[name] = value if isinstance(value, str) else ",".join(sorted(value))
    return found


def _path(task_id: str) -> str:
    return f"tasks/{quote(check_task_id(task_id), safe='')}"


def _submitted(task: NewTask) -> dict[str, Any]:
    """A task as it is sent. One without an idempotency key gets one, so that it may be sent again.

    :raises InvalidArgumentError: it cannot be sent as it is.
    """
    if task.idempotency_key is None:
        task = replace(task, idempotency_key=uuid.uuid4().hex)
    check_agent_id(task.agent_id)
    check_correlation_id(task.correlation_id)
    check_idempotency_key(task.idempotency_key)
    fields: dict[str, Any] = {
        "action": task.action,
        "agent_id": task.agent_id,
        "payload": None if task.payload is None else msgspec.Raw(payload_json(task.payload)),
        "correlation_id": task.correlation_id,
        "idempotency_key": task.idempotency_key,
        "delay_seconds": task.delay_seconds,
        "priority": task.priority,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _record(shown: dict[str, Any]) -> TaskRecord:
    """The record that an app shows; it tells how many children have ended, and not which."""
    fields = {name: value for name, value in shown.items() if value is not None}
    fields["trace_parent"] = fields.pop("traceparent", None)
    if (children := fields.get("children")) is not None:
        ended, failed = (1 << children["ended"]) - 1, (1 << children["failed"]) - 1
        fields["children"] = {"total": children["total"], "done": ended, "failed": failed}
    if (error := fields.get("error")) is not None:
        fields["error"] = {name: value for name, value in error.items() if value is not None}
    try:
        return msgspec.convert(fields, TaskRecord)
    except msgspec.ValidationError as error:
        raise not_ours(f"read a task: {error}") from error
