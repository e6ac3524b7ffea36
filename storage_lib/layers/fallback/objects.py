"""`FallbackObjects`: where each operation goes."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

from storage_lib.config.fallback import FallbackOptions
from storage_lib.errors import (
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
)
from storage_lib.layers.base import Around, ObjectLayer
from storage_lib.layers.fallback.entries import TAG, Entry
from storage_lib.layers.fallback.listing import Found, Scan, merged, of_secondary, without_own
from storage_lib.layers.fallback.mirror import Intent, Mirror, Written
from storage_lib.layers.fallback.secondary import AbsentError, ExpiredCopies, MovedError, SecondStore, When
from storage_lib.layers.fallback.status import Counts
from storage_lib.ports.drivers import (
    GetOptions,
    ListOptions,
    ObjectDriver,
    PutOptions,
    Repeat,
    once,
    rewritten,
)
from storage_lib.ports.errors import UnknownOutcomeError, UnknownPresenceError, missing
from storage_lib.ports.hints import OLDER
from storage_lib.ports.link_model import LinkOptions, NoStoreLink, StoreLink
from storage_lib.ports.object_model import ObjectInfo, PutResult, StoredObject
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.streaming import Parts

_ATTEMPTS = 20
_SWEPT = 100
_SWEEP = 5.0

_log = logging.getLogger("AOS.Storage")


class FallbackObjects(ObjectLayer):
    """The primary, and the second store for when it is unavailable.

    A key with an entry in the second store's journal lives there until it is repaired: it is read and written
    there, also when the primary is back. Every other key is the primary's, as long as that responds.
    """

    def __init__(
        self,
        primary: ObjectDriver,
        secondary: SecondStore,
        mirror: Mirror,
        counts: Counts,
        options: FallbackOptions,
        around: Around,
    ) -> None:
        super().__init__(primary, around)
        self.secondary = secondary
        self._mirror = mirror if options.mode == "mirror" else None
        self._journals = options.writes == "secondary"
        self._is_complete = options.complete
        self._counts = counts
        one, other = primary.capabilities, secondary.driver.capabilities
        self.capabilities = replace(
            one,
            reports_created=one.reports_created and other.reports_created,
            tells_created=False,  # What the second store replaces may not be what the primary has.
            folds_foreign_names=one.folds_foreign_names or other.folds_foreign_names,
            lists_ends=one.lists_ends and other.lists_ends,
            lists_sizes=one.lists_sizes and other.lists_sizes,
            max_object_bytes=min(one.max_object_bytes, other.max_object_bytes),
            part_bytes=max(one.part_bytes, other.part_bytes),
            max_parts=min(one.max_parts, other.max_parts),
            resumes_streams=False,  # There are two stores to continue in.
            discards_together=False,  # It deletes one by one.
            tells_saves=one.tells_saves and other.tells_saves,
            is_local=one.is_local and other.is_local,
        )

    def _set_clock(self, clock: Callable[[], float]) -> None:
        super()._set_clock(clock)
        self.secondary.driver.clock = clock

    @property
    def core(self) -> ObjectDriver:
        """Bookkeeping goes where the objects go: markers of expiry are journaled and repaired like them."""
        return self

    # -- reading

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        return await self._read(
            key, lambda: self.inner.get(key, options), lambda info: self.secondary.get(info, options)
        )

    async def head(self, key: str) -> ObjectInfo:
        async def head(info: ObjectInfo) -> ObjectInfo:
            return self.secondary.head(info)

        return await self._read(key, lambda: self.inner.head(key), head)

    async def fresh_head(self, key: str) -> ObjectInfo:
        return await self.head(key)  # Nothing is kept here.

    async def link(self, key: str, options: LinkOptions) -> StoreLink | NoStoreLink:
        return NoStoreLink("there is a second store, which a link to the first would leave out")

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        return await self._read(
            key,
            lambda: self.inner.read_stream(key, options),
            lambda info: self.secondary.read_stream(info, options),
        )

    async def _read[T](
        self,
        key: str,
        first: Callable[[], Awaitable[T]],
        second: Callable[[ObjectInfo], Awaitable[T]],
    ) -> T:
        began = self.inner.clock()
        for _ in range(_ATTEMPTS):
            info = await self._journaled(key)
            if info is None:
                break
            with suppress(MovedError):
                result = await second(info)
                self._counts.reads_from_secondary += 1
                return result
        try:
            result = await first()
        except TransientStorageError as error:
            return await self._read_second(key, second, error, began)
        except StorageError:
            self._counts.primary.responded()
            raise
        self._counts.primary.responded()
        return result

    async def _read_second[T](
        self,
        key: str,
        second: Callable[[ObjectInfo], Awaitable[T]],
        error: TransientStorageError,
        began: float,
    ) -> T:
        self._counts.primary.failed(error, began)
        for _ in range(_ATTEMPTS):
            try:
                info = await self.secondary.find(key)
                if info is None:
                    raise await self._absent(key, error)
                if Entry.of(info) is None:
                    _tell_older()
                result = await second(info)
            except MovedError:
                continue
            except TransientStorageError as other:
                raise other if other.__cause__ is error else _both_away(error, other) from error
            self._counts.reads_from_secondary += 1
            _log.info("object %r was read from the second store and may be older: %s", key, error)
            return result
        raise error

    async def _absent(self, key: str, error: TransientStorageError) -> StorageError:
        """The error for a key that the second store lacks while the primary is away."""
        complete = self._is_complete
        if complete is None:
            complete = self._mirror is not None and not await self._mirror.lacks(key)
        _tell_older()
        return missing(key) if complete else _not_there(key, error)

    async def _journaled(self, key: str) -> ObjectInfo | None:
        """The object in the second store if it is the newest. It costs nothing while the journal is empty.

        :raises StorageUnavailableError: the newest is known to be there, and it does not respond.
        """
        journal = self.secondary.journal
        if not await journal.may_have_any():
            return None
        try:
            info = await self.secondary.find(key)
        except TransientStorageError as error:
            if not journal.may_have(key):
                return None
            raise StorageUnavailableError(
                f"object {key!r}: its newest version is in the second store, which does not respond: {error}",
                remedy="try again, or repair when both stores respond",
                retry_after=error.retry_after,
            ) from error
        if info is None or Entry.of(info) is None:
            return None
        if key not in journal.known:
            # Its writer may have been killed before it put the mark: a repair has to see it.
            with suppress(StorageError):
                await journal.put(key)
        return info

    # -- writing

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        return await self._write(
            key,
            lambda: self.inner.put(key, data, options),
            lambda when: self.secondary.put(key, data, options, when),
            lambda result: Written(result.etag, data, options),
            # A copy may have been replaced, and an object deleted, in the primary alone.
            sure=not options.if_absent and _names_second(options.if_match),
        )

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        async def write() -> PutResult:
            if self._journals:
                # A source can be read only once: first see whether the primary responds at all.
                with suppress(KeyNotFoundError):
                    await self.inner.head(key)
            return await self.inner.put_stream(key, parts, options, repeat)

        return await self._write(
            key,
            write,
            lambda when: self.secondary.put_stream(key, parts, options, when, repeat),
            again=lambda: parts.size == 0,
        )

    async def delete(self, key: str, if_match: str | None) -> None:
        await self._write(
            key,
            lambda: self.inner.delete(key, if_match),
            lambda when: self.secondary.delete(key, if_match, when),
            sure=_names_second(if_match),
        )

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        when = await self._when(target)
        if when.only_journaled or await self._journaled(source.key) is not None:
            return await ObjectDriver.copy(self, source, target, if_absent)

        async def instead(when: When) -> PutResult:
            return await rewritten(_Journaling(self, self._around, when), source, target, if_absent=if_absent)

        # As for `put`; and whether the source has been replaced says nothing of the target.
        return await self._write(
            target,
            lambda: self.inner.copy(source, target, if_absent),
            instead,
            sure=not if_absent,
            when=when,
        )

    async def touch(self, source: ObjectInfo, metadata: dict[str, str]) -> PutResult:
        key = source.key
        when = await self._when(key)
        if when.only_journaled:
            return await ObjectDriver.touch(self, source, metadata)

        async def instead(when: When) -> PutResult:
            journaling = _Journaling(self, self._around, when)
            return await rewritten(journaling, source, key, metadata=metadata, if_match=source.etag)

        sure = _names_second(source.etag)  # As for `put`.
        try:
            return await self._write(
                key, lambda: self.inner.touch(source, metadata), instead, sure=sure, when=when
            )
        except StorageUnavailableError as error:
            if not isinstance(error.__cause__, PreconditionFailedError):
                raise
            # Whoever touches any version looks which one is there now.
            raise UnknownOutcomeError(error.message, remedy=error.remedy) from error

    async def _when(self, key: str) -> When:
        now = self.inner.clock()
        return When(now, now, await self._journaled(key) is not None)

    async def _write[T](
        self,
        key: str,
        write: Callable[[], Awaitable[T]],
        instead: Callable[[When], Awaitable[T | None]],
        written: Callable[[T], Written] | None = None,
        *,
        again: Callable[[], bool] = lambda: True,
        sure: bool = True,
        when: When | None = None,
    ) -> T:
        """Write to the primary, or do ``instead``: if the newest version is in the second store, or the
        primary is away and may be stood in for.

        :param again: whether the write can still be done another way.
        :param sure: a conflict in the second store is one, even if the primary may have taken the write.
        :param when: as it was found; the newest version is not in the second store.
        """
        if when is None:
            when = await self._when(key)
            if when.only_journaled and (taken := await instead(when)) is not None:
                return taken
        began = when.at
        mirror, intent = self._mirror, None
        try:
            if mirror is not None:
                intent = await mirror.intend(key)
            result = await write()
        except UnknownOutcomeError:
            self._counts.primary.responded()
            if mirror is not None and intent is not None:
                await mirror.keep(intent)
            raise
        except TransientStorageError as error:
            since = self._counts.primary.failed(error, began)
            if mirror is not None and intent is not None:
                await mirror.keep(intent)
            if not self._journals:
                raise
            if not again():
                raise StorageUnavailableError(
                    f"object {key!r}: the primary store went away while the stream was being sent: {error}",
                    remedy="send it again: it then goes to the second store",
                    retry_after=error.retry_after,
                ) from error
            try:
                return _taken(await instead(When(began, since, unsure=not error.refused)))
            except TransientStorageError as other:
                raise other if other.__cause__ is error else _both_away(error, other) from error
            except AbsentError:
                raise await self._absent(key, error) from error
            except PreconditionFailedError as other:
                if sure or error.refused or (other.field == "if_absent" and await self._agrees(intent)):
                    raise
                # The primary may have taken it, and then there was no conflict.
                held = "has an object" if other.field == "if_absent" else "lacks the version that it names"
                raise StorageUnavailableError(
                    f"object {key!r}: it is not known whether the primary store took the write, and the"
                    f" second store {held}: {error}",
                    field=other.field,
                    remedy="read it again and decide",
                    retry_after=error.retry_after,
                ) from other
        except StorageError:
            self._counts.primary.responded()
            if mirror is not None and intent is not None:
                await mirror.drop(intent)
            raise
        self._counts.primary.responded()
        if mirror is not None and intent is not None:
            followed = await mirror.follow(intent, None if written is None else written(result))
            self._counts.mirror_failures += not followed
        return result

    async def _agrees(self, intent: Intent | None) -> bool:
        """Whether what the second store has is known to be in the primary, too."""
        return self._mirror is not None and intent is not None and await self._mirror.agrees(intent)

    # -- listing

    async def scan(self, prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
        began = self.inner.clock()
        first_scan = self._primary_listing(await self.secondary.journal.may_have_any())
        listing = without_own(first_scan, prefix, options)
        try:
            first = await anext(listing, None)
        except TransientStorageError as error:
            self._counts.primary.failed(error, began)
            listing = without_own(self._second_listing, prefix, options)
            try:
                first = await anext(listing, None)
            except TransientStorageError as other:
                raise _both_away(error, other) from error
            self._counts.reads_from_secondary += 1
            _log.info("%r was listed from the second store and may be older: %s", prefix, error)
        else:
            self._counts.primary.responded()
        async with aclosing(listing):
            if first is not None:
                yield first
                async for found in listing:
                    yield found

    def _primary_listing(self, has_journal: bool) -> Scan:
        """How to list the primary, with what is journaled."""

        def scan(prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
            if has_journal:
                return merged(self.inner.scan, self.secondary, prefix, options)
            return self.inner.scan(prefix, options)

        return scan

    def _second_listing(self, prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
        def scan(prefix: str, options: ListOptions) -> AsyncGenerator[Found]:
            return of_secondary(self.secondary, prefix, options)

        return merged(scan, self.secondary, prefix, options)

    async def remove_stale(self) -> None:
        await self.inner.remove_stale()
        with suppress(TransientStorageError):
            if self._mirror is None and not await self.secondary.journal.may_have_any():
                # Copies that were left by repairs; a mirror's go with the primary's.
                copies = ExpiredCopies(self.secondary.driver, self._around)
                await ObjectStore(copies).sweep_expired(_SWEPT, seconds=_SWEEP)
            else:
                await self.secondary.driver.remove_stale()


def _tell_older() -> None:
    """What is answered is a copy's, or that there is none."""
    if (tell := OLDER.get()) is not None:
        tell()


class _Journaling(ObjectLayer):
    """Both stores for reading, and the second one alone for writing."""

    def __init__(self, objects: FallbackObjects, around: Around, when: When) -> None:
        super().__init__(objects, around)
        self._secondary = objects.secondary
        self._when = when

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        return _taken(await self._secondary.put(key, data, options, self._when))

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        return _taken(await self._secondary.put_stream(key, parts, options, self._when, repeat))


def _taken[T](result: T | None) -> T:
    assert result is not None  # noqa: S101 - it was not asked for journaled ones only
    return result


def _names_second(if_match: str | None) -> bool:
    return if_match is None or if_match.startswith(TAG)


def _not_there(key: str, error: TransientStorageError) -> UnknownPresenceError:
    unavailable = UnknownPresenceError(
        f"object {key!r}: the primary store is unavailable and the second store does not have it: {error}",
        remedy="try again later; where the second store holds every key, set complete (see docs/layers.md)",
        retry_after=error.retry_after,
    )
    unavailable.__cause__ = error
    return unavailable


def _both_away(error: TransientStorageError, other: TransientStorageError) -> StorageUnavailableError:
    return StorageUnavailableError(
        f"{error}; the second store is unavailable, too: {other}", retry_after=error.retry_after
    )
