"""The HTTP side of the host: a request becomes an invocation, its result an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import time
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any, cast
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from multidict import CIMultiDict

from devhost.errors import DevhostError
from devhost.invoker import Invoker
from devhost.keys import HostKeys
from devhost.routing import Match, MethodNotAllowed, RouteTable, decode_path
from devhost.runtime import Datum, Function, InvocationResult, http_datum

logger = logging.getLogger("devhost")

# Functions' own default, changed by the app setting FUNCTIONS_REQUEST_BODY_SIZE_LIMIT.
DEFAULT_BODY_LIMIT = 104_857_600
STOP_SECONDS = 10.0


class BodyTooLargeError(Exception):
    """The request's body is longer than the limit; nothing was invoked."""


class LengthRequiredError(Exception):
    """The request's body is chunked; nothing was invoked."""


class HttpServer:
    """Serves the routes on a bound socket. ``keys`` None lets every request in, as ``func start`` does."""

    def __init__(
        self,
        routes: RouteTable,
        invoker: Invoker,
        *,
        keys: HostKeys | None = None,
        body_limit: int = DEFAULT_BODY_LIMIT,
    ) -> None:
        self._routes = routes
        self._invoker = invoker
        self._keys = keys
        self._body_limit = body_limit
        self._runner: web.ServerRunner | None = None

    async def start(self, bound: socket.socket) -> None:
        """Listen. When this returns, requests are answered.

        :raises DevhostError: someone else began to listen there since the socket was bound.
        """
        # A body arrives as it was sent: Content-Encoding is the app's business.
        server = web.Server(self._handle, access_log=None, auto_decompress=False)
        runner = web.ServerRunner(server, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, bound, backlog=512).start()
        except OSError as error:
            await runner.cleanup()
            raise DevhostError(f"can not listen: {error.strerror}") from error
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening, answer what is being worked on, close."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        # A proxy's absolute form is the same resource as the path alone.
        target = re.sub(r"^https?://[^/?]*", "", request.raw_path, flags=re.IGNORECASE)
        function, answer = await self._answer(request, target)
        logger.info(
            "%s %s %s %d %.1f ms",
            request.method,
            loggable(target),
            function or "-",
            answer.status,
            (time.perf_counter() - started) * 1000,
        )
        return answer

    async def _answer(self, request: web.BaseRequest, target: str) -> tuple[str | None, web.Response]:
        raw_path, _, raw_query = target.partition("?")
        try:
            path = decode_path(raw_path)
            query = parse_query(raw_query)
            headers = join_headers(request.headers)
        except UnicodeError:
            return None, Answer(400)
        found = self._routes.resolve(request.method, path)
        if found is None:
            return None, Answer(404)
        if isinstance(found, MethodNotAllowed):
            return None, Answer(405, {hdrs.ALLOW: ", ".join(found.allow)})
        function = found.route.function
        if self._keys is not None:
            in_query = next((value for name, value in query.items() if name.lower() == "code"), None)
            offered = headers.get("x-functions-key") or in_query
            if not self._keys.admits(found.route.auth_level, offered):
                return function.name, Answer(401)
        try:
            body = await read_body(request, self._body_limit)
        except BodyTooLargeError:
            logger.warning(
                "%s %s: the body is larger than %d bytes, the platform's limit: 413 without a body, as there"
                " (app setting FUNCTIONS_REQUEST_BODY_SIZE_LIMIT)",
                request.method,
                loggable(target),
                self._body_limit,
            )
            return function.name, Answer(413, close=True)
        except LengthRequiredError:
            return function.name, length_required()
        except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError):
            # The body did not arrive whole; a part of it must never be taken for the whole.
            return function.name, Answer(400, close=True)
        result = await self._invoke(request, found, target, headers, query, body)
        return function.name, to_answer(function, result, request.method)

    async def _invoke(
        self,
        request: web.BaseRequest,
        match: Match,
        target: str,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
    ) -> InvocationResult:
        function = match.route.function
        value = http_datum(
            request.method,
            f"{request.scheme}://{request.host}{target}",
            headers,
            query,
            match.values,
            body,
        )
        return await self._invoker.run(function, [(str(function.trigger["name"]), value)])


