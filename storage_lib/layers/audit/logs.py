"""Entries in the logger ``AOS.Audit``, one JSON object a record."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence

from storage_lib.layers.audit.entries import Chain, Entry, Seal
from storage_lib.layers.audit.journal import Journal

LOGGER = "AOS.Audit"


class LogJournal(Journal):
    """Writes to the logger. Whether its handlers keep the records is not known here."""

    def __init__(self, seal: Seal) -> None:
        super().__init__(seal)
        self._logger = logging.getLogger(LOGGER)
        if self._logger.level == logging.NOTSET:
            # The root's default would hold them back.
            self._logger.setLevel(logging.INFO)
        self._closed = True
        self._started = False
        self._like: logging.LogRecord | None = None
        self._pid = 0
        self._started_at = 0.0

    def add(self, *entries: Entry) -> int:
        if self._pid != os.getpid():
            if self._pid:  # A forked process has a chain of its own.
                self.chain, self.lock, self._closed = Chain(self.seal), threading.Lock(), True
            self._pid, self._like = os.getpid(), None
        return super().add(*entries)

    async def start(self) -> None:
        if not self._started and not self._logger.hasHandlers():
            logging.getLogger("AOS.Storage").warning(
                "the audit log goes to the logger %s, which has no handler: its entries are lost", LOGGER
            )
        self._started = True

    async def end(self) -> None:
        with self.lock:
            if not self._closed:
                self._closed = True
                head = self.chain.head(self.chain.seq, self.chain.last, closed=True)
                self._emit(self.seal.sealed(head)[0])

    def _put(self, entries: Sequence[Entry]) -> None:
        if self._closed:
            self._closed = False
            if self.chain.seq:  # Nothing may follow the head that closed it.
                self.chain = Chain(self.seal)
            entries = self._begin(entries)
        for line in self.chain.link(entries):
            self._emit(line)
        self.chain.advance()

    def _emit(self, line: bytes) -> None:
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        # `info` looks for its caller, its thread and its task, which costs more than all the rest. So each
        # record is a copy of one that was made as the program's factory makes them.
        like = self._like
        if like is None:
            like = self._like = logging.getLogRecordFactory()(
                LOGGER, logging.INFO, __file__, 0, "", None, None
            )
            self._started_at = like.created - like.relativeCreated / 1000
        now = time.time()
        record = object.__new__(type(like))
        fields = vars(like).copy()
        fields["msg"] = line.decode()
        fields["created"] = now
        fields["msecs"] = int(now % 1 * 1000)
        fields["relativeCreated"] = (now - self._started_at) * 1000
        record.__dict__ = fields
        logger.handle(record)
