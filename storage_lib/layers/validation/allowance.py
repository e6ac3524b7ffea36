"""How much work the check of one value may be.

Without a bound a small value could keep a processor busy for ever: where a schema offers itself more than
once, as for an expression of expressions, each level of a value is checked as often as paths lead to it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from math import inf

BRIEF = 100
"""How many references of a schema a brief check follows."""
SECONDS = 5.0
SECONDS_A_MEBIBYTE = 20.0
"""How much processor time any other check may take; an ordinary one takes a tenth of it."""


class NotBriefError(Exception):
    """A brief check has not come to its end."""


class TooLongError(Exception):
    """A check has used up its time."""


class _Allowance(threading.local):
    references = inf
    until = inf


_left = _Allowance()


@contextmanager
def allowance(size: int, *, briefly: bool) -> Generator[None]:
    """Bound what this thread does inside, for a value of ``size`` bytes."""
    if briefly:
        _left.references = BRIEF
    else:
        _left.until = time.thread_time() + SECONDS + SECONDS_A_MEBIBYTE * size / 2**20
    try:
        yield
    finally:
        _left.references = _left.until = inf


def follow_reference() -> None:
    """To be called for each reference: only these make more work than schema and value have places.

    :raises NotBriefError: it is too much for a brief check.
    :raises TooLongError: it is too much for any check.
    """
    _left.references -= 1
    if _left.references < 0:
        raise NotBriefError
    if _left.until is not inf and time.thread_time() > _left.until:
        raise TooLongError
