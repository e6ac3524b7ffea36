"""Long calls as tasks of the protocol, which are tasks of the app: their records survive a restart, and are
read by any instance.

Protocol 2025-11-25 has them in its core, asked for by the client; 2026-07-28 has the extension
``io.modelcontextprotocol/tasks``, by which the server decides.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import azure.functions as func
import msgspec
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, METHOD_NOT_FOUND, PaginatedRequestParams, RequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from functions.mcp.calls import asked
from functions.mcp.exchange import request
from functions.mcp.results import result_of
from functions.preferences import MAX_WAIT_SECONDS
from functions.state import state

EXTENSION = "io.modelcontextprotocol/tasks"
CORE_VERSION = "2025-11-25"
"""The revision that has tasks in its core."""
_RELATED = "io.modelcontextprotocol/related-task"
_POLL_MILLISECONDS = 1000
_MOST_SECONDS = 200.0
"""How long a request for a result waits: the platform ends it after 230 s."""
_STATUS = {"queued": "working", "running": "working", "cancelled": "cancelled"}
"""All others are ends with a result, which may be an error (``isError``)."""
_FAILED = ("failed", "dead", "cancelled")
type Context = ServerRequestContext[Any, Any]
type Report = Callable[[float, float | None, str | None], Awaitable[None]]


class TaskParams(RequestParams):
    """Those of a request about one task."""

    task_id: str


def wants_task(ctx: Context) -> bool:
    """Whether the client of protocol 2026-07-28 takes a task in place of a result."""
    known = ctx.session.client_capabilities
    extensions = None if known is None else known.extensions
    return _is_modern(ctx) and EXTENSION in (extensions or {})


def created(record: dict[str, Any], version: str) -> dict[str, Any]:
    """The answer to a call that has become a task."""
    shown = task_of(record, version)
    return {"resultType": "task", **shown} if version in MODERN_PROTOCOL_VERSIONS else {"task": shown}


def task_of(record: dict[str, Any], version: str) -> dict[str, Any]:
    """A task in the words of the protocol."""
    modern = version in MODERN_PROTOCOL_VERSIONS
    lifetime = int(state().task_retention_days * 86_400_000)
    shown: dict[str, Any] = {
        "taskId": record["task_id"],
        "status": _status(record, modern=modern),
        "createdAt": record["created_at"],
        "lastUpdatedAt": record["updated_at"],
        "ttlMs" if modern else "ttl": lifetime,
        "pollIntervalMs" if modern else "pollInterval": _POLL_MILLISECONDS,
    }
    if message := _message(record):
        shown["statusMessage"] = message
    return shown


def _status(record: dict[str, Any], *, modern: bool) -> str:
    status = _STATUS.get(record["status"])
    if status is not None:
        return status
    # In the extension, "failed" is for errors of the protocol alone.
    return "failed" if record["status"] in _FAILED and not modern else "completed"


def _message(record: dict[str, Any]) -> str:
    if record["error"] is not None:
        return str(record["error"]["message"])
    progress = record["progress"]
    if progress is None:
        return record["status"]
    return progress if isinstance(progress, str) else msgspec.json.encode(progress).decode()


def is_final(record: dict[str, Any]) -> bool:
    return record["status"] not in ("queued", "running")


def ended(record: dict[str, Any]) -> Any:
    """The result of the call that a task was."""
    return result_of(record, is_error=record["status"] in _FAILED)


async def waited(
    req: func.HttpRequest, record: dict[str, Any], seconds: float, report: Report
) -> dict[str, Any]:
    """The record of a task once it has ended, or as it is then.

    :param report: told of each progress.
    """
    until, steps = time.monotonic() + seconds, 0
    while not is_final(record) and (left := until - time.monotonic()) >= 1:
        query = {"wait": str(min(int(left), MAX_WAIT_SECONDS))}
        seen = {"If-None-Match": f'"{record["etag"]}"'}
        found = await asked(req, "get_task", path={"task_id": record["task_id"]}, query=query, headers=seen)
        if found:
            record, steps = found, steps + 1
            await report(steps, None, _message(record))
        elif until - time.monotonic() > left - 1:
            break  # It came at once: too many wait already.
    return record


async def get(ctx: Context, params: TaskParams) -> HandlerResult:
    """The answer to ``tasks/get``."""
    record = await asked(request.get(), "get_task", path={"task_id": params.task_id})
    shown = task_of(record, ctx.protocol_version)
    if _is_modern(ctx) and shown["status"] == "completed":
        shown["result"] = _dumped(record)
    return shown


async def result(ctx: Context, params: TaskParams) -> HandlerResult:
    """The answer to ``tasks/result`` of protocol 2025-11-25.

    :raises MCPError: the task has not ended within the time that a request may take.
    """
    _only(ctx, modern=False)
    req, task_id = request.get(), params.task_id
    record = await asked(req, "get_task", path={"task_id": task_id})
    record = await waited(req, record, _MOST_SECONDS, ctx.session.report_progress)
    if not is_final(record):
        raise MCPError(
            INVALID_PARAMS,
            f"task {task_id!r} has not ended, and a request waits for {_MOST_SECONDS:g} seconds at most,"
            " less if many wait; poll tasks/get, and ask again",
        )
    return {**_dumped(record), "_meta": {_RELATED: {"taskId": task_id}}}


async def listed(ctx: Context, params: PaginatedRequestParams) -> HandlerResult:
    """The answer to ``tasks/list`` of protocol 2025-11-25."""
    _only(ctx, modern=False)
    page = await asked(request.get(), "list_tasks", query={"cursor": params.cursor} if params.cursor else {})
    shown: dict[str, Any] = {"tasks": [task_of(each, ctx.protocol_version) for each in page["tasks"]]}
    return shown | ({"nextCursor": page["cursor"]} if page["cursor"] is not None else {})


async def cancelled(ctx: Context, params: TaskParams) -> HandlerResult:
    """The answer to ``tasks/cancel``: in protocol 2026-07-28 that it was heard.

    :raises MCPError: in protocol 2025-11-25, the task has ended.
    """
    req, path, modern = request.get(), {"task_id": params.task_id}, _is_modern(ctx)
    record = await asked(req, "get_task", path=path)
    if is_final(record):
        if modern:
            return {}
        raise MCPError(INVALID_PARAMS, f"task {params.task_id!r} has ended: it is {record['status']}")
    record = await asked(req, "cancel_task", path=path)
    return {} if modern else task_of(record, ctx.protocol_version)


async def updated(ctx: Context, params: TaskParams) -> HandlerResult:
    """The answer to ``tasks/update``: no task asks for input, and what was not asked for is ignored."""
    _only(ctx, modern=True)
    await asked(request.get(), "get_task", path={"task_id": params.task_id})
    return {}


def _is_modern(ctx: Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


def _only(ctx: Context, *, modern: bool) -> None:
    """:raises MCPError: the client's revision has no such method."""
    if _is_modern(ctx) is not modern:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", ctx.method)


def _dumped(record: dict[str, Any]) -> dict[str, Any]:
    return ended(record).model_dump(by_alias=True, mode="json", exclude_none=True, exclude={"result_type"})
