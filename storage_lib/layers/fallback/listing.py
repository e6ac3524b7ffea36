"""Listings of one store, with the journaled writes and deletes in their places."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from storage_lib.layers.fallback.entries import Entry, presented
from storage_lib.layers.fallback.marks import OWN
from storage_lib.layers.fallback.secondary import SecondStore
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import ListOptions
from storage_lib.ports.object_model import ListEntry, is_after

type Found = ListEntry | str
type Scan = Callable[[str, ListOptions], AsyncGenerator[Found]]


class _Change(msgspec.Struct):
    """What the journal says about a name: its entry, or, for a common prefix, whether a key below it lives
    and which ones were deleted."""

    name: str
    entry: ListEntry | None = None
    lives: bool = False
    deleted: set[str] | None = None


def without_own(scan: Scan, prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
    """A listing without this layer's bookkeeping."""
    found = scan(prefix, options)
    if OWN.startswith(prefix) or prefix.startswith(OWN):
        return _filtered(scan, found)
    return found


async def _filtered(scan: Scan, found: AsyncGenerator[Found]) -> AsyncGenerator[Found]:
    async with aclosing(found):
        async for one in found:
            name = one if isinstance(one, str) else one.key
            if name.startswith(OWN):
                continue
            if isinstance(one, str) and OWN.startswith(one) and not await _has_other(scan, one, set()):
                continue
            yield one


async def merged(
    scan: Scan, secondary: SecondStore, prefix: str, options: ListOptions
) -> AsyncGenerator[Found]:
    """The listing ``scan`` with what is journaled.

    :param scan: lists either store.
    """
    changes = _changes(secondary, prefix, options)
    async with aclosing(scan(prefix, options)) as found, aclosing(changes):
        change = await anext(changes, None)
        async for one in found:
            name = one if isinstance(one, str) else one.key
            while change is not None and change.name.encode() < name.encode():
                if (shown := _alone(change)) is not None:
                    yield shown
                change = await anext(changes, None)
            if change is None or change.name != name:
                yield one
                continue
            if isinstance(one, str):
                if change.lives or await _has_other(scan, name, change.deleted or set()):
                    yield one
            elif change.entry is not None:
                yield change.entry
            change = await anext(changes, None)
        while change is not None:
            if (shown := _alone(change)) is not None:
                yield shown
            change = await anext(changes, None)


def _alone(change: _Change) -> Found | None:
    """A name that only the journal knows."""
    return change.name if change.lives else change.entry


async def _has_other(scan: Scan, prefix: str, deleted: set[str]) -> bool:
    async with aclosing(scan(prefix, ListOptions())) as found:
        async for one in found:
            if isinstance(one, ListEntry) and one.key not in deleted and not one.key.startswith(OWN):
                return True
    return False


async def _changes(secondary: SecondStore, prefix: str, options: ListOptions) -> AsyncGenerator[_Change]:
    """What the journal says about a listing, in its order."""
    folded: _Change | None = None
    async with aclosing(secondary.journal.keys(prefix, options.after)) as keys:
        async for key in keys:
            info = await secondary.find(key)
            entry = None if info is None else Entry.of(info)
            if info is None or entry is None:
                continue  # repaired meanwhile, or not yet written
            cut = -1 if options.delimiter is None else key.find(options.delimiter, len(prefix))
            common = key[: cut + 1]
            if folded is not None and common != folded.name:
                yield folded
                folded = None
            if not common:
                until = expiry.end_in(info.metadata) if options.ends else None
                shown = hidden.entry(presented(info)) if options.details else ListEntry(key, until=until)
                yield _Change(key, None if entry.deleted else shown)
            elif is_after(common, options.after):
                folded = folded or _Change(common, deleted=set())
                assert folded.deleted is not None  # noqa: S101 - it is a prefix
                if entry.deleted:
                    folded.deleted.add(key)
                else:
                    folded.lives = True
    if folded is not None:
        yield folded


async def of_secondary(secondary: SecondStore, prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
    """The second store's own listing, as callers see it; what is journaled is for `merged` to add."""
    plain = ListOptions(options.delimiter, options.after, options.count, ends=options.ends)
    async with aclosing(secondary.driver.scan(prefix, plain)) as listing:
        async for found in listing:
            if isinstance(found, str) or not options.details:
                yield found
            elif (info := await secondary.find(found.key)) is not None:
                # An ETag as `head` tells it is in the metadata.
                yield hidden.entry(presented(info))
