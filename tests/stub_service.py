"""A service made of a function, for answers that no emulator gives."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class Request:
    """``target`` is path and query as they were sent; names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    pause: float = 0.0
    """In seconds, between the halves of the body."""


class StubService:
    """Answers every request as ``answer`` says, which may be a coroutine function; ``seen`` has the requests.
    An async context manager."""

    def __init__(self, answer: Callable[[Request], Answer | Awaitable[Answer]]) -> None:
        self.answer = answer
        self.seen: list[Request] = []
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        # asyncio loses a connection, open, that it has accepted when its server closes and not yet served.
        for socket in self._server.sockets:
            asyncio.get_running_loop().remove_reader(socket.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        self._server.close()
        self._server.close_clients()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()  # also where the client went away meanwhile

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, target, _ = lines[0].split()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, body)
        self.seen.append(request)
        answer = self.answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
        given = {"Content-Length": str(len(answer.body)), "Connection": "close", **answer.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"HTTP/1.1 {answer.status} Whatever\r\n{head}\r\n".encode())
        if method != "HEAD":
            half = len(answer.body) // 2
            writer.write(answer.body[:half])
            if answer.pause:
                await writer.drain()
                await asyncio.sleep(answer.pause)
            writer.write(answer.body[half:])
        await writer.drain()
