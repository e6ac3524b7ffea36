"""Where the record of a task stands in the table, and the rows beside it by which lists and repair find it.

The records are spread over `PARTITIONS` by the time in their ids, so that children, whose ids begin with the
time of their parent's record, stand side by side. In each partition they stand newest first; behind them
stand the rows of the index, which are written in the same transaction as the record:

- ``~open:KEY`` of a task that has not ended, or whose event is due, with all that repair has to know;
- ``~agent:HASH:KEY`` of each task;
- ``~correlation:HASH:KEY`` and ``~once:HASH:KEY`` of one with a correlation id, and with an idempotency key;
- ``~failed:KEY``, ``~cancelled:KEY`` and ``~dead:KEY`` of one that ended so;
- ``~requeued:TIME:KEY`` of one that was requeued then, for lists that it would slip through (`Lists`);
- ``~span:…:SPAN``, one for all records of 4.7 hours, by action, and of those that succeeded;
- ``~span:late:UNTIL:TIME``, one for all records with that time in their ids, as those of a family, that were
  made later than that, in the minutes before ``UNTIL``.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from storage_lib.patterns import pattern
from storage_lib.ports.tables import Delete, TableOperation, Upsert
from storage_lib.tasks.model import FINAL, TIME_CHARACTERS, TaskRecord, TaskStatus

PARTITIONS: Final = tuple(f"0{digit:x}" for digit in range(16))
"""They stand before those of the layout before this one, which began with 9 and x (legacy_records.py)."""

RECORDS_END: Final = "~"
"""Behind the row keys of all records, before those of the index."""
OTHERS: Final = "x"
"""The beginning of the keys of records whose ids are not of a known time; they stand behind the others."""
OPEN: Final = "~open:"
LISTED: Final = frozenset({TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DEAD})
"""Final states that have rows of their own. Most tasks succeed, for which that would be a waste."""
REQUEUED: Final = "~requeued:"
SPANS: Final = "~span:"
LATE: Final = f"{SPANS}late:"
SUCCEEDED: Final = f"{SPANS}succeeded:"

_TIME_ORDERED = pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_INVERTED = str.maketrans("0123456789abcdef", "fedcba9876543210")
_MOMENT = len("00000000-0000")
_SPAN = len("000000")
_LATEST = (1 << 48) - 1
"""The greatest time of an id, in milliseconds."""
SLOT: Final = timedelta(minutes=10)
"""How exactly the rows of late records say how late they are, and for how long a process knows that a row is
there."""


def end_of(prefix: str) -> str:
    """The least key behind all that begin with ``prefix``, which consists of ASCII."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def key_of(task_id: str) -> str:
    """The row key of a task's record, in the order of lists: newest first."""
    if _TIME_ORDERED.fullmatch(task_id):
        return task_id.translate(_INVERTED)
    return f"{OTHERS}{hashlib.sha256(task_id.encode()).hexdigest()[:2]}{task_id}"


def id_of(key: str) -> str:
    """The id of the task with that row key."""
    ours = key.translate(_INVERTED)
    return ours if _TIME_ORDERED.fullmatch(ours) else key[len("x00") :]


def partition_of(key: str) -> str:
    """Of ids that tell a time, it is the time that decides, of others the whole."""
    whole = key if key.startswith(OTHERS) else key[:_MOMENT]
    return PARTITIONS[zlib.crc32(whole.encode()) % len(PARTITIONS)]


def record_keys(task_id: str) -> tuple[str, str]:
    """Partition and row key of a task's record, both computed from the id alone."""
    key = key_of(task_id)
    return partition_of(key), key


def siblings_of(task_id: str) -> tuple[str, str]:
    """The partition of a child's siblings, and the beginning of their keys."""
    partition, key = record_keys(task_id)
    return partition, key[:TIME_CHARACTERS]


