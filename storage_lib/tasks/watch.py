"""Leases are renewed even while the event loop is blocked.

An action that blocks the loop stops the renewals of every task that runs in it. A thread notices, renews
their leases through a backend and a loop of its own, and measures how long the loop did not respond. A
process has one such thread, from the first task that runs until shortly after the last.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
import logging
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress

from storage_lib.errors import KeyNotFoundError, NotPortableError, PreconditionFailedError
from storage_lib.ports.backend import StorageBackend
from storage_lib.tasks.lease import Lease
from storage_lib.tasks.model import TaskRecord, TaskStatus
from storage_lib.tasks.records import TaskRecords

_LONGEST_TICK = 1.0
_TICKS = 8
"""In the length of a lease."""
_IDLE_TICKS = 4
_TRIES = 5
_AT_ONCE = 16
_CLOSE_SECONDS = 2.0

_log = logging.getLogger("AOS.Tasks")


class Place:
    """Where the records of an engine are: the thread builds its own backend like the engine's. A backend in
    memory cannot be duplicated; then the thread can only wake the loop as soon as it responds."""

    def __init__(self, backend: StorageBackend) -> None:
        self._backend = backend
        self.is_reachable = True

    def open(self) -> StorageBackend | None:
        try:
            return copy.copy(self._backend)
        except NotPortableError:
            self.is_reachable = False
            return None


class _Pulse:
    """Whether an event loop responds."""

    def __init__(self) -> None:
        self.is_asked = False
        self.silent = 0.0
        """For how many seconds in total it did not, while the asking thread itself went on."""

    def answer(self) -> None:
        """Called by the loop."""
        self.is_asked = False


class LeaseWatch:
    """The leases that this process holds, and the thread that renews them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Lease, Place, asyncio.AbstractEventLoop, int]] = {}
        self._pulses: dict[asyncio.AbstractEventLoop, _Pulse] = {}
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    @contextmanager
    def holding(self, lease: Lease, place: Place) -> Generator[None]:
        """Renew a lease of the running event loop when necessary."""
        loop = asyncio.get_running_loop()
        lease.silence = self._silence
        with self._lock:
            self._held[id(lease)] = (lease, place, loop, threading.get_ident())
            if self._thread is None and not self._end.is_set():
                thread = threading.Thread(target=self._run, name="task-leases", daemon=True)
                with suppress(RuntimeError):  # No more threads can be started: the loop has to do it alone.
                    thread.start()
                    self._thread = thread
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(id(lease), None)  # A forked process holds none.

    def holds(self, record: TaskRecord) -> bool:
        """Whether the run of a record goes on in this process, which only renewed its lease late."""
        with self._lock:
            held = [lease for lease, _, loop, _ in self._held.values() if not loop.is_closed()]
        return any(
            lease.record.task_id == record.task_id
            and lease.record.fence == record.fence
            and lease.is_overdue
            and not lease.is_given_up
            for lease in held
        )

    def _silence(self, loop: asyncio.AbstractEventLoop) -> float:
        """For how many seconds in total a loop did not respond although this process went on; only
        differences are meaningful, and only while the loop holds a lease."""
        pulse = self._pulses.get(loop)
        return 0.0 if pulse is None else pulse.silent

    def stop(self) -> None:
        """End the thread; called at the end of the process."""
        self._end.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_CLOSE_SECONDS)

    # -- in the thread

    def _run(self) -> None:
        opened: dict[Place, StorageBackend] = {}
        runner: asyncio.Runner | None = None
        idle = 0
        tick = _LONGEST_TICK
        last = time.monotonic()
        try:
            while not self._end.is_set():
                with self._lock:
                    held = list(self._held.values())
                    idle = 0 if held else idle + 1
                    if idle > _IDLE_TICKS:
                        self._thread = None
                        return
                slept, last = time.monotonic() - last, time.monotonic()
                self._feel({loop for _, _, loop, _ in held}, min(slept, 2 * tick))
                # Where the loop was closed under it, nothing runs.
                due = [
                    (lease, place, loop, at)
                    for lease, place, loop, at in held
                    if lease.is_due and not lease.is_given_up and not loop.is_closed()
                ]
                for lease, _, loop, _ in due:
                    with suppress(RuntimeError):  # The loop is closed.
                        loop.call_soon_threadsafe(lease.wake)
                reachable = [(lease, place, at) for lease, place, _, at in due if place.is_reachable]
                if reachable:
                    runner = runner or asyncio.Runner()
                    runner.run(_renew_all(reachable, opened))
                shortest = min((lease.length.total_seconds() for lease, *_ in held), default=_LONGEST_TICK)
                tick = min(max(shortest / _TICKS, 0.02), _LONGEST_TICK)
                self._end.wait(tick)
        except Exception:
            _log.exception("the thread that keeps leases has failed")
            with self._lock:
                self._thread = None  # The next task starts another.
        finally:
            if runner is not None:
                with suppress(Exception):
                    runner.run(_close(opened))
                    runner.close()

    def _feel(self, loops: set[asyncio.AbstractEventLoop], passed: float) -> None:
        self._pulses = {loop: self._pulses.get(loop) or _Pulse() for loop in loops}
        for loop, pulse in self._pulses.items():
            if pulse.is_asked:
                pulse.silent += passed
            else:
                pulse.is_asked = True
                with suppress(RuntimeError):  # The loop is closed.
                    loop.call_soon_threadsafe(pulse.answer)


async def _renew_all(due: list[tuple[Lease, Place, int]], opened: dict[Place, StorageBackend]) -> None:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(lease: Lease, place: Place, thread: int) -> None:
        async with limit:
            try:
                here = opened.get(place) or place.open()
                if here is None:
                    return
                opened[place] = here
                async with asyncio.timeout(max(lease.length.total_seconds() / 3, 1)):
                    await _renew(lease, TaskRecords(here), thread)
            except Exception as error:
                _log.warning(
                    "the lease of task %s could not be renewed by the thread: %s", lease.record.task_id, error
                )

    await asyncio.gather(*(one(*each) for each in due))


async def _renew(lease: Lease, records: TaskRecords, thread: int) -> None:
    for _ in range(_TRIES):
        try:
            found = await records.get(lease.record.task_id, contents=False)
        except KeyNotFoundError:
            return
        if found.fence != lease.record.fence or found.status is not TaskStatus.RUNNING or found.is_waiting:
            return  # It has ended, or another has it; its own loop will see.
        now = lease.now()
        try:
            changed = await records.change(found, lease_until=now + lease.length, updated_at=now)
        except PreconditionFailedError:
            continue
        if not lease.kept:
            _log.warning(
                "task %s: its renewal is late, a thread renews the lease; the event loop is at %s",
                lease.record.task_id,
                _place_of(thread),
            )
        lease.keep(changed.lease_until)
        return


async def _close(opened: dict[Place, StorageBackend]) -> None:
    async with asyncio.timeout(_CLOSE_SECONDS):
        for one in opened.values():
            await one.close()


def _place_of(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage] - there is no other way
    return (
        "?" if frame is None else f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    )


watch = LeaseWatch()
"""That of this process."""

# The thread stays with the parent, and so do its tasks.
os.register_at_fork(after_in_child=watch.__init__)
atexit.register(watch.stop)
