"""Fan-out and join: a task with children ends when the last of them has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import noted
from storage_lib.tasks.model import Children, TaskError, TaskMessage, TaskRecord, TaskStatus, child_task_id
from storage_lib.tasks.records import TaskRecords, TaskRemovedError

_log = logging.getLogger("AOS.Tasks")

MAX_NAMED = 100
"""How many failed children are named in the parent's result; the rest are counted."""


NOTE_PAUSE = timedelta(seconds=1)
"""Between two notes of the process in a parent's record about how many of its children have ended."""
_NEVER = datetime.min.replace(tzinfo=UTC)
MAX_KEPT = 1000
CONCURRENT_LOOKS = 4
"""At one parent, in this process."""


class Joins:
    """Ends tasks whose children have ended. The records of the children tell, not a counter that all of them
    would have to change; the one that ends the parent changes its record on a condition, so only one does.
    """

    def __init__(self, records: TaskRecords, now: Callable[[], datetime], lease: timedelta) -> None:
        self._records = records
        self._patience = lease / 2
        self._now = now
        self._looks = Shared[tuple[TaskRecord | None, bool]](concurrent=CONCURRENT_LOOKS)
        """By parent: children that end here at the same time look together."""
        self._reads = Shared[TaskRecord](concurrent=CONCURRENT_LOOKS)
        """By id: children that begin here at the same time read their parent together."""
        self._totals: dict[str, int] = {}
        """By parent: how many children it waits for, as last seen."""
        self._noted: dict[str, datetime] = {}
        """By parent: when its record was last told how far it is."""
        self._fences: dict[str, int] = {}
        """By parent: its fencing token, as last seen."""
        self._here: dict[str, set[str]] = {}
        """By parent: the tasks that run here and look at its children when they have ended: those children,
        and the parent itself."""
        self._left: dict[str, TaskRecord] = {}
        """By parent: a child that has left its look to these."""

    async def around(
        self, record: TaskRecord, run: Callable[[], Awaitable[list[TaskEvent]]]
    ) -> list[TaskEvent]:
        """Run a task. Of the children of one parent that run here at the same time the last looks for all."""
        families = [each for each in (record.parent_id, record.task_id) if each is not None]
        if record.fence > 1:
            _keep(self._fences, record.task_id, record.fence)
        for family in families:
            self._here.setdefault(family, set()).add(record.task_id)
        left: list[TaskRecord | None] = []
        try:
            events = await run()
        finally:
            left += [self._leave(family, record.task_id) for family in families]
        for child in left:
            if child is not None:  # This run has not looked: another host took its task over.
                events = events + await self.child_ended(child)
        return events

    def _leave(self, family: str, task_id: str) -> TaskRecord | None:
        """Count no longer on a task that runs here. If it was the last, the child that has left its look."""
        here = self._here.get(family, set())
        here.discard(task_id)
        if here:
            return None
        self._here.pop(family, None)
        return self._left.pop(family, None)

    def _may_leave(self, parent_id: str) -> bool:
        """Whether a task that still runs here will look at the children of that parent, so that nobody need
        look now. Nobody waits for children that only an earlier run submitted: they are not relied on."""
        here = self._here.get(parent_id)
        if here is None or self._fences.get(parent_id) != 1:
            return False
        # A parent that waits is to tell how far it is, once a second.
        return parent_id not in self._totals or self._noted.get(parent_id, _NEVER) > self._now() - NOTE_PAUSE

    async def check_parent(self, message: TaskMessage) -> None:
        """:raises InvalidArgumentError: its parent has not submitted it: another time is in its id, or it is
        of a run of its parent that there was not yet."""
        if message.parent_id is None or message.child_index is None:
            return
        try:
            parent = await self._records.get(message.parent_id, contents=False)
        except KeyNotFoundError:
            return
        if message.task_id != child_task_id(parent.task_id, parent.created_at, message.child_index):
            raise InvalidArgumentError(
                f"task_id {message.task_id!r} is not that of a child of its parent_id", field="parent_id"
            )
        if (message.parent_fence or 0) > parent.fence:
            raise InvalidArgumentError(
                f"parent_fence {message.parent_fence} is of no run of the parent",
                field="parent_fence",
                limit=f"{parent.fence}",
            )

    def look_ahead(self, message: TaskMessage) -> asyncio.Task[TaskRecord] | None:
        """Begin to read the parent of a task that is about to run, for `parent_is_gone`."""
        parent_id = message.parent_id
        return None if parent_id is None else self._reads.begin(parent_id, partial(self._parent, parent_id))

    async def parent_is_gone(self, child: TaskRecord, ahead: asyncio.Task[TaskRecord] | None = None) -> bool:
        """Whether a child need not run, because a task above it was cancelled or asked to stop, or
        because its parent has ended in another way, unless the child itself was requeued since.

        :param ahead: what reads its parent already.
        """
        above = child
        seen = {child.task_id}
        while above.parent_id is not None and above.parent_id not in seen:  # as a damaged record may be
            seen.add(above.parent_id)
            try:
                if above is not child or ahead is None:
                    ahead = self._reads.begin(above.parent_id, partial(self._parent, above.parent_id))
                parent = await asyncio.shield(ahead)
            except TaskRemovedError:
                return above is child and not child.requeue_fence  # It had ended.
            except KeyNotFoundError:
                return False
            if parent.cancel_requested or parent.status is TaskStatus.CANCELLED:
                return True
            if above is child and parent.is_final and not child.requeue_fence:
                return True
            above = parent
        return False

    async def child_ended(
        self, child: TaskRecord, *, again: bool = False, below: frozenset[str] = frozenset()
    ) -> list[TaskEvent]:
        """Look whether a child was the last to end. Returns the event of the parent if that ended it, and so
        on upwards.

        :param again: also return the events of parents that have already ended and may not have been sent,
            because the worker that ended them may have died.
        :param below: the tasks whose ends led here. None of them is above, except in damaged records.
        """
        parent_id = child.parent_id
        if parent_id is None or child.child_index is None or child.task_id in below:
            return []
        self._leave(parent_id, child.task_id)
        if not again and self._may_leave(parent_id):
            self._left[parent_id] = child
            return []
        try:
            (parent, ended), ours = await self._looks.call(
                f"{parent_id} {again}", lambda: self._look(child, parent_id, patient=not again)
            )
            if parent is None and again:
                parent = await self._parent(parent_id)
        except KeyNotFoundError:
            return []
        except IntegrityError as error:
            _log.error("the end of task %s cannot be counted: %s", child.task_id, error)
            return []
        if parent is None or not parent.is_final or (ended and not ours):
            return []
        # The worker that ended it before may have died at once; its own parent must know.
        due = again and parent.event_due and parent.children is not None and parent.children.all_done
        events = [TaskEvent.of(parent)] if ended or due else []
        return events + await self.child_ended(parent, again=again, below=below | {child.task_id})

    async def _look(
        self, child: TaskRecord, parent_id: str, *, patient: bool
    ) -> tuple[TaskRecord | None, bool]:
        """The parent, None if other children are open, and whether it ended now.

        The child that ends last sees that all others have ended, because each looks after its own end is
        written.
        """
        parent = None
        if parent_id not in self._totals:
            parent = await asyncio.shield(self._reads.begin(parent_id, partial(self._parent, parent_id)))
            if not parent.is_waiting:
                return parent, False  # It looks itself when it begins to wait.
        if await self._records.has_open_child(parent_id, child.task_id, self._totals.get(parent_id)):
            now = self._now()
            if self._noted.get(parent_id, _NEVER) > now - NOTE_PAUSE:
                return None, False
            _keep(self._noted, parent_id, now)
        parent = parent or await self._parent(parent_id)
        ended = await self._ended(parent, patient=patient)
        return ended or parent, ended is not None

    async def _parent(self, parent_id: str) -> TaskRecord:
        parent = await self._records.get(parent_id, contents=False)
        _keep(self._fences, parent_id, parent.fence)
        if parent.children is not None and parent.children.total:
            _keep(self._totals, parent_id, parent.children.total)
        else:
            self._totals.pop(parent_id, None)
        return parent

    async def complete(self, parent: TaskRecord) -> list[TaskEvent]:
        """End a waiting task if all its children have ended. Its event, and those of its own parents."""
        self._leave(parent.task_id, parent.task_id)
        ended = await self._ended(parent)
        return [] if ended is None else [TaskEvent.of(ended), *await self.child_ended(ended)]

    async def _ended(self, parent: TaskRecord, *, patient: bool = False) -> TaskRecord | None:
        """End a waiting task if the records of its children say that all have ended. If not, its own record
        gets to know which have.

        :param patient: leave it to another who has just noticed that all have.
        """
        conflicts = Conflicts()
        while parent.is_waiting:
            children, _ = await self._records.children_of(parent)
            if not children.all_done:
                await self._note(parent, children)
                return None
            found = parent
            if "result" in parent.omitted:
                # Of several who notice at the same time one goes on, and loads it.
                if parent.children is None or not parent.children.all_done:
                    try:
                        parent = await self._records.change(parent, children=children, updated_at=self._now())
                    except PreconditionFailedError:
                        await conflicts.pause()
                        parent = await self._parent(parent.task_id)
                        continue
                elif patient and parent.updated_at > self._now() - self._patience:
                    return None
                found = await self._records.get(parent.task_id)
                if not found.is_waiting or found.fence != parent.fence:
                    return None  # Another child's end was faster, or it was cancelled.
            now = self._now()
            try:
                return await self._records.change(
                    found,
                    children=children,
                    finished_at=now,
                    event_due=True,
                    updated_at=now,
                    **_outcome(replace(found, children=children), now),
                )
            except PreconditionFailedError:
                await conflicts.pause()
                parent = await self._parent(parent.task_id)
        return None

    async def _note(self, parent: TaskRecord, children: Children) -> None:
        """Those who look at the record see how far it is."""
        if children != parent.children:
            with contextlib.suppress(PreconditionFailedError, KeyNotFoundError):  # Another did.
                await self._records.change(parent, children=children, updated_at=self._now())


