"""What a task costs: requests, entities of a partition, children of one that fans out, and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import local_host
from benchmarks.scale.delays import Delays
from benchmarks.scale.folders import folder
from benchmarks.scale.processor import spent
from benchmarks.scale.proxy import Proxies
from benchmarks.scale.rows import Row
from devhost.azurite import Azurite
from storage_lib import StorageConfig, StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.queues import QueueMessage
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import Priority, TaskStatus
from storage_lib.tasks.registry import task
from storage_lib.tasks.submission import NewTask

CHILDREN = 200
BETWEEN_POLLS = 0.002
"""Seconds, of a host that was given no messages."""
LATENCY = 0.008
OWN = 6
"""Requests of a task that does nothing, without its share of a poll."""
TURNS = 3
WAIT_SECONDS = 30
WAITERS = 64
PARTITION_ENTITIES, QUEUE_MESSAGES, ACCOUNT_REQUESTS = 2_000, 2_000, 20_000
"""A second, that Azure promises."""
QUEUES = 4
"""As `AGENT_TASK_QUEUES`: what an account needs for 2,500 tasks a second."""


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
    return asyncio.run(_no_op_rows(max(16, int(64 * size) // 16 * 16)))


def partitions(size: float) -> list[Row]:
    """Tasks a second by the published limits and by what a task was seen to ask."""
    return asyncio.run(_partitions(2_000))


def fan_out(size: float) -> list[Row]:
    """200 children beside 200 tasks by themselves, at 8 ms a request, by the number of hosts."""
    return asyncio.run(_fan_out())


def waiting(size: float) -> list[Row]:
    """Reads of one GET that waits."""
    return asyncio.run(_reads(WAIT_SECONDS))


def beside_waiters(size: float) -> list[Row]:
    """What others notice of those who wait."""
    with folder() as path:
        return _beside_waiters(path)


async def _no_op_rows(count: int) -> list[Row]:
    rows: list[Row] = []
    with folder() as path:
        async with Azurite(Path(path)) as server:
            with Proxies(server) as proxies:
                config = StorageConfig(storage_type="azure", connection_string=proxies.connection_string)
                async with StorageManager(config) as storage:
                    here, elsewhere = (
                        TaskEngine(storage, events=False, remembered=many) for many in (count, 0)
                    )
                    await here.submit("scale_no_op", "a")
                    await served([here], 1)
                    for worker, where in ((here, "in the process"), (elsewhere, "in another process")):
                        before, polls = proxies.count, proxies.queue.requests["GET"]
                        for first in range(0, count, 16):
                            await here.submit_many([_new(n) for n in range(first, first + 16)])
                            await _handle(worker, await _received(worker))
                        polls = proxies.queue.requests["GET"] - polls
                        a_task = (proxies.count - before - polls) / count
                        rows.append(Row(f"a no-op task that runs {where}: requests", a_task, most=OWN))
                        rows.append(Row("  its share of a poll for up to 16 messages", polls / count))
                    record = await here.submit("scale_no_op", "a")
                    before = proxies.count
                    await here.get(record.task_id)
                    rows.append(Row("GET of a task: requests", proxies.count - before, most=1))
    return rows


async def _partitions(count: int) -> list[Row]:
    async with StorageManager(backend=MemoryBackend()) as storage:
        engine = TaskEngine(storage, events=False, queues=QUEUES)
        delays = Delays(storage.backend, 0)
        for first in range(0, count, 100):
            await engine.submit_many([_new(n) for n in range(first, min(first + 100, count))])
        await served([engine], count)
        entities = Counter(delays.entities)
        largest = max(entities.values()) / count
        messages = Counter(delays.messages)
        busiest = max(messages.values()) / messages.total() * QUEUES
        requests = delays.count / count
    tables, queues, account = (
        PARTITION_ENTITIES / largest,
        QUEUES * QUEUE_MESSAGES * count / messages.total(),
        ACCOUNT_REQUESTS / requests,
    )
    return [
        Row("entities that a task reads or writes", entities.total() / count),
        Row("  partitions of one day that these are spread over", len(entities)),
        Row("  tasks a second by the limit of a partition", tables, " /s", least=2_500),
        Row(f"  tasks a second by the limit of {QUEUES} queues", queues, " /s", least=2_500),
        Row(f"  busiest of {QUEUES} queues / equal shares", busiest, " x", most=1.2),
        Row("  tasks a second by the limit of an account", account, " /s", least=2_500),
    ]


async def _fan_out() -> list[Row]:
    rows: list[Row] = []
    speeds: dict[int, float] = {}
    outside = ""
    for hosts in (1, 2, 3):
        with spent() as span:
            ratio, speed, a_child = await _best(hosts, "scale_fan")
        speeds[hosts] = speed
        what = f"fan-out of {CHILDREN} at {LATENCY * 1000:.0f} ms, {hosts} host{'s' if hosts > 1 else ''}"
        outside = span.told()
        rows.append(Row(f"{what}: speed / independent tasks", ratio, " x", least=0.7, outside=outside))
        rows.append(Row(f"{what}: children", speed, " /s"))
        rows.append(Row(f"{what}: requests a child", a_child, most=8))
    growth = speeds[3] / speeds[1]
    rows.append(Row("fan-out: speed with 3 hosts / with 1", growth, " x", least=1, outside=outside))
    _, _, a_child = await _best(4, "scale_fan_one_by_one", turns=1)
    rows.append(Row("fan-out, one child after the other, 4 hosts: requests a child", a_child, most=8))
    return rows


async def _best(hosts: int, action: str, turns: int = TURNS) -> tuple[float, float, float]:
    """Of some turns the best ratio, the best speed, and the least of the requests, without the parent's own.
    Polls, which give up to 16 messages each, depend on the host and are left out."""
    best: list[tuple[float, float, float]] = []
    async with StorageManager(backend=MemoryBackend()) as storage:
        engines = [TaskEngine(storage, events=False, remembered=32) for _ in range(hosts)]
        delays = Delays(storage.backend, LATENCY)
        await engines[0].submit("scale_no_op", "a")
        await served(engines, 1)
        for _ in range(turns):
            began = time.perf_counter()
            await asyncio.gather(
                engines[0].submit_many([_new(n) for n in range(CHILDREN)]), served(engines, CHILDREN)
            )
            alone, began, before = time.perf_counter() - began, time.perf_counter(), delays.without_polls
            parent = await engines[0].submit(action, "a", CHILDREN)
            await served(engines, CHILDREN + 1)
            took = time.perf_counter() - began
            assert (await engines[0].get(parent.task_id)).status is TaskStatus.SUCCEEDED
            of_children = delays.without_polls - before - OWN
            best.append((alone / took, CHILDREN / took, of_children / CHILDREN))
    ratios, speeds, requests = zip(*best, strict=True)
    return max(ratios), max(speeds), min(requests)


async def _reads(seconds: int) -> list[Row]:
    async with StorageManager(backend=MemoryBackend()) as storage:
        engine = TaskEngine(storage, events=False)
        record = await engine.submit("scale_no_op", "a", delay_seconds=3600)
        delays = Delays(storage.backend, 0)
        await engine.wait_for(record.task_id, seconds)
        return [Row(f"GET of a task with wait={seconds}: requests", delays.count, most=15)]


def _beside_waiters(path: str) -> list[Row]:
    body = json.dumps({"action": "scale_no_op", "agent_id": "a", "delay_seconds": 3600})
    process, port = local_host.start(f"{path}/data", {"AGENT_TASK_MODULES": __name__})
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/api/tasks", body, headers)
        answer = connection.getresponse()
        found = json.loads(answer.read())
        assert answer.status == 202, found
        target = f"/api/tasks/{found['task_id']}"
        quiet = _latency(connection, target)
        waiters = [http.client.HTTPConnection("127.0.0.1", port) for _ in range(WAITERS)]
        for each in waiters:
            each.request("GET", f"{target}?wait=20")
        time.sleep(1)
        busy = _latency(connection, target)
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


async def _received(engine: TaskEngine) -> Sequence[tuple[str, QueueMessage]]:
    """What is next in the first of its queues that has some."""
    for queue in engine.queues.named(Priority.NORMAL):
        with contextlib.suppress(KeyNotFoundError):
            if found := await engine.storage.backend.queues.receive(queue, max_messages=16):
                return [(queue, message) for message in found]
    return []


async def _handle(engine: TaskEngine, messages: Sequence[tuple[str, QueueMessage]]) -> None:
    await asyncio.gather(*(_one(engine, *message) for message in messages))


async def _one(engine: TaskEngine, queue: str, message: QueueMessage) -> None:
    await engine.deliver(message.text, queue=queue, dequeue_count=message.dequeue_count)
    await engine.storage.backend.queues.delete(queue, message)


async def served(engines: Sequence[TaskEngine], count: int) -> None:
    """Handle that many messages as hosts do: each takes 16 at a time, and more when 8 are left."""
    left = count

    async def host(engine: TaskEngine) -> None:
        nonlocal left
        running = set[asyncio.Task[None]]()
        while left > 0:
            if len(running) <= 8:
                running |= {asyncio.create_task(_one(engine, *each)) for each in await _received(engine)}
            if not running:
                await asyncio.sleep(BETWEEN_POLLS)
                continue
            # It asks for more as often as one that has nothing to do.
            timeout = BETWEEN_POLLS if len(running) <= 8 else None
            done, running = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
            left -= len(done)
        await asyncio.gather(*running)

    async with asyncio.timeout(120):
        await asyncio.gather(*map(host, engines))
