"""Objects, tried again: with conditions that a lost answer does not turn against their own writer."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.layers.retry.retrier import Retrier, Tries
from storage_lib.layers.retry.unknown import unknown
from storage_lib.ports.objects import (
    ATTEMPT,
    ByteRange,
    ListEntry,
    ObjectInfo,
    ObjectStore,
    Parts,
    PutResult,
    StoredObject,
)

_CREATED = "c"
_REPLACED = "r"
"""How a mark begins: by what the save was allowed to do."""


class RetryingObjectStore(ObjectStore):
    """The hooks of another store, each tried again. Keys, lives and checksums are looked after out here.

    A conditional save leaves a mark of its own in the object's metadata. Where the answer to a try was lost
    and the next one meets a conflict, the mark tells whether the object in the way is that of the first try.

    A stream up can not be read twice: its parts are tried again one by one (`ObjectStore.repeat`), the
    request that makes it an object is not. A stream down goes on where it broke off, in the same version.
    """

    def __init__(self, inner: ObjectStore, retrier: Retrier) -> None:
        self._inner = inner
        self._retrier = retrier
        self.reports_created = inner.reports_created
        self.lists_sizes = inner.lists_sizes
        self.folds_what_is_no_key = inner.folds_what_is_no_key
        self.max_object_bytes = inner.max_object_bytes
        self.part_bytes = inner.part_bytes
        self.max_stream_bytes = inner.max_stream_bytes
        self.clock = inner.clock
        inner.repeat = retrier.step

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
        mark = ""
        if if_absent or if_match is not None:
            mark = f"{_CREATED if if_absent else _REPLACED}{uuid.uuid4().hex}"
            metadata = {**metadata, ATTEMPT: mark}

        async def put(unsure: bool) -> PutResult:
            try:
                result = await self._inner._put(
                    key, data, content_type, metadata, sha256, if_match, if_absent
                )
                # What an earlier try may have created, this one replaced.
                return result if mark or not unsure else replace(result, created=None)
            except PreconditionFailedError as error:
                if not unsure:
                    raise
                try:
                    info = await self._inner._head(key)
                except KeyNotFoundError:
                    raise unknown(f"put {key!r}") from error
                found = info.metadata.get(ATTEMPT, "")
                if found == mark:
                    return PutResult(key, info.etag, len(data), created=if_absent)
                # What another has created was not made of ours, as a replacement may have been.
                if if_absent and (found.startswith(_CREATED) or self._is_expired(info)):
                    raise
                raise unknown(f"put {key!r}") from error

        return await self._retrier.call(f"put {key!r}", put)

    async def _get(
        self, key: str, byte_range: ByteRange | None, if_match: str | None, if_none_match: str | None
    ) -> StoredObject | None:
        return await self._retrier.step(
            f"get {key!r}", lambda: self._inner._get(key, byte_range, if_match, if_none_match)
        )

    async def _head(self, key: str) -> ObjectInfo:
        return await self._retrier.small(f"head {key!r}", lambda: self._inner._head(key))

    async def _delete(self, key: str, if_match: str | None) -> None:
        async def delete(unsure: bool) -> None:
            try:
                await self._inner._delete(key, if_match)
            except (KeyNotFoundError, PreconditionFailedError) as error:
                if not unsure:
                    raise
                # Without a condition it is gone, as it was to be; with one, somebody else may have taken it.
                if if_match is not None:
                    raise unknown(f"delete {key!r}") from error

        await self._retrier.call(f"delete {key!r}", delete, small=True)

    async def _copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        async def copy(unsure: bool) -> PutResult:
            try:
                result = await self._inner._copy(source, target, if_absent)
                return replace(result, created=None) if unsure and not if_absent else result
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if unsure:
                    raise unknown(f"copy {source.key!r} to {target!r}") from error
                raise

        return await self._retrier.call(f"copy {source.key!r} to {target!r}", copy)

    async def _scan(
        self, prefix: str, delimiter: str | None, after: str | None, count: int | None, details: bool
    ) -> AsyncIterator[ListEntry | str]:
        tries = Tries(self._retrier, f"list {prefix!r}")
        while True:
            await tries.begin()
            try:
                async for found in self._inner._scan(prefix, delimiter, after, count, details):
                    yield found
                    after = found if isinstance(found, str) else found.key
                    count = None if count is None else max(count - 1, 1)
                    tries.came_on()
            except TransientStorageError as error:
                await tries.failed(error)
            except StorageError:
                tries.answered()
                raise
            else:
                tries.answered()
                return

    async def _put_stream(
        self,
        key: str,
        parts: Parts,
        content_type: str,
        metadata: dict[str, str],
        if_match: str | None,
        if_absent: bool,
    ) -> PutResult:
        return await self._inner._put_stream(key, parts, content_type, metadata, if_match, if_absent)

    async def _read_stream(
        self, key: str, byte_range: ByteRange | None, if_match: str | None
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        info, start, chunks = await self._retrier.step(
            f"read {key!r}", lambda: self._inner._read_stream(key, byte_range, if_match)
        )
        end = info.size if byte_range is None else byte_range.resolve(info.size)[1]
        return info, start, self._resumed(info, start, end, chunks)

    async def _resumed(
        self, info: ObjectInfo, at: int, end: int, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """The chunks from ``at`` to ``end``, however often the way there breaks."""
        tries = Tries(self._retrier, f"read {info.key!r}")
        while True:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
                        at += len(chunk)
                        tries.came_on()
                return
            except (TransientStorageError, IntegrityError) as error:
                if at == end:
                    return  # All of it is here, and its reader verifies it.
                chunks = await self._again(info, at, end, tries, error)

    async def _again(
        self, info: ObjectInfo, at: int, end: int, tries: Tries, cut: StorageError
    ) -> AsyncGenerator[bytes]:
        """The chunks from ``at`` on. :raises StorageError: ``cut``, or why it was cut last."""
        while True:
            try:
                await tries.failed(
                    cut if isinstance(cut, TransientStorageError) else TransientStorageError("")
                )
            except TransientStorageError:
                raise cut from None
            await tries.begin()
            try:
                return (await self._inner._read_stream(info.key, ByteRange(at, end), info.etag))[2]
            except TransientStorageError as error:
                cut = error
            except (PreconditionFailedError, KeyNotFoundError) as error:
                tries.answered()
                raise TransientStorageError(
                    f"read {info.key!r}: it was replaced or deleted while it was read", remedy="read it again"
                ) from error
