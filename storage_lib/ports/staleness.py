"""Who is told that an answer may be older than what was last saved; the layer that gives it does not know who
needs to know."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

OLDER: ContextVar[Callable[[], None] | None] = ContextVar("OLDER", default=None)
"""Called before such an answer is returned, also if it is that there is no object."""


@contextmanager
def told(tell: Callable[[], None]) -> Generator[None]:
    """Within it, ``tell`` is called."""
    token = OLDER.set(tell)
    try:
        yield
    finally:
        OLDER.reset(token)
