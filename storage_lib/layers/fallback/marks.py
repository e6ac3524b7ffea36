"""Marks: small objects that name the keys which need repair, and the journal of the second store."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from storage_lib.errors import InvalidKeyError, KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.keys import SYSTEM_PREFIX, validate_key
from storage_lib.ports.drivers import PLAIN_GET, ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.object_model import ListEntry, is_after
from storage_lib.ports.streaming import sha256_of

OWN = f"{SYSTEM_PREFIX}fallback/"
"""Below it is the layer's bookkeeping, in both stores."""
JOURNALED = f"{OWN}journal/"
STALE = f"{OWN}stale/"
COMPLETE = f"{OWN}complete"
"""In the second store: it has every key of the primary, as far as all writers mirror."""
BEHIND = f"{OWN}behind"
"""In the second store: writers had to skip it, so it may lack keys that it has no marks for."""

KNOWN = 1000
"""How many journaled keys a process remembers."""
CHECK_TIMEOUT = 2.0
"""How long an operation waits for a look into the journal."""

_log = logging.getLogger("AOS.Storage")


class Marks:
    """The marks below a prefix of one store. Each has a name made of its key, so that their order is that of
    the keys; a key that leaves no room for more is hashed, and its mark's content tells it."""

    def __init__(self, driver: ObjectDriver, prefix: str) -> None:
        self.driver = driver
        self._plain = f"{prefix}key/"
        self._hashed = f"{prefix}hash/"

    def name(self, key: str) -> str:
        try:
            return validate_key(f"{self._plain}{key}")
        except InvalidKeyError:
            return f"{self._hashed}{hashlib.sha256(key.encode()).hexdigest()}"

    async def put(self, key: str) -> str:
        """Mark a key and return the mark's ETag, which is another one each time."""
        return await self._put(key, if_absent=False)

    async def add(self, key: str) -> tuple[str, bool]:
        """`put`, and whether the key was not marked before."""
        try:
            return await self._put(key, if_absent=True), True
        except PreconditionFailedError:
            return await self._put(key, if_absent=False), False

    async def _put(self, key: str, *, if_absent: bool) -> str:
        content = f"{key}\n{uuid.uuid4().hex}".encode()
        digest = await sha256_of(content)
        options = PutOptions("text/plain; charset=utf-8", {}, digest, if_absent=if_absent)
        return (await self.driver.put(self.name(key), content, options)).etag

    async def etag(self, key: str) -> str | None:
        try:
            return (await self.driver.head(self.name(key))).etag
        except KeyNotFoundError:
            return None

    async def remove(self, key: str, etag: str) -> bool:
        """Remove the mark unless someone has put it again; whether it is gone."""
        try:
            await self.driver.delete(self.name(key), etag)
        except KeyNotFoundError:
            return True
        except PreconditionFailedError:
            return False
        return True

    async def keys(self, prefix: str = "", after: str | None = None) -> AsyncGenerator[str]:
        """The marked keys that start with ``prefix`` and come after ``after``, in their order."""
        hashed = [key async for key in self._from_hashes() if key.startswith(prefix) and is_after(key, after)]
        hashed.sort(key=str.encode, reverse=True)
        behind = None if after is None else f"{self._plain}{after}"
        async with aclosing(self.driver.scan(f"{self._plain}{prefix}", ListOptions(after=behind))) as listing:
            async for found in listing:
                assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
                key = found.key.removeprefix(self._plain)
                while hashed and hashed[-1].encode() < key.encode():
                    yield hashed.pop()
                yield key
        while hashed:
            yield hashed.pop()

    async def is_empty(self) -> bool:
        async with aclosing(self.keys()) as keys:
            return await anext(keys, None) is None

    async def _from_hashes(self) -> AsyncGenerator[str]:
        async with aclosing(self.driver.scan(self._hashed, ListOptions())) as listing:
            async for found in listing:
                assert isinstance(found, ListEntry)  # noqa: S101 - there is no delimiter
                try:
                    stored = await self.driver.get(found.key, PLAIN_GET)
                except KeyNotFoundError:
                    continue  # repaired meanwhile
                assert stored is not None  # noqa: S101 - only a get with if_none_match answers None
                yield stored.data.decode().rpartition("\n")[0]


class Journal(Marks):
    """The marks of the keys whose newest version may be in the second store.

    Looking costs a listing, so what was seen is believed for ``seconds``. This process's own entries are
    known at once.
    """

    def __init__(
        self, driver: ObjectDriver, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(driver, JOURNALED)
        self._seconds = seconds
        self._clock = clock
        self._looked = False
        self._again_at = 0.0
        self._puts = 0
        self.known: set[str] = set()
        self.is_complete = True
        """Whether ``known`` has all of them."""

    async def put(self, key: str) -> str:
        self._puts += 1
        self.known.add(key)
        return await super().put(key)

    def may_have(self, key: str) -> bool:
        return not self.is_complete or key in self.known

    async def may_have_any(self) -> bool:
        """Whether there may be entries. It costs nothing within ``seconds`` of the last look."""
        if not self._looked or self._clock() >= self._again_at:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await self.look()
            except (StorageError, TimeoutError) as error:
                self._looked = True
                why = str(error) or f"no answer within {CHECK_TIMEOUT:.0f} s"
                _log.warning("the journal of the second store cannot be read: %s", why)
        return bool(self.known) or not self.is_complete

    async def look(self) -> None:
        """See which keys there are."""
        self._again_at = self._clock() + self._seconds
        before = self._puts
        seen: set[str] = set()
        is_complete = True
        async with aclosing(self.keys()) as keys:
            async for key in keys:
                if len(seen) == KNOWN:
                    is_complete = False
                    break
                seen.add(key)
        # A listing that began before an entry was made may lack it.
        self.known = seen if before == self._puts else seen | self.known
        self.is_complete = is_complete
        self._looked = True
