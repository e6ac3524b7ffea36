"""Attempts that are repeated: by a layer, which does not know who watches, and by a remote client."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextvars import ContextVar

from storage_lib.errors import TransientStorageError

REPEATED: ContextVar[Callable[[int, TransientStorageError, float], None] | None] = ContextVar(
    "REPEATED", default=None
)
"""Called with the number of the failed attempt (from 1), its error, and the seconds until the next."""

CALL: ContextVar[str | None] = ContextVar("CALL", default=None)
"""The mark of the remote call that is being carried out. A conditional save leaves it on its object: if its
answer is lost and the client calls again, that is no conflict."""


def call_with(content: str) -> str | None:
    """The mark of the remote call that saves this content. With other content it is another call, even if its
    client says that it is the same."""
    call = CALL.get()
    return None if call is None else hashlib.sha256(f"{call} {content}".encode()).hexdigest()[:32]
