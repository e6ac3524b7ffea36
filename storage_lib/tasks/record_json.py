"""Task records as JSON shows them: over HTTP and on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage_lib.tasks.model import TaskRecord


def record_fields(record: TaskRecord, *, tracebacks: bool = True) -> dict[str, Any]:
    """The fields of a record; large contents may be left out, which ``omitted`` then says."""
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
            "traceback": (tracebacks and error.traceback) or None,
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
