"""How long an operation may take, not counting the time that it waits for its turn in this process.

With thousands of concurrent calls most of them wait. A deadline is meant for a store that does not
respond, so it is paused while a call has not been sent. A request that does the work of many operations takes
as long as there are: it prolongs the deadline by `EACH_SECONDS` for each beside the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar

EACH_SECONDS = 0.1
"""A store that deletes ten objects a second is slow, and one that deletes none does not respond."""


class Deadline:
    """The deadline of one operation, in seconds of ``clock``; ``limit`` is the timer that keeps it.

    :param check: called after a wait; raises if the store should not be asked any more.
    """

    __slots__ = ("_clock", "_left", "_since", "_waits", "check", "limit", "until")

    def __init__(
        self, seconds: float, clock: Callable[[], float], check: Callable[[], object] = object
    ) -> None:
        self._clock = clock
        self.check = check
        self.until = clock() + seconds
        self.limit: asyncio.Timeout | None = None
        self._waits = 0
        self._since = 0.0
        self._left: float | None = None

    def begin_wait(self) -> None:
        """Stop the clock. Requests of one operation may wait side by side."""
        self._waits += 1
        if self._waits > 1:
            return
        self._since = self._clock()
        if self.limit is not None and (when := self.limit.when()) is not None:
            self._left = when - asyncio.get_running_loop().time()
            self.limit.reschedule(None)

    def end_wait(self) -> None:
        self._waits -= 1
        if self._waits:
            return
        self.until += self._clock() - self._since
        if self.limit is not None and self._left is not None:
            self.limit.reschedule(asyncio.get_running_loop().time() + self._left)
            self._left = None

    def share(self, count: int) -> None:
        """What is sent now does the work of ``count`` operations."""
        more = EACH_SECONDS * (count - 1)
        self.until += more
        if self._left is not None:
            self._left += more
        elif self.limit is not None and (when := self.limit.when()) is not None:
            self.limit.reschedule(when + more)


class Deadlines(Deadline):
    """Those of several operations that share a request, which wait together."""

    __slots__ = ("_all",)

    def __init__(self, deadlines: list[Deadline]) -> None:
        self._all = deadlines
        self.check = deadlines[0].check

    @staticmethod
    def of(deadlines: Iterable[Deadline | None]) -> Deadlines | None:
        """None where there are none."""
        given = [deadline for deadline in deadlines if deadline is not None]
        return Deadlines(given) if given else None

    def begin_wait(self) -> None:
        for deadline in self._all:
            deadline.begin_wait()

    def end_wait(self) -> None:
        for deadline in self._all:
            deadline.end_wait()

    def share(self, count: int) -> None:
        for deadline in self._all:
            deadline.share(count)


DEADLINE: ContextVar[Deadline | None] = ContextVar("storage_deadline", default=None)
"""Of the operation that this task carries out."""
