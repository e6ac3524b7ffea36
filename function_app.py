"""The function app: every trigger of `functions`, put together. Nothing else lives here."""

from __future__ import annotations

import azure.functions as func

from functions import (
    batch,
    console,
    conversations,
    links,
    logs,
    maintenance,
    mcp,
    objects,
    openapi,
    prefixes,
    queues,
    service,
    state,
    tables,
    task_lists,
    task_messages,
    tasks,
    uploads,
    versions,
    watch,
)
from functions.state import check_settings

app = func.FunctionApp(http_auth_level=func.AuthLevel.FUNCTION)
_OBJECTS = (objects, links, uploads, batch, prefixes, versions)
_TASKS = (tasks, task_lists, task_messages)
_ITSELF = (maintenance, service, openapi, console)
for module in (*_OBJECTS, conversations, *_TASKS, tables, queues, mcp, *_ITSELF):
    app.register_functions(module.blueprint)
openapi.describe(app)
logs.quieten_sdk()
watch.begin()


async def shutdown() -> None:
    """What the host calls when it stops: end what runs beside the functions, and close the storage."""
    await watch.end()
    await state.shutdown()


__all__ = ["app", "check_settings", "shutdown"]
