"""Files that are written bit by bit, and stored as a whole or not at all."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Any

from storage_lib import ObjectWriter, StorageManager


class _DiscardedError(Exception):
    """A file that was being written is not to be stored."""


class WholeFile:
    """A file that is being written. It becomes an object when it is finished."""

    def __init__(
        self, storage: StorageManager, path: str, mode: str, found: dict[str, Any], options: dict[str, Any]
    ) -> None:
        self._storage = storage
        self._path = path
        self._appended = found if mode == "ab" and found["size"] is not None else None
        self._if_absent = mode == "xb" or (mode == "ab" and self._appended is None)
        self._options = options
        self._block: Any = None
        self._writer: ObjectWriter | None = None
        self._abandoned = False

    async def send(self, data: bytes, finish: bool) -> None:
        if self._abandoned:
            raise OSError(
                errno.EIO, "nothing is stored of this file, as it was discarded or a write failed", self._path
            )
        try:
            writer = self._writer = self._writer or await self._start()
            if data:
                await writer.write(data)
        except BaseException:
            await self.abandon()
            raise
        if finish:
            await self.finish()

    async def _start(self) -> ObjectWriter:
        if self._appended is None:
            return await self._begin(if_absent=self._if_absent, **self._options)
        etag = self._appended["etag"]
        async with self._storage.open_reader(self._path, if_match=etag) as reader:
            info = reader.info
            kept: dict[str, Any] = {
                "content_type": info.content_type,
                "metadata": info.metadata,
                "headers": info.headers,
            }
            if info.expires_at is not None:
                kept["ttl"] = info.expires_at
            writer = await self._begin(if_match=etag, **kept | self._options)
            async for chunk in reader:
                await writer.write(chunk)
        return writer

    async def _begin(self, **options: Any) -> ObjectWriter:
        block = self._storage.open_writer(self._path, **options)
        writer = await block.__aenter__()
        self._block = block
        return writer

    async def finish(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            await block.__aexit__(None, None, None)

    async def abandon(self) -> None:
        self._abandoned = True
        block, self._block = self._block, None
        if block is not None:
            error = _DiscardedError()
            with suppress(_DiscardedError):
                await block.__aexit__(_DiscardedError, error, None)
