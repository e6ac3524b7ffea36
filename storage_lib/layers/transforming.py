"""What layers share that store other bytes than the caller's: compression and encryption.

Such layers can be stacked. Size and checksum in the metadata, where every info and listing finds them, are
those of what the outermost was given, so none can learn from them how many bytes it was given itself: a
layer that needs that for its ranges keeps it in metadata of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from msgspec.structs import replace

from storage_lib.layers.base import ObjectLayer
from storage_lib.ports import hidden
from storage_lib.ports.drivers import PutOptions, Repeat
from storage_lib.ports.object_model import ByteRange, PutResult
from storage_lib.ports.streaming import Parts, sha256_of


def described(metadata: Mapping[str, str], size: int, sha256: str) -> dict[str, str]:
    """``metadata`` with the size and checksum of what the layer was given, unless an outer layer has already
    told those of its caller."""
    return {hidden.SIZE: str(size), hidden.CHECKSUM: sha256, **metadata}


def span(byte_range: ByteRange | None, size: int) -> tuple[int, int]:
    """The offsets of the first byte and after the last, of an object that has ``size`` bytes for the layer.

    :raises InvalidArgumentError: no byte of the object lies in the range.
    """
    return (0, size) if byte_range is None else byte_range.resolve(size)


class TransformingObjects(ObjectLayer):
    """An object driver that stores other bytes than its caller's."""

    changes_sizes = True

    async def put_transformed(
        self,
        key: str,
        parts: Parts,
        chunks: AsyncGenerator[bytes],
        options: PutOptions,
        repeat: Repeat,
        late: Callable[[], Mapping[str, str]] = dict,
    ) -> PutResult:
        """Store the stream ``chunks`` with the size and checksum of ``parts``, which it was made of; in one
        piece if it fits into one part.

        :param chunks: bytes in pieces of any size. It reads ``parts`` to their end.
        :param late: metadata of the layer's own, known when ``parts`` have ended (`LATE_BYTES` in all).
        """

        def at_the_end() -> dict[str, str]:
            return {**late(), **described(parts.complete({}), parts.size, parts.sha256)}

        can = self.capabilities
        async with aclosing(chunks):
            stored = Parts(chunks, can.part_bytes, can.part_bytes * can.max_parts, late=at_the_end)
            if (data := await stored.whole()) is None:
                result = await super().put_stream(key, stored, options, repeat)
            else:
                metadata = stored.complete(options.metadata)
                options = replace(options, metadata=metadata, sha256=await sha256_of(data))
                result = await super().put(key, data, options)
        return PutResult(key, result.etag, parts.size, result.created)
