"""What a backend writes: the drivers behind `ObjectStore`, `TableStore` and `QueueStore`.

A driver trusts what it gets: the stores have validated and mapped it, and verify what comes back. A layer
is a driver around another (`storage_lib.layers.base`).
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from storage_lib.patterns import pattern
from storage_lib.ports.object_model import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    PutResult,
    StoredObject,
)
from storage_lib.ports.portable import Stationary
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage, decoded
from storage_lib.ports.streaming import ObjectReader, Parts, one_chunk, sha256_of
from storage_lib.ports.table_model import Entity, EntityPage, TableOperation

if TYPE_CHECKING:
    from storage_lib.ports.odata import Filter


class Repeat(Protocol):
    """How a backend takes a step of a longer operation: once, or again where it fails, as the retry layer
    sets it.

    :param doing: what is done, for logs. :param step: does it; twice does no harm.
    :param only_refused: twice would do harm: again only where the store said that it did nothing.
    """

    async def __call__[T](
        self, doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
    ) -> T: ...


async def once[T](doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False) -> T:
    """`Repeat` without a second try."""
    return await step()


# -- objects


class PutOptions(msgspec.Struct, frozen=True, gc=False):
    """How an object is saved: in one piece, or as a stream, whose ``sha256`` is not yet known.

    ``metadata`` includes the reserved names (``aos-…``), and belongs to the driver from now on.
    ``if_match`` may be `ANY_VERSION`.
    """

    content_type: str
    metadata: dict[str, str]
    sha256: str = ""
    if_match: str | None = None
    if_absent: bool = False

    @property
    def is_conditional(self) -> bool:
        return self.if_absent or self.if_match is not None

    @property
    def has_created(self) -> bool | None:
        """Whether such a save, done, has created an object, where the store does not say; None: unknown."""
        return True if self.if_absent else None if self.if_match is None else False


class GetOptions(msgspec.Struct, frozen=True, gc=False):
    """What is read of an object. The conditions are ETags that an object can have."""

    byte_range: ByteRange | None = None
    if_match: str | None = None
    if_none_match: str | None = None


class ListOptions(msgspec.Struct, frozen=True, gc=False):
    """What a listing gives: names greater than ``after``, and nothing below it if it is a common prefix.
    ``count`` is a hint of how many will be read."""

    delimiter: str | None = None
    after: str | None = None
    count: int | None = None
    details: bool = False


PLAIN_GET = GetOptions()


@dataclass(frozen=True, slots=True)
class ObjectCapabilities:
    """What an object driver can do, and how much."""

    reports_created: bool = True
    """Whether an unconditional put can tell a created object from a replaced one."""
    folds_foreign_names: bool = False
    """Whether a listing may give a common prefix that has nothing below it but names that are no keys."""
    lists_sizes: bool = False
    """Whether a listing without details has the sizes all the same."""
    max_object_bytes: int = 5_000_000_000
    """The largest object of a single put (Azure Put Blob: 5,000 MiB; S3 PutObject: 5 GB)."""
    part_bytes: int = 8 * 1024 * 1024
    """How much of a stream is held and sent at a time."""
    max_parts: int = 50_000
    """Of a stream (Azure: 50,000 blocks)."""


class ObjectDriver(Stationary, ABC):
    """Bytes by key."""

    capabilities: ObjectCapabilities = ObjectCapabilities()

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch; what decides whether an object has expired."""

    @property
    def core(self) -> ObjectDriver:
        """What the store's own bookkeeping goes to, such as markers of times to live: this driver, without
        the layers around it that see what callers do and nothing else."""
        return self

    @abstractmethod
    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        """:raises PreconditionFailedError: the object is not as the options demand."""

    @abstractmethod
    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        """None if the object has the ETag ``if_none_match``.

        :raises KeyNotFoundError: there is none. :raises PreconditionFailedError: it has another ETag.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """:raises KeyNotFoundError: there is none."""

    @abstractmethod
    async def delete(self, key: str, if_match: str | None) -> None:
        """:raises KeyNotFoundError: there is none. :raises PreconditionFailedError: it has another ETag."""

    @abstractmethod
    def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        """Entries and common prefixes in the order of their UTF-8 bytes. A stored name that is no valid key
        is left out (`unlisted.leave_out`)."""

    # -- what a driver may do better

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        """Store ``parts``, each of `part_bytes` but the last. ``parts.sha256`` and ``parts.size`` are known
        when they have ended; if they raise, nothing may be left. This default holds them all.

        :param repeat: how requests are made that can be made twice: the source cannot be read again.
        """
        data = b"".join([part async for part in parts])
        return await self.put(key, data, msgspec.structs.replace(options, sha256=parts.sha256))

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """Info, offset of the first byte, and the bytes chunk by chunk, all of one version of the object;
        unverified. This default holds them all."""
        found = await self.get(key, options)
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return found.info, found.start, one_chunk(found.data)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        """Copy bytes, type, metadata and checksum of this very version. This default moves the bytes through
        here.

        :raises PreconditionFailedError: the source has been replaced, or (``if_absent``) there is a target.
        """
        info, _, chunks = await self.read_stream(source.key, GetOptions(if_match=source.etag))
        size = self.capabilities.part_bytes
        async with aclosing(chunks):
            reader = ObjectReader(info, 0, chunks, verified=True)
            parts = Parts(reader, size, size * self.capabilities.max_parts)
            data = await parts.whole()
            options = PutOptions(info.content_type, dict(info.metadata), if_absent=if_absent)
            if data is None:
                return await self.put_stream(target, parts, options)
            digest = await sha256_of(data)
            return await self.put(target, data, msgspec.structs.replace(options, sha256=digest))

    async def remove_stale(self) -> None:
        """Remove what crashed processes left of what they were writing; part of each sweep."""


# -- tables


class QueryOptions(msgspec.Struct, frozen=True, gc=False):
    """A page of a query. ``cursor`` is of the driver's making."""

    filter: Filter
    select: list[str] | None
    limit: int
    cursor: str | None

    def page(self, found: list[Entity], cursor: str | None) -> EntityPage:
        """``found`` without the properties that nobody selected."""
        return EntityPage([entity.selected(self.select) for entity in found], cursor)


