"""What a listing shows: no object whose life is over, no common prefix without a key below it.

A store that tells in its listing when each life ends is asked for nothing more. Of any other the markers that
are due are read beside it, and the objects that they name are looked at, many at once: a marker tells of a
save, and the object may have been saved again since.

A service folds everything below a prefix, including names that are not keys, such as folder markers of
consoles (``a/``) and ``a//b``. Whether there is a key among them must be checked. One page of unfolded names
is enough for the prefixes of most listings; beyond that, each prefix is checked separately.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from msgspec.structs import replace

from storage_lib.errors import IntegrityError, KeyNotFoundError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.ports import expiry
from storage_lib.ports.drivers import ListOptions, ObjectDriver
from storage_lib.ports.object_model import ListEntry

type Found = ListEntry | str
type Names = Callable[[str, str | None, int], AsyncGenerator[Found]]
"""The keys that start with a prefix, behind a name, of which about so many will be read."""

NAMES = 500
"""How many are read at first, at most."""
PREFIXES_AT_ONCE = 16
"""Prefixes that are looked into at once."""


async def without_empty(
    found: AsyncGenerator[Found],
    names: Names,
    prefix: str,
    after: str | None,
    count: int | None,
    skip: str | None,
) -> AsyncGenerator[Found]:
    """What was found, without the common prefixes below which there is no key.

    :param skip: a common prefix that is left out, with all that is below it. The caller will not go on behind
        the first name below it, and is given that unseen.
    """
    look = _Look(names, prefix, after, NAMES if count is None else min(NAMES, 10 * count), skip)
    waiting: list[Found] = []
    async with aclosing(found):
        async for one in found:
            if one == skip:
                continue
            if skip is not None and isinstance(one, str) and one.startswith(skip):
                for shown in await look.filter(waiting):
                    yield shown
                yield one
                return
            waiting.append(one)
            if isinstance(waiting[0], str) and len(waiting) < PREFIXES_AT_ONCE:
                continue
            for shown in await look.filter(waiting):
                yield shown
            waiting.clear()
    for shown in await look.filter(waiting):
        yield shown


class _Look:
    def __init__(self, names: Names, prefix: str, after: str | None, size: int, skip: str | None) -> None:
        self._names = names
        self._skip = skip
        self._from = ""
        self._prefix = prefix
        self._after = after
        self._size = size
        self._keys: list[str] | None = None
        self._complete = False

    async def filter(self, found: list[Found]) -> list[Found]:
        if self._keys is None and any(isinstance(one, str) for one in found):
            if self._skip is not None and (self._after or "") < self._skip < _name(found[-1]):
                self._after = self._from = self._skip  # It may hold more than all else.
            self._keys = await self._read(self._prefix, self._after, self._size)
            self._complete = len(self._keys) < self._size
        shown = await asyncio.gather(*(self._is_shown(one) for one in found))
        if found:
            self._after = _name(found[-1])
        return [one for one, is_shown in zip(found, shown, strict=True) if is_shown]

    async def _is_shown(self, one: Found) -> bool:
        if not isinstance(one, str):
            return True
        if one < self._from:
            return bool(await self._read(one, None, 1))
        keys = self._keys or []
        at = bisect_left(keys, one)
        if at < len(keys):
            return keys[at].startswith(one)
        return not self._complete and bool(await self._read(one, None, 1))

    async def _read(self, prefix: str, after: str | None, size: int) -> list[str]:
        keys: list[str] = []
        async with aclosing(self._names(prefix, after, size)) as names:
            async for found in names:
                if isinstance(found, ListEntry):
                    keys.append(found.key)
                if len(keys) == size:
                    break
        return keys


_FIRST = 100
"""Markers that are asked for at first; mostly none of them is due."""
_HELD = 1000
"""Keys that are held at most. Of more, each object is looked at instead."""
_FRESH_SECONDS = 1.0
"""For which a look counts: another process may save what ends at once."""


class Endings:
    """Which objects may be over: those of the markers that are due. Whether one is, it tells itself: it
    may have been saved again since.

    :param core: the driver whose markers these are.
    """

    def __init__(self, core: ObjectDriver) -> None:
        self._core = core
        self._keys: list[str] = []
        self._hashes: set[str] = set()
        self._looked: float | None = None
        self._next: float | None = None
        self.too_many = False
        """More markers are due than are held, and any object may be over."""

    async def look(self) -> None:
        """Read the markers that are due, if that may have changed."""
        now = self._core.clock()
        is_fresh = self._looked is not None and 0 <= now - self._looked < _FRESH_SECONDS
        if is_fresh and (self._next is None or now < self._next):
            return
        keys: set[str] = set()
        hashes: set[str] = set()
        following = None
        too_many = False
        due = expiry.end_of(now, 0)
        async with aclosing(self._core.scan(expiry.MARKERS, ListOptions(count=_FIRST))) as markers:
            async for found in markers:
                assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
                if not expiry.is_due(found.key, due):
                    following = int(expiry.told_end(found.key)) / 1000
                    break
                if too_many := len(keys) + len(hashes) == _HELD:
                    break
                if (key := expiry.marked_key(found.key)) is None:
                    hashes.add(found.key.rpartition("/")[2])
                else:
                    keys.add(key)
        self._keys, self._hashes, self.too_many = sorted(keys), hashes, too_many
        self._looked, self._next = now, following

    def may_have(self, name: str) -> bool:
        """Whether the object of this key may be over, or one below a common prefix."""
        if self.too_many:
            return True
        at = bisect_left(self._keys, name)
        if name.endswith("/"):
            return bool(self._hashes) or (at < len(self._keys) and self._keys[at].startswith(name))
        if at < len(self._keys) and self._keys[at] == name:
            return True
        return bool(self._hashes) and expiry.hash_of(name) in self._hashes


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
