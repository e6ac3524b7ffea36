"""What a test of many values tells of the one that failed it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def explained(*values: object) -> Generator[None]:
    """Whatever the block raises is raised with a note of these values."""
    try:
        yield
    except BaseException as error:  # what pytest raises for a failure too
        error.add_note(f"with {', '.join(map(ascii, values))}")
        raise
