"""Waiting for the end or a change of a task: few reads, and few places taken from other requests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable

from storage_lib.tasks.model import TaskRecord
from storage_lib.tasks.records import TaskRecords

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 3.0
"""Between two reads of a record. The end of a task that ran in this process is not waited for."""


class Waiting:
    """Those who wait for the ends of tasks.

    :param most: how many may wait at the same time; others get the record as it is at once.
    """

    def __init__(self, records: TaskRecords, most: float) -> None:
        self._records = records
        self._most = most
        self._count = 0
        self._waiters: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    @property
    def has_room(self) -> bool:
        """Whether one more may wait."""
        return self._count < self._most

    async def until(self, task_id: str, seconds: float, holds: Callable[[TaskRecord], bool]) -> TaskRecord:
        """The record of a task once that holds for it, or as it is after that many seconds, or now if too
        many wait already.

        :raises KeyNotFoundError: there is no such task.
        """
        if seconds <= 0 or self._count >= self._most:
            return await self._records.get(task_id)
        self._count += 1
        try:
            record = await self._read_until(task_id, seconds, holds)
        finally:
            self._count -= 1
        return await self._records.get(task_id) if record.omitted else record

    async def _read_until(
        self, task_id: str, seconds: float, holds: Callable[[TaskRecord], bool]
    ) -> TaskRecord:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + seconds, FIRST_PAUSE_SECONDS
        while True:
            # Before the read, so that an end that it does not see is noticed.
            woken = loop.create_future()
            self._waiters[task_id].add(woken)
            try:
                record = await self._records.get(task_id, contents=False)
                left = until - loop.time()
                if left <= 0 or holds(record):
                    return record
                await asyncio.wait({woken}, timeout=min(pause, left))
            finally:
                self._waiters[task_id].discard(woken)
                if not self._waiters[task_id]:
                    del self._waiters[task_id]
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def wake(self, task_ids: Iterable[str]) -> None:
        """These tasks have ended here."""
        for task_id in task_ids:
            for waiter in self._waiters.get(task_id, ()):
                if not waiter.done():
                    waiter.set_result(None)
