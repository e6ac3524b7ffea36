"""What killed hosts had in hand is run soon by others, each effect once, though the queue hides its messages
for the platform's ten minutes."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.errors import StorageError
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.model import TaskRecord
from storage_lib.tasks.repair import REDELIVERED
from storage_lib.tasks.submission import NewTask
from tests.chaos_actions import CHILDREN
from tests.conftest import PROJECT
from tests.test_task_chaos import SOAK, start, stored_on

HOSTS = 4 if SOAK else 2
AT_ONCE = HOSTS // 2
"""So many are killed together; others are alive, and as many start."""
LEASE = 3.0
LAW = LEASE + 30.0 if SOAK else 300.0
"""From the death of a host to the next attempt of each task that it had. A soak has the machine for itself;
elsewhere it is shorter than the ten minutes for which the platform hides the message."""


class Killed:
    """Hosts on one storage, which are killed and replaced."""

    def __init__(self, data: Path, begun: Path, settings: dict[str, str]) -> None:
        self._data = data
        self._begun = begun
        self._settings = {"AGENT_TASK_LEASE_SECONDS": str(LEASE), "CHAOS_BEGUN": str(begun), **settings}
        self._hosts: list[asyncio.subprocess.Process] = []
        self.deaths: dict[int, datetime] = {}
        begun.mkdir()

    async def add(self, count: int) -> None:
        """With messages hidden as long as the platform hides them."""
        starts = (start(PROJECT, self._data, self._settings) for _ in range(count))
        self._hosts += await asyncio.gather(*starts)

    async def kill(self, chance: random.Random, count: int, busy: int | None = None) -> None:
        """:param busy: a process that is to be among them."""
        some = chance.sample(self._hosts, count)
        some[:1] = [host for host in self._hosts if host.pid == busy and host not in some] or some[:1]
        for host in some:
            self._hosts.remove(host)
            self.deaths[host.pid] = datetime.now(UTC)
            host.kill()
            await host.wait()

    async def end(self) -> None:
        for host in self._hosts:
            host.kill()
            await host.wait()

    async def busy(self, engine: TaskEngine, submitted: list[str]) -> int | None:
        """A host that has a task now; None once all have ended."""
        left = [*submitted]
        while await is_open(engine, left):
            for (task_id, attempt), pid in self.runners().items():
                if pid in self.pids:
                    record = await engine.records.get(task_id, contents=False)
                    if (record.status, record.attempts) == ("running", attempt):
                        return pid
        return None

    @property
    def pids(self) -> list[int]:
        return [host.pid for host in self._hosts]

    def runners(self) -> dict[tuple[str, int], int]:
        """The process of each attempt that came to its action."""
        lines = (
            (int(file.name), line.split())
            for file in self._begun.iterdir()
            for line in file.read_text().splitlines()
        )
        return {(task_id, int(attempt)): pid for pid, (task_id, attempt) in lines}

    def takeovers(self, record: TaskRecord, runners: dict[tuple[str, int], int]) -> Iterator[float]:
        """How long it took each time until a task that a host had when it died was run again."""
        first = min(
            (past.started_at for past in record.history if past.started_at), default=record.started_at
        )
        assert first is not None
        yield from self._within(record, record.created_at, first, None)
        for past in record.history:
            if past.outcome == "lost" and past.started_at is not None:
                holder = runners.get((record.task_id, past.number))
                yield from self._within(record, past.started_at, past.ended_at, self.deaths.get(holder or 0))

    def _within(
        self, record: TaskRecord, since: datetime, until: datetime, death: datetime | None
    ) -> Iterator[float]:
        """Of a time in which it did not begin. Whose message was sent again, and taken by a host that died
        before it began, was taken over twice."""
        while since < until:
            after = [each for each in self.deaths.values() if since < each < until]
            if not after:
                return
            death = death or min(after)
            sent = [
                past.ended_at
                for past in record.history
                if past.outcome == REDELIVERED and death < past.ended_at < max(after)
            ]
            since = min(sent, default=until)
            yield (since - death).total_seconds()
            death = None


async def is_open(engine: TaskEngine, submitted: list[str]) -> bool:
    """Whether one has not ended. The first of those that have not is looked at again and again."""
    while submitted:
        record = await engine.records.get(submitted[-1], contents=False)
        if not record.is_final:
            return True
        submitted.pop()
    return False


@pytest.mark.timeout(1500 if SOAK else 900)
@pytest.mark.parametrize(
    ("backend", "queues", "kills", "count"),
    [("file", 3, 200, 2000), ("file", 1, 200, 2000), ("azure", 3, 40, 400)] if SOAK else [("file", 3, 4, 32)],
)
async def test_killed_hosts(
    backend: str, queues: int, kills: int, count: int, tmp_path: Path, azurite: Any, record_property: Any
) -> None:
    """:param count: of tasks, children included."""
    data, chance = tmp_path / "data", random.Random(5)
    settings = stored_on(backend, data, azurite) | {"AGENT_TASK_QUEUES": str(queues)}
    agent = f"killed-{random.Random().randrange(10**9)}"
    families = [
        NewTask(action="chaos_family", agent_id=agent, payload=chance.uniform(0.1, 3))
        for _ in range(count // (CHILDREN + 1))
    ]
    per_round = -(-len(families) * AT_ONCE // kills)
    hosts = Killed(data, tmp_path / "begun", settings)
    async with StorageManager(StorageConfig.from_env(settings)) as storage:
        engine = TaskEngine(storage, queues=queues)
        submitted: list[str] = []
        try:
            await hosts.add(HOSTS)
            for n, some in enumerate(batched(families, per_round, strict=False)):
                results = await engine.submission.submit_many(some)
                assert not any(isinstance(result, StorageError) for result in results), results
                submitted += [result.task_id for result in results if isinstance(result, TaskRecord)]
                # The instant is meant to be any; of a few kills one is to find a host at work.
                is_any = SOAK or n % 2
                if is_any:
                    await asyncio.sleep(chance.uniform(0, 3))
                busy = None if is_any else await hosts.busy(engine, submitted)
                await hosts.kill(chance, AT_ONCE, busy)
                await hosts.add(AT_ONCE)
            async with asyncio.timeout(600):
                left = [*submitted]
                while await is_open(engine, left):
                    await asyncio.sleep(0.25)
        finally:
            await hosts.end()
        assert len(hosts.deaths) >= kills
        record_property("measured", await check(engine, submitted, hosts))


async def check(engine: TaskEngine, submitted: list[str], hosts: Killed, law: float = LAW) -> str:
    """Each effect is there once, and all have ended; those of killed hosts ran again within ``law`` seconds.
    Where there is no law, it may be that no host had a task at its end. Returns what was measured."""
    runners = hosts.runners()
    takeovers, joins, lost = list[float](), list[float](), 0
    for task_id in submitted:
        parent = await engine.records.get(task_id)
        children = (await engine.records.list(parent_id=task_id)).records
        unlike = [child for child in children if child.status != "succeeded"]
        assert not unlike, unlike[0]
        summary = {"total": CHILDREN, "succeeded": CHILDREN, "failed": []}
        assert parent.result == {"result": parent.payload, "children": summary}, parent
        for record in (parent, *children):
            assert record.status == "succeeded", record
            assert await engine.storage.load(f"effects/{record.task_id}") == 1
            assert record.result is not None
            takeovers += hosts.takeovers(record, runners)
            lost += sum(past.outcome == "lost" for past in record.history)
        assert parent.finished_at is not None
        joins.append(
            (parent.finished_at - max(c.finished_at for c in children if c.finished_at)).total_seconds()
        )
    assert await check_index(engine.storage.backend.tables) == []
    assert lost or law == math.inf, "no host had a task when it was killed, so nothing was tested"
    slowest = max(takeovers, default=0)
    measured = (
        f"{len(hosts.deaths)} hosts were killed, {len(submitted) * (CHILDREN + 1)} tasks ended, {lost} runs"
        f" were lost; the slowest takeover took {slowest:.1f} s, the slowest join {max(joins):.1f} s"
    )
    assert slowest <= law, (measured, sorted(takeovers)[-10:])
    assert max(joins) <= law, (measured, sorted(joins)[-10:])
    return measured
