"""Saves that tell whether they have created an object, which a service does not tell of a plain one.

A save that may only create succeeds with one request where there is nothing. Where there is something, a
look tells whether its life is over, and the object is replaced. A key that was saved here before is looked at
first, and so is one whose bytes are too many to be sent for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from storage_lib.errors import PreconditionFailedError
from storage_lib.ports import expiry
from storage_lib.ports.drivers import ObjectDriver, PutOptions
from storage_lib.ports.object_model import ObjectInfo, PutResult

_SENT_TWICE_BYTES = 8 * 1024 * 1024
_REMEMBERED = 10_000


class Creating:
    """:param look: what is known of an object; None if it is not there, or perhaps not."""

    def __init__(self, driver: ObjectDriver, look: Callable[[str], Awaitable[ObjectInfo | None]]) -> None:
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
        result = await self._driver.put(key, data, plain)
        until = None if found is None else expiry.end_in(found.metadata)
        is_over = until is not None and until <= self._driver.clock()
        return PutResult(key, result.etag, result.size, found is None or is_over)

    def _is_known(self, key: str) -> bool:
        """Whether it has been saved here lately, as it is now."""
        name = hash(key)
        is_known = name in self._saved
        self._saved[name] = None
        self._saved.move_to_end(name)
        if len(self._saved) > _REMEMBERED:
            self._saved.popitem(last=False)
        return is_known
