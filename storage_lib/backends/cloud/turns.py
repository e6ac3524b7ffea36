"""Waiting for a turn, first come first served, on any event loop of any thread.

Two things are waited for: one of the slots of a service, which bound how many requests are under way, and a
key, so that no write of it begins while another may still land.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable

from storage_lib.ports.deadline import DEADLINE

# Reentrant: a collected coroutine gives back its turn wherever the collector happens to run.
LOCK = threading.RLock()


class Waiter:
    __slots__ = ("future", "has_turn", "loop", "want")

    def __init__(self, want: int) -> None:
        self.want = want
        self.has_turn = False
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> bool:
        """Whether there is a loop left to wake."""
        if asyncio._get_running_loop() is self.loop:  # pyright: ignore[reportPrivateUsage] - never raises
            self._tell()
            return True
        try:
            self.loop.call_soon_threadsafe(self._tell)
        except RuntimeError:
            return False
        return True

    def _tell(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Turns(ABC):
    """:param want: what a turn needs; a subclass says what that means."""

    __slots__ = ("_line",)

    _line: OrderedDict[Waiter, None] | None

    @abstractmethod
    def _fits(self, want: int) -> bool: ...

    @abstractmethod
    def _add(self, want: int, sign: int) -> None: ...

    def join(self, want: int) -> Waiter | None:
        """Take a turn, or a place in the line: `wait` for it then."""
        with LOCK:
            if not self._line and self._fits(want):
                self._add(want, 1)
                return None
            if self._line is None:
                self._line = OrderedDict()
            waiter = Waiter(want)
            self._line[waiter] = None
            return waiter

    async def wait(self, waiter: Waiter) -> None:
        """Return when it is this one's turn; whoever is cancelled has none."""
        deadline = DEADLINE.get()
        if deadline is not None:
            deadline.begin_wait()
        try:
            await waiter.future
        except BaseException:
            with LOCK:
                if waiter.has_turn:
                    self.leave(waiter.want)
                elif self._line and waiter in self._line:
                    del self._line[waiter]
                    self._advance()
                    self._left()
            raise
        finally:
            if deadline is not None:
                deadline.end_wait()

    def leave(self, want: int) -> None:
        """Give the turn back."""
        with LOCK:
            self._add(want, -1)
            if self._line:
                self._advance()
            self._left()

    def _left(self) -> None:  # noqa: B027 - for those that have something to do then
        """Somebody has left."""

    def _advance(self) -> None:
        while self._line:
            waiter = next(iter(self._line))
            if not self._fits(waiter.want):
                return
            del self._line[waiter]
            self._add(waiter.want, 1)
            waiter.has_turn = waiter.wake()
            if not waiter.has_turn:
                self._add(waiter.want, -1)


class Slots(Turns):
    """At most so many at a time. ``want`` is that number: whoever asks brings a limit."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self._line = None
        self.taken = 0

    def _fits(self, want: int) -> bool:
        return self.taken < want

    def _add(self, want: int, sign: int) -> None:
        self.taken += sign


ALONE = 1
BESIDE = 0


class _Key(Turns):
    """One that is `ALONE`, or any number `BESIDE` each other."""

    __slots__ = ("_alone", "_beside", "_name")

    def __init__(self, name: Hashable) -> None:
        self._line = None
        self._name = name
        self._alone = 0
        self._beside = 0

    def _fits(self, want: int) -> bool:
        return not self._alone and not (want and self._beside)

    def _add(self, want: int, sign: int) -> None:
        if want:
            self._alone += sign
        else:
            self._beside += sign

    def _left(self) -> None:
        if not (self._line or self._alone or self._beside):
            KEYS.pop(self._name, None)


KEYS: dict[Hashable, _Key] = {}
"""Those that are being written; no other key takes any room."""


def join_key(name: Hashable, want: int) -> tuple[Turns, Waiter] | None:
    """Claim ``name`` for a write, or get what to wait for (`Turns.wait`) until it may begin."""
    with LOCK:
        key = KEYS.get(name)
        if key is None:
            key = KEYS[name] = _Key(name)
        waiter = key.join(want)
        return None if waiter is None else (key, waiter)


def leave_key(name: Hashable, want: int) -> None:
    """The write has ended."""
    with LOCK:
        KEYS[name].leave(want)
