"""Work that threads do for callers on any event loop: in batches, or late where a lock is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage_lib.backends.file import layout
from storage_lib.errors import StorageError, TransientStorageError


def check_process(pid: int) -> None:
    """Threads do not come along into a forked process: whoever waits for one there waits for ever.

    :raises StorageError: this is not the process with that id.
    """
    if os.getpid() != pid:
        raise StorageError(
            "the backend was made before this process was forked", remedy="make a new one in each process"
        )


@contextlib.contextmanager
def thread_errors() -> Generator[None]:
    """:raises TransientStorageError: there can be no more threads at the moment."""
    try:
        yield
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        raise TransientStorageError(
            f"the data folder: {error}", remedy="raise the limit of threads"
        ) from error


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


class Job:
    """One caller's part of a batch: a thread sets ``result`` or ``error``, then `resolve` tells them."""

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


_THREADS = 16


class LateWrites:
    """One thread for each lock: who waits for the same one has nothing to try before that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, deque[tuple[Callable[[float], None], float]]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def add(self, key: str, finish: Callable[[float], None]) -> None:
        """Have it finished in a thread of its own; at once, here, if there is none.

        :param finish: does it, waiting for the lock no longer than it is told.
        """
        name, late = layout.name_of(key), (finish, time.monotonic() + layout.PATIENCE_SECONDS)
        with self._lock:
            if name in self._lines:
                return self._lines[name].append(late)
            self._lines[name] = deque([late])
            try:
                if not self._closed:
                    self._threads = self._threads or ThreadPoolExecutor(
                        _THREADS, thread_name_prefix="storage-files-late"
                    )
                    self._threads.submit(self._work_off, name)
                    return None
            except RuntimeError:  # no more threads
                pass
        self._work_off(name)
        return None

    def _work_off(self, name: str) -> None:
        while True:
            with self._lock:
                if not (line := self._lines[name]):
                    del self._lines[name]
                    return
                finish, until = line.popleft()
            finish(max(until - time.monotonic(), 0))

    def close(self) -> None:
        """Wait until all are done."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
