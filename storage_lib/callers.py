"""On whose behalf the code runs: set by HTTP functions and by the task engine, read by the audit layer."""

from __future__ import annotations

from contextvars import ContextVar, Token

import msgspec

from storage_lib.errors import InvalidArgumentError

MAX_TEXT = 512


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


class acting_as:  # noqa: N801 - used as a statement, like contextlib's
    """``with acting_as(actor, correlation):`` makes ``actor`` the caller of what is done inside, in the tasks
    that it starts, too.

    :raises InvalidArgumentError: one of them is not a text of 1 to 512 characters.
    """

    __slots__ = ("_before", "_caller")

    def __init__(self, actor: str, correlation: str | None = None) -> None:
        _check("actor", actor)
        if correlation is not None:
            _check("correlation", correlation)
        self._caller = Caller(actor, correlation)

    def __enter__(self) -> None:
        self._before: Token[Caller] = _caller.set(self._caller)

    def __exit__(self, *_: object) -> None:
        _caller.reset(self._before)


def _check(name: str, text: object) -> None:
    if isinstance(text, str) and 0 < len(text) <= MAX_TEXT and (text.isascii() or _is_unicode(text)):
        return
    raise InvalidArgumentError(
        f"{name} is {ascii(text)[:80]}", field=name, limit=f"a text of 1 to {MAX_TEXT} characters"
    )


def _is_unicode(text: str) -> bool:
    """Whether it can be encoded: a lone surrogate cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
