"""Task records as HTTP shows them, their ETags and the conditions on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import azure.functions as func

from functions import access
from functions.answers import json_response
from functions.conditions import ANY, EntityTags, Preconditions
from functions.state import state
from storage_lib.errors import PreconditionFailedError
from storage_lib.tasks.model import check_task_id
from storage_lib.tasks.record_json import record_fields

if TYPE_CHECKING:
    from storage_lib.tasks.model import TaskRecord


async def own_task(req: func.HttpRequest) -> str:
    """The id of the task that is asked for, if it is one that the sender may see."""
    task_id = check_task_id(req.route_params.get("task_id"))
    if access.grant() is not None:
        found = await state().engine.get(task_id, contents=False)
        await access.need_agent(found.agent_id, task_id=task_id)
    return task_id


def record_response(
    record: TaskRecord, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> func.HttpResponse:
    """The response with a record; with ``Retry-After`` until it is final."""
    later = {} if record.is_final else {"Retry-After": "1"}
    return json_response(
        shown(record), status=status, headers={"ETag": etag_of(record), **later, **(headers or {})}
    )


def etag_of(record: TaskRecord) -> str:
    return f'"{record.version}"'


def known_versions(req: func.HttpRequest) -> EntityTags | None:
    """Those that the client has, by ``If-None-Match``; None without it.

    :raises InvalidArgumentError: it is malformed.
    """
    return Preconditions.of(req).none_match


def is_known(record: TaskRecord, known: EntityTags | None) -> bool:
    return known is not None and (known is ANY or record.version in known)


def check_of(req: func.HttpRequest) -> Callable[[TaskRecord], None] | None:
    """What ``If-Match`` asks of a record that is about to be changed; None without it.

    :raises InvalidArgumentError: it is malformed.
    """
    expected = Preconditions.of(req).match
    if expected is None or expected is ANY:
        return None

    def check(record: TaskRecord) -> None:
        if not is_known(record, expected):
            raise PreconditionFailedError(f"task {record.task_id!r} has another ETag", field="If-Match")

    return check


def shown(record: TaskRecord) -> dict[str, Any]:
    """A record as JSON shows it to the sender."""
    fields = record_fields(record, tracebacks=access.sees_inside())
    fields["etag"] = record.version
    people = {"submitter": record.submitter, "requeued_by": record.requeued_by}
    return fields | {name: value for name, value in people.items() if value is not None}
