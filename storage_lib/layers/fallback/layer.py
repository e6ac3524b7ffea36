"""`FallbackLayer`: two stores as one backend."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Mapping

from storage_lib.arguments import seconds as checked_seconds
from storage_lib.arguments import whole
from storage_lib.config.fallback import FallbackOptions
from storage_lib.errors import (
    ConfigurationError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.layers.base import Layer
from storage_lib.layers.fallback.conflicts import Conflict, Conflicts
from storage_lib.layers.fallback.marks import Journal
from storage_lib.layers.fallback.mirror import Mirror
from storage_lib.layers.fallback.objects import FallbackObjects
from storage_lib.layers.fallback.repair import Repair, RepairResult
from storage_lib.layers.fallback.secondary import SecondStore
from storage_lib.layers.fallback.status import Counts, FallbackStatus
from storage_lib.ports.backend import PutResult, Statistic, StorageBackend
from storage_lib.ports.drivers import ObjectDriver

_log = logging.getLogger("AOS.Storage")


class FallbackLayer(Layer):
    """A layer with a second store for when the first is unavailable; docs/layers.md has its rules.

    Objects fall back. Tables and queues are the primary's alone: while it is away they are unavailable.

    :param primary: with its retries.
    :param secondary: likewise; only its objects are used.
    """

    portable = True

    def __init__(self, primary: StorageBackend, secondary: StorageBackend, options: FallbackOptions) -> None:
        self.secondary = secondary
        self.options = options
        self._counts = Counts()
        super().__init__(primary)

    def __repr__(self) -> str:
        return f"FallbackLayer({self.inner!r}, {self.secondary!r})"

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        driver = self.secondary.objects.driver

        def now() -> float:
            return inner.clock()

        self._journal = Journal(driver, self.options.check_seconds)
        second = SecondStore(driver, self._journal, self._counts, now)
        mirror = Mirror(inner, second)
        self._conflicts = Conflicts(inner, driver)
        self._repair = Repair(inner, second, mirror, self._conflicts, self._counts, now)
        return FallbackObjects(inner, second, mirror, self._counts, self.options, self.around)

    def also(self, objects: ObjectDriver) -> ObjectDriver:
        """Another container has no counterpart in the second store."""
        return self.inner.also(objects)

    def inside(self) -> Mapping[str, StorageBackend]:
        return {"": self.inner, "secondary": self.secondary}

    def statistics(self) -> Iterable[Statistic]:
        return self._counts.statistics(len(self._journal.known), self.objects.clock)

    def status(self) -> FallbackStatus:
        """Which store answers, and what this layer has done."""
        counts = self._counts
        return FallbackStatus(
            mode=self.options.mode,
            writes=self.options.writes,
            answers="primary" if counts.primary.since is None else "secondary",
            primary_away_since=counts.primary.moment,
            secondary_away_since=counts.secondary.moment,
            reads_from_secondary=counts.reads_from_secondary,
            writes_journaled=counts.writes_journaled,
            mirror_failures=counts.mirror_failures,
            pending=len(self._journal.known),
            repaired=counts.repaired,
            conflicts=counts.conflicts,
        )

    async def open(self) -> None:
        """Check that a store answers. One that is away is a warning as long as the other is there.

        :raises StorageUnavailableError: the primary is away, and the second store cannot be used.
        """
        clock = self.objects.clock
        began = clock()
        away: TransientStorageError | None = None
        try:
            await self.inner.open()
            self._counts.primary.responded()
        except TransientStorageError as error:
            self._counts.primary.failed(error, began)
            away = error
        began = clock()
        try:
            await self.secondary.open()
            self._counts.secondary.responded()
        except ConfigurationError:
            raise
        except StorageError as error:
            self._counts.secondary.failed(error, began)
            if away is not None:
                raise away from error

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            await self.secondary.close()

    # -- repair

    async def repair(
        self, *, limit: int | None = None, seconds: float | None = None, full: bool = False
    ) -> RepairResult:
        """Bring what the second store took back to the primary, and what a mirror missed to the second store.

        The newer version wins. A version that loses to one that did not know it is kept, and listed as a
        conflict. Any number of repairs may run at once; one that is cut off is continued by the next.

        :param limit: repair at most this many keys.
        :param seconds: begin no more after this long.
        :param full: also make the second store the same as the primary, key by key: for a mirror that is
            switched on when there are objects already, or that other programs write past. What the primary
            does not have is removed from the second store.
        :raises StorageUnavailableError: one of the stores is away; the next repair goes on.
        """
        if full and self.options.mode != "mirror":
            raise UnsupportedOperationError(
                "only a mirror is repaired in full", field="full", remedy="set mode to mirror"
            )
        if limit is not None:
            whole("limit", limit, 0)
        if seconds is not None:
            checked_seconds("seconds", seconds, 0, 365 * 24 * 3600)
        result = await self._repair.run(limit=limit, seconds=seconds, full=full)
        if result.repaired or result.copied or result.failed:
            _log.info(
                "repair: %d keys were brought back, %d copied, %d failed; %d conflicts are kept",
                result.repaired,
                result.copied,
                len(result.failed),
                len(result.conflicts),
            )
        return result

    def conflicts(self) -> AsyncGenerator[Conflict]:
        """The conflicts that are kept, oldest first."""
        return self._conflicts.all()

    async def restore(self, conflict: Conflict, *, if_match: str | None = None) -> PutResult:
        """Save the version that lost under its own key, as it was: if its time to live is over, it is gone
        at once. The conflict stays until it is dismissed.

        :param if_match: only if the object has this ETag.
        :raises KeyNotFoundError: there is none: what lost was a delete, or the conflict was dismissed.
        """
        return await self._conflicts.restored(conflict, self.objects.driver, if_match)

    async def dismiss(self, conflict: Conflict) -> None:
        """Remove a conflict and the version that it keeps."""
        await self._conflicts.dismiss(conflict)
