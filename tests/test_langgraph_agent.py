"""The LangGraph agent of examples/: killed between two steps, it goes on in another process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from integrations.langgraph import AgentStorageSaver, AgentStorageStore
from storage_lib import StorageConfig, StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.registry import Registry
from tests.conftest import PROJECT

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")

KILLED = """
import asyncio, os, signal
from examples import langgraph_agent

async def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

langgraph_agent.work_off = killed
asyncio.run(langgraph_agent.main("sales"))
"""


async def run(environment: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=PROJECT, env=environment, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 600)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode().splitlines()


@pytest.mark.parametrize("kind", ["file", "azurite"], indirect=True)
async def test_it_is_killed_and_goes_on_in_another_process(kind: tuple[str, Any], tmp_path: Path) -> None:
    name, server = kind
    own = {key: value for key, value in os.environ.items() if not key.startswith("AGENT_")}
    own |= {"PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "default"}
    if name == "file":
        settings = {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": str(tmp_path / "data")}
    else:
        settings = {
            "AGENT_STORAGE_TYPE": "azure",
            "AgentStorage": server.connection_string,
            "AGENT_STORAGE_CONTAINER": f"agent-{uuid4().hex[:12]}",
            "AGENT_STORAGE_NAMESPACE": f"n{uuid4().hex[:8]}",
        }
    code, before = await run(own | settings, "-c", KILLED)
    assert code == -signal.SIGKILL
    assert before[:3] == ["model: save_file", "tools: saved reports/sales.csv", "model: start_analysis"]
    task_id = before[3].removeprefix("tools: ")
    assert before[4:] == ["model: wait_for_analysis"]

    code, after = await run(own | settings, "examples/langgraph_agent.py")
    assert code == 0
    assert after == [
        "tools: succeeded: 3 rows",
        "model: remember",
        "tools: remembered",
        "model: The analysis has succeeded: 3 rows.",
    ]
    async with StorageManager(StorageConfig.from_env(settings)) as storage:
        engine = TaskEngine(storage, Registry(["actions"]))
        assert [record.task_id for record in (await engine.list()).records] == [task_id]
        found = await AgentStorageSaver(storage).aget_tuple({"configurable": {"thread_id": "sales"}})
        assert found is not None
        assert len(found.checkpoint["channel_values"]["messages"]) == 10
        facts = await AgentStorageStore(storage).asearch(("facts",))
        assert [fact.value for fact in facts] == [{"text": "The sales report: succeeded: 3 rows"}]
