"""A TCP proxy for HTTP that fails on purpose: the same requests for the same seed."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

FAULTS = (
    "reset before",
    "reset after",
    "busy",
    "cut",
    "slow",
    "silent before",
    "silent after",
)
"""The connection is reset before the request is forwarded, or after it but before its answer; a 503 with
``Retry-After``; the answer is cut off in its middle; it comes in small pieces; there is none until the client
gives up, and the request was not, or was, forwarded."""

_LONGEST_SILENCE = 30.0
_BUSY = (
    b"HTTP/1.1 503 Server Busy\r\nRetry-After: 1\r\nx-ms-error-code: ServerBusy\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


@dataclass
class Faults:
    """Which requests fail. The choice depends on the seed, and on the method and path of a request and how
    many with these came before, so it does not depend on what else happens at the time.

    ``rate`` is the part of the requests; ``weights`` are by the names of `FAULTS`.
    """

    seed: int
    rate: float
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(FAULTS, 1.0))

    def __post_init__(self) -> None:
        self._before: Counter[tuple[str, str]] = Counter()

    def choose(self, method: str, target: str) -> str | None:
        path = target.partition("?")[0]
        self._before[method, path] += 1
        chance = random.Random(f"{self.seed} {method} {path} {self._before[method, path]}")
        if chance.random() >= self.rate:
            return None
        return chance.choices(list(self.weights), list(self.weights.values()))[0]


class FaultProxy:
    """Forwards what it is sent to ``port`` of this machine. An async context manager.

    Requests for one path are forwarded one after the other, in their order: what a client gave up waiting for
    cannot arrive after what it sent later, which no client could prevent.

    ``counts`` has how often each fault was done, ``"none"`` among them; ``unanswered`` counts requests that
    were forwarded and whose clients got no answer.
    """

    def __init__(self, port: int, faults: Faults) -> None:
        self.port = 0
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.unanswered = 0
        self._upstream = port
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass  # The proxy stops.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection can take another."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = head + await _body(reader, head)
        fault = self.faults.choose(method, target)
        self.counts[fault or "none"] += 1
        if fault == "reset before":
            return _reset(writer)
        if fault == "busy":
            writer.write(_BUSY)
            await writer.drain()
            return False
        if fault == "silent before":
            return await _silence(reader)
        async with self._turns[target.partition("?")[0]]:
            answer = await self._forward(request, method)
        if fault in ("reset after", "cut", "silent after"):
            self.unanswered += 1
        if fault == "reset after":
            return _reset(writer)
        if fault == "silent after":
            return await _silence(reader)
        if fault == "cut":
            writer.write(answer[: _middle(answer)])
            await writer.drain()
            return _reset(writer)
        pieces = 5 if fault == "slow" else 1
        for place in range(pieces):
            writer.write(answer[len(answer) * place // pieces : len(answer) * (place + 1) // pieces])
            await writer.drain()
            if fault == "slow":
                await asyncio.sleep(0.01)
        return True

    async def _forward(self, request: bytes, method: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream, limit=2**20)
        try:
            writer.write(request)
            await writer.drain()
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 100"):
                    break
            status = head.split(b" ", 2)[1]
            if method == "HEAD" or status in (b"204", b"304"):
                return head
            return head + await _body(reader, head, is_answer=True)
        finally:
            writer.close()


def _middle(answer: bytes) -> int:
    """The middle of the body, or of the head if there is no body."""
    begin = answer.index(b"\r\n\r\n") + 4
    return (begin + len(answer)) // 2 if len(answer) > begin else begin // 2


async def _body(reader: asyncio.StreamReader, head: bytes, *, is_answer: bool = False) -> bytes:
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        chunks: list[bytes] = []
        while True:
            line = await reader.readline()
            size = int(line.partition(b";")[0], 16)
            chunks += [line, await reader.readexactly(size + 2)]
            if not size:
                return b"".join(chunks)
    if b"content-length" in fields:
        return await reader.readexactly(int(fields[b"content-length"]))
    return await reader.read() if is_answer and fields.get(b"connection", b"") == b"close" else b""


def _reset(writer: asyncio.StreamWriter) -> bool:
    sock: socket.socket = writer.get_extra_info("socket")
    # Closing with no time to linger sends a reset instead of an orderly end.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _silence(reader: asyncio.StreamReader) -> bool:
    """Until the client closes the connection."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_LONGEST_SILENCE):
            await reader.read(1)
    return False
