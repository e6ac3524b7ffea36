"""The tasks of a store: of one that is opened here, or through an app."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from storage_lib.cli.command import Run

if TYPE_CHECKING:
    from storage_lib.tasks.model import TaskRecord
    from storage_lib.tasks.registry import Registry

ACTIONS = "actions"
"""The app's own, where its code is installed or the program runs in its folder."""


def registry() -> "Registry":
    """The actions that are known here."""
    from importlib.util import find_spec

    from storage_lib.tasks.registry import Registry

    named = [name.strip() for name in os.environ.get("AGENT_TASK_MODULES", "").split(",")]
    own = [ACTIONS] if find_spec(ACTIONS) is not None else []
    return Registry([*own, *filter(None, named)])


@asynccontextmanager
async def tasks_of(run: Run, *, creating: bool = False) -> AsyncGenerator[Any]:
    """A `TaskEngine`, or what has its methods for an app.

    :param creating: as for `Run.open`.
    """
    if run.is_remote:
        from storage_lib.tasks.remote import RemoteTasks

        async with RemoteTasks.of(run.config) as tasks:
            yield tasks
        return
    from storage_lib.tasks.engine import TaskEngine

    objects = os.environ.get("AGENT_TASK_PAYLOADS", "").lower() == "objects"
    events = os.environ.get("AGENT_TASK_EVENTS", "").strip().lower() in ("true", "1", "on")
    async with run.open(creating=creating) as storage:
        yield TaskEngine(storage, registry(), payloads_as_objects=objects, events=events)


def record_fields(record: "TaskRecord") -> dict[str, Any]:
    """A record as JSON shows it: that of the HTTP API."""
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
        else {"code": error.code, "message": error.message, "traceback": error.traceback or None},
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
