"""What a backend implements: the drivers behind `ObjectStore`, `TableStore` and `QueueStore`.

A driver trusts its arguments: the stores have validated and mapped them, and verify what it returns. A
layer is a driver around another driver (`storage_lib.layers.base`).
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from storage_lib.errors import KeyNotFoundError
from storage_lib.patterns import pattern
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import (
    ByteRange,
    ListEntry,
    ObjectInfo,
    PutResult,
    StoredObject,
)
from storage_lib.ports.portable import Stationary
from storage_lib.ports.queue_model import MessageEncoding, QueueMessage, decoded
from storage_lib.ports.streaming import ObjectReader, Parts, SentPart, one_chunk, sha256_of
from storage_lib.ports.table_model import Entity, EntityPage, TableOperation

if TYPE_CHECKING:
    from storage_lib.ports.odata import Filter


class Repeat(Protocol):
    """How a backend does a step of a longer operation: once, or with retries, as set by the retry layer.

    ``doing`` describes the step for logs; ``step`` does it, and may be repeated. With ``only_refused``
    it may be repeated only if the store said that it did nothing.
    """

    async def __call__[T](
        self, doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False
    ) -> T: ...


async def once[T](doing: str, step: Callable[[], Awaitable[T]], *, only_refused: bool = False) -> T:
    """`Repeat` without retries."""
    return await step()


# -- objects

UNASKED: ContextVar[int] = ContextVar("UNASKED", default=0)
"""How many deletes come together of which nobody asks whether there was an object: a driver may then call
each a success without having looked."""


class PutOptions(msgspec.Struct, frozen=True, gc=False):
    """How an object is saved, in one piece or as a stream, whose ``sha256`` is not yet known.

    ``metadata`` includes the reserved names (``aos-…``) and now belongs to the driver. ``if_match`` may be
    `ANY_VERSION`. ``upload`` names a stream that another process may continue; see `ObjectDriver.uploaded`.
    ``tell_created``: the result of a save in one piece is to tell whether it created the object, of a driver
    that can (`ObjectCapabilities.tells_created`).
    """

    content_type: str
    metadata: dict[str, str]
    sha256: str = ""
    if_match: str | None = None
    if_absent: bool = False
    upload: str | None = None
    tell_created: bool = False

    @property
    def is_conditional(self) -> bool:
        return self.if_absent or self.if_match is not None

    @property
    def has_created(self) -> bool | None:
        """Whether a successful save with these options created an object; None if they do not tell."""
        return True if self.if_absent else None if self.if_match is None else False


class GetOptions(msgspec.Struct, frozen=True, gc=False):
    """What is read of an object. The conditions are valid ETags.

    ``fresh``: what the store has now, not what a layer has kept. Without ``dated`` the time of the last
    change may be wrong, as nobody will look at it.
    """

    byte_range: ByteRange | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    fresh: bool = False
    dated: bool = True


class ListOptions(msgspec.Struct, frozen=True, gc=False):
    """What a listing returns: names greater than ``after``, and nothing below it if it is a common prefix.
    ``count`` is a hint of how many will be read. ``ends``: each entry is to tell the end of its life
    (`ListEntry.until`), of a driver that can (`ObjectCapabilities.lists_ends`). What is below ``skip`` may be
    left out. ``continued``: it is the rest of a listing, which is no operation of its own to the layers."""

    delimiter: str | None = None
    after: str | None = None
    count: int | None = None
    details: bool = False
    continued: bool = False
    ends: bool = False
    skip: str | None = None


PLAIN_GET = GetOptions()


@dataclass(frozen=True, slots=True)
class ObjectCapabilities:
    """What an object driver can do, and its limits."""

    reports_created: bool = True
    """Whether an unconditional put can tell a created object from a replaced one."""
    tells_created: bool = False
    """Whether it can, where asked to (`PutOptions.tell_created`), as long as no answer gets lost."""
    folds_foreign_names: bool = False
    """Whether a listing may return a common prefix that has only invalid keys below it."""
    ends_objects: bool = False
    """Whether the store itself hides objects whose time to live is over, and removes them."""
    lists_ends: bool = False
    """Whether a listing tells at no other cost when the life of each object ends (`ListOptions.ends`)."""
    lists_sizes: bool = False
    """Whether a listing has sizes even without details."""
    asks_for_details: bool = False
    """Whether a listing with details costs a request for each object, or is otherwise much dearer."""
    decrypts: bool = False
    """Whether it has a layer that reads encrypted objects, and seals their metadata."""
    max_object_bytes: int = 5_000_000_000
    """The largest object of a single put (Azure Put Blob: 5,000 MiB; S3 PutObject: 5 GB)."""
    part_bytes: int = 8 * 1024 * 1024
    """How much of a stream is buffered and sent at a time."""
    max_parts: int = 50_000
    """The number of parts of a stream (Azure: 50,000 blocks)."""
    resumes_streams: bool = False
    """Whether a stream with a name (`PutOptions.upload`) can be continued after a crash."""
    discards_together: bool = False
    """Whether `ObjectDriver.discard` is a request for many."""
    tells_saves: bool = True
    """Whether a condition on an ETag heeds each save since, also one of the same bytes (S3: not quite)."""
    is_local: bool = False
    """Whether its bytes are on this machine, and reading them again costs no transfer."""


class ObjectDriver(Stationary, ABC):
    """Bytes by key."""

    capabilities: ObjectCapabilities = ObjectCapabilities()

    clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch, which decide whether an object has expired."""

    @property
    def core(self) -> ObjectDriver:
        """The driver for the store's own bookkeeping, such as expiry markers: this driver without the layers
        around it, which see only what callers do."""
        return self

    @abstractmethod
    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        """Save an object.

        :raises PreconditionFailedError: a condition of the options does not hold.
        """

    @abstractmethod
    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        """Return an object; None if it has the ETag ``if_none_match``.

        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: it does not have the ETag ``if_match``.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """Return what is known about an object.

        :raises KeyNotFoundError: there is no such object.
        """

    @abstractmethod
    async def delete(self, key: str, if_match: str | None) -> None:
        """Delete an object.

        :raises KeyNotFoundError: there is no such object.
        :raises PreconditionFailedError: it does not have the ETag ``if_match``.
        """

    @abstractmethod
    def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        """Return entries and common prefixes in the order of their UTF-8 bytes. A stored name that is
        not a valid key is left out (`unlisted.leave_out`)."""

    # -- defaults that a driver may improve

    def at_hand(self, key: str) -> StoredObject | None:
        """A whole object that is had without waiting, verified and as callers see it
        (`hidden.presented`), but perhaps with a wrong time of its last change; None if there is none."""
        return None

    async def fresh_head(self, key: str) -> ObjectInfo:
        """`head`, from the store and not from what a layer has kept."""
        return await self.head(key)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        """Store ``parts``, all but the last of `part_bytes`. ``parts.sha256``, ``parts.size`` and all of
        the metadata (``parts.complete``) are known when they have ended; if they raise, nothing may be left
        behind. This default holds all of them in memory.

        :param repeat: how to make requests that may be repeated; the source cannot be read again.
        """
        data = b"".join([part async for part in parts])
        metadata = parts.complete(options.metadata)
        return await self.put(
            key, data, msgspec.structs.replace(options, metadata=metadata, sha256=parts.sha256)
        )

    async def uploaded(self, key: str, upload: str) -> Mapping[int, SentPart]:
        """The parts of the stream of this name that are there already, by their index: `put_stream` is to be
        given them (`Parts` with ``known``), and sends the others. One that is cut off leaves its parts for
        the next; so the name says exactly which bytes they are of. A new stream with another name for the
        same key drops them.
        """
        return {}

    async def give_up(self, key: str, upload: str) -> None:
        """Remove what can be removed of a stream that nobody will continue."""

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """Return info, offset of the first byte, and the bytes in chunks, all of one version of the
        object and not verified. This default holds all of them in memory."""
        found = await self.get(key, options)
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return found.info, found.start, one_chunk(found.data)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        """Copy bytes, type, metadata and checksum of exactly this version. This default reads and writes
        the bytes.

        :raises PreconditionFailedError: the source has been replaced, or ``if_absent`` is set and there is a
            target.
        """
        return await rewritten(self, source, target, if_absent=if_absent)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        """Give exactly this version other metadata, those reserved included; they now belong to the driver.
        Bytes, type and checksum stay; the ETag changes. This default reads and writes the bytes.

        :raises PreconditionFailedError: the object has been replaced or deleted.
        """
        return await rewritten(self, source, source.key, metadata=metadata, if_match=source.etag)

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        """A URL of the store itself by which others load or save this object, if it can enforce what the
        options ask for or says in the link what it cannot. A layer that would be bypassed returns none."""
        return NoStoreLink("this kind of store has no URLs of its own")

    async def remove(self, info: ObjectInfo) -> None:
        """Delete exactly the version that `head` has told just now. The errors are those of `delete`."""
        await self.delete(info.key, info.etag)

    async def discard(self, keys: Sequence[str]) -> None:
        """Delete objects of the library's own, those of them that are there."""
        deleted = await asyncio.gather(*(self.delete(key, None) for key in keys), return_exceptions=True)
        for error in deleted:
            if error is not None and not isinstance(error, KeyNotFoundError):
                raise error

    async def remove_stale(self) -> None:
        """Remove what crashed processes have left behind; part of each sweep."""


