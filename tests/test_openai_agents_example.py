"""examples/openai_agents_session.py: the agent of a process that was killed goes on in another one."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from pathlib import Path

import pytest

from examples.openai_agents_session import main
from integrations.openai_agents import StorageSession
from storage_lib import StorageManager
from tests.conftest import PROJECT
from tests.framework_stores import Place, on

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")

# The agent of the example, whose model does not come back once it knows where the order is.
STUCK = """
import asyncio
from examples import openai_agents_session as example

class Stuck(example.Script):
    async def get_response(self, system_instructions, input, *rest, **more):
        if not isinstance(input, str) and input[-1].get("type") == "function_call_output":
            print("thinking", flush=True)
            await asyncio.sleep(600)
        return await super().get_response(system_instructions, input, *rest, **more)

example.Script = Stuck
asyncio.run(example.main("Where is order 42?"))
"""


@pytest.fixture(params=["file", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
def settings(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of a new store, also in this process."""
    kind, server = place
    if kind == "file":
        found = {"AGENT_STORAGE_TYPE": "file", "AGENT_STORAGE_PATH": str(tmp_path)}
    else:
        unique = f"n{uuid.uuid4().hex[:10]}"
        found = {
            "AGENT_STORAGE_TYPE": "azure",
            "AGENT_STORAGE_CONTAINER": unique,
            "AGENT_STORAGE_NAMESPACE": unique,
        }
        found["AgentStorage"] = server.connection_string  # type: ignore[attr-defined]
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


async def test_it_goes_on_in_another_process(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", STUCK),
        cwd=PROJECT,
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(600):
            said = await process.stdout.readline()
    finally:
        process.kill()
        _, errors = await process.communicate()
    assert said == b"thinking\n", errors.decode()

    async with StorageManager() as storage:
        items = await StorageSession("customer-1", storage).get_items()
    assert items[0] == {"role": "user", "content": "Where is order 42?"}
    assert [item.get("type") for item in items[1:]] == ["function_call", "function_call_output"]

    await main("And what was my first question?")
    await main("Where is order 43?")
    assert capsys.readouterr().out.splitlines() == [
        "Of your 2 questions the first was: Where is order 42?",
        "It is delivered.",
    ]
