"""Reads and writes under the preconditions of a request. The store compares where it can; otherwise one
version is looked at, and read or replaced only if it is still the current one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import azure.functions as func
from msgspec import Struct

from functions.conditions import ANY, Preconditions, single
from functions.headers import header
from functions.ranges import range_holds, spans
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, TransientStorageError

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import ByteRange, ObjectInfo, StoredObject

ATTEMPTS = 100
_TOGETHER_BYTES = 1024 * 1024


class Pin(Struct, frozen=True):
    """What the store is asked to compare when it writes."""

    if_match: str | None = None
    if_absent: bool = False


async def read(
    req: func.HttpRequest, storage: StorageManager, key: str, wanted: ByteRange | None
) -> tuple[StoredObject | ObjectInfo, ByteRange | None]:
    """The object, or the range of it, that the conditions admit; or the info of what the client already has.

    The conditions come before the range, which may end behind a version that they exclude (RFC 9110, 13.2.2).

    :raises PreconditionFailedError: one does not hold.
    """
    conditions, fresh = Preconditions.of(req), wants_fresh(req)
    if conditions.none and (wanted is None or "If-Range" not in req.headers):
        return await storage.read(key, byte_range=wanted, fresh=fresh), wanted
    known = single(conditions.only_none_match) if wanted is None else None
    if known is not None:
        # The store compares: bytes that the client already has are not transferred.
        found = await storage.read_if_changed(key, known, fresh=fresh)
        if found is not None:
            return found, None
    for _ in range(ATTEMPTS):
        # Other conditions may name a version that memory does not know yet.
        info = await storage.info(key, fresh=fresh or known is None)
        if not conditions.is_modified(info):
            return info, None
        part = wanted if range_holds(req, info) else None
        try:
            return await storage.read(key, byte_range=part, if_match=info.etag), part
        except PreconditionFailedError:
            continue  # It was replaced meanwhile: evaluate the conditions for the new version.
    raise always_replaced(key)


async def read_parts(
    req: func.HttpRequest, storage: StorageManager, key: str, wanted: Sequence[ByteRange]
) -> tuple[ObjectInfo, list[StoredObject]] | StoredObject | ObjectInfo:
    """Several ranges of one version of the object, with its info; the whole object if ``If-Range`` does not
    allow them; the info of what the client already has.

    :raises PreconditionFailedError: a condition does not hold.
    :raises RangeNotSatisfiableError: there is nothing of the ranges.
    """
    conditions = Preconditions.of(req)
    for _ in range(ATTEMPTS):
        info = await storage.info(key, fresh=True)
        if not conditions.is_modified(info):
            return info
        try:
            if not range_holds(req, info):
                return await storage.read(key, if_match=info.etag)
            parts = spans(wanted, info.size)
            if not parts:
                wanted[0].resolve(info.size)
            return info, await _parts(storage, key, info, parts)
        except PreconditionFailedError:
            continue  # It was replaced meanwhile, as above.
    raise always_replaced(key)


async def _parts(
    storage: StorageManager, key: str, info: ObjectInfo, parts: list[tuple[int, int]]
) -> list[StoredObject]:
    """By one request for all that lies between the first and the last, if that is not much more."""
    from storage_lib.ports.backend import ByteRange, StoredObject

    first, end = min(start for start, _ in parts), max(end for _, end in parts)
    if end - first <= max(_TOGETHER_BYTES, 2 * sum(end - start for start, end in parts)):
        found = await storage.read(key, byte_range=ByteRange(first, end), if_match=info.etag)
        return [StoredObject(info, found.data[start - first : end - first], start) for start, end in parts]
    return [await storage.read(key, byte_range=ByteRange(*each), if_match=info.etag) for each in parts]


async def written[T](
    req: func.HttpRequest,
    storage: StorageManager,
    key: str,
    write: Callable[[Pin], Awaitable[T]],
    *,
    creates: bool = False,
) -> T:
    """What a write of an object returns.

    :param creates: whether it makes an object where there is none; otherwise one has to be there, whatever
        the conditions are (RFC 9110, 13.2.1).
    :raises KeyNotFoundError: there is none.
    :raises PreconditionFailedError: a condition does not hold.
    """
    conditions = Preconditions.of(req)
    if conditions.none or (not creates and conditions.only_match is ANY):
        return await write(Pin())
    if tag := single(conditions.only_match):
        return await write(Pin(if_match=tag))
    if creates and conditions.only_none_match is ANY:
        return await write(Pin(if_absent=True))
    for _ in range(ATTEMPTS):
        try:
            info = await storage.info(key, fresh=True)
        except KeyNotFoundError:
            if not creates:
                raise
            info = None
        conditions.check_write(key, info)
        try:
            return await write(Pin(if_absent=True) if info is None else Pin(if_match=info.etag))
        except PreconditionFailedError:
            continue
    raise always_replaced(key)


async def delete(req: func.HttpRequest, storage: StorageManager, key: str) -> None:
    """Likewise, of a delete."""
    await written(req, storage, key, lambda pin: storage.delete(key, if_match=pin.if_match))


def wants_fresh(req: func.HttpRequest) -> bool:
    """Whether the client refuses what a cache has kept (RFC 9111, 5.2.1): browsers do on a reload."""
    directives = (header(req, "Cache-Control") or "").lower().replace(" ", "").split(",")
    return "no-cache" in directives or "max-age=0" in directives


def always_replaced(key: str) -> TransientStorageError:
    return TransientStorageError(f"object {key!r} is being replaced all the time", remedy="try again later")