def _keep[T](kept: dict[str, T], task_id: str, value: T) -> None:
    kept.pop(task_id, None)
    kept[task_id] = value
    if len(kept) > MAX_KEPT:
        del kept[next(iter(kept))]


def _outcome(parent: TaskRecord, now: datetime) -> dict[str, Any]:
    if parent.cancel_requested:  # while it ran, but it started to wait nevertheless
        return {"status": TaskStatus.CANCELLED, "history": noted(parent, now, "cancelled")}
    children = parent.children or Children(0)
    failed = [n for n in range(children.total) if children.failed >> n & 1]
    summary = {
        "total": children.total,
        "succeeded": children.total - len(failed),
        "failed": [child_task_id(parent.task_id, parent.created_at, n) for n in failed[:MAX_NAMED]],
    }
    changes: dict[str, Any] = {"result": {"result": parent.result, "children": summary}}
    if not failed:
        return changes | {"status": TaskStatus.SUCCEEDED, "error": None}
    error = TaskError("children-failed", f"{len(failed)} of {children.total} children did not succeed")
    return changes | {"status": TaskStatus.FAILED, "error": error}


class Shared[T]:
    """By key: a few calls at a time, and one for all who come while these run. It begins after they have
    come, so it sees what they did before.

    :param concurrent: how many run at a time. More are sooner done, and shared by fewer.
    """

    def __init__(self, concurrent: int) -> None:
        self._concurrent = concurrent
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._next: dict[str, asyncio.Task[T]] = {}

    async def call(self, key: str, function: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of a call that begins from now on, and whether it is of this ``function``."""
        joined = self._next.get(key)
        if joined is not None:
            return await asyncio.shield(joined), False
        return await asyncio.shield(self.begin(key, function)), True

    def begin(self, key: str, function: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """A call that begins from now on. Its error need not be seen; whoever awaits it shields it."""
        joined = self._next.get(key)
        if joined is not None:
            return joined
        turn = self._turns.setdefault(key, asyncio.Semaphore(self._concurrent))

        async def run() -> T:
            async with turn:
                del self._next[key]
                return await function()

        running = self._next[key] = asyncio.create_task(run())
        running.add_done_callback(_seen)
        return running


def _seen[T](task: asyncio.Task[T]) -> None:
    """Nobody may be left to see an error: all who waited were cancelled."""
    if not task.cancelled():
        task.exception()
