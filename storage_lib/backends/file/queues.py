"""Queues in SQLite, with Azure Queue Storage's meaning of visibility, receipts and expiry."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from storage_lib.backends.file import sqlite
from storage_lib.backends.file.sqlite import Database
from storage_lib.ports.drivers import NamePage, QueueDriver
from storage_lib.ports.errors import lost_receipt, missing_queue
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage

if TYPE_CHECKING:
    from sqlite3 import Connection

NEVER = 253402300799_000_000
"""Microseconds of 9999-12-31T23:59:59Z, which is what Azure gives for a message without expiry."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VISIBLE = (
    "FROM messages WHERE queue = ? AND visible_at <= ? AND expires > ? ORDER BY visible_at, seq LIMIT ?"
)
# The constant makes SQLite use the index of messages that do expire, which is nearly always empty.
_PURGE = f"DELETE FROM messages WHERE queue = ? AND expires <= ? AND expires < {NEVER}"  # noqa: S608
_COLUMNS = "id, text, inserted, expires, visible_at, dequeue_count"


class FileQueues(QueueDriver):
    """Messages in the order in which they became visible. ``clock`` gives seconds since the epoch."""

    def __init__(
        self, database: Database, message_encoding: MessageEncoding, clock: Callable[[], float]
    ) -> None:
        super().__init__(message_encoding)
        self._database = database
        self._clock = clock

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)

    async def create_queue(self, queue: str) -> None:
        await self._database.write(
            lambda connection: sqlite.make_named(connection, "queues", queue, again=True)
        )

    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        return await self._database.read(
            lambda connection: sqlite.names_page(connection, "queues", prefix, cursor)
        )

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        message_id = str(uuid.uuid4())

        def send(connection: Connection) -> str:
            now = self._now()
            expires = NEVER if ttl is None else min(now + round(ttl * 1_000_000), NEVER)
            sqlite.make_named(connection, "queues", queue)
            connection.execute(_PURGE, (queue, now))
            connection.execute(
                "INSERT INTO messages"
                " (queue, id, text, inserted, expires, visible_at, dequeue_count, receipt)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, '')",
                (queue, message_id, text, now, expires, now + round(delay * 1_000_000)),
            )
            return message_id

        return await self._database.write(send)

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        def is_empty(connection: Connection) -> list[QueueMessage] | None:
            # Pollers mostly find nothing; that must not cost a transaction.
            now = self._now()
            found = connection.execute(f"SELECT 1 {_VISIBLE}", (queue, now, now, 1)).fetchone()
            if found is not None:
                return None
            _check_exists(connection, queue)
            return []

        def receive(connection: Connection) -> list[QueueMessage]:
            now = self._now()
            connection.execute(_PURGE, (queue, now))
            rows = connection.execute(
                f"SELECT seq, {_COLUMNS} {_VISIBLE}", (queue, now, now, count)
            ).fetchall()
            if not rows:
                _check_exists(connection, queue)
            until = now + round(visibility * 1_000_000)
            received = [
                self._message(row[1:], receipt=os.urandom(16).hex(), visible_at=until, dequeued=row[6] + 1)
                for row in rows
            ]
            connection.executemany(
                "UPDATE messages SET receipt = ?, visible_at = ?, dequeue_count = dequeue_count + 1"
                " WHERE seq = ?",
                [(message.pop_receipt, until, row[0]) for message, row in zip(received, rows, strict=True)],
            )
            return received

        return await self._database.write(receive, probe=is_empty)

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        def delete(connection: Connection) -> None:
            done = connection.execute(
                "DELETE FROM messages WHERE id = ? AND queue = ? AND receipt = ? AND receipt <> ''"
                " AND expires > ?",
                (message_id, queue, pop_receipt, self._now()),
            )
            if not done.rowcount:
                raise lost_receipt(queue, message_id)

        await self._database.write(delete)

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        def update(connection: Connection) -> QueueMessage:
            now = self._now()
            receipt, until = os.urandom(16).hex(), now + round(visibility * 1_000_000)
            done = connection.execute(
                "UPDATE messages SET text = ?, visible_at = ?, receipt = ?"
                " WHERE id = ? AND queue = ? AND receipt = ? AND receipt <> '' AND expires > ?",
                (text, until, receipt, message.id, queue, message.pop_receipt, now),
            )
            if not done.rowcount:
                raise lost_receipt(queue, message.id)
            return replace(
                message,
                text=text,
                body=self.decode(text),
                pop_receipt=receipt,
                next_visible_at=_moment(until),
            )

        return await self._database.write(update)

    async def peek(self, queue: str, count: int) -> list[QueueMessage]:
        def peek(connection: Connection) -> list[QueueMessage]:
            now = self._now()
            rows = connection.execute(f"SELECT {_COLUMNS} {_VISIBLE}", (queue, now, now, count)).fetchall()
            if not rows:
                _check_exists(connection, queue)
            return [self._message(row, receipt="", visible_at=row[4], dequeued=row[5]) for row in rows]

        return await self._database.read(peek)

    async def length(self, queue: str) -> int:
        def length(connection: Connection) -> int:
            _check_exists(connection, queue)
            return connection.execute(
                "SELECT count(*) FROM messages WHERE queue = ? AND expires > ?", (queue, self._now())
            ).fetchone()[0]

        return await self._database.read(length)

    async def clear(self, queue: str) -> None:
        def clear(connection: Connection) -> None:
            _check_exists(connection, queue)
            connection.execute("DELETE FROM messages WHERE queue = ?", (queue,))

        await self._database.write(clear)

    def _message(
        self, row: tuple[str, str, int, int, int, int], *, receipt: str, visible_at: int, dequeued: int
    ) -> QueueMessage:
        message_id, text, inserted, expires, _, _ = row
        return QueueMessage(
            id=message_id,
            text=text,
            body=self.decode(text),
            dequeue_count=dequeued,
            pop_receipt=receipt,
            inserted_at=_moment(inserted),
            expires_at=_moment(expires),
            next_visible_at=_moment(visible_at),
        )


def _check_exists(connection: Connection, queue: str) -> None:
    if connection.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone() is None:
        raise missing_queue(queue)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
