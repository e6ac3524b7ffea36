"""HTTP: list tasks, count them, and cancel or requeue those that a filter finds."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.bodies import json_body
from functions.endpoint import Blueprint
from functions.parameters import integer_parameter, moment, time_parameter
from functions.problems import problem_document
from functions.state import state
from functions.task_records import shown
from storage_lib.errors import ForbiddenError, InvalidArgumentError
from storage_lib.ports.cursors import refused
from storage_lib.spelling import refuse_unknown

if TYPE_CHECKING:
    from storage_lib.tasks.bulk import BulkResult
    from storage_lib.tasks.engine import TaskEngine
    from storage_lib.tasks.model import TaskRecord
    from storage_lib.tasks.records import RecordPage

blueprint = Blueprint()
_TEXTS = ("agent_id", "action", "parent_id", "correlation_id", "idempotency_key")
_MOMENTS = ("created_after", "created_before")
FILTERS = ("status", *_TEXTS, *_MOMENTS)
MOST_COUNTED = 10_000
MOST_CHANGED = 1000
_PURPOSE = b"agent-storage sealed text 1"
_NONCE_BYTES = 12
_MARK = "~"
_MOST_PAGES = 10
"""How many pages are read for one of a sender who may see the tasks of some agents."""


@blueprint.http("GET HEAD", "tasks", *FILTERS, "limit", "cursor", answers={200: "TaskPage"})
async def list_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks?status=&agent_id=&action=&parent_id=&correlation_id=&idempotency_key=&created_after=
    &created_before=&limit=&cursor=``: a page of records, newest first, without large payloads and results.
    ``status`` may name several, separated by commas. ``unreadable`` names damaged records of the page, if
    there are any."""
    limit = integer_parameter(req, "limit", 50, 1, 1000)
    page = await _page(_filters(req), limit, req.params.get("cursor") or None)
    answer: dict[str, Any] = {"tasks": [shown(record) for record in page.records], "cursor": page.cursor}
    if page.unreadable:
        answer["unreadable"] = page.unreadable
    return json_response(answer)


@blueprint.http("GET HEAD", "tasks/counts", *FILTERS, "by", "limit", answers={200: "TaskCounts"})
async def count_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``GET /api/tasks/counts?by=&limit=``: count tasks by their states. The filters are those of the list;
    ``by`` counts those of each ``agent_id`` or ``action``, too. No status is counted further than ``limit``
    (1,000; at most 10,000): ``at_least`` names those of which there may be more."""
    from storage_lib.tasks.counts import summed

    limit = integer_parameter(req, "limit", 1000, 1, MOST_COUNTED)
    filters, engine, by = _filters(req), state().engine, req.params.get("by")
    allowed = await _agents(filters)
    agents = [filters["agent_id"]] if allowed is None else sorted(allowed)
    options: list[dict[str, Any]] = [
        {**filters, "agent_id": each, "by": by, "limit": limit} for each in agents
    ]
    found = summed([await engine.count(**each) for each in options])
    answer: dict[str, Any] = {
        "counts": found.counts,
        "total": sum(found.counts.values()),
        "counted_up_to": found.counted_up_to,
        "at_least": found.at_least,
    }
    if by is not None and found.groups is not None:
        answer["groups"] = [{by: name, "counts": counts} for name, counts in found.groups.items()]
    return json_response(answer)


@blueprint.http("POST", "tasks/cancel", body="TaskSelection", answers={200: "ChangedTasks"})
async def cancel_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/cancel`` ``{status?, agent_id?, action?, parent_id?, correlation_id?,
    idempotency_key?, created_after?, created_before?, limit?, cursor?, dry_run?}``: cancel the tasks that
    filters find. They are those of the list; the newest come first, at most ``limit`` (100; at most 1,000).
    The same body with the ``cursor`` of the response goes on. ``failed`` has the problems of those that
    could not be."""
    return await _change(req, "cancel_matching")


@blueprint.http("POST", "tasks/requeue", body="TaskSelection", answers={200: "ChangedTasks"})
async def requeue_tasks(req: func.HttpRequest) -> func.HttpResponse:
    """``POST /api/tasks/requeue``: run the tasks that filters find again. They are those that failed or are
    dead, and cancelled ones if ``status`` names them. The rest is as for ``/api/tasks/cancel``."""
    return await _change(req, "requeue_matching", by=access.submitter(), check=access.need_task)