async def rewritten(
    driver: ObjectDriver,
    source: ObjectInfo,
    target: str,
    *,
    metadata: Mapping[str, str] | None = None,
    if_absent: bool = False,
    if_match: str | None = None,
) -> PutResult:
    """Read exactly this version and save it as ``target``, with its type, and its own ``metadata`` or others,
    in pieces.

    :raises PreconditionFailedError: the source has been replaced, or the target does not meet the
        conditions.
    """
    info, _, chunks = await driver.read_stream(source.key, GetOptions(if_match=source.etag))
    size = driver.capabilities.part_bytes
    async with aclosing(chunks):
        reader = ObjectReader(info, 0, chunks, verified=True)
        parts = Parts(reader, size, size * driver.capabilities.max_parts)
        data = await parts.whole()
        kept = dict(info.metadata if metadata is None else metadata)
        options = PutOptions(info.content_type, kept, if_match=if_match, if_absent=if_absent)
        if data is None:
            return await driver.put_stream(target, parts, options)
        digest = await sha256_of(data)
        return await driver.put(target, data, msgspec.structs.replace(options, sha256=digest))


# -- tables and queues


class NamePage(NamedTuple):
    """Some of the tables or queues, in any order; ``cursor`` is for the next page, None if there is none.

    A name is as it is stored; a `MappedName` if the store remembers what it was given.
    """

    names: list[str]
    cursor: str | None


