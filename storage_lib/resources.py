"""Every container, queue and table that the app uses, and that a deployment must declare."""

from __future__ import annotations

from storage_lib.config import DEFAULT_CONTAINER
from storage_lib.tasks.model import (
    EVENT_QUEUE,
    HIGH_POISON_QUEUE,
    HIGH_QUEUE,
    KEY_TABLE,
    POISON_QUEUE,
    TASK_QUEUE,
    TASK_TABLE,
)

CONTAINERS = (DEFAULT_CONTAINER,)
QUEUES = (TASK_QUEUE, POISON_QUEUE, HIGH_QUEUE, HIGH_POISON_QUEUE, EVENT_QUEUE)
TABLES = (TASK_TABLE, KEY_TABLE)
