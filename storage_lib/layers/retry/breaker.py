"""The circuit breaker: a store that has not answered for long is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from storage_lib.errors import StorageUnavailableError

THRESHOLD = 30
"""Tries in a row, of whatever operations, that found the store unavailable."""
PATIENCE_SECONDS = 10.0
"""And they have been going on for so long: many callers at once are as many tries in a moment."""
PAUSE_SECONDS = 5.0


class Breaker:
    """Counts the tries that found a store unavailable, with no answer in between. After `THRESHOLD` of them
    in `PATIENCE_SECONDS` or more one try may pass each `PAUSE_SECONDS`, until one is answered. The others
    need not wait for a store that is away, and are no load when it comes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self._next_at: float | None = None
        self.last: StorageUnavailableError | None = None

    def wait(self) -> float:
        """Seconds until a try may pass; 0 lets this one."""
        if self._next_at is None:
            return 0
        now = self._clock()
        if now < self._next_at:
            return self._next_at - now
        self._next_at = now + PAUSE_SECONDS  # This one finds out.
        return 0

    def failed(self, error: StorageUnavailableError) -> None:
        """The store was not there."""
        now = self._clock()
        if not self._failures:
            self._since = now
        self._failures += 1
        self.last = error
        if self._next_at is None and self._failures >= THRESHOLD and now - self._since >= PATIENCE_SECONDS:
            self._next_at = now + PAUSE_SECONDS

    def answered(self) -> None:
        """The store was there, whatever it said."""
        self._failures = 0
        self._next_at = None
