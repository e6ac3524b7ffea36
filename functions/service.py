"""HTTP: health checks and metrics."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import azure.functions as func
from msgspec import to_builtins

from functions.answers import json_response
from functions.endpoint import endpoint
from functions.state import state
from storage_lib.errors import KeyNotFoundError, StorageUnavailableError
from storage_lib.tasks.model import TASK_QUEUE

blueprint = func.Blueprint()

READY_SECONDS = 5.0
"""How long a readiness check waits for the storage."""


@blueprint.function_name("health_live")
@blueprint.route(route="health/live", methods=["GET", "HEAD"], auth_level=func.AuthLevel.ANONYMOUS)
@endpoint()
async def health_live(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/live``: 200 as long as the process answers; does not touch the storage."""
    return json_response({"status": "live"})


@blueprint.function_name("health_ready")
@blueprint.route(route="health/ready", methods=["GET", "HEAD"], auth_level=func.AuthLevel.FUNCTION)
@endpoint()
async def health_ready(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/ready``: 200 if objects, tables and queues answer within `READY_SECONDS` and the
    settings are valid, else 503 or 500 with the reason. A quota above its warning mark is shown, and is no
    reason."""
    app = state()
    app.check_settings()

    async def peek() -> None:
        with suppress(KeyNotFoundError):  # the first task creates the queue
            await app.storage.backend.queues.peek(TASK_QUEUE)

    asked = (app.storage.open(), app.engine.list(limit=1), peek())
    limit = asyncio.timeout(READY_SECONDS)
    try:
        async with limit:
            await asyncio.gather(*asked)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise StorageUnavailableError(f"the storage did not answer within {READY_SECONDS:.0f} s") from error
    answer: dict[str, Any] = {"status": "ready", "storage": app.config.storage_type}
    if quotas := app.storage.backend.quotas():
        answer["quotas"] = [to_builtins(usage) | {"is_high": usage.is_high} for usage in quotas]
    return json_response(answer)


@blueprint.function_name("metrics")
@blueprint.route(route="metrics", methods=["GET", "HEAD"], auth_level=func.AuthLevel.FUNCTION)
@endpoint()
async def metrics(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/metrics``: the metrics of this process in Prometheus' text format, or in OpenMetrics if
    ``Accept`` says so; 501 if metrics are off."""
    from functions.metrics import metrics_response

    return await metrics_response(req, state())