async def _change(req: func.HttpRequest, how: str, **more: Any) -> func.HttpResponse:
    app = state()
    await access.agents()
    body = json_body(req, app)
    refuse_unknown(body, (*FILTERS, "limit", "cursor", "dry_run"), "field")
    filters = _filters_of_body(body)
    dry_run, limit, cursor = body.get("dry_run", False), body.get("limit", 100), body.get("cursor")
    if not isinstance(dry_run, bool):
        raise InvalidArgumentError("dry_run must be true or false", field="dry_run")
    if type(limit) is not int or not 1 <= limit <= MOST_CHANGED:
        raise InvalidArgumentError(
            f"limit is {str(limit)[:40]!r}", field="limit", limit=f"a whole number from 1 to {MOST_CHANGED}"
        )
    if cursor is not None and not isinstance(cursor, str):
        raise InvalidArgumentError("cursor must be text", field="cursor")
    change: Callable[..., Any] = getattr(app.engine, how)
    found: BulkResult = await change(
        pages=_page, limit=limit, cursor=cursor, dry_run=dry_run, **more, **filters
    )
    for task_id, error in found.failed:
        if isinstance(error, ForbiddenError):
            await app.access.denied("tasks", f"tasks/{task_id}")
    return json_response(
        {
            "tasks": [{"task_id": task_id, "status": status} for task_id, status in found.changed],
            "failed": [
                {"task_id": task_id, "problem": problem_document(error)} for task_id, error in found.failed
            ],
            "cursor": found.cursor,
            "dry_run": dry_run,
        }
    )


def _filters(req: func.HttpRequest) -> dict[str, Any]:
    """As the engine takes them, which checks them."""
    return {
        "status": _statuses(req.params.get("status")),
        **{name: req.params.get(name) for name in _TEXTS},
        **{name: time_parameter(req, name) for name in _MOMENTS},
    }


def _filters_of_body(body: dict[str, Any]) -> dict[str, Any]:
    status: Any = body.get("status")
    if status is not None and not isinstance(status, str | list):
        raise InvalidArgumentError("status must be text, or a list of texts", field="status")
    return {
        "status": _statuses(status) if isinstance(status, str) else status,
        **{name: body.get(name) for name in _TEXTS},
        **{name: None if body.get(name) is None else moment(name, body[name]) for name in _MOMENTS},
    }


def _statuses(text: str | None) -> list[str] | None:
    return None if text is None else [each.strip() for each in text.split(",")]


async def _agents(filters: dict[str, Any]) -> frozenset[str] | None:
    """The agents whose tasks are looked at; None for those that the filters say."""
    allowed = await access.agents()
    if allowed is None or filters.get("agent_id") is None:
        return allowed
    await access.need_agent(filters["agent_id"])
    return None


async def _page(filters: dict[str, Any], limit: int, cursor: str | None) -> RecordPage:
    """A page of what the sender may see. It can be short of records that are on the next one."""
    engine, allowed = state().engine, await _agents(filters)
    if allowed is not None and len(allowed) == 1:
        filters = {**filters, "agent_id": next(iter(allowed))}
    elif allowed is not None:
        return await _of_several(engine, allowed, filters, limit, cursor)
    return await engine.list(limit=limit, cursor=cursor, **filters)


async def _of_several(
    engine: TaskEngine, allowed: frozenset[str], filters: dict[str, Any], limit: int, cursor: str | None
) -> RecordPage:
    found: list[TaskRecord] = []
    cursor = None if cursor is None else await _unseal(cursor)
    for _ in range(_MOST_PAGES):
        page = await engine.list(limit=limit - len(found), cursor=cursor, **filters)
        found += [record for record in page.records if record.agent_id in allowed]
        cursor = page.cursor
        if cursor is None or len(found) == limit:
            break
    from storage_lib.tasks.records import RecordPage

    # It may be the id of a task of somebody else.
    return RecordPage(found, None if cursor is None else await _seal(cursor))


async def _seal(text: str) -> str:
    """A cursor that tells where others' records stand, for a client that is to give it back and to learn
    nothing from it: encrypted with a key that all hosts of the store share."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = await state().link_signer.key_for(_PURPOSE)
    assert found is not None  # noqa: S101 - there is one to sign with
    name, key = found
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + AESGCM(key).encrypt(nonce, text.encode(), name.encode())
    return f"{name}{_MARK}{base64.urlsafe_b64encode(sealed).decode()}"


async def _unseal(sealed: str) -> str:
    """
    :raises InvalidArgumentError: this is no cursor of ours, or its key is no longer in use.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    name, _, text = sealed.partition(_MARK)
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii"))
        found = await state().link_signer.key_for(_PURPOSE, name)
        if found is None or len(data) < _NONCE_BYTES:
            raise refused()
        return AESGCM(found[1]).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode()).decode()
    except (ValueError, InvalidTag) as error:
        raise refused() from error
