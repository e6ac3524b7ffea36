"""What is counted and measured of tasks. Imported only where metrics are on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from storage_lib.metrics import Registry
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import outcome_of
from storage_lib.tasks.lease import Lease

OTHER = "_OTHER"
"""Stands for the name of an action that does not exist: a message may name anything."""


class TaskMeasures:
    """The instruments of tasks in a registry. Their tags are actions, outcomes and queues, which are few.

    :param is_action: whether there is an action of this name.
    """

    def __init__(self, registry: Registry, is_action: Callable[[str], bool]) -> None:
        self._is_action = is_action
        self._ended = registry.counter(
            "agent_task.ended", unit="{task}", description="Tasks that ended, by action and status"
        )
        self._runs = registry.histogram(
            "agent_task.run.duration", unit="s", description="Durations of runs, by action and outcome"
        )
        self._waits = registry.histogram(
            "agent_task.wait.duration",
            unit="s",
            description="Seconds between the time that a task is due and its run",
        )
        self._running = registry.updowncounter(
            "agent_task.running", unit="{task}", description="Tasks that run in this process now"
        )
        self._retries = registry.counter(
            "agent_task.retries", unit="{run}", description="Runs that failed and are repeated"
        )
        self._takeovers = registry.counter(
            "agent_task.takeovers", unit="{run}", description="Runs taken over from a worker that is gone"
        )
        self._poison = registry.counter(
            "agent_task.poison.messages", unit="{message}", description="Messages of poison queues, handled"
        )

    async def around(
        self, lease: Lease, queue: str, run: Callable[[], Awaitable[list[TaskEvent]]]
    ) -> list[TaskEvent]:
        """Measure a run."""
        claimed = lease.record
        action = self._action(claimed.action)
        if claimed.history and claimed.history[-1].outcome == "lost" and claimed.attempts > 1:
            self._takeovers.add(1, action)
        elif claimed.started_at is not None:
            due = max(claimed.created_at, claimed.due_at or claimed.created_at)
            self._waits.record(max((claimed.started_at - due).total_seconds(), 0), action)
        self._running.add(1, action)
        began, outcome = time.perf_counter(), "lost"
        try:
            events = await run()
            outcome = outcome_of(claimed, lease.record)
            return events
        finally:
            self._running.add(-1, action)
            self._runs.record(time.perf_counter() - began, {**action, "outcome": outcome})
            if outcome == "retry":
                self._retries.add(1, action)

    def ended(self, event: TaskEvent) -> None:
        """Count the end of a task, as often as its event is published: at least once, seldom twice."""
        self._ended.add(1, {**self._action(event.action), "status": event.status.value})

    def _action(self, name: str) -> dict[str, str]:
        return {"action": name if self._is_action(name) else OTHER}

    def poisoned(self, queue: str) -> None:
        """Count a message of the poison queue of ``queue``."""
        self._poison.add(1, {"queue": queue})
