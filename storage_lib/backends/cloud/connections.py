"""Connections of our own to one server: HTTP/1.1, without a proxy, with whole bodies both ways.

A small request costs a third of the processor time that it takes through obstore, whose threads have to wake
the event loop for each answer, and a quarter of that through aiohttp. httptools reads the answers. What is
sent is sent once: a connection that breaks before the answer has ended fails the request, and whoever asked
decides what to do.

Source: RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from storage_lib.backends.cloud.sessions import CONNECT_SECONDS, READ_SECONDS, Response
from storage_lib.errors import BackendClosedError, InvalidArgumentError, StorageUnavailableError
from storage_lib.threads import naming

PIECE_BYTES = 256 * 1024
"""Of a body that are encrypted and given to the system at once: others have the event loop in between."""
MAX_IDLE = 32
"""That are kept between requests."""
_IDLE_SECONDS = 30.0
_CERTAIN_SECONDS = 1.0
"""A connection that has been idle for longer may have been closed without a word to this loop yet."""
_MAX_HEAD_BYTES = 64 * 1024
_JOINED_BYTES = 16 * 1024
_CODING = "transfer-encoding"


class Headers(Mapping[str, str]):
    """Of an answer; whatever the case of their names, which are lower here."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Connections:
    """Those to one server, in one event loop; as many as there are requests at a time.

    :param host: its name or address. :param context: with which TLS is spoken; None means plain HTTP.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._host = host
        self._port = port
        self._context = context
        shown = f"[{host}]" if ":" in host else host
        self._name = shown if port == (443 if context else 80) else f"{shown}:{port}"
        self._idle: list[_Connection] = []
        self._open = set[_Connection]()
        self._is_closed = False

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Awaitable[Response]:
        """The whole answer, whatever it says. Cancelled, the connection is cut.

        :param target: path and query, encoded.
        :raises StorageUnavailableError: there was no answer, or not to its end.
        :raises InvalidArgumentError: a header cannot be sent.
        :raises BackendClosedError: `close` was called before there was a connection.
        """
        head = self._head(method, target, headers, len(body))
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection.send(f"{method} {target.partition('?')[0]}", head, body)
            connection.abort()
        return self._connected(f"{method} {target.partition('?')[0]}", head, body)

    async def close(self) -> None:
        self._is_closed = True
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # They end in the next turn of the loop.

    def _head(self, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        text = f"{method} {target} HTTP/1.1\r\nHost: {self._name}\r\n{lines}Content-Length: {length}\r\n\r\n"
        ends = len(headers) + 4
        if text.count("\r") != ends or text.count("\n") != ends or not text.isascii() or "\0" in text:
            raise InvalidArgumentError(
                f"a header of {method} {target.partition('?')[0]} has a character that no header can have",
                limit="printable ASCII",
            )
        return text.encode()

    async def _connected(self, doing: str, head: bytes, body: bytes) -> Response:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await self._connect()
        except (OSError, TimeoutError, UnicodeError) as error:  # The last is of a name that none can have.
            why = str(error) or f"none within {CONNECT_SECONDS} s"
            told = f"{doing}: no connection to {self._name}: {why}"
            raise StorageUnavailableError(told, refused=True) from error
        if self._is_closed:
            connection.abort()
            raise BackendClosedError
        return await connection.send(doing, head, body)

    async def _connect(self) -> _Connection:
        """A new connection, to the first of its addresses that takes one."""
        # The loop's own look-up takes a thread of its pool, which may be full of users' work.
        ask = partial(socket.getaddrinfo, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        failure: Exception = OSError(f"{self._host} has no address")
        found = await naming.run(ask, self._host, self._port)
        for family, kind, protocol, _, address in found:
            try:
                # The system may have no such family.
                server = socket.socket(family, kind, protocol)
                return await self._connect_by(server, address, CONNECT_SECONDS / len(found))
            except (OSError, TimeoutError) as error:
                failure = error
        raise failure

    async def _connect_by(self, server: socket.socket, address: Any, seconds: float) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            server.setblocking(False)
            async with asyncio.timeout(seconds):
                await loop.sock_connect(server, address)
        except BaseException:
            server.close()
            raise
        secured = None if self._context is None else self._host
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._idle, self._open),
                sock=server,
                ssl=self._context,
                server_hostname=secured,
            )
        except BaseException:
            # Its transport closes it, and has the loop watch it until then: a descriptor that is closed
            # before is that of the next connection, which the loop would then watch no more.
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            raise
        return connection


class _Answer(asyncio.Future[Response]):
    """Of a request, whose connection is cut when nobody wants it any more: what was not yet sent is not."""

    connection: _Connection | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.connection is not None:
            self.connection.abort()
        return cancelled


class _Connection(asyncio.Protocol):
    """One request after the other. It puts itself among the ``idle`` ones when an answer has ended."""

    def __init__(self, idle: list[_Connection], every: set[_Connection]) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = idle
        self._every = every
        self._transport: asyncio.Transport | None = None
        self._answer: _Answer | None = None
        self._doing = ""
        self._reading = _Reading()
        self._is_sending = False
        self._full: asyncio.Future[None] | None = None
        """Waits until the system takes more."""
        self._since = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def is_usable(self) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        idle = self._loop.time() - self._since
        if idle < _CERTAIN_SECONDS:
            return True
        if idle > _IDLE_SECONDS:
            return False
        if not hasattr(select, "poll"):
            return False
        # Nothing is to come: what does is the end.
        waiting = select.poll()
        waiting.register(transport.get_extra_info("socket"), select.POLLIN)
        return not waiting.poll(0)

    def send(self, doing: str, head: bytes, body: bytes) -> Awaitable[Response]:
        if len(body) > PIECE_BYTES:
            return self._upload(doing, head, body)
        answer = self._begin(doing)
        assert self._transport is not None  # noqa: S101 - it is connected
        if len(body) <= _JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        return answer

    async def _upload(self, doing: str, head: bytes, body: bytes) -> Response:
        answer = self._begin(doing)
        self._is_sending = True
        try:
            transport = self._transport
            assert transport is not None  # noqa: S101 - it is connected
            transport.write(head)
            view = memoryview(body)
            for start in range(0, len(body), PIECE_BYTES):
                transport.write(view[start : start + PIECE_BYTES])
                if self._full is not None:
                    await asyncio.wait((answer, self._full), return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return await answer  # It does not want the rest.
                self._due = self._loop.time() + READ_SECONDS
            self._is_sending = False
            return await answer
        except BaseException:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # Nobody else asks for it.
            self.abort()
            raise
        finally:
            self._is_sending = False

    def _begin(self, doing: str) -> _Answer:
        self._doing = doing
        self._reading = _Reading()
        self._answer = answer = _Answer(loop=self._loop)
        answer.connection = self
        self._due = self._loop.time() + READ_SECONDS
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._watch)
        return answer

    def pause_writing(self) -> None:
        self._full = self._loop.create_future()

    def resume_writing(self) -> None:
        full, self._full = self._full, None
        if full is not None and not full.done():
            full.set_result(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - told to the type checker
        self._transport = transport
        self._every.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()  # Nobody has asked.
            return
        self._due = self._loop.time() + READ_SECONDS
        try:
            ended = self._reading.feed(data)
        except ValueError as error:
            self._failed(str(error) or "this is no answer in HTTP/1.1")
            return
        if ended:
            self._answered()

    def eof_received(self) -> bool:
        return False  # It is closed.

    def connection_lost(self, exc: Exception | None) -> None:
        self._every.discard(self)
        if self in self._idle:
            self._idle.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._answer is not None:
            if exc is None and self._reading.ends_with_connection:
                self._answered()
            else:
                self._failed(str(exc or "the connection ended before the answer"))
        self._transport = None

    def _answered(self) -> None:
        answer, self._answer = self._answer, None
        reading = self._reading
        if reading.may_stay and not self._is_sending and len(self._idle) < MAX_IDLE:
            self._since = self._loop.time()
            self._idle.append(self)
        else:
            self.abort()
        if answer is not None and not answer.done():
            answer.connection = None
            answer.set_result(reading.response())

    def _failed(self, why: str) -> None:
        answer, self._answer = self._answer, None
        self.abort()
        if answer is not None and not answer.done():
            answer.connection = None
            answer.set_exception(StorageUnavailableError(f"{self._doing}: {why}"))

    def _watch(self) -> None:
        self._timer = None
        if self._answer is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._watch)
        else:
            self._failed(f"nothing was heard for {READ_SECONDS} s")


class _Reading:
    """An answer, as far as it has come. httptools calls it, whose parser is Node's."""

    __slots__ = ("_fed", "_headers", "_is_ended", "_parser", "_pieces", "_status", "may_stay")

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self._fed = self._status = 0
        self._headers = dict[str, str]()
        self._pieces: list[bytes] = []
        self._is_ended = self.may_stay = False

    @property
    def ends_with_connection(self) -> bool:
        return bool(self._status) and not ("content-length" in self._headers or _CODING in self._headers)

    def feed(self, data: bytes) -> bool:
        """Whether that is all of it. :raises ValueError: it is no such answer."""
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:
            raise ValueError(str(error.__context__)) from error
        except (HttpParserError, HttpParserUpgrade) as error:
            raise ValueError(f"this is no answer in HTTP/1.1 ({error})") from error
        if not self._status:
            self._fed += len(data)
            if self._fed > _MAX_HEAD_BYTES:
                raise ValueError(f"the headers of the answer are longer than {_MAX_HEAD_BYTES} bytes")
        return self._is_ended

    def response(self) -> Response:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        return Response(self._status, Headers(self._headers), body)

    def on_message_begin(self) -> None:
        if self._is_ended:
            raise ValueError("the answer is longer than it says")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # Those behind a body are left out.
            key, text = name.decode("latin-1").lower(), value.decode("latin-1").rstrip(" \t")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._headers.clear()  # Another answer follows.
            return
        if (coding := self._headers.get(_CODING, "chunked")).lower() != "chunked":
            raise ValueError(f"the answer is sent in {coding!r}")
        self._status = status

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._is_ended = bool(self._status)
        self.may_stay = self._is_ended and self._parser.should_keep_alive()
