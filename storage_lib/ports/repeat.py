"""How a step of a longer operation is done: once, or with the retries of the layer around."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol


class Repeat(Protocol):
    """How a backend does a step of a longer operation: once, or with retries, as set by the retry layer.

    ``doing`` describes the step for logs; ``step`` does it, and may be repeated. With ``only_refused``
    it may be repeated only if the store said that it did nothing.
    """

    async def __call__[T](
        self, doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
    ) -> T: ...


async def once[T](doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False) -> T:
    """`Repeat` without retries."""
    return await step()
