"""The reference implementation: everything in memory. It is public, for tests of your own.

It is the simplest code that keeps the guarantees of the ports, and the model for the other backends.
"""

from __future__ import annotations

import time
import uuid
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from storage_lib.errors import StorageError
from storage_lib.names import MappedName, given_name
from storage_lib.ports import cursors, expiry, hidden
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import (
    MAX_PAGE_BYTES,
    GetOptions,
    ListOptions,
    NamePage,
    ObjectCapabilities,
    ObjectDriver,
    PutOptions,
    QueryOptions,
    QueueDriver,
    TableDriver,
)
from storage_lib.ports.entities import check_size, size_of
from storage_lib.ports.errors import (
    at_operation,
    existing_entity,
    lost_receipt,
    missing,
    missing_entity,
    missing_queue,
    missing_table,
    other_entity_etag,
    unmet,
)
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult, StoredObject, agrees, is_after
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage
from storage_lib.ports.queues import QueueStore
from storage_lib.ports.table_model import Delete, Entity, EntityPage, Insert, TableOperation, Update, Upsert
from storage_lib.ports.tables import TableStore

Clock = Callable[[], float]
"""Seconds since the epoch, as `time.time`; tests inject their own."""


class MemoryBackend(StorageBackend):
    """A backend in memory, which lives as long as this object."""

    def __init__(self, *, message_encoding: MessageEncoding = "base64", clock: Clock = time.time) -> None:
        self.objects = ObjectStore(MemoryObjects(clock))
        self.queues = QueueStore(MemoryQueues(message_encoding, clock))
        self.tables = TableStore(MemoryTables(clock))

    async def open(self) -> None:
        return


class MemoryObjects(ObjectDriver):
    capabilities = ObjectCapabilities(lists_ends=True, is_local=True)

    def __init__(self, clock: Clock = time.time) -> None:
        self.clock = clock
        self._objects: dict[str, StoredObject] = {}
        self._order: list[tuple[bytes, str]] = []

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        current = self._objects.get(key)
        if options.if_absent and current is not None:
            raise unmet(key, None)
        wanted = options.if_match
        if wanted is not None and (current is None or not agrees(current.info.etag, wanted)):
            raise unmet(key, wanted)
        info = ObjectInfo(
            key=key,
            size=len(data),
            etag=uuid.uuid4().hex,
            last_modified=_moment(self.clock()),
            content_type=options.content_type,
            metadata=dict(options.metadata),
            sha256=options.sha256,
        )
        if current is None:
            insort(self._order, (key.encode(), key))
        self._objects[key] = StoredObject(info, bytes(data))
        until = None if current is None else expiry.end_in(current.info.metadata)
        created = current is None or (until is not None and until <= self.clock())
        return PutResult(key, info.etag, len(data), created)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        found = self._found(key)
        if options.if_match is not None and found.info.etag != options.if_match:
            raise unmet(key, options.if_match)
        if found.info.etag == options.if_none_match:
            return None
        info = _told(found.info)
        if options.byte_range is None:
            return StoredObject(info, found.data)
        start, end = options.byte_range.resolve(found.info.size)
        return StoredObject(info, found.data[start:end], start)

    async def head(self, key: str) -> ObjectInfo:
        return _told(self._found(key).info)

    async def delete(self, key: str, if_match: str | None) -> None:
        found = self._found(key)
        if if_match is not None and found.info.etag != if_match:
            raise unmet(key, if_match)
        del self._objects[key]
        del self._order[bisect_left(self._order, (key.encode(), key))]

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        found = self._found(source.key)
        if found.info.etag != source.etag:
            raise unmet(source.key, source.etag)
        info = replace(
            found.info, metadata=dict(metadata), etag=uuid.uuid4().hex, last_modified=_moment(self.clock())
        )
        self._objects[source.key] = StoredObject(info, found.data)
        return PutResult(source.key, info.etag, info.size, created=False)

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        delimiter, after = options.delimiter, options.after
        folded = ""
        for _, key in self._order[bisect_left(self._order, (prefix.encode(), "")) :]:
            if not key.startswith(prefix):
                return
            if delimiter is not None and (cut := key.find(delimiter, len(prefix))) >= 0:
                common = key[: cut + 1]
                if common != folded and is_after(common, after):
                    yield common
                folded = common
            elif is_after(key, after) and (found := self._objects.get(key)) is not None:
                until = expiry.end_in(found.info.metadata) if options.ends else None
                yield hidden.entry(_told(found.info)) if options.details else ListEntry(key, until=until)

    def _found(self, key: str) -> StoredObject:
        try:
            return self._objects[key]
        except KeyError:
            raise missing(key) from None


