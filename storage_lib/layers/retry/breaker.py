"""The circuit breaker: a store that has not answered for long is left alone for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from storage_lib.errors import StorageUnavailableError

THRESHOLD = 30
"""Tries in a row, of whatever operations, that found the store unavailable."""
PAUSE_SECONDS = 5.0


class Breaker:
    """Counts tries that found a store unavailable; after `THRESHOLD` in a row it lets one try pass each
    `PAUSE_SECONDS`, until one goes well. The others fail at once, instead of waiting for a store that is away
    and being one more load when it comes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._closed_until = -math.inf

    def check(self, doing: str) -> None:
        """:raises StorageUnavailableError: the store is left alone at the moment."""
        if self._failures < THRESHOLD:
            return
        now = self._clock()
        if now < self._closed_until:
            wait = self._closed_until - now
            raise StorageUnavailableError(
                f"{doing}: not tried, since the store has been unavailable {self._failures} times in a row",
                remedy=f"it is asked again in {wait:.1f} s",
                retry_after=wait,
            )
        self._closed_until = now + PAUSE_SECONDS  # This one finds out.

    def failed(self) -> None:
        self._failures += 1
        if self._failures == THRESHOLD:
            self._closed_until = self._clock() + PAUSE_SECONDS

    def answered(self) -> None:
        self._failures = 0
