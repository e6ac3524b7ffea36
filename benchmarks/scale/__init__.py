"""Cost that stays flat as the work grows: what was measured of this tree, what it must be, whether it holds.

Requests are counted by a proxy before the servers, or at the drivers of tables and queues, where each call is
one request. Ratios are taken in one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.scale import files, objects, records, tasks
from benchmarks.scale.rows import Row

MEASURES: tuple[Callable[[float], list[Row]], ...] = (
    records.expiry,
    records.looks,
    tasks.partitions,
    tasks.fan_out,
    objects.pages_and_sweeps,
    objects.saves_over_http,
    tasks.waiting,
    tasks.no_op,
    objects.deletions,
    files.busy_folder,
    files.start,
    files.database,
)


def measure(_: int, size: float = 1) -> Iterator[tuple[str, str, str]]:
    """:param size: of the stores that are built, as a part of the full one; bounds are meant for that."""
    missed = total = 0
    for one in MEASURES:
        try:
            rows = one(size)
        except Exception as error:  # The others are measured nevertheless.
            yield f"{one.__module__}.{one.__qualname__}", "failed", f"{type(error).__name__}: {error}"
            missed, total = missed + 1, total + 1
            continue
        for row in rows:
            yield row.told()
            missed += not row.holds
            total += row.is_bound
    yield "rows that hold", f"{total - missed}", f"of {total}"
