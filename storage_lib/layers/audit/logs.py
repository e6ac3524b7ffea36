"""Entries in the logger ``AOS.Audit``, one JSON object a record."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

from storage_lib.layers.audit.entries import Entry, Seal
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
            if self.chain.seq == 0:
                begin = Entry(kind="begin", actor="system", context={"key": self.seal.name})
                begin.time = entries[0].time
                entries = (begin, *entries)
        lines = self.chain.link(entries)
        self.chain.advance()
        for line in lines:
            self._emit(line)

    def _emit(self, line: bytes) -> None:
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        # `info` looks for its caller, its thread and its task, which costs more than all the rest. So each
        # record is a copy of one that was made as the program's factory makes them.
        if self._like is None or self._pid != os.getpid():
            factory = logging.getLogRecordFactory()
            self._pid, self._like = os.getpid(), factory(LOGGER, logging.INFO, __file__, 0, "", None, None)
        record = logging.LogRecord.__new__(type(self._like))
        now = time.time()
        vars(record).update(vars(self._like))
        record.msg, record.created, record.msecs = line.decode(), now, int(now % 1 * 1000)
        record.relativeCreated = self._like.relativeCreated + (now - self._like.created) * 1000
        logger.handle(record)
