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
        value = make()
        self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep this one, instead of another of its key."""
        self._kept[key] = value
        with suppress(KeyError):
            self._kept.move_to_end(key)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)

    def pop(self, key: Key) -> Value | None:
        """The one of this key, which is let go; None if there is none."""
        return self._kept.pop(key, None)

    def clear(self) -> None:
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)
