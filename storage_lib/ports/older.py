"""Who is told that an answer may be older than what was last saved; the layer that gives it does not know who
keeps answers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

OLDER: ContextVar[Callable[[], None] | None] = ContextVar("OLDER", default=None)
"""Called before such an answer is returned, also if it is that there is no object."""
