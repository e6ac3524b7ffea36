"""When a task is tried again: a policy, and its decision as data."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from storage_lib.errors import InvalidArgumentError, TransientStorageError
from storage_lib.tasks.escapes import EscapedError
from storage_lib.tasks.network import is_transient_network_error

LONGEST_SECONDS = 366 * 24 * 3600.0
"""No task waits longer for its next attempt: a year."""

_log = logging.getLogger("AOS.Tasks")


class RetryTaskError(TransientStorageError):
    """Raised by an action to be run again later; ``retry_after`` (seconds) overrides the policy's delay: a
    number, the text of one as in the header ``Retry-After``, or a timedelta; at most a year. With anything
    else the policy's delay stays."""

    code = "retry-task"


def is_transient(error: BaseException) -> bool:
    """Whether the same may go well a moment later: what a store or an action says is so, and a connection to
    whatever an action talks to that broke, could not be made or did not answer in time (network.py)."""
    if isinstance(error, TransientStorageError | ConnectionError | TimeoutError):
        return True
    return is_transient_network_error(error)


def wait_of(error: BaseException) -> float | None:
    """How many seconds an error asks to wait; None if it does not, or not in seconds."""
    asked: Any = getattr(error, "retry_after", None)
    if not isinstance(error, TransientStorageError) or asked is None:
        return None
    try:
        seconds = asked.total_seconds() if isinstance(asked, timedelta) else float(asked)
    except OverflowError:
        seconds = LONGEST_SECONDS if cast("int", asked) > 0 else 0.0
    except Exception:
        seconds = math.nan
    if isinstance(asked, bool) or not math.isfinite(seconds):
        _log.warning("retry_after is a %s and no number of seconds; it is ignored", type(asked).__name__)
        return None
    return min(max(seconds, 0.0), LONGEST_SECONDS)


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
    ``base_seconds * 2 ** (n - 1)`` after attempt n failed, at most ``max_seconds``, and at most a year. Only
    what `is_transient` is tried again, and what is one of ``retry_on``, the action's own classes of
    exceptions.

    :raises InvalidArgumentError: it cannot work.
    """

    max_attempts: int = 5
    base_seconds: float = 2.0
    max_seconds: float = 300.0
    retry_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not (
            type(self.max_attempts) is int
            and self.max_attempts >= 1
            and _is_duration(self.base_seconds)
            and _is_duration(self.max_seconds)
        ):
            raise InvalidArgumentError(
                f"{self} cannot work", field="retry", limit="max_attempts 1 or more, seconds 0 or more"
            )
        object.__setattr__(self, "retry_on", exception_classes(self.retry_on))

    def retries(self, error: BaseException) -> bool:
        """Whether another attempt may go well, if there is one left."""
        raised = error.original if isinstance(error, EscapedError) else error
        return isinstance(raised, self.retry_on) or is_transient(error)

    def decide(self, attempts: int, error: BaseException) -> RetryDecision:
        """What follows on the failure of attempt number ``attempts`` (from 1)."""
        if attempts >= self.max_attempts or not self.retries(error):
            return RetryDecision(None)
        if (asked := wait_of(error)) is not None:
            return RetryDecision(asked)
        # Floats: from attempt 1,025 on the power is more than one can hold.
        longest = min(self.base_seconds * 2.0 ** min(attempts - 1, 1000), self.max_seconds, LONGEST_SECONDS)
        return RetryDecision(random.uniform(longest / 2, longest))  # noqa: S311 - spreads load, hides nothing


def exception_classes(given: Any) -> tuple[type[BaseException], ...]:
    """``retry_on`` as a tuple. :raises InvalidArgumentError: it is no class of exceptions, nor several."""
    several: Iterable[Any] = (given,) if isinstance(given, type) else given
    try:
        found = tuple(several)
    except TypeError:
        found = (given,)
    if wrong := [one for one in found if not (isinstance(one, type) and issubclass(one, BaseException))]:
        raise InvalidArgumentError(
            f"retry_on has {ascii(wrong[0])[:80]}", field="retry_on", limit="classes of exceptions"
        )
    return cast("tuple[type[BaseException], ...]", found)


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
