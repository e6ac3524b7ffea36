"""The function app: every trigger of `functions`, put together. Nothing else lives here."""

from __future__ import annotations

import azure.functions as func

from functions import maintenance, objects, service, tasks
from functions.state import shutdown

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for blueprint in (objects.blueprint, tasks.blueprint, maintenance.blueprint, service.blueprint):
    app.register_functions(blueprint)

__all__ = ["app", "shutdown"]
