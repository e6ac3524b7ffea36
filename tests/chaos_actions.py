"""Actions and faults of test_task_chaos.py and test_task_kills.py, loaded into each host by
AGENT_TASK_MODULES."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
from pathlib import Path
from typing import Any

from storage_lib.errors import StorageUnavailableError
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task
from storage_lib.tasks.retry import RetryPolicy, RetryTaskError

# Many attempts: what the faults and kills cost must not decide how a task ends.
PATIENT = RetryPolicy(max_attempts=50, base_seconds=0.1, max_seconds=1)
CHILDREN = 3
HOST = os.getppid()
"""The process of the host, whose worker this is."""
RATE = float(os.environ.get("CHAOS_RATE", "0"))
if keys := os.environ.get("CHAOS_RANGE_KEYS"):
    importlib.import_module("actions.migrate").RANGE_KEYS = int(keys)


async def effect(context: TaskContext) -> None:
    await context.update_once(f"effects/{context.task.task_id}", lambda n: n + 1, initial=0)


@task("chaos_ok", retry=PATIENT)
async def ok(context: TaskContext, payload: Any) -> Any:
    await effect(context)
    return payload


@task("chaos_flaky", retry=PATIENT)
async def flaky(context: TaskContext, payload: Any) -> str:
    await effect(context)
    if context.task.attempts < 3:
        raise RetryTaskError("not yet")
    return "third time"


@task("chaos_fails", retry=PATIENT)
async def fails(context: TaskContext, payload: Any) -> None:
    raise ValueError("as asked")


@task("chaos_never", retry=RetryPolicy(max_attempts=3, base_seconds=0.1))
async def never(context: TaskContext, payload: Any) -> None:
    raise RetryTaskError("never")


@task("chaos_mended", retry=RetryPolicy(max_attempts=3, base_seconds=0.1))
async def mended(context: TaskContext, payload: Any) -> str:
    if not context.task.first_attempt:
        raise RetryTaskError("not before it was requeued")
    await effect(context)
    return "mended"


@task("chaos_fan", retry=PATIENT)
async def fan(context: TaskContext, payload: Any) -> Any:
    for n in range(CHILDREN):
        await context.submit("chaos_ok", {"child": n})
    return payload


@task("chaos_endless", retry=PATIENT)
async def endless(context: TaskContext, payload: Any) -> None:
    while True:
        await asyncio.sleep(0.2)
        await context.checkpoint()


@task("chaos_cancelled", retry=PATIENT)
async def cancelled(context: TaskContext, payload: Any) -> None:
    await effect(context)


def begun(context: TaskContext) -> None:
    """Leave word of which host runs which attempt; it may be killed at any moment."""
    with (Path(os.environ["CHAOS_BEGUN"]) / str(HOST)).open("ab", buffering=0) as file:
        file.write(f"{context.task.task_id} {context.task.attempts}\n".encode())


@task("chaos_slow", retry=PATIENT)
async def slow(context: TaskContext, payload: float) -> float:
    begun(context)
    await asyncio.sleep(payload / 2)
    await effect(context)
    await asyncio.sleep(payload / 2)
    return payload


@task("chaos_family", retry=PATIENT)
async def family(context: TaskContext, payload: float) -> float:
    begun(context)
    for _ in range(CHILDREN):
        await context.submit("chaos_slow", payload)
        await asyncio.sleep(payload / 8)
    await effect(context)
    return payload


def inject() -> None:
    """Let a share of all storage operations fail, half of them after they have taken effect."""
    kind = {"file": ("file", "File"), "azure": ("azure", "Azure")}[os.environ["AGENT_STORAGE_TYPE"]]
    for port, calls in (("objects", ("put", "get")), ("tables", ("write", "get")), ("queues", ("send",))):
        where = importlib.import_module(f"storage_lib.backends.{kind[0]}.{port}")
        driver = getattr(where, kind[1] + port.title())
        for name in calls:
            setattr(driver, name, _faulty(getattr(driver, name)))


def _faulty(operation: Any) -> Any:
    chance = random.Random()

    async def with_faults(*arguments: Any, **options: Any) -> Any:
        fault = chance.random() < RATE
        if fault and chance.random() < 0.5:
            raise StorageUnavailableError("injected, before")
        result = await operation(*arguments, **options)
        if fault:
            raise StorageUnavailableError("injected, after")
        return result

    return with_faults


if RATE:
    inject()
