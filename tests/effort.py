"""How much is tried: what a change needs, or what `make soak` has the time for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

SOAK = os.environ.get("SOAK") == "1"


def examples(most: int) -> int:
    """So many examples in a soak, and otherwise a quarter of them, 25 at least."""
    return most if SOAK else min(most, max(most // 4, 25))


def calls(work: Callable[[], object]) -> int:
    """How many functions a piece of work calls, of Python and of C: what it costs, whatever else the machine
    does. The least of three times, for garbage that is collected meanwhile calls some, too."""

    def once() -> int:
        count = 0

        def called(_: object, event: str, __: object) -> None:
            nonlocal count
            count += event.endswith("call")

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            work()
        finally:
            sys.setprofile(before)
        return count

    return min(once() for _ in range(3))


def awaited(work: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that never waits."""
    with contextlib.suppress(StopIteration):
        work.send(None)
        raise AssertionError("it waits")
