"""A read that is under way, and those who wait for what it finds."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from storage_lib.ports.hints import OLDER, within

if TYPE_CHECKING:
    from storage_lib.layers.caching.entries import Entry


class Reading:
    """One read for all who want the same at the same time; they are tasks of one event loop.

    :param whole: whether it reads the bytes, and not the info alone.
    :param shared: whether others may wait for it.
    """

    __slots__ = (
        "_error",
        "_loop",
        "_over",
        "_task",
        "_waiting",
        "entry",
        "older",
        "shared",
        "started",
        "whole",
    )

    def __init__(self, started: float, *, whole: bool, shared: bool = True) -> None:
        self.started = started
        self.whole = whole
        self.shared = shared
        self.entry: Entry | None = None
        self.older = False
        """Whether what it finds may be older than what was last saved: then it is not kept."""
        self._error: Exception | None = None
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def can_join(self, oldest: float, *, whole: bool) -> bool:
        """Whether to wait for it is as good as to read: it began after ``oldest``, and finds as much."""
        return (
            self.shared
            and not self._over
            and self.started > oldest
            and (self.whole or not whole)
            and self._loop is asyncio.get_running_loop()
        )

    def asking(self) -> AbstractContextManager[None]:
        """While the store is asked."""
        return within(OLDER, self._is_older)

    def _is_older(self) -> None:
        self.older = True

    def start(self, read: Callable[[], Awaitable[Entry]]) -> asyncio.Task[None]:
        """Read in a task, which goes on as long as anybody waits. `wait` must be called at once."""

        async def work() -> None:
            try:
                entry = await read()
            except Exception as error:
                self.finish(None, error)
            except BaseException:
                self.finish(None)
                raise
            else:
                self.finish(entry)

        self._task = asyncio.Task(work(), loop=self._loop, eager_start=True)
        return self._task

    def finish(self, entry: Entry | None, error: Exception | None = None) -> None:
        """Tell those who wait. Neither an entry nor an error means that each has to read."""
        self.entry, self._error, self._over = entry, error, True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> Entry | None:
        """What was found; None if the caller has to read.

        The read ends early if all who wait are cancelled. An error is raised to each as an exception of
        its own.
        """
        if not self._over:
            waiter = self._loop.create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                self._waiting.discard(waiter)
                if not self._waiting and self._task is not None and not self._over:
                    self.shared = False
                    self._task.cancel()
                    await asyncio.wait((self._task,))
                raise
            self._waiting.discard(waiter)
        if self._error is None:
            return self.entry
        if not self._waiting:  # The last one, so nobody else raises this.
            error, self._error = self._error, None
        else:
            error = another(self._error)
        if error is None:
            return None
        try:
            raise error
        finally:
            del error


def another(error: Exception) -> Exception | None:
    """An equal exception, without a traceback; None if the class cannot be copied."""
    try:
        copied = copy.copy(error)
    except Exception:  # It needs arguments that it does not keep.
        return None
    copied.__cause__, copied.__suppress_context__ = error.__cause__, True
    return copied
