"""On whose behalf the code runs: set by HTTP functions and by the task engine, read by the audit layer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who acts, and in which context.

    :param actor: ``system`` for the library and for programs that have not set another; ``agent:ID`` for a
        task's agent; ``function-key`` or ``PROVIDER:ID`` for a request.
    :param correlation: what the operations of one request or task have in common.
    """

    actor: str = "system"
    correlation: str | None = None


_caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039 - it is frozen


def caller() -> Caller:
    """The caller of the code that runs."""
    return _caller.get()


@contextmanager
def acting_as(actor: str, correlation: str | None = None) -> Generator[None]:
    """Make ``actor`` the caller of what is done inside, in the tasks that it starts, too."""
    before = _caller.set(Caller(actor, correlation))
    try:
        yield
    finally:
        _caller.reset(before)
