"""Audited objects, and streams that are recorded when they end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from storage_lib.layers.audit.recording import Pending, Recorder
from storage_lib.layers.base import ObjectLayer, Operation
from storage_lib.ports import hidden
from storage_lib.ports.drivers import GetOptions, ObjectDriver
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import ObjectInfo, PutResult


class AuditedObjects(ObjectLayer):
    """Objects with the sizes that callers know."""

    def __init__(self, inner: ObjectDriver, recorder: Recorder) -> None:
        super().__init__(inner, recorder.audited)
        self._recorder = recorder

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        operation = Operation("objects", "copy", source.key, (target, if_absent))
        size = hidden.presented(source).size
        return await self._recorder.audited(
            operation, lambda: self.inner.copy(source, target, if_absent), size=size
        )

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        use = Operation("objects", "get" if options.method == "GET" else "put", key)

        async def made() -> StoreLink | NoStoreLink:
            if self._recorder.begun(use) is not None:
                return NoStoreLink("the audit log records each use")
            return await self.inner.link(key, options)

        return await self._recorder.audited(Operation("objects", "link", key, (options,)), made)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """The operation ends with the stream."""
        operation = Operation("objects", "read_stream", key, (options,))
        pending = self._recorder.begun(operation)
        if pending is None:
            return await self.inner.read_stream(key, options)
        if self._recorder.is_strict:
            await pending.intend()
        try:
            info, start, chunks = await self.inner.read_stream(key, options)
        except BaseException as error:
            await pending.failed(error, None)
            raise
        return info, start, Counted(chunks, pending, self._recorder.outcome_of(info))


class Counted(AsyncGenerator[bytes]):
    """The chunks of a stream. It is recorded when they end, with how many bytes were read; also if it is
    closed before the first was, which a generator would not notice."""

    def __init__(self, chunks: AsyncGenerator[bytes], pending: Pending, outcome: str) -> None:
        self._chunks = chunks
        self._pending: Pending | None = pending
        self._outcome = outcome
        self._size = 0

    async def asend(self, value: None) -> bytes:
        try:
            chunk = await self._chunks.asend(value)
        except StopAsyncIteration:
            if pending := self._taken():
                await pending.end(self._outcome, self._size)
            raise
        except BaseException as error:
            if pending := self._taken():
                await pending.failed(error, self._size)
            raise
        self._size += len(chunk)
        return chunk

    async def athrow(self, *error: Any) -> bytes:
        try:
            return await self._chunks.athrow(*error)
        finally:
            await self._left()

    async def aclose(self) -> None:
        try:
            await self._chunks.aclose()
        finally:
            await self._left()

    async def _left(self) -> None:
        if pending := self._taken():
            await pending.cut(
                "not-read-to-the-end" if self._outcome == "success" else self._outcome, self._size
            )

    def _taken(self) -> Pending | None:
        pending, self._pending = self._pending, None
        return pending