# -- tables


MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Of entities, after which a page of a query ends, on Azure after twice as many at most: a thousand may have
a gigabyte."""


class QueryOptions(msgspec.Struct, frozen=True, gc=False):
    """A page of a query, which ends at ``limit`` entities, or sooner where they are large. The driver defines
    ``cursor``."""

    filter: Filter
    select: list[str] | None
    limit: int
    cursor: str | None

    def page(self, found: list[Entity], cursor: str | None) -> EntityPage:
        """``found`` with only the selected properties."""
        return EntityPage([entity.selected(self.select) for entity in found], cursor)


class TableDriver(Stationary, ABC):
    """Entities by (partition key, row key), ordered by both."""

    etags: re.Pattern[str] = pattern(r"[!-~]{1,256}")
    """The form of an entity's ETag; a service may refuse any other instead of comparing it."""

    @abstractmethod
    async def create_table(self, table: str) -> None:
        """Create the table if it does not exist."""

    @abstractmethod
    async def write(self, table: str, pk: str, operation: TableOperation) -> str | None:
        """Do the operation and return the new ETag, None for a `Delete`. An `Insert` or `Upsert` creates
        the table.

        :raises KeyNotFoundError: there is no entity to change or delete.
        :raises PreconditionFailedError: it has another ETag, or an entity to insert exists.
        """

    @abstractmethod
    async def batch(self, table: str, pk: str, operations: list[TableOperation]) -> list[str | None]:
        """Do all of the operations or none; the errors are those of `write`, through
        `errors.at_operation`."""

    @abstractmethod
    async def get(self, table: str, pk: str, rk: str) -> Entity:
        """Return an entity.

        :raises KeyNotFoundError: there is no such entity.
        """

    @abstractmethod
    async def query(self, table: str, options: QueryOptions) -> EntityPage:
        """Return a page of a query.

        :raises KeyNotFoundError: there is no such table.
        """

    @abstractmethod
    async def list_tables(self, prefix: str, cursor: str | None) -> NamePage:
        """Return a page of the tables whose stored names begin with ``prefix``."""


# -- queues


class QueueDriver(Stationary, ABC):
    """Messages delivered at least once. A missing queue or an invalid receipt raises `KeyNotFoundError`."""

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
    @abstractmethod
    async def list_queues(self, prefix: str, cursor: str | None) -> NamePage:
        """Return a page of the queues whose stored names begin with ``prefix``."""
