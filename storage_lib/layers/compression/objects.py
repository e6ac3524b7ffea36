"""The driver of compressed objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec.structs import replace

from storage_lib import threads
from storage_lib.config.compression import CompressionOptions
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    ObjectTooLargeError,
    PreconditionFailedError,
    TransientStorageError,
)
from storage_lib.layers.base import Around
from storage_lib.layers.compression import compressibility
from storage_lib.layers.compression.codecs import Gzip, codec_of
from storage_lib.layers.compression.expansion import Expansion
from storage_lib.layers.compression.frames import FRAME_BYTES, Table, encoded_table
from storage_lib.layers.compression.mark import CONTENT_ENCODING, Mark, damaged, expanded_info, mark_of
from storage_lib.layers.compression.streams import FramedStream, expanded, expanded_frames, framed, gzipped
from storage_lib.layers.transforming import TransformingObjects, described, span
from storage_lib.ports import hidden
from storage_lib.ports.drivers import GetOptions, ListOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.errors import unmet
from storage_lib.ports.object_model import ByteRange, ListEntry, ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts, sha256_of

_INLINE_BYTES = 16 * 1024
"""Up to this many bytes are compressed on the event loop: no longer than the way to a thread and back."""
_SLOW_INLINE_BYTES = 1024
_SLOW_LEVEL = 10
_INLINE_EXPANDED_BYTES = 64 * 1024
_INLINE_TABLE_BYTES = 64 * 1024
_MAX_RATIO = 100
_ATTEMPTS = 8


class CompressedObjects(TransformingObjects):
    """Objects that another driver stores compressed."""

    def __init__(self, inner: ObjectDriver, around: Around, options: CompressionOptions) -> None:
        super().__init__(inner, around)
        self._options = options
        self._codec = codec_of(options)
        self._inline_bytes = _INLINE_BYTES if options.chosen_level < _SLOW_LEVEL else _SLOW_INLINE_BYTES

    # -- writing

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        if len(data) < self._options.min_bytes or not _may_compress(options):
            return await super().put(key, data, options)
        if (compressed := await self._compressed(data)) is None:
            return await super().put(key, data, options)
        stored, mark = compressed
        metadata = described({**options.metadata, **mark.metadata}, len(data), options.sha256)
        options = replace(options, metadata=metadata, sha256=await sha256_of(stored))
        result = await self.inner.put(key, stored, options)  # There is nothing around it in this layer.
        return PutResult(key, result.etag, len(data), result.created)

    async def _compressed(self, data: bytes) -> tuple[bytes, Mark] | None:
        """What to store instead of ``data``; None if that is not worth it."""
        size, compress = len(data), self._codec.compress
        if size > compressibility.SAMPLED_BYTES and not await threads.working.run(
            compressibility.looks_worth, data, compress
        ):
            return None
        mark = Mark(self._options.codec, size)
        if size <= self._inline_bytes:
            stored = compress(data)
        elif size <= FRAME_BYTES or isinstance(self._codec, Gzip):
            stored = await threads.working.run(compress, data)
        else:
            made = await framed(self._codec, data, FRAME_BYTES)
            table = encoded_table([frame.entry for frame in made])
            stored = b"".join([*(frame.stored for frame in made), table])
            mark = Mark(mark.codec, size, FRAME_BYTES, len(stored))
        if not compressibility.is_worth(len(stored), size) or size > self._limit(len(stored)):
            return None
        return stored, mark

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        first = await parts.first()
        if not _may_compress(options) or not await self._is_worth(first):
            return await super().put_stream(key, parts, options, repeat)
        options = replace(options, metadata={**options.metadata, CONTENT_ENCODING: self._options.codec})
        if isinstance(self._codec, Gzip):
            chunks = gzipped(self._codec, parts)
            late: Callable[[], dict[str, str]] = lambda: Mark("gzip", parts.size).metadata  # noqa: E731
        else:
            stream = FramedStream(self._codec, parts, len(first))
            chunks, late = stream.chunks(), lambda: stream.mark.metadata
        return await self.put_transformed(key, parts, chunks, options, repeat, late)

    async def _is_worth(self, part: bytes) -> bool:
        if len(part) > compressibility.SAMPLED_BYTES:
            return await threads.working.run(compressibility.looks_worth, part, self._codec.compress)
        return compressibility.is_worth(len(await threads.working.run(self._codec.compress, part)), len(part))

    # -- reading

    async def head(self, key: str) -> ObjectInfo:
        return _expanded_info(await super().head(key))

    async def fresh_head(self, key: str) -> ObjectInfo:
        return _expanded_info(await super().fresh_head(key))

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        if options.byte_range is None:
            found = await super().get(key, options)
            if found is None or (mark := mark_of(found.info)) is None:
                return found
            return StoredObject(expanded_info(found.info, mark), await self._expanded(key, found.data, mark))

        async def read(info: ObjectInfo, mark: Mark | None, wanted: GetOptions) -> StoredObject:
            if mark is None:
                found = await super(CompressedObjects, self).get(key, wanted)
                assert found is not None  # noqa: S101 - only a get with if_none_match answers None
                return found
            start, end = span(wanted.byte_range, mark.size)
            self._check_size(key, end - start, info.size)
            start, chunks = await self._read_range(key, mark, wanted)
            async with aclosing(chunks):
                data = b"".join([chunk async for chunk in chunks])
            return StoredObject(expanded_info(info, mark), data, start)

        return await self._of_one_version(key, options, read)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        if options.byte_range is None:
            info, start, chunks = await super().read_stream(key, options)
            try:
                mark = mark_of(info)
            except BaseException:
                await chunks.aclose()
                raise
            if mark is None:
                return info, start, chunks
            return expanded_info(info, mark), 0, await expanded(key, mark, chunks, 0, mark.size)

        async def read(
            info: ObjectInfo, mark: Mark | None, wanted: GetOptions
        ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
            if mark is None:
                return await super(CompressedObjects, self).read_stream(key, wanted)
            return expanded_info(info, mark), *await self._read_range(key, mark, wanted)

        opened = await self._of_one_version(key, options, read)
        assert opened is not None  # noqa: S101 - only with if_none_match it is None
        return opened

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        async with aclosing(super().scan(prefix, options)) as listing:
            async for found in listing:
                yield found if isinstance(found, str) or found.info is None else _expanded_entry(found)

    async def _of_one_version[T](
        self,
        key: str,
        options: GetOptions,
        read: Callable[[ObjectInfo, Mark | None, GetOptions], Awaitable[T]],
    ) -> T | None:
        """Read a range of the version that a first look finds, which tells whether it is compressed; None if
        its ETag is ``if_none_match``."""
        for _ in range(_ATTEMPTS):
            info = await (super().fresh_head(key) if options.fresh else super().head(key))
            if options.if_match not in (None, info.etag):
                raise unmet(key, options.if_match)
            if info.etag == options.if_none_match:
                return None
            try:
                pinned = replace(options, if_match=info.etag, if_none_match=None)
                return await read(info, mark_of(info), pinned)
            except PreconditionFailedError:
                if options.if_match is not None:
                    raise
        raise TransientStorageError(f"get {key!r}: it is being replaced all the time")

    async def _expanded(self, key: str, stored: bytes, mark: Mark) -> bytes:
        self._check_size(key, mark.size, len(stored))
        expansion = Expansion(key, mark)
        if mark.size <= _INLINE_EXPANDED_BYTES and len(stored) <= _INLINE_EXPANDED_BYTES:
            return expansion.whole(stored)
        return await threads.working.run(expansion.whole, stored)

    def _check_size(self, key: str, size: int, stored: int) -> None:
        """:raises ObjectTooLargeError: ``stored`` bytes may not expand to ``size`` in memory."""
        if size > (limit := self._limit(stored)):
            raise ObjectTooLargeError(
                f"object {key!r} expands from {stored} to {size} bytes",
                limit=f"{limit} bytes, or {_MAX_RATIO} times what is stored",
                remedy="read it with open_reader, which needs little memory, or raise max_expanded_bytes",
            )

    def _limit(self, stored: int) -> int:
        """How many bytes ``stored`` ones may expand to in memory."""
        return max(self._options.max_expanded_bytes, _MAX_RATIO * stored)

    async def _read_range(
        self, key: str, mark: Mark, wanted: GetOptions
    ) -> tuple[int, AsyncGenerator[bytes]]:
        """Offset and bytes of a range. ``wanted`` names the version."""
        start, end = span(wanted.byte_range, mark.size)
        if not mark.frame:
            _, _, chunks = await super().read_stream(key, replace(wanted, byte_range=None))
            return start, await expanded(key, mark, chunks, start, end)
        table = Table(key, mark)
        try:
            found = await super().get(key, replace(wanted, byte_range=ByteRange(*table.span)))
            assert found is not None  # noqa: S101 - only a get with if_none_match answers None
            if len(found.data) <= _INLINE_TABLE_BYTES:
                table.read(found.data)
            else:
                await threads.working.run(table.read, found.data)
            needed = table.frames(start, end)
            part = ByteRange(*table.stored_span(needed))
            _, _, chunks = await super().read_stream(key, replace(wanted, byte_range=part))
        except InvalidArgumentError as error:
            raise damaged(key, "what is stored has been cut") from error
        return start, await expanded_frames(key, table, needed, chunks, start, end)


def _expanded_info(info: ObjectInfo) -> ObjectInfo:
    return info if (mark := mark_of(info)) is None else expanded_info(info, mark)


def _expanded_entry(entry: ListEntry) -> ListEntry:
    assert entry.info is not None  # noqa: S101 - the caller has looked
    try:
        return hidden.entry(_expanded_info(entry.info))
    except IntegrityError:
        return ListEntry(entry.key)  # Loading it says what is wrong.


def _may_compress(options: PutOptions) -> bool:
    """Whether the object is not known to be compressed already."""
    return not (
        CONTENT_ENCODING in options.metadata
        or hidden.COMPRESSION in options.metadata
        or compressibility.is_compressed(options.content_type)
    )
