"""Timers: what has to be done now and then."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func

from functions.state import state
from storage_lib.errors import KeyNotFoundError
from storage_lib.ports.backend import QueueStore
from storage_lib.tasks.model import Priority

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Maintenance")

SWEEP_LIMIT = 1000
SWEEP_SECONDS = 50
"""How long a run may go on while there is more; the rest waits for the next, hidden all the same."""
EXPIRE_SECONDS = 400
LOOK_SECONDS = 400
"""How long a look through the records of all tasks may take: the newest come first."""
WATCHED_QUEUES = tuple(queue for priority in Priority for queue in (priority.queue, priority.poison_queue))


@blueprint.function_name("sweep_expired")
@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *", run_on_startup=False)
async def sweep_expired(timer: func.TimerRequest) -> None:
    """Remove objects whose time to live is over."""
    storage = state().storage
    until = time.monotonic() + SWEEP_SECONDS
    total = 0
    while (left := until - time.monotonic()) > 0:
        removed = await storage.sweep_expired(SWEEP_LIMIT, seconds=left)
        total += removed
        if removed < SWEEP_LIMIT:
            break
    if total:
        _log.info("%d expired objects were removed", total)


@blueprint.function_name("expire_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="30 3 * * * *", run_on_startup=False)
async def expire_tasks(timer: func.TimerRequest) -> None:
    """Remove the records of tasks that ended long ago, and idempotency keys whose window is over."""
    app = state()
    before = datetime.now(UTC) - timedelta(days=app.task_retention_days)
    until = time.monotonic() + EXPIRE_SECONDS
    records = keys = 0
    while time.monotonic() < until:
        gone = await app.engine.records.expire(before, SWEEP_LIMIT)
        used = await app.engine.submission.expire_keys(SWEEP_LIMIT)
        records, keys = records + gone, keys + used
        if gone < SWEEP_LIMIT and used < SWEEP_LIMIT:
            break
    if records or keys:
        _log.info("%d task records and %d idempotency keys were removed", records, keys)


@blueprint.function_name("repair_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="0 33 * * * *", run_on_startup=False)
async def repair_tasks(timer: func.TimerRequest) -> None:
    """Send the messages of long overdue tasks again: the queue may have lost them."""
    if sent := await _within(state().engine.repair.run()):
        _log.warning("the messages of %d overdue tasks were sent again", sent)


@blueprint.function_name("take_over_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="0 */2 * * * *", run_on_startup=False)
async def take_over_tasks(timer: func.TimerRequest) -> None:
    """Send the messages of tasks again whose host was killed: the queue hides theirs for up to ten minutes.

    Hosts that are up look for them more often (functions/watch.py); this finds what is left when none is.
    """
    if sent := await _within(state().engine.repair.take_over(older=True)):
        _log.warning("the messages of %d tasks whose host is gone were sent again", sent)


@blueprint.function_name("watch_queues")
@blueprint.timer_trigger(arg_name="timer", schedule="20 */5 * * * *", run_on_startup=False)
async def watch_queues(timer: func.TimerRequest) -> None:
    """Log how many messages are in the queues of tasks, in one line, unless there are none.

    The alerts of infra/modules/alerts.bicep read this line: its form is not free.
    """
    queues = state().storage.backend.queues
    counts = await asyncio.gather(*(_length(queues, queue) for queue in WATCHED_QUEUES))
    if any(counts):
        _log.info("queue lengths: %s", json.dumps(dict(zip(WATCHED_QUEUES, counts, strict=True))))


async def _within(look: Coroutine[Any, Any, int]) -> int:
    """What it returns; 0 if it is broken off, for the host ends the worker that takes longer."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await look
    except TimeoutError:
        _log.warning("a look through all tasks was broken off after %d s", LOOK_SECONDS)
        return 0


async def _length(queues: QueueStore, queue: str) -> int:
    try:
        return await queues.length(queue)
    except KeyNotFoundError:
        return 0  # The first message makes it.
