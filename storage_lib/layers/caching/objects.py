"""Objects from memory where that is right, and from the store where it is not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext

from msgspec.structs import replace as with_options

from storage_lib.config.caching import CachingOptions
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError
from storage_lib.layers.base import Around, ObjectLayer
from storage_lib.layers.caching.cache import Cache
from storage_lib.layers.caching.entries import Entries, Entry, own
from storage_lib.layers.caching.reading import Reading
from storage_lib.layers.caching.shared import SharedReads
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts, one_chunk


class CachingObjects(ObjectLayer):
    """Another driver's objects, kept in memory.

    A condition is decided in memory only if it names the version that is kept: a caller who names
    another one may know more than the cache does.
    """

    def __init__(self, inner: ObjectDriver, around: Around, options: CachingOptions, cache: Cache) -> None:
        super().__init__(inner, around)
        self.cache = cache
        self._entries = Entries(options, lambda: self.clock())
        self._reads = SharedReads(cache, self._entries)
        self._keep_writes = options.keep_writes

    async def close(self) -> None:
        """Keep nothing, and end the reads that are still under way."""
        self.cache.clear()
        await self._reads.close()

    # -- reads

    def at_hand(self, key: str) -> StoredObject | None:
        entry = self.cache.peek(key)
        if (
            entry is None
            or entry.shown is None
            or entry.stale_at <= self.cache.now()
            or (entry.ends_at is not None and self._entries.has_ended(entry))
        ):
            return None
        self.cache.used(key)
        return entry.shown

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        kept = self.cache.peek(key)
        if kept is not None and not options.fresh and self._holds(kept):
            if kept.info is None:
                if options.if_match is None and options.if_none_match is None:
                    self.cache.used(key)
                    raise missing(key)
            elif options.if_match in (None, kept.etag):
                if options.if_none_match == kept.etag:
                    self.cache.used(key)
                    return None
                complete = kept.data is not None and (kept.dated or not options.dated)
                if options.if_none_match is None and complete:
                    self.cache.used(key)
                    return _part(kept, options)
        self._count(kept)
        whole = options.byte_range is None
        if kept is None or kept.data is None:
            decides = whole and options.if_match is None and options.if_none_match is None
        else:
            decides = options.if_match in (None, kept.etag) and options.if_none_match in (None, kept.etag)
        if not decides:
            return await self._through(key, kept, options)
        # The store gets at most one condition: Azure refuses two ETags.
        entry = await (self._whole if whole else self._info)(key, kept, options.fresh)
        if entry.data is None:
            return await self.inner.get(key, options)
        if options.if_match not in (None, entry.etag):
            raise unmet(key, options.if_match)
        return None if options.if_none_match == entry.etag else _part(entry, options)

    async def head(self, key: str) -> ObjectInfo:
        kept = self.cache.peek(key)
        if kept is not None and kept.dated and self._holds(kept):
            self.cache.used(key)
            if kept.info is None:
                raise missing(key)
            return own(kept.info)
        return await self._head(key, kept, fresh=False)

    async def fresh_head(self, key: str) -> ObjectInfo:
        return await self._head(key, self.cache.peek(key), fresh=True)

    async def _head(self, key: str, kept: Entry | None, *, fresh: bool) -> ObjectInfo:
        self._count(kept)
        info = (await self._info(key, kept, fresh)).info
        assert info is not None  # noqa: S101 - if there is no object, an error was raised
        return own(info)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        kept = self.cache.peek(key)
        holds = kept is not None and not options.fresh and self._holds(kept)
        if kept is not None and kept.info is None and holds and options.if_match is None:
            self.cache.used(key)
            raise missing(key)
        if kept is not None and kept.data is not None and options.if_match in (None, kept.etag):
            if holds and kept.dated:
                self.cache.used(key)
                return _streamed(kept, options)
            self._count(kept)
            entry = await self._info(key, kept, options.fresh)  # What has changed may be of any size.
            if entry.data is not None and options.if_match in (None, entry.etag):
                return _streamed(entry, options)
            return await self.inner.read_stream(key, options)
        self._count(kept)
        if options.byte_range is None and options.if_match is None and not self._entries.is_large(kept):
            read = await self._reads.stream(
                key, lambda: self.inner.read_stream(key, options), fresh=options.fresh
            )
            return _streamed(read, options) if isinstance(read, Entry) else read
        read = await self._asked(key, self.inner.read_stream(key, options))
        self._compare(key, kept, read[0].etag)
        return read

    # -- what the store is asked

    async def _whole(self, key: str, kept: Entry | None, fresh: bool) -> Entry:
        """The object; its bytes are transferred only if they are not those of ``kept``."""

        async def read(started: float) -> Entry:
            found = None
            if kept is not None and kept.data is not None:
                if not kept.dated:
                    entry = await self._with_info(key, kept, started)
                    if entry.data is not None:
                        return entry
                else:
                    found = await self.inner.get(key, GetOptions(if_none_match=kept.etag, fresh=fresh))
                    if found is None:
                        self.cache.unchanged += 1
                        assert kept.info is not None  # noqa: S101 - it has bytes
                        return self._entries.of(key, kept.info, kept.data, started)
            if found is None:
                found = await self.inner.get(key, GetOptions(fresh=fresh))
            assert found is not None  # noqa: S101 - only a get with if_none_match answers None
            return await self._entries.verified(key, found, started)

        return await self._reads.read(key, read, fresh=fresh, whole=True)

    async def _info(self, key: str, kept: Entry | None, fresh: bool) -> Entry:
        """The object's info, with the bytes of ``kept`` if they are still the object's."""
        return await self._reads.read(
            key, lambda started: self._with_info(key, kept, started), fresh=fresh, whole=False
        )

    async def _with_info(self, key: str, kept: Entry | None, started: float) -> Entry:
        info = await self.inner.head(key)
        data = None
        if kept is not None and kept.etag == info.etag and kept.data is not None:
            self.cache.unchanged += 1
            data = kept.data
        return self._entries.of(key, info, data, started)

    async def _through(self, key: str, kept: Entry | None, options: GetOptions) -> StoredObject | None:
        """A range, or an object under a condition that the cache cannot decide."""
        reading = entry = None
        if options.byte_range is None and self.cache.reading(key) is None:
            reading = Reading(self.cache.now(), whole=True, shared=False)
            self.cache.begin_read(key, reading)
        try:
            with nullcontext() if reading is None else reading.asking():
                found = await self._asked(key, self.inner.get(key, options))
            if found is not None and reading is not None:
                entry = await self._entries.verified(key, found, reading.started)
                self.cache.end_read(key, reading, self._entries.kept(key, entry))
                return entry.found()
        finally:
            if reading is not None and entry is None:
                self.cache.give_up(key, reading)
        self._compare(key, kept, options.if_none_match if found is None else found.info.etag)
        return found

    async def _asked[T](self, key: str, asking: Awaitable[T]) -> T:
        try:
            return await asking
        except (KeyNotFoundError, PreconditionFailedError):
            self.cache.forget(key)
            raise

    def _compare(self, key: str, kept: Entry | None, etag: str | None) -> None:
        """Remove what was kept if the store has another version."""
        if kept is not None and kept.etag != etag:
            self.cache.forget(key)

    def _holds(self, entry: Entry) -> bool:
        return entry.stale_at > self.cache.now() and not self._entries.has_ended(entry)

    def _count(self, kept: Entry | None) -> None:
        if kept is None or kept.stale_at > self.cache.now():
            self.cache.misses += 1
        else:
            self.cache.stale += 1

    # -- writes

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        # The inner driver may change the metadata, which belong to it.
        kept = with_options(options, metadata=dict(options.metadata))

        def written(result: PutResult, started: float) -> Entry | None:
            return self._entries.written(key, data, kept, result.etag, started)

        return await self._write(key, self.inner.put(key, data, options), written)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        return await self._write(key, self.inner.put_stream(key, parts, options, repeat))

    async def delete(self, key: str, if_match: str | None) -> None:
        deleting = self.inner.delete(key, if_match)
        await self._write(key, deleting, lambda _, started: self._entries.none(key, started))

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        return await self._write(target, self.inner.copy(source, target, if_absent))

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        return await self._write(source.key, self.inner.touch(source, metadata))

    async def _write[T](
        self,
        key: str,
        write: Awaitable[T],
        written: Callable[[T, float], Entry | None] = lambda result, started: None,
    ) -> T:
        """``write``; no reader is given any longer what was there before."""
        writing = self.cache.begin_write(key)
        entry = None
        try:
            result = await write
            if self._keep_writes:
                entry = written(result, writing.started)
            return result
        finally:
            self.cache.end_write(key, writing, entry)


def _part(entry: Entry, options: GetOptions) -> StoredObject:
    if options.byte_range is None:
        return entry.found()
    assert entry.data is not None  # noqa: S101 - the caller has looked
    return entry.found(*options.byte_range.resolve(len(entry.data)))


def _streamed(entry: Entry, options: GetOptions) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
    found = _part(entry, options)
    return found.info, found.start, one_chunk(found.data)
