"""What every timer and queue function does around its own work: with traces on, its spans belong to the
platform's span of the invocation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

import azure.functions as func

from functions.state import is_traced


def invocation(context: func.Context | None) -> AbstractContextManager[None]:
    """Within it, spans belong to the platform's span of this invocation."""
    if context is None or not is_traced():
        return nullcontext()
    from functions.tracing import invocation as platform

    return platform(context)


def timed(run: Callable[[func.TimerRequest], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A timer's function within its `invocation`."""

    @functools.wraps(run)
    async def within(timer: func.TimerRequest, context: func.Context | None = None) -> None:
        with invocation(context):
            await run(timer)

    # The worker looks at the parameters, and passes the context to those of this name.
    vars(within)["__signature__"] = inspect.signature(within, follow_wrapped=False)
    return within
