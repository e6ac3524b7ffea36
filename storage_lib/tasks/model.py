"""What a task is: its states, its record and the message that delivers it.

States: queued → running → succeeded | failed | cancelled | dead. The last four are final.
"""

from __future__ import annotations

import base64
import os
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from storage_lib.errors import InvalidArgumentError, SerializationError
from storage_lib.keys import SYSTEM_PREFIX

TASK_QUEUE = "agent-tasks"
POISON_QUEUE = "agent-tasks-poison"
HIGH_QUEUE = "agent-tasks-high"
HIGH_POISON_QUEUE = "agent-tasks-high-poison"
EVENT_QUEUE = "agent-events"
TASK_TABLE = "tasks"

SCHEMA_VERSION = 1
"""Version of our own messages (``v``). A message without one is of the form that anyone may send."""


class TaskStatus(StrEnum):
    """Where a task is. `FINAL` states are never left again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


FINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DEAD})


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task did not succeed: ``code`` is stable (a `StorageError.code` or an exception's name)."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """All that is known of a task. Times are aware, in UTC.

    ``attempts`` counts how often it began to run; ``fence`` grows with each and is the fencing token of
    the one who runs it. Before ``lease_until`` nobody else may take it over. ``payload_key`` names the
    object that holds a large payload.
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
    fence: int = 0
    correlation_id: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lease_until: datetime | None = None
    raw_message: str | None = None
    etag: str = field(default="", compare=False)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """What travels through the queue, and all that is needed to run the task.

    Anyone may send ``{"task_id", "agent_id", "action", "payload"?, "correlation_id"?}``; the record is then
    made on arrival. Our own messages are the same with ``v``, and ``payload_key`` where the payload is too
    large for a message and lies in the object store (claim check).
    """

    task_id: str
    agent_id: str
    action: str
    payload: Any = None
    payload_key: str | None = None
    correlation_id: str | None = None

    def to_bytes(self) -> bytes:
        """The JSON of one of our own messages."""
        return msgspec.json.encode(
            {
                "v": SCHEMA_VERSION,
                "task_id": self.task_id,
                "agent_id": self.agent_id,
                "action": self.action,
                "payload": self.payload,
                "payload_key": self.payload_key,
                "correlation_id": self.correlation_id,
            }
        )

    @classmethod
    def parse(cls, text: str) -> TaskMessage:
        """Read what is on the wire: a JSON object, by itself or in base64. The two can not be confused, for
        ``{`` is not in base64's alphabet; so that both kinds of queue clients are understood.

        :raises SerializationError: it is no JSON object, or not of a known version.
        :raises InvalidArgumentError: a field is missing or can not be right; ``field`` names it.
        """
        try:
            found: Any = msgspec.json.decode(_unwrapped(text))
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise SerializationError(f"message is not JSON: {error}", field="message") from error
        if not isinstance(found, dict):
            raise SerializationError(
                f"message is a JSON {type(found).__name__}, not an object", field="message"
            )
        message: dict[str, Any] = found
        version = message.get("v")
        if version not in (None, SCHEMA_VERSION):
            raise SerializationError(
                f"message has the schema version {version!r}", field="v", limit=f"{SCHEMA_VERSION} or none"
            )
        task_id = check_task_id(message.get("task_id"))
        payload_key = message.get("payload_key")
        if payload_key is not None and not str(payload_key).startswith(content_prefix(task_id)):
            # A message must not make a task read what is none of its own.
            raise InvalidArgumentError(
                "payload_key is not that of a payload of this task", field="payload_key"
            )
        return cls(
            task_id=task_id,
            agent_id=check_agent_id(message.get("agent_id")),
            action=check_action(message.get("action")),
            payload=message.get("payload"),
            payload_key=payload_key,
            correlation_id=check_correlation_id(message.get("correlation_id")),
        )


def content_prefix(task_id: str) -> str:
    """Below which a task's large payload and result are kept in the object store."""
    return f"{SYSTEM_PREFIX}tasks/{task_id}/"


def _unwrapped(text: str) -> bytes:
    if not text.lstrip().startswith("{"):
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            pass
    return text.encode()


_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_ACTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}")


def check_task_id(value: Any) -> str:
    return _checked(
        "task_id", value, _TASK_ID, "1 to 128 of letters, digits and . _ : -, a letter or digit first"
    )


def check_agent_id(value: Any) -> str:
    return _checked("agent_id", value, _PRINTABLE, "1 to 128 printable characters")


def check_action(value: Any) -> str:
    return _checked("action", value, _ACTION, "1 to 64 of a-z, 0-9 and _, a letter first")


def check_correlation_id(value: Any) -> str | None:
    if value is None:
        return None
    return _checked("correlation_id", value, _PRINTABLE, "1 to 128 printable characters")


def _checked(name: str, value: Any, rule: re.Pattern[str], limit: str) -> str:
    if value is None:
        raise InvalidArgumentError(f"{name} is missing", field=name, limit=limit)
    if not isinstance(value, str) or not rule.fullmatch(value):
        shown = ascii(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise InvalidArgumentError(f"{name} {shown} is not valid", field=name, limit=limit)
    return value


def new_task_id(now: float | None = None) -> str:
    """A UUID of version 7 (RFC 9562): its order is the order of time, to the millisecond."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    bits = milliseconds << 80 | int.from_bytes(os.urandom(10))
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
