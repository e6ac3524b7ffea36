"""Task records in a table, with large payloads and results kept as objects (claim check)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Unpack

import msgspec

from storage_lib import values
from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from storage_lib.ports.backend import Entity, StorageBackend
from storage_lib.ports.tables import MAX_QUERY_PAGE, Delete, TableOperation, UpdateMode
from storage_lib.tasks.expiry import LARGE, Expiry
from storage_lib.tasks.jsonvalues import told
from storage_lib.tasks.layout import (
    OPEN,
    OTHERS,
    RECORDS_END,
    Facts,
    Spans,
    end_of,
    first_at,
    id_of,
    index_changes,
    key_of,
    partition_of,
    record_keys,
    siblings_of,
    time_of,
)
from storage_lib.tasks.legacy_records import Older
from storage_lib.tasks.lists import EXPIRED, Lists, RecordPage, TaskFilters, UnreadableRecord, task_id_of
from storage_lib.tasks.model import (
    FINAL,
    TASK_TABLE,
    Attempt,
    Children,
    Priority,
    TaskError,
    TaskRecord,
    TaskStatus,
    child_task_id,
    content_prefix,
)
from storage_lib.tasks.ranges import Condition, all_partitions, page_of, rows_of
from storage_lib.tasks.removal import index_of_blamed
from storage_lib.tasks.searchable import Searchable

if TYPE_CHECKING:
    from storage_lib.tasks.counts import CountBy, TaskCounts

__all__ = [
    "INLINE_BYTES",
    "RecordPage",
    "TaskFilters",
    "TaskRecords",
    "TaskRemovedError",
    "UnreadableRecord",
    "record_keys",
]

_log = logging.getLogger("AOS.Tasks")

INLINE_BYTES = 16 * 1024
"""Longer payloads and results are stored as objects: a table property holds 32 Ki characters, an entity
1 MiB."""

_AHEAD = timedelta(days=1)
"""How far the clock that made an id may be ahead."""


class TaskRemovedError(KeyNotFoundError):
    """There was a task of this id, and its record was deleted or is about to be."""


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
        self._spans = Spans()
        self.older = Older(backend.tables)
        self.searchable = Searchable(backend.tables)
        self._lists = Lists(
            backend.tables, self.older, self.searchable, lambda entity: self._from_entity(entity, False)
        )
        self._expiry = Expiry(backend, self._exists)

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
        at = time_of(key_of(record.task_id))
        if at is not None and at >= (record.created_at + _AHEAD).timestamp() * 1000:
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
        facts = Facts.of(record)
        also = [*index_changes(None, facts), *self._spans.missing(facts)]
        try:
            etag = await self._backend.tables.insert(
                TASK_TABLE, *record_keys(record.task_id), properties, also=also
            )
        except PreconditionFailedError:
            await self._discard(stored)
            raise
        self._spans.written(facts)
        return replace(record, etag=etag)

    async def change(self, record: TaskRecord, **changes: Any) -> TaskRecord:
        """Change some fields of a record as it was read; large contents are stored as objects.

        :raises PreconditionFailedError: someone else changed it meanwhile; nothing was changed.
        """
        if changes.get("event_due"):
            changes["event_due"] = self.events
        if record.is_final and changes.get("status", record.status) not in FINAL:
            changes["requeued_at"] = datetime.now(UTC)  # The clock that lists look at as well.
        properties, stored = await self._to_properties(record.task_id, changes)
        before, after = Facts.of(record), Facts.of(record, changes)
        also = index_changes(before, after)
        succeeds = after.status != before.status and after.status == TaskStatus.SUCCEEDED
        if succeeds:  # That alone may make it one of another span.
            also += self._spans.missing(after)
        try:
            etag = await self._update(record.task_id, properties, record.etag, also)
        except (PreconditionFailedError, KeyNotFoundError):
            await self._discard(stored)
            raise
        if succeeds:
            self._spans.written(after)
        changed = replace(record, **changes, etag=etag)
        is_as_told = changed.is_final or changed.finished_at is None
        return changed if is_as_told else replace(changed, finished_at=None)

    async def remove(self, record: TaskRecord, now: datetime) -> None:
        """Remove what a record says, with its contents, and its rows of the index. That there was one stays
        until it would have expired, so that a message of the task that is still on its way does not run it.

        :raises PreconditionFailedError: someone else changed it meanwhile; nothing was changed.
        """
        left = {"task_id": record.task_id, EXPIRED: True, "finished_at": now, "updated_at": now}
        rows = index_changes(Facts.of(record), None)
        await self._update(record.task_id, left, record.etag, rows, mode="replace")
        await self.remove_contents(record.task_id)

    async def remove_contents(self, task_id: str) -> None:
        """Remove the objects with the payload and the results of a task."""
        await self._expiry.remove_contents(task_id)

    async def _update(
        self,
        task_id: str,
        properties: dict[str, Any],
        etag: str,
        also: list[TableOperation],
        mode: UpdateMode = "merge",
    ) -> str:
        """Change a record and its rows of the index in one transaction."""
        keys = record_keys(task_id)
        while True:
            try:
                return await self._backend.tables.update(
                    TASK_TABLE, *keys, properties, etag=etag, mode=mode, also=also
                )
            except KeyNotFoundError as error:
                blamed = index_of_blamed(error)
                if not blamed:
                    raise
                # A row that was to be deleted is gone: who removed it by hand is not to stop the task.
                also = [each for n, each in enumerate(also, 1) if n != blamed]

    async def get(self, task_id: str, *, contents: bool = True) -> TaskRecord:
        """:raises KeyNotFoundError: there is no task of this id.
        :raises IntegrityError: its record is damaged, or of a later version.

        :param contents: also load the payload and the result where they are objects of their own.
        """
        entity = await self._find(task_id)
        if entity is None:
            raise KeyNotFoundError(f"task {task_id!r} does not exist", field="task_id")
        if entity.properties.get(EXPIRED):
            raise TaskRemovedError(f"task {task_id!r} does not exist any more", field="task_id")
        return await self._from_entity(entity, contents)

    async def has_open_child(self, parent_id: str, child_id: str, total: int | None) -> bool:
        """Whether a record of a child of that task says that it has not ended.

        :param child_id: any of its children; the records of all stand side by side.
        :param total: of the children that count; None if that is unknown.
        """
        await self.older.fetch_family(child_id)
        text = "parent_id eq @parent and (status eq @queued or status eq @running)"
        values = {
            "parent": parent_id,
            "queued": str(TaskStatus.QUEUED),
            "running": str(TaskStatus.RUNNING),
        }
        if total is not None:
            text, values = f"{text} and child_index lt @total", {**values, "total": total}
        partition, prefix = siblings_of(child_id)
        page = None
        while page is None or (not page.entities and page.cursor is not None):
            page = await page_of(
                self._backend.tables,
                partition,
                OPEN + prefix,
                OPEN + end_of(prefix),
                Condition(text, values),
                select=[],
                limit=1,
                cursor=None if page is None else page.cursor,
            )
        return bool(page.entities)

    async def children_of(self, parent: TaskRecord) -> tuple[Children, int]:
        """The children of a task that waits, as their own records say, and which have one, as a bit set by
        index. What became of one without a record is what the parent's says."""
        ends, found = parent.children or Children(0), 0
        first = child_task_id(parent.task_id, parent.created_at, 0)
        await self.older.fetch_family(first)
        partition, prefix = siblings_of(first)
        async for entity in rows_of(
            self._backend.tables,
            partition,
            prefix,
            end_of(prefix),
            Condition("parent_id eq @parent", {"parent": parent.task_id}),
            select=("child_index", "status", "parent_fence"),
        ):
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
        await self._update(task_id, {"event_due": False}, etag, [Delete(OPEN + key_of(task_id))])

    async def list(
        self, *, limit: int = 100, cursor: str | None = None, **filters: Unpack[TaskFilters]
    ) -> RecordPage:
        """Records newest first, without large payloads and results.

        :raises InvalidArgumentError: there is no such status.
        """
        return await self._lists.page(limit, cursor, filters)

    async def count(
        self, *, by: CountBy | None = None, limit: int = MAX_QUERY_PAGE, **filters: Unpack[TaskFilters]
    ) -> TaskCounts:
        """How many records there are of each status, up to ``limit`` of each.

        :param by: also for each agent (``agent_id``) or action.
        :raises InvalidArgumentError: one of them is not valid.
        """
        from storage_lib.tasks.counts import Counting  # Only where it is asked for.

        return await Counting(self._lists).count(filters, by=by, limit=limit)

    async def overdue(self, before: datetime) -> AsyncIterator[TaskRecord]:
        """Records, without large contents, of tasks that are still open although they were due, or their
        lease ended, before that moment, or whose event has been due since then, and that nobody has
        changed since."""
        # "not … ge" and not "lt": it holds where there is no such property as well.
        condition = Condition(
            "updated_at lt @before and (status eq @queued and not (due_at ge @before)"
            " or status eq @running and not (lease_until ge @before) or event_due eq true)",
            {"before": before, "queued": str(TaskStatus.QUEUED), "running": str(TaskStatus.RUNNING)},
        )
        async for each in self._open(condition):
            record = await self.read_open(each)
            if record is not None:
                yield record

    async def abandoned(
        self, lapsed: datetime, waiting: datetime, *, created_after: datetime | None = None
    ) -> AsyncIterator[Facts]:
        """Tasks whose lease ended before ``lapsed`` and that do not wait for children, and tasks that were
        due before ``waiting`` and have not started, or that wait for children, or whose event is due, and
        that were not changed since.

        :param created_after: leave out whole days before it, but not ids that others chose.
        """
        text = (
            "(status eq @running and lease_until lt @lapsed and not (children gt 0)"
            " or status eq @running and children gt 0 and updated_at lt @waiting"
            " or status eq @queued and created_at lt @waiting and updated_at lt @waiting"
            " and not (due_at ge @waiting) or event_due eq true and updated_at lt @waiting)"
        )
        values: dict[str, Any] = {
            "lapsed": lapsed,
            "waiting": waiting,
            "running": str(TaskStatus.RUNNING),
            "queued": str(TaskStatus.QUEUED),
        }
        if created_after is not None:
            day = created_after.replace(hour=0, minute=0, second=0, microsecond=0)
            text += " and (RowKey lt @last or RowKey ge @others)"
            values |= {"last": OPEN + first_at(day) + RECORDS_END, "others": OPEN + OTHERS}
        async for each in self._open(Condition(text, values)):
            yield each

    async def _open(self, condition: Condition) -> AsyncIterator[Facts]:
        """The rows of open tasks for which that holds."""
        async for row in all_partitions(self._backend.tables, OPEN, end_of(OPEN), condition):
            yield Facts.stored(row.row_key.removeprefix(OPEN), row.properties)

    async def read_open(self, facts: Facts) -> TaskRecord | None:
        """The record of an open task, without large contents; None if it has changed since, or cannot be
        read."""
        try:
            entity = await self._backend.tables.get(TASK_TABLE, partition_of(facts.key), facts.key)
            record = await self._from_entity(entity, False)
        except KeyNotFoundError:
            return None
        except IntegrityError as error:
            _log.error("task %s is passed over: %s", id_of(facts.key), error)
            return None
        return record if record.updated_at == facts.updated_at else None

    async def expire(self, before: datetime, limit: int) -> int:
        """Remove up to ``limit`` records of tasks that ended before that moment, with their contents,
        and return how many. A child's record stays as long as its parent's, or a requeue of the parent
        would run the child again."""
        return await self._expiry.run(before, limit)

    async def _find(self, task_id: str) -> Entity | None:
        tables, keys, certain = self._backend.tables, record_keys(task_id), self.older.known_to_be_gone
        found: Entity | None = await tables.get(TASK_TABLE, *keys, default=None)
        if found is None and not certain:
            await self.older.fetch(task_id)
            # Also if it was not at its old place: another may just have carried it over, even as the last.
            found = await tables.get(TASK_TABLE, *keys, default=None)
        return found

    async def _exists(self, task_id: str) -> bool:
        if await self.older.get(task_id) is not None:
            return True
        return await self._backend.tables.get(TASK_TABLE, *record_keys(task_id), default=None) is not None

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
            elif name not in LARGE:
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
                f"the record of task {task_id_of(entity)!r} cannot be read: {told(error)}",
                remedy="repair or remove the entity in the task table, or run the version that wrote it",
            ) from error

    async def _read(self, entity: Entity, contents: bool) -> TaskRecord:
        found = entity.properties
        large: dict[str, Any] = {}
        omitted: dict[str, str] = {}
        for name in LARGE:
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


_history = msgspec.json.Decoder(tuple[Attempt, ...])
_NOT_STORED: Final = ("etag", "omitted")
_PLAIN: Final = frozenset(item.name for item in fields(TaskRecord)) - {
    *("status", "priority", "error", "children", "progress", "history"),
    *_NOT_STORED,
    *LARGE,
}


def _fields(record: TaskRecord) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name not in _NOT_STORED}
