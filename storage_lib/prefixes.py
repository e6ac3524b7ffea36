"""Deleting, copying and moving all objects whose keys start with a prefix.

Each object is an operation of its own, so each is whole, and keeps its type, metadata, end of life and, as
they are objects too, its versions. What is done stays done: an operation that was cut off goes on when it is
called again, from the beginning or after the last key that it told.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypedDict, Unpack

import msgspec

from storage_lib.arguments import seconds as checked_seconds
from storage_lib.arguments import whole
from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    ObjectExistsError,
    StorageError,
)
from storage_lib.keys import SYSTEM_PREFIX, user_key, validate_prefix
from storage_lib.many import in_order
from storage_lib.ports.hints import IS_RECORD, within
from storage_lib.ports.objects import ObjectInfo, ObjectStore

_MOST_NAMED = 1000
"""How many failures are told by name."""
_LONGEST = 1e9
_LONGEST_RECORD = 1024 * 1024


class PrefixResult(msgspec.Struct, kw_only=True):
    """What was done with the objects below a prefix, or would be done.

    ``done`` objects were deleted, copied or moved; ``skipped`` ones were left as they are, because they had
    been deleted meanwhile or because there was a target; ``failed`` has the first thousand keys whose objects
    could not be, with the errors, and ``failures`` the number of all. Everything up to the key ``last`` was
    tried: an operation that is to go on begins after it. ``is_complete``: nothing is left to be tried.
    """

    done: int = 0
    skipped: int = 0
    failures: int = 0
    failed: dict[str, StorageError] = {}
    last: str | None = None
    is_complete: bool = False


class Bounds(TypedDict, total=False):
    """How far an operation goes; `StorageManager.delete_prefix` says what each means."""

    after: str | None
    limit: int | None
    seconds: float | None
    concurrency: int
    on_progress: Callable[[PrefixResult], object] | None


class TransferOptions(Bounds, total=False):
    """The options of copying and moving; `StorageManager.copy_prefix` says what each means."""

    if_absent: bool
    dry_run: bool


async def delete(
    objects: ObjectStore, prefix: str, *, dry_run: bool, **bounds: Unpack[Bounds]
) -> PrefixResult:
    """See `StorageManager.delete_prefix`."""

    async def work(key: str) -> bool:
        if dry_run:
            await objects.need(key, "delete")
        else:
            await objects.delete_listed(key)
        return True

    return await _each(objects, _checked(prefix, "prefix"), None, work, **bounds)


async def transfer(
    objects: ObjectStore,
    source: str,
    target: str,
    *,
    move: bool,
    if_absent: bool = False,
    dry_run: bool = False,
    **bounds: Unpack[Bounds],
) -> PrefixResult:
    """See `StorageManager.copy_prefix` and `StorageManager.move_prefix`."""
    _checked(source, "source")
    _checked(target, "target")
    if source == target:
        raise InvalidArgumentError("source and target are the same prefix", field="target")
    # What lies below the target is no source: it would be copied for ever.
    inside = target if target.startswith(source) else None

    async def work(key: str) -> bool:
        name = target + key[len(source) :]
        if inside is None and name.startswith(source):
            raise InvalidArgumentError(
                f"object {key!r} would become {name!r}, which is below the source {source!r} itself",
                field="target",
                remedy="use a target that is not the beginning of the source",
            )
        if dry_run:
            await objects.need(key, "load", *(["delete"] if move else []))
            await objects.need(name, "save")
            return not (await _exists(objects, user_key(name)) and if_absent)
        # Rules of the validation layer are for values, not for what tells which version is current.
        try:
            with within(IS_RECORD, await _is_record(objects, key)):
                await (objects.move if move else objects.copy)(key, user_key(name), if_absent=if_absent)
        except ObjectExistsError:
            return move and await _ended(objects, key, name)
        return True

    return await _each(objects, source, inside, work, **bounds)


async def _each(
    objects: ObjectStore,
    prefix: str,
    left_out: str | None,
    work: Callable[[str], Awaitable[bool]],
    *,
    after: str | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    concurrency: int = 16,
    on_progress: Callable[[PrefixResult], object] | None = None,
) -> PrefixResult:
    """Do ``work`` with each key; it tells whether it did something. Keys below ``left_out`` are left out."""
    concurrency = whole("concurrency", concurrency, 1)
    limit = None if limit is None else whole("limit", limit, 0)
    if after is not None:
        validate_prefix(after, "after")
    until = None
    if seconds is not None:
        until = time.monotonic() + checked_seconds("seconds", seconds, 0, _LONGEST)
    result, is_listed = PrefixResult(), False

    async def keys() -> AsyncIterator[str]:
        nonlocal is_listed
        begun = 0
        async for entry in objects.iterate(prefix, start_after=after, skip=SYSTEM_PREFIX):
            if isinstance(entry, str) or (left_out is not None and entry.key.startswith(left_out)):
                continue
            if begun == limit or (until is not None and time.monotonic() >= until):
                return
            begun += 1
            yield entry.key
        is_listed = True

    def told(key: str, outcome: bool | StorageError) -> None:
        result.last = key
        if outcome is True:
            result.done += 1
        elif isinstance(outcome, StorageError) and not isinstance(outcome, KeyNotFoundError):
            result.failures += 1
            if len(result.failed) < _MOST_NAMED:
                result.failed[key] = outcome
        else:
            result.skipped += 1  # Perhaps it was deleted since it was listed.
        if on_progress is not None:
            on_progress(result)

    await in_order(keys(), work, concurrency, told)
    result.is_complete = is_listed
    return result


def _checked(prefix: str, field: str) -> str:
    """:raises InvalidKeyError: it is no prefix of keys, or belongs to the library."""
    return user_key(validate_prefix(prefix, field))


async def _is_record(objects: ObjectStore, key: str) -> bool:
    if not key.endswith("/current"):
        return False
    from storage_lib.version_record import is_record  # Only where it is used.

    # Read, not looked at: a caller may do the one and not the other.
    with within(IS_RECORD, True):
        async with objects.open_reader(key) as reader:
            return reader.info.size <= _LONGEST_RECORD and is_record(await reader.read())


async def _exists(objects: ObjectStore, key: str) -> bool:
    try:
        await objects.head(key)
    except KeyNotFoundError:
        return False
    return True


async def _ended(objects: ObjectStore, source: str, target: str) -> bool:
    """Whether the target is what a move of the source that was cut off has made of it; that move is then
    ended."""
    async with objects.open_reader(source) as reader:  # As in `_is_record`.
        one = reader.info
    other = await objects.head(target)
    if one.sha256 is None or _told(one) != _told(other):
        return False
    await objects.delete(source, if_match=one.etag)
    return True


def _told(info: ObjectInfo) -> tuple[object, ...]:
    return info.size, info.sha256, info.content_type, dict(info.metadata), info.expires_at
