"""Repair: what the second store took comes back to the primary, and what it missed goes to the second store.

Every step is a compare-and-set, and what a crash leaves is a state from which the next repair goes on: the
version that loses is kept first, then the primary gets the newer one with a mark that names the journal
entry, then the second store's object becomes a copy, and at last the key's mark is removed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal

import msgspec

from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.fallback.conflicts import Conflict, Conflicts
from storage_lib.layers.fallback.entries import Entry, is_same, plain
from storage_lib.layers.fallback.marks import OWN, Journal, Marks
from storage_lib.layers.fallback.mirror import Mirror
from storage_lib.layers.fallback.secondary import SecondStore
from storage_lib.layers.fallback.status import Counts
from storage_lib.layers.fallback.transfer import transfer
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import ListOptions, ObjectDriver, PutOptions
from storage_lib.ports.errors import UnknownOutcomeError
from storage_lib.ports.object_model import ListEntry, ObjectInfo
from storage_lib.ports.streaming import sha256_of

CONCURRENCY = 8
MAX_FAILURES = 1000
"""A repair that fails so often ends."""
_ATTEMPTS = 20


class RepairFailure(msgspec.Struct, frozen=True):
    """A key that could not be repaired; it stays in the journal. ``code`` is that of the error."""

    key: str
    code: str
    message: str


class RepairResult(msgspec.Struct, frozen=True):
    """What a repair did.

    :param repaired: journaled keys that are the same in both stores now.
    :param copied: keys that the mirror had missed; with a full repair, also others that differed.
    :param conflicts: the conflicts that are kept, also those of earlier repairs, until they are dismissed.
    :param failed: keys that wait for the next repair because of an error.
    :param pending: journaled keys that are left, as far as they were counted (1,000).
    """

    repaired: int
    copied: int
    conflicts: tuple[Conflict, ...]
    failed: tuple[RepairFailure, ...]
    pending: int


class Repair:
    def __init__(
        self,
        primary: ObjectDriver,
        secondary: SecondStore,
        mirror: Mirror,
        conflicts: Conflicts,
        counts: Counts,
        clock: Callable[[], float],
    ) -> None:
        self._primary = primary
        self._secondary = secondary
        self._journal: Journal = secondary.journal
        self._mirror = mirror
        self._conflicts = conflicts
        self._counts = counts
        self._clock = clock

    async def run(self, *, limit: int | None, seconds: float | None, full: bool) -> RepairResult:
        """Repair up to ``limit`` keys within ``seconds``. ``full``: compare all keys.

        :raises StorageUnavailableError: a store is away; what was done is done, and the next repair goes on.
        """
        left = math.inf if limit is None else limit
        until = time.monotonic() + (math.inf if seconds is None else seconds)
        failed: list[RepairFailure] = []
        repaired = await self._each(self._journal, self.key, left, until, failed)
        copied = 0
        behind, told = self._mirror.behind, await self._mirror.told_behind()
        for marks in self._mirror.marks:
            copied += await self._each(marks, self._copy, left - repaired - copied, until, failed)
        if (behind or told) and not failed and await self._mirror.marks[1].is_empty():
            self._mirror.behind -= behind
            await self._mirror.caught_up(told)
        if full:
            copied += await self._fill(left - repaired - copied, until, failed)
        await self._journal.look()
        conflicts = [conflict async for conflict in self._conflicts.all()]
        return RepairResult(repaired, copied, tuple(conflicts), tuple(failed), len(self._journal.known))

    async def _each(
        self,
        marks: Marks | AsyncGenerator[str],
        work: Callable[[Any, str], Awaitable[bool]],
        left: float,
        until: float,
        failed: list[RepairFailure],
    ) -> int:
        """How many marked keys ``work`` has finished."""
        done = 0

        async def one(key: str) -> None:
            nonlocal done
            try:
                done += await work(marks, key)
            except StorageUnavailableError:
                raise
            except StorageError as error:
                failed.append(RepairFailure(key, error.code, error.message))

        keys = marks.keys() if isinstance(marks, Marks) else marks
        async with aclosing(_batches(keys, CONCURRENCY)) as batches:
            async for batch in batches:
                while batch:
                    if done >= left or time.monotonic() >= until or len(failed) >= MAX_FAILURES:
                        return done
                    size = int(min(left - done, CONCURRENCY))
                    chosen, batch = batch[:size], batch[size:]
                    results = await asyncio.gather(*(one(key) for key in chosen), return_exceptions=True)
                    for result in results:
                        if isinstance(result, BaseException):
                            raise result
        return done

    async def _fill(self, left: float, until: float, failed: list[RepairFailure]) -> int:
        """Make the second store a complete mirror; how many keys differed."""

        async def keys(driver: ObjectDriver) -> AsyncGenerator[str]:
            async with aclosing(driver.scan("", ListOptions())) as listing:
                async for found in listing:
                    if isinstance(found, ListEntry) and not found.key.startswith(OWN):
                        yield found.key

        async def copy(_: object, key: str) -> bool:
            return not await self._mirror.is_current(key) and await self._mirror.copy(key)

        before = len(failed)
        done = await self._each(keys(self._primary), copy, left, until, failed)
        done += await self._each(keys(self._secondary.driver), copy, left - done, until, failed)
        if done < left and time.monotonic() < until and len(failed) == before:
            await self._mirror.note_complete()
        return done

    async def _copy(self, _: Marks, key: str) -> bool:
        # A key may be marked in both stores, and is copied once.
        etags = [(marks, await marks.etag(key)) for marks in self._mirror.marks]
        found = [(marks, etag) for marks, etag in etags if etag is not None]
        if not found or not await self._mirror.copy(key):
            return False
        return all([await marks.remove(key, etag) for marks, etag in found])

    async def key(self, marks: Marks, key: str) -> bool:
        """Make a journaled key the same in both stores; whether this repair did it."""
        did = False
        for _ in range(_ATTEMPTS):
            etag = await marks.etag(key)  # Before the look at the object: see SecondStore.put.
            journaled = await self._secondary.find(key)
            entry = None if journaled is None else Entry.of(journaled)
            if journaled is None or entry is None:
                if etag is None or await marks.remove(key, etag):
                    self._journal.known.discard(key)
                    return did
                continue  # marked again meanwhile
            try:
                await self._resolve(journaled, entry)
                self._counts.repaired += 1
                did = True
            except (PreconditionFailedError, KeyNotFoundError, UnknownOutcomeError):
                continue  # One of the two was changed meanwhile, maybe by another repair: look again.
        raise TransientStorageError(f"object {key!r} is being replaced all the time", remedy="repair again")

    async def _resolve(self, journaled: ObjectInfo, entry: Entry) -> None:
        key = journaled.key
        found: ObjectInfo | None
        try:
            found = await self._primary.head(key)
        except KeyNotFoundError:
            found = None
        entry = _ended(entry) if self._is_over(journaled) else entry
        if found is not None and _is_done(journaled, entry, found):
            await self._settle(journaled, found.etag)
        elif not self._is_conflict(journaled, entry, found):
            await self._bring(journaled, entry, found)
        elif _winner(entry, found) == "secondary":
            await self._keep(journaled, entry, found, "secondary")
            await self._bring(journaled, entry, found)
        else:
            assert found is not None  # noqa: S101 - what is not there has no time
            await self._keep(journaled, entry, found, "primary")
            await self._take_over(journaled, found)

    def _is_over(self, info: ObjectInfo) -> bool:
        until = expiry.end_in(info.metadata)
        return until is not None and until <= self._clock()

    def _is_conflict(self, journaled: ObjectInfo, entry: Entry, found: ObjectInfo | None) -> bool:
        """Whether the primary's object may have been changed by someone who did not know the journaled one,
        or was never seen by whoever wrote that on a condition."""
        if found is None:
            return not (entry.blind or entry.deleted) and entry.origin != ""
        if self._is_over(found) or found.metadata.get(hidden.REPAIRED, "").startswith(f"{entry.chain}."):
            return False
        if entry.knows(found):
            return False
        return not (entry.blind and _latest(found.last_modified) <= entry.since)

    async def _keep(
        self,
        journaled: ObjectInfo,
        entry: Entry,
        found: ObjectInfo | None,
        winner: Literal["primary", "secondary"],
    ) -> None:
        await self._conflicts.keep(journaled, entry, found, winner)
        self._counts.conflicts += 1

    async def _bring(self, journaled: ObjectInfo, entry: Entry, found: ObjectInfo | None) -> None:
        """The journaled write replaces exactly ``found``."""
        key = journaled.key
        if entry.deleted:
            if found is not None:
                await self._primary.delete(key, found.etag)
            await self._secondary.driver.delete(key, journaled.etag)
            return
        if (end := journaled.metadata.get(expiry.METADATA)) is not None:
            await self._mark_end(key, end)
        result = await transfer(
            journaled,
            self._secondary.driver,
            self._primary,
            key,
            {**plain(journaled.metadata), hidden.REPAIRED: entry.mark},
            if_match=None if found is None else found.etag,
            if_absent=found is None,
        )
        await self._settle(journaled, result.etag)

    async def _mark_end(self, key: str, end: str) -> None:
        """Tell the primary's sweeps of the object before it is there."""
        name, content = expiry.marker(key, end)
        options = PutOptions("text/plain; charset=utf-8", {}, await sha256_of(content))
        await self._primary.put(name, content, options)

    async def _settle(self, journaled: ObjectInfo, etag: str) -> None:
        """The journaled object becomes a copy of the primary's version with this ETag."""
        store = self._secondary.driver
        metadata = {**plain(journaled.metadata), hidden.ORIGIN: etag}
        await transfer(journaled, store, store, journaled.key, metadata, if_match=journaled.etag)

    async def _take_over(self, journaled: ObjectInfo, found: ObjectInfo) -> None:
        """The primary's version replaces the journaled one."""
        await transfer(
            found,
            self._primary,
            self._secondary.driver,
            found.key,
            {**plain(found.metadata), hidden.ORIGIN: found.etag},
            if_match=journaled.etag,
        )


def _ended(entry: Entry) -> Entry:
    """What has expired is as good as deleted."""
    return msgspec.structs.replace(entry, deleted=True)


def _is_done(journaled: ObjectInfo, entry: Entry, found: ObjectInfo) -> bool:
    """Whether the primary has what was journaled: from a repair that was cut off, or from the write itself,
    whose response was lost."""
    if entry.deleted:
        return False
    if found.metadata.get(hidden.REPAIRED) == entry.mark:
        return True
    # Of two equal updates or creations, each on a condition, one is lost: that is a conflict.
    return is_same(journaled, found) and (entry.blind or entry.knows(found))


def _winner(entry: Entry, found: ObjectInfo | None) -> Literal["primary", "secondary"]:
    if found is None or entry.at > found.last_modified.timestamp():
        return "secondary"
    return "primary"


def _latest(modified: datetime) -> float:
    """The latest moment that a store's time stands for: many tell whole seconds only."""
    return modified.timestamp() + (0 if modified.microsecond else 0.999)


async def _batches(keys: AsyncGenerator[str], size: int) -> AsyncGenerator[list[str]]:
    batch: list[str] = []
    async with aclosing(keys):
        async for key in keys:
            batch.append(key)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch
