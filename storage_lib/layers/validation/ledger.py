"""The quotas of one object driver: each write is admitted, and what becomes of it is recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from storage_lib.errors import IntegrityError, KeyNotFoundError, StorageError, TransientStorageError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.layers.validation.rules import ReadyRule
from storage_lib.layers.validation.usage import Operation, Usage
from storage_lib.ports import expiry, hidden
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.object_model import ObjectStats, PutResult
from storage_lib.ports.objects import ObjectStore
from storage_lib.ports.statistics import QuotaUsage


class Ledger:
    """The usage of the quotas of ``rules`` in ``driver``.

    :param tasks: where listings in progress are kept, for whoever closes the store.
    """

    def __init__(
        self,
        driver: ObjectDriver,
        rules: Sequence[ReadyRule],
        refresh_seconds: float,
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._driver = driver
        self._store = ObjectStore(driver)
        self.lock = threading.RLock()
        self._usages = {
            rule: Usage(rule.rule, self._measuring(rule.prefix), refresh_seconds, tasks, self.lock)
            for rule in rules
            if rule.has_quota
        }
        self._operations: dict[str, list[Operation]] = {}

    def _measuring(self, prefix: str) -> Callable[[], Awaitable[ObjectStats]]:
        # Reserved objects do not count, nor do those whose time to live is over.
        return lambda: self._store.stats(prefix, skip=SYSTEM_PREFIX)

    def usages(self, rules: Sequence[ReadyRule]) -> list[Usage]:
        return [self._usages[rule] for rule in rules if rule.has_quota]

    def reports(self) -> list[QuotaUsage]:
        with self.lock:
            return [usage.report() for usage in self._usages.values()]

    @asynccontextmanager
    async def operation(self, key: str, usages: list[Usage]) -> AsyncGenerator[Write]:
        """A write or a deletion of ``key``. What it reserves is given back at the end, unless it was stored
        or it is not known whether it was."""
        write = Write(self, key, usages)
        self.join(write)
        try:
            yield write
        except BaseException as error:
            with self.lock:
                if not _did_nothing(error):
                    for usage in usages:
                        usage.unsure(write.operation)
            raise
        finally:
            self.leave(write)

    def join(self, write: Write) -> None:
        operation = write.operation
        with self.lock:
            others = self._operations.setdefault(operation.key, [])
            for other in others:
                other.alone = operation.alone = False
                for usage in tuple(other.held):
                    usage.worsen(other)
            others.append(operation)
            for usage in write.usages:
                usage.join(operation)

    def leave(self, write: Write) -> None:
        operation = write.operation
        with self.lock:
            others = self._operations[operation.key]
            others.remove(operation)
            if not others:
                del self._operations[operation.key]
            for usage in write.usages:
                usage.leave(operation)

    async def ask(self, operation: Operation) -> None:
        """Find out what the operation replaces."""
        if operation.asked:
            return
        try:
            # Not what a layer has kept: another process may have replaced that.
            info = await self._driver.fresh_head(operation.key)
        except (KeyNotFoundError, IntegrityError):
            operation.old = None  # What is damaged can be replaced; its size is not known.
        else:
            until = expiry.end_in(info.metadata)
            gone = until is not None and until <= self._driver.clock()
            operation.old = None if gone else hidden.presented(info).size
        operation.asked = True


class Write:
    """A write or a deletion of an object whose key has quotas."""

    def __init__(self, ledger: Ledger, key: str, usages: list[Usage]) -> None:
        self.operation = Operation(key)
        self.usages = usages
        self._ledger = ledger

    async def admit(self, size: int) -> None:
        """Reserve room for ``size`` bytes in all. A stream does so again as it grows.

        :raises QuotaExceededError: a quota does not allow it.
        :raises StorageError: the store does not tell what is there.
        """
        for usage in self.usages:
            await usage.ready()
        if not self.operation.held:
            self._renew(size)  # A listing that it has waited for has not overlapped with it.
        self.operation.size = size
        if not self._refused(Usage.take_roughly):
            return
        await self._ledger.ask(self.operation)
        if not (refused := self._refused(Usage.take)):
            return
        for usage in refused:
            await usage.settle_doubts()
        self._renew(size)
        await self._ledger.ask(self.operation)
        if refused := self._refused(Usage.take):
            raise refused[0].exceeded(self.operation)

    async def announce(self, size: int) -> None:
        """The write will add up to ``size`` bytes, and is not refused."""
        self.operation.size = size
        await self._ledger.ask(self.operation)
        self._refused(Usage.hold_anyway)

    def _renew(self, size: int) -> None:
        """Begin anew: nothing has been stored, and what it replaces will be asked for again."""
        self._ledger.leave(self)
        self.operation = Operation(self.operation.key, size)
        self._ledger.join(self)

    def _refused(self, take: Callable[[Usage, Operation], bool]) -> list[Usage]:
        with self._ledger.lock:
            return [usage for usage in self.usages if not take(usage, self.operation)]

    async def ask_if_close(self) -> None:
        """Before a deletion: find out what it gives back, if that is worth a request."""
        if any(usage.is_close() for usage in self.usages):
            with suppress(StorageError):  # Whatever it is, the deletion is not refused.
                await self._ledger.ask(self.operation)

    def wrote(self, result: PutResult) -> None:
        with self._ledger.lock:
            for usage in self.usages:
                usage.wrote(self.operation, result.created)

    def deleted(self) -> None:
        with self._ledger.lock:
            for usage in self.usages:
                usage.deleted(self.operation)


def _did_nothing(error: BaseException) -> bool:
    """Whether an operation that ended with this error is known to have changed nothing."""
    if isinstance(error, TransientStorageError):
        return error.refused
    return isinstance(error, StorageError) and not isinstance(error, IntegrityError)
