"""HTTP: submit a task, read it, follow it, cancel, requeue and delete it; and what can be submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.endpoint import Blueprint
from functions.headers import header
from functions.paths import location_below
from functions.preferences import Preferences, seconds_to_wait
from functions.problems import problem_document
from functions.state import state
from functions.task_records import (
    check_of,
    etag_of,
    is_known,
    known_versions,
    own_task,
    record_response,
    shown,
)
from storage_lib.errors import ForbiddenError, InvalidArgumentError, StorageError
from storage_lib.patterns import pattern
from storage_lib.spelling import refuse_unknown
from storage_lib.tasks.model import check_idempotency_key, check_priority

if TYPE_CHECKING:
    from storage_lib.tasks.model import TaskRecord
    from storage_lib.tasks.submission import NewTask

blueprint = Blueprint()
_FIELDS = frozenset(
    {"action", "agent_id", "payload", "correlation_id", "idempotency_key", "delay_seconds", "priority"}
)
_KEY = "Idempotency-Key"
_QUOTED = pattern(r'"((?:[^"\\]|\\["\\])+)"')
"""A string of RFC 9651, 3.3.3."""
_ESCAPED = pattern(r"\\(.)")
EVENTS = "text/event-stream"
EVENT_SECONDS = 15
"""How long a request for events waits, unless it says something else."""
_RETRY_MILLISECONDS = 500


@blueprint.http(
    "POST",
    "tasks",
    headers=("Idempotency-Key", "Prefer"),
    body=("TaskSubmission", "TaskSubmissions"),
    answers={200: "Task", 202: ("Task", "SubmittedTasks")},
    problems=(409, 422),
)
async def submit_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks`` ``{action, agent_id, payload?, correlation_id?, idempotency_key?, delay_seconds?,
    priority?}``: submit a task. 202 with the record and its Location. ``{"tasks": [{…}, …]}`` submits
    several: if one is invalid, none is accepted; otherwise the response has the record or the problem of
    each.

    With ``Prefer: wait=`` the response comes when the task has ended, and is 200, or after that many seconds
    (at most 30)."""
    app = state()
    await access.agents()
    body = json_body(req, app)
    trace_parent = req.headers.get("traceparent")
    if "tasks" in body:
        return await _submit_many(req, body, trace_parent)
    key = _request_key(req)
    if key is not None and body.get("idempotency_key", key) != key:
        raise InvalidArgumentError(
            f"{_KEY} and idempotency_key are not the same", field=_KEY, remedy="leave one of them out"
        )
    task = _new_task(body, trace_parent, key)
    await access.need_agent(task.agent_id)
    await access.need_action(task.action)
    record = await app.engine.submit_new(task)
    preferences = Preferences.of(req)
    waited = bool(preferences.wait) and (record.is_final or app.engine.waiting.has_room)
    if waited and not record.is_final:
        try:
            record = await app.engine.wait_for(record.task_id, preferences.wait or 0)
        except StorageError:  # It is accepted, whatever can be said about it now.
            waited = False
    headers = {"Location": location_below(req, record.task_id), **preferences.applied(waited=waited)}
    if waited and record.is_final:
        return record_response(record, headers=headers)
    return record_response(record, status=202, headers={"Retry-After": "1", **headers})


def _request_key(req: func.HttpRequest) -> str | None:
    """The key that the request has by its header: a string of RFC 9651, or the bare text.

    :raises InvalidArgumentError: it is neither.
    """
    text = header(req, _KEY)
    if text is None:
        return None
    text = text.strip(" \t")
    if quoted := _QUOTED.fullmatch(text):
        text = _ESCAPED.sub(r"\1", quoted[1])
    try:
        return check_idempotency_key(text)
    except InvalidArgumentError as error:
        error.field = _KEY
        raise


async def _submit_many(
    req: func.HttpRequest, body: dict[str, Any], trace_parent: str | None
) -> func.HttpResponse:
    items: Any = body["tasks"]
    if not isinstance(items, list) or body.keys() != {"tasks"}:
        raise InvalidArgumentError('several tasks are {"tasks": [{…}, …]} and nothing else', field="tasks")
    if header(req, _KEY) is not None:
        raise InvalidArgumentError(
            f"{_KEY} is of one task",
            field=_KEY,
            remedy="give each task an idempotency_key of its own, or submit them one by one",
        )
    tasks: list[NewTask] = []
    for n, item in enumerate(items):
        try:
            tasks.append(task := _new_task(item, trace_parent))
            await access.need_agent(task.agent_id)
            await access.need_action(task.action)
        except StorageError as error:
            error.field = f"tasks[{n}].{error.field}" if error.field else f"tasks[{n}]"
            raise
    results = await state().engine.submit_many(tasks)
    answer = [
        {"problem": problem_document(result)} if isinstance(result, StorageError) else shown(result)
        for result in results
    ]
    return json_response({"tasks": answer}, status=202)


