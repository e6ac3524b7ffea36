"""What a newcomer copies out of README.md runs as it stands, and gives what stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import PROJECT
from tests.test_end_to_end import devhost

README = (PROJECT / "README.md").read_text()
TASK_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def block(language: str, words: str) -> str:
    """The one block of code that has these words in it."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if words in each]
    return found


def bodies(console: str) -> list[Any]:
    """The JSON that the curl commands of a block send."""
    return [json.loads(text) for text in re.findall(r"-d '(\{.*?\})'$", console, re.MULTILINE)]


@pytest.mark.parametrize("backend", ["file", "azurite"])
async def test_the_python_example(backend: str, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(block("python", "asyncio.run(main())"))
    data = tmp_path / "data"
    if backend == "file":
        task_id = await run_the_example(tmp_path)
        async with devhost(backend, data) as host:
            await reads_the_note(host, task_id)
    else:
        async with devhost(backend, data) as host:
            settings = {"AGENT_STORAGE_TYPE": "azure", "AgentStorage": host.connection_string}
            await reads_the_note(host, await run_the_example(tmp_path, **settings))
    assert (data / "copy.bin").read_bytes() == (data / "base.bin").read_bytes() != b""


async def reads_the_note(host: Any, task_id: str) -> None:
    record = await host.settled(task_id)
    assert (record["status"], record["result"]["words"]) == ("succeeded", 8)


async def run_the_example(folder: Path, **settings: str) -> str:
    """The id of the task that it submits."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENT_", "Agent"))}
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "example.py"],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(PROJECT)} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    shown = block("console", "python example.py").partition("\n\n")[0].partition("\n")[2]
    assert re.sub(TASK_ID, "ID", run.stdout.strip()) == re.sub(TASK_ID, "ID", shown)
    return run.stdout.split()[-2]


async def test_the_action_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(block("python", "@task("))
    right, wrong = bodies(block("console", '"action": "summarize"'))
    variables = {"AGENT_TASK_MODULES": "my_tasks", "PYTHONPATH": str(tmp_path)}
    async with devhost("file", tmp_path / "data", **variables) as host:
        assert await host.put("notes/today.txt", b"hello", "text/plain") == 201
        async with host.session.post(f"{host.url}/api/tasks", json=right) as response:
            assert response.status == 202
            record = await host.settled((await response.json())["task_id"])
        assert record["result"] == {"summary": right["payload"]["target"]}
        assert [attempt["outcome"] for attempt in record["history"]] == ["retry", "succeeded"]
        assert record["history"][0]["error_message"] in README
        assert (await host.get("notes/summary.txt"))[2] == b"a text of 1 words"
        async with host.session.post(f"{host.url}/api/tasks", json=wrong) as response:
            assert response.status == 400
            assert await response.text() in README


def test_the_package_needs_what_is_deployed() -> None:
    """Of each requirement of storage_lib the version that requirements.txt pins, or a newer one."""
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    del pinned["azure-functions"]  # the app's, which storage_lib does not import
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = {each.name: each.specifier for each in map(Requirement, declared)}
    assert ranges.keys() == pinned.keys()
    for name, version in pinned.items():
        assert version in ranges[name], name
        assert f">={version}" in map(str, ranges[name]), name


@pytest.mark.timeout(300)
def test_the_package_is_storage_lib_alone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, PROJECT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {str(path.relative_to(PROJECT)) for path in (PROJECT / "storage_lib").rglob("*.py")}
    assert {name for name in names if ".dist-info/" not in name} == files | {"storage_lib/py.typed"}


def test_lint_reaches_every_file_of_the_project() -> None:
    """The Makefile names folders, so that files of a user's own are left alone."""
    sources = re.search(r"^SOURCES := (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert sources
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if tracked.returncode == 0:
        assert {path.partition("/")[0] for path in tracked.stdout.split()} <= set(sources[1].split())
