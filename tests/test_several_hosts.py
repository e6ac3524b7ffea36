"""Several hosts serve one store: each effect is there once, idle hosts cost little, and timers run on one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devhost.azurite import ACCOUNT_KEY, ACCOUNT_NAME
from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TaskMessage, TaskRecord
from storage_lib.tasks.submission import NewTask
from tests.chaos_actions import CHILDREN
from tests.conftest import PROJECT
from tests.fault_proxy import FaultProxy, Faults
from tests.local_host import serve, wait_for, write_app
from tests.test_task_chaos import SOAK, start, stored_on

HOSTS = 3
FAMILIES = 5
IDLE_SECONDS = 10.0
MOST_REQUESTS = 250
"""A minute of an idle host, which polls four queues every two seconds, and looks for lost tasks in each of 16
partitions every 15 seconds."""
MOST_OF_A_QUEUE = 150
"""More for each further queue, of which there are two of two priorities."""
MOST_CPU = 0.1 if SOAK else 0.5
"""Of one processor, of an idle host with its worker. What a look at an empty store costs differs between
machines; that it is looked at seldom is what the requests tell."""
TICKED = """
import os
import azure.functions as func

app = func.FunctionApp()

@app.timer_trigger(arg_name="timer", schedule="* * * * * *")
def tick(timer: func.TimerRequest) -> None:
    with open(os.environ["TICKS"], "a") as file:
        file.write(f"{os.getppid()}\\n")
"""


@asynccontextmanager
async def counted(server: Any) -> AsyncGenerator[tuple[str, list[FaultProxy]]]:
    """Azurite behind proxies that count: its connection string, and they."""
    async with AsyncExitStack() as stack:
        ports = (server.blob_port, server.queue_port, server.table_port)
        proxies = [await stack.enter_async_context(FaultProxy(port, Faults(0, 0))) for port in ports]
        places = zip(("Blob", "Queue", "Table"), proxies, strict=True)
        yield (
            (
                f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT_NAME};AccountKey={ACCOUNT_KEY};"
                + "".join(
                    f"{name}Endpoint=http://127.0.0.1:{each.port}/{ACCOUNT_NAME};" for name, each in places
                )
            ),
            proxies,
        )


def processor_seconds(process: int) -> float:
    """Of a process and its children, from Linux's /proc."""
    ticks = 0
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended.
        if process in (int(each.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(params=["file", "azure"])
def server(request: pytest.FixtureRequest) -> Any:
    """Azurite, or None for files."""
    return request.getfixturevalue("azurite") if request.param == "azure" else None


@pytest.fixture(params=[1, 3] if SOAK else [3])
def queues(request: pytest.FixtureRequest) -> int:
    return request.param


async def test_three_hosts_serve_one_store(
    server: Any, queues: int, tmp_path: Path, record_property: Any
) -> None:
    data, begun = tmp_path / "data", tmp_path / "begun"
    begun.mkdir()
    async with AsyncExitStack() as stack:
        proxies: list[FaultProxy] = []
        settings = stored_on("file" if server is None else "azure", data, server)
        if server is not None:
            settings["AgentStorage"], proxies = await stack.enter_async_context(counted(server))
        settings |= {"CHAOS_BEGUN": str(begun), "AGENT_TASK_QUEUES": str(queues)}
        storage = await stack.enter_async_context(StorageManager(StorageConfig.from_env(settings)))
        engine = TaskEngine(storage, queues=queues)
        starts = (start(PROJECT, data, settings) for _ in range(HOSTS))
        hosts = await asyncio.gather(*starts)
        try:
            ran: set[str] = set()
            for _ in range(20):  # Until some work has met more than one of them.
                await each_effect_is_there_once(engine)
                ran = {file.name for file in begun.iterdir()}
                if len(ran) > 1:
                    break
            assert ran <= {str(host.pid) for host in hosts}
            assert len(ran) > 1, "one host did all"
            told = await idle_hosts_cost_little(
                hosts, proxies, MOST_REQUESTS + MOST_OF_A_QUEUE * (queues - 1)
            )
        finally:
            for host in hosts:
                host.kill()
                await host.wait()
    record_property("measured", told)


async def each_effect_is_there_once(engine: TaskEngine) -> None:
    new = [NewTask(action="chaos_family", agent_id="several", payload=0.5) for _ in range(FAMILIES)]
    families = [each for each in await engine.submit_many(new) if isinstance(each, TaskRecord)]
    assert len(families) == FAMILIES
    for record in families[::2]:  # Half of them are delivered twice, at about the same time.
        queue = engine.queues.of(record.task_id, record.priority)
        await engine.storage.backend.queues.send(queue, TaskMessage.of(record).to_bytes())
    async with asyncio.timeout(600):
        for family in families:
            while not (await engine.get(family.task_id)).is_final:
                await asyncio.sleep(0.2)
    for family in families:
        children = (await engine.list(parent_id=family.task_id)).records
        assert len(children) == CHILDREN
        for record in (await engine.get(family.task_id), *children):
            assert record.status == "succeeded", record
            assert record.attempts == 1, record.history
            assert await engine.storage.load(f"effects/{record.task_id}") == 1


async def idle_hosts_cost_little(
    hosts: list[asyncio.subprocess.Process], proxies: list[FaultProxy], most: int
) -> str:
    # Polls become rarer, up to every two seconds; on a busy machine that takes a while.
    for left in (2, 1, 0):
        await asyncio.sleep(5)
        cpu, requests = await idle_cost(hosts, proxies)
        told = f"an idle host uses {max(cpu):.3f} of a processor and makes {requests:.0f} requests a minute"
        if left == 0 or (requests <= most and max(cpu) <= MOST_CPU):
            break
    assert requests > 0 or not proxies
    assert requests <= most, told
    assert max(cpu) <= MOST_CPU, told
    return told


async def idle_cost(
    hosts: list[asyncio.subprocess.Process], proxies: list[FaultProxy]
) -> tuple[list[float], float]:
    """Of a processor for each host, and requests a minute of one."""
    before = [processor_seconds(host.pid) for host in hosts], sum(each.counts.total() for each in proxies)
    began = time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    passed = time.monotonic() - began
    cpu = [(processor_seconds(host.pid) - was) / passed for host, was in zip(hosts, before[0], strict=True)]
    requests = (sum(each.counts.total() for each in proxies) - before[1]) * 60 / passed / len(hosts)
    return cpu, requests


def test_a_timer_runs_on_one_of_three_hosts_and_on_another_when_that_is_gone(tmp_path: Path) -> None:
    """Once for each time that it is due, or less often: while no host has the lease, what was due is made up
    for by one run."""
    ticks = tmp_path / "ticks"
    ticks.touch()
    shared = ("--data", str(tmp_path / "data"), "--timer-lease-seconds", "8")

    def seen() -> Counter[str]:
        return Counter(ticks.read_text().split())

    with ExitStack() as stack:
        began = time.monotonic()
        hosts: dict[str, subprocess.Popen[str]] = {}
        for n in range(HOSTS):
            app = write_app(tmp_path / f"app{n}", TICKED)
            process = stack.enter_context(serve(app, *shared, TICKS=str(ticks))).process
            hosts[str(process.pid)] = process
        wait_for(lambda: seen().total() >= 4)
        (first,) = seen()
        hosts[first].kill()
        wait_for(lambda: seen().total() >= seen()[first] + 4)
        ran = seen()
        passed = time.monotonic() - began  # They go on while they are ended.
    assert len(ran) == 2
    assert ran.keys() <= hosts.keys()
    assert ran.total() <= passed + 2
