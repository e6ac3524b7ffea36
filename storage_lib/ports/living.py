"""What a listing shows: no object whose life is over, no common prefix without a key below it.

A store that tells in its listing when each life ends is asked for nothing more. Of any other the markers that
are due are read beside it, and the objects that they name are looked at, many at once: a marker tells of a
save, and the object may have been saved again since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from msgspec.structs import replace

from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.ports import expiry
from storage_lib.ports.drivers import ListOptions, ObjectDriver
from storage_lib.ports.endings import Endings
from storage_lib.ports.object_model import ListEntry
from storage_lib.ports.prefixes import without_empty

type Found = ListEntry | str

AT_ONCE = 250
"""Objects that are looked at together; how many requests are under way is the driver's to bound."""


class Living:
    """The listings of a driver, with the layers around it."""

    def __init__(self, driver: ObjectDriver) -> None:
        self._driver = driver
        self._core = driver.core
        self._can = driver.capabilities

    def scan(self, prefix: str, options: ListOptions, skip: str | None) -> AsyncGenerator[Found]:
        """What the driver lists and is to be shown, in order.

        :param skip: a prefix that ends in ``/``; what is below it is left out.
        """
        # Each generator that only passes on what another gives takes a tenth of the time of a listing.
        if skip is not None and not (prefix.startswith(skip) or skip.startswith(prefix)):
            skip = None
        after = options.after
        if after is not None and after.endswith("/"):
            # For a driver that includes all that is below it.
            if prefix.startswith(after):
                options = replace(options, after=None)
            elif options.delimiter is None and after.startswith(prefix):
                return self._below_and_behind(after, prefix, options, skip)
        return self._shown(prefix, options, skip)

    async def _below_and_behind(
        self, after: str, prefix: str, options: ListOptions, skip: str | None
    ) -> AsyncGenerator[Found]:
        async with aclosing(self.scan(after, replace(options, after=None), skip)) as inside:
            async for found in inside:
                yield found
        async with aclosing(self._shown(prefix, replace(options, continued=True), skip)) as shown:
            async for found in shown:
                yield found

    def _shown(self, prefix: str, options: ListOptions, skip: str | None) -> AsyncGenerator[Found]:
        if self._can.ends_objects or prefix.startswith(SYSTEM_PREFIX):
            return self._listed(prefix, options, skip)
        if self._can.lists_ends:
            # Some of what is read may be over, and a second request costs more than a quarter of the first.
            count = None if options.count is None else options.count + options.count // 4
            return self._unended(self._listed(prefix, replace(options, ends=True, count=count), skip))
        if options.details and options.delimiter is None:
            return self._unended(self._listed(prefix, options, skip))
        return self._by_markers(prefix, options, skip)

    def _listed(self, prefix: str, options: ListOptions, skip: str | None) -> AsyncGenerator[Found]:
        if skip is None:
            return self._folded(prefix, options, None)
        return self._skipping(prefix, options, skip)

    async def _skipping(self, prefix: str, options: ListOptions, skip: str) -> AsyncGenerator[Found]:
        async with aclosing(self._folded(prefix, replace(options, skip=skip), skip)) as listing:
            async for found in listing:
                if _name(found).startswith(skip):
                    if found == skip:
                        continue
                    break
                yield found
            else:
                return
        # The first name below `skip` was met: go on behind all of them instead of reading them.
        async with aclosing(self._folded(prefix, replace(options, after=skip, continued=True), None)) as rest:
            async for found in rest:
                yield found

    def _folded(self, prefix: str, options: ListOptions, skip: str | None) -> AsyncGenerator[Found]:
        found = self._driver.scan(prefix, options)
        if options.delimiter is None or not (self._can.folds_foreign_names or options.ends):
            return found

        def names(below: str, behind: str | None, size: int) -> AsyncGenerator[Found]:
            listing = self._core.scan(below, ListOptions(after=behind, count=size, ends=options.ends))
            return self._unended(listing) if options.ends else listing

        return without_empty(found, names, prefix, options.after, options.count, skip)

    async def _unended(self, listing: AsyncGenerator[Found]) -> AsyncGenerator[Found]:
        """Without the entries that tell that they are over."""
        async with aclosing(listing):
            async for found in listing:
                if (
                    isinstance(found, str)
                    or ((info := found.info) is not None and not info.metadata)  # As most: nothing is asked.
                    or (until := _until(found)) is None
                    or until > self._core.clock()
                ):
                    yield found

    # -- by markers

    async def _by_markers(self, prefix: str, options: ListOptions, skip: str | None) -> AsyncGenerator[Found]:
        endings = Endings(self._core)
        async with aclosing(self._listed(prefix, options, skip)) as listing:
            looking = asyncio.ensure_future(endings.look())
            try:
                first = await anext(listing, None)
                if first is None:
                    return
                await looking
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            if endings.too_many and options.delimiter is None:
                # The driver has its own way to look at all of them.
                rest = replace(options, details=True, continued=True)
                sized = self._can.lists_sizes
                async with aclosing(self._unended(self._listed(prefix, rest, skip))) as alive:
                    async for found in alive:
                        if isinstance(found, ListEntry):
                            yield ListEntry(found.key, found.size if sized else None)
                return
            async with aclosing(self._looked_at(_with(first, listing), endings, options.count)) as alive:
                async for found in alive:
                    yield found

    async def _looked_at(
        self, listing: AsyncIterator[Found], endings: Endings, count: int | None
    ) -> AsyncGenerator[Found]:
        """Without what is over.

        :param count: how many the caller will take: nothing is to be read for more.
        """
        left = AT_ONCE if count is None else count
        waiting: list[Found] = []
        async for found in listing:
            if not waiting:
                await endings.look()
                if not endings.may_have(_name(found)):
                    yield found
                    left -= count is not None
                    continue
            waiting.append(found)
            if len(waiting) >= min(AT_ONCE, left):
                async for one in self._alive(waiting, endings):
                    yield one
                    left -= count is not None
                waiting.clear()
        async for one in self._alive(waiting, endings):
            yield one

    async def _alive(self, found: list[Found], endings: Endings) -> AsyncGenerator[Found]:
        """Those of them that are not over, now and when their turn comes."""
        await endings.look()
        marked = [endings.may_have(_name(one)) for one in found]
        ends = await asyncio.gather(*(self._end(one, endings) for one in found))
        for one, was_marked, looked in zip(found, marked, ends, strict=True):
            await endings.look()
            until = looked if was_marked else await self._end(one, endings)
            if until is None or until > self._core.clock():
                yield one

    async def _end(self, found: Found, endings: Endings) -> float | None:
        """When its life ends, in seconds since the epoch: 0 if it is not there; None if nothing tells that it
        does, or if it is a common prefix and something below it lives."""
        if not endings.may_have(_name(found)):
            return None
        if isinstance(found, str):
            below = self._core.scan(found, ListOptions())
            async with aclosing(below), aclosing(self._looked_at(below, endings, None)) as alive:
                return 0 if await anext(alive, None) is None else None
        try:
            info = found.info or await self._core.head(found.key)
        except KeyNotFoundError:
            return 0
        except IntegrityError:
            return None  # One damaged object must not hide the others: loading it says what is wrong.
        return expiry.end_in(info.metadata)


def _name(found: Found) -> str:
    return found if isinstance(found, str) else found.key


def _until(entry: ListEntry) -> float | None:
    return entry.until if entry.info is None else expiry.end_in(entry.info.metadata)


async def _with(first: Found, rest: AsyncIterator[Found]) -> AsyncGenerator[Found]:
    yield first
    async for found in rest:
        yield found
