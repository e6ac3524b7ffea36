"""What an action gets to work with."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from storage_lib.manager import StorageManager
from storage_lib.tasks.model import TaskRecord


@dataclass(frozen=True, slots=True)
class TaskContext:
    """``storage`` to read and write, ``task`` as it was when it was claimed, ``log`` for messages."""

    storage: StorageManager
    task: TaskRecord
    log: logging.Logger
