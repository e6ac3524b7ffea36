"""HTTP: is the app alive, and can it serve."""

from __future__ import annotations

from contextlib import suppress

import azure.functions as func

from functions.http import json_response, problems
from functions.state import state
from storage_lib.errors import KeyNotFoundError
from storage_lib.tasks.model import TASK_QUEUE

blueprint = func.Blueprint()


@blueprint.function_name("health_live")
@blueprint.route(route="health/live", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
@problems
async def health_live(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/live``: 200 as long as the process answers; asks nothing of the storage."""
    return json_response({"status": "live"})


@blueprint.function_name("health_ready")
@blueprint.route(route="health/ready", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
@problems
async def health_ready(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/health/ready``: 200 if objects, tables and queues answer and the settings can work, else
    503 or 500 with the reason."""
    app = state()
    app.check_settings()
    await app.storage.open()
    await app.engine.records.list(limit=1)
    with suppress(KeyNotFoundError):  # the first task makes the queue
        await app.storage.backend.queues.peek(TASK_QUEUE)
    return json_response({"status": "ready", "storage": app.config.storage_type})
