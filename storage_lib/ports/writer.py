"""An object that is being written, piece by piece: the counterpart of `ObjectReader`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Buffer, Callable
from contextlib import asynccontextmanager

from storage_lib.buffers import as_bytes
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.object_model import PutResult
from storage_lib.ports.streaming import ByteSource

_HELD_BYTES = 1024 * 1024
"""How much waits to be taken before `write` waits, too."""


class ObjectWriter:
    """The open end of a save. ``result`` is set once the block has ended."""

    def __init__(self, put: Callable[[ByteSource], Awaitable[PutResult]]) -> None:
        self.result: PutResult | None = None
        self.size = 0
        """How many bytes have been written."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = self._abandoned = False
        self._saving = asyncio.create_task(self._save(put))

    async def write(self, data: Buffer) -> int:
        """Add bytes and return how many they are. Waits while the store is slower than the writer.

        :param data: bytes or a bytes-like object, which may be reused afterwards.
        :raises StorageError: the save has failed; nothing will be stored.
        :raises InvalidArgumentError: ``data`` is not bytes-like, or the block has ended.
        """
        chunk = as_bytes(data, remedy="encode text")
        if self._closed:
            raise InvalidArgumentError(
                "the writer is closed", field="data", remedy="write inside the block of open_writer"
            )
        while self._held_bytes >= _HELD_BYTES and not self._saving.done():
            self._room.clear()
            await self._room.wait()
        if self._saving.done():
            self._saving.result()  # It can only have failed: the bytes have not ended.
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        self.size += len(chunk)
        self._more.set()
        return len(chunk)

    async def _finish(self) -> None:
        """Store what was written."""
        self._end()
        await self._saving

    async def _abandon(self) -> None:
        """Store nothing, and wait until nothing is left of it."""
        self._abandoned = True
        self._end()
        await asyncio.wait([self._saving])
        if not self._saving.cancelled():
            self._saving.exception()  # What went wrong in the block is what its caller is told.

    def _end(self) -> None:
        self._closed = True
        self._more.set()

    async def _save(self, put: Callable[[ByteSource], Awaitable[PutResult]]) -> None:
        try:
            self.result = await put(self._chunks())
        finally:
            self._room.set()

    async def _chunks(self) -> AsyncGenerator[bytes]:
        while True:
            await self._more.wait()
            if self._abandoned:
                raise _AbandonedError
            if self._held:
                chunk = self._held[0] if len(self._held) == 1 else b"".join(self._held)
                self._held.clear()
                self._held_bytes = 0
                self._room.set()
                if not self._closed:
                    self._more.clear()
                yield chunk
            elif self._closed:
                return


@asynccontextmanager
async def open_writer(put: Callable[[ByteSource], Awaitable[PutResult]]) -> AsyncGenerator[ObjectWriter]:
    """A writer of what ``put`` stores when the block has ended, and does not if it raises."""
    writer = ObjectWriter(put)
    try:
        yield writer
    except BaseException:
        await writer._abandon()  # pyright: ignore[reportPrivateUsage]
        raise
    await writer._finish()  # pyright: ignore[reportPrivateUsage]


class _AbandonedError(Exception):
    """The block of the writer has raised."""
