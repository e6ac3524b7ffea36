"""Exception groups: which error of several concurrent ones decides."""

from __future__ import annotations

from collections.abc import Iterator

from storage_lib.tasks.context import TaskCancelledError
from storage_lib.tasks.escapes import EscapedError
from storage_lib.tasks.lease import LeaseExpiredError, LeaseLostError
from storage_lib.tasks.retry import RetryPolicy, wait_of


def deciding(group: BaseExceptionGroup[BaseException], policy: RetryPolicy) -> Exception:
    """The error that decides how the attempt ends.

    A lost lease or a cancelled task comes first; then a permanent error, or the whole group if there are
    several; if all are transient, the one that asks for the longest wait.
    """
    errors = list(_leaves(group))
    for kind in (LeaseExpiredError, LeaseLostError, TaskCancelledError):
        for error in errors:
            if isinstance(error, kind):
                return error
    lasting = [error for error in errors if not policy.retries(error)]
    if lasting:
        return lasting[0] if len(lasting) == 1 else _as_exception(group)
    return max(errors, key=lambda error: wait_of(error) or 0)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield _as_exception(error)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else EscapedError(error)
