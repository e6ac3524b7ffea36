"""The HTTP side of the host: a request becomes an invocation, its result an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from devhost import kestrel, targets
from devhost.answers import Answer, to_answer
from devhost.errors import DevhostError
from devhost.invoker import Invoker
from devhost.keys import HostKeys
from devhost.origins import Cors, refusal
from devhost.routing import RouteTable
from devhost.runtime import http_datum

logger = logging.getLogger("devhost")

# Functions' own default, changed by the app setting FUNCTIONS_REQUEST_BODY_SIZE_LIMIT.
DEFAULT_BODY_LIMIT = 104_857_600
# From here on it is worth a line in the log that the host parses a body that may be JSON.
LARGE_JSON_BYTES = 1024 * 1024
STOP_SECONDS = 10.0
BY_LINK = ("save_by_link", "by_query_save_by_link", "load_by_link", "by_query_load_by_link")


@dataclass(eq=False)
class HttpServer:
    """Serves the routes on a bound socket. ``keys`` None asks for none, but lets no page of another site in
    (`devhost.origins`). With ``streams``, large objects go by links past the app (`devhost.direct`)."""

    routes: RouteTable
    invoker: Invoker
    keys: HostKeys | None = None
    body_limit: int = DEFAULT_BODY_LIMIT
    prefix: str = "api"
    hosts: frozenset[str] = frozenset()
    cors: Cors = field(default_factory=Cors)
    streams: bool = False
    _runner: web.ServerRunner | None = None

    async def start(self, bound: socket.socket) -> None:
        """Listen. When this returns, requests are answered.

        :raises DevhostError: someone else began to listen there since the socket was bound.
        """
        runner = web.ServerRunner(kestrel.Server(self._handle), shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, bound, backlog=512).start()
        except OSError as error:
            await runner.cleanup()
            raise DevhostError(f"cannot listen: {error.strerror}") from error
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening, answer what is being worked on, close."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        function, answer = await self._answer(request)
        logger.info(
            "%s %s %s %d %.1f ms",
            request.method,
            loggable(request.raw_path),
            function or "-",
            answer.status,
            (time.perf_counter() - started) * 1000,
        )
        return answer

    async def _answer(self, request: web.BaseRequest) -> tuple[str | None, Answer]:
        if (status := kestrel.refused_head(request)) is not None:
            return None, Answer(status, close=True)
        try:
            raw_path, raw_query = targets.split_target(request.raw_path)
            host = targets.host_name(request.headers.get(hdrs.HOST, ""), request.raw_path)
        except targets.BadTargetError:
            return None, Answer(400, close=True)
        headers = join_headers(request.headers)
        if self.keys is None:
            reason = refusal(host, headers, request.method, self.hosts, self.cors)
            if reason is not None:
                logger.warning("%s %s: %s", request.method, loggable(raw_path), reason)
                return None, refused(reason)
        origin = headers.get("origin")
        allowed = origin is not None and self.cors.allows(origin)
        if allowed and request.method == "OPTIONS" and "access-control-request-method" in headers:
            return None, Answer(204, self.cors.preflight(headers))
        function, answer = await self._function(request, raw_path, raw_query, headers)
        if allowed and origin is not None:
            answer.allow(self.cors.headers(origin))
        return function, answer

    async def _function(
        self, request: web.BaseRequest, raw_path: str, raw_query: str, headers: Mapping[str, str]
    ) -> tuple[str | None, Answer]:
        path = targets.decode_path(raw_path)
        found = self.routes.resolve(request.method, path)
        if found is None:
            if path == "/" and request.method in ("GET", "HEAD"):
                origin = f"{request.scheme}://{request.host}"
                needs_key = self.keys is not None
                accept = headers.get("accept", "")
                return None, landing(self.routes, self.prefix, origin, accept, needs_key=needs_key)
            if others := self.routes.methods(path):
                logger.info("there are functions for this path, but for %s only", ", ".join(others))
            return None, Answer(404)
        function = found.route.function
        if self.keys is not None and not self.keys.admits(
            found.route.auth_level, offered_key(request.headers, raw_query)
        ):
            return function.name, Answer(401)
        where = f"{request.method} {loggable(raw_path)}"
        url = f"{request.scheme}://{request.host}{targets.encode_path(path)}"
        url += f"?{raw_query}" if raw_query else ""
        query = targets.parse_query(raw_query)
        if self.streams and function.name in BY_LINK:
            from devhost import direct

            answer = await direct.answer(request, function.name, url, headers, query, found.values)
            if answer is not None:
                return function.name, answer
        try:
            body = await kestrel.read_body(request, self.body_limit)
        except kestrel.BodyTooLargeError:
            logger.warning(
                "%s: the body is larger than %d bytes, the platform's limit: 500 without a body, as there"
                " (app setting FUNCTIONS_REQUEST_BODY_SIZE_LIMIT)",
                where,
                self.body_limit,
            )
            return function.name, Answer(500, close=True)
        except kestrel.BodyTooSlowError:
            logger.warning("%s: the body comes too slowly: 500, as on the platform", where)
            return function.name, Answer(500, close=True)
        except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError):
            # The body did not arrive whole; a part of it must never be taken for the whole.
            return function.name, Answer(400, close=True)
        if hdrs.TRANSFER_ENCODING in request.headers:
            logger.warning("%s: the body is chunked; as on the platform, the function does not get it", where)
        if body[:1] == b"{" and len(body) >= LARGE_JSON_BYTES:
            logger.info("%s: the platform's host parses such a body, at some 30 times its size", where)
        value = http_datum(request.method, url, headers, query, found.values, body)
        return function.name, to_answer(function, await self.invoker.run(function, value), request.method)


def offered_key(headers: Mapping[str, str], raw_query: str) -> str | None:
    """The function key of a request: the first of the header, even an empty one, else of the query."""
    if "x-functions-key" in headers:
        return headers["x-functions-key"]
    query = parse_qsl(raw_query, keep_blank_values=True, errors="replace")
    return next((value for name, value in query if name.lower() == "code"), None)


def refused(reason: str) -> Answer:
    """403 with a problem (RFC 9457), for whoever sits at this machine; the platform has nothing like it."""
    problem = {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": reason}
    body = json.dumps(problem, separators=(",", ":")).encode()
    headers = {
        hdrs.CONTENT_TYPE: "application/problem+json",
        hdrs.CONTENT_LENGTH: str(len(body)),
        hdrs.CACHE_CONTROL: "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return Answer(403, headers, body, close=True)


def loggable(target: str) -> str:
    """The path alone, as ASCII: the query may hold a key."""
    return target.partition("?")[0].encode("ascii", "backslashreplace").decode()


def join_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case name, repeated ones joined by commas."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        joined[lower] = f"{joined[lower]},{value}" if lower in joined else value
    return joined


_CONSOLE = "console"
_GUIDES = (
    (_CONSOLE, "Console"),
    ("docs", "Documentation"),
    ("openapi.json", "OpenAPI document"),
    ("health/live", "Is it up?"),
)


def landing(routes: RouteTable, prefix: str, origin: str, accept: str, *, needs_key: bool) -> Answer:
    """For browsers the console, or a page if the app has none; text for everyone else.

    :param origin: of this host as the request names it.
    :param accept: the request's ``Accept``.
    """
    base = "/".join(part for part in (origin, prefix) if part)
    guides = [
        (title, f"{base}/{path}")
        for path, title in _GUIDES
        if routes.resolve("GET", f"/{prefix}/{path}".replace("//", "/")) is not None
    ]
    commands = _commands(routes, prefix, base, needs_key=needs_key)
    headers = {
        hdrs.CACHE_CONTROL: "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
    }
    if "text/html" in accept.lower():
        console = f"/{prefix}/{_CONSOLE}".replace("//", "/")
        if routes.resolve("GET", console) is not None:
            return Answer(302, headers | {hdrs.LOCATION: console}, b"")
        return Answer(200, headers | {hdrs.CONTENT_TYPE: "text/html; charset=utf-8"}, _page(guides, commands))
    lines = ["The function app is running.", *("" for _ in guides[:1])]
    lines += [f"{title + ':':<18} {url}" for title, url in guides]
    if commands:
        lines += ["", "Save an object, load it, list:", *(f"  {command}" for command in commands)]
    text = "\n".join([*lines, ""])
    return Answer(200, headers | {hdrs.CONTENT_TYPE: "text/plain; charset=utf-8"}, text.encode())


def _commands(routes: RouteTable, prefix: str, base: str, *, needs_key: bool) -> list[str]:
    """First requests, for an app that keeps objects."""
    if routes.resolve("PUT", f"/{prefix}/objects/a".replace("//", "/")) is None:
        return []
    key = " -H 'x-functions-key: HOST_KEY'" if needs_key else ""
    return [
        f"curl{key} -X PUT {base}/objects/configs/ceo.json -H 'Content-Type: application/json'"
        ' -d \'{"model": "large"}\'',
        f"curl{key} {base}/objects/configs/ceo.json",
        f"curl{key} '{base}/objects?prefix=configs/'",
    ]


def _page(guides: list[tuple[str, str]], commands: list[str]) -> bytes:
    links = "".join(f"<li><a href='{escape(url)}'>{escape(title)}</a></li>" for title, url in guides)
    shown = escape("\n".join(commands))
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'><title>The function app is running</title></head>"
        f"<body><h1>The function app is running</h1><ul>{links}</ul>"
        f"{f'<p>Save an object, load it, list:</p><pre>{shown}</pre>' if commands else ''}</body></html>\n"
    ).encode()
