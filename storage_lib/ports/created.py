"""Who wants to know whether a save creates its object or replaces one; where the store does not tell that by
itself, it costs a request more."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

WANTED: ContextVar[bool] = ContextVar("CREATED", default=False)


@contextmanager
def wanted() -> Generator[None]:
    """Within it, `PutResult.created` is known of saves without a condition."""
    token = WANTED.set(True)
    try:
        yield
    finally:
        WANTED.reset(token)
