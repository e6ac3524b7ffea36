"""A proxy for HTTP that counts requests and makes each take longer, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from devhost.azurite import ACCOUNT_KEY, ACCOUNT_NAME, Azurite


class Proxy:
    """Forwards to a port of this machine. ``seconds`` is how long each request is held before that;
    `requests` counts by method, and a batch of several is one."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.seconds = 0.0
        self.requests: Counter[str] = Counter()
        self._upstream = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def count(self) -> int:
        """Of all requests up to now."""
        return self.requests.total()

    def hold(self, seconds: float) -> None:
        """Each request from now on that long."""
        self.seconds = seconds

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call[T](self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        with suppress(OSError, EOFError, asyncio.CancelledError):
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._upstream, limit=2**20)
            back = asyncio.create_task(_copied(answers, writer))
            try:
                while True:
                    await self._one(reader, upstream)
            finally:
                back.cancel()
        for each in (writer, upstream):
            if each is not None:
                each.close()

    async def _one(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests[head.partition(b" ")[0].decode("latin-1")] += 1
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        upstream.write(head)
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            while (size := int((line := await reader.readline()).partition(b";")[0], 16)) >= 0:
                upstream.write(line + await reader.readexactly(size + 2))
                if not size:
                    break
        left = int(fields.get(b"content-length", b"0"))
        while left:
            part = await reader.read(min(left, 2**16))
            if not part:
                raise EOFError
            left -= len(part)
            upstream.write(part)
        await upstream.drain()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(2**16):
            writer.write(part)
            await writer.drain()
    writer.close()


class Proxies:
    """Those of Azurite's three services; ``blob``, ``queue`` and ``table`` are `Proxy`."""

    def __init__(self, server: Azurite) -> None:
        self.blob, self.queue, self.table = (
            Proxy(port) for port in (server.blob_port, server.queue_port, server.table_port)
        )
        self._all = self.blob, self.queue, self.table

    @property
    def count(self) -> int:
        """Of the requests to all three up to now."""
        return sum(each.count for each in self._all)

    def delay(self, seconds: float) -> None:
        """Hold each request from now on that long."""
        for each in self._all:
            each.seconds = seconds

    @property
    def connection_string(self) -> str:
        """What the app is given."""
        places = zip(("Blob", "Queue", "Table"), self._all, strict=True)
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
            + "".join(f"{name}Endpoint=http://127.0.0.1:{at.port}/{ACCOUNT_NAME};" for name, at in places)
        )

    def __enter__(self) -> Self:
        for each in self._all:
            each.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for each in self._all:
            each.__exit__(*error)
