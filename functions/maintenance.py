"""Timers: what has to be done now and then."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import azure.functions as func

from functions.state import state

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Maintenance")

SWEEP_LIMIT = 5000
"""Expired objects removed by one run; the rest waits for the next, hidden all the same."""


@blueprint.function_name("sweep_expired")
@blueprint.timer_trigger(arg_name="timer", schedule="0 */5 * * * *", run_on_startup=False)
async def sweep_expired(timer: func.TimerRequest) -> None:
    """Remove objects whose time to live is over."""
    removed = await state().storage.sweep_expired(SWEEP_LIMIT)
    if removed:
        _log.info("%d expired objects were removed", removed)


@blueprint.function_name("expire_tasks")
@blueprint.timer_trigger(arg_name="timer", schedule="30 3 * * * *", run_on_startup=False)
async def expire_tasks(timer: func.TimerRequest) -> None:
    """Remove the records of tasks that ended long ago, and idempotency keys whose window is over."""
    app = state()
    before = datetime.now(UTC) - timedelta(days=app.task_retention_days)
    records = await app.engine.records.expire(before, SWEEP_LIMIT)
    keys = await app.engine.submission.expire_keys(SWEEP_LIMIT)
    if records or keys:
        _log.info("%d task records and %d idempotency keys were removed", records, keys)