def _told(info: ObjectInfo) -> ObjectInfo:
    """An equal info with a dict of its own: its caller may change it."""
    return replace(info, metadata=dict(info.metadata))


class MemoryQueues(QueueDriver):
    def __init__(self, message_encoding: MessageEncoding = "base64", clock: Clock = time.time) -> None:
        super().__init__(message_encoding)
        self._clock = clock
        self._queues: dict[str, dict[str, QueueMessage]] = {}

    async def create_queue(self, queue: str) -> None:
        self._queues.setdefault(queue, {})

    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        return NamePage([queue for queue in self._queues if queue.startswith(prefix)], None)

    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
        now = self._clock()
        message = QueueMessage(
            id=str(uuid.uuid4()),
            text=text,
            body=self.decode(text),
            dequeue_count=0,
            pop_receipt="",
            inserted_at=_moment(now),
            expires_at=_moment(now + ttl) if ttl is not None else datetime.max.replace(tzinfo=UTC),
            next_visible_at=_moment(now + delay),
        )
        self._queues.setdefault(queue, {})[message.id] = message
        return message.id

    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
        hidden_until = _moment(self._clock() + visibility)
        received: list[QueueMessage] = []
        for message in self._visible(queue, count):
            taken = replace(
                message,
                dequeue_count=message.dequeue_count + 1,
                pop_receipt=uuid.uuid4().hex,
                next_visible_at=hidden_until,
            )
            self._queues[queue][message.id] = taken
            received.append(taken)
        return received

    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        self._held(queue, message_id, pop_receipt)
        del self._queues[queue][message_id]

    async def update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
        held = self._held(queue, message.id, message.pop_receipt)
        updated = replace(
            held,
            text=text,
            body=self.decode(text),
            pop_receipt=uuid.uuid4().hex,
            next_visible_at=_moment(self._clock() + visibility),
        )
        self._queues[queue][message.id] = updated
        return updated

    async def peek(self, queue: str, count: int) -> list[QueueMessage]:
        return [replace(message, pop_receipt="") for message in self._visible(queue, count)]

    async def length(self, queue: str) -> int:
        return len(self._alive(queue))

    async def clear(self, queue: str) -> None:
        self._alive(queue).clear()

    def _alive(self, queue: str) -> dict[str, QueueMessage]:
        try:
            messages = self._queues[queue]
        except KeyError:
            raise missing_queue(queue) from None
        now = _moment(self._clock())
        for expired in [m.id for m in messages.values() if m.expires_at <= now]:
            del messages[expired]
        return messages

    def _visible(self, queue: str, count: int) -> list[QueueMessage]:
        now = _moment(self._clock())
        visible = [m for m in self._alive(queue).values() if m.next_visible_at <= now]
        return sorted(visible, key=lambda m: m.next_visible_at)[:count]

    def _held(self, queue: str, message_id: str, pop_receipt: str) -> QueueMessage:
        held = self._alive(queue).get(message_id)
        if held is None or not pop_receipt or held.pop_receipt != pop_receipt:
            raise lost_receipt(queue, message_id)
        return held


@dataclass(slots=True)
class _Row:
    properties: dict[str, Any]
    etag: str
    timestamp: datetime


