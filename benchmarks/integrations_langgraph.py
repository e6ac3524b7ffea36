"""Checkpoints of LangGraph on files, and `AsyncSqliteSaver` that waits for the disk at each commit, too."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.integrations import Disk, ratio
from integrations.langgraph import AgentStorageSaver
from storage_lib import StorageConfig, StorageManager

STEPS = 30
"""A turn."""
MESSAGES = [{"role": "user", "content": "What does the report say of the second quarter? " * 4}] * 10


def measure(runs: int) -> list[tuple[str, str, str]]:
    rows = [
        (
            f"LangGraph put + put_writes + get_tuple, files / AsyncSqliteSaver durable, {threads} at a time",
            f"{asyncio.run(_ratio(STEPS * runs // threads, threads)):.2f} x",
            ">= 1 x",
        )
        for threads in (1, 8)
    ]
    limit = asyncio.run(_limit(STEPS * runs))
    return [
        *rows,
        ("the disk alone: two commits of SQLite / AsyncSqliteSaver durable", f"{limit:.2f} x", "a limit"),
    ]


async def _limit(steps: int) -> float:
    """A put and a put_writes are a commit each: how much faster they could be if nothing else took time."""
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "bare")

        async def commits() -> None:
            await disk.commit()
            await disk.commit()

        async with _sqlite() as theirs:
            found = await ratio(steps, commits, _thread(theirs))
        disk.close()
        return found


async def _ratio(steps: int, threads: int) -> float:
    """That many threads go on at once, as in a process that serves several users."""
    async with _ours() as ours, _sqlite() as theirs:
        return await ratio(steps, _threads(ours, threads), _threads(theirs, threads))


def _threads(saver: BaseCheckpointSaver[Any], count: int) -> Callable[[], Awaitable[object]]:
    threads = [_thread(saver) for _ in range(count)]

    async def call() -> object:
        return await asyncio.gather(*(thread() for thread in threads))

    return call


def _thread(saver: BaseCheckpointSaver[Any]) -> Callable[[], Awaitable[None]]:
    """A thread of the saver, which each call continues by a step."""
    config: Any = {"configurable": {"thread_id": str(uuid4()), "checkpoint_ns": ""}}
    steps = count()

    async def call() -> None:
        nonlocal config
        config = await _step(saver, config, next(steps))

    return call


async def _step(saver: BaseCheckpointSaver[Any], config: Any, step: int) -> Any:
    versions = {"messages": step + 1}
    checkpoint = Checkpoint(
        v=4,
        id=str(uuid6()),
        ts="2026-01-01T00:00:00+00:00",
        channel_values={"messages": MESSAGES},
        channel_versions=versions,  # type: ignore[typeddict-item]
        versions_seen={},
        updated_channels=None,
    )
    stored = await saver.aput(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, versions)  # type: ignore[arg-type]
    await saver.aput_writes(stored, [("messages", MESSAGES[0]), ("branch:to:agent", None)], str(uuid4()))
    place = {"thread_id": stored["configurable"]["thread_id"], "checkpoint_ns": ""}
    found = await saver.aget_tuple({"configurable": place})
    assert found is not None
    assert found.checkpoint["id"] == checkpoint["id"]
    return stored


@asynccontextmanager
async def _ours() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        async with StorageManager(StorageConfig(base_path=folder)) as storage:
            yield AgentStorageSaver(storage)


@asynccontextmanager
async def _sqlite() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/checkpoints.sqlite") as saver:
            await saver.setup()
            await saver.conn.execute("PRAGMA synchronous=FULL")
            yield saver
