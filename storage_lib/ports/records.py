"""The library's own records below callers' keys, such as the one that says which version is current."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

IS_RECORD: ContextVar[bool] = ContextVar("IS_RECORD", default=False)
"""Whether the operation under way reads or writes such a record. What callers' rules say about the objects
below a prefix is not meant for it."""


@contextmanager
def of_a_record() -> Generator[None]:
    """Do an operation on a record of the library."""
    token = IS_RECORD.set(True)
    try:
        yield
    finally:
        IS_RECORD.reset(token)
