"""What an action raises that is no `Exception`: its attempt has failed with that, and nothing else has.

`SystemExit` and `KeyboardInterrupt` pass through every task of asyncio and end its loop, and with it all that
runs there; other exceptions of that kind pass by ``except Exception``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

_ENDS_THE_LOOP = (SystemExit, KeyboardInterrupt)
_inside: ContextVar[bool] = ContextVar("inside_an_action", default=False)


class EscapedError(Exception):
    """Stands for ``original``, which is no `Exception`."""

    def __init__(self, original: BaseException) -> None:
        super().__init__(original)
        self.original = original


class _Contained[T](Coroutine[Any, Any, T]):
    """A coroutine that raises `EscapedError` instead of what must not get out of it.

    No ``async def``: one that is cancelled before it has begun would never close what it is around.
    """

    def __init__(self, inner: Coroutine[Any, Any, T], *, everything: bool) -> None:
        self._inner = inner
        self._everything = everything

    def send(self, value: Any, /) -> Any:
        return self._step(lambda: self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._step(lambda: self._inner.throw(*error))

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

    def _step(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            if self._everything or isinstance(error, _ENDS_THE_LOOP):
                raise EscapedError(error) from error
            raise


async def contained[T](loop: asyncio.AbstractEventLoop, running: Coroutine[Any, Any, T]) -> T:
    """Await an action; it and the tasks that it starts end no loop.

    :raises EscapedError: it raised what is no `Exception`.
    """
    _watch_tasks(loop)
    _inside.set(True)
    return await _Contained(running, everything=True)


def call[T](function: Callable[[], T]) -> T:
    """Call what belongs to an action. :raises EscapedError: it raised what is no `Exception`."""
    try:
        return function()
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise EscapedError(error) from error


def _watch_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Have the tasks that actions start contained as well; those of others are made as before."""
    before = loop.get_task_factory()
    if isinstance(before, _Factory):
        return
    loop.set_task_factory(_Factory(before))


class _Factory:
    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if _inside.get():
            coroutine = _Contained(coroutine, everything=False)
        if self._before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self._before(loop, coroutine, **options)
