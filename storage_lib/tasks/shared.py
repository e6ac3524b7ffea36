"""Calls that many wait for at the same time are made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary


class Shared[T]:
    """By key: a few calls at a time, and one for all who come while these run. It begins after they have
    come, so it sees what they did before.

    :param concurrent: how many run at a time. More are sooner done, and shared by fewer.
    """

    def __init__(self, concurrent: int) -> None:
        self._concurrent = concurrent
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._next: dict[str, asyncio.Task[T]] = {}

    async def call(self, key: str, function: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of a call that begins from now on, and whether it is of this ``function``."""
        joined = self._next.get(key)
        if joined is not None:
            return await asyncio.shield(joined), False
        return await asyncio.shield(self.begin(key, function)), True

    def begin(self, key: str, function: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """A call that begins from now on. Its error need not be seen; whoever awaits it shields it."""
        joined = self._next.get(key)
        if joined is not None:
            return joined
        turn = self._turns.setdefault(key, asyncio.Semaphore(self._concurrent))

        async def run() -> T:
            async with turn:
                del self._next[key]
                return await function()

        running = self._next[key] = asyncio.create_task(run())
        running.add_done_callback(_seen)
        return running


def _seen[T](task: asyncio.Task[T]) -> None:
    """Nobody may be left to see an error: all who waited were cancelled."""
    if not task.cancelled():
        task.exception()
