"""zarr: `AgentStorageStore`, a ``Store`` whose chunks and metadata are the objects below a prefix.

    store = AgentStorageStore("azure://account/container", "arrays/weather")
    array = zarr.create_array(store, shape=(1000, 1000), chunks=(100, 100), dtype="f4")

A chunk is written as a whole or not at all, and is verified when it is read as a whole.
"""

# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false
# As in zarr's own stores, what is a property in the base is an attribute here.

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from copy import copy
from typing import Any, Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from storage_lib import (  # fmt: skip
    ByteRange,
    KeyNotFoundError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    StorageConfig,
    StorageManager,
    config_of,
)

__all__ = ["AgentStorageStore"]


class AgentStorageStore(Store):
    """Arrays and groups below a prefix.

    :param storage: a URL (`storage_lib.config_of`), a configuration, or a manager, which its creator closes.
    :param prefix: of all keys, without a slash at its end; none takes the whole store.
    """

    supports_writes = supports_deletes = supports_listing = True

    def __init__(
        self, storage: str | StorageConfig | StorageManager, prefix: str = "", *, read_only: bool = False
    ) -> None:
        super().__init__(read_only=read_only)
        place = self._place = config_of(storage) if isinstance(storage, str) else storage
        self._prefix, self._root = prefix, _folder(prefix)
        self._storage = place if isinstance(place, StorageManager) else StorageManager(place)

    def with_read_only(self, read_only: bool = False) -> Self:
        # With the same manager: another one of a store in memory would hold nothing.
        other = copy(self)
        Store.__init__(other, read_only=read_only)
        return other

    def __eq__(self, other: object) -> bool:
        same = (self._place, self._prefix, self.read_only)
        return type(other) is type(self) and same == (other._place, other._prefix, other.read_only)

    def __repr__(self) -> str:
        return f"AgentStorageStore({self._place!r}, {self._prefix!r})"

    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: Any = None) -> Any:
        kind = (prototype or default_buffer_prototype()).buffer
        if _is_empty(byte_range):
            return kind.from_bytes(b"") if await self.exists(key) else None
        try:
            found = await self._storage.read(self._root + key, byte_range=_range(byte_range))
        except KeyNotFoundError:
            return None
        except RangeNotSatisfiableError:
            return kind.from_bytes(b"")
        return kind.from_bytes(found.data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges))

    async def exists(self, key: str) -> bool:
        return await self._storage.exists(self._root + key)

    async def set(self, key: str, value: Buffer, if_absent: bool = False) -> None:
        self._check_writable()
        if not isinstance(value, Buffer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"AgentStorageStore.set(): `value` must be a Buffer, not {type(value).__name__}")
        await self._storage.write(self._root + key, value.to_bytes(), if_absent=if_absent)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with suppress(PreconditionFailedError):
            await self.set(key, value, if_absent=True)

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._storage.delete(self._root + key, missing_ok=True)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        for error in (await self._storage.delete_prefix(self._root + _folder(prefix))).failed.values():
            raise error

    def list(self) -> AsyncIterator[str]:
        return self.list_prefix("")

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._storage.list_keys(self._root + prefix):
            yield key.removeprefix(self._root)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder, cursor, page = self._root + _folder(prefix), None, None
        while page is None or cursor is not None:
            page = await self._storage.list_page(folder, delimiter="/", cursor=cursor)
            for name in [*(entry.key for entry in page.entries), *page.prefixes]:
                yield name.removeprefix(folder).rstrip("/")
            cursor = page.cursor

    async def getsize(self, key: str) -> int:
        return (await self._storage.info(self._root + key)).size

    async def getsize_prefix(self, prefix: str) -> int:
        return (await self._storage.stats(self._root + _folder(prefix))).bytes


def _folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""


def _is_empty(wanted: object) -> bool:
    match wanted:
        case RangeByteRequest(start, end):
            return end <= start
        case SuffixByteRequest(suffix):
            return suffix == 0
        case _:
            return False


def _range(wanted: object) -> ByteRange | None:
    match wanted:
        case None:
            return None
        case RangeByteRequest(start, end):
            return ByteRange(start, end)
        case OffsetByteRequest(offset):
            return ByteRange(offset)
        case SuffixByteRequest(suffix):
            return ByteRange(-suffix)
        case _:
            raise TypeError(f"Unexpected byte_range, got {wanted!r}")
