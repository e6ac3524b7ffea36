"""`agent-storage` on an app, through its HTTP API: for users who have no key of its account."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from storage_lib.config import StorageConfig
from storage_lib.tasks.model import TASK_QUEUE
from tests.cli_runs import Cli, Result
from tests.http_store import served


async def test_an_app_is_a_store_with_tasks(tmp_path: Path) -> None:
    async with served(StorageConfig(storage_type="memory")) as app:
        cli = Cli(tmp_path, AGENT_STORAGE_URL=app.url)

        async def run(*arguments: str, **options: Any) -> Result:
            return await asyncio.to_thread(cli, *arguments, **options)

        await run("save", "reports/a.csv", "-m", "by=me", stdin="day,rain\nmon,1\ntue,2\n")
        assert (await run("ls", "-r")).lines == ["reports/a.csv"]
        assert (await run("load", "reports/a.csv")).out == b"day,rain\nmon,1\ntue,2\n"
        assert "metadata by: me" in (await run("stat", "reports/a.csv")).lines
        checks = json.loads((await run("doctor", "--json")).out)
        assert {each["verdict"] for each in checks} == {"ok"}, checks
        assert checks[0]["message"].startswith(f"the app at {app.url}")
        await run("load", "none", code=3)

        task = (
            await run("tasks", "submit", "query", '{"sql": "select 1", "tables": {"t": "x"}}')
        ).text.strip()
        assert (await run("tasks", "list")).lines[0].split("\t")[:3] == [task, "queued", "query"]
        await run("tasks", "cancel", task)
        assert (await run("tasks", "watch", task, code=1)).lines[0].split("\t")[1:] == [task, "cancelled"]
        await run("tasks", "cancel", "0" * 36, code=3)
        assert (await run("tasks", "submit", "nope", code=2)).err.count("unknown action 'nope'") == 1

        query = asyncio.ensure_future(run("query", "SELECT sum(rain) FROM 'reports/a.csv'"))
        queues, engine = app.app.storage.backend.queues, app.app.state.engine
        while not query.done():
            await asyncio.sleep(0.1)
            for message in await queues.receive(TASK_QUEUE, max_messages=32):
                await engine.deliver(message.text, queue=TASK_QUEUE)
                await queues.delete(TASK_QUEUE, message)
        assert (await query).lines == ["3"]
        await run("rm", "reports/a.csv", "--yes")
        assert (await run("ls")).lines == []
