"""What callers and layers tell each other beside the arguments of a call. Neither knows who is between."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from storage_lib.errors import TransientStorageError

REPEATED: ContextVar[Callable[[int, TransientStorageError, float], None] | None] = ContextVar(
    "REPEATED", default=None
)
"""Called with the number of the failed attempt (from 1), its error, and the seconds until the next."""

OLDER: ContextVar[Callable[[], None] | None] = ContextVar("OLDER", default=None)
"""Called before an answer is returned that may be older than what was last saved, also if it is that there is
no object."""

CALL: ContextVar[str | None] = ContextVar("CALL", default=None)
"""The mark of the remote call that is being carried out. A conditional save leaves it on its object: if its
answer is lost and the client calls again, that is no conflict."""

WANTS_CREATED: ContextVar[bool] = ContextVar("WANTS_CREATED", default=False)
"""Whether `PutResult.created` is to be known of saves without a condition; where the store does not tell that
by itself, it costs a request more."""

IS_RECORD: ContextVar[bool] = ContextVar("IS_RECORD", default=False)
"""Whether the operation under way reads or writes a record of the library's own below callers' keys, such as
the one that says which version is current. What callers' rules say about the objects below a prefix is not
meant for it."""


@contextmanager
def within[Value](variable: ContextVar[Value], value: Value) -> Generator[None]:
    """Within it, the variable has the value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def call_with(content: str) -> str | None:
    """The mark of the remote call that saves this content. With other content it is another call, even if its
    client says that it is the same."""
    call = CALL.get()
    return None if call is None else hashlib.sha256(f"{call} {content}".encode()).hexdigest()[:32]
