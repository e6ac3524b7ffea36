"""Moving messages out of queues of tasks that are no longer in use, because there are fewer than before.

Nothing is triggered by such a queue, so what is left there, or is put there by a host of the old number, is
moved to the queue that takes its place. A message is sent before it is deleted: stopped in between, it is
there twice, which does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.backend import QueueStore
from storage_lib.ports.queues import MAX_RECEIVE, QueueMessage
from storage_lib.tasks.model import TASK_QUEUE
from storage_lib.tasks.queues import NAMES, TaskQueues

HIDDEN_SECONDS = 60.0
"""For how long a message that is being moved is hidden."""
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""What does not expire has a later date."""

_log = logging.getLogger("AOS.Tasks")


class Drain:
    """Moves the messages of unused queues.

    :param queues: those of the store.
    :param used: those in use.
    """

    def __init__(self, queues: QueueStore, used: TaskQueues, now: Callable[[], datetime]) -> None:
        self._queues = queues
        self._used = used
        self._now = now
        self.left: tuple[str, ...] = ()
        """The unused queues in which the last run left messages."""

    async def unused(self) -> list[str]:
        """The queues of tasks that the store has, and that are not in use."""
        used = set(self._used.every)
        listed = self._queues.list_queues(TASK_QUEUE)
        return [name async for name in listed if name in NAMES and name not in used]

    async def run(self, seconds: float) -> tuple[int, int]:
        """Move messages for about so many seconds. Return how many were moved, and about how many are left:
        hidden ones, which are moved once they are visible, and those for which there was no time.

        :raises StorageError: nothing was lost.
        """
        until, moved, left = time.monotonic() + seconds, 0, dict[str, int]()
        for name in await self.unused():
            with contextlib.suppress(KeyNotFoundError):  # Somebody has deleted the queue.
                while await self._queues.length(name):
                    some = await self._move(name) if time.monotonic() < until else 0
                    moved += some
                    if not some:
                        left[name] = await self._queues.length(name)
                        break
        self.left = tuple(left)
        if moved:
            _log.info("%d messages of queues that are no longer in use were moved", moved)
        return moved, sum(left.values())

    async def _move(self, name: str) -> int:
        found = await self._queues.receive(name, max_messages=MAX_RECEIVE, visibility_timeout=HIDDEN_SECONDS)
        moves = (self._move_one(name, message) for message in found)
        for failed in await asyncio.gather(*moves, return_exceptions=True):
            if failed is not None:
                raise failed
        return len(found)

    async def _move_one(self, name: str, message: QueueMessage) -> None:
        ttl = None
        if message.expires_at < _NEVER:
            ttl = max((message.expires_at - self._now()).total_seconds(), 1.0)
        await self._queues.send_text(self._used.instead_of(name), message.text, ttl=ttl)
        with contextlib.suppress(KeyNotFoundError):  # It took so long that another has moved it, too.
            await self._queues.delete(name, message)
