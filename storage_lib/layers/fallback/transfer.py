"""One version of an object, from one place to another."""

from __future__ import annotations

from contextlib import aclosing

from msgspec.structs import replace

from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions
from storage_lib.ports.object_model import ObjectInfo, PutResult
from storage_lib.ports.streaming import ObjectReader, Parts, sha256_of


async def transfer(
    info: ObjectInfo,
    source: ObjectDriver,
    target: ObjectDriver,
    key: str,
    metadata: dict[str, str],
    *,
    if_match: str | None = None,
    if_absent: bool = False,
) -> PutResult:
    """Store exactly the version ``info`` of ``source`` under ``key``, verified and with constant memory.

    :raises PreconditionFailedError: the source has been replaced, or a condition does not hold.
    :raises KeyNotFoundError: the source has been deleted.
    """
    found, _, chunks = await source.read_stream(info.key, GetOptions(if_match=info.etag))
    async with aclosing(chunks):
        size = target.capabilities.part_bytes
        reader = ObjectReader(found, 0, chunks, verified=True)
        parts = Parts(reader, size, size * target.capabilities.max_parts)
        data = await parts.whole()
        options = PutOptions(found.content_type, metadata, if_match=if_match, if_absent=if_absent)
        if data is None:
            return await target.put_stream(key, parts, options)
        return await target.put(key, data, replace(options, sha256=await sha256_of(data)))
