"""Two listings side by side, key by key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import NamedTuple

from storage_lib.ports.object_model import ListEntry

_BATCH = 500
_BATCHES_AHEAD = 4


class Pair(NamedTuple):
    """What one name has on each side."""

    name: str
    """The key without the prefix of its side."""
    source: ListEntry | None
    target: ListEntry | None


async def paired(
    source: AsyncIterator[ListEntry],
    target: AsyncIterator[ListEntry],
    prefix: str,
    onto: str,
) -> AsyncGenerator[Pair]:
    """Every name that either side has, in order. Both are in the order of their keys, and read ahead."""
    async with aclosing(_ahead(source)) as ours, aclosing(_ahead(target)) as theirs:
        left, right = await anext(ours, None), await anext(theirs, None)
        while left is not None or right is not None:
            name = None if left is None else left.key[len(prefix) :]
            other = None if right is None else right.key[len(onto) :]
            # Strings compare as their UTF-8 bytes do.
            if other is None or (name is not None and name < other):
                assert name is not None  # noqa: S101 - told to the type checker
                yield Pair(name, left, None)
                left = await anext(ours, None)
            elif name is None or other < name:
                yield Pair(other, None, right)
                right = await anext(theirs, None)
            else:
                yield Pair(name, left, right)
                left, right = await anext(ours, None), await anext(theirs, None)


async def _ahead(listing: AsyncIterator[ListEntry]) -> AsyncGenerator[ListEntry]:
    """The listing, read by a task of its own, a little ahead."""
    batches: asyncio.Queue[list[ListEntry] | BaseException | None] = asyncio.Queue(_BATCHES_AHEAD)

    async def read() -> None:
        batch: list[ListEntry] = []
        try:
            async for entry in listing:
                batch.append(entry)
                if len(batch) == _BATCH:
                    await batches.put(batch)
                    batch = []
            await batches.put(batch)
            await batches.put(None)
        except Exception as error:
            await batches.put(batch)
            await batches.put(error)

    reading = asyncio.create_task(read())
    try:
        while (batch := await batches.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            for entry in batch:
                yield entry
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