def first_at(moment: datetime) -> str:
    """What is before the keys of all ids of that time and before, and behind those of later ones."""
    at = min(max(_milliseconds(moment), 0), _LATEST)
    digits = f"{_LATEST - at:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def time_of(key: str) -> int | None:
    """The time in an id, in milliseconds; None if it tells none."""
    if key.startswith(OTHERS):
        return None
    return _LATEST - int(key[:8] + key[9:_MOMENT], 16)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def span_of(key: str) -> str:
    """The beginning of the keys of a span: 4.7 hours, or a 256th of the others."""
    return key[: len("x00")] if key.startswith(OTHERS) else key[:_SPAN]


def moment_of(key: str) -> str:
    """The beginning of the keys of all records with the same time in their ids."""
    return key[:_MOMENT]


def of_agent(agent_id: str) -> str:
    """The beginning of an agent's rows; it may be that of another's, too."""
    return f"~agent:{_hashed(agent_id)}:"


@lru_cache(maxsize=1000)
def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


SEARCHED: Final = ("~correlation:", "~once:")
"""The beginnings of the rows by which tasks are searched for."""


def of_correlation(correlation_id: str) -> str:
    """The beginning of the rows of the tasks with a correlation id; likewise."""
    return f"{SEARCHED[0]}{_hashed(correlation_id)}:"


def of_idempotency_key(key: str) -> str:
    """The beginning of the rows of the tasks with an idempotency key; likewise."""
    return f"{SEARCHED[1]}{_hashed(key)}:"


def of_action(action: str) -> str:
    """The beginning of an action's spans."""
    return f"{SPANS}action:{action}:"


def of_status(status: TaskStatus) -> str:
    """The beginning of the rows of one of `LISTED`."""
    return f"~{status}:"


def requeued_since(moment: datetime) -> str:
    """The beginning of the rows of tasks that were requeued at that time, before those of later times: a task
    that is requeued again while they are read goes to where they have not been read yet."""
    return f"{REQUEUED}{max(_milliseconds(moment), 0):012x}:"


FACTS: Final[dict[str, type]] = {
    **dict.fromkeys(("agent_id", "action", "status", "priority", "parent_id"), str),
    **dict.fromkeys(("correlation_id", "idempotency_key"), str),
    **dict.fromkeys(("created_at", "updated_at", "due_at", "lease_until", "requeued_at"), datetime),
    **dict.fromkeys(("child_index", "children"), int),
    "event_due": bool,
}
"""The properties of a record that `Facts` are made of, with their types."""
NOTHING: Final[Mapping[str, Any]] = {}


