"""A storage whose objects are read only after somebody has seen how large they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Unpack

from storage_lib.manager import StorageManager
from storage_lib.ports.backend import ByteRange, ObjectInfo, StoredObject
from storage_lib.ports.object_model import ReadOptions


class BoundedStorage(StorageManager):
    """Like ``storage``, whose connections it shares. It need not be closed.

    :param admit: awaited before the bytes of an object are read; what it raises is raised instead.
    """

    def __init__(self, storage: StorageManager, admit: Callable[[ObjectInfo], Awaitable[None]]) -> None:
        super().__init__(backend=storage.backend)
        self._admit = admit

    async def read(self, key: str, **options: Unpack[ReadOptions]) -> StoredObject:
        async with self.open_reader(key, **options) as reader:
            await self._admit(reader.info)
            return StoredObject(reader.info, await reader.read(), reader.start)

    async def read_if_changed(
        self, key: str, etag: str, *, byte_range: ByteRange | None = None, fresh: bool = False
    ) -> StoredObject | None:
        async with self.open_reader(key, byte_range=byte_range, fresh=fresh) as reader:
            if reader.info.has_etag(etag):
                return None
            await self._admit(reader.info)
            return StoredObject(reader.info, await reader.read(), reader.start)
