"""Reads that are shared by all who want the same at the same time, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.layers.caching.cache import Cache
from storage_lib.layers.caching.entries import Entries, Entry, seen
from storage_lib.layers.caching.reading import Reading, another
from storage_lib.ports.object_model import ObjectInfo, StoredObject
from storage_lib.ports.streaming import one_chunk
from storage_lib.several import end

Read = Callable[[float], Awaitable[Entry]]
"""A read that begins now, at this moment of the cache's clock."""
Stream = tuple[ObjectInfo, int, AsyncGenerator[bytes]]

_TOO_LARGE = Entry("", None, None, 0)
"""What is told to those who wait for a stream that turns out to be too long to be shared."""


class SharedReads:
    """Does each read once for all who want the same, and keeps what it finds."""

    def __init__(self, cache: Cache, entries: Entries) -> None:
        self._cache = cache
        self._entries = entries
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End the reads that are still under way."""
        await end(self._tasks)
        self._tasks.clear()

    async def read(self, key: str, read: Read, *, fresh: bool, whole: bool) -> Entry:
        """What ``read`` finds, or another read that is under way.

        :param fresh: whether it has to begin now.
        :param whole: whether it reads the bytes, and not the info alone.
        """
        while not fresh and (other := self._joined(key, whole)) is not None:
            entry = await other.wait()
            if entry is None:
                return await read(self._cache.now())
            if entry is not _TOO_LARGE:
                return entry
        reading = Reading(self._cache.now(), whole=whole)
        self._cache.begin_read(key, reading)
        task = reading.start(lambda: self.kept(key, reading, read))
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await reading.wait() or await read(self._cache.now())

    async def kept(self, key: str, reading: Reading, read: Read) -> Entry:
        """What ``read`` finds; it is kept if nothing has overtaken ``reading``."""
        try:
            with reading.asking():
                entry = await read(reading.started)
        except BaseException as error:
            self._failed(key, reading, error)
            raise
        self._cache.end_read(key, reading, self._entries.kept(key, entry))
        return entry

    async def stream(self, key: str, open: Callable[[], Awaitable[Stream]], *, fresh: bool) -> Entry | Stream:
        """A whole object as an entry if it is small enough to be kept, else as a stream of the caller's
        own."""
        if not fresh and (other := self._joined(key, whole=True)) is not None:
            entry = await other.wait()
            return await open() if entry is None or entry is _TOO_LARGE else entry
        reading = Reading(self._cache.now(), whole=True)
        self._cache.begin_read(key, reading)
        try:
            with reading.asking():
                info, start, chunks = await open()
            entry = self._entries.of(key, info, None, reading.started)
            if self._entries.is_large(entry):
                self._cache.end_read(key, reading, entry)
                reading.finish(_TOO_LARGE)
                return info, start, chunks
            data = await _joined(chunks, seen(info).size)
            try:
                entry = await self._entries.verified(key, StoredObject(info, data), reading.started)
            except IntegrityError as error:
                self._failed(key, reading, error)
                reading.finish(None, another(error))
                return info, start, one_chunk(data)  # Its reader verifies it, too.
        except BaseException as error:
            self._failed(key, reading, error)
            reading.finish(None, another(error) if isinstance(error, Exception) else None)
            raise
        self._cache.end_read(key, reading, entry)
        reading.finish(entry)
        return entry

    def _joined(self, key: str, whole: bool) -> Reading | None:
        other = self._cache.reading(key)
        if other is None or not other.can_join(self._cache.now() - self._cache.ttl, whole=whole):
            return None
        self._cache.joined += 1
        return other

    def _failed(self, key: str, reading: Reading, error: BaseException) -> None:
        """An error is not kept, but that there is no object is known."""
        if isinstance(error, KeyNotFoundError):
            self._cache.end_read(key, reading, self._entries.none(key, reading.started))
        elif isinstance(error, IntegrityError):
            self._cache.end_read(key, reading, None)
        else:
            self._cache.give_up(key, reading)


async def _joined(chunks: AsyncGenerator[bytes], size: int) -> bytes:
    """All chunks; of more bytes than ``size`` only so many as show that there are more."""
    parts: list[bytes] = []
    length = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            parts.append(chunk)
            length += len(chunk)
            if length > size:
                break
    return b"".join(parts)
