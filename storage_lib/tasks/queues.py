"""Which queue a task's message goes to.

A queue takes 2,000 messages a second ("Scalability and performance targets for Queue Storage", Azure
Storage), of which a task needs three. So the tasks of a priority may be spread over several queues, by a hash
of their ids. Any queue may hold the message of any task, as after a change of their number: the record alone
decides what a delivery does.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from storage_lib.arguments import whole
from storage_lib.errors import ConfigurationError, KeyNotFoundError
from storage_lib.tasks.model import TASK_QUEUE, Priority

if TYPE_CHECKING:
    from storage_lib.ports.queues import QueueStore

SETTING: Final = "AGENT_TASK_QUEUES"
MAX_QUEUES: Final = 16
POISON: Final = "-poison"
"""The platform adds this to the name of a queue; the name of its poison queue is not free."""


class TaskQueues:
    """The queues of tasks in use: ``count`` of each priority, and their poison queues.

    :param count: 1 to `MAX_QUEUES`.
    :raises InvalidArgumentError: it is out of range.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = whole("queues", count, 1, MAX_QUEUES)
        numbers = range(1, count + 1)
        self._named = {each: tuple(queue_name(each, number) for number in numbers) for each in Priority}

    def of(self, task_id: str, priority: Priority) -> str:
        """The queue for the messages of a task."""
        return self._named[priority][zlib.crc32(task_id.encode()) % self.count]

    def named(self, priority: Priority) -> tuple[str, ...]:
        """The queues of a priority, without their poison queues."""
        return self._named[priority]

    @property
    def every(self) -> tuple[str, ...]:
        """All of them, each before its poison queue."""
        return tuple(
            name
            for priority in Priority
            for queue in self.named(priority)
            for name in (queue, queue + POISON)
        )

    def instead_of(self, name: str) -> str:
        """The queue in use for what is in another one of `NAMES`: of the same priority, and a poison queue
        for a poison queue."""
        priority, number, ending = _PARTS[name]
        return queue_name(priority, (number - 1) % self.count + 1) + ending


def queue_name(priority: Priority, number: int) -> str:
    """The name of a queue of tasks.

    :param number: from 1, which has no number in its name.
    """
    return priority.queue if number == 1 else f"{priority.queue}-{number}"


async def lengths(queues: QueueStore) -> dict[str, int]:
    """The approximate number of messages in each queue of tasks that a store has, whether in use or not."""
    found: dict[str, int] = {}
    async for name in queues.list_queues(TASK_QUEUE):
        if name in NAMES:
            with contextlib.suppress(KeyNotFoundError):  # It has just been deleted.
                found[name] = await queues.length(name)
    return found


def queue_count(environ: Mapping[str, str] | None = None) -> int:
    """How many queues the tasks of a priority have: ``AGENT_TASK_QUEUES``.

    :raises ConfigurationError: it is not a whole number from 1 to `MAX_QUEUES`.
    """
    text = (os.environ if environ is None else environ).get(SETTING, "").strip()
    if not text:
        return 1
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= MAX_QUEUES:
        return int(text)
    raise ConfigurationError(
        f"{SETTING} is {text[:40]!r}",
        field=SETTING,
        limit=f"a whole number from 1 to {MAX_QUEUES}",
        remedy="set it to one, or remove it: then it is 1",
    )


_PARTS: Final = {
    queue_name(priority, number) + ending: (priority, number, ending)
    for priority in Priority
    for number in range(1, MAX_QUEUES + 1)
    for ending in ("", POISON)
}
NAMES: Final = frozenset(_PARTS)
"""Every queue that tasks can have, whatever their number is now."""
