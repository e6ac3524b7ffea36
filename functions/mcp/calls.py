"""A call of a tool, made the request of the route that it stands for: its conditions, limits, rights and
errors are those of that route."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import azure.functions as func
import msgspec

from functions import access
from functions.addresses import api_path
from functions.batch import AnswerTooLargeError
from functions.bounded_storage import BoundedStorage
from functions.headers import header
from functions.mcp import messages
from functions.mcp.schemas import routes, taken
from functions.mcp.tools import CONDITION, WAIT, Tool
from functions.operations import operation
from functions.preferences import MAX_WAIT_SECONDS
from functions.state import state
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.backend import ObjectInfo
from storage_lib.spelling import refuse_unknown

MAX_LOADED_BYTES = 1024 * 1024
"""Larger objects are loaded by links: what a model reads is far shorter."""
_DEFAULT_AGENT = "mcp"
_MOST_DIGITS = 20


class RefusedError(Exception):
    """The route has answered with a problem.

    :ivar document: the problem.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        super().__init__(document.get("detail"))
        self.document = document


@functools.cache
def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of what a tool takes, with that of the payload of the action that it runs."""
    return taken(tool, state().registry.get(tool.action).payload_schema if tool.action else None)


async def called(req: func.HttpRequest, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool gives.

    :param req: the request that brought the call.
    :raises StorageError: it does not.
    :raises RefusedError: likewise.
    """
    schema = arguments_schema(tool)
    refuse_unknown(arguments, tuple(schema["properties"]), "argument")
    for name in schema.get("required", ()):
        if name not in arguments:
            raise InvalidArgumentError(f"{name} is missing", field=name, remedy=f"give {name}")
    exact = messages.arguments(req.get_body())
    if tool.operation:
        return await _operated(req, tool, exact, arguments)
    if tool.action:
        agent = arguments.get("agent_id")
        submission = {
            "action": tool.action,
            "agent_id": _own_agent() if agent is None else agent,
            "payload": {name: value for name, value in exact.items() if name not in ("agent_id", WAIT)},
        }
        return await asked(req, "submit_task", body=submission)
    return await _routed(req, tool, exact, arguments)


def seconds(arguments: Mapping[str, Any]) -> int:
    """How long to wait for the end of a task.

    :raises InvalidArgumentError: it is no such time.
    """
    found = arguments.get(WAIT, MAX_WAIT_SECONDS)
    if type(found) is not int or not 0 <= found <= MAX_WAIT_SECONDS:
        raise InvalidArgumentError(
            f"{WAIT} is {ascii(found)[:40]}", field=WAIT, limit=f"a whole number from 0 to {MAX_WAIT_SECONDS}"
        )
    return found


async def asked(
    req: func.HttpRequest,
    route: str,
    *,
    path: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    body: Any = msgspec.UNSET,
    media_type: str = "application/json",
) -> dict[str, Any]:
    """What a route of the app answers.

    :param req: the request on whose behalf it is asked.
    :raises StorageError: it refuses.
    :raises RefusedError: likewise.
    """
    found, path = routes()[route], path or {}
    target = found.template
    for name, value in path.items():
        target = target.replace("{" + name + "}", quote(value, safe=""))
    sent = {"Accept": "application/json", **(headers or {})}
    if (traced := header(req, "traceparent")) is not None:
        sent["traceparent"] = traced
    content = b""
    if body is not msgspec.UNSET:
        content, sent["Content-Type"] = msgspec.json.encode(body), media_type
    made = func.HttpRequest(
        found.methods[0],
        f"{base(req)}{target}",
        headers=sent,
        params=dict(query or {}),
        route_params=dict(path),
        body=content,
    )
    response = await found.handler.__wrapped__(made)
    document = msgspec.json.decode(response.get_body() or b"{}")
    if response.status_code >= 400:
        raise RefusedError(document)
    return document


def base(req: func.HttpRequest) -> str:
    """The URL of the app's API, as the request has it."""
    origin = re.match(r"[a-z]+://[^/]*", req.url, re.IGNORECASE)
    return f"{origin[0] if origin else ''}{api_path(req, 'mcp')}"


async def _operated(
    req: func.HttpRequest, tool: Tool, exact: Mapping[str, msgspec.Raw], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    raw = msgspec.Raw(msgspec.json.encode({"op": tool.operation, **exact}))
    found = operation(raw, f"{base(req)}/objects", None)

    try:
        done = await found.done(small_objects())
    except AnswerTooLargeError:
        return await _linked(req, arguments["key"])
    return msgspec.json.decode(msgspec.json.encode(done))


def small_objects() -> BoundedStorage:
    """The sender's storage, from which nothing is loaded that is too large for a message."""

    async def admit(info: ObjectInfo) -> None:
        if info.size > MAX_LOADED_BYTES:
            raise AnswerTooLargeError(
                f"object {info.key!r} has {info.size} bytes",
                field="uri",
                limit=f"{MAX_LOADED_BYTES} bytes in a message",
                remedy="load it by a link: the tool make_link",
            )

    return BoundedStorage(access.storage(), admit)


async def _linked(req: func.HttpRequest, key: str) -> dict[str, Any]:
    """What is known of an object, and a link to its bytes."""
    raw = msgspec.Raw(msgspec.json.encode({"op": "exists", "key": key}))
    known = await operation(raw, f"{base(req)}/objects", None).done(access.storage())
    link = await asked(req, "by_query_make_link", query={"key": key}, body={"method": "GET"})
    return {**msgspec.json.decode(msgspec.json.encode(known)), "link": link}


async def _routed(
    req: func.HttpRequest, tool: Tool, exact: Mapping[str, msgspec.Raw], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    route = routes()[tool.route]
    names = re.findall(r"\{(\w+)\}", route.template)
    path = {name: _text(name, arguments[name]) for name in names}
    known = route.described.parameters if route.described else ()
    query = {
        name: _text(name, arguments[name])
        for name in known
        if name in arguments and arguments[name] is not None
    }
    headers: dict[str, str] = {}
    if (tag := arguments.get(CONDITION)) is not None:
        tag = _text(CONDITION, tag)
        headers["If-Match"] = tag if tag == "*" or '"' in tag else f'"{tag}"'
    options: dict[str, Any] = {}
    if tool.whole:
        from functions.openapi.schemas import media_types

        options = {"body": exact[tool.whole], "media_type": media_types().get(tool.body, "application/json")}
    elif tool.body:
        taken_out = (*names, *known, CONDITION, WAIT)
        options = {"body": {name: value for name, value in exact.items() if name not in taken_out}}
    return await asked(req, tool.route, path=path, query=query, headers=headers, **options)


def _text(name: str, value: Any) -> str:
    """A value as it stands in a URL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**_MOST_DIGITS else "9" * _MOST_DIGITS  # No route takes it.
    if isinstance(value, str):
        return value
    raise InvalidArgumentError(
        f"{name} is a JSON {type(value).__name__}", field=name, limit="text or a number"
    )


def _own_agent() -> str:
    """The only agent whose tasks the sender may submit; else one that stands for all that come this way."""
    grant = access.grant()
    own = None if grant is None else grant.listed("tasks")
    return next(iter(own)) if own is not None and len(own) == 1 else _DEFAULT_AGENT
