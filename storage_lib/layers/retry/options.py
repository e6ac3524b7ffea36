"""How often and for how long a store is asked again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from storage_lib.errors import ConfigurationError, TransientStorageError


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """Exponential backoff with jitter, within a deadline.

    Try n + 1 begins between half of and the whole of ``base_seconds * 2 ** (n - 1)`` after try n failed, at
    most ``max_seconds``; a store that says ``Retry-After`` is not asked before. A try that could not begin
    within ``deadline_seconds`` of the first is not made.

    :param attempts: tries in all; 1 asks once and never again.
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
        """Seconds to wait after try number ``tried`` (from 1) failed with that error."""
        longest = min(self.base_seconds * 2 ** (tried - 1), self.max_seconds)
        backoff = random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing
        return backoff + (error.retry_after or 0)
