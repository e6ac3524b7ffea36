"""What a task is: its states, its record and the message that delivers it.

States: queued → running → succeeded | failed | cancelled | dead. The last four are final.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from storage_lib.errors import InvalidArgumentError, SerializationError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.patterns import pattern
from storage_lib.tasks.jsonvalues import check_depth

TASK_QUEUE = "agent-tasks"
POISON_QUEUE = "agent-tasks-poison"
HIGH_QUEUE = "agent-tasks-high"
HIGH_POISON_QUEUE = "agent-tasks-high-poison"
EVENT_QUEUE = "agent-events"
TASK_TABLE = "tasks"
KEY_TABLE = "taskkeys"
"""Idempotency keys."""

MAX_HISTORY = 20
"""How many of the latest attempts a record keeps."""
SCHEMA_VERSION = 1
"""Version of the engine's own messages (``v``). A message without a version is one that anyone may send."""


class TaskStatus(StrEnum):
    """The state of a task. A task never leaves a `FINAL` state by itself."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DEAD})


class Priority(StrEnum):
    """Which queue delivers a task; the one for high priority has its own trigger."""

    NORMAL = "normal"
    HIGH = "high"

    @property
    def queue(self) -> str:
        """The first of its queues (queues.py)."""
        return HIGH_QUEUE if self is Priority.HIGH else TASK_QUEUE

    @classmethod
    def of_queue(cls, queue: str) -> Priority:
        """The priority of the tasks in a task queue."""
        return cls.HIGH if queue.startswith(HIGH_QUEUE) else cls.NORMAL

    @property
    def poison_queue(self) -> str:
        """That of the first."""
        return HIGH_POISON_QUEUE if self is Priority.HIGH else POISON_QUEUE


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task did not succeed: ``code`` is stable (a `StorageError.code` or an exception's name)."""

    code: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task, or what ended it without a run. ``next_at`` is the time of the next attempt."""

    number: int
    started_at: datetime | None
    ended_at: datetime
    outcome: str
    error_code: str | None = None
    error_message: str | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Children:
    """The children of a task that fans out. ``done`` and ``failed`` are bit sets by index, so a child that
    reports its end twice is counted once. ``total`` is 0 until the task waits for its children.

    The children's own records decide (`Joins`); while the task waits, this is what was known a while ago."""

    total: int
    done: int = 0
    failed: int = 0

    @property
    def all_done(self) -> bool:
        every = (1 << self.total) - 1
        return self.total > 0 and self.done & every == every

    def of(self, total: int) -> Children:
        """The first ``total`` children; an earlier run may have submitted more."""
        mask = (1 << total) - 1
        return Children(total, self.done & mask, self.failed & mask)

    def of_unknown_total(self) -> Children:
        """The same ends, for a task that does not wait (or no longer waits) and may submit other children."""
        return Children(0, self.done, self.failed)

    def with_end(self, index: int, succeeded: bool) -> Children:
        if 0 < self.total <= index:
            return self  # from an earlier run that submitted more
        bit = 1 << index
        return Children(self.total, self.done | bit, self.failed & ~bit if succeeded else self.failed | bit)

    def without_end(self, index: int) -> Children:
        return Children(self.total, self.done & ~(1 << index), self.failed & ~(1 << index))


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Everything known about a task. Times are aware, in UTC.

    - ``attempts``: how often it started to run; ``first_attempt``: the count at its last requeue.
    - ``fence``: grows with each run and requeue; the fencing token of the worker that runs it.
      ``requeue_fence`` is that of its last requeue, ``parent_fence`` that of the parent's run that
      submitted it last.
    - ``lease_until``: until then nobody else may take it over.
    - ``given_up``: how often its message was given up, or did not reach the action, since the last attempt.
    - ``due_at``: it does not run before.
    - ``payload_key``: the object that holds a large payload.
    - ``children``: set once it waits for its children.
    - ``requeued_at``: when it was queued again last, after an end without success.
    - ``history``: its latest attempts.
    - ``event_due``: it has ended and the event may not have been sent (`Outbox`).
    - ``submitter``: under an access policy, the principals of whoever submitted it, separated by spaces;
      ``requeued_by`` those of whoever requeued it last: a run has the rights that both have.
    - ``omitted``: why a large content was not read.
    """

    task_id: str
    agent_id: str
    action: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    payload: Any = None
    payload_key: str | None = None
    result: Any = None
    error: TaskError | None = None
    attempts: int = 0
    first_attempt: int = 0
    fence: int = 0
    requeue_fence: int = 0
    parent_fence: int = 0
    given_up: int = 0
    priority: Priority = Priority.NORMAL
    correlation_id: str | None = None
    trace_parent: str | None = None
    idempotency_key: str | None = None
    parent_id: str | None = None
    child_index: int | None = None
    children: Children | None = None
    progress: Any = None
    cancel_requested: bool = False
    due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lease_until: datetime | None = None
    history: tuple[Attempt, ...] = ()
    raw_message: str | None = None
    submitter: str | None = None
    requeued_by: str | None = None
    requeued_at: datetime | None = None
    event_due: bool = False
    omitted: dict[str, str] = field(default_factory=dict[str, str], compare=False)
    etag: str = field(default="", compare=False)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def version(self) -> str:
        """What tells this state of the record from all others, as clients see it; 32 hex digits. Unlike
        ``etag`` it is the same in lists, and wherever the record is stored."""
        state = (
            *(self.task_id, self.status, self.updated_at, self.attempts, self.fence, self.cancel_requested),
            *(self.due_at, self.finished_at, self.progress, self.children, len(self.history)),
        )
        return hashlib.blake2b(msgspec.json.encode(state), digest_size=16).hexdigest()

    def is_of_before(self, parent: TaskRecord) -> bool:
        """Whether it has not been submitted again since its parent was requeued."""
        return self.parent_fence < parent.requeue_fence

    @property
    def is_waiting(self) -> bool:
        """Whether it only waits for its children to end."""
        return self.status is TaskStatus.RUNNING and self.children is not None and self.children.total > 0


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """The message in the queue, with everything needed to run the task.

    Anyone may send ``{"task_id", "agent_id", "action", "payload"?, "correlation_id"?, "traceparent"?}``;
    the record is then created on arrival. The engine's own messages also have ``v``, ``payload_key`` if
    the payload is too large for a message and is in the object store (claim check), ``due_at``, the
    priority and the parent.
    """

    task_id: str
    agent_id: str
    action: str
    payload: Any = None
    payload_key: str | None = None
    correlation_id: str | None = None
    trace_parent: str | None = None
    priority: Priority = Priority.NORMAL
    due_at: datetime | None = None
    idempotency_key: str | None = None
    parent_id: str | None = None
    child_index: int | None = None
    parent_fence: int | None = None
    """The fence of the parent's run that submitted it."""
    requeue: int | None = None
    """The fence of the record that this message requeues."""
    submitter: str | None = None
    requeued_by: str | None = None

    @classmethod
    def of(cls, record: TaskRecord, *, requeue: int | None = None) -> TaskMessage:
        """The message of a task that has a record."""
        return cls(
            **{name: getattr(record, name) for name in CARRIED},
            payload=record.payload if record.payload_key is None else None,
            parent_fence=record.parent_fence or None,
            requeue=requeue,
        )

    def to_bytes(self) -> bytes:
        """The JSON of one of the engine's own messages, without fields that are not set.

        Whoever requeued a task of their own takes no right from it. Versions that know no ``requeued_by``
        refuse a message with it; they would run the task with rights that it must not have.
        """
        fields = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if self.requeued_by == self.submitter:
            fields.pop("requeued_by", None)
        if "trace_parent" in fields:
            fields["traceparent"] = fields.pop("trace_parent")
        return msgspec.json.encode({"v": SCHEMA_VERSION, **fields})

    @classmethod
    def parse(cls, text: str) -> TaskMessage:
        """Read a message as it is on the wire: a JSON object, plain or in base64. The two cannot be confused,
        because ``{`` is not in base64's alphabet, so both kinds of queue clients are understood.

        :raises SerializationError: it is not a JSON object, or its version is unknown.
        :raises InvalidArgumentError: a field is missing, unknown or invalid; ``field`` names it.
        """
        data = _unwrapped(text)
        try:
            found: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise SerializationError(f"message is not JSON: {error}", field="message") from error
        if not isinstance(found, dict):
            raise SerializationError(
                f"message is a JSON {type(found).__name__}, not an object", field="message"
            )
        check_depth(data, found, "message")
        return cls._of_fields(found)

    @classmethod
    def _of_fields(cls, message: dict[str, Any]) -> TaskMessage:
        version = message.get("v")
        if version is not None and (type(version) is not int or version != SCHEMA_VERSION):
            raise SerializationError(
                f"message has the schema version {_shown(version)}",
                field="v",
                limit=f"{SCHEMA_VERSION} or none",
            )
        _check_names(message)
        if version is None:
            # Only the engine says which end a message revokes, and whose child a task is.
            message = {name: value for name, value in message.items() if name not in _OURS}
        task_id = check_task_id(message.get("task_id"))
        payload, payload_key = message.get("payload"), message.get("payload_key")
        if payload_key is not None and (payload is not None or not _is_payload_key(task_id, payload_key)):
            # A message must not make a task read another task's data.
            raise InvalidArgumentError(
                "payload_key is not that of a payload of this task", field="payload_key"
            )
        parent_id, index = _parent(task_id, message.get("parent_id"), message.get("child_index"))
        parent_fence = _fence(message, "parent_fence")
        if parent_fence is not None and parent_id is None:
            raise InvalidArgumentError("parent_fence without a parent_id", field="parent_fence")
        return cls(
            task_id=task_id,
            agent_id=check_agent_id(message.get("agent_id")),
            action=check_action(message.get("action")),
            payload=payload,
            payload_key=payload_key,
            correlation_id=check_correlation_id(message.get("correlation_id")),
            trace_parent=check_trace_parent(message.get("traceparent")),
            priority=check_priority(message.get("priority")),
            due_at=_moment(message.get("due_at")),
            idempotency_key=check_idempotency_key(message.get("idempotency_key")),
            parent_id=parent_id,
            child_index=index,
            parent_fence=parent_fence,
            requeue=_fence(message, "requeue"),
            submitter=check_submitter(message.get("submitter")),
            requeued_by=check_submitter(message.get("requeued_by"), "requeued_by"),
        )


