"""Mirroring: the second store follows the primary."""

from __future__ import annotations

import logging
import uuid
from contextlib import aclosing, suppress

import msgspec
from msgspec.structs import replace

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.layers.fallback.entries import Entry, has_same_bytes, plain
from storage_lib.layers.fallback.marks import BEHIND, COMPLETE, OWN, STALE, Marks
from storage_lib.layers.fallback.secondary import SecondStore
from storage_lib.layers.fallback.transfer import transfer
from storage_lib.ports import hidden
from storage_lib.ports.drivers import ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.ports.streaming import sha256_of

_ATTEMPTS = 8

_log = logging.getLogger("AOS.Storage")


class Written(msgspec.Struct, frozen=True):
    """What has just been written to the primary, so that it need not be read back."""

    etag: str
    data: bytes
    options: PutOptions


class Intent(msgspec.Struct, frozen=True):
    """A mark that the stores may differ in a key. It outlives a writer that is killed between the two."""

    marks: Marks
    key: str
    etag: str
    is_new: bool
    """The key was not marked before: the stores agreed."""


class Mirror:
    def __init__(self, primary: ObjectDriver, secondary: SecondStore) -> None:
        self._primary = primary
        self._secondary = secondary
        self.behind = 0
        """How often this process has written to the primary alone since its last complete repair."""
        self._told = 0
        self._has_begun = False
        self.marks = (Marks(secondary.driver, STALE), Marks(primary, STALE))
        """In either store: in the primary while the second store is away."""

    async def intend(self, key: str) -> Intent:
        """To be done before the primary is written to."""
        if not self._has_begun:
            with suppress(StorageError):  # It can as well be found out with a later write.
                await self._begin()
                self._has_begun = True
        there, here = self.marks
        try:
            intent = Intent(there, key, *await there.add(key))
        except StorageError as error:
            _log.warning("the second store does not take %r now: %s", key, error)
            self.behind += 1  # And the second store does not know.
            return Intent(here, key, *await here.add(key))
        if self._told < self.behind:
            with suppress(StorageError):  # The next write or repair does it.
                await self._tell()
        return intent

    async def _tell(self) -> None:
        """Now that the second store is back, let other processes know that it was skipped."""
        behind = self.behind
        content = uuid.uuid4().bytes  # Each has another ETag.
        options = PutOptions("application/octet-stream", {}, await sha256_of(content))
        await self._secondary.driver.put(BEHIND, content, options)
        self._told = behind

    async def told_behind(self) -> str | None:
        """The ETag of what tells that the second store was skipped. To be asked before the marks are read."""
        try:
            return (await self._secondary.driver.head(BEHIND)).etag
        except KeyNotFoundError:
            return None

    async def caught_up(self, told: str | None) -> None:
        """What was told up to then has been copied."""
        self._told = min(self._told, self.behind)
        if told is not None:
            with suppress(KeyNotFoundError, PreconditionFailedError):  # Another repair, or told again.
                await self._secondary.driver.delete(BEHIND, told)

    async def lacks(self, key: str) -> bool:
        """Whether the primary may have a key that the second store does not have."""
        if self.behind:
            return True
        try:
            await self._secondary.driver.head(COMPLETE)
        except KeyNotFoundError:
            return True
        return await self.told_behind() is not None or await self.marks[0].etag(key) is not None

    async def note_complete(self) -> None:
        """From now on a key that the second store lacks does not exist."""
        await self._secondary.driver.put(COMPLETE, b"", PutOptions("text/plain", {}, await sha256_of(b"")))

    async def _begin(self) -> None:
        """A mirror of an empty primary is complete from its beginning."""
        try:
            await self._secondary.driver.head(COMPLETE)
        except KeyNotFoundError:
            async with aclosing(self._primary.scan("", ListOptions())) as listing:
                async for found in listing:
                    if isinstance(found, ListEntry) and not found.key.startswith(OWN):
                        return
            await self.note_complete()

    async def drop(self, intent: Intent) -> None:
        """The primary was not changed, or the second store has followed. The mark of an earlier write, which
        may have been cut off or be under way, is left to a repair."""
        if not intent.is_new:
            return
        with suppress(StorageError):  # A repair finds nothing to do.
            await intent.marks.remove(intent.key, intent.etag)

    async def keep(self, intent: Intent) -> None:
        """The stores may differ: the mark has to be there, even if a repair has removed it meanwhile."""
        with suppress(StorageError):  # The store may have gone away; there is the other one.
            if await intent.marks.etag(intent.key) is not None:
                return
        try:
            await self.intend(intent.key)
        except StorageError as error:
            _log.warning("it is not known whether a repair will see object %r: %s", intent.key, error)

    async def agrees(self, intent: Intent) -> bool:
        """Whether a key that the second store has is known to have been in the primary, too, when this write
        began, and until now."""
        there, _ = self.marks
        if intent.marks is not there or not intent.is_new or self.behind:
            return False
        try:
            return await self.told_behind() is None and await there.etag(intent.key) == intent.etag
        except StorageError:
            return False

    async def follow(self, intent: Intent, written: Written | None = None) -> bool:
        """Bring a change of the primary to the second store; if that fails, a repair does it."""
        try:
            done = await self.copy(intent.key, written)
        except StorageError as error:
            _log.warning("object %r is not yet in the second store: %s", intent.key, error)
            done = False
        await (self.drop(intent) if done else self.keep(intent))
        return done

    async def copy(self, key: str, written: Written | None = None) -> bool:
        """Make the second store's object what the primary's is. False if it is left to the journal, because
        it has a newer one, or if the primary's is being replaced all the time."""
        info: ObjectInfo | None = None
        if written is None:
            info = await self._find(key)
        for _ in range(_ATTEMPTS):
            found = await self._secondary.find(key)
            if found is not None and Entry.of(found) is not None:
                if key not in self._secondary.journal.known:
                    # Its writer may have been killed before it put the mark: a repair has to see it.
                    await self._secondary.journal.put(key)
                return False
            done = True
            try:
                if written is not None:
                    await self._put(key, written, found)
                elif not await self._put_version(key, info, found):
                    return True
            except (PreconditionFailedError, KeyNotFoundError):
                done = False  # Someone else was faster, in either store.
            # A slower writer may have put its older version behind a newer one: whoever is last looks again.
            etag = written.etag if written is not None else None if info is None else info.etag
            written, info = None, await self._find(key)
            if done and (None if info is None else info.etag) == etag:
                return True
        return False

    async def is_current(self, key: str) -> bool:
        """Whether the second store has the primary's version, or neither has one."""
        info, found = await self._find(key), await self._secondary.find(key)
        if info is None or found is None:
            return info is found
        return Entry.of(found) is None and found.metadata.get(hidden.ORIGIN) == info.etag

    async def _find(self, key: str) -> ObjectInfo | None:
        try:
            return await self._primary.head(key)
        except KeyNotFoundError:
            return None

    async def _put(self, key: str, written: Written, found: ObjectInfo | None) -> None:
        options = replace(
            written.options,
            metadata={**plain(written.options.metadata), hidden.ORIGIN: written.etag},
            if_match=None if found is None else found.etag,
            if_absent=found is None,
        )
        await self._secondary.driver.put(key, written.data, options)

    async def _put_version(self, key: str, info: ObjectInfo | None, found: ObjectInfo | None) -> bool:
        """Whether there was something to do."""
        if info is None:
            if found is None:
                return False
            await self._secondary.driver.delete(key, found.etag)
            return True
        if found is not None and found.metadata.get(hidden.ORIGIN) == info.etag:
            return False
        metadata = {**plain(info.metadata), hidden.ORIGIN: info.etag}
        if found is not None and has_same_bytes(found, info):
            await self._secondary.driver.touch(found, metadata)
            return True
        await transfer(
            info,
            self._primary,
            self._secondary.driver,
            key,
            metadata,
            if_match=None if found is None else found.etag,
            if_absent=found is None,
        )
        return True
