"""What the platform's web server refuses by itself: sizes, slow clients, malformed requests.

Source: the defaults of ``KestrelServerLimits``, and the host's own limit of bodies.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.web_protocol import RequestHandler

from devhost.answers import Answer

logger = logging.getLogger("devhost")

MAX_REQUEST_LINE_BYTES = 8 * 1024
MAX_HEADERS_BYTES = 32 * 1024
MAX_HEADERS = 100


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a connection may be idle, a head and the first bytes of a body may take, and how
    many bytes of a body must come in each second after that."""

    idle: float = 130.0
    head: float = 30.0
    body: float = 5.0
    bytes_per_second: float = 240.0


class BodyTooLargeError(Exception):
    """The request's body is longer than the limit; nothing was invoked."""


class BodyTooSlowError(Exception):
    """The request's body came at less than 240 bytes a second; nothing was invoked."""


class Server(web.Server):
    """aiohttp's server with Kestrel's limits and answers."""

    def __init__(self, handler: Any, patience: Patience = Patience()) -> None:
        super().__init__(handler)
        self._options: dict[str, Any] = {
            "patience": patience,
            "access_log": None,
            # A body arrives as it was sent: Content-Encoding is the app's business.
            "auto_decompress": False,
            "keepalive_timeout": patience.idle,
            "max_line_size": MAX_REQUEST_LINE_BYTES,
            "max_field_size": MAX_HEADERS_BYTES,
            "max_headers": MAX_HEADERS,
        }

    def __call__(self) -> RequestHandler:
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)


class Connection(RequestHandler):
    """One connection of a client."""

    __slots__ = ("_half_closed", "_in_head", "_patience", "_timer")

    def __init__(self, *arguments: Any, patience: Patience, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = patience
        self._in_head = False
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Until the first request; aiohttp's own timer begins with the first answer.
        self._timer = asyncio.get_running_loop().call_later(self._patience.idle, self.force_close)

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  # asyncio takes one
        """A client that sends no more after whole requests still gets their answers. Whether to stay open."""
        bodies = [body for _, body in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        self._half_closed = bool(self._messages) or self._request_in_progress
        return self._half_closed and all(body.is_eof() for body in bodies)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Close after the last answer to a client that sends no more."""
        finished = await super().finish_response(request, resp, start_time)
        if self._half_closed and not self._messages:
            self.close()
        return finished

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Not while an answer is sent, or the rest of a body that nobody wants is read.
        waits = self._waiter is not None and not self._messages
        if waits and self._in_head:
            return
        self._timer.cancel()
        self._in_head = waits
        if waits:
            # The beginning of a request, and not yet all its headers.
            self._timer = asyncio.get_running_loop().call_later(self._patience.head, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _too_slow(self) -> None:
        if self.transport is not None:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A request that is not HTTP is the client's fault: a status without a body, and no traceback."""
        if status == 500:
            # Without the query, which may hold a key.
            logger.error("devhost failed on %s", request.rel_url.raw_path, exc_info=exc)
        elif isinstance(exc, BadHttpMethod):
            status = 404
        elif isinstance(exc, LineTooLong):
            status = 414 if exc.args[1] == MAX_REQUEST_LINE_BYTES else 431
        elif "Too many headers" in str(message):
            status = 431
        logger.info("- - - %d: the request is malformed", status)
        return Answer(status, close=True)


def refused_head(request: web.BaseRequest) -> int | None:
    """The status for a request line or headers that are too long; None where they are not."""
    line = len(request.method) + len(request.raw_path) + len(" HTTP/1.1\r\n ")
    if line > MAX_REQUEST_LINE_BYTES:
        return 414
    size = sum(len(name) + len(value) + len(b": \r\n") for name, value in request.raw_headers)
    return 431 if size > MAX_HEADERS_BYTES or len(request.raw_headers) > MAX_HEADERS else None


async def read_body(
    request: web.BaseRequest,
    limit: int,
    patience: Patience = Patience(),
) -> bytes:
    """The body as the host hands it to a worker: whole, or empty where it is sent in chunks.

    :raises BodyTooLargeError: it announces more than ``limit`` bytes.
    :raises BodyTooSlowError: it comes too slowly.
    """
    if hdrs.TRANSFER_ENCODING in request.headers:
        return b""
    if (request.content_length or 0) > limit:
        raise BodyTooLargeError
    return b"".join([part async for part in parts_of_body(request, patience)])


async def parts_of_body(
    request: web.BaseRequest, patience: Patience = Patience(), silence: float = math.inf
) -> AsyncIterator[bytes]:
    """The body as it comes, which a client that waits for a word to send it gets now.

    :param silence: for how many seconds nothing may come.
    :raises BodyTooSlowError: it comes too slowly.
    """
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    loop = asyncio.get_running_loop()
    started = loop.time()
    size = 0
    while not request.content.at_eof():
        ends = started + max(patience.body, size / patience.bytes_per_second) + 1
        try:
            async with asyncio.timeout_at(min(ends, loop.time() + silence)):
                part = await request.content.readany()
        except TimeoutError:
            raise BodyTooSlowError from None
        size += len(part)
        yield part
