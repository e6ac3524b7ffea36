"""The server of the protocol: what it says of itself, and which part of the app answers which request."""

from __future__ import annotations

import functools
import logging
from typing import Any

import azure.functions as func
import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, PaginatedRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from functions.answers import json_response
from functions.headers import header
from functions.mcp import jobs, messages, resources, schemas
from functions.mcp.calls import RefusedError, arguments_schema, called, seconds
from functions.mcp.exchange import exchanged as _exchanged
from functions.mcp.exchange import request
from functions.mcp.results import protocol_error, refusal, result_of
from functions.mcp.tools import TOOLS, Tool
from functions.state import state
from storage_lib.errors import StorageError

_log = logging.getLogger("AOS.Mcp")
_INSTRUCTIONS = (
    "Objects are JSON values, texts and bytes under keys such as reports/2026/q1.json; they are resources,"
    " too. Use etags with if_match to change only what you have seen. Tasks run actions (list_actions) in the"
    " background; their records stay. Errors name the field, the limit and the remedy."
)
type Context = ServerRequestContext[Any, Any]


async def exchanged(req: func.HttpRequest, body: bytes, *, takes_events: bool) -> func.HttpResponse:
    """The answer to a message."""
    if (fault := messages.fault(body)) is not None:
        return json_response(fault, status=400)
    # Without a token nothing is told but the answer. In older revisions the SDK's events leave a watcher of
    # its own server's end behind, for ever.
    is_modern = header(req, "MCP-Protocol-Version") in MODERN_PROTOCOL_VERSIONS
    as_events = takes_events and is_modern and b'"progressToken"' in body
    return await _exchanged(_server(), req, body, as_events=as_events)


class _Server(Server[Any]):
    """One that says that it has tasks, in either way."""

    def get_capabilities(self, *args: Any, **kwargs: Any) -> types.ServerCapabilities:
        found = super().get_capabilities(*args, **kwargs)
        if kwargs.get("protocol_version") in MODERN_PROTOCOL_VERSIONS:
            return found.model_copy(update={"extensions": {jobs.EXTENSION: {}}})
        tasks = types.ServerTasksCapability.model_validate(
            {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
        )
        return found.model_copy(update={"tasks": tasks})


@functools.cache
def _server() -> Server[Any]:
    """Made once in a process: it knows nothing of who asks."""
    # It tells of each request that it begins and ends.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    call: Any = _call_tool  # A task is a dict, which no class describes.
    server = _Server(
        "agent-storage",
        version="1",
        title="Agent storage",
        instructions=_INSTRUCTIONS,
        on_list_tools=_list_tools,
        on_call_tool=call,
        on_list_resources=resources.listed,
        on_list_resource_templates=_list_templates,
        on_read_resource=resources.read,
        on_completion=resources.completed,
        get_tool_input_schema=lambda name: None,  # No argument is to be in a header.
    )
    for method, params, handler in (
        ("tasks/get", jobs.TaskParams, jobs.get),
        ("tasks/result", jobs.TaskParams, jobs.result),
        ("tasks/list", PaginatedRequestParams, jobs.listed),
        ("tasks/cancel", jobs.TaskParams, jobs.cancelled),
        ("tasks/update", jobs.TaskParams, jobs.updated),
    ):
        server.add_request_handler(method, params, handler)  # pyright: ignore[reportArgumentType]
    # A request is a span already (functions/tracing.py).
    server.middleware[:] = [_errors_told, _calls_as_tasks]
    return server


async def _errors_told(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Errors in the words of the protocol; only this library's show their details."""
    try:
        return await call_next(ctx)
    except (StorageError, RefusedError) as error:
        raise protocol_error(error, ctx.protocol_version) from error
    except MCPError:
        raise
    except ValidationError as error:
        raise MCPError(types.INVALID_PARAMS, *_wrong_params(error)) from error
    except Exception as error:
        _log.exception("%s failed", ctx.method)
        raise MCPError(types.INTERNAL_ERROR, "the server failed; its log has the details") from error


def _wrong_params(error: ValidationError) -> tuple[str, dict[str, Any]]:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    path = [str(each) for each in first["loc"] if each != "params"]
    field = ".".join(("params", *path))[:80]
    return f"{field}: {first['msg']}", {"field": field}


async def _calls_as_tasks(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Calls that a client of protocol 2025-11-25 wants as tasks. The SDK knows no such answer, and lets one
    pass that comes from here."""
    params = ctx.params or {}
    if ctx.method != "tools/call" or ctx.protocol_version != jobs.CORE_VERSION or params.get("task") is None:
        return await call_next(ctx)
    call = CallToolRequestParams.model_validate(params, by_name=False)
    tool = _tool(call.name)
    if not tool.runs:
        raise MCPError(
            types.METHOD_NOT_FOUND, f"{tool.name} is no task: call it without task", {"tool": tool.name}
        )
    record = await called(request.get(), tool, call.arguments or {})
    return jobs.created(record, ctx.protocol_version)


def _tool(name: str) -> Tool:
    for tool in TOOLS:
        if tool.name == name:
            return tool
    raise MCPError(types.INVALID_PARAMS, f"there is no tool {name[:80]!r}; tools/list has them")


async def _list_tools(ctx: Context, params: PaginatedRequestParams | None) -> types.ListToolsResult:
    _only_page(params)
    return types.ListToolsResult(tools=list(_tools()))


@functools.cache
def _tools() -> tuple[types.Tool, ...]:
    return tuple(
        types.Tool(
            name=tool.name,
            title=tool.title,
            description=_description(tool),
            input_schema=arguments_schema(tool),
            output_schema=schemas.given(tool),
            execution=types.ToolExecution(task_support="optional") if tool.runs else None,
            annotations=types.ToolAnnotations(
                title=tool.title,
                read_only_hint=tool.reads,
                destructive_hint=tool.destroys,
                idempotent_hint=tool.repeats or tool.reads,
                open_world_hint=False,
            ),
        )
        for tool in TOOLS
    )


def _description(tool: Tool) -> str:
    return state().registry.get(tool.action).description if tool.action else schemas.described(tool)


async def _call_tool(ctx: Context, params: CallToolRequestParams) -> HandlerResult:
    tool, arguments, req = _tool(params.name), params.arguments or {}, request.get()
    try:
        if not tool.runs:
            return result_of(await called(req, tool, arguments))
        wait = seconds(arguments)
        record = await called(req, tool, arguments)
        if jobs.wants_task(ctx):
            return jobs.created(record, ctx.protocol_version)
        return jobs.ended(await jobs.waited(req, record, wait, ctx.session.report_progress))
    except (StorageError, RefusedError) as error:
        names = tuple(arguments_schema(tool)["properties"])
        return refusal(error, names)


async def _list_templates(
    ctx: Context, params: PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    _only_page(params)
    return resources.templates()


def _only_page(params: PaginatedRequestParams | None) -> None:
    """:raises MCPError: another page is asked for than the first, which has everything."""
    if params is not None and params.cursor:
        raise MCPError(
            types.INVALID_PARAMS, "cursor: there is one page; ask for it without", {"field": "cursor"}
        )
