"""The circuit breaker: a store that has not responded for long is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from storage_lib.errors import StorageUnavailableError

THRESHOLD = 30
"""Consecutive attempts, of any operations, that found the store unavailable."""
PATIENCE_SECONDS = 10.0
"""The least time they must span, because many concurrent callers make as many attempts in a moment."""
PAUSE_SECONDS = 5.0


class Breaker:
    """Counts attempts that found a store unavailable, with no response in between. After `THRESHOLD` of
    them over `PATIENCE_SECONDS` or more, one attempt may pass every `PAUSE_SECONDS` until one gets a
    response. The others need not wait for an unavailable store, and put no load on it when it recovers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._since = 0.0
        self._next_at: float | None = None
        self.last: StorageUnavailableError | None = None
        self.trips = 0
        """How often it has begun to leave the store alone."""

    @property
    def is_open(self) -> bool:
        """Whether the store is left alone."""
        return self._next_at is not None

    def wait(self) -> float:
        """Seconds until an attempt may pass; 0 lets this one pass."""
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
            self.trips += 1

    def answered(self) -> None:
        """The store responded, whatever it said."""
        self._failures = 0
        self._next_at = None
