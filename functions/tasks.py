"""HTTP: submit, read, list, cancel and requeue tasks. Queue: process them, and record what cannot be
processed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.deliveries import Delivery
from functions.endpoint import endpoint
from functions.invocations import invocation
from functions.parameters import integer_parameter, time_parameter
from functions.paths import location_below
from functions.problems import problem_document
from functions.state import state
from storage_lib.config import CONNECTION
from storage_lib.errors import ConfigurationError, InvalidArgumentError, StorageError
from storage_lib.namespaces import namespace_of, queue_in
from storage_lib.spelling import refuse_unknown
from storage_lib.tasks.model import (
    HIGH_POISON_QUEUE,
    HIGH_QUEUE,
    POISON_QUEUE,
    TASK_QUEUE,
    TaskRecord,
    check_action,
    check_agent_id,
    check_priority,
    check_task_id,
)

if TYPE_CHECKING:
    from storage_lib.tasks.engine import TaskEngine
    from storage_lib.tasks.records import RecordPage
    from storage_lib.tasks.submission import NewTask

blueprint = func.Blueprint()
_log = logging.getLogger("AOS.Tasks")
_AUTH = func.AuthLevel.FUNCTION
_FIELDS = frozenset(
    {"action", "agent_id", "payload", "correlation_id", "idempotency_key", "delay_seconds", "priority"}
)
_FILTERS = ("status", "agent_id", "action", "parent_id", "created_after", "created_before")
MAX_WAIT_SECONDS = 30
_MOST_PAGES = 10
"""How many pages are read for one of a sender who may see the tasks of some agents."""


@blueprint.function_name("submit_task")
@blueprint.route(route="tasks", methods=["POST"], auth_level=_AUTH)
@endpoint()
async def submit_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks`` ``{action, agent_id, payload?, correlation_id?, idempotency_key?, delay_seconds?,
    priority?}``: 202 with the record and its Location. ``{"tasks": [{…}, …]}`` submits several: if one is
    invalid, none is accepted; otherwise the response has the record or the problem of each."""
    app = state()
    body = json_body(req, app)
    trace_parent = req.headers.get("traceparent")
    if "tasks" in body:
        return await _submit_many(body, trace_parent)
    task = _new_task(body, trace_parent)
    await access.need_agent(task.agent_id)
    record = await app.engine.submit_new(task)
    headers = {"Location": location_below(req, record.task_id), "Retry-After": "1"}
    return json_response(_shown(record), status=202, headers=headers)


async def _submit_many(body: dict[str, Any], trace_parent: str | None) -> func.HttpResponse:
    items: Any = body["tasks"]
    if not isinstance(items, list) or body.keys() != {"tasks"}:
        raise InvalidArgumentError('several tasks are {"tasks": [{…}, …]} and nothing else', field="tasks")
    tasks: list[NewTask] = []
    for n, item in enumerate(items):
        try:
            tasks.append(task := _new_task(item, trace_parent))
            await access.need_agent(task.agent_id)
        except StorageError as error:
            error.field = f"tasks[{n}].{error.field}" if error.field else f"tasks[{n}]"
            raise
    results = await state().engine.submit_many(tasks)
    answer = [
        {"problem": problem_document(result)} if isinstance(result, StorageError) else _shown(result)
        for result in results
    ]
    return json_response({"tasks": answer}, status=202)


def _new_task(item: Any, trace_parent: str | None) -> NewTask:
    if not isinstance(item, dict):
        raise InvalidArgumentError(f"a task is a JSON object, not a {type(item).__name__}")
    body: dict[str, Any] = item
    refuse_unknown(body, _FIELDS, "field")
    for name in ("action", "agent_id"):
        if not isinstance(body.get(name), str):
            raise InvalidArgumentError(f"{name} must be given as text", field=name)
    delay = body.get("delay_seconds", 0)
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise InvalidArgumentError("delay_seconds must be a number", field="delay_seconds")
    from storage_lib.tasks.submission import NewTask

    return NewTask(
        action=body["action"],
        agent_id=body["agent_id"],
        payload=body.get("payload"),
        correlation_id=body.get("correlation_id"),
        idempotency_key=body.get("idempotency_key"),
        delay_seconds=delay,
        priority=check_priority(body.get("priority")),
        trace_parent=trace_parent,
        submitter=access.submitter(),
    )


