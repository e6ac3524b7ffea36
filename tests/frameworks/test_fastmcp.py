"""FastMCP on `KeyValueStore`, and the server of examples/."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.event_store import EventStore
from fastmcp.server.middleware.caching import ResponseCachingMiddleware
from mcp.shared.auth import OAuthClientInformationFull
from pydantic import AnyUrl

from examples.fastmcp_server import build, sign_in
from integrations.key_value import KeyValueStore
from storage_lib import StorageManager, config_of, open_store
from tests.conftest import PROJECT
from tests.ports import free_ports

STARTED_SECONDS = 300


@pytest.fixture(params=["file", "azurite"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new store."""
    if request.param == "file":
        return f"file:{tmp_path}/data"
    monkeypatch.setenv("AgentStorage", request.getfixturevalue("azurite").connection_string)
    monkeypatch.setenv("AGENT_STORAGE_CONTAINER", f"fastmcp-{uuid.uuid4().hex[:12]}")
    return "azure:"


@asynccontextmanager
async def serving(place: str) -> AsyncIterator[Client[Any]]:
    """The example in a process of its own, and a client of it."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.fastmcp_server", "--store", place, "--port", str(port),
        cwd=PROJECT, env=os.environ | {"FASTMCP_CHECK_FOR_UPDATES": "off"}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(STARTED_SECONDS):
            while True:
                assert process.returncode is None, "the server has ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                    continue
                writer.close()
                break
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            yield client
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def test_a_server_is_killed_and_its_clients_go_on_at_others(place: str) -> None:
    async with serving(place) as client:
        session = (await client.call_tool("create_session")).data
        assert (await client.call_tool("deliver", {"item": "pen", "count": 3})).data == 3
        assert (await client.call_tool("take", {"item": "pen", "session_id": session})).data == ["pen"]
    async with (
        open_store(place) as storage,
        serving(place) as client,
        Client(build(storage, "http://127.0.0.1")) as other,  # Another server, of this process.
    ):
        assert (await client.call_tool("basket", {"session_id": session})).data == ["pen"]
        sessions = [(await each.call_tool("create_session")).data for each in (client, other)]
        took = await asyncio.gather(
            *(
                each.call_tool("take", {"item": "pen", "session_id": sessions[number]}, raise_on_error=False)
                for _ in range(2)
                for number, each in enumerate((client, other))
            )
        )
        assert sorted(each.is_error for each in took) == [False, False, True, True]
        await client.call_tool("end_session", {"session_id": session})
        with pytest.raises(ToolError, match="session"):
            await other.call_tool("basket", {"session_id": session})


async def test_an_oauth_client_is_known_to_the_next_process(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_CLIENT_ID", "id")
    monkeypatch.setenv("GITHUB_CLIENT_SECRET", "a secret of sixteen bytes, or more")
    registered = OAuthClientInformationFull(
        client_id="https://client.example/name with spaces?&#",
        redirect_uris=[AnyUrl("http://127.0.0.1:1/back")],
    )
    async with open_store(place) as storage:
        provider = sign_in(KeyValueStore(storage), "http://127.0.0.1:8000")
        assert provider is not None
        await provider.register_client(registered)
    async with open_store(place) as storage:
        provider = sign_in(KeyValueStore(storage), "http://127.0.0.1:8000")
        assert provider is not None
        assert registered.client_id is not None
        found = await provider.get_client(registered.client_id)
        assert found is not None
        assert found.redirect_uris == registered.redirect_uris
        assert await provider.get_client("another") is None


async def test_state_answers_and_events(place: str) -> None:
    """Whatever else of FastMCP takes an ``AsyncKeyValue``."""
    calls: list[int] = []
    async with StorageManager(config_of(place)) as storage:
        store = KeyValueStore(storage)
        server: FastMCP[Any] = FastMCP("state", session_state_store=store)
        server.add_middleware(ResponseCachingMiddleware(cache_storage=store))

        @server.tool
        async def slow(number: int) -> int:
            calls.append(number)
            return number * 2

        @server.tool
        async def keep(context: Context, value: Any) -> Any:
            await context.set_state("kept", {"value": value, "more": [1, None, "ü"]})
            return await context.get_state("kept")

        async with Client(server) as client:
            assert [(await client.call_tool("slow", {"number": 4})).data for _ in range(3)] == [8, 8, 8]
            kept = (await client.call_tool("keep", {"value": 1.5})).data
            assert kept == {"value": 1.5, "more": [1, None, "ü"]}
        assert calls == [4]
        assert "fastmcp_state" in await store.collections()

        events = EventStore(storage=store)
        first = await events.store_event("stream", None)
        await events.store_event("stream", None)
        replayed: list[Any] = []

        async def send(message: Any) -> None:
            replayed.append(message)

        assert await EventStore(storage=store).replay_events_after(first, send) == "stream"
