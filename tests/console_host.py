"""The local host with the actions that the tests of the console submit, and what they ask of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import PROJECT
from tests.test_end_to_end import devhost

ACTIONS = '''
import asyncio
from dataclasses import dataclass
from typing import Literal

from storage_lib.errors import KeyNotFoundError
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError


@dataclass
class Letter:
    """:param to: who gets it."""

    to: str
    copies: int = 1
    tone: Literal["kind", "plain"] = "plain"
    signed: bool = False
    extra: list[str] | None = None


@task("letter", payload=Letter)
async def letter(context, payload):
    """Writes a letter."""
    return {"to": payload.to, "copies": payload.copies, "tone": payload.tone, "signed": payload.signed,
            "extra": payload.extra}


@task("fail")
async def fail(context, payload):
    raise ValueError(payload["why"])


@task("tell")
async def tell(context, payload):
    await context.progress(payload)
    return payload


@task("needs")
async def needs(context, payload):
    """Succeeds once an object is there."""
    return await context.storage.load(payload["key"])


@task("flaky", retry=RetryPolicy(max_attempts=3, base_seconds=0.1, max_seconds=0.2))
async def flaky(context, payload):
    if context.task.attempts < payload["succeeds_at"]:
        raise RetryTaskError("not yet")
    return "at last"


@task("hold", timeout=120)
async def hold(context, payload):
    """Runs until it is cancelled, or until the object that it names is there."""
    await context.progress({"holds": payload["until"]})
    while True:
        await context.checkpoint()
        try:
            return await context.storage.load(payload["until"])
        except KeyNotFoundError:
            await asyncio.sleep(0.2)


@task("family")
async def family(context, payload):
    for each in payload["children"]:
        await context.submit(each["action"], each["payload"])
    return "sent out"
'''
SCRIPT = "<script>document.title='ran'</script><img src=x onerror=document.title='ran'>"


@dataclass(frozen=True)
class App:
    url: str
    session: aiohttp.ClientSession
    data: Path

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> bytes:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **headers}
        async with self.session.request(method, f"{self.url}/api/{path}", data=raw, headers=given) as answer:
            content = await answer.read()
            assert answer.status < 300, (method, path, content)
            return content

    async def json(self, path: str) -> Any:
        return json.loads(await self.ask("GET", path))

    async def missing(self, key: str) -> bool:
        async with self.session.get(f"{self.url}/api/objects", params={"key": key}) as answer:
            return answer.status == 404

    async def submit(self, action: str, payload: object, **others: object) -> str:
        given = {"action": action, "agent_id": "ceo", "payload": payload, **others}
        return json.loads(await self.ask("POST", "tasks", given))["task_id"]

    async def settled(self, task: str, *states: str) -> dict[str, Any]:
        """The record, once it has one of these states; by default one in which a task ends."""
        wanted = states or ("succeeded", "failed", "cancelled", "dead")
        etag = '"none"'
        for _ in range(20):
            # It answers when the record changes, which is no matter of how fast anything is.
            asked = {"If-None-Match": etag}
            async with self.session.get(f"{self.url}/api/tasks/{task}?wait=10", headers=asked) as answer:
                if answer.status == 304:
                    continue
                record = await answer.json()
                if record["status"] in wanted:
                    return record
                etag = answer.headers["ETag"]
        raise AssertionError((task, wanted))


@asynccontextmanager
async def console_host(
    folder: Path, *arguments: str, backend: str | None = None, actions: str = ACTIONS, **variables: str
) -> AsyncIterator[App]:
    """The app as it is, with these actions."""
    for name in ("function_app.py", "host.json", "functions", "actions", "storage_lib"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "console_actions.py").write_text(actions)
    given = ("--app", str(folder), *arguments)
    settings = {"AGENT_TASK_MODULES": "console_actions", "AGENT_STORAGE_METRICS": "true", **variables}
    async with devhost(backend, folder / "data", *given, **settings) as host:
        yield App(host.url, host.session, folder / "data")
