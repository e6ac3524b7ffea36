"""Messages from a queue of one store to that of another.

A queue can be read only by receiving from it, which hides messages and counts as a delivery. So messages are
moved, not copied: each is removed from the source once the target has it. One whose removal is cut off is in
both, as any queue may deliver a message twice; none is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

from storage_lib.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.manager import StorageManager
from storage_lib.migration.options import MigrationOptions
from storage_lib.migration.report import MigrationReport
from storage_lib.ports.queue_model import QueueMessage
from storage_lib.ports.queues import MAX_RECEIVE, QueueStore
from storage_lib.reserved_names import TASKS, owner_of_queue
from storage_lib.several import surviving

_HELD_SECONDS = 300
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
"""What does not expire has a later date."""


async def check_queues(options: MigrationOptions, source: StorageManager) -> None:
    """
    :raises KeyNotFoundError: the source does not have a queue.
    :raises InvalidArgumentError: a queue is one of the tasks.
    """
    for queue in options.queues:
        if owner_of_queue(queue) == TASKS:
            raise InvalidArgumentError(
                f"the messages of the queue {queue!r} name tasks, whose records stay in the source",
                field="queues",
                remedy="let the tasks end, and submit what is still to be done to the other app",
            )
        await source.backend.queues.length(queue)


class QueueMover:
    """Moves messages, and says in ``report`` what it did."""

    def __init__(
        self,
        source: QueueStore,
        target: QueueStore,
        report: MigrationReport,
        tell: Callable[[str, str], object] | None,
        *,
        dry_run: bool,
    ) -> None:
        self._from = source
        self._to = target
        self._dry_run = dry_run
        self._report = report
        self._tell = tell

    async def move(self, queue: str) -> None:
        """Move all messages that are visible. Those that are not are reported as failed: they are being
        worked on, or delayed.

        :raises StorageUnavailableError: a store is away; what has not been moved is in the source.
        """
        with surviving(partial(self._failed, f"queue {queue}")):
            if self._dry_run:
                await self._to.list_queues()  # Whether it has queues at all.
                self._moved(queue, await self._from.length(queue))
                return
            await self._to.create_queue(queue)
            await self._move(queue)

    async def _move(self, queue: str) -> None:
        kept: list[QueueMessage] = []
        try:
            while found := await self._from.receive(
                queue, max_messages=MAX_RECEIVE, visibility_timeout=_HELD_SECONDS
            ):
                done = await asyncio.gather(
                    *(self._one(queue, each) for each in found), return_exceptions=True
                )
                moved = 0
                for message, outcome in zip(found, done, strict=True):
                    if outcome is True:
                        moved += 1
                    else:
                        kept.append(message)
                self._moved(queue, moved)
                for outcome in done:
                    if isinstance(outcome, BaseException):
                        raise outcome
        finally:
            await give_back(self._from, queue, kept)
        if (left := await self._from.length(queue) - len(kept)) > 0:
            raise TransientStorageError(
                f"{left} messages of queue {queue!r} are hidden: they are being worked on, or delayed",
                remedy="move the queue again when they can be received",
            )

    async def _one(self, queue: str, message: QueueMessage) -> bool:
        """Whether a message was moved; it is in the source otherwise."""
        try:
            left = _left(message)
            if self._from.message_encoding == self._to.message_encoding or message.body is None:
                await self._to.send_text(queue, message.text, ttl=left)
            else:
                await self._to.send(queue, message.body, ttl=left)
            await self._from.delete(queue, message)
        except (StorageUnavailableError, AccessDeniedError):
            raise  # The others would fail alike, hidden from those who work on them, or be there twice.
        except StorageError as error:
            self._failed(f"queue {queue}, message {message.id}", error)
            return False
        return True

    def _moved(self, queue: str, count: int) -> None:
        self._report.messages_moved += count
        if count and self._tell is not None:
            self._tell(f"queue {queue}, {count} message{'s' if count > 1 else ''}", "moved")

    def _failed(self, name: str, error: StorageError) -> None:
        self._report.fail(name, error)
        if self._tell is not None:
            self._tell(name, "failed")


async def give_back(queues: QueueStore, queue: str, held: list[QueueMessage]) -> None:
    """Make messages that were received visible at once, and not only when their time is over."""
    free = asyncio.Semaphore(MAX_RECEIVE)

    async def one(message: QueueMessage) -> None:
        # Visible already, or soon.
        async with free:
            with suppress(KeyNotFoundError, StorageUnavailableError):
                await queues.update(queue, message, visibility_timeout=0)

    for outcome in await asyncio.gather(*map(one, held), return_exceptions=True):
        if outcome is not None:
            raise outcome


def _left(message: QueueMessage) -> float | None:
    """How many seconds a message that was just received has to live; None if it does not expire. By the clock
    of its store: to one that is fast, it may seem to have expired."""
    if message.expires_at >= NEVER:
        return None
    received = message.next_visible_at - timedelta(seconds=_HELD_SECONDS)
    return max((message.expires_at - received).total_seconds(), 1.0)
