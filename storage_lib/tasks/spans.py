"""The spans of tasks: one where a task is submitted, one for each run. Imported only where traces are on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from storage_lib import tracing
from storage_lib.tasks.events import TaskEvent
from storage_lib.tasks.history import outcome_of
from storage_lib.tasks.lease import Lease
from storage_lib.tasks.model import TaskRecord, TaskStatus
from storage_lib.tracing import Link, Span, SpanKind

_FAILED = frozenset({TaskStatus.FAILED, TaskStatus.DEAD})


class TaskSpans:
    """Makes spans by the conventions for messaging. The record and the message of a task carry the
    ``traceparent`` of the span that submitted it, and each run is a span in that trace, linked to it."""

    @contextmanager
    def created(
        self, action: str, trace_parent: str | None, task_id: str, queue: str
    ) -> Generator[str | None]:
        """The span of a submission, in the current trace, or in that of the task's own ``trace_parent`` if
        that is another. Yields the ``traceparent`` that the task is to carry."""
        given = tracing.parent(trace_parent)
        remote, here = tracing.span_context(given), tracing.current()
        if remote is not None and here is not None and remote.trace_id == here.trace_id:
            given = None
        attributes = {
            "messaging.operation.name": "create",
            "messaging.operation.type": "create",
            "messaging.destination.name": queue,
            "messaging.message.id": task_id,
            "agent_storage.task.action": action,
        }
        span = tracing.start(f"create {queue}", SpanKind.PRODUCER, attributes, within=given)
        with tracing.entered(span):
            # Also of one that records nothing: those who go on with its trace record nothing either.
            yield tracing.traceparent_of(span) if span.get_span_context().is_valid else trace_parent

    async def around(
        self, lease: Lease, queue: str, run: Callable[[], Awaitable[list[TaskEvent]]]
    ) -> list[TaskEvent]:
        """A span around a run. It has failed if the run has."""
        record, here = lease.record, tracing.current()
        submitted = tracing.parent(record.trace_parent)
        # The platform has a span of its own for the delivery, of which this is a part.
        kind = SpanKind.INTERNAL if here is not None and here.is_remote else SpanKind.CONSUMER
        attributes: dict[str, str | int | bool] = {
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": record.task_id,
            "agent_storage.task.action": record.action,
            "agent_storage.task.attempt": record.attempts,
        }
        submitter = tracing.span_context(submitted)
        linked = [submitter, None if tracing.is_same(submitter, here) else here]
        links = [Link(each) for each in linked if each is not None]
        span = tracing.start(f"process {queue}", kind, attributes, within=submitted, links=links)
        with tracing.entered(span):
            events = await run()
            _conclude(span, record, lease.record)
            return events


def _conclude(span: Span, claimed: TaskRecord, record: TaskRecord) -> None:
    outcome = outcome_of(claimed, record)
    span.set_attribute("agent_storage.task.outcome", outcome)
    if record.error is not None and outcome not in ("succeeded", "waiting"):
        span.set_attribute("error.type", record.error.code)
    if record.status in _FAILED or outcome == "retry":
        code = record.error.code if record.error is not None else outcome
        span.set_status(tracing.failed(code))
