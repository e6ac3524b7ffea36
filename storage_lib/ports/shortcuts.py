"""Short methods for tables and queues on every backend: `insert_entity`, `send_message` and the like.

They are thin methods over the stores, with entities as dicts with ``PartitionKey`` and ``RowKey``, and
with JSON messages. The methods for files and blobs are on the backends that have them, and share the
functions below: what is written is restored with its type, as by `StorageManager`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Buffer, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from storage_lib import threads, values
from storage_lib.arguments import mapping
from storage_lib.buffers import as_bytes, is_bytes_like
from storage_lib.codings import codings_of, decoded
from storage_lib.errors import InvalidArgumentError, SerializationError
from storage_lib.keys import SYSTEM_PREFIX, essence, user_key
from storage_lib.ports.listed import Listed
from storage_lib.ports.object_model import PutResult, StoredObject
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.queues import QueueMessage, QueueStore
from storage_lib.ports.tables import Entity, TableStore

if TYPE_CHECKING:
    from storage_lib.pickling import Pickling

_ASIDE_BYTES = 256 * 1024
"""Packed values from this size on are built in a thread."""

__all__ = ["TableAndQueueMethods", "load_value", "names_below", "paused", "put_value", "value_of"]


class TableAndQueueMethods:
    """Short methods for tables and queues. `tables` and `queues` can do more."""

    tables: TableStore
    queues: QueueStore

    async def insert_entity(self, table_name: str, entity: Mapping[str, Any]) -> str:
        """Add an entity and return its ETag; the table is created if it does not exist.

        :param entity: a dict with ``PartitionKey``, ``RowKey`` and the properties.
        :raises PreconditionFailedError: an entity with these keys exists.
        :raises InvalidArgumentError: a key is missing, or a value cannot be stored.
        """
        properties = mapping("entity", entity)
        try:
            keys = properties.pop("PartitionKey"), properties.pop("RowKey")
        except KeyError as error:
            raise InvalidArgumentError(
                f"the entity has no {error.args[0]}", field="entity", remedy="give PartitionKey and RowKey"
            ) from error
        return await self.tables.insert(table_name, *keys, properties)

    async def get_entity(self, table_name: str, partition_key: str, row_key: str) -> dict[str, Any]:
        """Return an entity as the dict that was inserted.

        :raises KeyNotFoundError: there is no such entity or table.
        """
        return _as_dict(await self.tables.get(table_name, partition_key, row_key))

    def query_entities(
        self,
        table_name: str,
        filter: str | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
    ) -> Listed[dict[str, Any]]:
        """List the entities that match an OData filter, in the order of their keys: ``async for``
        streams them, ``await`` returns a list. The arguments and errors are those of `TableStore.query`.

        :raises KeyNotFoundError: there is no such table.
        """

        async def entities() -> AsyncGenerator[dict[str, Any]]:
            found = self.tables.iterate(table_name, filter, parameters=parameters, select=select)
            async for entity in found:
                yield _as_dict(entity)

        return Listed(entities)

    def list_tables(self, prefix: str = "") -> Listed[str]:
        """List the names of the tables that begin with ``prefix``, in order; see `TableStore.list_tables`."""
        return self.tables.list_tables(prefix)

    def list_queues(self, prefix: str = "") -> Listed[str]:
        """List the names of the queues that begin with ``prefix``, in order."""
        return self.queues.list_queues(prefix)

    async def send_message(
        self,
        queue_name: str,
        message: str | Buffer | dict[str, Any] | list[Any],
        *,
        delay: float = 0,
        ttl: float | None = None,
    ) -> str:
        """Send a message and return its id; the queue is created if it does not exist.

        :param message: text, bytes or a bytes-like object, or a dict or list, which is sent as JSON.
        :param delay: seconds until it can be received.
        :param ttl: seconds until it is dropped unread; None means never.
        :raises SerializationError: a dict or list is not plain JSON.
        :raises ObjectTooLargeError: more than 64 KiB on the wire.
        """
        body: str | bytes
        if isinstance(message, str):
            body = message
        elif is_bytes_like(message):
            body = as_bytes(message, "message")
        else:
            encoded = values.encode(message) if type(message) in (dict, list) else None
            if encoded is None or encoded.content_type != values.JSON:
                raise SerializationError(
                    f"a message of type {type(message).__name__} with these contents is not plain JSON",
                    field="message",
                    remedy="send text, bytes, or a dict or list of plain JSON values",
                )
            body = encoded.data
        return await self.queues.send(queue_name, body, delay=delay, ttl=ttl)

    async def receive_message(
        self, queue_name: str, *, visibility_timeout: float = 30
    ) -> QueueMessage | None:
        """Return the next message and hide it from others for ``visibility_timeout`` seconds; None if
        there is none now. ``body`` has the bytes that were sent, for a dict its JSON.

        :raises KeyNotFoundError: there is no such queue.
        """
        received = await self.queues.receive(queue_name, visibility_timeout=visibility_timeout)
        return received[0] if received else None

    async def delete_message(self, queue_name: str, message: QueueMessage) -> None:
        """Delete a message that was received and handled.

        :raises KeyNotFoundError: the receipt is no longer valid: someone else received or deleted the
            message.
        """
        await self.queues.delete(queue_name, message)


async def put_value(
    objects: ObjectStore,
    key: str,
    data: Any,
    *,
    metadata: Mapping[str, str] | None = None,
    if_absent: bool = False,
) -> PutResult:
    """Store a value. A file object or an async iterable of bytes is streamed.

    :raises SerializationError: the value could not be restored as it is.
    """
    user_key(key)
    if hasattr(data, "read") or hasattr(data, "__aiter__"):
        return await objects.put_stream(key, data, metadata=metadata, if_absent=if_absent)
    encoded = values.encode(as_bytes(data) if is_bytes_like(data) else data)
    return await objects.put(
        key, encoded.data, content_type=encoded.content_type, metadata=metadata, if_absent=if_absent
    )


async def load_value(objects: ObjectStore, key: str) -> Any:
    """Load a value by its content type."""
    found = await objects.get(user_key(key))
    assert isinstance(found, StoredObject)  # noqa: S101 - only a get with if_none_match answers None
    return await value_of(found)


async def value_of(found: StoredObject, model: Any = None, pickling: Pickling | None = None) -> Any:
    """The value of an object; with ``model``, validated and converted to it. Other work goes on meanwhile.

    :raises SerializationError: its bytes do not match its content type, or do not fit ``model``.
    """
    info = found.info
    data = found.data if info.content_encoding is None else await content_of(found)
    try:
        if info.content_type != values.JSON and essence(info.content_type) == values.PACKED:
            await paused(values.checking_stored(data, info.content_type))
        if model is None:
            if len(data) >= _ASIDE_BYTES and info.content_type == values.PACKED:
                # Item by item, so that a thread lets the event loop go on.
                return await threads.working.run(
                    partial(values.decode, data, info.content_type, pickling, checked=True)
                )
            return values.decode(data, info.content_type, pickling, checked=True)
        return values.decode_as(data, info.content_type, model, pickling, checked=True)
    except SerializationError as error:
        raise SerializationError(
            f"object {info.key!r}: {error.message}",
            field=error.field,
            limit=error.limit,
            remedy=error.remedy,
        ) from error


async def paused(steps: Iterator[None]) -> None:
    """Run each step in its own turn of the event loop, so that other work goes on."""
    for _ in steps:
        await asyncio.sleep(0)


async def content_of(found: StoredObject) -> bytes:
    """The bytes of an object, decoded from the content encoding that another program gave it.

    :raises SerializationError: the encoding is unknown, the bytes are not in it, or they expand too much.
    """
    if not (codings := codings_of(found.info.content_encoding)):
        return found.data
    try:
        return await threads.working.run(decoded, found.data, codings)
    except SerializationError as error:
        error.message = f"object {found.info.key!r}: {error.message}"
        raise


def names_below(objects: ObjectStore, prefix: str, start_after: str | None = None) -> Listed[str]:
    """The keys that start with ``prefix``, without reserved ones."""

    async def names() -> AsyncGenerator[str]:
        async for entry in objects.iterate(prefix, start_after=start_after, skip=SYSTEM_PREFIX):
            if not isinstance(entry, str):
                yield entry.key

    return Listed(names)


def _as_dict(entity: Entity) -> dict[str, Any]:
    return {"PartitionKey": entity.partition_key, "RowKey": entity.row_key, **entity.properties}
