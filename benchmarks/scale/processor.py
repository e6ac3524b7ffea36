"""What a miss of time is put down to where others use the machine: seconds that a process was ready to run
and had no processor. Linux tells them; elsewhere none are known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SHARE = 0.1
"""Of its time, that a process waits for a processor where others use them."""


@dataclass
class Span:
    """How long something took: ``seconds`` by the clock, ``cpu`` of this process's processor, and ``waited``
    for one, by this process or the one beside it, whichever waited longer."""

    seconds: float = 0.0
    cpu: float = 0.0
    waited: float = 0.0

    def told(self) -> str:
        """What other than this code took the time; empty if nothing did."""
        if self.waited < _SHARE * self.seconds:
            return ""
        return (
            f"for {self.waited:.1f} of {self.seconds:.1f} s there was no processor, others have"
            f" {os.cpu_count()} busy at a load of {os.getloadavg()[0]:.0f}"
        )


@contextmanager
def spent(*others: int) -> Generator[Span]:
    """:param others: the ids of processes that work for this one."""
    span = Span()
    waits = [_wait_of(each) for each in (os.getpid(), *others)]
    before = [each() for each in waits]
    cpu, began = time.process_time(), time.perf_counter()
    try:
        yield span
    finally:
        span.seconds, span.cpu = time.perf_counter() - began, time.process_time() - cpu
        span.waited = max(each() - start for each, start in zip(waits, before, strict=True))


def _wait_of(process: int) -> Callable[[], float]:
    # "Scheduler statistics" (Linux kernel): time on the processor, waiting for it, number of turns.
    path = Path(f"/proc/{process}/schedstat")

    def waited() -> float:
        try:
            return int(path.read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    return waited
