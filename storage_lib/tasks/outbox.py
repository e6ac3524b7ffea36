"""Publishing the events of ended tasks, at least once each, even if a worker dies in between.

The write that ends a task marks its event as due, and another write removes the mark once the event has
been sent. So a second delivery of the message, or the repair of overdue tasks, publishes an event that
is still due.

Where events are off, nothing is sent and nothing marked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, StorageError
from storage_lib.ports.backend import QueueStore
from storage_lib.tasks.conflicts import Conflicts
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.model import EVENT_QUEUE
from storage_lib.tasks.records import TaskRecords

_log = logging.getLogger("AOS.Tasks")


class Outbox:
    """Sends events to the event queue and records which have been sent.

    :param told: called with each event that was published, or would have been.
    :param sends: whether events are sent.
    :param ttl: seconds after which an event that nobody has taken is dropped; None means never.
    """

    def __init__(
        self,
        records: TaskRecords,
        queues: QueueStore,
        told: Callable[[TaskEvent], None] | None = None,
        *,
        sends: bool = True,
        ttl: float | None = None,
    ) -> None:
        self._records = records
        self._queues = queues
        self._told = told
        self._sends = sends
        self._ttl = ttl

    async def publish(self, events: Iterable[TaskEvent]) -> None:
        """Send events.

        :raises StorageError: one could not be sent; it and those after it are still due.
        """
        for event in events:
            if self._sends:
                await self._queues.send(EVENT_QUEUE, event.to_json().encode(), ttl=self._ttl)
            if self._told is not None:
                self._told(event)
            if not event.due:
                continue
            try:
                await self._note(event)
            except StorageError as error:
                _log.info("the event of task %s is out, and will be again: %s", event.task_id, error)

    async def _note(self, event: TaskEvent) -> None:
        etag = event.etag
        conflicts = Conflicts()
        while True:
            try:
                await self._records.event_is_out(event.task_id, etag)
            except PreconditionFailedError:
                await conflicts.pause()
                try:
                    found = await self._records.get(event.task_id, contents=False)
                except KeyNotFoundError:
                    return
                if not found.event_due or found.finished_at != event.finished_at:
                    return  # Another has noted it, or it is the event of another end that is due.
                etag = found.etag
            except KeyNotFoundError:
                return
            else:
                return
