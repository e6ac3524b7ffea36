"""Cutting an entry into frames."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

from storage_lib import threads
from storage_lib.archive.entries import END_OF_TAR, padding
from storage_lib.archive.frames import FRAME_BYTES
from storage_lib.errors import IntegrityError

_CUT_BYTES = FRAME_BYTES - 2 * len(END_OF_TAR)
"""With room for what follows the content."""
_INLINE_BYTES = 64 * 1024


class Cut:
    """Cuts an entry into frames.

    :param header: what comes first.
    :param size: of the content.
    """

    def __init__(self, header: bytes, size: int) -> None:
        self._held = bytearray(header)
        self._size = size
        self.left = size
        self.digest = hashlib.sha256()

    async def take(self, chunk: bytes) -> AsyncGenerator[bytes]:
        """More of the content; the frames that are full."""
        if len(chunk) > self.left:
            raise IntegrityError("an object is longer than it says")
        self.left -= len(chunk)
        if len(chunk) > _INLINE_BYTES:
            await threads.working.run(self.digest.update, chunk)
        else:
            self.digest.update(chunk)
        for start in range(0, len(chunk), _CUT_BYTES):
            self._held += memoryview(chunk)[start : start + _CUT_BYTES]
            async for data in self._full():
                yield data

    def check(self) -> None:
        """:raises IntegrityError: some of the content has not come."""
        if self.left:
            raise IntegrityError("an object is shorter than it says")

    async def filled(self) -> AsyncGenerator[bytes]:
        """Frames of zeros instead of the content that is missing."""
        while self.left:
            count = min(self.left, _CUT_BYTES)
            self.left -= count
            self._held += bytes(count)
            async for data in self._full():
                yield data

    async def _full(self) -> AsyncGenerator[bytes]:
        # The last frame is kept back: it is the one that tells the checksum.
        while len(self._held) > _CUT_BYTES:
            data = bytes(memoryview(self._held)[:_CUT_BYTES])
            del self._held[:_CUT_BYTES]
            yield data

    def rest(self) -> bytes:
        """What is left for the last frame."""
        return bytes(self._held) + padding(self._size)
