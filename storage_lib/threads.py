"""The library's own threads, so that work in the event loop's pool cannot hold it up."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

_IDLE_SECONDS = 5.0
_FINISH_SECONDS = 5.0


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    work: Callable[[], Any]

    def do(self) -> None:
        if self.future.cancelled():  # Once true, it stays true.
            return
        result: Any = None
        error: BaseException | None = None
        try:
            result = self.work()
        except StopIteration as stopped:  # which no future takes
            error = RuntimeError("StopIteration was raised in a thread")
            error.__cause__ = stopped
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop was closed: nobody is waiting any longer.
            self.loop.call_soon_threadsafe(self._tell, result, error)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Threads:
    """Up to ``most`` threads for all event loops of the process, started on demand and ended when idle."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._done = threading.Condition(self._lock)
        self._count = 0
        self._idle = 0
        self._pid = os.getpid()

    async def run[T](self, function: Callable[..., T], *arguments: Any) -> T:
        """Run ``function(*arguments)`` in one of the threads, with the caller's context variables.

        If the caller is cancelled, a function that has begun runs to its end.
        """
        if self._pid != os.getpid():  # The threads stayed with the parent.
            self.__init__(self._name, self._most)
        loop = asyncio.get_running_loop()
        job = _Job(loop, loop.create_future(), partial(contextvars.copy_context().run, function, *arguments))
        with self._lock:
            self._jobs.append(job)
            if len(self._jobs) <= self._idle:
                self._more.notify()
            elif self._count < self._most:
                self._start()
        return await job.future

    def finish(self) -> None:
        """Let running functions end, for a few seconds at most."""
        if self._pid != os.getpid():
            return
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
