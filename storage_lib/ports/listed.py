"""The result of every listing: a list when awaited, a stream with ``async for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from storage_lib.errors import InvalidArgumentError
from storage_lib.names import listed_name
from storage_lib.ports.portable import Stationary

if TYPE_CHECKING:
    from storage_lib.ports.drivers import NamePage

__all__ = ["Listed", "listed_names"]


class Listed[T](Stationary, Coroutine[Any, Any, list[T]]):
    """A listing. ``await`` returns a list; ``async for`` streams the items and holds one page at a time.
    Nothing is read before that, and each ``await`` and ``async for`` lists again.

    It can be used like a coroutine: with `asyncio.create_task`, `asyncio.run` and task groups.

    :param items: starts the listing, from its beginning.
    """

    def __init__(self, items: Callable[[], AsyncGenerator[T]]) -> None:
        self._items = items
        self._running: dict[asyncio.Task[Any] | None, Coroutine[Any, Any, list[T]]] = {}

    def __aiter__(self) -> AsyncGenerator[T]:
        return self._items()

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._all().__await__()

    async def _all(self) -> list[T]:
        return [item async for item in self._items()]

    # -- a coroutine, as a task drives it; several tasks may, each its own

    def send(self, value: Any) -> Any:
        return self._step(lambda running: running.send(value))

    def throw(self, *error: Any) -> Any:
        return self._step(lambda running: running.throw(*error))

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].close()

    def _step(self, step: Callable[[Coroutine[Any, Any, list[T]]], Any]) -> Any:
        task = asyncio.current_task()
        if task not in self._running:
            self._running[task] = self._all()
        try:
            return step(self._running[task])
        except BaseException:
            self._running.pop(task, None)  # it has ended, well or not: the next one lists anew
            raise


async def listed_names(
    pages: Callable[[str, str | None], Awaitable[NamePage]], mapping: Callable[[str], str], prefix: str
) -> list[str]:
    """The names of all tables or queues as they were given, in order.

    :param pages: the driver's method.
    :param mapping: the rule of the names.
    """
    if not isinstance(prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidArgumentError(f"prefix is a {type(prefix).__name__}", field="prefix", limit="str")
    found: set[str] = set()
    cursor = None
    while True:
        page = await pages("", cursor)
        found.update(listed_name(name, mapping) for name in page.names)
        if (cursor := page.cursor) is None:
            return sorted(name for name in found if name.startswith(prefix))
