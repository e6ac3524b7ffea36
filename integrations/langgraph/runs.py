"""What a saver knows of the runs that go on from its checkpoints: what each has seen, given and begun."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import UUID, uuid5

from storage_lib import Entity

type Place = tuple[str, str]
"""A partition, and the row of a checkpoint in it; or the partition of a thread, and a namespace."""

STEPS = 16
"""Of a run, which are remembered for what comes late."""
_REMEMBERED = 16_384
_MARKED = 256
_NULL_TASK = "00000000-0000-0000-0000-000000000000"
"""Under which LangGraph stores what a `Command` writes: in addition to what an earlier one has written."""
_TURNS = 8
"""Of the event loop, after which LangGraph has begun the next write that waited for one."""

older_read: ContextVar[tuple[Place, ...]] = ContextVar("older_read", default=())
"""Checkpoints that this run, or its caller, has read when they had a successor: going on there means to fork.
It does not for another run of the same saver, which has read the same one as the newest."""


class Seen:
    """What a run knows of the writes at the checkpoint that it goes on from."""

    def __init__(self, run: str, writes: Iterable[Entity] = ()) -> None:
        self.run = run
        self.etags = {row.row_key: row.etag for row in writes}
        self.runs = {run} | {by for row in writes if (by := row.properties.get("by"))}
        """Those whose writes its next checkpoint continues."""
        self.others = {row.row_key for row in writes if row.properties.get("by") != run}
        self.is_lost = False
        """Another run has written something else for one of its tasks."""
        self.is_over = False


seen_by: ContextVar[dict[tuple[str, Place], Seen]] = ContextVar("seen")
"""By saver and place. A dict for each run, which the tasks of the run share."""


def run_id() -> str:
    return os.urandom(6).hex()


def note(seen: dict[tuple[str, Place], Seen]) -> None:
    """In a dict of its own: other runs may have begun in this context, too."""
    seen_by.set(dict([*seen_by.get({}).items()][-STEPS:]) | seen)


def mark(place: Place | None, is_older: bool) -> None:
    if place is None or (place in (before := older_read.get())) is is_older:
        return
    rest = tuple(each for each in before if each != place)
    older_read.set((*rest, place)[-_MARKED:] if is_older else rest)


def is_given(task: str, checkpoint: str | None) -> bool:
    """Whether LangGraph stores under this task what a run was given, and not what a node of it has made."""
    return task == _NULL_TASK or (checkpoint is not None and is_input(task, checkpoint))


def is_input(task: str, checkpoint: str) -> bool:
    """Whether LangGraph stores under this task what a run was given for its delta channels."""
    if task[14:15] != "5":  # The version of its UUID is told before one is made.
        return False
    try:
        return task == str(uuid5(UUID(checkpoint), "__input__"))
    except ValueError:
        return False


class Underway:
    """The writes that have begun here and not ended. A run that is cancelled at its end leaves some behind:
    LangGraph no longer waits for them. A run that is begun in its place goes on from what they make."""

    def __init__(self) -> None:
        self._writes: dict[tuple[int, Place], set[asyncio.Future[None]]] = {}
        """By the event loop, and the thread and namespace."""

    @contextmanager
    def write(self, place: Place) -> Generator[None]:
        """Within it, something is written to this thread and namespace."""
        loop = asyncio.get_running_loop()
        key, ended = (id(loop), place), loop.create_future()
        writes = self._writes.setdefault(key, set())
        writes.add(ended)
        try:
            yield
        finally:
            ended.set_result(None)
            writes.remove(ended)
            if not writes:
                del self._writes[key]

    async def ended(self, place: Place) -> None:
        """Wait for those of a thread and namespace, and for a few that follow them at once."""
        key = id(asyncio.get_running_loop()), place
        for _ in range(STEPS):
            if not (writes := self._writes.get(key)):
                return
            await asyncio.wait(writes)
            for _ in range(_TURNS):
                await asyncio.sleep(0)


class Recent[Key, Value]:
    """A bounded memory: what was used least recently is forgotten."""

    def __init__(self) -> None:
        self._items = OrderedDict[Key, Value]()
        self._lock = threading.Lock()

    def __setitem__(self, key: Key, value: Value) -> None:
        with self._lock:  # Calls without async come from any thread.
            self._items[key] = value
            self._items.move_to_end(key)
            if len(self._items) > _REMEMBERED:
                self._items.popitem(last=False)

    def __getitem__(self, key: Key) -> Value:
        return self._items[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def get[Default](self, key: Key, default: Default = None) -> Value | Default:
        return self._items.get(key, default)

    def pop(self, key: Key) -> None:
        with self._lock:
            self._items.pop(key, None)