CARRIED = (
    *("task_id", "agent_id", "action", "payload_key", "correlation_id", "trace_parent", "priority"),
    *("idempotency_key", "parent_id", "child_index", "submitter", "requeued_by"),
)
"""The fields that a record and its message have in common."""
_OURS = frozenset(
    {
        "requeue",
        "parent_id",
        "child_index",
        "parent_fence",
        "payload_key",
        "idempotency_key",
        "submitter",
        "requeued_by",
    }
)
_NAMES = {"v", "traceparent", *TaskMessage.__slots__} - {"trace_parent"}
MAX_FENCE = 2**31 - 1
MAX_SUBMITTER_CHARACTERS = 8192
_SUBMITTER = pattern(rf"(?=.{{1,{MAX_SUBMITTER_CHARACTERS}}}\Z)[!-~]+(?: [!-~]+)*")


def _check_names(message: dict[str, Any]) -> None:
    for name in message:
        if name not in _NAMES:
            from difflib import get_close_matches  # Only here is it needed.

            near = get_close_matches(name[:40], _NAMES, 1)
            raise InvalidArgumentError(
                f"message has the unknown field {_shown(name)}",
                field=name[:40],
                limit=", ".join(sorted(_NAMES - _OURS)),
                remedy=f"did you mean {near[0]!r}?"
                if near
                else "put what is the action's own into the payload",
            )


