"""What a task costs: requests, entities of a partition, children of one that fans out, and waiting."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import local_host
from benchmarks.scale.delays import Delays
from benchmarks.scale.proxy import Proxies
from benchmarks.scale.rows import Row
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.ports.queues import QueueMessage
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.submission import NewTask

CHILDREN = 200
LATENCY = 0.008
TURNS = 3
WAIT_SECONDS = 30
WAITERS = 64
PARTITION_ENTITIES, QUEUE_MESSAGES, ACCOUNT_REQUESTS = 2_000, 2_000, 20_000
"""A second, that Azure promises."""


@task("scale_no_op")
async def _no_op(context: TaskContext, payload: Any) -> None:
    return None


@task("scale_fan")
async def _fan(context: TaskContext, payload: int) -> None:
    await asyncio.gather(*(context.submit("scale_no_op", n) for n in range(payload)))


@task("scale_fan_one_by_one")
async def _fan_one_by_one(context: TaskContext, payload: int) -> None:
    for n in range(payload):
        await context.submit("scale_no_op", n)


def no_op(size: float) -> list[Row]:
    """Requests of a task from its submission to its end, by proxies before Azurite."""
    return asyncio.run(_no_op_rows(max(16, int(160 * size) // 16 * 16)))


def partitions(size: float) -> list[Row]:
    """Tasks a second by the published limits and by what a task was seen to ask."""
    return asyncio.run(_partitions(2_000))


def fan_out(size: float) -> list[Row]:
    """200 children beside 200 tasks by themselves, at 8 ms a request, by the number of hosts."""
    return asyncio.run(_fan_out())


def waiting(size: float) -> list[Row]:
    """Reads of one GET, with and without waiting, and what others notice of those who wait."""
    return [*asyncio.run(_reads(WAIT_SECONDS)), *_beside_waiters()]


async def _no_op_rows(count: int) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Azurite(Path(folder)) as server:
            with Proxies(server) as proxies:
                config = StorageConfig(storage_type="azure", connection_string=proxies.connection_string)
                async with StorageManager(config) as storage:
                    here, elsewhere = (
                        TaskEngine(storage, events=False, remembered=many) for many in (count, 0)
                    )
                    await here.submit("scale_no_op", "a")
                    await _serve([here], 1)
                    for worker, where in ((here, "in the process"), (elsewhere, "in another process")):
                        before = proxies.count
                        for first in range(0, count, 16):
                            await here.submit_many([_new(n) for n in range(first, first + 16)])
                            await _handle(worker, await _received(worker))
                        a_task = (proxies.count - before) / count
                        rows.append(Row(f"a no-op task that runs {where}: requests", a_task, most=6.1))
                    record = await here.submit("scale_no_op", "a")
                    before = proxies.count
                    await here.get(record.task_id)
                    rows.append(Row("GET of a task: requests", proxies.count - before, most=1))
    return rows


async def _partitions(count: int) -> list[Row]:
    async with StorageManager(backend=MemoryBackend()) as storage:
        engine = TaskEngine(storage, events=False)
        delays = Delays(storage.backend, 0)
        for first in range(0, count, 100):
            await engine.submit_many([_new(n) for n in range(first, min(first + 100, count))])
        await _serve([engine], count)
        entities = Counter(delays.entities)
        largest = max(entities.values()) / count
        messages = Counter(delays.messages)
        a_queue = max(messages.values()) / count
        requests = delays.count / count
    tables, queues, account = (
        PARTITION_ENTITIES / largest,
        QUEUE_MESSAGES / a_queue,
        ACCOUNT_REQUESTS / requests,
    )
    return [
        Row("entities that a task reads or writes", entities.total() / count),
        Row("  partitions of one day that these are spread over", len(entities)),
        Row("  tasks a second by the limit of a partition", tables, " /s", least=2_500),
        Row("  tasks a second by the limit of a queue", queues, " /s", least=2_500),
        Row("  tasks a second by the limit of an account", account, " /s", least=2_500),
    ]


async def _fan_out() -> list[Row]:
    rows: list[Row] = []
    speeds: dict[int, float] = {}
    for hosts in (1, 2, 3):
        ratio, speed, a_child = await _best(hosts, "scale_fan")
        speeds[hosts] = speed
        what = f"fan-out of {CHILDREN} at {LATENCY * 1000:.0f} ms, {hosts} host{'s' if hosts > 1 else ''}"
        rows.append(Row(f"{what}: speed / independent tasks", ratio, " x", least=0.7))
        rows.append(Row(f"{what}: children", speed, " /s"))
        rows.append(Row(f"{what}: requests a child", a_child, most=8))
    rows.append(Row("fan-out: speed with 3 hosts / with 1", speeds[3] / speeds[1], " x", least=1))
    _, _, a_child = await _best(4, "scale_fan_one_by_one", turns=1)
    rows.append(Row("fan-out, one child after the other, 4 hosts: requests a child", a_child, most=8))
    return rows


async def _best(hosts: int, action: str, turns: int = TURNS) -> tuple[float, float, float]:
    """Of some turns the best ratio, the best speed, and the least of the requests. Polls, which give up to 16
    messages each, depend on the host and are left out."""
    best: list[tuple[float, float, float]] = []
    async with StorageManager(backend=MemoryBackend()) as storage:
        engines = [TaskEngine(storage, events=False, remembered=32) for _ in range(hosts)]
        delays = Delays(storage.backend, LATENCY)
        await engines[0].submit("scale_no_op", "a")
        await _serve(engines, 1)
        for _ in range(turns):
            began = time.perf_counter()
            await asyncio.gather(
                engines[0].submit_many([_new(n) for n in range(CHILDREN)]), _serve(engines, CHILDREN)
            )
            alone, began, before = time.perf_counter() - began, time.perf_counter(), delays.without_polls
            parent = await engines[0].submit(action, "a", CHILDREN)
            await _serve(engines, CHILDREN + 1)
            took = time.perf_counter() - began
            assert (await engines[0].get(parent.task_id)).status is TaskStatus.SUCCEEDED
            best.append((alone / took, CHILDREN / took, (delays.without_polls - before) / CHILDREN))
    ratios, speeds, requests = zip(*best, strict=True)
    return max(ratios), max(speeds), min(requests)


async def _reads(seconds: int) -> list[Row]:
    async with StorageManager(backend=MemoryBackend()) as storage:
        engine = TaskEngine(storage, events=False)
        record = await engine.submit("scale_no_op", "a", delay_seconds=3600)
        delays = Delays(storage.backend, 0)
        await engine.wait_for(record.task_id, seconds)
        return [Row(f"GET of a task with wait={seconds}: requests", delays.count, most=15)]


def _beside_waiters() -> list[Row]:
    body = json.dumps({"action": "scale_no_op", "agent_id": "a", "delay_seconds": 3600})
    with tempfile.TemporaryDirectory() as folder:
        process, port = local_host.start(f"{folder}/data", {"AGENT_TASK_MODULES": __name__})
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/tasks", body, headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
            assert answer.status == 202, found
            path = f"/api/tasks/{found['task_id']}"
            quiet = _latency(connection, path)
            waiters = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(WAITERS)]
            for each in waiters:
                each.request("GET", f"{path}?wait=20")
            time.sleep(1)
            busy = _latency(connection, path)
            for each in waiters:
                each.close()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    what = f"GET of a task while {WAITERS} others wait / while nobody does, over HTTP"
    return [Row(what, busy / quiet, " x", most=2)]


def _latency(connection: http.client.HTTPConnection, path: str) -> float:
    times: list[float] = []
    for _ in range(60):
        began = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 4]  # Other work on the machine meets some of them.


def _new(n: int) -> NewTask:
    return NewTask(action="scale_no_op", agent_id="a", payload=n)


async def _received(engine: TaskEngine) -> Sequence[QueueMessage]:
    return await engine.storage.backend.queues.receive(TASK_QUEUE, max_messages=16)


async def _handle(engine: TaskEngine, messages: Sequence[QueueMessage]) -> None:
    await asyncio.gather(*(_one(engine, message) for message in messages))


async def _one(engine: TaskEngine, message: QueueMessage) -> None:
    await engine.deliver(message.text, queue=TASK_QUEUE, dequeue_count=message.dequeue_count)
    await engine.storage.backend.queues.delete(TASK_QUEUE, message)


async def _serve(engines: Sequence[TaskEngine], count: int) -> None:
    """Handle that many messages as hosts do: each takes 16 at a time, and more when 8 are left."""
    left = count

    async def host(engine: TaskEngine) -> None:
        nonlocal left
        running = set[asyncio.Task[None]]()
        while left > 0:
            if len(running) <= 8:
                running |= {asyncio.create_task(_one(engine, each)) for each in await _received(engine)}
            if not running:
                await asyncio.sleep(0.002)
                continue
            done, running = await asyncio.wait(running, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            left -= len(done)
        await asyncio.gather(*running)

    async with asyncio.timeout(120):
        await asyncio.gather(*map(host, engines))
