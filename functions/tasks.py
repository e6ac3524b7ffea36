"""HTTP: submit, read and list tasks. Queue: process them, and bury what can not be processed."""

from __future__ import annotations

from typing import Any

import azure.functions as func

from functions.http import integer_parameter, json_body, json_response, location_below, problems
from functions.state import state
from storage_lib.config import CONNECTION
from storage_lib.errors import InvalidArgumentError
from storage_lib.tasks.engine import TaskEvent
from storage_lib.tasks.model import EVENT_QUEUE, POISON_QUEUE, TASK_QUEUE, TaskRecord, check_task_id

blueprint = func.Blueprint()
_AUTH = func.AuthLevel.FUNCTION
_FIELDS = frozenset({"action", "agent_id", "payload", "correlation_id", "delay_seconds"})


@blueprint.function_name("submit_task")
@blueprint.route(route="tasks", methods=["POST"], auth_level=_AUTH)
@problems
async def submit_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks`` ``{action, agent_id, payload?, correlation_id?, delay_seconds?}``: 202 with the
    record and its Location."""
    app = state()
    body = json_body(req, app.max_body_bytes)
    if unknown := sorted(body.keys() - _FIELDS):
        raise InvalidArgumentError(
            f"unknown field {unknown[0]!r}", field=unknown[0], limit=", ".join(sorted(_FIELDS))
        )
    for name in ("action", "agent_id"):
        if not isinstance(body.get(name), str):
            raise InvalidArgumentError(f"{name} must be given as text", field=name)
    delay = body.get("delay_seconds", 0)
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise InvalidArgumentError("delay_seconds must be a number", field="delay_seconds")
    record = await app.engine.submit(
        body["action"],
        body["agent_id"],
        body.get("payload"),
        correlation_id=body.get("correlation_id"),
        delay_seconds=delay,
    )
    headers = {"Location": location_below(req, record.task_id), "Retry-After": "1"}
    return json_response(_shown(record), status=202, headers=headers)


@blueprint.function_name("get_task")
@blueprint.route(route="tasks/{task_id}", methods=["GET"], auth_level=_AUTH)
@problems
async def get_task(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks/{task_id}``: the record, with ``Retry-After`` as long as it is not final."""
    record = await state().engine.records.get(check_task_id(req.route_params.get("task_id")))
    return json_response(_shown(record), headers=None if record.is_final else {"Retry-After": "1"})


@blueprint.function_name("list_tasks")
@blueprint.route(route="tasks", methods=["GET"], auth_level=_AUTH)
@problems
async def list_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks?status=&agent_id=&action=&limit=&cursor=``: a page of records, newest first, without
    large payloads and results."""
    page = await state().engine.records.list(
        status=req.params.get("status"),
        agent_id=req.params.get("agent_id"),
        action=req.params.get("action"),
        limit=integer_parameter(req, "limit", 50, 1, 1000),
        cursor=req.params.get("cursor") or None,
    )
    return json_response({"tasks": [_shown(record) for record in page.records], "cursor": page.cursor})


@blueprint.function_name("process_task")
@blueprint.queue_trigger(arg_name="message", queue_name=TASK_QUEUE, connection=CONNECTION)
@blueprint.queue_output(arg_name="event", queue_name=EVENT_QUEUE, connection=CONNECTION)
async def process_task(message: func.QueueMessage, event: func.Out[str]) -> None:
    """Handle one delivery of the task queue; an error leaves the message to be delivered again."""
    engine = state().engine
    published = await engine.process(message.get_body().decode(), dequeue_count=message.dequeue_count or 1)
    _publish(published, event)


@blueprint.function_name("process_poison_task")
@blueprint.queue_trigger(arg_name="message", queue_name=POISON_QUEUE, connection=CONNECTION)
@blueprint.queue_output(arg_name="event", queue_name=EVENT_QUEUE, connection=CONNECTION)
async def process_poison_task(message: func.QueueMessage, event: func.Out[str]) -> None:
    """Turn a message that could not be handled into an inspectable dead record."""
    engine = state().engine
    published = await engine.process_poison(message.get_body().decode(), message_id=str(message.id))
    _publish(published, event)


def _publish(published: TaskEvent | None, event: func.Out[str]) -> None:
    # host.json leaves messages as they are (messageEncoding none), so that no message of another program
    # is unreadable before it reaches us; encoding is the queue client's, for triggers and bindings alike.
    if published is not None:
        event.set(state().storage.backend.queues.encode(published.to_json()))


def _shown(record: TaskRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "task_id": record.task_id,
        "agent_id": record.agent_id,
        "action": record.action,
        "status": record.status,
        "payload": record.payload,
        "result": record.result,
        "error": record.error and {"code": record.error.code, "message": record.error.message},
        "attempts": record.attempts,
        "correlation_id": record.correlation_id,
        "created_at": record.created_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "updated_at": record.updated_at,
    }
    if record.raw_message is not None:
        shown["raw_message"] = record.raw_message
    return shown
