"""Coroutines as ordinary calls, from any thread.

A coroutine runs on its caller's own thread, in an event loop that nobody else uses at that moment. It begins
without the loop being started: what never has to wait, such as the load of a small file, costs little more
than awaiting it. Where an event loop runs already, as in a notebook, the call is made on another thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import inspect
import os
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate

from storage_lib.ports.listed import Listed

_THREADS = 32
"""Calls at a time that are made where an event loop runs."""


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that runs during calls only, each on its caller's thread."""

    _begins = False

    def __init__(self) -> None:
        super().__init__()
        _LOOPS.add(self)

    def is_running(self) -> bool:
        # A task begins at once where the loop of its thread is running.
        return self._begins or super().is_running()

    def call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        before = sys.get_asyncgen_hooks()
        # Those of the loop, which close what is left of async generators with it.
        sys.set_asyncgen_hooks(self._asyncgen_firstiter_hook, self._asyncgen_finalizer_hook)  # type: ignore[attr-defined]
        asyncio._set_running_loop(self)
        self._begins = True
        try:
            task = asyncio.Task(coroutine, loop=self, eager_start=True)
        finally:
            self._begins = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*before)
        if task.done():
            if self._ready:  # type: ignore[attr-defined]
                self.run_until_complete(_nothing())
        else:
            self._finish(task)
        return task.result()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        try:
            self.run_until_complete(task)
        except BaseException:
            if not task.done():  # KeyboardInterrupt: what was begun is not left half done.
                task.cancel()
                self.run_until_complete(asyncio.wait([task]))
            raise

    def end(self) -> None:
        """Cancel what has been left behind, and close."""
        if self.is_closed():
            return
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.wait(left))
        self.run_until_complete(self.shutdown_asyncgens())
        self.run_until_complete(self.shutdown_default_executor())
        self.close()

    def drop(self) -> None:
        """Close what a forked process has of its parent's loop, and nothing of the parent's: to unregister a
        file from the selector, which both have, would take it from the parent as well."""
        self._begins, self._thread_id = False, None  # Its thread stayed there.
        asyncio.BaseEventLoop.close(self)
        for each in (self._selector, self._ssock, self._csock):  # type: ignore[attr-defined]
            each.close()


async def _nothing() -> None:
    await asyncio.sleep(0)


_LOOPS: weakref.WeakSet[_Loop] = weakref.WeakSet()
"""All that may be open."""


@atexit.register
def _end_the_rest() -> None:
    """End those of iterations that nobody has ended."""
    for loop in list(_LOOPS):
        if not loop.is_running():
            loop.end()


def _drop_all() -> None:
    here = asyncio._get_running_loop()
    for loop in list(_LOOPS):
        if loop is not here and not loop.is_closed():
            loop.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)


class Blocking:
    """Makes calls of coroutines. As many event loops are kept as there were calls at a time."""

    def __init__(self) -> None:
        self._idle: list[_Loop] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._closing = 0
        weakref.finalize(self, _end_all, self._idle, self._pid)

    def call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns or raises."""
        if asyncio._get_running_loop() is not None:
            return self.elsewhere(lambda: self.call(coroutine))
        loop = self.take()
        generation = self._closing
        try:
            return loop.call(coroutine)
        finally:
            self.give_back(loop, generation)

    def take(self) -> _Loop:
        """A loop that is nobody else's until it is given back."""
        self._use_process()
        try:
            return self._idle.pop()
        except IndexError:
            return _Loop()

    def _use_process(self) -> None:
        if self._pid != os.getpid():  # The loops and threads of the parent process are not ours.
            self.__init__()

    def give_back(self, loop: _Loop, generation: int | None = None) -> None:
        if generation is not None and generation != self._closing:
            loop.end()  # It was closed meanwhile.
        elif not loop.is_closed():
            self._idle.append(loop)

    @property
    def generation(self) -> int:
        """How often it was closed."""
        return self._closing

    def elsewhere[T](self, call: Callable[[], T]) -> T:
        """What ``call`` returns, made on another thread with this one's context variables."""
        self._use_process()
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage-blocking")
            threads = self._threads
        return threads.submit(contextvars.copy_context().run, call).result()

    def close(self) -> None:
        """Close the loops, and whatever was kept open in them. The next call opens new ones."""
        self._use_process()
        self._closing += 1
        while self._idle:
            loop = self._idle.pop()
            if asyncio._get_running_loop() is None:
                loop.end()
            else:
                self.elsewhere(loop.end)
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()


def _end_all(idle: list[_Loop], pid: int) -> None:
    if pid != os.getpid():
        return
    loops = idle[:]
    idle.clear()

    def end() -> None:
        for loop in loops:
            loop.end()

    if asyncio._get_running_loop() is None:
        end()
    elif loops:  # Somebody dropped it in a notebook. The thread that happens to do so waits for nothing.
        with suppress(RuntimeError):  # The interpreter ends: `_end_the_rest` does it.
            threading.Thread(target=end, name="storage-blocking-end").start()


