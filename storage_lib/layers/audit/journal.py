"""Where entries are written, and what happens if they cannot be."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime

from storage_lib.errors import StorageError, StorageUnavailableError
from storage_lib.layers.audit.entries import Chain, Entry, Seal

_log = logging.getLogger("AOS.Storage")


class AuditUnavailableError(StorageUnavailableError):
    """The audit log cannot be written, and an operation must not go on without it."""

    code = "audit-unavailable"


class Journal(ABC):
    """The chain of one writer, in a place that may fail. Entries that could not be written are counted; the
    next one that can be is preceded by an entry that says how many are missing, and why."""

    waits = False
    """Whether `recorded` has to be awaited."""

    def __init__(self, seal: Seal) -> None:
        self.seal = seal
        self.chain = Chain(seal)
        self.lock = threading.Lock()
        self._missed = self._unsure = 0
        self._since: datetime | None = None
        self._reason = ""

    def add(self, *entries: Entry) -> int:
        """Write entries, and return the number of the last.

        :raises AuditUnavailableError: they cannot be written.
        """
        with self.lock:
            try:
                if self._missed or self._unsure:
                    self._put([self._gap()])
                    self._recovered()
                self._put(entries)
            except (OSError, StorageError) as error:
                self.miss(len(entries), error)
                raise AuditUnavailableError(
                    "the audit log cannot be written", remedy="see the log AOS.Storage for the reason"
                ) from error
            return self.chain.seq

    async def recorded(self, seq: int) -> None:  # noqa: B027 - nothing to wait for
        """Wait until that entry is recorded as durably as the options demand.

        :raises AuditUnavailableError: it is not.
        """

    async def start(self) -> None:  # noqa: B027 - nothing to prepare
        """Make the place ready.

        :raises OSError, StorageError: it cannot be."""

    @abstractmethod
    async def end(self) -> None:
        """Write what is left, and seal it."""

    @abstractmethod
    def _put(self, entries: Sequence[Entry]) -> None:
        """Link and write the entries, or none of them. Called with the lock held."""

    def miss(self, count: int, error: BaseException, *, unsure: int = 0) -> None:
        """Count entries that are missing, and those of which it is not known. Called with the lock held."""
        if not self._missed and not self._unsure:
            self._since = datetime.now(UTC)
            _log.error("the audit log cannot be written: %s: %s", type(error).__name__, error)
        self._missed += count
        self._unsure += unsure
        self._reason = f"{type(error).__name__}: {error}"[:300]

    @property
    def missed(self) -> int:
        """How many entries are missing or may be, of which the log does not tell yet."""
        return self._missed + self._unsure

    def _gap(self) -> Entry:
        context = {"count": self._missed, "since": self._since, "reason": self._reason}
        if self._unsure:
            context["unsure"] = self._unsure
        return Entry(time=datetime.now(UTC), kind="gap", actor="system", action="audit.gap", context=context)

    def _begin(self, entries: Sequence[Entry]) -> tuple[Entry, ...]:
        """The first entries of a chain, behind the one that begins it."""
        context = {"key": self.seal.name}
        return (Entry(time=entries[0].time, kind="begin", actor="system", context=context), *entries)

    def _recovered(self) -> None:
        _log.warning("the audit log is written again; %d entries are missing", self._missed)
        self._missed, self._unsure, self._since, self._reason = 0, 0, None, ""
