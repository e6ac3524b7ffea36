"""Common prefixes of a listing that have no key below them.

A service folds everything below a prefix, including names that are not keys, such as folder markers of
consoles (``a/``) and ``a//b``. Whether there is a key among them must be checked. One page of unfolded
names is enough for the prefixes of most listings; beyond that, each prefix is checked separately.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from storage_lib.ports.object_model import ListEntry

type Found = ListEntry | str
type Names = Callable[[str, str | None, int], AsyncGenerator[Found]]
"""The keys that start with a prefix, behind a name, of which about so many will be read."""

NAMES = 500
"""How many are read at first, at most."""
AT_ONCE = 16
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
            if isinstance(waiting[0], str) and len(waiting) < AT_ONCE:
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


def _name(found: Found) -> str:
    return found if isinstance(found, str) else found.key
