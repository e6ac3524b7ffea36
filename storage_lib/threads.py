"""The library's own threads, so that work in the event loop's pool cannot hold it up, and how a thread tells
callers on any event loop what became of their work."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

_IDLE_SECONDS = 5.0
_FINISH_SECONDS = 5.0


class Job:
    """Work of one caller: a thread sets ``result`` or ``error``, then `resolve` tells the caller."""

    __slots__ = ("error", "future", "result")

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None

    def awaited(self) -> asyncio.Future[Any]:
        """What its caller, in this event loop, waits for."""
        self.future = asyncio.get_running_loop().create_future()
        return self.future

    @property
    def cancelled(self) -> bool:
        """Whether the caller has been cancelled. Once seen true it stays so; asked from any thread."""
        return self.future is not None and self.future.cancelled()


def resolve(jobs: Iterable[Job]) -> None:
    """Tell the callers, waking each event loop once for all of them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Job]]] = {}
    for job in jobs:
        if job.future is not None:
            by_loop.setdefault(job.future.get_loop(), []).append((job.future, job))
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, of_loop)


def _tell(jobs: list[tuple[asyncio.Future[Any], Job]]) -> None:
    for future, job in jobs:
        if future.done():
            continue
        if job.error is None:
            future.set_result(job.result)
        else:
            future.set_exception(job.error)


class Turns:
    """What is done at once, on the event loop, lets others have their turn now and then: a caller in a loop
    would leave nobody one, not even its own timeout."""

    _AT_ONCE = 16

    def __init__(self) -> None:
        self._taken = 0

    def is_over(self) -> bool:
        """Whether to let others have theirs now, by ``await asyncio.sleep(0)``."""
        self._taken += 1
        return self._taken % self._AT_ONCE == 0


class _Call(Job):
    __slots__ = ("work",)

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.work = work

    def do(self) -> None:
        if self.cancelled:
            return
        try:
            self.result = self.work()
        except StopIteration as stopped:  # which no future takes
            self.error = RuntimeError("StopIteration was raised in a thread")
            self.error.__cause__ = stopped
        except BaseException as raised:
            self.error = raised
        resolve([self])


class Threads:
    """Up to ``most`` threads for all event loops of the process, started on demand and ended when idle."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._begin()
        if hasattr(os, "register_at_fork"):
            # The threads stay with the parent. Now, for in the child several threads may come first at once.
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._jobs: deque[_Call] = deque()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._count = 0
        self._idle = 0

    async def run[T](self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function(*arguments)`` in one of the threads, with the caller's context variables.

        If the caller is cancelled, a function that has begun runs to its end.
        """
        call = _Call(partial(contextvars.copy_context().run, function, *arguments))
        done = call.awaited()
        with self._lock:
            self._jobs.append(call)
            if len(self._jobs) <= self._idle:
                self._more.notify()
            elif self._count < self._most:
                self._start()
        del call  # It holds what the caller's thread has made, and its failure, which holds this frame.
        return await done

    def finish(self) -> None:
        """Let running functions end, for a few seconds at most."""
        with self._lock:
            self._done.wait_for(lambda: self._count == self._idle, _FINISH_SECONDS)

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._count += 1
        try:
            thread.start()
        except RuntimeError:
            self._count -= 1
            if not self._count:
                self._jobs.pop()  # Nobody would ever do it.
                raise

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._jobs:
                    self._idle += 1
                    self._done.notify_all()
                    woken = self._more.wait(_IDLE_SECONDS)
                    self._idle -= 1
                    if not woken and not self._jobs:
                        self._count -= 1
                        return
                job = self._jobs.popleft()
            job.do()
            del job  # and with it what it holds


working = Threads("storage-work", min(max(os.process_cpu_count() or 1, 2), 4))
"""For short work: hashing, signing, cleaning up."""
waiting = Threads("storage-wait", 32)
"""For work that may take long: sources and credentials."""
naming = Threads("storage-names", 32)
"""For the look-up of names, whose callers wait for some seconds only: slow sources do not hold it up."""

atexit.register(working.finish)
