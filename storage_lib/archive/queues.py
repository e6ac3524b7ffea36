"""Queues in an archive: a line of JSON for each message.

A queue can be read only by receiving from it. So a backup hides the messages for a while, and makes them
visible again when it has them all; one that is cut off leaves them to become visible by themselves.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime
from functools import partial

import msgspec

from storage_lib.archive.reports import BackupReport, RestoreReport
from storage_lib.archive.tables import NOT_READ
from storage_lib.arguments import several
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
)
from storage_lib.manager import StorageManager
from storage_lib.migration.queues import NEVER, give_back
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage, decoded
from storage_lib.ports.queues import MAX_RECEIVE
from storage_lib.reserved_names import TASKS, owner_of_queue
from storage_lib.several import Several, surviving

_HIDDEN_SECONDS = 300
_PART_BYTES = 128 * 1024
_HELD_BYTES = 64 * 1024 * 1024
_CONCURRENCY = 16


class _Line(msgspec.Struct, omit_defaults=True):
    """A message as it was on the wire."""

    text: str
    encoding: MessageEncoding
    inserted: datetime
    expires: datetime | None = None


async def queues_of(storage: StorageManager, queues: Iterable[str]) -> list[str]:
    """The names of the queues that are wanted.

    :raises KeyNotFoundError: there is no such queue.
    :raises InvalidArgumentError: it is one of the tasks.
    """
    names = list(dict.fromkeys(str(name) for name in several("queues", queues)))
    for name in names:
        if owner_of_queue(name) == TASKS:
            raise InvalidArgumentError(
                f"the messages of the queue {name!r} name tasks, which are not in the archive", field="queues"
            )
        await storage.backend.queues.length(name)
    return names


async def messages_of(
    storage: StorageManager, queue: str, report: BackupReport
) -> AsyncGenerator[tuple[bytes, int]]:
    """The visible messages of a queue in parts, and how many are in each. An empty one has an empty part."""
    queues = storage.backend.queues
    encoding = queues.message_encoding
    seen: set[str] = set()
    held: list[QueueMessage] = []
    room = _HELD_BYTES
    lines: list[bytes] = []
    size = 0
    is_empty, comes_again = True, False
    try:
        while not comes_again:
            found = await queues.receive(queue, max_messages=MAX_RECEIVE, visibility_timeout=_HIDDEN_SECONDS)
            if not found:
                break
            for message in found:
                # Beyond the room, messages become visible when their time is over.
                room -= len(message.text)
                if room > 0:
                    held.append(message)
                if message.id in seen:
                    comes_again = True  # Those that have not been seen come before it.
                    continue
                seen.add(message.id)
                expires = message.expires_at if message.expires_at < NEVER else None
                lines.append(
                    msgspec.json.encode(_Line(message.text, encoding, message.inserted_at, expires)) + b"\n"
                )
                size += len(lines[-1])
            if size >= _PART_BYTES:
                is_empty = False
                yield b"".join(lines), len(lines)
                lines, size = [], 0
        if lines or is_empty:
            yield b"".join(lines), len(lines)
        hidden = await queues.length(queue) - len(seen)
        if hidden > 0:
            report.failed.add(
                f"queue {queue}", f"{hidden} messages are hidden: they are being worked on, or delayed"
            )
    finally:
        await give_back(queues, queue, held)


class RestoredQueues:
    """Sends the messages of an archive.

    :param chosen: the queues that are wanted: all, none, or those with these names.
    """

    def __init__(
        self,
        storage: StorageManager,
        chosen: bool | set[str],
        report: RestoreReport,
        *,
        overwrite: bool,
        dry_run: bool,
    ) -> None:
        self._queues = storage.backend.queues
        self._chosen = chosen
        self._report = report
        self._overwrite = overwrite
        self._dry_run = dry_run
        self._open: dict[str, bool] = {}
        self.seen: set[str] = set()
        """The queues of the archive."""

    async def wants(self, queue: str) -> bool:
        """Whether the messages of a queue are to be sent. To one that has some already they are not: a
        restore that is run again would send them twice."""
        self.seen.add(queue)
        if not (queue in self._chosen if isinstance(self._chosen, set) else self._chosen):
            if queue not in self._report.queues_left_out:
                self._report.queues_left_out.append(queue)
            return False
        if queue not in self._open:
            self._open[queue] = await self._opens(queue)
        return self._open[queue]

    async def _opens(self, queue: str) -> bool:
        with surviving(partial(self._report.failed.add, f"queue {queue}")):
            if owner_of_queue(queue) == TASKS:
                raise InvalidArgumentError(f"the queue {queue!r} is of tasks", field="queues")
            if not self._overwrite and await self._length(queue):
                self._report.kept.add(f"queue {queue}", "it has messages already")
                return False
            if not self._dry_run:
                await self._queues.create_queue(queue)
            return True
        return False

    async def _length(self, queue: str) -> int:
        try:
            return await self._queues.length(queue)
        except KeyNotFoundError:
            return 0

    async def send(self, queue: str, lines: bytes) -> None:
        """Send the messages of a part."""
        async with Several(_CONCURRENCY) as running:
            for number, text in enumerate(filter(None, lines.split(b"\n")), 1):
                await running.start(self._one(queue, number, text))

    async def _one(self, queue: str, number: int, text: bytes) -> None:
        failed = partial(self._report.failed.add, f"queue {queue}, line {number}")
        with surviving(failed, *NOT_READ):
            line = _decode(text)
            left = None if line.expires is None else (line.expires - datetime.now(UTC)).total_seconds()
            if left is not None and left <= 0:
                self._report.expired += 1
                return
            same = line.encoding == self._queues.message_encoding
            body = None if same else decoded(line.text, line.encoding)
            if self._dry_run:
                pass
            elif body is None:
                await self._queues.send_text(queue, line.text, ttl=left)
            else:
                await self._queues.send(queue, body, ttl=left)
            self._report.restored += 1


_decode = msgspec.json.Decoder(_Line).decode
