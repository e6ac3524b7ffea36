"""How many requests each caller may send: a token bucket for each, in the memory of this process.

Off unless ``AGENT_STORAGE_RATE_PER_SECOND`` is set. Every instance counts for itself, so that a caller whose
requests are spread over several may send as many times more. The headers are those of
draft-ietf-httpapi-ratelimit-headers.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

import azure.functions as func

from storage_lib.errors import TransientStorageError

MOST_CALLERS = 10_000
"""How many callers are told apart. Then the one that has been silent longest is forgotten."""


class RateLimitedError(TransientStorageError):
    """The caller has sent more requests than it may."""

    code = "rate-limited"


class Standing(NamedTuple):
    """What is left to a caller after a request: how many more, and in how many seconds all. ``wait`` is
    above 0 if this one is refused: it may be sent again after so many seconds."""

    rates: Rates
    remaining: int
    full: float
    wait: float

    def need(self) -> None:
        """:raises RateLimitedError: the request is one too many."""
        if self.wait > 0:
            seconds = math.ceil(self.wait)
            raise RateLimitedError(
                "you have sent too many requests",
                limit=self.rates.limit,
                remedy=f"send it again after {seconds} s; see the header Retry-After",
                retry_after=seconds,
            )

    def tell(self, response: func.HttpResponse) -> None:
        """Put it into the headers of the answer."""
        headers = response.headers
        headers.add("RateLimit-Policy", self.rates.policy)
        # With none left, what counts is when there is one: the same as Retry-After says.
        seconds = self.full if self.remaining else self.wait or self.rates.next_in(self)
        headers.add("RateLimit", f'"caller";r={self.remaining};t={math.ceil(seconds)}')


class Rates:
    """The callers' buckets. Of each only the moment is kept when it will be full again.

    :param per_second: how fast a bucket fills.
    :param burst: how many requests it holds.
    :param refused: called for each refusal.
    :param clock: monotonic seconds; tests inject their own.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        refused: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._each = 1 / per_second
        self._whole = burst * self._each
        self._refused, self._clock = refused, clock
        self._full: OrderedDict[Hashable, float] = OrderedDict()
        self.policy = f'"caller";q={burst};w={math.ceil(self._whole)}'
        self.limit = (
            f"{burst} requests at once, and {per_second:.12g} a second"
            " (app settings AGENT_STORAGE_RATE_BURST and AGENT_STORAGE_RATE_PER_SECOND)"
        )

    def next_in(self, standing: Standing) -> float:
        """In how many seconds there is one more, for a caller who has just taken the last."""
        return standing.full + self._each - self._whole

    def take(self, who: Hashable) -> Standing:
        """Count one request of this caller."""
        now = self._clock()
        known = self._full
        full = max(known.get(who, now), now)
        after = full + self._each
        wait = after - now - self._whole
        if wait > 1e-6 * self._each:  # Sums of floats are not exact.
            self._refused()
            return Standing(self, 0, full - now, wait)
        known[who] = after
        known.move_to_end(who)
        if len(known) > MOST_CALLERS:
            known.popitem(last=False)
        return Standing(self, int((now + self._whole - after) / self._each + 1e-6), after - now, 0)