class TableDriver(Stationary, ABC):
    """Entities by (partition key, row key), ordered by both."""

    etags: re.Pattern[str] = pattern(r"[!-~]{1,256}")
    """What an entity's ETag may be here: a service may refuse any other instead of comparing with it."""

    @abstractmethod
    async def create_table(self, table: str) -> None:
        """Make the table if it is not there."""

    @abstractmethod
    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        """Do the operation; the new ETag, None for a `Delete`. An `Insert` or `Upsert` makes the table.

        :raises KeyNotFoundError: there is no entity to change or delete.
        :raises PreconditionFailedError: it has another ETag, or is there and was to be inserted.
        """

    @abstractmethod
    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        """Do all of them or none; the errors are those of `write`, by `errors.at_operation`."""

    @abstractmethod
    async def get(self, table: str, pk: str, rk: str) -> Entity:
        """:raises KeyNotFoundError: there is no such entity."""

    @abstractmethod
    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        """:raises KeyNotFoundError: there is no such table."""


# -- queues


class QueueDriver(Stationary, ABC):
    """Messages delivered at least once. Where a queue or a receipt is missing: `KeyNotFoundError`."""

    def __init__(self, message_encoding: MessageEncoding = "base64") -> None:
        self.message_encoding: MessageEncoding = message_encoding

    def decode(self, text: str) -> bytes | None:
        """The body of a message with this text."""
        return decoded(text, self.message_encoding)

    @abstractmethod
    async def create_queue(self, queue: str) -> None: ...
    @abstractmethod
    async def send(self, queue: str, text: str, delay: float, ttl: float | None) -> str: ...
    @abstractmethod
    async def receive(self, queue: str, count: int, visibility: float) -> list[QueueMessage]: ...
    @abstractmethod
    async def delete(self, queue: str, message_id: str, pop_receipt: str) -> None: ...
    @abstractmethod
    async def update(
        self, queue: str, message: QueueMessage, visibility: float, text: str
    ) -> QueueMessage: ...
    @abstractmethod
    async def peek(self, queue: str, count: int) -> list[QueueMessage]: ...
    @abstractmethod
    async def length(self, queue: str) -> int: ...
    @abstractmethod
    async def clear(self, queue: str) -> None: ...
