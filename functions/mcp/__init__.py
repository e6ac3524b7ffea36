"""HTTP: the Model Context Protocol, by which agents use objects, tasks and conversations as their tools.

Every request stands alone: there are no sessions, so that any instance answers any of them. The protocol's
SDK takes more than half a second to import, and is imported by the first request that needs it.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import Any
from urllib.parse import urlsplit

import azure.functions as func

from functions import access
from functions.addresses import ORIGINS, admitted_origins
from functions.bodies import MAX_ITEMS, body_of, check_items, check_json_size, need_json, refuse_encoded
from functions.endpoint import Blueprint
from functions.headers import header
from functions.problems import problem
from functions.state import is_local, state
from storage_lib.errors import ForbiddenError, InvalidArgumentError

blueprint = Blueprint()
_ROUTE = "mcp"
_imported: list[Any] = []
"""The server, once it is whole."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_LARGE = "save a large object by a link: the tool make_link"


class MethodNotAllowedError(InvalidArgumentError):
    """There is nothing here to be read or deleted."""

    code = "method-not-allowed"


class NotAcceptableError(InvalidArgumentError):
    """The client does not take the media type of the answer."""

    code = "not-acceptable"


@blueprint.http(
    "POST",
    _ROUTE,
    headers=("Accept", "Origin", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"),
    body="McpMessage",
    answers={200: ("McpMessage", "McpEvents"), 202: "", 400: "McpMessage", 404: "McpMessage"},
    problems=(406,),
)
async def exchange_mcp_message(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/mcp``: exchange a message of the Model Context Protocol, JSON-RPC 2.0.

    Protocol 2026-07-28, and 2025-11-25 to 2024-11-05 after their ``initialize``. The answer to a request is
    JSON; server-sent events if the request has a ``progressToken`` and there was progress. A notification is
    answered by 202. A malformed message is 400 with a JSON-RPC error, and a method that there is not is 404
    in protocol 2026-07-28; errors before the message is looked at are problems.
    """
    app = state()
    _check_origin(req)
    await access.need_some("load", "list", "save", "delete", "tasks")
    need_json(req)
    refuse_encoded(req)
    body = body_of(req, app, _LARGE, large=_LARGE)
    check_json_size(body, app, "message", f"{_LARGE}; or raise AGENT_STORAGE_MAX_JSON_BYTES")
    check_items(body, MAX_ITEMS, "body", _LARGE)
    accepted = _accepted(req)
    if not _imported:  # In a thread: other requests need not wait for it.
        _imported[:] = [await asyncio.to_thread(importlib.import_module, "functions.mcp.server")]
    return await _imported[0].exchanged(req, body, takes_events="text/event-stream" in accepted)


@blueprint.http("GET HEAD", _ROUTE, answers={405: "Problem"}, is_open=True)
async def refuse_mcp_stream(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/mcp``: no stream. Answers are sent whole, and nothing else is: 405, which tells clients of
    the Model Context Protocol to do without."""
    return _refused(req)


@blueprint.http("DELETE", _ROUTE, answers={405: "Problem"}, is_open=True)
async def refuse_mcp_session_end(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/mcp``: no session, which could be ended: 405."""
    return _refused(req)


def _refused(req: func.HttpRequest) -> func.HttpResponse:
    response = problem(
        MethodNotAllowedError(
            f"{req.method} has nothing to work on: messages are not streamed, and there are no sessions",
            field="method",
            limit="POST",
            remedy="send messages by POST",
        )
    )
    response.headers["Allow"] = "POST"
    return response


def _accepted(req: func.HttpRequest) -> str:
    """Which media types the client takes, for it takes JSON.

    :raises NotAcceptableError: it does not.
    """
    accepted = (header(req, "Accept") or "*/*").lower()
    if not any(each in accepted for each in ("application/json", "application/*", "*/*")):
        raise NotAcceptableError(
            f"the client accepts {accepted[:80]!r}",
            field="Accept",
            limit="application/json",
            remedy="send Accept: application/json, text/event-stream",
        )
    return accepted


def _check_origin(req: func.HttpRequest) -> None:
    """See which web page may speak to agents' tools: without this, any page that someone visits could point a
    name of its own at an app on their machine (DNS rebinding), and use it with their rights.

    :raises ForbiddenError: the request comes from a page of another site.
    """
    origin = header(req, "Origin")
    if origin is None or origin.lower() in admitted_origins():
        return
    # What the header Host says proves nothing: a page that rebinds its name sends that name.
    if is_local() and _host(origin) in _LOOPBACK:
        return
    raise ForbiddenError(
        f"pages of {ascii(origin)[1:-1][:80]} may not use this",
        field="Origin",
        limit=f"origins of the app itself, and those of {ORIGINS}",
        remedy=f"have the origin added to {ORIGINS}; programs other than pages send no Origin",
    )


def _host(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None
