"""The timer that measures what is stored, and the gauges of it and of what waits."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import azure.functions as func

from functions.invocations import timed
from functions.state import state

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Maintenance")

MEASURE_SECONDS = 400
"""How long a listing of everything may take, before the host ends the worker."""


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


async def refresh() -> None:
    """Bring the gauges up to date, if metrics are on; called before they are shown."""
    app = state()
    if app.gauges is not None:
        await app.gauges.refresh()
