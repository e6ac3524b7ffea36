"""The answer of ``/api/metrics``. Imported only when it is asked for."""

from __future__ import annotations

import asyncio
import logging
import math

import azure.functions as func

from functions.state import AppState
from storage_lib.errors import StorageError, UnsupportedOperationError
from storage_lib.metrics.exposition import OPENMETRICS, PROMETHEUS, exposition
from storage_lib.metrics.families import families
from storage_lib.metrics.process import process_families

_log = logging.getLogger("AOS.Http")

ASK_SECONDS = 2.0
"""How long the storage is waited for, to know whether it answers."""


async def metrics_response(req: func.HttpRequest, app: AppState) -> func.HttpResponse:
    """The metrics of this process.

    :raises UnsupportedOperationError: they are off.
    """
    registry = app.storage.backend.metrics
    if registry is None:
        raise UnsupportedOperationError(
            "metrics are off", field="AGENT_STORAGE_METRICS", remedy="set AGENT_STORAGE_METRICS=true"
        )
    await app.refresh_gauges()
    await _ask(app)  # Last, so that its answer is what is shown.
    openmetrics = wants_openmetrics(req.headers.get("Accept", ""))
    text = exposition([*families(registry), *process_families()], openmetrics=openmetrics)
    headers = {"Content-Type": OPENMETRICS if openmetrics else PROMETHEUS, "Cache-Control": "no-store"}
    return func.HttpResponse(text, headers=headers)


async def _ask(app: AppState) -> None:
    """Have the metrics layer see whether the storage answers; if not, that is what the metrics say."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            await app.storage.backend.open()
    except (StorageError, TimeoutError) as error:
        _log.warning("the storage did not answer when it was asked for the metrics: %s", error)


def wants_openmetrics(accept: str) -> bool:
    """Whether a client prefers OpenMetrics to Prometheus' own format (RFC 9110, 12.5.1). Without a preference
    it gets the latter."""
    best: dict[str, float] = {}
    for each in accept.split(","):
        media, *parameters = [part.strip().lower() for part in each.split(";")]
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _quality(value)
        best[media] = max(best.get(media, 0.0), quality)
    wanted = best.get("application/openmetrics-text", 0.0)
    return wanted > 0 and wanted >= best.get("text/plain", 0.0)


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
