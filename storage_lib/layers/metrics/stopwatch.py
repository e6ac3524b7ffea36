"""An operation in several steps."""

from __future__ import annotations

from time import perf_counter

from storage_lib.layers.metrics.journal import LOG, Journal
from storage_lib.layers.metrics.meters import BEGUN, Meter


class Stopwatch:
    """Measures one operation in several steps, such as the chunks of a stream: the time that the store took,
    not what the caller did in between. It runs from the start."""

    __slots__ = ("_journal", "_meter", "_seconds", "_since", "_target", "size")

    def __init__(self, meter: Meter, journal: Journal, target: str) -> None:
        meter.numbers()[0][BEGUN] += 1
        self._meter: Meter | None = meter
        self._journal = journal
        self._target = target
        self._seconds = 0.0
        self._since: float | None = perf_counter()
        self.size = 0
        """Bytes of contents so far."""

    def pause(self) -> None:
        if self._since is not None:
            self._seconds += perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        self._since = perf_counter()

    def succeeded(self) -> None:
        """It has ended, or its caller needs no more of it; a later end is ignored."""
        self.pause()
        if (meter := self._meter) is None:
            return
        self._meter = None
        meter.succeeded(meter.numbers(), self._seconds)
        if LOG.isEnabledFor(self._journal.level):
            self._journal.succeeded(meter, self._target, self._seconds, self.size)

    def failed(self, error: BaseException) -> None:
        """It raised ``error``; a later end is ignored."""
        self.pause()
        if (meter := self._meter) is not None:
            self._meter = None
            ended = meter.failed(self._seconds, error)
            self._journal.failed(meter, self._target, self._seconds, self.size, ended)
