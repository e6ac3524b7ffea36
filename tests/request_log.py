"""A proxy that fails nothing and tells what a service was asked for, whole, and what it answered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.fault_proxy import FaultProxy, Faults, _body

_PIECE = 256 * 1024


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
        self.received = 0
        """The bytes of all requests so far, of those as well that did not come whole."""
        self._begun: list[tuple[str, str]] = []
        self._open = 0
        self._changed = asyncio.Condition()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until this holds of what was seen."""
        async with asyncio.timeout(120), self._changed:
            await self._changed.wait_for(holds)

    async def takes(self, count: int) -> None:
        """Until so many more bytes have arrived."""
        enough = self.received + count
        await self.until(lambda: self.received >= enough)

    async def reached(self, count: int, of: Callable[[str, str], bool], *, answered: bool) -> None:
        """Until so many more requests have begun to arrive, or were answered by the service.

        :param of: whether a request of this method and path counts.
        """
        begun, answers = len(self._begun), len(self.seen)

        def is_reached() -> bool:
            if answered:
                return sum(of(each.method, each.path) for each in self.seen[answers:]) >= count
            return sum(of(*each) for each in self._begun[begun:]) >= count

        await self.until(is_reached)

    async def settled(self) -> None:
        """Until the service has answered all that it was given, though nobody may wait for it any more."""
        await self.until(lambda: not self._open)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        self._begun.append((method, unquote(target.partition("?")[0])))
        await self._tell()
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = head + await self._received(reader, head)
        self._open += 1
        # It goes on when its client dies: the service has it.
        forwarding = asyncio.create_task(self._forward_and_tell(request, method, target))
        self._tasks.add(forwarding)
        forwarding.add_done_callback(self._tasks.discard)
        writer.write(await forwarding)
        await writer.drain()
        return True

    async def _received(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if found is None:
            return await _body(reader, head)
        pieces: list[bytes] = []
        left = int(found[1])
        while left:
            pieces.append(await reader.readexactly(min(left, _PIECE)))
            left -= len(pieces[-1])
            self.received += len(pieces[-1])
            await self._tell()
        return b"".join(pieces)

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

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
