"""The first page of a list of task records on files, by how many records there are."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime

from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.model import TaskRecord, TaskStatus, new_task_id
from storage_lib.tasks.records import TaskRecords

FEW, MANY = 1_000, 100_000
AT_ONCE = 500
SECONDS_APART = 20
PAGE = 50
TURNS = 15


def measure(_: int) -> list[tuple[str, str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        few, many = asyncio.run(_measure(folder))
    return [(f"first page of {MANY:,} task records / of {FEW:,}", f"{many / few:.2f} x", "constant")]


async def _measure(folder: str) -> list[float]:
    async with StorageManager(StorageConfig(base_path=folder)) as storage:
        records = TaskRecords(storage.backend)
        now, there = time.time(), 0
        medians: list[float] = []
        for count in (FEW, MANY):
            while there < count:
                more = range(there, there := min(there + AT_ONCE, count))
                await asyncio.gather(*(records.insert(_ended(now - n * SECONDS_APART)) for n in more))
            medians.append(statistics.median([await _first_page(records) for _ in range(TURNS)]))
        return medians


async def _first_page(records: TaskRecords) -> float:
    started = time.perf_counter()
    page = await records.list(limit=PAGE)
    took = time.perf_counter() - started
    assert len(page.records) == PAGE
    return took


def _ended(moment: float) -> TaskRecord:
    at = datetime.fromtimestamp(moment, UTC)
    return TaskRecord(
        task_id=new_task_id(moment),
        agent_id="bench",
        action="no_op",
        status=TaskStatus.SUCCEEDED,
        created_at=at,
        updated_at=at,
        finished_at=at,
    )
