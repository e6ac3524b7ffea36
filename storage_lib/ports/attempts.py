"""Who is told of attempts that are repeated; the layer that repeats them does not know who watches."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from storage_lib.errors import TransientStorageError

REPEATED: ContextVar[Callable[[int, TransientStorageError, float], None] | None] = ContextVar(
    "REPEATED", default=None
)
"""Called with the number of the failed attempt (from 1), its error, and the seconds until the next."""
