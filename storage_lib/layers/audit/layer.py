"""`AuditLayer`: the entries of each operation."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from storage_lib.config.audit import AuditOptions
from storage_lib.errors import StorageError, UnsupportedOperationError
from storage_lib.layers.audit.entries import Entry, Seal
from storage_lib.layers.audit.files import FileJournal
from storage_lib.layers.audit.journal import AuditUnavailableError, Journal
from storage_lib.layers.audit.logs import LogJournal
from storage_lib.layers.audit.objects import AuditedObjects
from storage_lib.layers.audit.pending import Pending
from storage_lib.layers.audit.resources import WRITES, named
from storage_lib.layers.audit.tables import TableJournal, head_table
from storage_lib.layers.base import Layer, Operation
from storage_lib.ports import expiry
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver
from storage_lib.ports.object_model import ObjectInfo, StoredObject

_log = logging.getLogger("AOS.Storage")


class AuditLayer(Layer):
    """A layer that records who did what.

    An entry is written when an operation has ended. With ``on_failure="refuse"`` an entry of the kind
    ``intent`` is written before each write, which is refused if that fails; what is read is not handed out
    if its entry cannot be written. The table of the entries is written inside this layer and those around it,
    which do not see it.
    """

    portable = True

    def __init__(self, inner: StorageBackend, options: AuditOptions) -> None:
        self.options = options
        self.is_strict = options.on_failure == "refuse"
        self._reads = options.operations == "all"
        self._filtered = bool(options.prefixes or options.exclude)
        self._only: Journal | None = None
        self._ready = False
        self.is_closed = False
        """Whether it was closed, and not used again."""
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, TableJournal] = (
            weakref.WeakKeyDictionary()
        )
        if options.sink == "log":
            self._only = LogJournal(Seal(options.key))
        elif options.sink == "file":
            files = self._only = FileJournal(options)
            weakref.finalize(self, files.drop)
            if os.environ.get("WEBSITE_INSTANCE_ID"):
                _log.warning(
                    "AGENT_STORAGE_AUDIT=file: the files of an instance of this platform vanish with it;"
                    " use the sink table"
                )
        super().__init__(inner)
        _living.append(weakref.ref(self, _living.remove))

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return AuditedObjects(inner, self)

    async def open(self) -> None:
        await super().open()
        try:
            if self.options.sink == "table":
                for table in (self.options.table, head_table(self.options.table)):
                    await self.inner.tables.create_table(table)
            await (await self.journal()).start()
        except UnsupportedOperationError:
            raise  # It never will.
        except (OSError, StorageError) as error:
            message = f"the audit log cannot be written: {error}"
            if self.is_strict:
                raise AuditUnavailableError(message) from error
            _log.error("%s", message)

    async def close(self) -> None:
        try:
            self._ready, self.is_closed = False, True
            journal = self._only or self._by_loop.pop(asyncio.get_running_loop(), None)
            if journal is not None:
                await journal.end()
        finally:
            await super().close()

    async def journal(self) -> Journal:
        """Where this event loop writes."""
        if self._ready and self._only is not None:
            return self._only
        self.is_closed = False
        if self._only is not None:
            self._ready = True
            with suppress(OSError, StorageError):  # The first entry tries again, and tells.
                await self._only.start()
            return self._only
        loop = asyncio.get_running_loop()
        found = self._by_loop.get(loop)
        if found is None:
            found = self._by_loop[loop] = TableJournal(self.inner.tables, self.options)
            await found.start()
        return found

    # -- entries

    async def record(self, *entries: Entry, must: bool) -> int | None:
        """Write entries, and return the number of the last; None if they are missing.

        :param must: whether that is an error.
        :raises AuditUnavailableError: it is.
        """
        journal = self._only if self._ready and self._only is not None else await self.journal()
        try:
            seq = journal.add(*entries)
            if journal.waits:
                await journal.recorded(seq)
        except AuditUnavailableError:
            if must:
                raise
            return None
        return seq

    async def log(self, entry: Entry) -> None:
        """Write an entry of a program's own.

        :raises AuditUnavailableError: it cannot be written, and the options do not let that pass.
        """
        await self.record(entry, must=self.is_strict)

    async def around[T](self, operation: Operation, call: Callable[[], Awaitable[T]], /) -> T:
        return await self.audited(operation, call)

    async def audited[T](
        self, operation: Operation, call: Callable[[], Awaitable[T]], /, *, size: int | None = None
    ) -> T:
        """Do ``call`` and record it.

        :param size: of the object, if neither the operation nor its result tells.
        """
        pending = self.begun(operation)
        if pending is None:
            return await call()
        if self.is_strict and pending.is_write:
            await pending.intend()
        try:
            result = await call()
        except BaseException as error:
            await pending.failed(error, operation.size)
            raise
        outcome, told = self._told(operation, result)
        must = self.is_strict and not pending.is_write
        await self.record(*pending.ended(outcome, size if told is None else told), must=must)
        return result

    def _told(self, operation: Operation, result: Any) -> tuple[str, int | None]:
        """The outcome, and the size as the caller knows it."""
        if isinstance(result, StoredObject):
            return self.outcome_of(result.info), len(result.data)
        if isinstance(result, ObjectInfo):
            return self.outcome_of(result), None
        if operation.port == "objects" and operation.name == "put_stream":
            return "success", result.size
        is_unchanged = result is None and operation.name == "get"
        return "not-modified" if is_unchanged else "success", operation.size

    def outcome_of(self, info: ObjectInfo) -> str:
        """Of a read that has found this."""
        until = expiry.end_in(info.metadata)
        return "key-not-found" if until is not None and until <= self.objects.clock() else "success"

    def begun(self, operation: Operation) -> Pending | None:
        """The operation, if it is to be recorded."""
        is_write = f"{operation.port}.{operation.name}" in WRITES
        if not (is_write or self._reads):
            return None
        what = named(operation)
        source = f"objects/{operation.target}" if operation.name == "copy" else None
        if self._filtered and not (what := self._wanted(operation, what, source)):
            return None
        return Pending(self, what, source, is_write)

    def _wanted(
        self, operation: Operation, what: list[tuple[str, str]], source: str | None
    ) -> list[tuple[str, str]]:
        """What the options ask for."""
        prefixes, exclude = self.options.prefixes, self.options.exclude
        lists = operation.name in ("scan", "query")

        def is_wanted(resource: str) -> bool:
            if resource.startswith(exclude):
                return False
            # A listing shows what is below its prefix.
            return (
                not prefixes
                or resource.startswith(prefixes)
                or (lists and any(prefix.startswith(resource) for prefix in prefixes))
            )

        return [each for each in what if is_wanted(each[1]) or (source is not None and is_wanted(source))]


_living: list[weakref.ref[AuditLayer]] = []


def newest() -> AuditLayer | None:
    """The layer that was made last and is still in use."""
    for reference in reversed(_living):
        if (layer := reference()) is not None and not layer.is_closed:
            return layer
    return None
