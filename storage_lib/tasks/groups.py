"""What the errors of several things that an action did at once mean together."""

from __future__ import annotations

from collections.abc import Iterator

from storage_lib.tasks.context import TaskCancelledError
from storage_lib.tasks.lease import LeaseExpiredError, LeaseLostError
from storage_lib.tasks.retry import is_transient


def deciding(group: ExceptionGroup[Exception]) -> Exception:
    """The one error that decides how the attempt ends.

    That the task is no longer ours, or was cancelled, goes before all; then an error that would fail again,
    and where there are several the whole group; if all are transient, the one that asks for the longest wait.
    """
    errors = list(_leaves(group))
    for kind in (LeaseExpiredError, LeaseLostError, TaskCancelledError):
        for error in errors:
            if isinstance(error, kind):
                return error
    lasting = [error for error in errors if not is_transient(error)]
    if lasting:
        return lasting[0] if len(lasting) == 1 else group
    return max(errors, key=lambda error: getattr(error, "retry_after", None) or 0)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
