"""Every container, queue and table that the app uses, and that a deployment must declare."""

from __future__ import annotations

from storage_lib.config import DEFAULT_CONTAINER
from storage_lib.tasks.model import EVENT_QUEUE, KEY_TABLE, TASK_TABLE
from storage_lib.tasks.queues import TaskQueues

CONTAINERS = (DEFAULT_CONTAINER,)
TABLES = (TASK_TABLE, KEY_TABLE)


def queues(count: int = 1) -> tuple[str, ...]:
    """The queues.

    :param count: how many the tasks of each priority have.
    """
    return (*TaskQueues(count).every, EVENT_QUEUE)
