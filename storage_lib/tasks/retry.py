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
"""The longest wait for a next attempt: a year."""

_log = logging.getLogger("AOS.Tasks")


class RetryTaskError(TransientStorageError):
    """Raised by an action to be run again later.

    ``retry_after`` overrides the policy's delay: a number of seconds, text as in the header
    ``Retry-After``, or a timedelta; at most a year. Any other value leaves the policy's delay.
    """

    code = "retry-task"


def is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: a store or the action says so, or a connection broke, could not be
    established or timed out (see network.py)."""
    if isinstance(error, TransientStorageError | ConnectionError | TimeoutError):
        return True
    return is_transient_network_error(error)


def wait_of(error: BaseException) -> float | None:
    """The number of seconds that an error asks to wait; None if it asks for none."""
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
    """The decision after a failure. ``delay`` is in seconds; None means that there is no further attempt."""

    delay: float | None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    Attempt n+1 begins between half of and all of ``base_seconds * 2 ** (n - 1)`` after attempt n failed, but
    never more than ``max_seconds`` or a year. Only errors that `is_transient` says are transient are retried,
    and those of the classes in ``retry_on``.

    :param max_attempts: attempts in all, the first included.
    :param base_seconds: the longest delay before the second attempt.
    :param max_seconds: the longest delay before any attempt.
    :param retry_on: exception classes of the action that count as transient.
    :raises InvalidArgumentError: a value is out of range.
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
        """Whether another attempt may succeed, if one is left."""
        raised = error.original if isinstance(error, EscapedError) else error
        return isinstance(raised, self.retry_on) or is_transient(error)

    def decide(self, attempts: int, error: BaseException) -> RetryDecision:
        """What happens after the failure of attempt number ``attempts`` (from 1)."""
        if attempts >= self.max_attempts or not self.retries(error):
            return RetryDecision(None)
        if (asked := wait_of(error)) is not None:
            return RetryDecision(asked)
        # From attempt 1,025 on the power is too large for a float.
        longest = min(self.base_seconds * 2.0 ** min(attempts - 1, 1000), self.max_seconds, LONGEST_SECONDS)
        return RetryDecision(random.uniform(longest / 2, longest))  # noqa: S311 - spreads load, hides nothing


def exception_classes(given: Any) -> tuple[type[BaseException], ...]:
    """``retry_on`` as a tuple.

    :raises InvalidArgumentError: it is neither an exception class nor several.
    """
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
