"""The reference implementation: everything in memory, nothing kept. Public, for users' own tests.

It is the plainest code that keeps the ports' promises; the other backends are held against it.
"""

from __future__ import annotations

import base64
import binascii
import time
import uuid
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, overload

from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports import expiry
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.entities import check_size
from storage_lib.ports.objects import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    ObjectStore,
    PutResult,
    StoredObject,
    agrees,
    is_after,
    missing,
    unmet,
)
from storage_lib.ports.queues import MessageEncoding, QueueMessage, QueueStore
from storage_lib.ports.tables import (
    Delete,
    Entity,
    EntityPage,
    Insert,
    TableOperation,
    TableStore,
    Update,
    UpdateMode,
    Upsert,
    at_operation,
)

Clock = Callable[[], float]
"""Seconds since the epoch, as `time.time`; tests inject their own."""


class MemoryBackend(StorageBackend):
    """A backend that lives as long as the object does, shared by whoever holds it."""

    def __init__(self, *, message_encoding: MessageEncoding = "base64", clock: Clock = time.time) -> None:
        self.objects = MemoryObjectStore(clock)
        self.queues = MemoryQueueStore(message_encoding, clock)
        self.tables = MemoryTableStore(clock)

    async def open(self) -> None:
        return


class MemoryObjectStore(ObjectStore):
    def __init__(self, clock: Clock = time.time) -> None:
        self.clock = clock
        self._objects: dict[str, StoredObject] = {}
        self._order: list[tuple[bytes, str]] = []

    async def _put(
        self,
        key: str,
        data: bytes,
        content_type: str,
        metadata: dict[str, str],
        sha256: str,
        if_match: str | None,
        if_absent: bool,
    ) -> PutResult:
        current = self._objects.get(key)
        if if_absent and current is not None:
            raise unmet(key, None)
        if if_match is not None and (current is None or not agrees(current.info.etag, if_match)):
            raise unmet(key, if_match)
        info = ObjectInfo(
            key=key,
            size=len(data),
            etag=uuid.uuid4().hex,
            last_modified=_moment(self.clock()),
            content_type=content_type,
            metadata=metadata,
            sha256=sha256,
        )
        if current is None:
            insort(self._order, (key.encode(), key))
        self._objects[key] = StoredObject(info, bytes(data))
        created = current is None or self._is_expired(current.info)
        return PutResult(key, info.etag, len(data), created)

    async def _get(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> StoredObject | None:
        found = self._found(key)
        if if_match is not None and found.info.etag != if_match:
            raise unmet(key, if_match)
        if found.info.etag == if_none_match:
            return None
        if byte_range is None:
            return found
        start, end = byte_range.resolve(found.info.size)
        return StoredObject(found.info, found.data[start:end], start)

    async def _head(self, key: str) -> ObjectInfo:
        return self._found(key).info

    async def _delete(self, key: str, if_match: str | None) -> None:
        found = self._found(key)
        if if_match is not None and found.info.etag != if_match:
            raise unmet(key, if_match)
        del self._objects[key]
        del self._order[bisect_left(self._order, (key.encode(), key))]

    async def _scan(
        self, prefix: str, delimiter: str | None, after: str | None, count: int | None, details: bool
    ) -> AsyncIterator[ListEntry | str]:
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
                info = found.info
                etag = expiry.join_etag(info.etag, info.metadata)
                yield ListEntry(key, info.size, etag, info.last_modified) if details else ListEntry(key)

    def _found(self, key: str) -> StoredObject:
        try:
            return self._objects[key]
        except KeyError:
            raise missing(key) from None


class MemoryQueueStore(QueueStore):
    def __init__(self, message_encoding: MessageEncoding = "base64", clock: Clock = time.time) -> None:
        super().__init__(message_encoding)
        self._clock = clock
        self._queues: dict[str, dict[str, QueueMessage]] = {}

    async def _create_queue(self, queue: str) -> None:
        self._queues.setdefault(queue, {})

    async def _send(self, queue: str, text: str, delay: float, ttl: float | None) -> str:
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

    async def _receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]:
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

    async def _delete(self, queue: str, message_id: str, pop_receipt: str) -> None:
        self._held(queue, message_id, pop_receipt)
        del self._queues[queue][message_id]

    async def _update(self, queue: str, message: QueueMessage, visibility: float, text: str) -> QueueMessage:
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

    async def _peek(self, queue: str, count: int) -> list[QueueMessage]:
        return [replace(message, pop_receipt="") for message in self._visible(queue, count)]

    async def _length(self, queue: str) -> int:
        return len(self._alive(queue))

    async def _clear(self, queue: str) -> None:
        self._alive(queue).clear()

    def _alive(self, queue: str) -> dict[str, QueueMessage]:
        try:
            messages = self._queues[queue]
        except KeyError:
            raise KeyNotFoundError(f"queue {queue!r} does not exist", field="queue") from None
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
            raise KeyNotFoundError(
                f"the receipt has lost message {message_id!r} of queue {queue!r}: it was deleted, or"
                " received by another",
                field="pop_receipt",
            )
        return held