@dataclass(slots=True)
class Facts:
    """What the index knows of a task. Of a damaged record some of it is missing."""

    key: str
    agent_id: str | None = None
    action: str | None = None
    status: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    priority: str | None = None
    parent_id: str | None = None
    child_index: int | None = None
    children: int | None = None
    due_at: datetime | None = None
    lease_until: datetime | None = None
    event_due: bool = False
    correlation_id: str | None = None
    idempotency_key: str | None = None
    requeued_at: datetime | None = None

    @classmethod
    def of(cls, record: TaskRecord, changes: Mapping[str, Any] = NOTHING) -> Facts:
        """Those of a record, with some changes that are about to be made."""

        def now(name: str) -> Any:
            return changes[name] if name in changes else getattr(record, name)

        children = now("children")
        return cls(
            key_of(record.task_id),
            record.agent_id,
            record.action,
            str(now("status")),
            record.created_at,
            now("updated_at"),
            str(now("priority")),
            record.parent_id,
            record.child_index,
            None if children is None else children.total,
            now("due_at"),
            now("lease_until"),
            now("event_due"),
            record.correlation_id,
            record.idempotency_key,
            now("requeued_at"),
        )

    @classmethod
    def stored(cls, key: str, properties: Mapping[str, Any]) -> Facts:
        """Those of a record as it is in the table."""
        found = properties.items()
        return cls(key, **{name: value for name, value in found if isinstance(value, FACTS.get(name, ()))})

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of the index for this task alone, by row key."""
        rows: dict[str, dict[str, Any]] = {}
        known = {"action": self.action, "created_at": self.created_at}
        if self.agent_id is not None:
            rows[of_agent(self.agent_id) + self.key] = known
        for prefix in self.searched:
            status = {"status": self.status} if self.status in LISTED else NOTHING
            rows[prefix + self.key] = {"agent_id": self.agent_id, **known, **status}
        if self.status in LISTED:
            rows[of_status(TaskStatus(self.status)) + self.key] = {"agent_id": self.agent_id, **known}
            # Of an agent, too, those that succeeded are had without the others.
            known["status"] = self.status
        if self.requeued_at is not None:
            rows[requeued_since(self.requeued_at) + self.key] = {
                "agent_id": self.agent_id,
                "action": self.action,
                "created_at": self.created_at,
                "status": self.status,
                "correlation_id": self.correlation_id,
                "idempotency_key": self.idempotency_key,
            }
        if self.event_due or (self.status is not None and self.status not in FINAL):
            # Nothing is false but that no event is due.
            rows[OPEN + self.key] = {
                name: value
                for name in FACTS
                if (value := getattr(self, name)) is not None and value is not False
            }
        return rows

    @property
    def searched(self) -> list[str]:
        """The beginnings of the rows by which its submitter may search for it."""
        found: list[str] = []
        if self.correlation_id:
            found.append(of_correlation(self.correlation_id))
        if self.idempotency_key:
            found.append(of_idempotency_key(self.idempotency_key))
        return found

    @property
    def spans(self) -> dict[str, dict[str, Any]]:
        """The rows of the index that it shares with others, by row key."""
        span = span_of(self.key)
        rows: dict[str, dict[str, Any]] = {}
        if self.action is not None:
            rows[of_action(self.action) + span] = {}
        if self.status == TaskStatus.SUCCEEDED:
            rows[SUCCEEDED + span] = {}
        at = time_of(self.key)
        if at is not None and self.created_at is not None and _milliseconds(self.created_at) > at:
            rows[f"{LATE}{first_at(_next_slot(self.created_at))}:{moment_of(self.key)}"] = {}
        return rows


def _next_slot(moment: datetime) -> datetime:
    slots = int(moment.timestamp() // SLOT.total_seconds()) + 1
    return datetime.fromtimestamp(slots * SLOT.total_seconds(), UTC)


def index_changes(before: Facts | None, after: Facts | None) -> list[TableOperation]:
    """What happens to the rows of the index when a record changes; None is one that there is not."""
    old, new = before.rows if before else {}, after.rows if after else {}
    changed: list[TableOperation] = [
        Upsert(row, values, "replace") for row, values in new.items() if old.get(row) != values
    ]
    return changed + [Delete(row) for row in old if row not in new]


class Spans:
    """Which rows of spans this process has written lately, and need not write again.

    :param kept: how many it remembers.
    """

    def __init__(self, kept: int = 10_000) -> None:
        self._kept = kept
        self._written: dict[tuple[str, str], datetime] = {}

    def missing(self, facts: Facts) -> list[TableOperation]:
        """Those that may not be there. Each is written again after a while, so that it is not taken for one
        that has been of no use for long."""
        now, partition = facts.updated_at, partition_of(facts.key)
        return [
            Upsert(row, values)
            for row, values in facts.spans.items()
            if now is None or not self._is_there((partition, row), now)
        ]

    def _is_there(self, row: tuple[str, str], moment: datetime) -> bool:
        written = self._written.get(row)
        return written is not None and written - SLOT < moment <= written

    def written(self, facts: Facts) -> None:
        """All are there now."""
        now = facts.updated_at
        if now is None:
            return
        if len(self._written) > self._kept:
            self._written.clear()
        for row in facts.spans:
            self._written[partition_of(facts.key), row] = _next_slot(now)
