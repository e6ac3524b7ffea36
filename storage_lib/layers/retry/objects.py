"""Retried object operations, with conditions that a lost response does not turn against their own writer."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from msgspec.structs import replace as with_options

from storage_lib.errors import (
    IntegrityError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    TransientStorageError,
)
from storage_lib.layers.base import ObjectLayer
from storage_lib.layers.retry.retrier import Retrier, Tries, unknown
from storage_lib.ports import expiry
from storage_lib.ports.drivers import GetOptions, ListOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.hidden import ATTEMPT, SOURCE
from storage_lib.ports.object_model import ByteRange, ListEntry, ObjectInfo, PutResult
from storage_lib.ports.streaming import Parts, SentPart

_CREATED = "c"
_REPLACED = "r"
"""How a mark begins: with what the save was allowed to do."""


class RetryingObjects(ObjectLayer):
    """Every request of another driver, with retries.

    A conditional save leaves a unique mark in the object's metadata, if there is none that tells what it is
    a copy of. If the response to an attempt was lost and the next attempt meets a conflict, the mark tells
    whether the object in the way is that of the first attempt.

    The source of an upload cannot be read twice: its parts are retried one by one (``repeat``), but not
    the request that completes the object. A download resumes where it broke off, in the same version.
    """

    def __init__(self, inner: ObjectDriver, retrier: Retrier) -> None:
        super().__init__(inner, retrier.step)
        self._retrier = retrier

    @property
    def core(self) -> ObjectDriver:
        return self

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        name, mark, if_absent = ATTEMPT, "", options.if_absent
        if if_absent and SOURCE in options.metadata:
            # As good as a mark of its own: what has it is a copy of the same version.
            name, mark = SOURCE, options.metadata[SOURCE]
        elif options.is_conditional or options.tell_created:
            mark = f"{_CREATED if if_absent or options.tell_created else _REPLACED}{os.urandom(16).hex()}"
            options = with_options(options, metadata={**options.metadata, ATTEMPT: mark})

        async def put(unsure: bool) -> PutResult:
            try:
                result = await self.inner.put(key, data, options)
                # What an earlier try may have created, this one replaced, or another since.
                is_told = options.is_conditional or result.created or not unsure
                return result if is_told else replace(result, created=None)
            except PreconditionFailedError as error:
                if not unsure:
                    raise
                info = await self._in_the_way(key, f"put {key!r}", error)
                if info.metadata.get(name) == mark:
                    return PutResult(key, info.etag, len(data), created=if_absent)
                # What another has created was not made of ours, as a replacement may have been.
                created = _CREATED if SOURCE in info.metadata else ""
                is_new = info.metadata.get(ATTEMPT, created).startswith(_CREATED)
                if if_absent and (is_new or self._is_expired(info)):
                    raise
                raise unknown(f"put {key!r}") from error

        return await self._retrier.call(f"put {key!r}", put)

    async def _in_the_way(self, key: str, doing: str, error: StorageError) -> ObjectInfo:
        """The object that an attempt has met, which may be that of an earlier one."""
        try:
            return await self.inner.head(key)
        except KeyNotFoundError:
            raise unknown(doing) from error

    async def head(self, key: str) -> ObjectInfo:
        return await self._retrier.small(f"head {key!r}", lambda: self.inner.head(key))

    async def delete(self, key: str, if_match: str | None) -> None:
        await self._delete(key, if_match, lambda: self.inner.delete(key, if_match))

    async def remove(self, info: ObjectInfo) -> None:
        await self._delete(info.key, info.etag, lambda: self.inner.remove(info))

    async def discard(self, keys: Sequence[str]) -> None:
        if self.inner.capabilities.discards_together:
            await self._retrier.step(f"remove {len(keys)} markers", lambda: self.inner.discard(keys))
        else:
            await super().discard(keys)  # Each is tried by itself: all of many seldom succeed at once.

    async def _delete(self, key: str, if_match: str | None, call: Callable[[], Awaitable[None]]) -> None:
        async def delete(unsure: bool) -> None:
            try:
                await call()
            except (KeyNotFoundError, PreconditionFailedError) as error:
                if not unsure:
                    raise
                # Without a condition it is gone, as intended; with one, someone else may have deleted it.
                if if_match is not None:
                    raise unknown(f"delete {key!r}") from error

        await self._retrier.call(f"delete {key!r}", delete, small=True)

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        async def copy(unsure: bool) -> PutResult:
            try:
                result = await self.inner.copy(source, target, if_absent)
                return replace(result, created=None) if unsure and not if_absent else result
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if unsure:
                    raise unknown(f"copy {source.key!r} to {target!r}") from error
                raise

        return await self._retrier.call(f"copy {source.key!r} to {target!r}", copy)

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        key, mark = source.key, f"{_REPLACED}{uuid.uuid4().hex}"

        async def touch(unsure: bool) -> PutResult:
            try:
                return await self.inner.touch(source, {**metadata, ATTEMPT: mark})
            except (PreconditionFailedError, KeyNotFoundError) as error:
                if not unsure:
                    raise
                info = await self._in_the_way(key, f"touch {key!r}", error)
                if info.metadata.get(ATTEMPT) == mark:
                    return PutResult(key, info.etag, info.size, created=False)
                raise unknown(f"touch {key!r}") from error

        return await self._retrier.call(f"touch {key!r}", touch)

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        tries = Tries(self._retrier, f"list {prefix!r}")
        while True:
            await tries.begin()
            last, given = None, 0
            try:
                async with aclosing(self.inner.scan(prefix, options)) as listing:
                    async for found in listing:
                        yield found
                        last = found
                        given += 1
                        if given == 1:
                            tries.progressed()
            except TransientStorageError as error:
                if last is not None:
                    tries.progressed()
                    options = with_options(
                        options,
                        after=last if isinstance(last, str) else last.key,
                        count=None if options.count is None else max(options.count - given, 1),
                    )
                await tries.failed(error)
            except StorageError:
                tries.answered()
                raise
            else:
                tries.answered()
                return

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        return await self.inner.put_stream(key, parts, options, self._retrier.step)

    async def uploaded(self, key: str, upload: str) -> Mapping[int, SentPart]:
        return await self._retrier.step(
            f"look for parts of {key!r}", lambda: self.inner.uploaded(key, upload)
        )

    async def give_up(self, key: str, upload: str) -> None:
        await self._retrier.step(f"give up parts of {key!r}", lambda: self.inner.give_up(key, upload))

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        info, start, chunks = await super().read_stream(key, options)
        wanted = options.byte_range
        end = info.size if wanted is None else wanted.resolve(info.size)[1]
        return info, start, self._resumed(info, start, end, chunks)

    async def _resumed(
        self, info: ObjectInfo, at: int, end: int, chunks: AsyncGenerator[bytes]
    ) -> AsyncGenerator[bytes]:
        """The chunks from ``at`` to ``end``, however often the connection breaks."""
        tries = Tries(self._retrier, f"read {info.key!r}")
        while True:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
                        at += len(chunk)
                        tries.progressed()
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
                return (await self.inner.read_stream(info.key, GetOptions(ByteRange(at, end), info.etag)))[2]
            except TransientStorageError as error:
                cut = error
            except (PreconditionFailedError, KeyNotFoundError) as error:
                tries.answered()
                raise TransientStorageError(
                    f"read {info.key!r}: it was replaced or deleted while it was read", remedy="read it again"
                ) from error

    def _is_expired(self, info: ObjectInfo) -> bool:
        until = expiry.end_in(info.metadata)
        return until is not None and until <= self.clock()
