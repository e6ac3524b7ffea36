"""Parts of a stream that an earlier run has sent, and whether they are still those of its source."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from storage_lib import threads


class SentPart(NamedTuple):
    """A part that the store has, as a driver tells of it.

    ``name`` is what the driver knows it by; ``md5`` is its digest, or how that begins, if the store tells it.
    """

    name: str
    size: int
    md5: bytes | None = None

    async def agrees(self, part: bytes) -> bool:
        """Whether it is this part, as far as that can be told."""
        if len(part) != self.size:
            return False
        return self.md5 is None or (await threads.working.run(md5_of, part)).startswith(self.md5)


def md5_of(part: bytes) -> bytes:
    return hashlib.md5(part, usedforsecurity=False).digest()
