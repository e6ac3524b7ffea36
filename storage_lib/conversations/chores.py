"""What is left to be done with a conversation later, even if the process that knows of it dies.

A chore is a row that names one life of a conversation and when to look at it. It is written before what may
leave something behind, and looking at it twice does no harm: whatever belongs to no living head is removed.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from storage_lib.conversations.head import Head
from storage_lib.conversations.index import Index, facets_of
from storage_lib.conversations.messages import OBJECTS
from storage_lib.conversations.retention import Retention
from storage_lib.conversations.rows import HEAD, partition_of
from storage_lib.conversations.store import Store, afterwards
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.table_model import Delete, Entity, EntityPage

_log = logging.getLogger("AOS.Storage")
PARTITION = "w"
UNDER_WAY = timedelta(hours=24)
"""After which what a call has begun counts as left behind; no call may take so long."""
_PAGE = 100
_AGAIN = timedelta(seconds=60)
"""A conversation is not looked at more often."""


class Chores:
    """The chores of one table."""

    def __init__(self, store: Store, index: Index, retention: Retention) -> None:
        self._store, self._index, self._retention = store, index, retention

    async def add(
        self, stored: str, generation: str, due: datetime | None = None, *, objects: Sequence[str] = ()
    ) -> str:
        """Have it looked at when ``due``, or when what goes on now must have ended.

        :param objects: those that belong to nothing unless a message refers to them.
        :return: for `done`.
        """
        due = due or self._store.now() + UNDER_WAY
        mark = hashlib.sha256(f"{generation}{list(objects)}".encode()).hexdigest()[:12]
        key = f"{round(due.timestamp() * 1000):014}{generation}{mark}"
        found = {"conversation": stored, "generation": generation, "objects": list(objects)}
        await self._store.tables.upsert(self._store.table, PARTITION, key, found, mode="replace")
        return key

    async def done(self, key: str) -> None:
        await self._store.tables.delete(self._store.table, PARTITION, key, missing_ok=True)

    async def watch(self, stored: str, head: Head) -> None:
        """Have the conversation looked at when something in it ends first."""
        if (due := _next_look(head, self._store.now())) is not None:
            await self.add(stored, head.generation, due)

    async def sweep(self, limit: int, seconds: float) -> int:
        """Do what is due, and return how many conversations and lives of them were looked at."""
        until = time.monotonic() + seconds
        now = f"{round(self._store.reach.clock() * 1000):014}"
        done, cursor = 0, None
        while done < limit:
            page = await self._due(now, min(_PAGE, limit - done), cursor)
            for row in page.entities:
                if time.monotonic() >= until:
                    return done
                await self._try(row)
                done += 1
            if (cursor := page.cursor) is None:
                break
        return done

    async def _due(self, now: str, limit: int, cursor: str | None) -> EntityPage:
        try:
            return await self._store.tables.query(
                self._store.table,
                "PartitionKey eq @chores and RowKey lt @now",
                parameters={"chores": PARTITION, "now": now},
                limit=limit,
                cursor=cursor,
            )
        except KeyNotFoundError:
            return EntityPage([], None)  # No conversation was ever made here.

    async def _try(self, row: Entity) -> None:
        """What cannot be done with one conversation keeps none of the others waiting."""
        try:
            await self._do(row)
        except StorageUnavailableError:
            raise  # It would be the same with all.
        except StorageError as error:
            _log.error("conversation %r is looked at later: %s", row.properties["conversation"], error)

    async def _do(self, row: Entity) -> None:
        stored, generation = row.properties["conversation"], row.properties["generation"]
        objects: list[str] = row.properties["objects"]
        head = await self._store.head(stored)
        now = self._store.now()
        if head is not None and head.generation == generation and head.is_over(now):
            if not await self.end(stored, head):
                return  # It has just been changed: the next sweep looks again.
            head = None
        if head is None or head.generation != generation:
            await self._store.remove_generation(stored, generation)
        else:
            await self._retention.enforce(stored, head)
            await self._drop(stored, head, [key for key in objects if key.startswith(OBJECTS)])
            if not objects:
                await self.watch(stored, head)
        await self.done(row.row_key)

    async def end(self, stored: str, head: Head) -> bool:
        """Make an end of the conversation if its head is still this one; its messages stay to be removed."""
        try:
            # Alone in a transaction, which has the errors of one.
            await self._store.tables.batch(self._store.table, partition_of(stored), [Delete(HEAD, head.etag)])
        except (KeyNotFoundError, PreconditionFailedError, UnknownOutcomeError):
            return False
        finally:
            self._store.remember(stored, None)
        with afterwards(stored):
            await self._index.remove(stored, head.generation, facets_of(head.participants, head.topic))
        return True

    async def _drop(self, stored: str, head: Head, objects: Sequence[str]) -> None:
        """Remove those objects that no message refers to."""
        if objects:
            rows = self._store.between(stored, head.generation, head.first, head.position, select=["object"])
            kept = {row.properties.get("object") async for row in rows}
            if left := [key for key in objects if key not in kept]:
                await self._store.objects.delete_many(left, missing_ok=True)


def _next_look(head: Head, now: datetime) -> datetime | None:
    found = [each for each in (head.expires,) if each is not None]
    if head.max_age is not None:
        found.append(now + timedelta(seconds=head.max_age))
    return max(min(found), now + _AGAIN) if found else None
