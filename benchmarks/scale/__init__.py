"""Cost that stays flat as the work grows: what was measured of this tree, what it must be, whether it holds.

Requests are counted by a proxy before the servers, or at the drivers of tables and queues, where each call is
one request. Ratios are taken in one run. What takes the time of a clock has the machine for itself; what
counts requests or the time of its own process runs beside others, each in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from benchmarks.scale import computing, files, objects, records, tasks
from benchmarks.scale.rows import Row

Measure = Callable[[float], list[Row]]

TIMED: tuple[Measure, ...] = (
    records.expiry,
    tasks.fan_out,
    tasks.beside_waiters,
    objects.pages_and_sweeps,
)
COUNTED: tuple[Measure, ...] = (
    records.looks,
    tasks.waiting,
    tasks.partitions,
    tasks.no_op,
    objects.on_azurite,
    objects.on_moto,
    objects.saves_over_http,
    files.busy_folder,
    files.database,
    files.start,
    computing.computing,
)
AT_ONCE = 3
"""Of those that are counted: servers and clients take turns."""


def measure(_: int, size: float = 1) -> Iterator[tuple[str, str, str]]:
    """:param size: of the stores that are built, as a part of the full one; bounds are meant for that."""
    began = time.monotonic()
    missed = outside = total = 0
    for rows in _measured(size):
        for row in rows:
            yield row.told()
            missed += not row.holds and not row.outside
            outside += not row.holds and bool(row.outside)
            total += row.is_bound
    told = f"of {total}; {outside} missed by what is outside this code, {missed} by this code"
    yield "rows that hold", f"{total - missed - outside}", told
    yield "this took", f"{time.monotonic() - began:.0f} s", "at most 300 s on a quiet machine"


def _measured(size: float) -> Iterator[list[Row]]:
    for each in TIMED:
        yield _rows(each, size)
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        running: list[Future[list[Row]]] = [pool.submit(_rows, each, size) for each in COUNTED]
        for each in running:
            yield each.result()


def _rows(one: Measure, size: float) -> list[Row]:
    """Those of one; where it fails the others are measured nevertheless."""
    try:
        return one(size)
    except Exception as error:
        return [
            Row(f"{one.__module__}.{one.__qualname__}: {type(error).__name__}: {error}", 1, " failed", most=0)
        ]
