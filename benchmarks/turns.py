"""Competitors measured in turn, in one process, so that whatever else the machine does meets them alike."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Work = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the clock, and of the processor in all threads of this process."""

    wall: float
    cpu: float


async def in_turn(runs: int, works: dict[str, Work]) -> dict[str, list[Cost]]:
    """Each work ``runs`` times, after once unmeasured; every second turn goes backwards."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for work in works.values():
        await work()
    for run in range(runs):
        for name in list(works) if run % 2 == 0 else reversed(works):
            cpu, wall = time.process_time(), time.perf_counter()
            await works[name]()
            costs[name].append(Cost(time.perf_counter() - wall, time.process_time() - cpu))
    return costs


def cpu_ratio(costs: dict[str, list[Cost]], one: str, other: str) -> float:
    """How many times the processor time of ``other`` is that of ``one``: the median of the turns."""
    return statistics.median(a.cpu / b.cpu for a, b in zip(costs[one], costs[other], strict=True))


def speed_ratio(costs: dict[str, list[Cost]], one: str, other: str) -> float:
    """How many times as fast as ``other`` is ``one``: the median of the turns."""
    return statistics.median(b.wall / a.wall for a, b in zip(costs[one], costs[other], strict=True))


def best_ratio(costs: dict[str, list[Cost]], one: str, other: str) -> float:
    """The same for the best turn of each: for works so long that few turns are to be had."""
    return min(cost.wall for cost in costs[other]) / min(cost.wall for cost in costs[one])


async def side_by_side(count: int, concurrency: int, work: Callable[[int], Awaitable[object]]) -> None:
    """``work(0)`` … ``work(count - 1)``, so many at a time."""

    async def worker(first: int) -> None:
        for n in range(first, count, concurrency):
            await work(n)

    await asyncio.gather(*(worker(first) for first in range(concurrency)))
