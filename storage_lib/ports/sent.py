"""Parts of a stream that an earlier run has sent, and whether they are still those of its source."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import NamedTuple

from storage_lib import threads

_md5 = partial(hashlib.md5, usedforsecurity=False)


class SentPart(NamedTuple):
    """A part that the store has, as a driver tells of it.

    ``name`` is what the driver knows it by. ``prefix`` is the beginning of the SHA-256 of the stream from its
    first byte to the last one of this part; ``md5`` is the hex digest of the part alone. Both may be unknown.
    """

    name: str
    size: int
    prefix: bytes | None = None
    md5: str | None = None

    async def agrees(self, part: bytes, prefix: bytes | None) -> bool:
        """Whether it is this part, as far as that can be told.

        :param prefix: the SHA-256 of the stream from its first byte to the last one of ``part``, if known.
        """
        if len(part) != self.size:
            return False
        if self.prefix is not None and prefix is not None:
            return prefix.startswith(self.prefix)
        return self.md5 is None or (await threads.working.run(_md5, part)).hexdigest() == self.md5
