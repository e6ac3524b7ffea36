"""Answers of which no more than a bound is read: a page of a query may have a gigabyte, and the service knows
bounds by number alone."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp


class TooLongError(Exception):
    """The answer is longer than its bound. ``part`` is what was read of it."""

    def __init__(self, part: bytearray) -> None:
        super().__init__("the answer is longer than its bound")
        self.part = part


class Bound:
    """How many bytes an answer may have, and how many it had.

    >>> with Bound(1000): ...
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0

    def __enter__(self) -> Bound:
        self._before = _BOUND.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _BOUND.reset(self._before)


_BOUND: ContextVar[Bound | None] = ContextVar("bound", default=None)


@functools.cache
def bounded_response() -> type[aiohttp.ClientResponse]:
    """The class of a session's responses whose bodies are read within the `Bound` of their context."""
    import aiohttp

    class Response(aiohttp.ClientResponse):  # pyright: ignore[reportGeneralTypeIssues] - not final in fact
        async def read(self) -> bytes:
            bound = _BOUND.get()
            if bound is None:
                return await super().read()
            body = bytearray()
            async for piece in self.content.iter_any():
                body += piece
                bound.size = len(body)
                if bound.size > bound.most:
                    self.close()
                    raise TooLongError(body)
            return bytes(body)

    found: Any = Response
    return found