@dataclass(slots=True)
class _Row:
    properties: dict[str, Any]
    etag: str
    timestamp: datetime


class MemoryTableStore(TableStore):
    """Tables are found by their names in lower case: Azure takes any."""

    def __init__(self, clock: Clock = time.time) -> None:
        self._clock = clock
        self._tables: dict[str, dict[tuple[str, str], _Row]] = {}

    async def _create_table(self, table: str) -> None:
        self._tables.setdefault(table.lower(), {})

    async def _insert(self, table: str, pk: str, rk: str, properties: dict[str, Any]) -> str:
        return self._write(table, pk, Insert(rk, properties))

    async def _upsert(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], mode: UpdateMode
    ) -> str:
        return self._write(table, pk, Upsert(rk, properties, mode))

    async def _update(
        self, table: str, pk: str, rk: str, properties: dict[str, Any], etag: str | None, mode: UpdateMode
    ) -> str:
        return self._write(table, pk, Update(rk, properties, etag, mode))

    async def _get(self, table: str, pk: str, rk: str) -> Entity:
        return _entity(pk, rk, self._found(table, pk, rk, None))

    async def _delete(self, table: str, pk: str, rk: str, etag: str | None) -> None:
        self._found(table, pk, rk, etag)
        del self._tables[table.lower()][pk, rk]

    async def _batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        after: list[_Row | None] = []
        for index, operation in enumerate(operations):
            try:
                after.append(self._after(table, pk, operation))
            except StorageError as error:
                raise at_operation(index, error) from error
        rows = self._tables.setdefault(table.lower(), {})
        for operation, row in zip(operations, after, strict=True):
            if row is None:
                del rows[pk, operation.row_key]
            else:
                rows[pk, operation.row_key] = row
        return [None if row is None else row.etag for row in after]

    async def _query(
        self,
        table: str,
        filter: str | None,
        parameters: dict[str, Any],
        select: list[str] | None,
        limit: int,
        cursor: str | None,
    ) -> EntityPage:
        from storage_lib.ports.odata import compile_filter

        holds = compile_filter(filter, parameters)
        after = _decode_row_cursor(cursor) if cursor is not None else None
        rows = self._tables.get(table.lower())
        if rows is None:
            raise KeyNotFoundError(f"table {table!r} does not exist", field="table")
        page: list[Entity] = []
        for pk, rk in sorted(rows, key=lambda keys: (keys[0].encode(), keys[1].encode())):
            if after is not None and (pk.encode(), rk.encode()) <= after:
                continue
            entity = _entity(pk, rk, rows[pk, rk])
            if not holds(entity):
                continue
            if len(page) == limit:
                return EntityPage(page, _encode_row_cursor(page[-1]))
            if select is not None:
                kept = {name: entity.properties[name] for name in select if name in entity.properties}
                entity = replace(entity, properties=kept)
            page.append(entity)
        return EntityPage(page, None)

    def _write(self, table: str, pk: str, operation: Insert | Upsert | Update) -> str:
        row = self._after(table, pk, operation)
        self._tables.setdefault(table.lower(), {})[pk, operation.row_key] = row
        return row.etag

    @overload
    def _after(self, table: str, pk: str, operation: Insert | Upsert | Update) -> _Row: ...
    @overload
    def _after(self, table: str, pk: str, operation: TableOperation) -> _Row | None: ...
    def _after(self, table: str, pk: str, operation: TableOperation) -> _Row | None:
        """What the operation makes of its row; nothing is changed yet."""
        rk = operation.row_key
        there = self._tables.get(table.lower(), {}).get((pk, rk))
        match operation:
            case Insert():
                if there is not None:
                    raise PreconditionFailedError(f"entity {pk!r}, {rk!r} exists in table {table!r}")
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
            raise KeyNotFoundError(f"entity {pk!r}, {rk!r} does not exist in table {table!r}")
        if etag is not None and row.etag != etag:
            raise PreconditionFailedError(
                f"entity {pk!r}, {rk!r} of table {table!r} does not have the ETag {etag!r}", field="etag"
            )
        return row


def _entity(pk: str, rk: str, row: _Row) -> Entity:
    return Entity(pk, rk, dict(row.properties), row.etag, row.timestamp)


def _encode_row_cursor(last: Entity) -> str:
    return base64.urlsafe_b64encode(f"{last.partition_key}\n{last.row_key}".encode()).decode()


def _decode_row_cursor(cursor: str) -> tuple[bytes, bytes]:
    try:
        pk, separator, rk = base64.b64decode(cursor, altchars=b"-_", validate=True).partition(b"\n")
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError("cursor is not one that a query returned", field="cursor") from error
    if not separator:
        raise InvalidArgumentError("cursor is not one that a query returned", field="cursor")
    return pk, rk


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