class _Line:
    """Calls that have to be made one after another in one event loop: those of a stream."""

    def __init__(self, blocking: Blocking) -> None:
        self.blocking = blocking
        self._loop: _Loop | None = None
        self._generation = 0

    def call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        if asyncio._get_running_loop() is not None:
            return self.blocking.elsewhere(lambda: self.call(coroutine))
        if self._loop is None:
            self._loop, self._generation = self.blocking.take(), self.blocking.generation
        return self._loop.call(coroutine)

    @property
    def is_over(self) -> bool:
        """Whether its loop was closed, and with it what was open there."""
        return self._loop is not None and self._loop.is_closed()

    def end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            if asyncio._get_running_loop() is not None:
                self.blocking.elsewhere(lambda: self.blocking.give_back(loop, self._generation))
            else:
                self.blocking.give_back(loop, self._generation)


def iterated[T](blocking: Blocking, items: AsyncIterator[T]) -> Iterator[T]:
    """The items, each fetched when it is asked for."""
    line = _Line(blocking)
    try:
        yield from _each(line, items)
    finally:
        line.end()


def _each[T](line: _Line, items: AsyncIterator[T]) -> Iterator[T]:
    nothing: Any = object()

    async def following() -> T:
        return await anext(items, nothing)

    async def close() -> None:
        if isinstance(items, AsyncGenerator):
            await items.aclose()

    try:
        while (item := line.call(following())) is not nothing:
            yield item
    finally:
        if not line.is_over:
            line.call(close())


class Listing[T]:
    """A listing: ``for`` streams the items and holds one page at a time; each ``for`` lists again. ``list()``
    has them all."""

    def __init__(self, blocking: Blocking, listed: Listed[T]) -> None:
        self._blocking = blocking
        self._listed = listed

    def __iter__(self) -> Iterator[T]:
        return iterated(self._blocking, aiter(self._listed))


class Opened[T, S](AbstractContextManager[S]):
    """An async context manager as an ordinary one.

    :param shown: makes what is entered, of what the other gives and the way to call its coroutines.
    """

    def __init__(
        self,
        blocking: Blocking,
        opening: AbstractAsyncContextManager[T],
        shown: Callable[[T, _Line], S],
    ) -> None:
        self._line = _Line(blocking)
        self._opening = opening
        self._shown = shown

    def __enter__(self) -> S:
        async def enter() -> T:
            return await self._opening.__aenter__()

        try:
            return self._shown(self._line.call(enter()), self._line)
        except BaseException:
            self._line.end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        async def leave() -> bool | None:
            return await self._opening.__aexit__(kind, error, trace)

        try:
            return self._line.call(leave())
        finally:
            self._line.end()


class Twin[A]:
    """The twin without async of an object: `called`, `listed` and `opened` make its methods, with the
    parameters, types and docstrings of the object's own."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in vars(cls).items():
            if hasattr(method, "__wrapped__"):  # By this name it is found, as by pickle.
                method.__module__, method.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"

    def __init__(self, of: A, blocking: Blocking) -> None:
        self._of = of
        self._blocking = blocking

    def _call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._blocking.call(coroutine)


class Streamed[A](Twin[A]):
    """The twin of something that was opened."""

    def __init__(self, opened: A, line: _Line) -> None:
        super().__init__(opened, line.blocking)
        self._line = line

    def _call[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._line.call(coroutine)

    def _chunks[S](self, items: AsyncIterator[S]) -> Iterator[S]:
        return _each(self._line, items)


def called[A, **P, T](
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Twin[A], P], T]:
    """The method of a twin that calls a coroutine method."""

    @wraps(method)
    def twin(self: Twin[A], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(method(self._of, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return _told(twin)


def awaited(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """The method without async beside a coroutine method of the same object, which has a ``_call``."""

    @wraps(method)
    def twin(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._call(method(self, *args, **kwargs))

    return _told(twin)


def listed[A, **P, T](
    method: Callable[Concatenate[A, P], Listed[T]],
) -> Callable[Concatenate[Twin[A], P], Listing[T]]:
    """The method of a twin that gives a listing."""

    @wraps(method)
    def twin(self: Twin[A], *args: P.args, **kwargs: P.kwargs) -> Listing[T]:
        return Listing(self._blocking, method(self._of, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return _told(twin, str(method.__annotations__["return"]).replace("Listed", "Listing"))


def opened[A, **P, T, S](
    method: Callable[Concatenate[A, P], AbstractAsyncContextManager[T]], shown: Callable[[T, _Line], S]
) -> Callable[Concatenate[Twin[A], P], AbstractContextManager[S]]:
    """The method of a twin that opens something, which ``shown`` makes the twin of."""

    @wraps(method)
    def twin(self: Twin[A], *args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[S]:
        return Opened(self._blocking, method(self._of, *args, **kwargs), shown)  # pyright: ignore[reportPrivateUsage]

    return _told(twin, f"AbstractContextManager[{getattr(shown, '__name__', shown)}]")


def _told[F: Callable[..., Any]](twin: F, returns: str | None = None) -> F:
    """With the examples of its docstring as code without async has them, and with what it ``returns``."""
    if returns is not None:
        signature = inspect.signature(twin).replace(return_annotation=returns)
        vars(twin)["__signature__"] = signature
    told = twin.__doc__ or ""
    for awaited, plain in (("async with ", "with "), ("async for ", "for "), ("await ", "")):
        told = told.replace(awaited, plain)
    twin.__doc__ = told.replace("an async iterator", "an iterator")
    return twin
