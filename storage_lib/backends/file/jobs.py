"""Work that is done in batches by threads for callers on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Generator, Iterable
from typing import Any

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

    __slots__ = ("error", "future", "loop", "result")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the caller has been cancelled. Once seen true it stays so; asked from any thread."""
        return self.future.cancelled()


def resolve(jobs: Iterable[Job]) -> None:
    """Tell the callers, waking each event loop once for all of them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, of_loop in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, of_loop)


def _tell(jobs: list[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)
