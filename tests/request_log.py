"""A proxy that fails nothing and tells what a service was asked for, whole, and what it answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fault_proxy import FaultProxy, Faults, _body


class Request(NamedTuple):
    """A request that was received whole. ``query`` has the first value of each parameter; ``status`` is 0 if
    the service did not answer."""

    method: str
    path: str
    query: dict[str, str]
    status: int


class RequestLog(FaultProxy):
    """``seen`` has the requests that came whole, with the status of the answer. Requests of one path are
    forwarded side by side, as clients send them."""

    def __init__(self, port: int) -> None:
        super().__init__(port, Faults(0, 0))
        self.seen: list[Request] = []
        self._begun = 0
        self._open = 0
        self._changed = asyncio.Condition()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until this holds of what was seen."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(holds)

    async def reached(self, count: int, *, answered: bool) -> None:
        """Until so many more requests have begun to arrive, or were answered by the service."""
        begun, answers = self._begun + count, len(self.seen) + count
        await self.until(lambda: len(self.seen) >= answers if answered else self._begun >= begun)

    async def settled(self) -> None:
        """Until the service has answered all that it was given, though nobody may wait for it any more."""
        await self.until(lambda: not self._open)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        await self._tell(begun=1)
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = head + await _body(reader, head)
        self._open += 1
        # It goes on when its client dies: the service has it.
        forwarding = asyncio.create_task(self._forward_and_tell(request, method, target))
        self._tasks.add(forwarding)
        forwarding.add_done_callback(self._tasks.discard)
        writer.write(await forwarding)
        await writer.drain()
        return True

    async def _forward_and_tell(self, request: bytes, method: str, target: str) -> bytes:
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        status = 0
        try:
            answer = await self._forward(request, method)
            status = int(answer.split(b" ", 2)[1])
        finally:
            self._open -= 1
            self.seen.append(Request(method, unquote(parts.path), query, status))
            await self._tell()
        return answer

    async def _tell(self, begun: int = 0) -> None:
        async with self._changed:
            self._begun += begun
            self._changed.notify_all()
