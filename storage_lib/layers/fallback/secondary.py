"""The second store: reading it as callers do, and writing to it with a journal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace as with_fields

import msgspec
from msgspec.structs import replace

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, TransientStorageError
from storage_lib.layers.base import ObjectLayer
from storage_lib.layers.fallback.entries import TAG, Entry, fingerprint, presented
from storage_lib.layers.fallback.marks import Journal
from storage_lib.layers.fallback.status import Counts
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat
from storage_lib.ports.errors import missing, unmet
from storage_lib.ports.object_model import ANY_VERSION, ObjectInfo, PutResult, StoredObject, agrees
from storage_lib.ports.streaming import Parts, sha256_of

ATTEMPTS = 100
"""How often a write is tried that others are faster than."""
_GONE = f"{0:014}"
"""Of a delete: for programs that know nothing of the journal, its object has expired."""


class MovedError(Exception):
    """The object was changed between the look at it and the operation."""


class AbsentError(Exception):
    """The second store has never had the key, or not since it was repaired."""


class When(msgspec.Struct, frozen=True):
    """``at``: when the operation began; ``since``: when the primary was first found away. With
    ``only_journaled`` it is done only if the newest version is in the second store. ``unsure``: the primary
    may have done it, too."""

    at: float
    since: float
    only_journaled: bool = False
    unsure: bool = False


class SecondStore:
    """The objects of the second store. An object with an `Entry` is newer than the primary's."""

    def __init__(
        self, driver: ObjectDriver, journal: Journal, counts: Counts, clock: Callable[[], float]
    ) -> None:
        self.driver = driver
        self.journal = journal
        self._counts = counts
        self._clock = clock

    async def find(self, key: str) -> ObjectInfo | None:
        """What is there, as it is stored; also what stands for a delete."""
        began = self._clock()
        info = None
        try:
            info = await self.driver.head(key)
        except KeyNotFoundError:
            pass
        except TransientStorageError as error:
            self._counts.secondary.failed(error, began)
            raise
        self._counts.secondary.responded()
        return info

    # -- reading; ``info`` is what `find` has found

    def head(self, info: ObjectInfo) -> ObjectInfo:
        """:raises KeyNotFoundError: its journaled write is a delete."""
        entry = Entry.of(info)
        if entry is not None and entry.deleted:
            raise missing(info.key)
        return presented(info)

    async def get(self, info: ObjectInfo, options: GetOptions) -> StoredObject | None:
        shown = self._matching(info, options)
        if shown.etag == options.if_none_match:
            return None
        pinned = replace(options, if_match=info.etag, if_none_match=None)
        try:
            found = await self.driver.get(info.key, pinned)
        except (KeyNotFoundError, PreconditionFailedError) as error:
            raise MovedError from error
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        return StoredObject(shown, found.data, found.start)

    async def read_stream(
        self, info: ObjectInfo, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        shown = self._matching(info, options)
        pinned = replace(options, if_match=info.etag, if_none_match=None)
        try:
            _, start, chunks = await self.driver.read_stream(info.key, pinned)
        except (KeyNotFoundError, PreconditionFailedError) as error:
            raise MovedError from error
        return shown, start, chunks

    def _matching(self, info: ObjectInfo, options: GetOptions) -> ObjectInfo:
        shown = self.head(info)
        if not agrees(shown.etag, options.if_match):
            raise unmet(info.key, options.if_match)
        return shown

    # -- writing; each returns None if it was not done, because of `When.only_journaled`

    async def put(self, key: str, data: bytes, options: PutOptions, when: When) -> PutResult | None:
        for _ in range(ATTEMPTS):
            if (begun := await self._begin(key, options, when)) is None:
                return None
            found, prepared = begun
            try:
                result = await self.driver.put(key, data, prepared)
            except PreconditionFailedError:
                await _pause()
                continue
            return await self._taken(result, found)
        raise _busy(key)

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, when: When, repeat: Repeat
    ) -> PutResult | None:
        if (begun := await self._begin(key, options, when)) is None:
            return None
        found, prepared = begun
        try:
            result = await self.driver.put_stream(key, parts, prepared, repeat)
        except PreconditionFailedError as error:
            if options.is_conditional:
                raise
            raise _busy(key) from error  # Its source cannot be read twice.
        return await self._taken(result, found)

    async def delete(self, key: str, if_match: str | None, when: When) -> bool | None:
        """Leave an object that stands for the delete.

        :raises KeyNotFoundError: it is deleted already.
        :raises AbsentError: there is nothing.
        """
        for _ in range(ATTEMPTS):
            found = await self.find(key)
            if when.only_journaled and not _is_journaled(found):
                return None
            if found is None:
                raise AbsentError
            if not agrees(self.head(found).etag, if_match):
                raise unmet(key, if_match)
            options = PutOptions("application/octet-stream", {}, await sha256_of(b""), if_match=if_match)
            prepared = self._prepared(key, found, options, when, deleted=True)
            await self.journal.put(key)
            try:
                result = await self.driver.put(key, b"", prepared)
            except PreconditionFailedError:
                await _pause()
                continue
            await self._taken(result, found)
            return True
        raise _busy(key)

    async def _begin(
        self, key: str, options: PutOptions, when: When
    ) -> tuple[ObjectInfo | None, PutOptions] | None:
        """Note in the journal that an object is about to be written: the one that is there, and the options
        that replace exactly this one. None if it is not to be written."""
        found = await self.find(key)
        if when.only_journaled and not _is_journaled(found):
            return None
        prepared = self._prepared(key, found, options, when)
        await self.journal.put(key)
        return found, prepared

    def _prepared(
        self, key: str, found: ObjectInfo | None, options: PutOptions, when: When, *, deleted: bool = False
    ) -> PutOptions:
        """The options that replace exactly ``found``, if the caller's conditions hold for it."""
        visible = found
        if found is not None and (before := Entry.of(found)) is not None and before.deleted:
            visible = None
        if options.if_absent and visible is not None:
            raise unmet(key, None)
        if options.if_match is not None and (
            visible is None or not agrees(presented(visible).etag, options.if_match)
        ):
            raise unmet(key, options.if_match)
        # "Any version" is a condition on there being one, and no version is lost unseen.
        conditional = options.if_absent or options.if_match not in (None, ANY_VERSION)
        taken = ""
        if when.unsure and options.sha256 and not deleted:
            taken = fingerprint(options.sha256, options.content_type, options.metadata)
        entry = Entry.next(
            found,
            at=when.at,
            since=when.since,
            conditional=conditional,
            deleted=deleted,
            taken=taken,
        )
        metadata = {**options.metadata, hidden.JOURNAL: str(entry)}
        metadata.pop(hidden.REPAIRED, None)
        if deleted:
            metadata[expiry.METADATA] = _GONE
        return replace(
            options,
            metadata=metadata,
            if_match=None if found is None else found.etag,
            if_absent=found is None,
        )

    async def _taken(self, result: PutResult, found: ObjectInfo | None) -> PutResult:
        # A repair may have removed the mark that was put before; it does not remove a newer one.
        await self.journal.put(result.key)
        self._counts.writes_journaled += 1
        until = None if found is None else expiry.end_in(found.metadata)
        created = found is None or (until is not None and until <= self._clock())
        etag = f"{TAG}{result.etag}"
        return with_fields(result, etag=etag, created=created)


class ExpiredCopies(ObjectLayer):
    """The second store for a sweep: what has a journal entry stays, as it is newer than the primary's."""

    @property
    def core(self) -> ObjectDriver:
        return self

    async def delete(self, key: str, if_match: str | None) -> None:
        if _is_journaled(await self.inner.head(key)):
            raise unmet(key, if_match)
        await self.inner.delete(key, if_match)


def _is_journaled(found: ObjectInfo | None) -> bool:
    return found is not None and Entry.of(found) is not None


async def _pause() -> None:
    # A random pause keeps many writers from colliding again.
    await asyncio.sleep(random.uniform(0, 0.01))  # noqa: S311


def _busy(key: str) -> TransientStorageError:
    return TransientStorageError(
        f"object {key!r} of the second store is being replaced all the time", remedy="try again"
    )
