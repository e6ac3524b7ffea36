"""How threads lie in a table, and beside it as objects what is large.

The partition is the thread. Its rows, in their order (``!`` stands between the parts):

===============================  ==========================================================================
``c!NAMESPACE!ID``               a checkpoint. ID counts down, so that the newest is first
``c!NAMESPACE!ID!<``             what its delta channels need of ancestors that were removed
``c!NAMESPACE!ID!>``             the claim: which checkpoint came after this one. Two cannot
``c!NAMESPACE!ID!tTASK``         the writes of a task
``c!NAMESPACE!ID!tTASK!-3``      a write that is replaced when it is made again, such as an interrupt
===============================  ==========================================================================

A row of writes names the run that made it (``by``), and a checkpoint the runs whose writes it continues: what
another run wrote at the checkpoint before is no part of its history. Rows without it count for all.

So the state of a thread is the beginning of one range, and an ancestor is further on in it. A row holds its
content as MessagePack, or the name of an object that does.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any
from uuid import uuid4

import msgspec

from storage_lib import (
    Delete,
    Entity,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageManager,
    to_segment,
)

PIECE = 64 * 1024
"""Bytes of one property of an entity."""
MAX_ROW = 256 * 1024
"""Bytes of content in a row."""
MAX_ID = 100
"""Bytes of a checkpoint's id, which is a UUID of 36."""
_PACKED = 512
FIRST_PAGE = 4
"""Rows: a checkpoint that a run has ended with has few pending writes, or none."""

