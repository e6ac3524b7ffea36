"""When a task is tried again: a policy, and its decision as data."""

from __future__ import annotations

import random
from dataclasses import dataclass

from storage_lib.errors import InvalidArgumentError, TransientStorageError


class RetryTaskError(TransientStorageError):
    """Raised by an action to be run again later; ``retry_after`` (seconds) overrides the policy's delay."""

    code = "retry-task"


def is_transient(error: Exception) -> bool:
    """Whether the same may go well a moment later: what a store or an action says is so, and a connection to
    whatever an action talks to that broke or did not answer in time."""
    return isinstance(error, TransientStorageError | ConnectionError | TimeoutError)


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """``delay`` is in seconds; None means that there is no further attempt."""

    delay: float | None

    @property
    def again(self) -> bool:
        return self.delay is not None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter: attempt n+1 begins between half of and the whole of
    ``base_seconds * 2 ** (n - 1)`` after attempt n failed, at most ``max_seconds``. Only what `is_transient`
    is tried again.
    """

    max_attempts: int = 5
    base_seconds: float = 2.0
    max_seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.base_seconds < 0 or self.max_seconds < 0:
            raise InvalidArgumentError(f"{self} can not work", field="retry", limit="max_attempts 1 or more")

    def decide(self, attempts: int, error: Exception) -> RetryDecision:
        """What follows on the failure of attempt number ``attempts`` (from 1)."""
        if not is_transient(error) or attempts >= self.max_attempts:
            return RetryDecision(None)
        if isinstance(error, TransientStorageError) and error.retry_after is not None:
            return RetryDecision(max(error.retry_after, 0))
        longest = min(self.base_seconds * 2 ** (attempts - 1), self.max_seconds)
        return RetryDecision(random.uniform(longest / 2, longest))  # noqa: S311 - spreads load, hides nothing
