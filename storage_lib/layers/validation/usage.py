"""What the objects below a prefix take: known from a listing now and then, and from what this process does.

Listing at every write would cost too much, and a shared counter would be contended. So each process adds
its own writes to its last listing. What is added is never less than what was written: far from the limit an
overwritten object counts twice, and a deletion gives nothing back. Close to it, a write first asks what it
replaces, and a write that an estimate would refuse causes a new listing first.

Why it is never less, for one key: each operation adds its size less that of the object that it found there.
It gives something back only if no other operation on the key, and no listing, has overlapped with it. So what
is counted for the key is at least the largest object that was there since something was last given back.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from storage_lib.config.validation import Rule
from storage_lib.errors import BackendClosedError, QuotaExceededError
from storage_lib.ports.object_model import ObjectStats
from storage_lib.ports.statistics import QuotaUsage

_CLOSE = 0.8
"""From this part of a quota on, a write first asks for what it replaces."""
_CLOSELY = 10
"""How many times as often the usage is then listed."""
_log = logging.getLogger("AOS.Storage")


class Operation:
    """A write or a deletion in progress, and what is reserved for it.

    :param size: how many bytes it stores.
    """

    def __init__(self, key: str, size: int = 0) -> None:
        self.key = key
        self.size = size
        self.old: int | None = None
        """What it replaces: its size; None if nothing is known to be there."""
        self.asked = False
        """Whether ``old`` is known."""
        self.alone = True
        """Whether no other operation of this process on this key has overlapped with it."""
        self.held: dict[Usage, tuple[int, int]] = {}
        self.listed: set[Usage] = set()
        """Where a listing has overlapped with it."""


class Usage:
    """The usage of one rule's quota.

    :param rule: with a quota.
    :param measure: lists what is there.
    :param refresh_seconds: how old a listing may be.
    :param tasks: where listings in progress are kept, for whoever closes the store.
    """

    def __init__(
        self,
        rule: Rule,
        measure: Callable[[], Awaitable[ObjectStats]],
        refresh_seconds: float,
        tasks: set[asyncio.Task[None]],
        lock: threading.RLock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rule = rule
        self._measure = measure
        self._refresh_seconds = refresh_seconds
        self._tasks = tasks
        self._clock = clock
        self._lock = lock
        self._known = False
        self._listed_at = self._not_before = 0.0
        self._bytes = self._objects = 0
        """The listing, and what has been added since it began."""
        self._held_bytes = self._held_objects = 0
        self._rough = False
        """Whether it may be more than what is there."""
        self._listings: list[_Listing] = []
        self._operations: set[Operation] = set()
        self._warned = False

    def report(self) -> QuotaUsage:
        rule = self.rule
        known = self._known
        return QuotaUsage(
            rule.title,
            rule.prefix,
            max(self._bytes, 0) if known else None,
            max(self._objects, 0) if known else None,
            rule.quota_bytes,
            rule.quota_objects,
            rule.warn_at,
        )

    # -- listing

    async def ready(self) -> None:
        """Wait for the first listing. If the last one is old, cause another; if it is very old, wait for it.

        :raises StorageError: the store cannot be listed.
        """
        if not self._known or self._clock() - self._listed_at > 2 * self._refresh_seconds:
            await self._list()
        elif self._is_old() and self._clock() >= self._not_before:
            self._begin()

    async def _list(self) -> None:
        task = self._begin()
        await asyncio.wait({task})
        if task.cancelled():
            raise BackendClosedError
        if (error := task.exception()) is not None:
            raise error

    async def settle_doubts(self) -> None:
        """Make the estimate as exact as a listing can.

        :raises StorageError: the store cannot be listed.
        """
        # A listing that had begun before does not know all of it.
        for _ in range(2):
            if not self._known or self._rough or self._is_old(closely=True):
                await self._list()

    def _is_old(self, closely: bool | None = None) -> bool:
        if closely is None:
            closely = self._is_close(0, 0)
        limit = self._refresh_seconds / (_CLOSELY if closely else 1)
        return self._clock() - self._listed_at > limit

    def _begin(self) -> asyncio.Task[None]:
        """The listing in progress in this event loop, or a new one."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for listing in self._listings:
                if listing.task is not None and listing.task.get_loop() is loop and not listing.task.done():
                    return listing.task
            listing = _Listing()
            self._listings.append(listing)
            for operation in self._operations:
                self._overlapped(operation)
        # Without the deadline and the rest of the context of the operation that happens to cause it.
        task = loop.create_task(self._listing(listing), context=contextvars.Context())
        listing.task = task
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._known:
            _log.warning("the usage of the rule %r cannot be listed: %s", self.rule.title, error)

    async def _listing(self, listing: _Listing) -> None:
        began = self._clock()
        try:
            found = await self._measure()
        except BaseException:
            with self._lock:
                self._listings.remove(listing)
            self._not_before = began + self._refresh_seconds / _CLOSELY
            raise
        with self._lock:
            self._listings.remove(listing)
            self._bytes = found.bytes + listing.bytes
            self._objects = found.count + listing.objects
            self._rough = listing.rough
            self._listed_at, self._known = began, True
            self._tell()

    # -- operations; all of them under the lock

    def join(self, operation: Operation) -> None:
        self._operations.add(operation)
        if self._listings:
            self._overlapped(operation)

    def leave(self, operation: Operation) -> None:
        self._release(operation)
        self._operations.discard(operation)

    def take_roughly(self, operation: Operation) -> bool:
        """Reserve the whole size if the quota is far away."""
        self._release(operation)
        if self._is_close(operation.size, 1):
            return False
        self._hold(operation, operation.size, 1)
        return True

    def take(self, operation: Operation) -> bool:
        """Reserve what the operation adds to the object it replaces."""
        self._release(operation)
        more, count = self._needs(operation)
        return self._fits(more, count) and self.hold_anyway(operation)

    def hold_anyway(self, operation: Operation) -> bool:
        """Reserve what `take` would, even beyond the quota."""
        self._release(operation)
        more, count = self._needs(operation)
        self._hold(operation, max(more, 0), max(count, 0))
        return True

    def _needs(self, operation: Operation) -> tuple[int, int]:
        if not operation.asked or (not operation.alone and self in operation.listed):
            return operation.size, 1
        return operation.size - (operation.old or 0), 0 if operation.old is not None else 1

    def worsen(self, operation: Operation) -> None:
        """Another operation on the same key overlaps: the listing and the operation may have seen two
        different objects."""
        if self in operation.held and self in operation.listed:
            self._release(operation)
            self._hold(operation, operation.size, 1)

    def _overlapped(self, operation: Operation) -> None:
        operation.listed.add(self)
        if not operation.alone:
            self.worsen(operation)

    def wrote(self, operation: Operation, created: bool | None) -> None:
        """The operation has stored its object."""
        exact = operation.alone and self not in operation.listed
        if created is True or not operation.asked:
            self._add(operation.size, 1, rough=not exact or created is not True)
            return
        more, count = self._needs(operation)
        if not exact:  # A listing or another operation may have given it back before.
            more, count = max(more, 0), max(count, 0)
        self._add(more, count, rough=not exact)

    def deleted(self, operation: Operation) -> None:
        """The operation has deleted its object."""
        exact = operation.asked and operation.alone and self not in operation.listed
        if exact and operation.old is not None:
            self._add(-operation.old, -1, rough=False)
        else:
            self._add(0, 0, rough=True)

    def unsure(self, operation: Operation) -> None:
        """It is not known what has become of the operation."""
        self._add(*operation.held.get(self, (0, 0)), rough=True)

    def _hold(self, operation: Operation, size: int, count: int) -> None:
        operation.held[self] = (size, count)
        self._held_bytes += size
        self._held_objects += count

    def _release(self, operation: Operation) -> None:
        size, count = operation.held.pop(self, (0, 0))
        self._held_bytes -= size
        self._held_objects -= count

    def _add(self, size: int, count: int, *, rough: bool) -> None:
        self._bytes += size
        self._objects += count
        self._rough |= rough
        for listing in self._listings:
            listing.bytes += max(size, 0)
            listing.objects += max(count, 0)
            listing.rough |= rough or size < 0 or count < 0
        self._tell()

    # -- limits

    def _fits(self, more: int, count: int) -> bool:
        return self._within(more, count, 1.0)

    def _is_close(self, more: int, count: int) -> bool:
        return not self._within(more, count, _CLOSE)

    def is_close(self) -> bool:
        """Whether a write would ask for what it replaces."""
        return self._is_close(1, 1)

    def _within(self, more: int, count: int, part: float) -> bool:
        """What adds nothing is always within a full quota."""
        rule = self.rule
        for adds, held, limit in (
            (more, self._bytes + self._held_bytes, rule.quota_bytes),
            (count, self._objects + self._held_objects, rule.quota_objects),
        ):
            if limit is not None and held + adds > limit * part and (part < 1 or adds > 0):
                return False
        return True

    def exceeded(self, operation: Operation) -> QuotaExceededError:
        rule = self.rule
        more, count = self._needs(operation)
        used_bytes, used_objects = self._bytes + self._held_bytes, self._objects + self._held_objects
        by_bytes = rule.quota_bytes is not None and more > 0 and used_bytes + more > rule.quota_bytes
        used, limit, what = (
            (f"{used_bytes} bytes and it would add {more}", rule.quota_bytes, "bytes")
            if by_bytes
            else (f"{used_objects} objects and it would add {count}", rule.quota_objects, "objects")
        )
        return QuotaExceededError(
            f"the quota of the rule {rule.title!r} does not allow {operation.key!r}:"
            f" below {rule.prefix!r} are {used}",
            rule=rule.title,
            limit=f"{limit} {what} below {rule.prefix!r}",
            remedy=f"delete objects there, or raise the rule's quota_{what}",
        )

    def _tell(self) -> None:
        """Log the warning once when the mark is crossed. A rough estimate is no reason."""
        report = self.report()
        if not self._known or report.used is None:
            return
        if not report.is_high:
            self._warned = False
        elif self._warned:
            pass
        elif self._rough:
            if self._is_old(closely=True):
                self._begin()
        else:
            self._warned = True
            _log.warning(
                "the quota of the rule %r is used by %.0f %%: %d bytes%s, %d objects%s below %r",
                report.rule,
                100 * report.used,
                report.bytes,
                "" if report.quota_bytes is None else f" of {report.quota_bytes}",
                report.objects,
                "" if report.quota_objects is None else f" of {report.quota_objects}",
                report.prefix,
            )


class _Listing:
    """A listing in progress, and what was written meanwhile, which it may have missed."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.bytes = self.objects = 0
        self.rough = False
