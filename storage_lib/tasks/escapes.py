"""Exceptions of an action that are not an `Exception`: they fail its own attempt and nothing else.

`SystemExit` and `KeyboardInterrupt` pass through every asyncio task and end its loop, with everything running
in it; others of that kind pass every ``except Exception``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

type _Kinds = tuple[type[BaseException], ...]
_EVERY: _Kinds = (BaseException,)
_ENDS_THE_LOOP: _Kinds = (SystemExit, KeyboardInterrupt)
_inside: ContextVar[bool] = ContextVar("inside_an_action", default=False)


class EscapedError(Exception):
    """Wraps ``original``, which is not an `Exception`."""

    def __init__(self, original: BaseException) -> None:
        super().__init__(original)
        self.original = original


class _Contained[T](Coroutine[Any, Any, T]):
    """A coroutine that raises `EscapedError` instead of exceptions that must not leave it.

    It is not an ``async def``, because one that is cancelled before it starts would never close the
    inner one.
    """

    def __init__(self, inner: Coroutine[Any, Any, T], kinds: _Kinds) -> None:
        self._inner = inner
        self._kinds = kinds

    def send(self, value: Any, /) -> Any:
        return call(lambda: self._inner.send(value), self._kinds)

    def throw(self, *error: Any) -> Any:
        return call(lambda: self._inner.throw(*error), self._kinds)

    def close(self) -> None:
        self._inner.close()  # GeneratorExit is meant here.

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:  # what debuggers look at: cr_code, cr_frame, __qualname__
        return getattr(self._inner, name)


async def contained[T](loop: asyncio.AbstractEventLoop, running: Coroutine[Any, Any, T]) -> T:
    """Await an action; neither it nor the tasks that it starts can end the loop.

    :raises EscapedError: it raised something other than an `Exception`.
    """
    _watch_tasks(loop)
    _inside.set(True)
    return await _Contained(running, _EVERY)


def call[T](function: Callable[[], T], kinds: _Kinds = _EVERY) -> T:
    """Call a function of an action.

    :raises EscapedError: it raised one of ``kinds`` that is not an `Exception`.
    """
    try:
        return function()
    except (Exception, asyncio.CancelledError):
        raise
    except kinds as error:
        raise EscapedError(error) from error


def _watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Contain the tasks that actions start, too; other tasks are created as before."""
    if not isinstance(before := loop.get_task_factory(), _Factory):
        loop.set_task_factory(_Factory(before))


class _Factory:
    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if _inside.get():
            coroutine = _Contained(coroutine, _ENDS_THE_LOOP)
        if self._before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self._before(loop, coroutine, **options)
