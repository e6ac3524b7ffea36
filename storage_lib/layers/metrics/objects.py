"""Streams and listings, which are measured as they pass."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import perf_counter
from types import TracebackType

from storage_lib.layers.base import Around, ObjectLayer
from storage_lib.layers.metrics.journal import LOG, Journal
from storage_lib.layers.metrics.meters import BEGUN, IN, OUT, Meter
from storage_lib.ports.drivers import GetOptions, ListOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.object_model import ListEntry, ObjectInfo, PutResult
from storage_lib.ports.streaming import Parts


class MeasuredObjects(ObjectLayer):
    """An object driver whose streams and listings are measured; the rest is done by ``around``."""

    def __init__(
        self, inner: ObjectDriver, around: Around, meter: Callable[[str, str], Meter], journal: Journal
    ) -> None:
        super().__init__(inner, around)
        self._meter = meter
        self._journal = journal

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        meter = self._meter("objects", "put_stream")

        def came_in(size: int) -> None:
            meter.numbers()[0][IN] += size

        parts.on_part = came_in
        watch = Stopwatch(meter, self._journal, key)
        try:
            result = await self.inner.put_stream(key, parts, options, repeat)
        except BaseException as error:
            watch.size = parts.size
            watch.failed(error)
            raise
        watch.size = parts.size
        watch.succeeded()
        return result

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        meter = self._meter("objects", "read_stream")
        watch = Stopwatch(meter, self._journal, key)
        try:
            info, start, chunks = await self.inner.read_stream(key, options)
        except BaseException as error:
            watch.failed(error)
            raise
        watch.pause()
        return info, start, _MeasuredChunks(chunks, meter, watch)

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[ListEntry | str]:
        """The operation is the listing up to its first entry; the rest is another one only if it fails."""
        listing = super().scan(prefix, options)
        began = options.continued
        try:
            async with aclosing(listing):
                async for found in listing:
                    began = True
                    yield found
        except GeneratorExit:
            raise
        except BaseException as error:
            if began:
                Stopwatch(self._meter("objects", "scan"), self._journal, prefix).failed(error)
            raise


class _MeasuredChunks(AsyncGenerator[bytes]):
    """The chunks of a download. No generator function, whose body would not end what was never begun."""

    def __init__(self, chunks: AsyncGenerator[bytes], meter: Meter, watch: Stopwatch) -> None:
        self._chunks = chunks
        self._meter = meter
        self._watch = watch

    async def __anext__(self) -> bytes:
        watch = self._watch
        watch.resume()
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            watch.succeeded()
            raise
        except BaseException as error:
            watch.failed(error)
            raise
        watch.pause()
        watch.size += len(chunk)
        self._meter.numbers()[0][OUT] += len(chunk)
        return chunk

    async def asend(self, value: None) -> bytes:
        return await anext(self)

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> bytes:
        error = typ if isinstance(typ, BaseException) else typ()
        self._watch.failed(error)
        return await self._chunks.athrow(error)

    async def aclose(self) -> None:
        """The reader needs no more of it."""
        try:
            await self._chunks.aclose()
        finally:
            self._watch.succeeded()


class Stopwatch:
    """Measures one operation in several steps, such as the chunks of a stream: the time that the store took,
    not what the caller did in between. It runs from the start."""

    __slots__ = ("_journal", "_meter", "_seconds", "_since", "_target", "size")

    def __init__(self, meter: Meter, journal: Journal, target: str) -> None:
        meter.numbers()[0][BEGUN] += 1
        self._meter: Meter | None = meter
        self._journal = journal
        self._target = target
        self._seconds = 0.0
        self._since: float | None = perf_counter()
        self.size = 0
        """Bytes of contents so far."""

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        self._since = perf_counter()

    def succeeded(self) -> None:
        """It has ended, or its caller needs no more of it; a later end is ignored."""
        self.pause()
        if (meter := self._meter) is None:
            return
        self._meter = None
        meter.succeeded(meter.numbers(), self._seconds)
        if LOG.isEnabledFor(self._journal.level):
            self._journal.succeeded(meter, self._target, self._seconds, self.size)

    def failed(self, error: BaseException) -> None:
        """It raised ``error``; a later end is ignored."""
        self.pause()
        if (meter := self._meter) is not None:
            self._meter = None
            ended = meter.failed(self._seconds, error)
            self._journal.failed(meter, self._target, self._seconds, self.size, ended)