_INVERTED = bytes(255 - byte for byte in range(256))
NAME_PROPERTIES = [f"o{number}" for number in range(8)]
_PIECES = [f"d{number}" for number in range(MAX_ROW // PIECE)]
_NAMES_A_PROPERTY = 900
_BATCH = 100

type Raw = tuple[str, bytes | None, str | None]
"""A serialized value: its serializer's type and its bytes, or the name of the object that has them."""


class Write(msgspec.Struct, array_like=True, frozen=True):
    path: str
    task: str
    index: int
    channel: str
    value: Raw

    @property
    def order(self) -> tuple[str, str, int]:
        """`langgraph.checkpoint.base.writes_sort_key`."""
        return self.path, self.task, self.index


class Checkpoint(msgspec.Struct, array_like=True, frozen=True):
    """``body`` is LangGraph's checkpoint without the values, and the metadata."""

    namespace: str
    id: str
    parent: str | None
    body: Raw
    values: dict[str, Raw]


class History(msgspec.Struct, array_like=True, frozen=True):
    """What a channel was given on the way to a checkpoint: what it began with, and the writes since."""

    seed: Raw | None
    writes: list[Write]


class Group:
    """The rows of one checkpoint."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.checkpoint: Entity | None = None
        self.history: Entity | None = None
        self.claim: Entity | None = None
        self.writes: list[Entity] = []

    def add(self, row: Entity) -> None:
        match row.row_key[len(self.prefix) :]:
            case "":
                self.checkpoint = row
            case "!<":
                self.history = row
            case "!>":
                self.claim = row
            case _:
                self.writes.append(row)


@lru_cache(maxsize=1024)
def key_of(text: str) -> str:
    """Any text as a part of a key; a long one as its hash, for it stands in the row as well."""
    try:
        return to_segment(text)
    except InvalidKeyError:
        return "=sha256-" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@lru_cache(maxsize=1024)
def row_of(namespace: str, checkpoint: str | None) -> str:
    """The row of a checkpoint; None stands for what was before the first."""
    text = (checkpoint or "").encode(errors="surrogatepass")
    if len(text) > MAX_ID:
        limit = f"{MAX_ID} bytes"
        raise InvalidKeyError(f"checkpoint id has {len(text)} bytes", field="checkpoint_id", limit=limit)
    return f"c!{key_of(namespace)}!{text.translate(_INVERTED).hex()}z"


def behind(prefix: str) -> str:
    """The first text behind all rows that begin with this and a ``!``."""
    return prefix + '"'


def group_of(row: Entity) -> str:
    return "!".join(row.row_key.split("!", 3)[:3])


def names_of(rows: Iterable[Entity]) -> set[str]:
    return set[str]().union(*(names_in(row.properties) for row in rows))


def names_in(properties: Mapping[str, Any]) -> set[str]:
    """The names of the objects that a row needs."""
    found = (properties.get(name) for name in NAME_PROPERTIES)
    return {name for names in found if names for name in names.split(",")}


class Rows:
    """The rows of a saver's table, and its objects."""

    def __init__(self, storage: StorageManager, table: str, prefix: str, large: int) -> None:
        self._storage = storage
        self.tables = storage.backend.tables
        self.table = table
        self._prefix = prefix
        self._large = large

    async def found(
        self,
        partition: str | None,
        lower: str = "",
        upper: str = "",
        *,
        first: int = 1000,
        where: str = "",
        select: Sequence[str] | None = None,
        **more: Any,
    ) -> AsyncGenerator[Entity]:
        """The rows of a range."""
        pages = self._pages(partition, lower, upper, first=first, where=where, select=select, **more)
        async with aclosing(pages):
            async for page in pages:
                for row in page:
                    yield row

    async def _pages(
        self,
        partition: str | None,
        lower: str,
        upper: str,
        *,
        first: int,
        where: str = "",
        select: Sequence[str] | None = None,
        **more: Any,
    ) -> AsyncGenerator[list[Entity]]:
        """They grow."""
        conditions = [where] if where else []
        for condition, value in (("RowKey lt @upper", upper), ("RowKey ge @lower", lower)):
            if value:
                conditions.insert(0, condition)
                more[condition[-5:]] = value
        if partition is not None:
            conditions.insert(0, "PartitionKey eq @partition")
            more["partition"] = partition
        condition, cursor, limit = " and ".join(conditions), None, min(first, 1000)
        while True:
            try:
                page = await self.tables.query(
                    self.table, condition, parameters=more, select=select, limit=limit, cursor=cursor
                )
            except KeyNotFoundError:
                return  # No table: nothing was ever written.
            yield page.entities
            if (cursor := page.cursor) is None:
                return
            limit = min(limit * 8, 1000)

    async def groups(
        self, partition: str | None, lower: str, upper: str, *, first: int = 1000, **more: Any
    ) -> AsyncGenerator[tuple[str, Group]]:
        """The checkpoints of a range with their rows, each after its partition. What has no checkpoint (yet)
        is left out."""
        at, group = "", Group("")
        async with aclosing(self._pages(partition, lower, upper, first=first, **more)) as pages:
            async for page in pages:
                for row in page:
                    if (prefix := group_of(row)) != group.prefix or row.partition_key != at:
                        if group.checkpoint is not None:
                            yield at, group
                        at, group = row.partition_key, Group(prefix)
                    group.add(row)
        if group.checkpoint is not None:
            yield at, group

    # -- contents

    async def raw(self, partition: str, typed: tuple[str, bytes]) -> Raw:
        if len(typed[1]) <= self._large:
            return *typed, None
        return typed[0], None, await self._save(partition, typed[1])

    async def typed(self, partition: str, raw: Raw) -> tuple[str, bytes]:
        kind, data, name = raw
        return kind, data if name is None else await self._load(partition, name)  # type: ignore[return-value]

    async def properties(self, partition: str, content: Any, raws: Iterable[Raw]) -> dict[str, Any]:
        """Properties for a row with this content."""
        names = [name for _, _, name in raws if name is not None]
        try:
            data = msgspec.msgpack.encode(content)
        except UnicodeEncodeError as error:
            raise SerializationError(
                f"a name is no valid text: {error}", field="configurable", limit="no lone surrogates"
            ) from error
        properties: dict[str, Any] = {}
        if len(data) > _PACKED:  # Fewer pages to write, and less to send.
            properties["size"], data = len(data), zlib.compress(data, 1)
        if len(data) > MAX_ROW:
            names.append(at := await self._save(partition, data))
            properties["at"] = at
        else:
            properties |= {f"d{at // PIECE}": data[at : at + PIECE] for at in range(0, len(data), PIECE)}
        if len(names) > (most := _NAMES_A_PROPERTY * len(NAME_PROPERTIES)):
            limit = f"{most} objects a row"
            raise SerializationError(
                f"a checkpoint has {len(names)} large values", field="state", limit=limit
            )
        for at in range(0, len(names), _NAMES_A_PROPERTY):
            properties[f"o{at // _NAMES_A_PROPERTY}"] = ",".join(names[at : at + _NAMES_A_PROPERTY])
        return properties

    async def content[T](self, row: Entity, kind: type[T], home: str | None = None) -> T:
        if (at := row.properties.get("at")) is not None:
            data = await self._load(home or row.partition_key, at)
        else:
            data = row.properties.get("d0", b"")
            if "d1" in row.properties:
                pieces = (row.properties.get(name) for name in _PIECES)
                data = b"".join(piece for piece in pieces if piece is not None)
        if (size := row.properties.get("size")) is not None:
            data = zlib.decompressobj().decompress(data, size)
        return msgspec.msgpack.decode(data, type=kind)

    async def writes(self, group: Group, runs: Collection[str] | None = None) -> list[Write]:
        """In LangGraph's order.

        :param runs: only of these; None means of all.
        """
        rows = [row for row in group.writes if runs is None or row.properties.get("by", "") in ("", *runs)]
        found = [await self.content(row, list[Write]) for row in rows]
        return sorted((write for writes in found for write in writes), key=lambda write: write.order)

    # -- objects

    def _key(self, partition: str, name: str = "") -> str:
        return f"{self._prefix}/{partition}/{name}"

    async def _save(self, partition: str, data: bytes) -> str:
        await self._storage.write(self._key(partition, name := uuid4().hex), data, if_absent=True)
        return name

    async def _load(self, partition: str, name: str) -> bytes:
        return (await self._storage.read(self._key(partition, name))).data

    async def copy_objects(self, names: Iterable[str], source: str, target: str) -> None:
        limit = asyncio.Semaphore(16)

        async def copy(name: str) -> None:
            async with limit:
                await self._storage.copy(self._key(source, name), self._key(target, name))

        await asyncio.gather(*map(copy, names))

    async def delete_objects(self, partition: str, names: Iterable[str] | None = None) -> None:
        """Those, or all."""
        if names is None:
            result = await self._storage.delete_prefix(self._key(partition))
            for error in result.failed.values():
                raise error
            return
        keys = [self._key(partition, name) for name in names]
        await self._storage.delete_many(keys, missing_ok=True, raise_errors=True)

    async def delete(self, partition: str, row_keys: Sequence[str]) -> None:
        for at in range(0, len(row_keys), _BATCH):
            keys = row_keys[at : at + _BATCH]
            try:
                await self.tables.batch(self.table, partition, [Delete(key) for key in keys])
            except KeyNotFoundError:  # Someone else deletes, too.
                for key in keys:
                    await self.tables.delete(self.table, partition, key, missing_ok=True)

    async def delete_unchanged(self, partition: str, rows: Sequence[Entity]) -> bool:
        """Delete rows, until one has changed since it was read; whether none has."""
        for at in range(0, len(rows), _BATCH):
            deletes = [Delete(row.row_key, row.etag) for row in rows[at : at + _BATCH]]
            try:
                await self.tables.batch(self.table, partition, deletes)
            except (KeyNotFoundError, PreconditionFailedError):
                return False
        return True
