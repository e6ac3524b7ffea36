"""Entries as entities: the partition is the writer, the row the number of the entry.

The writer of an event loop is written to by that loop alone. Entries go out in batches, one request for up to
100; a batch whose answer was lost is sent again as it was. The head, in a table of its own, follows each.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from storage_lib.config.audit import AuditOptions
from storage_lib.errors import StorageError, TransientStorageError
from storage_lib.layers.audit.entries import Entry, Seal
from storage_lib.layers.audit.journal import AuditUnavailableError, Journal
from storage_lib.ports.table_model import TableOperation, Upsert
from storage_lib.ports.tables import TableStore

BATCH = 100
"""Entities of one transaction (Azure's limit)."""
BATCH_BYTES = 1_000_000
MAX_PENDING = 10_000
_LONGEST_PAUSE_SECONDS = 30.0
_log = logging.getLogger("AOS.Storage")


def row_key(seq: int) -> str:
    return f"{seq:012}"


def columns(entry: Entry) -> dict[str, Any]:
    """What can be filtered by. `verify` compares it with the entry."""
    found = {
        "kind": entry.kind,
        "actor": entry.actor,
        "action": entry.action,
        "resource": entry.resource,
        "outcome": entry.outcome,
        "correlation": entry.correlation or "",
        "time": entry.time,
    }
    return {name: value for name, value in found.items() if value}


def head_table(table: str) -> str:
    return f"{table}heads"


class TableJournal(Journal):
    """The entities of one writer, in one event loop."""

    def __init__(self, tables: TableStore, options: AuditOptions) -> None:
        super().__init__(Seal(options.key))
        self._tables = tables
        self._table = options.table
        # An operation that is refused without its entry has to know.
        self.waits = options.sync_ms == 0 or options.on_failure == "refuse"
        self._seconds = options.sync_ms / 1000
        self._pending: deque[tuple[int, str, int, TableOperation]] = deque()
        self._written = (0, "")
        self._sealed: int | None = None
        self._sending: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._lifetime: AsyncGenerator[None] | None = None

    async def start(self) -> None:
        """asyncio finishes async generators before it closes a loop, and with this one what is pending."""
        if self._lifetime is None:
            self._lifetime = _until_closed(self)
            await anext(self._lifetime)

    def _put(self, entries: Sequence[Entry]) -> None:
        if self.chain.seq == 0 and not self._pending:
            entries = self._begin(entries)
        if len(self._pending) + len(entries) > MAX_PENDING:
            raise TransientStorageError(f"{MAX_PENDING} entries wait for the table {self._table!r}")
        seq = self.chain.seq
        lines = self.chain.link(entries)
        self.chain.advance()
        for entry, line in zip(entries, lines, strict=True):
            seq += 1
            properties = {**columns(entry), "entry": line.decode()}
            last = line[-66:-2].decode()
            self._pending.append((seq, last, len(line), Upsert(row_key(seq), properties, "replace")))
        if self._timer is None and self._sending is None:
            full = len(self._pending) >= BATCH and not self._failures
            self._send_in(0 if full or self.waits else self._pause())
        elif self._timer is not None and not self._failures and len(self._pending) >= BATCH:
            self._send_in(0)

    def _pause(self) -> float:
        if not self._failures:
            return self._seconds
        return min(max(self._seconds, 0.5) * 2.0**self._failures, _LONGEST_PAUSE_SECONDS)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_in(self, seconds: float) -> None:
        self._stop_timer()
        if seconds:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._send)
        else:
            self._send()

    def _send(self) -> asyncio.Task[None]:
        self._stop_timer()
        if self._sending is None:
            task = asyncio.get_running_loop().create_task(self._send_all(), name="audit")
            self._sending = task
            task.add_done_callback(self._sent)
        return self._sending

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not self._failures:
                _log.error("the audit table cannot be written: %s: %s", type(error).__name__, error)
            self._failures += 1
        elif self._failures and not task.cancelled():
            _log.warning("the audit table is written again")
            self._failures = 0
        if self._pending and not task.get_loop().is_closed():
            self._send_in(self._pause() or 0.01)

    async def _send_all(self) -> None:
        if self._sealed is None:
            # Before the first entry: a log without a head was tampered with.
            await self._seal(closed=False)
        while self._pending:
            batch = self._next_batch()
            await self._tables.batch(self._table, self.chain.writer, [each[3] for each in batch])
            for _ in batch:
                self._pending.popleft()
            self._written = batch[-1][:2]
        await self._seal(closed=False)

    def _next_batch(self) -> list[tuple[int, str, int, TableOperation]]:
        batch: list[tuple[int, str, int, TableOperation]] = []
        size = 0
        for each in self._pending:
            size += each[2]
            if batch and (len(batch) == BATCH or size > BATCH_BYTES):
                break
            batch.append(each)
        return batch

    async def _seal(self, *, closed: bool) -> None:
        count, last = self._written
        if self._sealed == count and not closed:
            return
        line, _ = self.seal.sealed(self.chain.head(count, last, closed=closed))
        await self._tables.upsert(
            head_table(self._table), "heads", self.chain.writer, {"head": line.decode()}, mode="replace"
        )
        self._sealed = count

    async def recorded(self, seq: int) -> None:
        while self._written[0] < seq:
            if not self._pending:  # It ended meanwhile, without this entry.
                raise AuditUnavailableError("the audit table was closed")
            try:
                await asyncio.shield(self._send())
            except StorageError as error:
                raise AuditUnavailableError(
                    "the audit table cannot be written", remedy="see the log AOS.Storage for the reason"
                ) from error

    async def end(self) -> None:
        lifetime, self._lifetime = self._lifetime, None
        if lifetime is not None:
            await lifetime.aclose()

    async def finish(self) -> None:
        """Write what is pending, and seal it."""
        self._stop_timer()
        try:
            while self._pending:
                await asyncio.shield(self._send())
            if self._missed:
                with self.lock:
                    self._put([self._gap()])
                    self._recovered()
                await asyncio.shield(self._send())
            if self._sending is not None:
                await asyncio.shield(self._sending)
            if self.chain.seq:
                await self._seal(closed=True)
        except StorageError as error:
            _log.error(
                "the audit table could not be written at the end: %d entries are lost: %s",
                len(self._pending) + self._missed,
                error,
            )
            self._pending.clear()
        finally:
            self._stop_timer()


async def _until_closed(journal: TableJournal) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await journal.finish()
