"""How often and for how long operations are retried."""

from __future__ import annotations

import random
from dataclasses import dataclass

from storage_lib.errors import ConfigurationError, TransientStorageError


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """Exponential backoff with jitter, within a deadline.

    Attempt n + 1 begins between half of and all of ``base_seconds * 2 ** (n - 1)`` after attempt n
    failed, but never after more than ``max_seconds``, and not before the store's ``Retry-After``. An
    attempt that could not begin within ``deadline_seconds`` of the first is not made. A request that carries
    out many operations prolongs that (`storage_lib.ports.deadline`).

    :param attempts: attempts in all; 1 means no retries.
    """

    attempts: int = 4
    base_seconds: float = 0.2
    max_seconds: float = 5.0
    deadline_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.base_seconds, self.max_seconds, self.deadline_seconds) < 0:
            raise ConfigurationError(
                f"{self} cannot work", field="retry", limit="attempts 1 or more, seconds 0 or more"
            )

    def delay(self, tried: int, error: TransientStorageError) -> float:
        """Seconds to wait after attempt number ``tried`` (from 1) failed with that error."""
        longest = min(self.base_seconds * 2 ** (tried - 1), self.max_seconds)
        backoff = random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing
        return backoff + (error.retry_after or 0)
