"""The table of conversations: heads, changes in one transaction, and ranges of messages."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from itertools import batched
from secrets import token_hex
from weakref import WeakValueDictionary

import msgspec

from storage_lib.conversations.head import Head, to_head, to_properties
from storage_lib.conversations.messages import object_prefix, objects_of, to_entries
from storage_lib.conversations.model import Entry
from storage_lib.conversations.rows import (
    BEHIND_MESSAGES,
    HEAD,
    generation_of,
    id_key,
    message_key,
    partition_of,
    position_of,
)
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.ports.entities import EntityValue
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.reach import Reach
from storage_lib.ports.table_model import Delete, Entity, EntityPage, Insert, TableOperation, Update
from storage_lib.ports.tables import MAX_BATCH_OPERATIONS, MAX_QUERY_PAGE

_log = logging.getLogger("AOS.Storage")
_REMEMBERED = 4096
"""Heads, as they were last seen."""
_ATTEMPTS = 1000
_MOST_SECONDS = 0.25
_TOKEN_BYTES = 4
_TOGETHER = 16

type Plan[T] = tuple[Head | None, Head, list[TableOperation], T]
"""The head that must be there, the one that is to be, what else is to happen in the transaction, and the
result."""


class Conflict(Exception):  # noqa: N818 - never leaves this package
    """Somebody else was faster, or it is not known whether it was this call.

    :param at: the index of the operation that failed; None if it is not known.
    """

    def __init__(self, at: int | None) -> None:
        super().__init__(at)
        self.at = at


class Settled[T](Exception):  # noqa: N818 - never leaves this package
    """Nothing is to be changed: this is the result."""

    def __init__(self, result: T) -> None:
        super().__init__()
        self.result = result


@contextmanager
def afterwards(stored: str) -> Generator[None]:
    """For what only tidies up after a change: the change is made, and what fails here is done by a sweep, or
    by the next change."""
    try:
        yield
    except StorageError as error:
        _log.warning("what conversation %r no longer needs is removed later: %s", stored, error)


class Store:
    """The conversations of one table, by their names in the store."""

    def __init__(self, reach: Reach, table: str) -> None:
        self.reach, self.table = reach, table
        self.tables, self.objects = reach.tables, reach.objects
        self._seen: OrderedDict[str, Head] = OrderedDict()
        self._turns: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.reach.clock(), UTC)

    # -- heads

    def seen(self, stored: str) -> Head | None:
        """The head as it was last seen here; None if it was not, or its life may be over."""
        head = self._seen.get(stored)
        return None if head is None or head.is_over(self.now()) else head

    def remember(self, stored: str, head: Head | None) -> None:
        if head is None:
            self._seen.pop(stored, None)
            return
        self._seen[stored] = head
        self._seen.move_to_end(stored)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    async def head(self, stored: str) -> Head | None:
        """The head as it is now, even if its life is over; None if there is none."""
        entity = await self.tables.get(self.table, partition_of(stored), HEAD, default=None)
        head = None if entity is None else to_head(entity)
        self.remember(stored, head)
        return head

    # -- changes

    @asynccontextmanager
    async def turn(self, stored: str) -> AsyncGenerator[None]:
        """Changes of one conversation by one process take turns: they would only fight."""
        key = (id(asyncio.get_running_loop()), stored)
        async with self._turns.setdefault(key, asyncio.Lock()):
            yield

    async def change[T](
        self,
        stored: str,
        plan: Callable[[Head | None, str, Conflict | None], Awaitable[Plan[T]]],
        *,
        fresh: bool = False,
        reads: bool = False,
    ) -> tuple[Head, T]:
        """Make a change, again and again until nobody else was faster.

        :param plan: what is to be done, by the present head, the mark of this change and the last conflict.
        :param fresh: whether the head must be read first.
        :param reads: the plan reads it itself.
        :return: the head after it, and the result of the plan.
        """
        token, conflict = token_hex(_TOKEN_BYTES), None
        results: list[T] = []
        head = None if fresh else self.seen(stored)
        if head is None and not reads:
            head = await self.head(stored)
        for pause in pauses():
            try:
                before, wanted, operations, result = await plan(head, token, conflict)
                results.append(result)
                return await self.commit(stored, before, wanted, operations), result
            except Conflict as met:
                conflict = met
            await asyncio.sleep(pause)
            head = await self.head(stored)
            if head is not None and head.has_made(token):
                return head, results[-1]
        raise self.beset(stored)

    def beset(self, stored: str) -> TransientStorageError:
        return TransientStorageError(
            f"conversation {stored!r} was changed by others {_ATTEMPTS} times in a row", remedy="try again"
        )

    async def commit(
        self, stored: str, before: Head | None, head: Head, operations: Sequence[TableOperation]
    ) -> Head:
        """Change the head, if it is still ``before``, and do the other operations, or nothing.

        :raises Conflict: it is another one, or another operation cannot be done.
        """
        first: TableOperation
        if before is None:
            first = Insert(HEAD, to_properties(head, None))
        elif before.generation == head.generation:
            first = Update(HEAD, to_properties(head, before), before.etag)
        else:
            first = Update(HEAD, to_properties(head, None), before.etag, "replace")
        after = msgspec.structs.replace(head, etag=await self._transact(stored, [first, *operations]))
        self.remember(stored, after)
        return after

    async def fence(self, stored: str, head: Head, operations: Sequence[TableOperation]) -> Head:
        """Do operations only if the head is still this one, which it then is with another ETag.

        :raises Conflict: as `commit`.
        """
        touched = Update(HEAD, {"staged": token_hex(_TOKEN_BYTES)}, head.etag)
        return msgspec.structs.replace(head, etag=await self._transact(stored, [touched, *operations]))

    async def _transact(self, stored: str, operations: Sequence[TableOperation]) -> str:
        """The new ETag of the head, which is the first entity."""
        try:
            etags = await self.tables.batch(self.table, partition_of(stored), operations)
        except (PreconditionFailedError, KeyNotFoundError) as error:
            self.remember(stored, None)
            raise Conflict(_failed(error)) from error
        except UnknownOutcomeError as error:
            self.remember(stored, None)
            raise Conflict(None) from error
        except BaseException:
            self.remember(stored, None)
            raise
        assert etags[0] is not None  # noqa: S101 - only a delete has none
        return etags[0]

    # -- messages

    async def newest(self, stored: str, count: int) -> tuple[Head | None, list[Entity]]:
        """The head, and about the newest ``count`` messages: in one request, as they follow it."""
        page = await self._query(
            "PartitionKey eq @conversation and RowKey lt @behind",
            {"conversation": partition_of(stored), "behind": BEHIND_MESSAGES},
            min(count + 1, MAX_QUERY_PAGE),
            None,
        )
        if not page.entities or page.entities[0].row_key != HEAD:
            self.remember(stored, None)
            return None, []
        head = to_head(page.entities[0])
        self.remember(stored, head)
        return head, [
            row
            for row in page.entities[1:]
            if generation_of(row.row_key) == head.generation
            and head.first <= position_of(row.row_key) <= head.position
        ]

    async def between(
        self,
        stored: str,
        generation: str,
        low: int,
        high: int,
        *,
        limit: int | None = None,
        select: Sequence[str] | None = None,
    ) -> AsyncGenerator[Entity]:
        """The rows of the messages from position ``low`` to ``high``, the newest first.

        :param limit: about how many will be asked for.
        """
        cursor = None
        values: dict[str, EntityValue] = {
            "conversation": partition_of(stored),
            "newest": message_key(generation, high),
            "oldest": message_key(generation, max(low, 0)),
        }
        while low <= high:
            page = await self._query(
                "PartitionKey eq @conversation and RowKey ge @newest and RowKey le @oldest",
                values,
                min(limit or MAX_QUERY_PAGE, MAX_QUERY_PAGE),
                cursor,
                select,
            )
            for row in page.entities:
                yield row
            if (cursor := page.cursor) is None:
                return

    async def _query(
        self,
        condition: str,
        values: dict[str, EntityValue],
        limit: int,
        cursor: str | None,
        select: Sequence[str] | None = None,
    ) -> EntityPage:
        try:
            return await self.tables.query(
                self.table, condition, parameters=values, limit=limit, cursor=cursor, select=select
            )
        except KeyNotFoundError:
            return EntityPage([], None)  # No conversation was ever made here.

    async def remove(self, stored: str, generation: str, low: int, high: int) -> None:
        """Remove the rows of these messages, and what belongs to them. Nobody may see them any more."""
        rows = [
            row async for row in self.between(stored, generation, low, high, select=["id", "given", "object"])
        ]
        for some in batched(rows, MAX_BATCH_OPERATIONS // 2, strict=False):
            ids = await self._ids(stored, generation, [row for row in some if row.properties.get("given")])
            await self._delete(stored, [Delete(row.row_key) for row in some] + ids)
            if keys := objects_of(some):
                await self.objects.delete_many(keys, missing_ok=True)

    async def _ids(self, stored: str, generation: str, rows: Sequence[Entity]) -> list[TableOperation]:
        """The removal of what says where these messages are, unless it has come to say otherwise."""
        partition = partition_of(stored)
        keys = {id_key(generation, row.properties["id"]): position_of(row.row_key) for row in rows}
        found = await self.each(keys, lambda key: self.tables.get(self.table, partition, key, default=None))
        return [
            Delete(row.row_key, row.etag)
            for row in found
            if row is not None and row.properties["position"] == keys[row.row_key]
        ]

    async def entries(self, stored: str, rows: Sequence[Entity]) -> list[Entry]:
        """The messages that these rows have."""

        async def again(row: Entity) -> Entity | None:
            return await self.tables.get(self.table, partition_of(stored), row.row_key, default=None)

        return await to_entries(self.objects, rows, again)

    async def forget_id(self, stored: str, generation: str, row: Entity) -> None:
        """Let the id of a message be used again, whose row is no more."""
        if ids := await self._ids(stored, generation, [row]):
            await self._delete(stored, ids)

    async def forget(self, stored: str, generation: str, row: Entity) -> None:
        """Remove what belongs to a message that is no more."""
        if row.properties["given"]:
            await self.forget_id(stored, generation, row)
        for key in objects_of([row]):
            await self.objects.delete(key, missing_ok=True)

    async def _delete(self, stored: str, operations: Sequence[TableOperation]) -> None:
        partition = partition_of(stored)
        try:
            await self.tables.batch(self.table, partition, operations)
        except (KeyNotFoundError, PreconditionFailedError):
            # Somebody removes them too: what one of the two has left, the other finds.
            for each in operations:
                assert isinstance(each, Delete)  # noqa: S101 - for the type checker
                with suppress(PreconditionFailedError):
                    await self.tables.delete(
                        self.table, partition, each.row_key, etag=each.etag, missing_ok=True
                    )

    async def remove_generation(self, stored: str, generation: str) -> None:
        """Remove whatever is left of one life of a conversation, which is over."""
        partition = partition_of(stored)
        for kind in ("m", "x"):
            values: dict[str, EntityValue] = {
                "conversation": partition,
                "first": f"{kind}{generation}",
                "behind": f"{kind}{generation}~",
            }
            while True:
                page = await self._query(
                    "PartitionKey eq @conversation and RowKey ge @first and RowKey lt @behind",
                    values,
                    MAX_QUERY_PAGE,
                    None,
                    ["id"],
                )
                if not page.entities:
                    break
                for some in batched(page.entities, MAX_BATCH_OPERATIONS, strict=False):
                    await self._delete(stored, [Delete(row.row_key) for row in some])
        keys = [
            entry.key
            async for entry in self.objects.iterate(object_prefix(partition, generation))
            if not isinstance(entry, str)
        ]
        if keys:
            await self.objects.delete_many(keys, missing_ok=True)

    async def each[K, R](self, items: Iterable[K], work: Callable[[K], Awaitable[R]]) -> list[R]:
        """The results of ``work`` with each item, several at a time."""
        turns = asyncio.Semaphore(_TOGETHER)

        async def one(item: K) -> R:
            async with turns:
                return await work(item)

        return await asyncio.gather(*(one(item) for item in items))


def _failed(error: StorageError) -> int | None:
    """The index of the operation of a transaction that an error is about."""
    text = error.field or ""
    number = text.removeprefix("operations[").removesuffix("]")
    return int(number) if number.isdigit() else None


def pauses() -> Iterator[float]:
    """Seconds to wait after each attempt; the first one is followed at once by another."""
    most = 0.002
    for attempt in range(_ATTEMPTS):
        yield 0 if attempt == 0 else random.uniform(0, most)  # noqa: S311 - no secret
        most = min(most * 1.5, _MOST_SECONDS)
