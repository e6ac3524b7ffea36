"""The Model Context Protocol as others' clients speak it, to the local host: the protocol's SDKs for Python,
in both of its ways, and for TypeScript."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from mcp import Client
from mcp.client import ClientExtension, advertise
from mcp.client.extension import ResultClaim
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, RequestParams, Result
from pydantic import ConfigDict

from tests.client_tools import ask_by_typescript
from tests.conftest import PROJECT
from tests.test_end_to_end import Devhost, devhost

TASKS = "io.modelcontextprotocol/tasks"
SECONDS = 120
GATED = {"name": "run_task", "arguments": {"action": "mcp_gated", "agent_id": "ceo", "payload": {"n": 1}}}


@asynccontextmanager
async def served(folder: Path, *arguments: str, **settings: str) -> AsyncIterator[Devhost]:
    more = {
        "AGENT_TASK_MODULES": "tests.mcp_actions",
        "PYTHONPATH": str(PROJECT),
        "MCP_GATE": str(folder / "gate"),
    }
    async with devhost("file", folder / "data", *arguments, **(more | settings)) as host:
        yield host


def url_of(host: Devhost) -> str:
    return f"{host.url}/api/mcp"


async def by_typescript(url: str, command: str, asked: dict[str, Any] | None = None) -> dict[str, Any]:
    return await asyncio.to_thread(ask_by_typescript, url, command, asked)


async def ended(ask: Callable[[], Any]) -> Any:
    """What is told of a task once it is no longer at work."""
    async with asyncio.timeout(SECONDS):
        while (found := await ask())["status"] == "working":
            await asyncio.sleep(0.2)
    return found


class TaskOnce(Result):
    """A task in place of a result."""

    result_type: Literal["task"]
    task_id: str
    status: str


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_sdk_for_python(tmp_path: Path, mode: Any) -> None:
    async with served(tmp_path) as host, Client(url_of(host), mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert {"save_object", "query_objects", "run_task"} <= {tool.name for tool in tools}
        saved = await client.call_tool(
            "save_object", {"key": "a/b.csv", "text": "x\n1\n2\n", "content_type": "text/csv"}
        )
        assert not saved.is_error
        # The client checks what is structured against the schemas of results.
        loaded = await client.call_tool("load_object", {"key": "a/b.csv"})
        assert loaded.structured_content["text"] == "x\n1\n2\n"
        failed = await client.call_tool("load_object", {"key": "none"})
        assert (failed.is_error, json.loads(failed.content[0].text)["status"]) == (True, 404)
        (resource,) = (await client.list_resources()).resources
        read = await client.read_resource(resource.uri)
        assert (read.contents[0].mime_type, read.contents[0].text) == ("text/csv", "x\n1\n2\n")
        sql = {"sql": "select sum(x) as s from t", "tables": {"t": "a/b.csv"}}
        queried = await client.call_tool("query_objects", sql)
        assert queried.structured_content["result"]["rows"] == [{"s": 3}]
        many = await asyncio.gather(
            *(client.call_tool("save_object", {"key": f"many/{n}", "value": n}) for n in range(30))
        )
        assert not any(each.is_error for each in many)
        listed = await client.call_tool("list_objects", {"prefix": "many/"})
        assert len(listed.structured_content["objects"]) == 30


async def test_progress_comes_before_the_result(tmp_path: Path) -> None:
    seen: list[tuple[float, str | None]] = []

    async def told(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))

    async with served(tmp_path) as host, Client(url_of(host)) as client:

        async def running() -> list[Any]:
            tasks = (await host.json("tasks?status=running"))["tasks"]
            return [task["progress"] for task in tasks]

        for _ in range(10):
            seen.clear()
            call = asyncio.ensure_future(client.call_tool(**GATED, progress_callback=told))
            async with asyncio.timeout(SECONDS):
                while not any(await running()):
                    await asyncio.sleep(0.1)
            (tmp_path / "gate").touch()
            result = await call
            if result.structured_content["status"] != "running":
                break
            # On a busy machine its action may begin after most of the 30 s for which a call waits.
            async with asyncio.timeout(SECONDS):
                while await running():
                    await asyncio.sleep(0.1)
            (tmp_path / "gate").unlink()
        assert result.structured_content["status"] == "succeeded", (seen, result)
        assert any((message or "").startswith("step") for _, message in seen), seen
        assert [each for each, _ in seen] == sorted({each for each, _ in seen})


async def test_tasks_outlive_the_host(tmp_path: Path) -> None:
    """One of the extension of 2026-07-28, one of the core of 2025-11-25, by clients that share no code."""
    made: list[TaskOnce] = []

    async def keep(task: TaskOnce, context: Any) -> CallToolResult:
        made.append(task)
        return CallToolResult(content=[], is_error=True)  # It goes on.

    class Tasks(ClientExtension):
        identifier = TASKS

        def claims(self) -> list[ResultClaim[Any]]:
            return [ResultClaim(result_type="task", model=TaskOnce, resolve=keep)]

    async with served(tmp_path) as host:
        async with Client(url_of(host), extensions=[Tasks()]) as client:
            await client.call_tool(**GATED)
        theirs = (await by_typescript(url_of(host), "created", GATED))["ok"]
        assert theirs["status"] == made[0].status == "working"
        async with asyncio.timeout(SECONDS):
            while any(each["status"] != "running" for each in (await host.json("tasks"))["tasks"]):
                await asyncio.sleep(0.1)
        await host.kill()
    (tmp_path / "gate").touch()
    async with served(tmp_path) as host, Client(url_of(host), extensions=[advertise(TASKS)]) as client:

        async def own() -> dict[str, Any]:
            return await asked(client, "tasks/get", made[0].task_id)

        found = await ended(own)
        assert (found["status"], found["result"]["isError"]) == ("completed", False)
        assert found["result"]["structuredContent"]["result"] == {"n": 1}
        result = (await by_typescript(url_of(host), "result", {"taskId": theirs["taskId"]}))["ok"]
        assert result["structuredContent"]["result"] == {"n": 1}
        assert result["_meta"] == {"io.modelcontextprotocol/related-task": {"taskId": theirs["taskId"]}}
        listed = (await by_typescript(url_of(host), "list"))["ok"]["tasks"]
        assert {each["taskId"] for each in listed} == {made[0].task_id, theirs["taskId"]}
        assert {each["status"] for each in listed} == {"completed"}


async def asked(client: Client, method: str, task_id: str) -> dict[str, Any]:
    """What the server answers to a request about a task, which this client knows nothing of."""
    from mcp_types import Request

    class Params(RequestParams):
        task_id: str

    class Answer(Result):
        model_config = ConfigDict(extra="allow")

    request = Request[Params, str](method=method, params=Params(task_id=task_id))
    found = await client.session.send_request(request, Answer)  # pyright: ignore[reportArgumentType]
    return found.model_dump(by_alias=True, mode="json")


async def test_a_task_is_cancelled(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        task = (await by_typescript(url_of(host), "created", GATED))["ok"]
        await by_typescript(url_of(host), "cancel", {"taskId": task["taskId"]})

        async def theirs() -> dict[str, Any]:
            return (await by_typescript(url_of(host), "get", {"taskId": task["taskId"]}))["ok"]

        assert (await ended(theirs))["status"] == "cancelled"
        again = await by_typescript(url_of(host), "cancel", {"taskId": task["taskId"]})
        assert again["error"]["code"] == -32602
        result = (await by_typescript(url_of(host), "result", {"taskId": task["taskId"]}))["ok"]
        assert result["isError"]
        async with Client(url_of(host), extensions=[advertise(TASKS)]) as client:
            assert (await asked(client, "tasks/get", task["taskId"]))["status"] == "cancelled"
            # It was heard, whatever becomes of it.
            assert (await asked(client, "tasks/cancel", task["taskId"]))["resultType"] == "complete"


async def test_the_sdk_for_typescript(tmp_path: Path) -> None:
    asked = {"name": "save_object", "arguments": {"key": "notes/a.txt", "text": "text"}}
    async with served(tmp_path) as host:
        found = (await by_typescript(url_of(host), "tour", asked))["ok"]
        assert found["version"] == "2025-11-25"
        assert {"save_object", "get_task"} <= {tool["name"] for tool in found["tools"]}
        assert found["called"]["structuredContent"]["status"] == 201
        assert found["contents"][0]["text"] == "text"
        assert found["completion"]["values"] == ["notes/"]
        refused = await by_typescript(url_of(host), "created", asked)
        assert refused["error"]["code"] == -32601  # It is no task.


async def test_a_key_sees_its_prefix_alone(tmp_path: Path) -> None:
    everything = {"load": [""], "list": [""], "save": [""], "delete": [""], "tasks": ["ceo"]}
    policy = {
        "keys": {name: hashlib.sha256(f"k-{name}".encode()).hexdigest() for name in ("a", "b")},
        "principals": {f"key:{name}": {"root": f"tenants/{name}/", "may": everything} for name in ("a", "b")},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    async with served(tmp_path, AGENT_STORAGE_ACCESS_POLICY=str(tmp_path / "policy.json")) as host:

        @asynccontextmanager
        async def by_key(key: str, mode: Any) -> AsyncIterator[Client]:
            async with httpx2.AsyncClient(headers={"x-functions-key": key}, timeout=120) as http:
                transport = streamable_http_client(url_of(host), http_client=http)
                async with Client(transport, mode=mode) as client:
                    yield client

        for key, mode in (("k-a", "auto"), ("k-b", "legacy")):
            async with by_key(key, mode) as client:
                saved = await client.call_tool("save_object", {"key": f"of-{key}", "value": key})
                assert not saved.is_error
                (resource,) = (await client.list_resources()).resources
                assert resource.title == f"of-{key}"
                out = await client.call_tool("load_object", {"key": f"../{'ba'[key == 'k-b']}/of-k-a"})
                assert out.is_error
        asked = {"name": "list_objects", "arguments": {}, "headers": {"x-functions-key": "k-b"}}
        theirs = (await by_typescript(url_of(host), "call", asked))["ok"]["structuredContent"]
        assert [each["key"] for each in theirs["objects"]] == ["of-k-b"]
        nobody = await by_typescript(url_of(host), "call", asked | {"headers": {"x-functions-key": "k-c"}})
        assert "forbidden" in nobody["error"]["message"]
