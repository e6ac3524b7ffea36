"""The tasks of a store: of one that is opened here, or through an app."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from storage_lib.cli.command import Run

if TYPE_CHECKING:
    from storage_lib.tasks.registry import Registry

ACTIONS = "actions"
"""The app's own, where its code is installed or the program runs in its folder."""


def registry() -> "Registry":
    """The actions that are known here."""
    from importlib.util import find_spec

    from storage_lib.tasks.registry import Registry

    named = [name.strip() for name in os.environ.get("AGENT_TASK_MODULES", "").split(",")]
    own = [ACTIONS] if find_spec(ACTIONS) is not None else []
    return Registry([*own, *filter(None, named)])


@asynccontextmanager
async def tasks_of(run: Run, *, creating: bool = False) -> AsyncGenerator[Any]:
    """A `TaskEngine`, or what has its methods for an app.

    :param creating: as for `Run.open`.
    """
    if run.is_remote:
        from storage_lib.tasks.remote import RemoteTasks

        async with RemoteTasks.of(run.config) as tasks:
            yield tasks
        return
    from storage_lib.tasks.engine import TaskEngine
    from storage_lib.tasks.queues import queue_count

    objects = os.environ.get("AGENT_TASK_PAYLOADS", "").lower() == "objects"
    events = os.environ.get("AGENT_TASK_EVENTS", "").strip().lower() in ("true", "1", "on")
    async with run.open(creating=creating) as storage:
        yield TaskEngine(
            storage, registry(), payloads_as_objects=objects, events=events, queues=queue_count()
        )
