"""The function app: every trigger of `functions`, put together. Nothing else lives here."""

from __future__ import annotations

import azure.functions as func

from functions import logs, maintenance, measurements, objects, service, state, tasks, watch
from functions.state import check_settings

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
for module in (objects, tasks, maintenance, measurements, service):
    app.register_functions(module.blueprint)
logs.quieten_sdk()
watch.begin()


async def shutdown() -> None:
    """What the host calls when it stops: end what runs beside the functions, and close the storage."""
    await watch.end()
    await state.shutdown()


__all__ = ["app", "check_settings", "shutdown"]
