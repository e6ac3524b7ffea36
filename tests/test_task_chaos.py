"""Every task ends as its action demands, with duplicated deliveries, killed hosts and failing storage."""

from __future__ import annotations

import asyncio
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
from storage_lib.tasks.model import TaskMessage, TaskRecord
from storage_lib.tasks.submission import NewTask
from tests import chaos_actions
from tests.conftest import PROJECT

SOAK = bool(os.environ.get("SOAK"))
HOSTS = 2
ENDS = {
    "chaos_ok": "succeeded",
    "chaos_flaky": "succeeded",
    "chaos_fails": "failed",
    "chaos_never": "dead",
}


def app_with_quick_retries(folder: Path) -> Path:
    """The app itself, but for host.json: a failed delivery comes again after a second."""
    folder.mkdir()
    for name in ("function_app.py", "functions", "storage_lib", "devhost", "tests"):
        (folder / name).symlink_to(PROJECT / name)
    settings = json.loads((PROJECT / "host.json").read_text())
    settings["extensions"]["queues"] |= {"visibilityTimeout": "00:00:01", "maxPollingInterval": "00:00:00.2"}
    (folder / "host.json").write_text(json.dumps(settings))
    return folder


async def start(app: Path, data: Path, settings: dict[str, str]) -> asyncio.subprocess.Process:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_", "Agent", "AzureWebJobs"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "devhost", "--port", "0", "--data", str(data), "--app", str(app), "--quiet"),
        cwd=app,
        env=clean
        | settings
        | {
            "AGENT_TASK_MODULES": "tests.chaos_actions",
            "AGENT_TASK_LEASE_SECONDS": "2",
            "DEVHOST_LEASE_SECONDS": "2",
            "CHAOS_RATE": "0.05",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while not re.match(rb"ready: ", line := await process.stdout.readline()):
            assert line, "devhost ended before it was ready"
    return process


@pytest.mark.timeout(1800 if SOAK else 240)
@pytest.mark.parametrize(
    ("backend", "count"), [("file", 1000 if SOAK else 80), ("azure", 200 if SOAK else 24)]
)
async def test_chaos(backend: str, count: int, tmp_path: Path, azurite: Any) -> None:
    data = tmp_path / "data"
    if backend == "azure":
        container = f"chaos-{random.Random().randrange(10**9)}"
        settings = {
            "AGENT_STORAGE_TYPE": "azure",
            "AgentStorage": azurite.connection_string,
            "AGENT_STORAGE_CONTAINER": container,
        }
    else:
        settings = {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": str(data)}
    app = app_with_quick_retries(tmp_path / "app")
    assert chaos_actions.RATE == 0  # no faults in this process
    async with StorageManager(StorageConfig.from_env(settings)) as storage:
        engine = TaskEngine(storage)
        submitted = await submit(engine, count)
        hosts = [await start(app, data, settings) for _ in range(HOSTS)]
        try:
            chance = random.Random(11)
            async with asyncio.timeout(1700 if SOAK else 220):
                while await unfinished(engine, submitted):
                    await asyncio.sleep(0.5 + chance.random())  # the instant is meant to be any
                    victim = chance.randrange(HOSTS)
                    if chance.random() < 0.4:
                        hosts[victim].kill()
                        await hosts[victim].wait()
                        hosts[victim] = await start(app, data, settings)
        finally:
            for host in hosts:
                host.kill()
                await host.wait()
        await check(engine, submitted)


async def submit(engine: TaskEngine, count: int) -> list[TaskRecord]:
    actions = list(ENDS)
    new = [
        NewTask(action=actions[n % len(actions)], agent_id="chaos", payload={"n": n}) for n in range(count)
    ]
    records = [
        record for record in await engine.submission.submit_many(new) if isinstance(record, TaskRecord)
    ]
    assert len(records) == count
    for record in records[::10]:  # 10 % are delivered twice
        message = TaskMessage(record.task_id, record.agent_id, record.action, record.payload)
        await engine.storage.backend.queues.send(record.priority.queue, message.to_bytes())
    return records


async def unfinished(engine: TaskEngine, submitted: list[TaskRecord]) -> bool:
    for status in ("queued", "running"):
        page = await engine.records.list(status=status, agent_id="chaos", limit=1)
        if page.records:
            return True
    return False


async def check(engine: TaskEngine, submitted: list[TaskRecord]) -> None:
    ends: Counter[tuple[str, str]] = Counter()
    troubles: Counter[str] = Counter()
    for task in submitted:
        record = await engine.records.get(task.task_id)
        ends[record.action, record.status] += 1
        assert record.status == ENDS[record.action], record
        effects = 1 if record.action in ("chaos_ok", "chaos_flaky") else 0
        key = f"effects/{record.task_id}"
        assert (await engine.storage.load(key) if await engine.storage.exists(key) else 0) == effects
        if record.action == "chaos_ok":
            assert record.result == task.payload
        troubles.update(attempt.outcome for attempt in record.history)
        troubles["injected"] += sum("injected" in (a.error_message or "") for a in record.history)
        assert sum(attempt.outcome == record.status for attempt in record.history) == 1
    assert sum(ends.values()) == len(submitted)
    print(f"{len(submitted)} tasks: {dict(troubles)}")
    assert troubles["injected"] + troubles["lost"], "nothing went wrong, so nothing was tested"
