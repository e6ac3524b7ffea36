"""Streams of compressed objects, a part or a piece at a time, the work done in threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from storage_lib import threads
from storage_lib.layers.compression.codecs import Gzip, Zstd
from storage_lib.layers.compression.expansion import Expansion, expanded_frame
from storage_lib.layers.compression.frames import FRAME_BYTES, Frame, Table, encoded_table
from storage_lib.layers.compression.mark import Mark, damaged
from storage_lib.ports.streaming import Parts

_GATHERED_BYTES = 256 * 1024
"""A way to a thread and back costs as much as it takes to expand some 50 KiB."""


async def framed(codec: Zstd, data: bytes, frame_bytes: int) -> list[Frame]:
    """``data`` in frames that are made side by side."""
    view = memoryview(data)
    pieces = [view[at : at + frame_bytes] for at in range(0, len(view), frame_bytes)]
    made = await asyncio.gather(*(threads.working.run(codec.compress, piece) for piece in pieces))
    return [Frame(frame, len(piece)) for frame, piece in zip(made, pieces, strict=True)]


class FramedStream:
    """``parts`` in frames; the next part is fetched while one is compressed.

    :param part_bytes: how many bytes all but the last of the parts have.
    """

    def __init__(self, codec: Zstd, parts: Parts, part_bytes: int) -> None:
        self._codec = codec
        self._parts = parts
        self._frame_bytes = FRAME_BYTES if part_bytes % FRAME_BYTES == 0 else part_bytes
        self._entries: list[bytes] = []
        self._stored = 0

    @property
    def mark(self) -> Mark:
        """The mark of the object, once the chunks have ended."""
        return Mark("zstd", self._parts.size, self._frame_bytes, self._stored)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """What to store."""
        jobs: deque[asyncio.Future[list[Frame]]] = deque()
        try:
            async for part in self._parts:
                jobs.append(asyncio.ensure_future(framed(self._codec, part, self._frame_bytes)))
                if len(jobs) > 1:
                    yield self._taken(await jobs[0])
                    jobs.popleft()
            while jobs:
                yield self._taken(await jobs[0])
                jobs.popleft()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        table = encoded_table(self._entries)
        self._stored += len(table)
        yield table

    def _taken(self, made: list[Frame]) -> bytes:
        chunk = b"".join(frame.stored for frame in made)
        self._stored += len(chunk)
        self._entries += [frame.entry for frame in made]
        return chunk


async def gzipped(codec: Gzip, parts: Parts) -> AsyncGenerator[bytes]:
    """``parts`` as one member."""
    compressor = codec.compressor()
    async for part in parts:
        if chunk := await threads.working.run(compressor.compress, part):
            yield chunk
    yield await threads.working.run(compressor.flush)


async def expanded(
    key: str, mark: Mark, chunks: AsyncGenerator[bytes], start: int, end: int
) -> AsyncGenerator[bytes]:
    """The bytes from ``start`` to ``end`` of what ``chunks`` expand to, which are read and checked to their
    end."""

    async def pieces() -> AsyncGenerator[bytes]:
        expansion = Expansion(key, mark)
        async with aclosing(_gathered(chunks)) as gathered:
            async for stored in gathered:
                found, more = expansion.pieces(stored), True
                while more:
                    piece, more = await threads.working.run(expansion.some, found)
                    if piece:
                        yield piece
        expansion.end()

    return await _begun(_cut(chunks, pieces(), 0, start, end))


async def expanded_frames(
    key: str, table: Table, frames: range, chunks: AsyncGenerator[bytes], start: int, end: int
) -> AsyncGenerator[bytes]:
    """The bytes from ``start`` to ``end`` of the object, which lie in these ``frames``; ``chunks`` are their
    stored bytes."""

    async def pieces() -> AsyncGenerator[bytes]:
        stored = bytearray()
        index = frames.start
        async for chunk in chunks:
            stored += chunk
            while index < frames.stop and len(stored) >= (length := table.stored_size(index)):
                frame = bytes(memoryview(stored)[:length])
                del stored[:length]
                table.check(index, frame)
                yield await threads.working.run(expanded_frame, key, frame, table.size(index))
                index += 1
        if index < frames.stop or stored:
            raise damaged(key, "what is stored has been cut")

    return await _begun(_cut(chunks, pieces(), table.start(frames.start), start, end))


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in pieces that are worth the way to a thread."""
    held: list[bytes] = []
    size = 0
    async for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= _GATHERED_BYTES:
            yield held[0] if len(held) == 1 else b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def _begun(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A generator that was never started would not close what it was given."""
    await anext(chunks)
    return chunks


async def _cut(
    chunks: AsyncGenerator[bytes], pieces: AsyncGenerator[bytes], at: int, start: int, end: int
) -> AsyncGenerator[bytes]:
    """An empty chunk, then the bytes from ``start`` to ``end`` of ``pieces``, which begin ``at`` and are made
    of ``chunks``."""
    async with aclosing(chunks):
        yield b""
        async with aclosing(_ahead(pieces)) as ready:
            async for piece in ready:
                if wanted := piece[max(start - at, 0) : max(end - at, 0)]:
                    yield wanted
                at += len(piece)


async def _ahead(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """``pieces``, none of them empty; the next one is made while one is used."""
    making = asyncio.ensure_future(anext(pieces, b""))
    try:
        while piece := await making:
            making = asyncio.ensure_future(anext(pieces, b""))
            yield piece
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await pieces.aclose()
