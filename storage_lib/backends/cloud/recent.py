"""Things made when they are needed, of which the ones used last are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress


class Recent[Key: Hashable, Value]:
    """At most ``limit`` of them; the one that has not been used for longest is let go. Threads may share it:
    at worst a thing is made twice."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The one of this key; what ``make`` gives is kept if there is none."""
        with suppress(KeyError):
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._kept[key] = make()
        while len(self._kept) > self._limit:
            with suppress(KeyError):
                self._kept.popitem(last=False)
        return value

    def pop(self, key: Key) -> Value | None:
        """The one of this key, which is let go; None if there is none."""
        return self._kept.pop(key, None)

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