def _parent(task_id: str, parent_id: Any, index: Any) -> tuple[str | None, int | None]:
    """The parent of a message's task, and its number among the children: both or neither.

    The id of a child is derived from its parent's (`child_task_id`), so no task can be its own ancestor, and
    nobody can turn another's task into a child.
    """
    if parent_id is None and index is None:
        return None, None
    parent_id = _checked("parent_id", parent_id, _TASK_ID, _TASK_ID_LIMIT)
    if type(index) is not int or not 0 <= index < MAX_CHILDREN:
        raise InvalidArgumentError(
            f"child_index {_shown(index)} is not valid", field="child_index", limit=f"0 to {MAX_CHILDREN - 1}"
        )
    # All but the time, which is that of the parent's record.
    if (
        child_task_id(parent_id, datetime.fromtimestamp(0, UTC), index)[TIME_CHARACTERS:]
        != task_id[TIME_CHARACTERS:]
    ):
        raise InvalidArgumentError(
            f"task_id {task_id!r} is not that of child {index} of its parent_id", field="parent_id"
        )
    return parent_id, index


TIME_CHARACTERS = len("00000000-0000-")
"""The digits of a version 7 UUID that hold the time."""


def _fence(message: dict[str, Any], name: str) -> int | None:
    value: Any = message.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MAX_FENCE:
        raise InvalidArgumentError(
            f"{name} {_shown(value)} is not valid", field=name, limit=f"a whole number, 0 to {MAX_FENCE}"
        )
    return value


