"""Calls that come together and share a request: deletes, and questions.

Deletes that are asked for in one turn of the event loop go together; nobody waits for others to come. Such a
request goes on as long as any who asked still waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import NamedTuple

from storage_lib.errors import StorageError
from storage_lib.ports.deadline import DEADLINE, Deadline, Deadlines


class Asked[A](NamedTuple):
    """A delete, and where what becomes of it is told."""

    key: str
    if_match: str | None
    answer: asyncio.Future[A]
    deadline: Deadline | None


class Together[A]:
    """:param most: how many share a request.
    :param alone: makes one delete by itself. :param send: makes several, and tells what became of each.
    """

    def __init__(
        self,
        most: int,
        alone: Callable[[str, str | None], Awaitable[A]],
        send: Callable[[Sequence[Asked[A]]], Awaitable[Sequence[A]]],
    ) -> None:
        self._most = most
        self._alone = alone
        self._send = send
        self._asked: dict[asyncio.AbstractEventLoop, list[Asked[A]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, key: str, if_match: str | None = None) -> A:
        """What becomes of the delete."""
        loop = asyncio.get_running_loop()
        asked = self._asked.get(loop)
        if asked is None:
            asked = self._asked[loop] = []
            loop.call_soon(self._begin, loop)
        one = Asked[A](key, if_match, loop.create_future(), DEADLINE.get())
        asked.append(one)
        try:
            if len(asked) == 1:
                await asyncio.sleep(0)  # Whoever comes in this turn is there now.
                if len(asked) == 1:
                    return await self._alone(key, if_match)
            return await one.answer
        finally:
            one.answer.cancel()

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        asked = self._asked.pop(loop)
        if len(asked) == 1:
            return
        batch: dict[str, Asked[A]] = {}
        for one in asked:
            # Two of one key would wait for each other.
            if len(batch) == self._most or one.key in batch:
                self._start(list(batch.values()))
                batch = {}
            if not one.answer.cancelled():
                batch[one.key] = one
        self._start(list(batch.values()))

    def _start(self, batch: list[Asked[A]]) -> None:
        if not batch:
            return
        task = asyncio.ensure_future(self._carried_out(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        left = len(batch)

        def gave_up(answer: asyncio.Future[A]) -> None:
            nonlocal left
            left -= answer.cancelled()
            if not left:
                task.cancel()

        for one in batch:
            one.answer.add_done_callback(gave_up)

    async def _carried_out(self, batch: Sequence[Asked[A]]) -> None:
        DEADLINE.set(Deadlines.of(one.deadline for one in batch))
        try:
            answers = await self._send(batch)
        except asyncio.CancelledError:
            for one in batch:
                one.answer.cancel()
            raise
        except BaseException as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(copy(error) if isinstance(error, StorageError) else error)
        else:
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)


class AskedOnce[T]:
    """An answer for all who want it at once in an event loop: of them one asks, whoever is cancelled."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking: dict[asyncio.AbstractEventLoop, asyncio.Future[T]] = {}

    async def get(self) -> T:
        loop = asyncio.get_running_loop()
        if (asking := self._asking.get(loop)) is None:
            asking = self._asking[loop] = asyncio.ensure_future(self._ask())
            asking.add_done_callback(self._answered)
        return await asyncio.shield(asking)

    def _answered(self, asking: asyncio.Future[T]) -> None:
        self._asking.pop(asking.get_loop(), None)
        if not asking.cancelled():
            asking.exception()  # There may be nobody left to ask for it.
