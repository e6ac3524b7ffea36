"""The platform stops a whole host on one refused queue request, and a worker dies with all that it does: the
app goes on in the next, and each effect is there once."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine
from tests.test_task_chaos import SOAK, stored_on
from tests.test_task_kills import Killed, check, is_open

AWAY_SECONDS = 28.0
"""Longer than the host tries a request to its queues again."""


class Door:
    """The way to a queue service, which refuses or is shut when a test says so."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.to_refuse = 0
        self.is_shut = False
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
        ) as self._session:
            runner = web.ServerRunner(web.Server(self._pass))
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert site._server is not None
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
            try:
                yield
            finally:
                await runner.cleanup()

    async def _pass(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.is_shut:
            return web.Response(status=503)
        get_messages = request.method == "GET" and request.path.endswith("/messages")
        if self.to_refuse and get_messages and "peekonly" not in request.query_string:
            self.to_refuse -= 1
            return web.Response(status=403, headers={"x-ms-error-code": "AuthorizationFailure"})
        body = await request.read()
        async with self._session.request(
            request.method,
            aiohttp.client.URL(self.service + request.raw_path, encoded=True),
            headers=request.headers,
            data=body or None,
        ) as answer:
            dropped = {"transfer-encoding", "content-length", "connection"}
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
            return web.Response(status=answer.status, headers=headers, body=await answer.read())


async def test_refused_queue_requests_stop_hosts(tmp_path: Path, azurite: Any) -> None:
    """And, in the soak, half a minute without queues."""
    chance, data = random.Random(7), tmp_path / "data"
    settings = stored_on("azure", data, azurite)
    door = Door(f"http://127.0.0.1:{azurite.queue_port}")
    async with door.open(), StorageManager(StorageConfig.from_env(settings)) as storage:
        engine, submitted = TaskEngine(storage), list[str]()
        through = {"AgentStorage": settings["AgentStorage"].replace(door.service, door.url)}
        hosts = Killed(data, tmp_path / "begun", settings | through)
        try:
            await hosts.add(1)
            for stop in range(10 if SOAK else 2):
                for _ in range(3):
                    task = await engine.submit("chaos_family", "stopped", chance.uniform(0.1, 2))
                    submitted.append(task.task_id)
                await asyncio.sleep(chance.uniform(0.2, 2))  # the instant is meant to be any
                door.to_refuse = 1
                async with asyncio.timeout(600):
                    while door.to_refuse:
                        await asyncio.sleep(0.05)
                # It becomes another in the same process.
                hosts.deaths[-stop] = datetime.now(UTC)
            if SOAK:
                door.is_shut = True
                await asyncio.sleep(AWAY_SECONDS)
                door.is_shut = False
            # The law holds from here on: until now no host was up for long. And the tasks take their time.
            async with asyncio.timeout(600):
                left = [*submitted]
                while await is_open(engine, left):
                    await asyncio.sleep(0.25)
        finally:
            await hosts.end()
        await check(engine, submitted, hosts, law=math.inf)


def worker_or_none(host: int) -> int | None:
    """The process that has the app: the only child of its host."""
    children = Path(f"/proc/{host}/task/{host}/children").read_text().split()
    return int(children[0]) if len(children) == 1 else None


@pytest.mark.parametrize("backend", ["file", "azure"])
async def test_workers_die(backend: str, tmp_path: Path, azurite: Any) -> None:
    """The host goes on, releases what failed, and ends itself with every third worker."""
    chance, data = random.Random(11), tmp_path / "data"
    settings = stored_on(backend, data, azurite)
    async with StorageManager(StorageConfig.from_env(settings)) as storage:
        engine, submitted = TaskEngine(storage), list[str]()
        hosts = Killed(data, tmp_path / "begun", settings)
        try:
            await hosts.add(1)
            (host,) = hosts.pids
            dead = 0
            for death in range(12 if SOAK else 4):
                for _ in range(3 if SOAK else 2):
                    task = await engine.submit("chaos_family", "dying", chance.uniform(0.1, 2))
                    submitted.append(task.task_id)
                await asyncio.sleep(chance.uniform(0.2, 2))  # the instant is meant to be any
                async with asyncio.timeout(600):
                    while (worker := await asyncio.to_thread(worker_or_none, host)) in (None, dead):
                        await asyncio.sleep(0.05)
                assert worker is not None
                os.kill(worker, signal.SIGKILL)
                dead, hosts.deaths[-death] = worker, datetime.now(UTC)
            async with asyncio.timeout(600):
                left = [*submitted]
                while await is_open(engine, left):
                    await asyncio.sleep(0.25)
        finally:
            await hosts.end()
        await check(engine, submitted, hosts, law=math.inf)
