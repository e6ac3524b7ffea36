"""Tasks: submitted, shown, listed, counted, and changed by filter; actions."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from functions.openapi.parameters import ACTION, AGENT, IDEMPOTENCY_KEY, TASK_ID
from functions.openapi.schemas import Moment, NextPage
from functions.openapi.schemas.problems import Problem

MEDIA_TYPES = {"TaskEvents": "text/event-stream"}

_PRINTABLE = Meta(pattern=AGENT)
_KEY = Meta(pattern=IDEMPOTENCY_KEY)
_Status = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"]
_Priority = Literal["normal", "high"]
MAX_DELAY_SECONDS = 366 * 24 * 3600
"""As in storage_lib.tasks.submission, which would take longer to import than the document to make."""

_SCHEMAS = "#/components/schemas/"
_Id = Annotated[str, Meta(examples=["7d1f0a52c3b94e0f8a6b5c4d3e2f1a09"])]


class TaskSubmission(Struct, forbid_unknown_fields=True, kw_only=True):
    """A task to run."""

    action: Annotated[str, Meta(pattern=ACTION, description="What to do.", examples=["analyze_report"])]
    agent_id: Annotated[
        str, _PRINTABLE, Meta(description="The agent on whose behalf it is done.", examples=["ceo"])
    ]
    payload: Annotated[Any, Meta(description="What the action is told.")] = None
    correlation_id: Annotated[
        Annotated[str, _PRINTABLE] | None, Meta(description="Found in logs, spans and the tasks it submits.")
    ] = None
    idempotency_key: Annotated[
        Annotated[str, _KEY] | None,
        Meta(description="The same submission with the same key is one task."),
    ] = None
    delay_seconds: Annotated[
        float, Meta(ge=0, le=MAX_DELAY_SECONDS, description="It does not run before.")
    ] = 0
    priority: _Priority | None = "normal"


class TaskSubmissions(Struct, forbid_unknown_fields=True, kw_only=True):
    """Several tasks to run; if one is invalid, none is accepted."""

    tasks: Annotated[list[TaskSubmission], Meta(min_length=1, max_length=1000)]


class TaskFailure(TypedDict):
    """Why a task did not succeed."""

    code: Annotated[str, Meta(description="A stable code, or the name of an exception.")]
    message: str
    traceback: str | None


class TaskAttempt(TypedDict):
    """One run, or what ended the task without a run."""

    number: int
    started_at: Moment | None
    ended_at: Moment
    outcome: str
    error_code: str | None
    error_message: str | None
    next_at: Moment | None


class TaskChildren(TypedDict):
    """How many of the tasks that it waits for have ended."""

    total: int
    ended: int
    failed: int


class Task(TypedDict):
    """Everything known about a task."""

    task_id: _Id
    agent_id: str
    action: str
    status: _Status
    priority: _Priority
    payload: Any
    result: Any
    error: TaskFailure | None
    progress: Any
    attempts: Annotated[int, Meta(description="How often it started to run.")]
    correlation_id: str | None
    created_at: Moment
    due_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    updated_at: Moment
    history: Annotated[list[TaskAttempt], Meta(description="Its latest attempts.")]
    etag: Annotated[str, Meta(description="Of this state of the record; without quotes.")]
    idempotency_key: NotRequired[str]
    traceparent: NotRequired[str]
    parent_id: NotRequired[str]
    submitter: NotRequired[str]
    requeued_by: NotRequired[str]
    raw_message: NotRequired[Annotated[str, Meta(description="Of a message that nobody could read.")]]
    omitted: NotRequired[Annotated[dict[str, str], Meta(description="Why a large content is left out.")]]
    cancel_requested: NotRequired[bool]
    children: NotRequired[TaskChildren]


class RefusedTask(TypedDict):
    """One of several tasks that was not submitted."""

    problem: Problem


class SubmittedTasks(TypedDict):
    """The record or the problem of each task, in the order they were sent."""

    tasks: Annotated[
        list[Any],
        Meta(
            extra_json_schema={
                "items": {"anyOf": [{"$ref": f"{_SCHEMAS}{name}"} for name in ("Task", "RefusedTask")]}
            }
        ),
    ]


class TaskPage(TypedDict):
    """A page of tasks, newest first."""

    tasks: list[Task]
    cursor: NextPage
    unreadable: NotRequired[Annotated[Any, Meta(description="Damaged records of the page.")]]


TaskEvents = Annotated[
    str,
    Meta(
        description="One server-sent event, whose data is a `Task` and whose id is its `etag`, or none. A"
        " browser's `EventSource` asks again by itself."
    ),
]


class TaskCounts(TypedDict):
    """How many tasks there are in each state."""

    counts: Annotated[dict[str, int], Meta(description="By status.")]
    total: int
    counted_up_to: Annotated[int, Meta(description="No state was counted further.")]
    at_least: Annotated[list[_Status], Meta(description="The states of which there may be more.")]
    groups: NotRequired[
        Annotated[
            list[dict[str, Any]],
            Meta(description="`counts` of each agent or action, the greatest first; at most 1,000."),
        ]
    ]


class TaskSelection(Struct, forbid_unknown_fields=True, kw_only=True):
    """Which tasks are to be changed, by at least one filter, and how many at most."""

    status: Annotated[
        Annotated[list[_Status], Meta(min_length=1)] | UnsetType | None,
        Meta(description="Those in one of these states."),
    ] = UNSET
    agent_id: Annotated[str, _PRINTABLE] | UnsetType | None = UNSET
    action: Annotated[str, Meta(pattern=ACTION)] | UnsetType | None = UNSET
    parent_id: Annotated[str, Meta(pattern=TASK_ID)] | UnsetType | None = UNSET
    correlation_id: Annotated[str, _PRINTABLE] | UnsetType | None = UNSET
    idempotency_key: Annotated[str, _KEY] | UnsetType | None = UNSET
    created_after: Moment | UnsetType | None = UNSET
    created_before: Moment | UnsetType | None = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many are changed at most.")] = 100
    cursor: Annotated[str | None, Meta(description="Of the answer before, to go on.")] = None
    dry_run: Annotated[bool, Meta(description="Change nothing, and say which there are.")] = False


class ChangedTask(TypedDict):
    """A task that was changed, or in a dry run would be."""

    task_id: _Id
    status: _Status


class UnchangedTask(TypedDict):
    """A task that could not be changed."""

    task_id: str
    problem: Problem


class ChangedTasks(TypedDict):
    """What became of the tasks that were found, newest first."""

    tasks: list[ChangedTask]
    failed: list[UnchangedTask]
    cursor: Annotated[
        str | None, Meta(description="The same request with it goes on; null: there are no more.")
    ]
    dry_run: bool


class ActionRetries(TypedDict):
    """What happens after a transient error."""

    max_attempts: int
    base_seconds: float
    max_seconds: float


class Action(TypedDict):
    """What a task can do."""

    name: str
    description: str
    payload_schema: Annotated[
        dict[str, Any], Meta(description="A JSON Schema; an empty one for any JSON value.")
    ]
    timeout_seconds: Annotated[float, Meta(description="How long one run may take.")]
    retry: ActionRetries


class SubmissionLimits(TypedDict):
    """What one submission may hold."""

    tasks: int
    delay_seconds: float
    body_bytes: int


class Actions(TypedDict):
    """What can be submitted, by name."""

    actions: list[Action]
    limits: SubmissionLimits
