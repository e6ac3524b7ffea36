"""Timers: periodic maintenance."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions.invocations import timed
from functions.state import state
from storage_lib.errors import StorageError, StorageUnavailableError, UnsupportedOperationError

if TYPE_CHECKING:
    from storage_lib.manager import StorageManager

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Maintenance")

SWEEP_LIMIT = 1000
SWEEP_SECONDS = 50
"""How long a run may take; what is left waits for the next run, hidden from readers meanwhile."""
LEAST_SECONDS = 5
"""What is left for conversations, however many objects expire."""
EXPIRE_SECONDS = 400
LOOK_SECONDS = 400
"""How long a scan of all task records may take; the newest come first."""
CARRY_SECONDS = 100
DRAIN_SECONDS = 60
MEASURE_SECONDS = 400
"""How long a listing of everything may take, before the host ends the worker."""


@blueprint.function_name("sweep_expired")
@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *", run_on_startup=False)
@timed
async def sweep_expired(timer: func.TimerRequest) -> None:
    """Remove expired objects, and conversations and messages whose life is over. With a second store, first
    bring back what it took during an outage."""
    app = state()
    storage = app.storage
    until = time.monotonic() + SWEEP_SECONDS
    if app.config.fallback is not None:
        await _repair(storage, SWEEP_SECONDS / 2)
    total = 0
    while (left := until - time.monotonic()) > 0:
        removed = await storage.sweep_expired(SWEEP_LIMIT, seconds=left)
        total += removed
        if removed < SWEEP_LIMIT:
            break
    if total:
        _log.info("%d expired objects were removed", total)
    await _sweep_conversations(storage, max(until - time.monotonic(), LEAST_SECONDS))


async def _sweep_conversations(storage: StorageManager, seconds: float) -> None:
    from storage_lib.conversations import Conversations

    try:
        done = await Conversations(storage).sweep(SWEEP_LIMIT, seconds=seconds)
    except UnsupportedOperationError:
        return  # Without tables there are none.
    except StorageUnavailableError as error:
        # A second store takes over for objects alone; the next sweep does what is left.
        _log.warning("conversations cannot be swept now: %s", error)
        return
    if done:
        _log.info("%d conversations were looked at, and what is over was removed", done)


async def _repair(storage: StorageManager, seconds: float) -> None:
    try:
        result = await storage.repair(seconds=seconds)
    except StorageError as error:
        _log.warning("the two stores cannot be repaired now: %s", error)
        return
    for each in result.failed:
        _log.error("object %r cannot be repaired: %s", each.key, each.message)
    if result.conflicts and result.repaired:
        _log.warning("%d objects were changed in both stores; see conflicts", len(result.conflicts))


@blueprint.function_name("expire_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="30 3 * * * *", run_on_startup=False)
@timed
async def expire_tasks(timer: func.TimerRequest) -> None:
    """Remove the records of tasks that ended long ago, and idempotency keys whose window is over."""
    app = state()
    before = datetime.now(UTC) - timedelta(days=app.task_retention_days)
    until = time.monotonic() + EXPIRE_SECONDS
    records = keys = 0
    while time.monotonic() < until:
        gone, used = await app.engine.expire(before, SWEEP_LIMIT)
        records, keys = records + gone, keys + used
        if gone < SWEEP_LIMIT and used < SWEEP_LIMIT:
            break
    if records or keys:
        _log.info("%d task records and %d idempotency keys were removed", records, keys)


@blueprint.function_name("repair_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="0 33 * * * *", run_on_startup=False)
@timed
async def repair_tasks(timer: func.TimerRequest) -> None:
    """Send the messages of long overdue tasks again, as the queue may have lost them. First carry over
    records that the version before wrote."""
    if carried := await state().engine.carry_over(CARRY_SECONDS):
        _log.info("%d task records of the version before were carried over", carried)
    if sent := await _within(state().engine.redeliver()):
        _log.warning("the messages of %d overdue tasks were sent again", sent)


@blueprint.function_name("take_over_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="0 */2 * * * *", run_on_startup=False)
@timed
async def take_over_tasks(timer: func.TimerRequest) -> None:
    """Send the messages of tasks whose host was killed again; the queue hides theirs for up to ten minutes.

    Likewise move the messages of task queues that are no longer in use. Running hosts look for both more
    often (functions/watch.py); this timer works when no host is running.
    """
    try:
        if sent := await _within(state().engine.take_over(older=True)):
            _log.warning("the messages of %d tasks whose host is gone were sent again", sent)
    finally:
        await state().engine.drain(DRAIN_SECONDS)


@blueprint.function_name("watch_queues")
@blueprint.timer_trigger(arg_name="timer", schedule="20 */5 * * * *", run_on_startup=False)
@timed
async def watch_queues(timer: func.TimerRequest) -> None:
    """Log the lengths of the task queues in one line, unless all are empty.

    The alerts of infra/modules/alerts.bicep parse this line, so its form must not change.
    """
    app = state()
    lengths = await app.engine.queue_lengths()
    if any(lengths.values()):
        _log.info("queue lengths: %s", json.dumps(lengths))
    await app.refresh_gauges()  # For an exporter of metrics: nobody may ask this instance for /api/metrics.


@blueprint.function_name("measure_sizes")
@blueprint.timer_trigger(arg_name="timer", schedule="40 7 * * * *", run_on_startup=False)
@timed
async def measure_sizes(timer: func.TimerRequest) -> None:
    """With metrics on, measure what is stored below each prefix, as often as their options say."""
    app = state()
    options = app.config.metrics
    if options is None or not options.sizes_hours:
        return
    from storage_lib.sizes import Sizes

    limit = asyncio.timeout(MEASURE_SECONDS)
    try:
        async with limit:
            sample = await Sizes(app.storage).measure(timedelta(hours=options.sizes_hours))
    except TimeoutError:
        if not limit.expired():
            raise
        _log.warning(
            "measuring all objects was cut off after %d s; AGENT_STORAGE_METRICS_SIZES_HOURS=0 turns it off",
            MEASURE_SECONDS,
        )
        return
    if sample is not None:
        _log.info("%d objects of %d bytes are stored", *sample.total)


async def _within(look: Coroutine[Any, Any, int]) -> int:
    """The result of ``look``; 0 if it is cut off, because the host ends a worker that takes longer."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await look
    except TimeoutError:
        _log.warning("a scan of all tasks was cut off after %d s", LOOK_SECONDS)
        return 0
