"""An operation under way, and the entries that it gets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

from storage_lib.callers import caller
from storage_lib.errors import StorageError
from storage_lib.layers.audit.entries import Entry
from storage_lib.layers.audit.journal import AuditUnavailableError

if TYPE_CHECKING:
    from storage_lib.layers.audit.layer import AuditLayer


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


def outcome_of(error: BaseException) -> str:
    if isinstance(error, StorageError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else type(error).__name__