class MemoryTables(TableDriver):
    """Table names are case-insensitive, as on Azure."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._tables: dict[str, dict[tuple[str, str], _Row]] = {}
        self._given: dict[str, str] = {}

    async def create_table(self, table: str) -> None:
        self._rows(table)
        if isinstance(table, MappedName):
            self._given[table.lower()] = table.given

    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        found = (table for table in self._tables if table.startswith(prefix.lower()))
        return NamePage([MappedName(table, self._given[table]) for table in found], None)

    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        row = self._after(table, pk, operation)
        rows = self._rows(table)
        if row is None:
            del rows[pk, operation.row_key]
            return None
        rows[pk, operation.row_key] = row
        return row.etag

    async def get(self, table: str, pk: str, rk: str) -> Entity:
        return _entity(pk, rk, self._found(table, pk, rk, None))

    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        after: list[_Row | None] = []
        for index, operation in enumerate(operations):
            try:
                after.append(self._after(table, pk, operation))
            except StorageError as error:
                raise at_operation(index, error) from error
        rows = self._rows(table)
        for operation, row in zip(operations, after, strict=True):
            if row is None:
                del rows[pk, operation.row_key]
            else:
                rows[pk, operation.row_key] = row
        return [None if row is None else row.etag for row in after]

    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        after = None
        if options.cursor is not None:
            after = tuple(key.encode() for key in cursors.unpacked(options.cursor, tuple[str, str]))
        rows = self._tables.get(table.lower())
        if rows is None:
            raise missing_table(table)
        page: list[Entity] = []
        size = 0
        bounds = options.filter.key_bounds
        partitions = {value for name, how, value in bounds if (name, how) == ("PartitionKey", "=")}
        keys = [key for key in rows if not partitions or key[0] in partitions]
        for pk, rk in sorted(keys, key=lambda keys: (keys[0].encode(), keys[1].encode())):
            if after is not None and (pk.encode(), rk.encode()) <= after:
                continue
            entity = _entity(pk, rk, rows[pk, rk])
            if not options.filter(entity):
                continue
            if len(page) == options.limit or size >= MAX_PAGE_BYTES:
                return EntityPage(page, cursors.packed(page[-1].partition_key, page[-1].row_key))
            page.append(entity.selected(options.select))
            size += size_of(page[-1].properties)
        return EntityPage(page, None)

    def _rows(self, table: str) -> dict[tuple[str, str], _Row]:
        """The rows of a table, which is made if there is none."""
        self._given.setdefault(table.lower(), given_name(table))
        return self._tables.setdefault(table.lower(), {})

    def _after(self, table: str, pk: str, operation: TableOperation) -> _Row | None:
        """What the operation makes of its row; nothing is changed yet."""
        rk = operation.row_key
        there = self._tables.get(table.lower(), {}).get((pk, rk))
        match operation:
            case Insert():
                if there is not None:
                    raise existing_entity(table, pk, rk)
            case Update() | Delete():
                there = self._found(table, pk, rk, operation.etag)
            case Upsert():
                pass
        if isinstance(operation, Delete):
            return None
        properties = dict(operation.properties)
        if there is not None and not isinstance(operation, Insert) and operation.mode == "merge":
            # Each half was within the limits; together they may not be.
            properties = check_size({**there.properties, **properties})
        return _Row(properties, uuid.uuid4().hex, _moment(self._clock()))

    def _found(self, table: str, pk: str, rk: str, etag: str | None) -> _Row:
        row = self._tables.get(table.lower(), {}).get((pk, rk))
        if row is None:
            raise missing_entity(table, pk, rk)
        if etag is not None and row.etag != etag:
            raise other_entity_etag(table, pk, rk, etag)
        return row


def _entity(pk: str, rk: str, row: _Row) -> Entity:
    return Entity(pk, rk, dict(row.properties), row.etag, row.timestamp)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
