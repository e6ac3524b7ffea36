"""Every task ends as its action demands, with duplicated deliveries, killed hosts and failing storage."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.index_check import check_index
from storage_lib.tasks.model import TaskMessage, TaskRecord
from storage_lib.tasks.submission import NewTask
from tests import chaos_actions
from tests.conftest import PROJECT

SOAK = bool(os.environ.get("SOAK"))
HOSTS = 2
ATTEMPTS = itertools.cycle("14")
"""Every other host without the retry layer, so that the tasks themselves meet the faults."""
ENDS = {
    "chaos_ok": "succeeded",
    "chaos_flaky": "succeeded",
    "chaos_fails": "failed",
    "chaos_never": "dead",
    "chaos_fan": "succeeded",
    "chaos_mended": "succeeded",  # dead, until it is requeued
    "chaos_endless": "cancelled",  # while it runs
    "chaos_cancelled": "cancelled",  # before it is due
}
EFFECTS = {"chaos_ok": 1, "chaos_flaky": 1, "chaos_mended": 1}


def app_with_quick_retries(folder: Path) -> Path:
    """The app itself, but for host.json: a failed delivery comes again after a second."""
    folder.mkdir()
    for name in ("function_app.py", "functions", "actions", "storage_lib", "devhost", "tests"):
        (folder / name).symlink_to(PROJECT / name)
    settings = json.loads((PROJECT / "host.json").read_text())
    settings["extensions"]["queues"] |= {"visibilityTimeout": "00:00:01", "maxPollingInterval": "00:00:00.2"}
    (folder / "host.json").write_text(json.dumps(settings))
    return folder


def stored_on(backend: str, data: Path, azurite: Any) -> dict[str, str]:
    """Settings of a storage in which nothing is yet."""
    if backend == "file":
        return {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": str(data)}
    return {
        "AGENT_STORAGE_TYPE": "azure",
        "AgentStorage": azurite.connection_string,
        "AGENT_STORAGE_CONTAINER": f"chaos-{random.Random().randrange(10**9)}",
    }


async def start(
    app: Path, data: Path, settings: dict[str, str], *arguments: str
) -> asyncio.subprocess.Process:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_", "Agent", "AzureWebJobs"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "devhost", "--port", "0", "--data", str(data), "--app", str(app), "--quiet", *arguments),
        cwd=app,
        env=clean | {"AGENT_TASK_MODULES": "tests.chaos_actions"} | settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(600):
        while not re.match(rb"ready: ", line := await process.stdout.readline()):
            assert line, "devhost ended before it was ready"
    return process


@pytest.mark.timeout(1800 if SOAK else 900)
@pytest.mark.parametrize(
    ("backend", "queues", "count"),
    [("file", 3, 1000), ("file", 1, 1000), ("azure", 3, 200)]
    if SOAK
    else [("file", 3, 80), ("azure", 1, 24)],
)
async def test_chaos(backend: str, queues: int, count: int, tmp_path: Path, azurite: Any) -> None:
    data = tmp_path / "data"
    settings = stored_on(backend, data, azurite) | {"AGENT_TASK_QUEUES": str(queues)}
    app = app_with_quick_retries(tmp_path / "app")
    assert chaos_actions.RATE == 0  # no faults in this process

    async def another() -> asyncio.subprocess.Process:
        variables = {
            "AGENT_STORAGE_RETRY_ATTEMPTS": next(ATTEMPTS),
            "AGENT_TASK_LEASE_SECONDS": "2",
            # Fewer tasks meet as many faults.
            "CHAOS_RATE": "0.05" if SOAK else "0.1",
        }
        quickly = ("--lease-seconds", "2", "--timer-lease-seconds", "2")
        return await start(app, data, settings | variables, *quickly)

    async with StorageManager(StorageConfig.from_env(settings)) as storage:
        engine = TaskEngine(storage, queues=queues)
        submitted = await submit(engine, count)
        hosts = [await another() for _ in range(HOSTS)]
        try:
            chance = random.Random(11)
            visitor = Visitor(engine, submitted, chance)
            async with asyncio.timeout(1700 if SOAK else 800):
                while await visitor.unfinished():
                    await asyncio.sleep(0.5 + chance.random())  # the instant is meant to be any
                    await visitor.interfere()
                    victim = chance.randrange(HOSTS)
                    if chance.random() < 0.4:
                        hosts[victim].kill()
                        await hosts[victim].wait()
                        hosts[victim] = await another()
        finally:
            for host in hosts:
                host.kill()
                await host.wait()
        await check(engine, submitted)


async def submit(engine: TaskEngine, count: int) -> list[TaskRecord]:
    """So many tasks, in the order of `ENDS`. Every fifth has a key and is submitted twice at once."""
    actions = list(ENDS)
    run = random.Random().randrange(10**9)
    new = [
        NewTask(
            action=action,
            agent_id="chaos",
            payload={"n": n},
            delay_seconds=3600 if action == "chaos_cancelled" else 0,
            idempotency_key=None if n % 5 else f"{run}-{n}",
        )
        for n in range(count)
        if (action := actions[n % len(actions)])
    ]
    submit_many = engine.submission.submit_many
    results, again = await asyncio.gather(submit_many(new), submit_many(new[::5]))
    records = [result for result in results if isinstance(result, TaskRecord)]
    assert [r.task_id for r in again if isinstance(r, TaskRecord)] == [r.task_id for r in records[::5]]
    assert len({record.task_id for record in records}) == count
    for record in records[::10]:  # 10 % are delivered twice
        message = TaskMessage.of(record)
        queue = engine.queues.of(record.task_id, record.priority)
        await engine.storage.backend.queues.send(queue, message.to_bytes())
    return records


class Visitor:
    """Who submitted the tasks, and does with some of them what can be done over HTTP."""

    def __init__(self, engine: TaskEngine, submitted: list[TaskRecord], chance: random.Random) -> None:
        self._engine = engine
        self._chance = chance
        self._submitted = submitted
        self._keyed = [record for record in submitted if record.idempotency_key is not None]
        self._to_cancel = [record for record in submitted if ENDS[record.action] == "cancelled"]
        self._at_once = len(self._to_cancel) // 6 + 1
        chance.shuffle(self._to_cancel)

    async def unfinished(self) -> bool:
        for status, action in (("queued", None), ("running", None), ("dead", "chaos_mended")):
            found = await self._engine.records.list(agent_id="chaos", status=status, action=action, limit=1)
            if found.records:
                return True
        # One that went from one state to another between the lists is in none of them.
        for task in self._submitted:
            record = await self._engine.records.get(task.task_id)
            if record.status in ("queued", "running"):
                return True
            if record.status == "dead" and record.action == "chaos_mended":
                return True
        return False

    async def interfere(self) -> None:
        for record in self._to_cancel[: self._at_once]:
            await self._engine.cancel(record.task_id)
        del self._to_cancel[: self._at_once]
        dead = await self._engine.records.list(agent_id="chaos", status="dead", action="chaos_mended")
        for record in dead.records:
            await self._engine.control.requeue(record.task_id)
        first = self._chance.choice(self._keyed)
        again = await self._engine.submit(
            first.action, first.agent_id, first.payload, idempotency_key=first.idempotency_key
        )
        assert again.task_id == first.task_id


async def check(engine: TaskEngine, submitted: list[TaskRecord]) -> None:
    ends: Counter[tuple[str, str]] = Counter()
    troubles: Counter[str] = Counter()
    children: list[TaskRecord] = []
    for task in submitted:
        if task.action == "chaos_fan":
            found = (await engine.records.list(parent_id=task.task_id)).records
            assert len(found) == chaos_actions.CHILDREN
            children += found
    for task in (*submitted, *children):
        record = await engine.records.get(task.task_id)
        ends[record.action, record.status] += 1
        assert record.status == ENDS[record.action], (record.error, record.history)
        key = f"effects/{record.task_id}"
        effects = await engine.storage.load(key) if await engine.storage.exists(key) else 0
        assert effects == EFFECTS.get(record.action, 0)
        if record.action == "chaos_ok":
            assert record.result == task.payload
        if record.action == "chaos_fan":
            summary = {"total": chaos_actions.CHILDREN, "succeeded": chaos_actions.CHILDREN, "failed": []}
            assert record.result == {"result": task.payload, "children": summary}
        else:
            assert sum(attempt.outcome == record.status for attempt in record.history) == 1
        troubles.update(attempt.outcome for attempt in record.history)
        troubles["injected"] += sum("injected" in (a.error_message or "") for a in record.history)
    assert sum(ends.values()) == len(submitted) + len(children)
    assert await check_index(engine.storage.backend.tables) == []
    print(f"{len(submitted)} tasks and {len(children)} children: {dict(troubles)}")
    troubled = troubles["injected"] + troubles["lost"] + troubles["undeliverable"]
    assert troubled, "nothing went wrong, so nothing was tested"