@blueprint.function_name("get_task")
@blueprint.route(route="tasks/{task_id}", methods=["GET", "HEAD"], auth_level=_AUTH)
@endpoint("wait")
async def get_task(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks/{task_id}?wait=``: the record, with ``Retry-After`` until it is final. With
    ``wait`` the response comes when the task has ended, or after that many seconds (at most 30)."""
    task_id = check_task_id(req.route_params.get("task_id"))
    wait = integer_parameter(req, "wait", 0, 0, MAX_WAIT_SECONDS)
    engine = state().engine
    if access.grant() is not None:
        record = await engine.get(task_id)
        await access.need_agent(record.agent_id, task_id=task_id)
        if wait and not record.is_final:
            record = await engine.wait_for(task_id, wait)
    else:
        record = await engine.wait_for(task_id, wait)
    return json_response(_shown(record), headers=None if record.is_final else {"Retry-After": "1"})


@blueprint.function_name("list_tasks")
@blueprint.route(route="tasks", methods=["GET", "HEAD"], auth_level=_AUTH)
@endpoint(*_FILTERS, "limit", "cursor")
async def list_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks?status=&agent_id=&action=&parent_id=&created_after=&created_before=&limit=&cursor=``:
    a page of records, newest first, without large payloads and results. ``unreadable`` names damaged records
    of the page, if there are any."""
    filters: dict[str, Any] = {
        "status": req.params.get("status"),
        "agent_id": _filter(req, "agent_id", check_agent_id),
        "action": _filter(req, "action", check_action),
        "parent_id": _filter(req, "parent_id", check_task_id),
        "created_after": time_parameter(req, "created_after"),
        "created_before": time_parameter(req, "created_before"),
    }
    limit = integer_parameter(req, "limit", 50, 1, 1000)
    page = await _page(filters, limit, req.params.get("cursor") or None)
    answer: dict[str, Any] = {"tasks": [_shown(record) for record in page.records], "cursor": page.cursor}
    if page.unreadable:
        answer["unreadable"] = page.unreadable
    return json_response(answer)


async def _page(filters: dict[str, Any], limit: int, cursor: str | None) -> RecordPage:
    """A page of what the sender may see. It can be short of records that are on the next one."""
    engine, allowed = state().engine, await access.agents()
    if allowed is not None and filters["agent_id"] is not None:
        await access.need_agent(filters["agent_id"])
    elif allowed is not None and len(allowed) == 1:
        filters["agent_id"] = next(iter(allowed))
    elif allowed is not None:
        return await _of_several(engine, allowed, filters, limit, cursor)
    return await engine.list(limit=limit, cursor=cursor, **filters)


async def _of_several(
    engine: TaskEngine, allowed: frozenset[str], filters: dict[str, Any], limit: int, cursor: str | None
) -> RecordPage:
    found: list[TaskRecord] = []
    for _ in range(_MOST_PAGES):
        page = await engine.list(limit=limit - len(found), cursor=cursor, **filters)
        found += [record for record in page.records if record.agent_id in allowed]
        cursor = page.cursor
        if cursor is None or len(found) == limit:
            break
    from storage_lib.tasks.records import RecordPage

    return RecordPage(found, cursor)


def _filter(req: func.HttpRequest, name: str, check: Callable[[Any], str]) -> str | None:
    """Refuse values that no task can have, as not every store could be asked for them."""
    value = req.params.get(name)
    try:
        return None if value is None else check(value)
    except InvalidArgumentError as error:
        error.field = name
        raise


@blueprint.function_name("cancel_task")
@blueprint.route(route="tasks/{task_id}/cancel", methods=["POST"], auth_level=_AUTH)
@endpoint()
async def cancel_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/{task_id}/cancel``: 200 with the record. A task that has not started never will; a
    running one is asked to stop; 409 for one that has ended in another way."""
    task_id = await _own_task(req)
    record = await state().engine.cancel(task_id)
    return json_response(_shown(record))


async def _own_task(req: func.HttpRequest) -> str:
    """The id of the task that is asked for, if it is one that the sender may see."""
    task_id = check_task_id(req.route_params.get("task_id"))
    if access.grant() is not None:
        await access.need_agent((await state().engine.get(task_id)).agent_id, task_id=task_id)
    return task_id


@blueprint.function_name("requeue_task")
@blueprint.route(route="tasks/{task_id}/requeue", methods=["POST"], auth_level=_AUTH)
@endpoint()
async def requeue_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/{task_id}/requeue``: 202 with the record. A failed, cancelled or dead task runs
    again, keeping its history; 409 for any other."""
    task_id = await _own_task(req)
    record = await state().engine.requeue(task_id)
    return json_response(_shown(record), status=202, headers={"Retry-After": "1"})


def _on_queue(queue: str) -> Callable[..., Any]:
    """The trigger of a queue, by its name in the store: the platform knows nothing of namespaces.

    :raises ConfigurationError: the namespace cannot be one. Then there is no app, whose functions would take
        the messages of another.
    """
    try:
        name = queue_in(namespace_of(), queue)
    except ConfigurationError as error:
        raise ConfigurationError(error.explained(), field=error.field) from error
    return blueprint.queue_trigger(arg_name="message", queue_name=name, connection=CONNECTION)


@blueprint.function_name("process_task")
@_on_queue(TASK_QUEUE)
async def process_task(message: func.QueueMessage, context: func.Context) -> None:
    """Handle one delivery of the task queue; after an error the message is delivered again."""
    await _process(message, TASK_QUEUE, context)


@blueprint.function_name("process_high_task")
@_on_queue(HIGH_QUEUE)
async def process_high_task(message: func.QueueMessage, context: func.Context) -> None:
    """Like `process_task`, for tasks of high priority, which a backlog of others does not delay."""
    await _process(message, HIGH_QUEUE, context)


@blueprint.function_name("process_poison_task")
@_on_queue(POISON_QUEUE)
async def process_poison_task(message: func.QueueMessage, context: func.Context) -> None:
    """Turn a message that could not be handled into an inspectable dead record."""
    await _process_poison(message, TASK_QUEUE, context)


@blueprint.function_name("process_high_poison_task")
@_on_queue(HIGH_POISON_QUEUE)
async def process_high_poison_task(message: func.QueueMessage, context: func.Context) -> None:
    """Like `process_poison_task`, for tasks of high priority."""
    await _process_poison(message, HIGH_QUEUE, context)


async def _process(message: func.QueueMessage, queue: str, context: func.Context) -> None:
    delivery = Delivery.of(message)
    with invocation(context):
        # Its events do not go through an output binding: that is sent after the function, and nobody is told
        # whether it was.
        await state().engine.deliver(delivery.text, queue=queue, dequeue_count=delivery.dequeue_count)


async def _process_poison(
    message: func.QueueMessage, queue: str, context: func.Context | None = None
) -> None:
    delivery = Delivery.of(message)
    with invocation(context):
        await state().engine.deliver_poison(
            delivery.text,
            queue=queue,
            message_id=delivery.message_id,
            inserted_at=delivery.inserted_at,
            dequeue_count=delivery.dequeue_count,
        )


def _shown(record: TaskRecord) -> Mapping[str, Any]:
    error, children = record.error, record.children
    shown: dict[str, Any] = {
        "task_id": record.task_id,
        "agent_id": record.agent_id,
        "action": record.action,
        "status": record.status,
        "priority": record.priority,
        "payload": record.payload,
        "result": record.result,
        "error": None
        if error is None
        else {
            "code": error.code,
            "message": error.message,
            "traceback": (access.sees_inside() and error.traceback) or None,
        },
        "progress": record.progress,
        "attempts": record.attempts,
        "correlation_id": record.correlation_id,
        "created_at": record.created_at,
        "due_at": record.due_at,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "updated_at": record.updated_at,
        "history": record.history,
    }
    optional: dict[str, Any] = {
        "idempotency_key": record.idempotency_key,
        "traceparent": record.trace_parent,
        "parent_id": record.parent_id,
        "submitter": record.submitter,
        "raw_message": record.raw_message,
        "omitted": record.omitted or None,
        "cancel_requested": record.cancel_requested or None,
        "children": None
        if children is None or not children.total
        else {
            "total": children.total,
            "ended": children.done.bit_count(),
            "failed": children.failed.bit_count(),
        },
    }
    return shown | {name: value for name, value in optional.items() if value is not None}
