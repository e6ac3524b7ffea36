"""Task records in a table, with large payloads and results kept as objects (claim check)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from itertools import batched
from typing import Any, Final, TypedDict, Unpack

import msgspec

from storage_lib import values
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.patterns import pattern
from storage_lib.ports.backend import Entity, StorageBackend
from storage_lib.ports.tables import MAX_QUERY_PAGE
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.model import (
    FINAL,
    TASK_TABLE,
    TIME_CHARACTERS,
    Attempt,
    Children,
    Priority,
    TaskError,
    TaskRecord,
    TaskStatus,
    child_task_id,
    content_prefix,
)
from storage_lib.tasks.removal import delete_unchanged, mark_unchanged

_log = logging.getLogger("AOS.Tasks")

INLINE_BYTES = 16 * 1024
"""Longer payloads and results are stored as objects: a table property holds 32 Ki characters, an entity
1 MiB."""

CONCURRENT_READS = 16

_TIME_ORDERED = pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_INVERTED = str.maketrans("0123456789abcdef", "fedcba9876543210")
_OTHERS = "x"
_EXPIRED = "expired"
"""Set in a record whose contents are about to be removed, and which nobody may see any longer."""
_LARGE: Final = ("payload", "result", "raw_message")
_OF_REMOVAL: Final = ("task_id", "status", "parent_id", "fence", *(f"{name}_key" for name in _LARGE))


def record_keys(task_id: str) -> tuple[str, str]:
    """Partition and row key of a task's record.

    Both are computed from the id alone. For version 7 UUIDs they are inverted times, one partition per
    day, so that a plain scan of the table returns the newest first; other ids come after them, spread
    over 256 partitions.
    """
    if _TIME_ORDERED.fullmatch(task_id):
        day = int(task_id[:8] + task_id[9:13], 16) // 86_400_000
        return f"{9_999_999 - day:07}", task_id.translate(_INVERTED)
    return f"{_OTHERS}{hashlib.sha256(task_id.encode()).hexdigest()[:2]}", task_id


def _siblings(parent_id: str, child_id: str) -> tuple[str, dict[str, Any]]:
    """A filter for the children of a task: their ids begin with the time of its record."""
    partition, row = record_keys(child_id)
    prefix = row[:TIME_CHARACTERS]
    return (
        "PartitionKey eq @partition and RowKey ge @first and RowKey lt @last and parent_id eq @parent",
        {"partition": partition, "first": prefix, "last": f"{prefix}~", "parent": parent_id},
    )


def _first_day(moment: datetime) -> str:
    """The first partition that may hold tasks created at that moment or before. The clock that made an id may
    have been up to a day ahead; `TaskRecords.insert` refuses more."""
    return _day_of(moment + timedelta(days=1))


def _day_of(moment: datetime) -> str:
    return f"{9_999_999 - int(moment.timestamp() // 86_400):07}"


def _may_have_contents(properties: Mapping[str, Any]) -> bool:
    """Whether the object store may hold contents of the task: those that its record names, or that an
    interrupted run left behind. Most tasks need no search, which costs as much as a write."""
    named = any(properties.get(f"{name}_key") for name in _LARGE)
    return named or properties.get("fence", 2) > 1


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that is damaged or has a later version: what is known about it."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordPage:
    """A page of task records, newest first. ``cursor`` is None if there is no next page. ``unreadable`` lists
    damaged records, which are left out of ``records``."""

    records: list[TaskRecord]
    cursor: str | None
    unreadable: list[UnreadableRecord] = field(default_factory=list[UnreadableRecord])


class TaskFilters(TypedDict, total=False):
    """Which records a list holds: those for which all of these hold; None holds for every one."""

    status: str | None
    agent_id: str | None
    action: str | None
    parent_id: str | None
    created_after: datetime | None
    """At or after it."""
    created_before: datetime | None


class TaskRecords:
    """Reads and writes task records. Every write is conditional: on absence, or on the record's ETag.

    :param inline_bytes: longer contents become objects; 0 leaves none in records and messages.
    :param events: whether ends are published; if not, no end is marked as due.
    :param remembered: how many new records are kept for workers of this process.
    """

    def __init__(
        self,
        backend: StorageBackend,
        inline_bytes: int = INLINE_BYTES,
        *,
        events: bool = True,
        remembered: int = 0,
    ) -> None:
        self._backend = backend
        self._inline_bytes = inline_bytes
        self.events = events
        self._remembered = remembered
        self._new: dict[str, tuple[TaskRecord, bytes]] = {}

    def remember(self, record: TaskRecord, payload: bytes) -> None:
        """Keep a record that was just made, for a worker of this process.

        :param payload: as JSON; the caller may change the value.
        """
        self._new[record.task_id] = record, payload
        if len(self._new) > self._remembered:
            del self._new[next(iter(self._new))]

    def recall(self, task_id: str) -> TaskRecord | None:
        """What was remembered, once. It may have been changed since; a conditional write tells."""
        found = self._new.pop(task_id, None)
        return None if found is None else replace(found[0], payload=msgspec.json.decode(found[1]))

    def is_inline(self, data: bytes) -> bool:
        """Whether a content stands in the record or message itself; nothing does, even if nothing may."""
        return len(data) <= self._inline_bytes or data == b"null"

    async def insert(self, record: TaskRecord) -> TaskRecord:
        """:raises PreconditionFailedError: there is a task of this id.
        :raises InvalidArgumentError: the time in the id is in the future.
        """
        if record_keys(record.task_id)[0] < _first_day(record.created_at):
            # It would come first in every list, and no search by time would find it.
            raise InvalidArgumentError(
                f"task_id {record.task_id!r} is a UUID of version 7 of a time to come",
                field="task_id",
                limit="at most a day ahead",
                remedy="set the sender's clock, or send a UUID of version 4",
            )
        if record.event_due:
            record = replace(record, event_due=self.events)
        properties, stored = await self._to_properties(record.task_id, _fields(record))
        try:
            etag = await self._backend.tables.insert(TASK_TABLE, *record_keys(record.task_id), properties)
        except PreconditionFailedError:
            await self._discard(stored)
            raise
        return replace(record, etag=etag)

    async def change(self, record: TaskRecord, **changes: Any) -> TaskRecord:
        """Change some fields of a record as it was read; large contents are stored as objects.

        :raises PreconditionFailedError: someone else changed it meanwhile; nothing was changed.
        """
        if changes.get("event_due"):
            changes["event_due"] = self.events
        properties, stored = await self._to_properties(record.task_id, changes)
        try:
            etag = await self._backend.tables.update(
                TASK_TABLE, *record_keys(record.task_id), properties, etag=record.etag
            )
        except (PreconditionFailedError, KeyNotFoundError):
            await self._discard(stored)
            raise
        changed = replace(record, **changes, etag=etag)
        return changed if changed.is_final else replace(changed, finished_at=None)

    async def get(self, task_id: str, *, contents: bool = True) -> TaskRecord:
        """:raises KeyNotFoundError: there is no task of this id.
        :raises IntegrityError: its record is damaged, or of a later version.

        :param contents: also load the payload and the result where they are objects of their own.
        """
        try:
            entity = await self._backend.tables.get(TASK_TABLE, *record_keys(task_id))
        except KeyNotFoundError as error:
            raise KeyNotFoundError(f"task {task_id!r} does not exist", field="task_id") from error
        if entity.properties.get(_EXPIRED):
            raise KeyNotFoundError(f"task {task_id!r} does not exist any more", field="task_id")
        return await self._from_entity(entity, contents)

    async def has_open_child(self, parent_id: str, child_id: str, total: int | None) -> bool:
        """Whether a record of a child of that task says that it has not ended.

        :param child_id: any of its children; the records of all stand side by side.
        :param total: of the children that count; None if that is unknown.
        """
        condition, parameters = _siblings(parent_id, child_id)
        condition += " and (status eq @queued or status eq @running)"
        parameters |= {"queued": str(TaskStatus.QUEUED), "running": str(TaskStatus.RUNNING)}
        if total is not None:
            condition, parameters = f"{condition} and child_index lt @total", {**parameters, "total": total}
        cursor = None
        while True:
            page = await self._backend.tables.query(
                TASK_TABLE, condition, parameters=parameters, select=["status"], limit=1, cursor=cursor
            )
            if page.entities or (cursor := page.cursor) is None:
                return bool(page.entities)

    async def children_of(self, parent: TaskRecord) -> tuple[Children, int]:
        """The children of a task that waits, as their own records say, and which have one, as a bit set by
        index. What became of one without a record is what the parent's says."""
        ends, found = parent.children or Children(0), 0
        condition, parameters = _siblings(parent.task_id, child_task_id(parent.task_id, parent.created_at, 0))
        select = ("child_index", "status", "parent_fence")
        async for entity in self._matching(condition, parameters, select):
            index, status = entity.properties.get("child_index"), entity.properties.get("status")
            if type(index) is not int or not 0 <= index < ends.total:
                continue
            found |= 1 << index
            succeeded = status == TaskStatus.SUCCEEDED
            # One that ended without success before its parent was requeued runs again.
            current = entity.properties.get("parent_fence", 0) >= parent.requeue_fence
            counts = succeeded or (status in FINAL and current)
            ends = ends.with_end(index, succeeded) if counts else ends.without_end(index)
        return ends, found

    async def event_is_out(self, task_id: str, etag: str) -> None:
        """Note in the record with that ETag that the event of its end has been sent.

        :raises PreconditionFailedError: it has been changed since.
        :raises KeyNotFoundError: it is gone.
        """
        await self._backend.tables.update(TASK_TABLE, *record_keys(task_id), {"event_due": False}, etag=etag)

    async def list(
        self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> RecordPage:
        """Records newest first, without large payloads and results.

        :raises InvalidArgumentError: there is no such status.
        """
        status = filters.get("status")
        if status is not None and status not in list(TaskStatus):
            raise InvalidArgumentError(
                f"status {status!r} is not valid", field="status", limit=" or ".join(TaskStatus)
            )
        created_after, created_before = (
            filters.pop("created_after", None),
            filters.pop("created_before", None),
        )
        parameters: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        conditions = [f"{name} eq @{name}" for name in parameters]
        if created_after is not None:
            # No bound on the partitions: the id of a child is of the time of its parent, however late it is
            # made, and that of a message is of when it was sent.
            parameters["after"] = created_after
            conditions.append("created_at ge @after")
        if created_before is not None:
            # Whole days of the index first, so that newer ones are not even looked at.
            parameters |= {"before": created_before, "day": _first_day(created_before)}
            conditions.append("created_at lt @before and PartitionKey ge @day")
        try:
            page = await self._backend.tables.query(
                TASK_TABLE,
                " and ".join(conditions) or None,
                parameters=parameters,
                limit=limit,
                cursor=cursor,
            )
        except KeyNotFoundError:
            return RecordPage([], None)  # The table is made by the first task: there is none yet.
        found = RecordPage([], page.cursor)
        for entity in page.entities:
            if entity.properties.get(_EXPIRED):
                continue
            try:
                found.records.append(await self._from_entity(entity, False))
            except IntegrityError as error:  # The others must still be visible.
                found.unreadable.append(UnreadableRecord(_task_id_of(entity), error.message))
        return found

    async def overdue(self, before: datetime) -> AsyncIterator[TaskRecord]:
        """Records, without large contents, of tasks that are still open although they were due, or their
        lease ended, before that moment, or whose event has been due since then, and that nobody has
        changed since."""
        async for entity in self._until(
            before,
            # "not … ge" and not "lt": it holds where there is no such property as well.
            "updated_at lt @before and (status eq @queued and not (due_at ge @before)"
            " or status eq @running and not (lease_until ge @before) or event_due eq true)",
            queued=str(TaskStatus.QUEUED),
            running=str(TaskStatus.RUNNING),
        ):
            try:
                yield await self._from_entity(entity, False)
            except IntegrityError as error:
                _log.error("task %s is passed over: %s", _task_id_of(entity), error)

    async def abandoned(
        self, lapsed: datetime, waiting: datetime, *, created_after: datetime | None = None
    ) -> AsyncIterator[TaskRecord]:
        """Records, without large contents, of tasks whose lease ended before ``lapsed`` and that do not
        wait for children, and of tasks that were due before ``waiting`` and have not started, or that wait
        for children, or whose event is due, and that were not changed since.

        :param created_after: leave out whole days before it, but not ids that others chose.
        """
        condition = (
            "(status eq @running and lease_until lt @lapsed and not (children gt 0)"
            " or status eq @running and children gt 0 and updated_at lt @waiting"
            " or status eq @queued and created_at lt @waiting and updated_at lt @waiting"
            " and not (due_at ge @waiting) or event_due eq true and updated_at lt @waiting)"
        )
        parameters = {"lapsed": lapsed, "waiting": waiting}
        states = {"running": str(TaskStatus.RUNNING), "queued": str(TaskStatus.QUEUED)}
        ranges = ["PartitionKey ge @day"]
        if created_after is not None:
            ranges = ["PartitionKey ge @day and PartitionKey le @last", "PartitionKey ge @others"]
        last = {} if created_after is None else {"last": _day_of(created_after), "others": _OTHERS}
        for rule in ranges:
            names = {name: value for name, value in last.items() if f"@{name}" in rule}
            day = {"day": _first_day(lapsed)} if "@day" in rule else {}
            async for entity in self._matching(f"{rule} and {condition}", names | day | parameters | states):
                try:
                    yield await self._from_entity(entity, False)
                except IntegrityError as error:
                    _log.error("task %s is passed over: %s", _task_id_of(entity), error)

    async def expire(self, before: datetime, limit: int) -> int:
        """Remove up to ``limit`` records of tasks that ended before that moment, with their contents,
        and return how many. A child's record stays as long as its parent's, or a requeue of the parent
        would run the child again."""
        if limit < 1:
            return 0
        removed = 0
        some: list[Entity] = []
        needed: dict[str, bool] = {}
        # One that is about to be requeued was changed since (`Control.requeue`).
        ended = self._until(before, "finished_at lt @before and updated_at lt @before", select=_OF_REMOVAL)
        async for entity in ended:
            if entity.properties.get("status") not in FINAL:
                continue  # It has been requeued since, or that is unknown.
            some.append(entity)
            if len(some) == min(limit - removed, MAX_QUERY_PAGE):
                removed += await self._remove(some, needed)
                some = []
                if removed >= limit:
                    break
        return removed + (await self._remove(some, needed) if some else 0)

    async def _remove(self, entities: list[Entity], needed: dict[str, bool]) -> int:
        """Remove those whose parents are gone, parents before their children, and return how many.

        :param needed: which parents are there, as far as it is known.
        """
        left = {_task_id_of(entity): entity for entity in entities}
        parents = {id_: str(entity.properties.get("parent_id") or "") for id_, entity in left.items()}
        await self._look_for({each for each in parents.values() if each and each not in left}, needed)
        removed = 0
        while left:
            free = {id_: entity for id_, entity in left.items() if parents[id_] not in left}
            if not free:
                break  # Damaged: each has another for its ancestor.
            for id_ in free:
                del left[id_]
            gone = await self._removed([each for id_, each in free.items() if not needed.get(parents[id_])])
            needed |= dict.fromkeys(free, True) | dict.fromkeys(map(_task_id_of, gone), False)
            removed += len(gone)
        return removed

    async def _look_for(self, parents: set[str], needed: dict[str, bool]) -> None:
        for some in batched(sorted(parents - needed.keys()), CONCURRENT_READS, strict=False):
            needed |= zip(some, await asyncio.gather(*map(self._exists, some)), strict=True)

    async def _removed(self, entities: list[Entity]) -> list[Entity]:
        """Remove the contents before the records, so that a later run can finish if this one is cut off; set
        a mark before both, so that a task that has just been requeued keeps its contents."""
        tables = self._backend.tables
        full = [entity for entity in entities if _may_have_contents(entity.properties)]
        plain = [entity for entity in entities if not _may_have_contents(entity.properties)]
        emptied = await mark_unchanged(tables, TASK_TABLE, full, _EXPIRED)
        for some in batched(map(_task_id_of, emptied), CONCURRENT_READS, strict=False):
            await asyncio.gather(*map(self._remove_contents, some))
        return await delete_unchanged(tables, TASK_TABLE, [*plain, *emptied])

    async def _exists(self, task_id: str) -> bool:
        try:
            await self._backend.tables.get(TASK_TABLE, *record_keys(task_id))
        except KeyNotFoundError:
            return False
        return True

    async def _until(
        self,
        before: datetime,
        condition: str,
        *,
        select: Sequence[str] | None = None,
        **parameters: str,
    ) -> AsyncIterator[Entity]:
        """Tasks created before that moment that match an OData filter."""
        values = {"day": _first_day(before), "before": before, **parameters}
        async for entity in self._matching(f"PartitionKey ge @day and {condition}", values, select):
            yield entity

    async def _matching(
        self, condition: str, parameters: Mapping[str, Any], select: Sequence[str] | None = None
    ) -> AsyncIterator[Entity]:
        tables = self._backend.tables
        try:
            async for entity in tables.iterate(TASK_TABLE, condition, parameters=parameters, select=select):
                yield entity
        except KeyNotFoundError:
            return  # The table is made by the first task: there is none yet.

    async def _remove_contents(self, task_id: str) -> None:
        async for found in self._backend.objects.iterate(content_prefix(task_id)):
            with contextlib.suppress(KeyNotFoundError):
                await self._backend.objects.delete(found if isinstance(found, str) else found.key)

    async def _to_properties(self, task_id: str, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The properties for some fields, and the keys of the objects that were written for them."""
        properties: dict[str, Any] = {}
        stored: list[str] = []
        for name, value in fields.items():
            if name == "error":
                # A merge cannot remove a property: an empty code says that there is no error any more.
                properties["error_code"] = "" if value is None else value.code
                properties["error_message"] = "" if value is None else value.message[:INLINE_BYTES]
                properties["error_traceback"] = "" if value is None else value.traceback[-INLINE_BYTES:]
            elif name in ("status", "priority"):
                properties[name] = str(value)
            elif name in ("history", "progress"):
                empty = value is None or value == ()
                properties[name] = "" if empty else msgspec.json.encode(value).decode()
            elif name == "children":
                if value is not None:
                    properties |= {
                        "children": value.total,
                        "children_done": f"{value.done:x}",
                        "children_failed": f"{value.failed:x}",
                    }
            elif name not in _LARGE:
                if value is not None or name not in properties:  # or it is the key of a content just stored
                    properties[name] = value
            elif value is None:
                if fields.get(name + "_key") is None:
                    properties |= {name: "", name + "_key": ""}
            else:
                # Both properties each time: a merge removes none, so a stale one would be read.
                data = msgspec.json.encode(value)
                if self.is_inline(data):
                    properties |= {name: data.decode(), name + "_key": ""}
                elif fields.get(name + "_key") is None:
                    stored.append(await self.store(task_id, name, data))
                    properties |= {name: "", name + "_key": stored[-1]}
        return properties, stored

    async def store(self, task_id: str, name: str, data: bytes) -> str:
        """Store a large content as an object under a new key for each write, and return the key. The
        loser of a race for a record must not change what the winner's record points to."""
        key = f"{content_prefix(task_id)}{name}-{uuid.uuid4().hex}"
        await self._backend.objects.put(key, data, content_type=values.JSON)
        return key

    async def load(self, key: str) -> Any:
        """A content that was stored as an object."""
        found = await self._backend.objects.get(key)
        assert found is not None  # noqa: S101 - only a get with if_none_match answers None
        try:
            return msgspec.json.decode(found.data)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"object {key!r} is no JSON: {error}") from error

    async def _discard(self, keys: list[str]) -> None:
        for key in keys:
            await self._backend.objects.delete(key)

    async def _from_entity(self, entity: Entity, contents: bool) -> TaskRecord:
        """:raises IntegrityError: it is damaged, or of a later version."""
        try:
            return await self._read(entity, contents)
        except StorageError:
            raise
        except Exception as error:
            raise IntegrityError(
                f"the record of task {_task_id_of(entity)!r} cannot be read: {told(error)}",
                remedy="repair or remove the entity in the task table, or run the version that wrote it",
            ) from error

    async def _read(self, entity: Entity, contents: bool) -> TaskRecord:
        found = entity.properties
        large: dict[str, Any] = {}
        omitted: dict[str, str] = {}
        for name in _LARGE:
            if found.get(name):
                large[name] = msgspec.json.decode(found[name])
            elif key := found.get(name + "_key"):
                if not contents:
                    omitted[name] = "it is large, and shown with the task by itself"
                    continue
                try:
                    large[name] = await self.load(key)
                except KeyNotFoundError:
                    omitted[name] = f"it is gone: object {key!r} does not exist"
        code = found.get("error_code")
        error = None
        if code:
            error = TaskError(code, found.get("error_message", ""), found.get("error_traceback", ""))
        children = None
        if "children" in found:
            done, failed = int(found["children_done"], 16), int(found["children_failed"], 16)
            children = Children(found["children"], done, failed)
        plain = {name: found[name] for name in _PLAIN if found.get(name, "") != ""}
        status = TaskStatus(found["status"])
        if status not in FINAL:
            plain.pop("finished_at", None)  # of an end that a requeue took back
        return TaskRecord(
            status=status,
            priority=Priority(found.get("priority", Priority.NORMAL)),
            error=error,
            children=children,
            progress=msgspec.json.decode(found["progress"]) if found.get("progress") else None,
            history=_history.decode(found["history"]) if found.get("history") else (),
            omitted=omitted,
            etag=entity.etag,
            **plain,
            **large,
        )


def _task_id_of(entity: Entity) -> str:
    found = entity.properties.get("task_id")
    if isinstance(found, str) and found:
        return found
    ours = entity.row_key.translate(_INVERTED)
    return ours if _TIME_ORDERED.fullmatch(ours) else entity.row_key


_history = msgspec.json.Decoder(tuple[Attempt, ...])
_NOT_STORED: Final = ("etag", "omitted")
_PLAIN: Final = frozenset(item.name for item in fields(TaskRecord)) - {
    *("status", "priority", "error", "children", "progress", "history"),
    *_NOT_STORED,
    *_LARGE,
}


def _fields(record: TaskRecord) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name not in _NOT_STORED}
