"""Streams in pieces of one size, whatever pieces they come in."""

from __future__ import annotations

from storage_lib.layers.encryption.envelope import Bytes


class Cutter:
    """Cuts a stream into pieces of ``size`` bytes. The last one, which may be shorter, is the `rest`."""

    def __init__(self, size: int, *, skip: int = 0) -> None:
        """:param skip: how many bytes at the start are left out."""
        self._size = size
        self._skip = skip
        self.rest = b""

    def cut(self, data: Bytes) -> list[Bytes]:
        """The pieces that are complete and behind which there is more; most are views of ``data``."""
        view = memoryview(data)
        if self._skip:
            self._skip, view = max(self._skip - len(view), 0), view[self._skip :]
        if not view:
            return []
        found: list[Bytes] = []
        if self.rest:
            missing = self._size - len(self.rest)
            self.rest += view[:missing]
            view = view[missing:]
            if not view:
                return []
            found.append(self.rest)
        whole = (len(view) - 1) // self._size * self._size
        found += [view[start : start + self._size] for start in range(0, whole, self._size)]
        self.rest = bytes(view[whole:])
        return found
