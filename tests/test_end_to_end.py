"""The whole system as a newcomer starts it: ``python -m devhost`` in a process of its own, both backends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import re
import shlex
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from vega_datasets import local_data

from tests.conftest import PROJECT
from tests.effort import SOAK

WEATHER = Path(local_data.seattle_weather.filepath)
KILLS, TASKS = (20, 200) if SOAK else (3, 15)
"""How often the host is killed, and about how many tasks are submitted at most until then."""
BACKENDS = ["file", "azurite"]


class Devhost:
    """A devhost process and a client of it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        url: str,
        session: aiohttp.ClientSession,
        connection_string: str,
    ) -> None:
        self.connection_string = connection_string
        self.process = process
        self.url = url
        self.session = session

    async def put(self, key: str, body: bytes, content_type: str) -> int:
        async with self.session.put(
            f"{self.url}/api/objects/{key}", data=body, headers={"Content-Type": content_type}
        ) as response:
            return response.status

    async def get(self, key: str) -> tuple[int, str, bytes]:
        async with self.session.get(f"{self.url}/api/objects/{key}") as response:
            return response.status, response.headers["Content-Type"], await response.read()

    async def json(self, path: str) -> Any:
        async with self.session.get(f"{self.url}/api/{path}") as response:
            return await response.json(content_type=None)

    async def submit(self, report: str) -> str:
        body = {"action": "analyze_report", "agent_id": "ceo", "payload": {"report": report}}
        async with self.session.post(f"{self.url}/api/tasks", json=body) as response:
            assert response.status == 202, await response.text()
            return (await response.json())["task_id"]

    async def settled(self, task_id: str, seconds: float = 300) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            while True:
                record = await self.json(f"tasks/{task_id}")
                if record.get("status") in ("succeeded", "failed", "cancelled", "dead"):
                    return record
                await asyncio.sleep(0.1)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(self.process.wait(), 120) in (0, 130)


@asynccontextmanager
async def devhost(
    backend: str | None, data: Path, *arguments: str, **variables: str
) -> AsyncIterator[Devhost]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AGENT_", "Agent", "AzureWebJobs"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "devhost", "--port", "0", "--data", str(data)),
        *(("--backend", backend) if backend else ()),
        *("--lease-seconds", "3", "--timer-lease-seconds", "3"),
        *arguments,
        cwd=PROJECT,
        env=clean | {"AGENT_TASK_LEASE_SECONDS": "3", "AGENT_TASK_EVENTS": "true"} | variables,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(600):
            connection = ""
            while not (found := re.match(rb"ready: (\S+)", line := await process.stdout.readline())):
                assert line, "devhost ended before it was ready"
                if line.startswith(b"export "):
                    settings = dict(each.split("=", 1) for each in shlex.split(line.decode())[1:])
                    connection = settings["AgentStorage"]
        drain = asyncio.ensure_future(process.stdout.read())
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:
            yield Devhost(process, found[1].decode(), session, connection)
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 600)
        await drain
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_the_main_job(backend: str, tmp_path: Path, azurite: Any) -> None:
    async with devhost(backend, tmp_path / "data") as host:
        document = b'{"name": "ceo", "model": "large"}'
        binary = bytes(range(256)) * 20
        for key, body, content_type in (
            ("configs/ceo.json", document, "application/json"),
            ("models/adapter.bin", binary, "application/octet-stream"),
            ("notes/today.md", b"# Heute\n", "text/markdown; charset=utf-8"),
            ("reports/weather.csv", WEATHER.read_bytes(), "text/csv"),
        ):
            assert await host.put(key, body, content_type) == 201
            assert await host.put(key, body, content_type) == 200
            assert await host.get(key) == (200, content_type, body)
        listed = await host.json("objects?prefix=configs/")
        assert [each["key"] for each in listed["objects"]] == ["configs/ceo.json"]
        assert (await host.json("objects"))["prefixes"] == []

        record = await host.settled(await host.submit("reports/weather.csv"))
        assert record["status"] == "succeeded", record
        assert record["result"]["rows"] == 1461
        _, content_type, profile = await host.get(record["result"]["profile"])
        assert content_type == "application/json"
        assert json.loads(profile)["table"]["rows"] == 1461

        assert (await host.json("health/ready"))["status"] == "ready"
        if backend == "azurite":
            await by_other_clients(host, document)
        await host.stop()


