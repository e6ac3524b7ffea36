"""Every request to Azure or S3: bounded in number, and a write that outlives its caller stays in order.

A request that has been sent cannot be recalled: whoever is cancelled does not know whether it will be
carried out, nor when. So a write goes on without its caller, and the next write of the same key waits for its
answer. A write whose caller was cancelled therefore never lands after one that was acknowledged later by this
process, whichever backend object, event loop or thread either came from.

Writes that a condition orders (an ETag, "create only") run beside each other: one that lands late fails. All
others have the key alone. A slot is held for a single request and never while anything else is waited for, so
that no two operations can wait for each other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable, Sequence
from typing import Any, NamedTuple, cast

from storage_lib.backends.cloud.turns import ALONE, BESIDE, LOCK, Slots, Turns, Waiter, join_key, leave_key
from storage_lib.config import MAX_CONCURRENT_REQUESTS, check_count
from storage_lib.errors import StorageError
from storage_lib.ports.deadline import DEADLINE


class _Process:
    """``used``: it has sent a request. ``spoiled``: it was forked from one that had."""

    used = False
    spoiled = False


def use_process() -> None:
    """Note that this process sends requests.

    Network clients do not survive a fork: their threads stay in the parent, and whoever waits for one in the
    child waits for ever. obstore has one runtime per process, so a new backend there would wait as well.

    :raises StorageError: it was forked from a process that already had.
    """
    if _Process.spoiled:
        raise StorageError(
            "this process was forked from one that already used Azure or S3, whose clients do not survive a"
            " fork",
            remedy="start processes with the 'spawn' method of multiprocessing, or use Azure and S3 only"
            " after the fork",
        )
    _Process.used = True


def _after_fork() -> None:
    _Process.spoiled = _Process.spoiled or _Process.used


os.register_at_fork(after_in_child=_after_fork)


ABANDONED_SECONDS = 30.0
"""How long a write goes on without its caller. One without an answer by then is cut off: if it was still
being sent it never happens; what became of one that was sent nobody can know."""

Claim = tuple[Hashable, int]
"""What a write changes, and whether it needs that `ALONE` or may run `BESIDE` others."""

__all__ = ["ALONE", "BESIDE", "Claim", "Requests", "use_process"]

_SLOTS: dict[str, Slots] = {}
_ABANDONED: dict[asyncio.AbstractEventLoop, _Abandoned] = {}
"""Of the event loops in which a caller was cancelled, until they are closed."""


class Requests:
    """The requests of one backend to one ``service``, whose slots all backends of this process share.

    :param limit: none begins while so many are under way.
    """

    def __init__(self, service: str, limit: int) -> None:
        self._slots = _SLOTS.setdefault(service, Slots())
        self._limit = check_count("concurrent_requests", limit, MAX_CONCURRENT_REQUESTS)

    async def send[T](self, call: Callable[[], Awaitable[T]], claims: Sequence[Claim] = ()) -> T:
        """What ``call`` returns: a single request, begun when there is a slot.

        :param claims: what it writes. It is then carried out even if the caller is cancelled meanwhile, and
            no other write of that begins before it has ended. Cancelled before it has begun, it never begins.
        :raises StorageError: this process was forked from one that already used Azure or S3.
        """
        use_process()
        if not claims:
            if (waiter := self._slots.join(self._limit)) is not None:
                await _wait(self._slots, waiter)
            try:
                return await call()
            finally:
                self._slots.leave(self._limit)
        write = await self._turn(claims)
        try:
            future = _begun(call)
        except BaseException:
            write.leave()
            raise
        if future.done():
            write.leave()
            return future.result()
        future.add_done_callback(write)
        try:
            await write.waiter
        except asyncio.CancelledError:
            if not future.done():
                await self._abandon(future, write)
            raise
        try:
            return future.result()
        finally:
            del future  # It may hold an error, whose traceback holds this frame.

    async def _turn(self, claims: Sequence[Claim]) -> _Write:
        claimed: list[Claim] = []
        write = _Write(self._slots, self._limit, claimed)
        try:
            # In one order for all, so that no two hold what the other waits for.
            for claim in claims if len(claims) == 1 else sorted(claims, key=repr):
                if (place := join_key(*claim)) is not None:
                    await _wait(*place)
                claimed.append(claim)
            if (waiter := self._slots.join(self._limit)) is not None:
                await _wait(self._slots, waiter)
            write.has_slot = True
        except BaseException:
            write.leave()
            raise
        return write

    async def settle(self) -> None:
        """Wait for the writes of this event loop whose callers are gone, for `ABANDONED_SECONDS` at most."""
        kept = _ABANDONED.get(asyncio.get_running_loop())
        here = {} if kept is None else kept.writes
        if ours := [future for future, abandoned in here.items() if abandoned.requests is self]:
            await asyncio.wait(ours)

    async def _abandon(self, future: asyncio.Future[Any], write: _Write) -> None:
        loop = future.get_loop()
        kept = _ABANDONED.get(loop)
        if kept is None:
            _release_lost()
            kept = _ABANDONED[loop] = _Abandoned()
            await kept.begin()
        kept.writes[future] = _AbandonedWrite(self, write, time.monotonic())
        end = loop.call_later(ABANDONED_SECONDS, future.cancel)

        def ended(future: asyncio.Future[Any]) -> None:
            end.cancel()
            kept.writes.pop(future, None)

        future.add_done_callback(ended)


class _Write:
    """The turn of a write. It is given back when the request ends, be it that its event loop is dropped.

    ``waiter`` is what the caller waits for.
    """

    __slots__ = ("_claims", "_limit", "_slots", "has_slot", "waiter")

    def __init__(self, slots: Slots, limit: int, claims: list[Claim]) -> None:
        self._slots = slots
        self._limit = limit
        self._claims: list[Claim] | None = claims
        self.has_slot = False
        self.waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __call__(self, future: asyncio.Future[Any]) -> None:
        self.leave()
        if not self.waiter.done():
            self.waiter.set_result(None)
        elif not future.cancelled():
            future.exception()  # Nobody else asks for it.

    def leave(self) -> None:
        """Give the turn back, once."""
        with LOCK:
            claims, self._claims = self._claims, None
        if claims is None:
            return
        if self.has_slot:
            self._slots.leave(self._limit)
        for claim in claims:
            leave_key(*claim)

    def __del__(self) -> None:
        self.leave()


async def _wait(turns: Turns, waiter: Waiter) -> None:
    """Wait for a turn, which nobody may be left to give back."""
    _release_lost()
    # Whatever was abandoned before now is overdue by then; what has been since had its own loop running.
    again = asyncio.get_running_loop().call_later(ABANDONED_SECONDS + 1, _release_lost)
    try:
        await turns.wait(waiter)
    finally:
        again.cancel()
    if (deadline := DEADLINE.get()) is not None:
        try:
            deadline.check()
        except BaseException:
            turns.leave(waiter.want)
            raise


def _release_lost() -> None:
    """Give back the turns of writes whose event loop was closed without being run to its end, or has stood
    still since they should have been cut off."""
    overdue = time.monotonic() - ABANDONED_SECONDS
    for loop in list(_ABANDONED):
        kept = _ABANDONED.get(loop)
        if kept is None or loop.is_running():
            continue
        if loop.is_closed():
            _ABANDONED.pop(loop, None)
        for abandoned in list(kept.writes.values()):
            if loop.is_closed() or abandoned.since < overdue:
                abandoned.write.leave()


def _begun[T](call: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
    """The request, sent, as a future that a loop that is run to its end does not cancel."""
    request = call()
    if isinstance(request, asyncio.Future):
        return request
    task = asyncio.Task(
        cast("Coroutine[Any, Any, T]", request), loop=asyncio.get_running_loop(), eager_start=True
    )
    # Such a loop cancels all the tasks it knows; `_Abandoned` has it wait for these.
    asyncio._unregister_task(task)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType] - "Extending", asyncio
    return task


class _AbandonedWrite(NamedTuple):
    requests: Requests
    write: _Write
    since: float
    """In seconds of the monotonic clock."""


class _Abandoned:
    """The writes of one event loop whose callers are gone. The loop is not closed before they have ended."""

    def __init__(self) -> None:
        self.writes: dict[asyncio.Future[Any], _AbandonedWrite] = {}
        self._lifetime = self._live()

    async def begin(self) -> None:
        # asyncio finishes async generators before it closes a loop, and with this one the writes.
        await anext(self._lifetime)

    async def _live(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            while self.writes:
                await asyncio.wait(list(self.writes))
            _ABANDONED.pop(asyncio.get_running_loop(), None)
