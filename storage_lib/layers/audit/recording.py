"""What is recorded of operations, and in which journal: `Recorder`."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from storage_lib.callers import caller
from storage_lib.config.audit import AuditOptions
from storage_lib.errors import StorageError, UnsupportedOperationError
from storage_lib.layers.audit.entries import Entry, Seal
from storage_lib.layers.audit.files import FileJournal
from storage_lib.layers.audit.journal import AuditUnavailableError, Journal
from storage_lib.layers.audit.logs import LogJournal
from storage_lib.layers.audit.tables import TableJournal, head_table
from storage_lib.layers.base import Operation
from storage_lib.ports import expiry
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.object_model import ObjectInfo, StoredObject

_log = logging.getLogger("AOS.Storage")


class Recorder:
    """Records operations as the options want it.

    :param inner: the backend whose operations they are, and whose tables may hold the log.
    """

    def __init__(self, inner: StorageBackend, options: AuditOptions) -> None:
        self._inner = inner
        self._options = options
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

    async def open(self) -> None:
        """:raises AuditUnavailableError: the log cannot be written, and the options do not let that pass."""
        try:
            if self._options.sink == "table":
                for table in (self._options.table, head_table(self._options.table)):
                    await self._inner.tables.create_table(table)
            await (await self.journal()).start()
        except UnsupportedOperationError:
            raise  # It never will.
        except (OSError, StorageError) as error:
            message = f"the audit log cannot be written: {error}"
            if self.is_strict:
                raise AuditUnavailableError(message) from error
            _log.error("%s", message)

    async def close(self) -> None:
        self._ready, self.is_closed = False, True
        journal = self._only or self._by_loop.pop(asyncio.get_running_loop(), None)
        if journal is not None:
            await journal.end()

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
            found = self._by_loop[loop] = TableJournal(self._inner.tables, self._options)
            await found.start()
        return found

    async def record(self, *entries: Entry, must: bool) -> None:
        """Write entries.

        :param must: whether it is an error if they cannot be written.
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
        return "key-not-found" if until is not None and until <= self._inner.objects.clock() else "success"

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
        prefixes, exclude = self._options.prefixes, self._options.exclude
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


class Pending:
    """The entries of an operation that has begun."""

    __slots__ = ("_began", "_caller", "_intents", "_recorder", "_source", "_time", "_what", "is_write")

    def __init__(
        self, recorder: Recorder, what: list[tuple[str, str]], source: str | None, is_write: bool
    ) -> None:
        self.is_write = is_write
        self._recorder = recorder
        self._what = what
        self._source = source
        self._caller = caller()
        self._time = datetime.now(UTC)
        self._intents: int | None = None
        self._began = perf_counter()

    def _entries(self, kind: str, outcome: str, size: int | None, ms: float | None) -> list[Entry]:
        who, first = self._caller, self._intents
        return [
            Entry(
                time=self._time,
                kind=kind,
                actor=who.actor,
                action=action,
                resource=resource,
                outcome=outcome,
                size=size,
                ms=ms,
                correlation=who.correlation,
                source=self._source,
                intent=None if first is None else first + n,
            )
            for n, (action, resource) in enumerate(self._what)
        ]

    async def intend(self) -> None:
        """:raises AuditUnavailableError: the operation must not begin."""
        journal = await self._recorder.journal()
        last = journal.add(*self._entries("intent", "", None, None))
        self._intents = last - len(self._what) + 1
        if journal.waits:
            try:
                await journal.recorded(last)
            except BaseException as error:
                # The entry may be there, and nothing was done.
                await self.cut(outcome_of(error), None)
                raise

    async def end(self, outcome: str, size: int | None) -> None:
        await self._recorder.record(*self.ended(outcome, size), must=False)

    async def failed(self, error: BaseException, size: int | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            await self.cut(outcome_of(error), size)
        else:
            await self.end(outcome_of(error), size)

    async def cut(self, outcome: str, size: int | None) -> None:
        """Record it without waiting for anything: its caller is gone."""
        with suppress(AuditUnavailableError):  # Counted as missing.
            (await self._recorder.journal()).add(*self.ended(outcome, size))

    def ended(self, outcome: str, size: int | None) -> list[Entry]:
        """The entries that tell how it ended."""
        return self._entries("entry", outcome, size, int((perf_counter() - self._began) * 1e6) / 1000)


def outcome_of(error: BaseException) -> str:
    if isinstance(error, StorageError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


WRITES = frozenset(
    {
        "objects.put",
        "objects.put_stream",
        "objects.delete",
        "objects.copy",
        "objects.touch",
        "objects.link",
        "tables.create_table",
        "tables.insert",
        "tables.upsert",
        "tables.update",
        "tables.delete",
        "tables.batch",
        "queues.create_queue",
        "queues.send",
        "queues.delete",
        "queues.update",
        "queues.clear",
    }
)
"""All others are reads. So is receiving a message, which hides it for a while. A link counts as a write: it
lets others in."""


def named(operation: Operation) -> list[tuple[str, str]]:
    """(action, resource) of an operation: ``objects/KEY``, ``queues/QUEUE``, ``tables/TABLE``,
    ``tables/TABLE/PARTITION/ROW``. No table key has a slash. A batch changes several."""
    port, name, target = operation.port, operation.name, operation.target
    action = f"{port}.{name}"
    if port == "objects":
        return [(action, f"objects/{operation.arguments[0] if name == 'copy' else target}")]
    if port == "queues" or name in ("create_table", "query", "list_tables"):
        return [(action, f"{port}/{target}")]
    pk, what = operation.arguments
    place = f"tables/{target}/{pk}/"
    if name == "batch":
        return [(f"tables.{type(each).__name__.lower()}", place + each.row_key) for each in what]
    return [(action, place + (what if isinstance(what, str) else what.row_key))]
