"""What is copied of an object: through the layers, or as it is stored below them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol

import msgspec

from storage_lib.layers.base import stored_form
from storage_lib.ports import expiry, hidden, kept_headers
from storage_lib.ports.drivers import GetOptions
from storage_lib.ports.object_model import ByteRange, ListEntry, ObjectInfo
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.streaming import verify

_HEADERS = {field: name for name, field in kept_headers.FIELDS.items()}


class Seen(msgspec.Struct, frozen=True):
    """What a copy keeps of an object beside its bytes.

    ``metadata`` has the end of its life and the headers under their reserved names. ``sha256`` is None for an
    object that another program stored; ``is_encrypted`` if its bytes are bound to its key.
    """

    etag: str
    size: int
    content_type: str
    metadata: Mapping[str, str]
    sha256: str | None
    is_encrypted: bool = False


class Stream(msgspec.Struct):
    """An object that is being read."""

    seen: Seen
    chunks: AsyncIterator[bytes]


class View(Protocol):
    """One of the two ways to look at a store."""

    store: ObjectStore

    def listed(self, entry: ListEntry) -> Seen | None:
        """What a listing tells of an object, its checksum included; None if it does not tell all."""
        ...

    async def head(self, key: str) -> Seen:
        """What there is now. :raises KeyNotFoundError: there is no such object."""
        ...

    async def get(self, key: str, etag: str | None) -> tuple[Seen, bytes]:
        """A whole object, verified. :raises PreconditionFailedError: it has another ETag."""
        ...

    def stream(self, key: str, etag: str, start: int) -> AbstractAsyncContextManager[Stream]:
        """Its bytes from ``start`` on, not verified. :raises PreconditionFailedError: as for `get`."""
        ...


class Open:
    """A store as its callers see it."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def listed(self, entry: ListEntry) -> Seen | None:
        info = entry.info
        return None if info is None or info.sha256 is None else _open(info)

    async def head(self, key: str) -> Seen:
        return _open(await self.store.head(key, fresh=True))

    async def get(self, key: str, etag: str | None) -> tuple[Seen, bytes]:
        found = await self.store.get(key, if_match=etag, fresh=True, dated=False)
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return _open(found.info), found.data

    @asynccontextmanager
    async def stream(self, key: str, etag: str, start: int) -> AsyncGenerator[Stream]:
        # A range is not verified: those who store the bytes take their checksum anyway.
        wanted = ByteRange(start)
        async with self.store.open_reader(key, byte_range=wanted, if_match=etag, fresh=True) as reader:
            yield Stream(_open(reader.info), aiter(reader))


def _open(info: ObjectInfo) -> Seen:
    metadata = dict(info.metadata)
    for field, name in _HEADERS.items():
        if (value := getattr(info, field)) is not None:
            metadata[name] = value
    _, end = expiry.split_etag(info.etag)
    if end is not None:
        metadata[expiry.METADATA] = info.etag.rpartition("~")[2]
    return Seen(info.etag, info.size, info.content_type, metadata, info.sha256)


class Sealed:
    """A store below its layers that change bytes: what is stored, as it is."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = ObjectStore(stored_form(store.driver))

    def listed(self, entry: ListEntry) -> Seen | None:
        return None  # Callers' properties, not those of what is stored.

    async def head(self, key: str) -> Seen:
        return self._seen(await self.store.driver.fresh_head(key))

    async def get(self, key: str, etag: str | None) -> tuple[Seen, bytes]:
        raw, _ = expiry.split_etag(etag)
        found = await self.store.driver.get(key, GetOptions(if_match=raw, fresh=True))
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        if not found.verified:
            await verify(found)
        return self._seen(found.info), found.data

    @asynccontextmanager
    async def stream(self, key: str, etag: str, start: int) -> AsyncGenerator[Stream]:
        raw, _ = expiry.split_etag(etag)
        options = GetOptions(ByteRange(start), raw, fresh=True)
        info, _, chunks = await self.store.driver.read_stream(key, options)
        async with aclosing(chunks):
            yield Stream(self._seen(info), chunks)

    def _seen(self, info: ObjectInfo) -> Seen:
        end = expiry.end_in(info.metadata)
        if end is not None and end <= self.store.clock():
            raise expiry.gone(info.key)
        metadata = {name: text for name, text in info.metadata.items() if name not in hidden.ADDED_BELOW}
        return Seen(
            expiry.join_etag(info.etag, info.metadata),
            info.size,
            info.content_type,
            metadata,
            info.sha256,
            hidden.ENCRYPTED in metadata,
        )