async def by_other_clients(host: Devhost, document: bytes) -> None:
    """What bare clients of Azure see and send."""
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueClient

    connection = host.connection_string
    async with BlobServiceClient.from_connection_string(connection) as blobs:
        stored = await blobs.get_blob_client("agent-storage", "configs/ceo.json").download_blob()
        assert stored.properties.content_settings.content_type == "application/json"
        assert await stored.readall() == document
    message = {
        "task_id": "t1",
        "agent_id": "ceo",
        "action": "analyze_report",
        "payload": {"report": "reports/weather.csv", "output": "profiles/t1.json"},
    }
    async with QueueClient.from_connection_string(connection, "agent-tasks") as queue:
        await queue.send_message(base64.b64encode(json.dumps(message).encode()).decode())
        await queue.send_message(json.dumps(message | {"task_id": "t2"}))
        await queue.send_message("garbage, not even base64")
        await queue.send_message(base64.b64encode(b"garbage in base64").decode())
    for task_id in ("t1", "t2"):
        async with asyncio.timeout(600):
            while "status" not in (record := await host.json(f"tasks/{task_id}")) or record["status"] == 404:
                await asyncio.sleep(0.1)
        assert (await host.settled(task_id))["status"] == "succeeded"
    async with asyncio.timeout(600):
        while len(dead := (await host.json("tasks?status=dead"))["tasks"]) < 2:
            await asyncio.sleep(0.1)
    assert {record["raw_message"] for record in dead} == {
        "garbage, not even base64",
        base64.b64encode(b"garbage in base64").decode(),
    }
    assert {record["error"]["code"] for record in dead} == {"serialization-error"}
    async with QueueClient.from_connection_string(connection, "agent-events") as queue:
        events = [json.loads(base64.b64decode(each.content)) async for each in queue.receive_messages()]
    assert {event["type"] for event in events} == {"task.succeeded", "task.dead"}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_killing_the_host_loses_nothing_that_was_acknowledged(
    backend: str, tmp_path: Path, azurite: Any
) -> None:
    """SIGKILL at random instants during saves and tasks; everything acknowledged is there afterwards."""
    acknowledged: dict[str, bytes] = {}
    tasks: list[str] = []
    chance = random.Random(7)
    for _ in range(KILLS):
        async with devhost(backend, tmp_path / "data") as host:
            await host.put("reports/weather.csv", WEATHER.read_bytes(), "text/csv")

            async def save(host: Devhost = host) -> None:
                while True:
                    key = f"saved/{uuid.uuid4().hex}"
                    body = os.urandom(chance.choice([10, 1000, 200_000]))
                    assert await host.put(key, body, "application/x-test") == 201
                    acknowledged[key] = body

            async def submit(host: Devhost = host, most: int = len(tasks) + TASKS) -> None:
                while True:
                    if len(tasks) < most:
                        tasks.append(await host.submit("reports/weather.csv"))
                    else:
                        await host.json(f"tasks/{tasks[-1]}?wait=1")

            before = len(acknowledged), len(tasks)
            running = [asyncio.ensure_future(work()) for work in (save, save, save, submit, submit)]
            async with asyncio.timeout(600):
                while len(acknowledged) == before[0] or len(tasks) == before[1]:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.5 + chance.random())  # the instant is meant to be any
            await host.kill()
            outcomes = await asyncio.gather(*running, return_exceptions=True)
            assert all(isinstance(outcome, aiohttp.ClientError) for outcome in outcomes), outcomes
    assert acknowledged
    assert tasks
    async with devhost(backend, tmp_path / "data") as host:
        for key, body in acknowledged.items():
            assert await host.get(key) == (200, "application/x-test", body)
        for task_id in tasks:
            record = await host.settled(task_id, 300)
            if record["status"] == "dead":
                # Its host was killed in each of its attempts: it is given up, and says why.
                assert record["error"]["code"] == "worker-lost", record
                async with host.session.post(f"{host.url}/api/tasks/{task_id}/requeue") as response:
                    assert response.status == 202
                record = await host.settled(task_id, 300)
            assert record["status"] == "succeeded", record
        async with asyncio.timeout(600):
            while [r for s in ("queued", "running") for r in (await host.json(f"tasks?status={s}"))["tasks"]]:
                await asyncio.sleep(0.2)


LOGGING = """
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task


@task("told")
async def told(context: TaskContext, payload):
    context.log.info("%d%% of %s", 50, payload)
    context.log.debug("not at this level")
"""


@pytest.mark.parametrize(("level", "shown"), [(None, True), ("Warning", False)])
async def test_what_an_action_logs_is_shown_with_its_task(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], level: str | None, shown: bool
) -> None:
    (tmp_path / "told.py").write_text(LOGGING)
    variables = {"AGENT_TASK_MODULES": "told", "PYTHONPATH": str(tmp_path)}
    if level:
        variables["AzureFunctionsJobHost__logging__logLevel__default"] = level
    async with devhost("file", tmp_path / "data", **variables) as host:
        body = {"action": "told", "agent_id": "ceo", "payload": "it"}
        async with host.session.post(f"{host.url}/api/tasks", json=body) as response:
            task_id = (await response.json())["task_id"]
        assert (await host.settled(task_id))["status"] == "succeeded"
    logged = capfd.readouterr().err
    assert (f"task {task_id}: 50% of it" in logged) is shown
    assert "not at this level" not in logged


async def test_azurite_is_reached_past_a_proxy(tmp_path: Path) -> None:
    proxy = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    async with devhost("azurite", tmp_path, **proxy) as host:
        assert await host.put("notes/a.txt", b"hello", "text/plain") == 201
        assert (await host.get("notes/a.txt"))[2] == b"hello"
