"""A request of the platform, handed to the protocol's SDK as one of ASGI, and the answer back. The platform
sends whole answers, and so does this."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import azure.functions as func
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from functions.headers import header
from storage_lib.ports.hints import within

_PASSED = ("accept", "content-type", "mcp-protocol-version", "mcp-method", "mcp-name")
"""What the SDK reads; who asks is no matter of its own."""
request: ContextVar[func.HttpRequest] = ContextVar("request")
"""The request whose message is handled."""


async def exchanged(
    server: Server[Any], req: func.HttpRequest, body: bytes, *, as_events: bool
) -> func.HttpResponse:
    """The answer to a message.

    :param as_events: whether progress is told before it.
    """
    named = {name: value for name in _PASSED if (value := header(req, name)) is not None}
    named |= {
        name.lower(): value for name, value in req.headers.items() if name.lower().startswith("mcp-param-")
    }
    named["accept"] = "application/json, text/event-stream"
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in named.items()],
        "client": None,
        "server": None,
    }
    waiting = [body]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # Of a client that leaves nobody tells the app.
        return {"type": "http.request", "body": waiting.pop(), "more_body": False}

    answer = _Answer()
    manager = StreamableHTTPSessionManager(
        server, json_response=not as_events, stateless=True, max_request_body_size=len(body) + 1
    )
    with within(request, req):
        async with manager.run():
            await manager.handle_request(scope, receive, answer.send)
    return answer.response()


class _Answer:
    """What the SDK sends, as a whole."""

    def __init__(self) -> None:
        self._status, self._headers, self._body = 500, dict[str, str](), bytearray()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self._body += message.get("body", b"")

    def response(self) -> func.HttpResponse:
        headers = {"Cache-Control": "no-store"}
        if self._body and (kind := self._headers.get("content-type")) is not None:
            headers["Content-Type"] = kind
        return func.HttpResponse(bytes(self._body), status_code=self._status, headers=headers)
