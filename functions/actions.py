"""HTTP: what tasks can be submitted."""

from __future__ import annotations

from typing import Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.endpoint import Blueprint
from functions.state import state

blueprint = Blueprint()


@blueprint.http("GET HEAD", "actions", answers={200: "Actions"})
async def list_actions(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/actions``: list what tasks can do. The actions whose tasks the sender may submit, each
    with the JSON Schema of its payload, its time limit and its retries; and the limits of a submission."""
    await access.agents()
    from storage_lib.tasks.submission import MAX_BATCH, MAX_DELAY_SECONDS

    app, grant = state(), access.grant()
    shown: list[dict[str, Any]] = [
        action.shown()
        for action in app.registry.every()
        if not action.whole_store or grant is None or grant.is_everything
    ]
    limits = {"tasks": MAX_BATCH, "delay_seconds": MAX_DELAY_SECONDS, "body_bytes": app.max_json_bytes}
    return json_response({"actions": shown, "limits": limits})
