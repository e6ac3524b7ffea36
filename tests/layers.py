"""Layers of the tests, as small as layers can be."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from hashlib import sha256

from msgspec.structs import replace

from storage_lib.errors import IntegrityError
from storage_lib.layers.base import Around, Layer, Operation
from storage_lib.layers.transforming import TransformingObjects, described, span
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.object_model import ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts


class PassThrough(Layer):
    """Changes nothing."""


class CountingLayer(Layer):
    """Counts the operations of callers."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.counted: Counter[str] = Counter()

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        self.counted[operation.port] += 1
        return await call()


class Deflating(TransformingObjects):
    """Compresses.

    :param name: of the metadata that tell how many bytes were compressed.
    """

    def __init__(self, inner: ObjectDriver, around: Around, name: str = "aos-deflated") -> None:
        super().__init__(inner, around)
        self._name = name

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        stored = zlib.compress(data, 1)
        metadata = described({**options.metadata, self._name: str(len(data))}, len(data), options.sha256)
        options = replace(options, metadata=metadata, sha256=sha256(stored).hexdigest())
        result = await super().put(key, stored, options)
        return PutResult(key, result.etag, len(data), result.created)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        def late() -> dict[str, str]:
            return {self._name: str(parts.size)}

        return await self.put_transformed(key, parts, _deflated(parts), options, repeat, late)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        found = await super().get(key, replace(options, byte_range=None))
        if found is None:
            return None
        start, end = self._resolved(found.info, options)
        return StoredObject(found.info, self._inflated(found.info, found.data)[start:end], start)

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        info, _, chunks = await super().read_stream(key, replace(options, byte_range=None))
        start, end = self._resolved(info, options)

        async def inflated() -> AsyncGenerator[bytes]:
            async with aclosing(chunks):
                yield self._inflated(info, b"".join([chunk async for chunk in chunks]))[start:end]

        return info, start, inflated()

    def _resolved(self, info: ObjectInfo, options: GetOptions) -> tuple[int, int]:
        return span(options.byte_range, int(info.metadata.get(self._name, info.size)))

    def _inflated(self, info: ObjectInfo, stored: bytes) -> bytes:
        if self._name not in info.metadata:
            return stored
        try:
            return zlib.decompress(stored)
        except zlib.error as error:
            raise IntegrityError(f"object {info.key!r} is damaged") from error


async def _deflated(parts: Parts) -> AsyncGenerator[bytes]:
    deflating = zlib.compressobj(1)
    async for part in parts:
        yield deflating.compress(part)
    yield deflating.flush()


class DeflatingLayer(Layer):
    """Objects of another size behind it."""

    def __init__(self, inner: StorageBackend, name: str = "aos-deflated") -> None:
        self._name = name
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return Deflating(inner, self.around, self._name)
