"""Saves that tell whether they have created an object, which a service does not tell of a plain one.

A save that may only create succeeds with one request where there is nothing. Where there is something, a
look tells whether its life is over, and the object is replaced. A key that was saved here before is looked at
first, and so is one whose bytes are too many to be sent for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from storage_lib.errors import PreconditionFailedError
from storage_lib.ports import expiry
from storage_lib.ports.drivers import ObjectDriver, PutOptions
from storage_lib.ports.hidden import ATTEMPT
from storage_lib.ports.object_model import PutResult

_SENT_TWICE_BYTES = 8 * 1024 * 1024
_REMEMBERED = 10_000


class Creating:
    """:param look: the metadata of an object, as far as they can be read; None if it is not there, or perhaps
    not."""

    def __init__(
        self, driver: ObjectDriver, look: Callable[[str], Awaitable[Mapping[str, str] | None]]
    ) -> None:
        self._driver = driver
        self._look = look
        self._saved: OrderedDict[int, None] = OrderedDict()

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        """`ObjectDriver.put` without a condition; ``created`` is known."""
        plain = msgspec.structs.replace(options, tell_created=False)
        is_known, found = self._is_known(key), None
        if is_known or len(data) > _SENT_TWICE_BYTES:
            found = await self._look(key)
        if found is None:
            try:
                return await self._driver.put(key, data, msgspec.structs.replace(plain, if_absent=True))
            except PreconditionFailedError:
                found = await self._look(key)
        if found is None or _is_over(found, self._driver.clock()):
            created = True
        else:
            # An earlier try of this call may have, whose answer got lost.
            created = (mark := options.metadata.get(ATTEMPT)) is not None and found.get(ATTEMPT) == mark
            if mark is not None and not created:
                plain = msgspec.structs.replace(plain, metadata={**plain.metadata, ATTEMPT: f"{mark}~"})
        result = await self._driver.put(key, data, plain)
        return PutResult(key, result.etag, result.size, created)

    def _is_known(self, key: str) -> bool:
        """Whether it has been saved here lately, as it is now."""
        name = hash(key)
        is_known = name in self._saved
        self._saved[name] = None
        self._saved.move_to_end(name)
        if len(self._saved) > _REMEMBERED:
            self._saved.popitem(last=False)
        return is_known


def _is_over(metadata: Mapping[str, str], now: float) -> bool:
    return (until := expiry.end_in(metadata)) is not None and until <= now
