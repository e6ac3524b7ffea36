"""Timers: what has to be done now and then."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta

import azure.functions as func

from functions.state import state

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Maintenance")

SWEEP_LIMIT = 1000
SWEEP_SECONDS = 50
"""How long a run may go on while there is more; the rest waits for the next, hidden all the same."""
EXPIRE_SECONDS = 400


@blueprint.function_name("sweep_expired")
@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *", run_on_startup=False)
async def sweep_expired(timer: func.TimerRequest) -> None:
    """Remove objects whose time to live is over."""
    storage = state().storage
    until = time.monotonic() + SWEEP_SECONDS
    total = 0
    while (removed := await storage.sweep_expired(SWEEP_LIMIT)) and time.monotonic() < until:
        total += removed
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
        if not gone and not used:
            break
    if records or keys:
        _log.info("%d task records and %d idempotency keys were removed", records, keys)
