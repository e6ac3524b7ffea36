"""What every driver of a service's objects does: ranges, bodies and names as they come from obstore, and
parts on their way up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from storage_lib.backends.cloud.answers import Answer, told
from storage_lib.errors import IntegrityError, InvalidKeyError, TransientStorageError
from storage_lib.keys import validate_key, validate_prefix
from storage_lib.ports.drivers import PutOptions
from storage_lib.ports.kept_headers import headers_in
from storage_lib.ports.object_model import ByteRange, ListEntry
from storage_lib.ports.unlisted import leave_out

CHUNK_BYTES = 512 * 1024
"""Of a stream down: soon there, and small enough to be hashed without the way to a thread and back."""

Found = ListEntry | str
"""An entry of a listing, or a common prefix as a str."""


def name_of(found: Found) -> str:
    return found if isinstance(found, str) else found.key


def is_key(found: Found) -> bool:
    """Whether it can be one of ours; any other name is left out of listings."""
    try:
        validate_prefix(found) if isinstance(found, str) else validate_key(found.key)
    except InvalidKeyError:
        leave_out(name_of(found))
        return False
    return True


def attributes_of(options: PutOptions, metadata: dict[str, str]) -> Any:
    """What obstore sends with the bytes. :param metadata: as they are stored."""
    return {"Content-Type": options.content_type, **headers_in(options.metadata), **metadata}


def request_range(byte_range: ByteRange) -> Any:
    """The range as obstore asks for it; None where it takes the size of the object to tell."""
    start, end = byte_range.start, byte_range.end
    if start < 0 or (end is not None and end <= start):
        return None
    return {"offset": start} if end is None else (start, end)


def check_length(key: str, length: int, result: Any) -> None:
    """:raises IntegrityError: the body of ``result`` is not ``length`` bytes long."""
    start, end = result.range
    if length != end - start:
        raise IntegrityError(f"get {key!r}: {length} bytes arrived, the service announced {end - start}")


async def chunks_of(
    key: str, result: Any, read: Callable[[Exception], Answer | None]
) -> AsyncGenerator[bytes]:
    """The body of obstore's ``result``, a chunk ahead of its reader. ``read`` tells what an error says."""
    length = 0
    async with aclosing(read_ahead(result.stream(min_chunk_size=CHUNK_BYTES))) as chunks:
        while True:
            try:
                chunk = await anext(chunks, None)
            except Exception as error:
                if (answer := read(error)) is None:
                    raise
                raise answer.as_error(f"get {key!r}") from told(error)
            if chunk is None:
                break
            length += len(chunk)
            yield bytes(chunk)
    check_length(key, length, result)


async def read_ahead[T](items: AsyncIterator[T]) -> AsyncGenerator[T]:
    """The items, of which the next is fetched while one is used."""

    async def read() -> T | None:
        try:
            return await anext(items)
        except StopAsyncIteration:
            return None

    reading = asyncio.create_task(read())
    try:
        while (item := await reading) is not None:
            reading = asyncio.create_task(read())
            yield item
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def contended(doing: str) -> TransientStorageError:
    return TransientStorageError(f"{doing}: it is being replaced all the time")


PARTS_AT_ONCE = 4


async def send_all[T](
    parts: AsyncIterator[bytes], send: Callable[[int, bytes], Awaitable[T]], *, first_alone: bool = False
) -> list[T]:
    """What ``send`` answers to each part and its index, in their order. The first failure ends it.

    :param first_alone: the others are not begun before the first has been sent.
    """
    sent: dict[int, T] = {}
    free = asyncio.Semaphore(PARTS_AT_ONCE)

    async def send_one(index: int, part: bytes) -> None:
        try:
            sent[index] = await send(index, part)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as sending:
            index = 0
            async for part in parts:
                # The slot is taken before the next part is cut off the source.
                await free.acquire()
                task = sending.create_task(send_one(index, part))
                if first_alone and index == 0:
                    await task
                index += 1
    except BaseExceptionGroup as failed:
        # The others were cancelled for it, or failed of the same. Callers know errors, not groups.
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return [sent[index] for index in sorted(sent)]
