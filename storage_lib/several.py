"""Several things: coroutines at a time, the error of one that does not end the others, the end of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from storage_lib.errors import StorageError, StorageUnavailableError


class Several:
    """Runs coroutines, so many at a time; the first error ends all."""

    def __init__(self, most: int) -> None:
        self._free = asyncio.Semaphore(most)
        self._running: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def __aenter__(self) -> Several:
        return self

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start one as soon as there is room.

        :raises Exception: the first error of those before.
        """
        try:
            await self._free.acquire()
            self._check()
        except BaseException:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free.release()
        # Asked for also where it is not the first, or asyncio would log that nobody has.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._error = self._error or error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while kind is None and self._running and self._error is None:
                await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            if kind is None:
                self._check()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)


@contextmanager
def surviving(tell: Callable[[Any], object], *also: type[Exception]) -> Generator[None]:
    """One of several things: ``tell`` is called with its error, and the others go on. They do not if a store
    is away: they would fail alike.

    :param also: what is told like a `StorageError`.
    """
    try:
        yield
    except StorageUnavailableError:
        raise
    except (StorageError, *also) as error:
        tell(error)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks: those of this event loop have ended when this returns, those of others are told to."""
    here = asyncio.get_running_loop()
    own: list[asyncio.Task[Any]] = []
    for task in list(tasks):
        if (loop := task.get_loop()) is here:
            task.cancel()
            own.append(task)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(task.cancel)
    if own:
        await asyncio.wait(own)
