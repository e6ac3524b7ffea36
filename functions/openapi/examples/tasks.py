"""Tasks."""

from __future__ import annotations

from typing import Any

from functions.openapi.examples import Example

_ID = "7d1f0a52c3b94e0f8a6b5c4d3e2f1a09"
_TASK: dict[str, Any] = {
    "task_id": _ID,
    "agent_id": "ceo",
    "action": "analyze_report",
    "status": "queued",
    "priority": "normal",
    "payload": {"report": "reports/2026/q1.csv"},
    "result": None,
    "error": None,
    "progress": None,
    "attempts": 0,
    "correlation_id": None,
    "created_at": "2026-11-30T08:00:00.000000Z",
    "due_at": None,
    "started_at": None,
    "finished_at": None,
    "updated_at": "2026-11-30T08:00:00.000000Z",
    "history": [],
    "etag": "1f0e3dad99908345f7439f8ffabdffc4",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
_CANCELLED = {
    "number": 0,
    "started_at": None,
    "ended_at": "2026-11-30T08:00:01.000000Z",
    "outcome": "cancelled",
    "error_code": None,
    "error_message": None,
    "next_at": None,
}
_SUBMISSION = {"action": "analyze_report", "agent_id": "ceo", "payload": {"report": "reports/2026/q1.csv"}}

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "submit_task": (
        Example(name="a task", body=_SUBMISSION, status=202, answer=_TASK),
        Example(
            name="several tasks",
            body={"tasks": [_SUBMISSION, {**_SUBMISSION, "priority": "high", "delay_seconds": 60}]},
            status=202,
        ),
    ),
    "get_task": (Example(name="a task", path={"task_id": _ID}, answer=_TASK, after=("submit_task",)),),
    "head_get_task": (Example(name="a task", path={"task_id": _ID}, after=("submit_task",)),),
    "list_tasks": (
        Example(
            name="what waits",
            query={"status": "queued", "limit": "10"},
            answer={"tasks": [_TASK], "cursor": None},
            after=("submit_task",),
        ),
    ),
    "head_list_tasks": (Example(name="all"),),
    "count_tasks": (
        Example(
            name="by action",
            query={"agent_id": "ceo", "by": "action"},
            answer={
                "counts": {
                    "queued": 1,
                    "running": 0,
                    "succeeded": 0,
                    "failed": 0,
                    "cancelled": 0,
                    "dead": 0,
                },
                "total": 1,
                "counted_up_to": 1000,
                "at_least": [],
                "groups": [{"action": "analyze_report", "counts": {"queued": 1}}],
            },
            after=("submit_task",),
        ),
    ),
    "head_count_tasks": (Example(name="all"),),
    "cancel_tasks": (
        Example(
            name="those of an agent",
            body={"agent_id": "ceo", "limit": 100},
            answer={
                "tasks": [{"task_id": _ID, "status": "cancelled"}],
                "failed": [],
                "cursor": None,
                "dry_run": False,
            },
            after=("submit_task",),
        ),
    ),
    "requeue_tasks": (
        Example(
            name="which there would be",
            body={"status": ["cancelled", "dead"], "dry_run": True},
            answer={
                "tasks": [{"task_id": _ID, "status": "cancelled"}],
                "failed": [],
                "cursor": None,
                "dry_run": True,
            },
            after=("submit_task", "cancel_tasks"),
        ),
    ),
    "delete_task": (
        Example(
            name="a cancelled task", path={"task_id": _ID}, status=204, after=("submit_task", "cancel_task")
        ),
    ),
    "list_actions": (Example(name="all"),),
    "head_list_actions": (Example(name="all"),),
    "cancel_task": (
        Example(
            name="before it starts",
            path={"task_id": _ID},
            answer=_TASK
            | {
                "status": "cancelled",
                "finished_at": "2026-11-30T08:00:01.000000Z",
                "cancel_requested": True,
                "history": [_CANCELLED],
            },
            after=("submit_task",),
        ),
    ),
    "requeue_task": (
        Example(
            name="once more",
            path={"task_id": _ID},
            status=202,
            answer=_TASK
            | {
                "history": [_CANCELLED, {**_CANCELLED, "outcome": "requeued"}],
                "due_at": "2026-11-30T08:00:02.000000Z",
            },
            after=("submit_task", "cancel_task"),
        ),
    ),
}

_BY_ID = {"task_id": "$response.body#/task_id"}
LINKS: dict[tuple[str, int], dict[str, Any]] = {
    ("submit_task", 202): {
        "record": {"operationId": "get_task", "parameters": _BY_ID},
        "cancel": {"operationId": "cancel_task", "parameters": _BY_ID},
    },
    ("cancel_task", 200): {
        "record": {"operationId": "get_task", "parameters": _BY_ID},
        "requeue": {"operationId": "requeue_task", "parameters": _BY_ID},
    },
}
