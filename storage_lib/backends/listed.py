"""What every listing gives: a list for those who wait for all of it, a stream for those who do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from storage_lib.backends.portable import Stationary

__all__ = ["Listed"]


class Listed[T](Stationary, Awaitable[list[T]]):
    """A listing. ``await`` makes a list of everything; ``async for`` takes one after the other and holds a
    page at a time. Nothing is read before that, and each ``await`` and each ``async for`` lists anew.

    :param items: starts the listing, from its beginning.
    """

    def __init__(self, items: Callable[[], AsyncGenerator[T]]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncGenerator[T]:
        return self._items()

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._all().__await__()

    async def _all(self) -> list[T]:
        return [item async for item in self._items()]
