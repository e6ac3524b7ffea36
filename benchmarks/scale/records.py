"""What grows with the records that are kept: on files, a thousand beside a hundred times as many."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from benchmarks.scale.bulk import in_batches
from benchmarks.scale.delays import Delays
from benchmarks.scale.folders import folder
from benchmarks.scale.processor import spent
from benchmarks.scale.rows import Row
from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TaskRecord, TaskStatus, new_task_id

FEW, MANY = 1_000, 100_000
DAYS = 7
TURNS = 15
LATENCY = 0.008
RARE, COMMON = "agent-rare", "agent-common"

Look = Callable[[TaskEngine, float], Awaitable[None]]


def looks(size: float) -> list[Row]:
    """The hourly repair, and lists by filters that find something, one record, or nothing."""
    return asyncio.run(_looks(int(MANY * size)))


def expiry(size: float) -> list[Row]:
    """Records of ended tasks, at 8 ms a request to each driver."""
    return asyncio.run(_expiry(4 * FEW))


async def _looks(many: int) -> list[Row]:
    """A store of each size; turns alternate, so that whatever else the machine does meets both alike."""
    start = time.time()
    with folder() as one, folder() as other:
        async with _engine(one) as small, _engine(other) as large:
            for engine, count in ((small, FEW), (large, many)):
                await engine.records.insert(_ended(start - 30, agent=RARE, status=TaskStatus.FAILED))
                await _fill(engine, start, 0, count, (DAYS * 86_400 - 600) / many)
            costs = {name: await _cpu(look, (small, large), start) for name, look in _LOOKS.items()}
    rows: list[Row] = []
    for name, (few, more) in costs.items():
        most = 1.5 if name.startswith("hourly") else 2
        rows.append(Row(f"{name}: {many:,} records / {FEW:,}, CPU on files", more / few, " x", most=most))
        rows.append(Row(f"  with {many:,}", more * 1000, " ms"))
    return rows


async def _repair(engine: TaskEngine, start: float) -> None:
    await engine.redeliver()


async def _take_over(engine: TaskEngine, start: float) -> None:
    await engine.take_over(older=True)


def _list(found: int, **filters: str) -> Look:
    async def look(engine: TaskEngine, start: float) -> None:
        page = await engine.list(limit=50, **filters)  # pyright: ignore[reportArgumentType]
        assert len(page.records) == found

    return look


async def _list_after(engine: TaskEngine, start: float) -> None:
    page = await engine.list(limit=50, created_after=datetime.fromtimestamp(start + 60, UTC))
    assert not page.records


_LOOKS: dict[str, Look] = {
    "hourly repair": _repair,
    "hourly search for tasks whose host is gone": _take_over,
    "list without a filter": _list(50),
    "list by agent_id, which many have": _list(50, agent_id=COMMON),
    "list by agent_id, which one has": _list(1, agent_id=RARE),
    "list by agent_id, which none has": _list(0, agent_id="agent-none"),
    "list by status, which one has": _list(1, status="failed"),
    "list by status, which none has": _list(0, status="running"),
    "list by parent_id, which none has": _list(0, parent_id=new_task_id(1_700_000_000)),
    "list by created_after, which finds nothing": _list_after,
}


async def _expiry(count: int) -> list[Row]:
    async with StorageManager(backend=MemoryBackend()) as storage:
        engine = TaskEngine(storage, events=False)
        long_ago = time.time() - 40 * 86_400
        await _fill(engine, long_ago, 0, count, 60)
        delays = Delays(storage.backend, LATENCY)
        removed = 0
        with spent() as span:
            while found := (await engine.expire(datetime.now(UTC) - timedelta(days=30), 1000))[0]:
                removed += found
        assert removed == count, (removed, count)
    what = f"expiry of {count:,} ended tasks"
    return [
        Row(f"{what}: requests a record", delays.count / removed, most=0.03),
        Row(
            f"{what}: at {LATENCY * 1000:.0f} ms a request",
            removed / span.seconds,
            " /s",
            least=2000,
            outside=span.told(),
        ),
    ]


async def _fill(engine: TaskEngine, start: float, begin: int, end: int, apart: float) -> None:
    async with in_batches(engine.storage.backend.tables):
        for n in range(begin, end):
            await engine.records.insert(_ended(start - 60 - n * apart))


def _ended(moment: float, agent: str = COMMON, status: TaskStatus = TaskStatus.SUCCEEDED) -> TaskRecord:
    at = datetime.fromtimestamp(moment, UTC)
    return TaskRecord(
        task_id=new_task_id(moment),
        agent_id=agent,
        action="no_op",
        status=status,
        created_at=at,
        updated_at=at,
        finished_at=at,
    )


async def _cpu(look: Look, engines: Sequence[TaskEngine], start: float) -> list[float]:
    """Processor seconds of all threads for each of the stores, the least of some turns."""
    least = [math.inf] * len(engines)
    for turn in range(TURNS + 1):
        for n, engine in enumerate(engines):
            began = time.process_time()
            await look(engine, start)
            if turn:  # The first is not measured.
                least[n] = min(least[n], time.process_time() - began)
    return least


@asynccontextmanager
async def _engine(path: str) -> AsyncGenerator[TaskEngine]:
    async with StorageManager(StorageConfig(base_path=path)) as storage:
        yield TaskEngine(storage, events=False)
