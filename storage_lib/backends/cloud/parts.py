"""The parts of a stream on their way up, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

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