def _new_task(item: Any, trace_parent: str | None, key: str | None = None) -> NewTask:
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
        idempotency_key=body.get("idempotency_key") if key is None else key,
        delay_seconds=delay,
        priority=check_priority(body.get("priority")),
        trace_parent=trace_parent,
        submitter=access.submitter(),
        key_of_request=key is not None,
    )


@blueprint.http(
    "GET HEAD",
    "tasks/{task_id}",
    "wait",
    headers=("If-None-Match", "Last-Event-ID", "Prefer"),
    answers={200: ("Task", "TaskEvents"), 202: "Task", 204: "", 304: ""},
    problems=(404,),
)
async def get_task(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks/{task_id}?wait=``: read a task. The record, with ``Retry-After`` until it is final.
    With ``wait`` the response comes when the task has ended, or after that many seconds (at most 30). With
    ``If-None-Match`` it comes when the record is another than that, and is 304 if it is not. With
    ``Prefer: wait=`` instead, the response is 202 until the task has ended.

    With ``Accept: text/event-stream`` the response is the record as an event, once it is another than
    ``Last-Event-ID`` says, or no event after ``wait`` seconds (15); 204 once there will be no more."""
    task_id = await own_task(req)
    seconds, preferences = seconds_to_wait(req)
    if EVENTS in (header(req, "Accept") or "").lower():
        return await _events(req, task_id, seconds if "wait" in req.params else EVENT_SECONDS)
    engine, known = state().engine, known_versions(req)
    waited = bool(preferences.wait) and engine.waiting.has_room
    if known is None:
        record = await engine.wait_for(task_id, seconds)
    else:
        record = await engine.wait_until(
            task_id, seconds, lambda record: record.is_final or not is_known(record, known)
        )
    applied = preferences.applied(waited=waited)
    if is_known(record, known):
        headers = {"ETag": etag_of(record), "Cache-Control": "no-store", **applied}
        if not record.is_final:  # Where enough wait already, this comes at once.
            headers["Retry-After"] = "1"
        return func.HttpResponse(status_code=304, headers=headers)
    return record_response(record, status=202 if waited and not record.is_final else 200, headers=applied)


async def _events(req: func.HttpRequest, task_id: str, seconds: int) -> func.HttpResponse:
    """The state of a task as an event, for browsers: ``EventSource`` asks again by itself, and says which it
    has. The platform sends no answer piece by piece, so each ends after one event."""
    last = header(req, "Last-Event-ID")
    record = await state().engine.wait_until(
        task_id, seconds, lambda record: record.is_final or record.version != last
    )
    if record.version != last:
        import msgspec

        data = msgspec.json.encode(shown(record)).decode()
        text = f"retry: {_RETRY_MILLISECONDS}\nid: {record.version}\ndata: {data}\n\n"
    elif record.is_final:
        return func.HttpResponse(status_code=204, headers={"Cache-Control": "no-store"})
    else:
        text = f"retry: {_RETRY_MILLISECONDS}\n: nothing new\n\n"
    return func.HttpResponse(
        text.encode(), headers={"Content-Type": f"{EVENTS}; charset=utf-8", "Cache-Control": "no-store"}
    )


@blueprint.http(
    "POST", "tasks/{task_id}/cancel", headers=("If-Match",), answers={200: "Task"}, problems=(404, 409)
)
async def cancel_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/{task_id}/cancel``: cancel a task. 200 with the record. A task that has not
    started never will; a running one is asked to stop; 409 for one that has ended in another way."""
    task_id = await own_task(req)
    return record_response(await state().engine.cancel(task_id, check=check_of(req)))


@blueprint.http(
    "POST", "tasks/{task_id}/requeue", headers=("If-Match",), answers={202: "Task"}, problems=(404, 409)
)
async def requeue_task(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/{task_id}/requeue``: run a task again. 202 with the record. A failed,
    cancelled or dead task runs again, keeping its history; 409 for any other."""
    task_id = await own_task(req)
    condition = check_of(req)

    def check(record: TaskRecord) -> None:
        access.need_task(record)
        if condition is not None:
            condition(record)

    try:
        record = await state().engine.requeue(task_id, check=check, by=access.submitter())
    except ForbiddenError:
        await state().access.denied("tasks", f"tasks/{task_id}")
        raise
    return record_response(record, status=202, headers={"Retry-After": "1"})


@blueprint.http("DELETE", "tasks/{task_id}", headers=("If-Match",), answers={204: ""}, problems=(404, 409))
async def delete_task(req: func.HttpRequest) -> func.HttpResponse:
    """``DELETE /api/tasks/{task_id}``: delete a task that has ended. 204. Removes its record, with payload
    and result; 409 if it, or one of its children, has not, and for a child whose parent's record is there."""
    task_id = await own_task(req)
    await state().engine.delete(task_id, check=check_of(req))
    return func.HttpResponse(status_code=204, headers={"Cache-Control": "no-store"})


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
