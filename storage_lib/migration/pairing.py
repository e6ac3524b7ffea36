"""Two listings side by side, key by key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from storage_lib.ports.object_model import ListEntry

_BATCH = 500
_BATCHES_AHEAD = 6
"""More than a page of a far store: what is near is read by the time that the last page comes."""


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
    # The target first: it is often the one further away.
    async with _ahead(target) as theirs, _ahead(source) as ours:
        left, right = await ours.get(), await theirs.get()
        while left is not None or right is not None:
            name = None if left is None else left.key[len(prefix) :]
            other = None if right is None else right.key[len(onto) :]
            # Strings compare as their UTF-8 bytes do.
            if other is None or (name is not None and name < other):
                assert name is not None  # noqa: S101 - told to the type checker
                yield Pair(name, left, None)
                left = ours.waiting.pop() if ours.waiting else await ours.get()
            elif name is None or other < name:
                yield Pair(other, None, right)
                right = theirs.waiting.pop() if theirs.waiting else await theirs.get()
            else:
                yield Pair(name, left, right)
                left = ours.waiting.pop() if ours.waiting else await ours.get()
                right = theirs.waiting.pop() if theirs.waiting else await theirs.get()


class _Ahead:
    """A listing that is read by a task of its own, a little ahead. ``waiting`` are its next entries, the next
    one last."""

    def __init__(self) -> None:
        self.waiting: list[ListEntry] = []
        self._batches: asyncio.Queue[list[ListEntry] | BaseException | None] = asyncio.Queue(_BATCHES_AHEAD)

    async def get(self) -> ListEntry | None:
        """The next entry; None at the end."""
        while not self.waiting:
            batch = await self._batches.get()
            if batch is None:
                self._batches.put_nowait(None)  # It stays at the end.
                return None
            if isinstance(batch, BaseException):
                raise batch
            batch.reverse()
            self.waiting = batch
        return self.waiting.pop()

    async def read(self, listing: AsyncIterator[ListEntry]) -> None:
        batch: list[ListEntry] = []
        try:
            async for entry in listing:
                batch.append(entry)
                if len(batch) == _BATCH:
                    await self._batches.put(batch)
                    batch = []
            await self._batches.put(batch)
            await self._batches.put(None)
        except Exception as error:
            await self._batches.put(batch)
            await self._batches.put(error)


@asynccontextmanager
async def _ahead(listing: AsyncIterator[ListEntry]) -> AsyncGenerator[_Ahead]:
    """Begins at once."""
    ahead = _Ahead()
    reading = asyncio.Task(ahead.read(listing), loop=asyncio.get_running_loop(), eager_start=True)
    try:
        yield ahead
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
