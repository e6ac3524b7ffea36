"""Limits of a migration: bytes a second, and bytes in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

_MEMORY_BYTES = 64 * 1024 * 1024
_STREAM_BYTES = 32 * 1024 * 1024
"""What a stream holds: the parts on their way up, and what is read ahead."""


class Bandwidth:
    """Takes as long as the bytes may take; a second's worth may pass at once."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._free_at = time.monotonic()

    async def use(self, size: int) -> None:
        """Wait until ``size`` bytes may pass."""
        if self._rate is None or not size:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - 1) + size / self._rate
        if (pause := self._free_at - now) > 0:
            await asyncio.sleep(pause)

    async def metered(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The chunks, no faster than they may pass."""
        async for chunk in chunks:
            await self.use(len(chunk))
            yield chunk


class Memory:
    """Keeps objects waiting while others fill the memory that there is for them."""

    def __init__(self) -> None:
        self._free = _MEMORY_BYTES
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, size: int, *, is_stream: bool) -> AsyncGenerator[None]:
        """While an object of ``size`` bytes, or a stream, is being copied."""
        size = _STREAM_BYTES if is_stream else min(size, _MEMORY_BYTES)
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            async with self._changed:
                self._free += size
                self._changed.notify_all()