class Answer(web.Response):
    """A response with nothing in it that was not put in, but Date and Content-Length."""

    def __init__(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, close: bool = False
    ) -> None:
        super().__init__(status=status, headers=headers, body=body or None)
        self._own = {name.lower() for name in self.headers}
        if close:
            self.force_close()

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for added in (hdrs.SERVER, hdrs.CONTENT_TYPE):
            if added.lower() not in self._own:
                self.headers.popall(added, None)


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body, never more of it than ``limit`` bytes in memory.

    :raises BodyTooLargeError: it announces more.
    :raises LengthRequiredError: it is chunked. On Azure such a body does not reach a Python worker
        (azure-functions-host, issues 4926 and 7930), and an empty object would be stored.
    """
    if hdrs.TRANSFER_ENCODING in request.headers:
        raise LengthRequiredError
    if (request.content_length or 0) > limit:
        raise BodyTooLargeError
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return b"".join([chunk async for chunk in request.content.iter_any()])


def length_required() -> Answer:
    """411 with a problem (RFC 9457): the platform would hand over no body and say nothing."""
    problem = {
        "type": "urn:agent-storage:problem:length-required",
        "title": "Length Required",
        "status": 411,
        "detail": "the body is chunked; Azure Functions does not hand such a body to a Python worker",
        "field": "Transfer-Encoding",
        "remedy": "send the body with a Content-Length",
    }
    body = json.dumps(problem, separators=(",", ":")).encode()
    return Answer(411, {hdrs.CONTENT_TYPE: "application/problem+json"}, body, close=True)


def loggable(target: str) -> str:
    """The path alone, as ASCII: the query may hold a key."""
    return target.partition("?")[0].encode("ascii", "backslashreplace").decode()


def parse_query(raw: str) -> dict[str, str]:
    """Query values by name. As on the host, a repeated name (in any case) has its values joined by
    commas, and a name without a value does not reach the worker at all.

    :raises UnicodeError: it is not UTF-8.
    """
    values: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for name, value in parse_qsl(raw, keep_blank_values=True, errors="strict"):
        value.encode()
        values.setdefault(spelling.setdefault(name.lower(), name), []).append(value)
    joined = {name: ",".join(each) for name, each in values.items()}
    return {name: value for name, value in joined.items() if value}


def join_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case name, repeated ones joined by commas.

    :raises UnicodeError: a value is not UTF-8.
    """
    joined: dict[str, str] = {}
    for name, value in headers.items():
        value.encode()
        lower = name.lower()
        joined[lower] = f"{joined[lower]},{value}" if lower in joined else value
    return joined


def to_answer(function: Function, result: InvocationResult, method: str) -> Answer:
    """What the host answers: the function's response, 204 where it has none, 500 where it failed."""
    if not result.ok:
        return Answer(500)
    value = _response_datum(function, result)
    if value is None or value.type is None:
        return Answer(204)
    if value.type == "string":
        return Answer(200, {hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"}, str(value.value).encode())
    try:
        return _from_datum(cast("dict[str, Any]", value.value), method)
    except (ValueError, TypeError, KeyError) as error:
        logger.error("%s answered with what is not a response: %s", function.name, error)
        return Answer(500)


def _response_datum(function: Function, result: InvocationResult) -> Datum | None:
    for binding in function.bindings:
        if binding["type"] == "http":
            name = binding["name"]
            return result.return_value if name == "$return" else dict(result.outputs).get(str(name))
    return None


def _from_datum(response: dict[str, Any], method: str) -> Answer:
    status = int(response["status_code"].value)
    if not 200 <= status <= 999:
        raise ValueError(f"status {status}")
    body = bytes(response["body"].value)
    headers = CIMultiDict[str]((name, str(value.value)) for name, value in response["headers"].items())
    # Framing belongs to the connection. Only where there is no body does the app know the length
    # better: of what GET would have sent.
    headers.popall(hdrs.TRANSFER_ENCODING, None)
    if body or not (method == "HEAD" or status == 304):
        headers.popall(hdrs.CONTENT_LENGTH, None)
    for jar in cast("list[SimpleCookie]", response.get("cookies") or []):
        for cookie in jar.values():
            headers.add(hdrs.SET_COOKIE, cookie.OutputString())
    return Answer(status, headers, body)
