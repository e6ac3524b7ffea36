"""`AuditLayer`: the entries of each operation."""

from __future__ import annotations

import asyncio
import logging
import os
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
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
from storage_lib.layers.audit.resources import WRITES, named
from storage_lib.layers.audit.tables import TableJournal, head_table
from storage_lib.layers.base import Layer, ObjectLayer, Operation
from storage_lib.ports import expiry, hidden
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import GetOptions, ObjectDriver, PutOptions, Repeat, once
from storage_lib.ports.object_model import ObjectInfo, PutResult, StoredObject
from storage_lib.ports.streaming import Parts

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
        return await self.audited(operation, call, _told)

    async def audited[T](
        self,
        operation: Operation,
        call: Callable[[], Awaitable[T]],
        told: Callable[[T], tuple[str, int | None]],
        source: str | None = None,
    ) -> T:
        """Do ``call`` and record it.

        :param told: the outcome and the size that its result tells.
        :param source: what a copy reads.
        """
        pending = self.begun(operation, source)
        if pending is None:
            return await call()
        if self.is_strict and pending.is_write:
            await pending.intend()
        try:
            result = await call()
        except BaseException as error:
            await pending.failed(error, operation.size)
            raise
        outcome, size = told(result)
        must = self.is_strict and not pending.is_write
        await self.record(*pending.ended(outcome, operation.size if size is None else size), must=must)
        return result

    def begun(self, operation: Operation, source: str | None = None) -> Pending | None:
        """The operation, if it is to be recorded."""
        is_write = f"{operation.port}.{operation.name}" in WRITES
        if not (is_write or self._reads):
            return None
        what = named(operation)
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


class Pending:
    """The entries of an operation that has begun."""

    __slots__ = ("_began", "_caller", "_intents", "_layer", "_source", "_time", "_what", "is_write")

    def __init__(
        self, layer: AuditLayer, what: list[tuple[str, str]], source: str | None, is_write: bool
    ) -> None:
        self.is_write = is_write
        self._layer = layer
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
        journal = await self._layer.journal()
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
        await self._layer.record(*self.ended(outcome, size), must=False)

    async def failed(self, error: BaseException, size: int | None) -> None:
        if isinstance(error, asyncio.CancelledError):
            await self.cut(outcome_of(error), size)
        else:
            await self.end(outcome_of(error), size)

    async def cut(self, outcome: str, size: int | None) -> None:
        """Record it without waiting for anything: its caller is gone."""
        with suppress(AuditUnavailableError):  # Counted as missing.
            (await self._layer.journal()).add(*self.ended(outcome, size))

    def ended(self, outcome: str, size: int | None) -> list[Entry]:
        """The entries that tell how it ended."""
        return self._entries("entry", outcome, size, int((perf_counter() - self._began) * 1e6) / 1000)


class AuditedObjects(ObjectLayer):
    """Objects with the sizes that callers know."""

    def __init__(self, inner: ObjectDriver, layer: AuditLayer) -> None:
        super().__init__(inner, layer.around)
        self._layer = layer

    def _outcome(self, info: ObjectInfo) -> str:
        until = expiry.end_in(info.metadata)
        return "key-not-found" if until is not None and until <= self.clock() else "success"

    async def put(self, key: str, data: bytes, options: PutOptions) -> PutResult:
        operation = Operation("objects", "put", key, (options,), len(data))
        return await self._layer.audited(operation, lambda: self.inner.put(key, data, options), _told)

    async def get(self, key: str, options: GetOptions) -> StoredObject | None:
        def told(found: StoredObject | None) -> tuple[str, int | None]:
            return ("not-modified", None) if found is None else (self._outcome(found.info), len(found.data))

        operation = Operation("objects", "get", key, (options,))
        return await self._layer.audited(operation, lambda: self.inner.get(key, options), told)

    async def head(self, key: str) -> ObjectInfo:
        operation = Operation("objects", "head", key)
        return await self._layer.audited(
            operation, lambda: self.inner.head(key), lambda info: (self._outcome(info), None)
        )

    async def put_stream(
        self, key: str, parts: Parts, options: PutOptions, repeat: Repeat = once
    ) -> PutResult:
        operation = Operation("objects", "put_stream", key, (options,))
        return await self._layer.audited(
            operation,
            lambda: self.inner.put_stream(key, parts, options, repeat),
            lambda _: ("success", parts.size),
        )

    async def copy(self, source: ObjectInfo, target: str, if_absent: bool) -> PutResult:
        operation = Operation("objects", "copy", source.key, (target, if_absent))
        size = hidden.presented(source).size
        return await self._layer.audited(
            operation,
            lambda: self.inner.copy(source, target, if_absent),
            lambda _: ("success", size),
            f"objects/{source.key}",
        )

    async def read_stream(
        self, key: str, options: GetOptions
    ) -> tuple[ObjectInfo, int, AsyncGenerator[bytes]]:
        """The operation ends with the stream."""
        operation = Operation("objects", "read_stream", key, (options,))
        pending = self._layer.begun(operation)
        if pending is None:
            return await self.inner.read_stream(key, options)
        if self._layer.is_strict:
            await pending.intend()
        try:
            info, start, chunks = await self.inner.read_stream(key, options)
        except BaseException as error:
            await pending.failed(error, None)
            raise
        return info, start, Counted(chunks, pending, self._outcome(info))


class Counted(AsyncGenerator[bytes]):
    """The chunks of a stream. It is recorded when they end, with how many bytes were read; also if it is
    closed before the first was, which a generator would not notice."""

    def __init__(self, chunks: AsyncGenerator[bytes], pending: Pending, outcome: str) -> None:
        self._chunks = chunks
        self._pending: Pending | None = pending
        self._outcome = outcome
        self._size = 0

    async def asend(self, value: None) -> bytes:
        try:
            chunk = await self._chunks.asend(value)
        except StopAsyncIteration:
            if pending := self._taken():
                await pending.end(self._outcome, self._size)
            raise
        except BaseException as error:
            if pending := self._taken():
                await pending.failed(error, self._size)
            raise
        self._size += len(chunk)
        return chunk

    async def athrow(self, *error: Any) -> bytes:
        try:
            return await self._chunks.athrow(*error)
        finally:
            await self._left()

    async def aclose(self) -> None:
        try:
            await self._chunks.aclose()
        finally:
            await self._left()

    async def _left(self) -> None:
        if pending := self._taken():
            await pending.cut(
                "not-read-to-the-end" if self._outcome == "success" else self._outcome, self._size
            )

    def _taken(self) -> Pending | None:
        pending, self._pending = self._pending, None
        return pending


def outcome_of(error: BaseException) -> str:
    if isinstance(error, StorageError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__


def _told(result: Any) -> tuple[str, int | None]:
    return "success", None


_living: list[weakref.ref[AuditLayer]] = []


def newest() -> AuditLayer | None:
    """The layer that was made last and is still in use."""
    for reference in reversed(_living):
        if (layer := reference()) is not None and not layer.is_closed:
            return layer
    return None