def _shown(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


MAX_CHILDREN = 10_000
"""Children of one task: the number of bits in its record."""


def content_prefix(task_id: str) -> str:
    """The prefix of large payloads and results in the object store."""
    return f"{SYSTEM_PREFIX}tasks/{task_id}/"


def _is_payload_key(task_id: str, key: Any) -> bool:
    prefix = f"{content_prefix(task_id)}payload-"
    return isinstance(key, str) and re.fullmatch(re.escape(prefix) + "[0-9a-f]{32}", key) is not None


_BOM = b"\xef\xbb\xbf"
_AROUND = "\ufeff \t\r\n"
_URL_SAFE = str.maketrans("-_", "+/")


def _unwrapped(text: str) -> bytes:
    text = text.strip(_AROUND)
    if not text.startswith("{"):
        # As tools write it: wrapped, without padding, in the URL alphabet.
        joined = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
        try:
            return base64.b64decode(joined + "=" * (-len(joined) % 4), validate=True).removeprefix(_BOM)
        except ValueError:
            pass
    return text.encode()


_TASK_ID = pattern(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,126}[A-Za-z0-9_:-])?")
_TASK_ID_LIMIT = "1 to 128 of letters, digits and . _ : -, a letter or digit first, no dot last"
_ACTION = pattern(r"[a-z][a-z0-9_]{0,63}")
_KEY = pattern(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
_PRINTABLE = pattern(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")


def check_task_id(value: Any) -> str:
    return _checked("task_id", value, _TASK_ID, _TASK_ID_LIMIT)


def check_agent_id(value: Any) -> str:
    return _checked("agent_id", value, _PRINTABLE, "1 to 128 printable characters")


def check_action(value: Any) -> str:
    return _checked("action", value, _ACTION, "1 to 64 of a-z, 0-9 and _, a letter first")


def check_correlation_id(value: Any) -> str | None:
    if value is None:
        return None
    return _checked("correlation_id", value, _PRINTABLE, "1 to 128 printable characters")


def check_idempotency_key(value: Any) -> str | None:
    if value is None:
        return None
    return _checked("idempotency_key", value, _KEY, "1 to 255 printable characters")


def check_priority(value: Any) -> Priority:
    if value is None:
        return Priority.NORMAL
    if not isinstance(value, str) or value not in list(Priority):
        raise InvalidArgumentError(
            f"priority {_shown(value)} is not valid", field="priority", limit=" or ".join(Priority)
        )
    return Priority(value)


_TRACE_PARENT = pattern(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def check_submitter(value: Any, name: str = "submitter") -> str | None:
    """:raises InvalidArgumentError: it is no list of principals, separated by spaces."""
    if value is None or (isinstance(value, str) and _SUBMITTER.fullmatch(value)):
        return value
    raise InvalidArgumentError(
        f"{name} is {_shown(value)}",
        field=name,
        limit=f"names of printable ASCII, separated by spaces, {MAX_SUBMITTER_CHARACTERS} characters",
    )


def check_trace_parent(value: Any) -> str | None:
    """A W3C ``traceparent``; a malformed one is dropped, as the recommendation asks (Trace Context, 3.2)."""
    return value if isinstance(value, str) and _TRACE_PARENT.fullmatch(value) else None


def child_trace_parent(parent: str | None) -> str:
    """The ``traceparent`` of a new span: in the trace of ``parent``, or in a new one."""
    trace_id, flags = os.urandom(16).hex(), "01"
    if parent is not None:
        _, trace_id, _, flags = parent.split("-")
    return f"00-{trace_id}-{os.urandom(8).hex()}-{flags}"


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        # Convert to UTC here: a time at the edge of the calendar may have no other form.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(
            f"due_at {_shown(value)} is not valid", field="due_at", limit="ISO 8601"
        ) from error


def _checked(name: str, value: Any, rule: re.Pattern[str], limit: str) -> str:
    if value is None:
        raise InvalidArgumentError(f"{name} is missing", field=name, limit=limit)
    if not isinstance(value, str) or not rule.fullmatch(value):
        raise InvalidArgumentError(f"{name} {_shown(value)} is not valid", field=name, limit=limit)
    return value


def new_task_id(now: float | None = None) -> str:
    """A version 7 UUID (RFC 9562), ordered by time with millisecond precision."""
    return _uuid7(int((time.time() if now is None else now) * 1000), os.urandom(10))


def child_task_id(parent_id: str, created_at: datetime, index: int) -> str:
    """The id of a task's child, the same each time the parent submits it."""
    return derived_task_id(created_at, hashlib.sha256(f"{parent_id}/{index}".encode()).digest())


def derived_task_id(moment: datetime, digest: bytes) -> str:
    """An id ordered by time like that of `new_task_id`, and the same for the same ``digest``."""
    return _uuid7(int(moment.timestamp() * 1000), digest[:10])


def _uuid7(milliseconds: int, rest: bytes) -> str:
    bits = milliseconds << 80 | int.from_bytes(rest)
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
