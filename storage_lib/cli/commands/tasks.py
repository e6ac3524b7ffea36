"""``tasks``: submit them, follow them, stop them."""

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import duration, json_value, moment
from storage_lib.cli.command import Run, command, group
from storage_lib.cli.commands.task_access import tasks_of
from storage_lib.cli.exits import EndError, Exit, is_terminal, say, warn
from storage_lib.cli.text import printable, time_text
from storage_lib.tasks.record_json import record_fields

if TYPE_CHECKING:
    from storage_lib.tasks.model import TaskRecord

app = group("tasks", "Tasks of the app that serves the store.")

_FIRST_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 1.0


class Priority(StrEnum):
    NORMAL = "normal"
    HIGH = "high"


TaskId = Annotated[str, typer.Argument(metavar="ID", help="Of the task.")]
CorrelationId = Annotated[str | None, typer.Option("--correlation-id", metavar="ID")]
TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Of the tasks.")]
Timeout = Annotated[
    str | None, typer.Option("--timeout", metavar="TIME", help="Follow it no longer: 90 (seconds), 15m.")
]


SomeIds = Annotated[
    list[str] | None, typer.Argument(metavar="[ID...]", help="Of the tasks; without, those of the filters.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, and write which there are.")]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which tasks are meant; without any, all."""

    status: Annotated[
        str | None,
        typer.Option(
            "--status", help="queued, running, succeeded, failed, cancelled or dead; several with commas."
        ),
    ] = None
    agent: Annotated[str | None, typer.Option("--agent", "-a", metavar="ID", help="Those of an agent.")] = (
        None
    )
    action: Annotated[str | None, typer.Option("--action", metavar="ACTION", help="Those of an action.")] = (
        None
    )
    parent: Annotated[str | None, typer.Option("--parent", metavar="ID", help="The children of a task.")] = (
        None
    )
    correlation_id: CorrelationId = None
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Submitted within 2h, or since 2026-11-25.")
    ] = None
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Submitted before it.")] = None

    def given(self) -> dict[str, Any]:
        """Those that are given, by the names of `TaskFilters`."""
        found: dict[str, Any] = {
            "status": None if self.status is None else [each.strip() for each in self.status.split(",")],
            "agent_id": self.agent,
            "action": self.action,
            "parent_id": self.parent,
            "correlation_id": self.correlation_id,
            "created_after": moment(self.since, "--since"),
            "created_before": moment(self.until, "--until"),
        }
        return {name: value for name, value in found.items() if value is not None}


@command(app, "submit", json=True)
async def submit(
    run: Run,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="Such as analyze_report.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="JSON; @FILE and - read it from a file or stdin.")
    ] = "null",
    agent: Annotated[
        str, typer.Option("--agent", "-a", metavar="ID", help="The agent that it belongs to.")
    ] = "cli",
    once: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key is the same task.")
    ] = None,
    delay: Annotated[
        str, typer.Option("--delay", metavar="TIME", help="It does not run before: 90 (seconds), 15m.")
    ] = "0",
    priority: Annotated[Priority, typer.Option("--priority", help="high has a queue of its own.")] = (
        Priority.NORMAL
    ),
    correlation_id: Annotated[str | None, typer.Option("--correlation-id", metavar="ID")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow it to its end, as watch does.")] = False,
    timeout: Timeout = None,
) -> None:
    """Submit a task and write its id.

    The app that serves the store runs it.
    """
    from storage_lib.tasks.model import Priority as TaskPriority
    from storage_lib.tasks.submission import NewTask

    task = NewTask(
        action=action,
        agent_id=agent,
        payload=json_value(payload, "PAYLOAD"),
        correlation_id=correlation_id,
        idempotency_key=once,
        delay_seconds=duration(delay),
        priority=TaskPriority(priority.value),
    )
    async with tasks_of(run, creating=True) as tasks:
        record = await tasks.submit_new(task)
        if not wait:
            run.out.answer(record_fields(record), record.task_id)
            return
        run.note(f"Task {record.task_id}")
        await _follow(run, tasks, [record.task_id], timeout)


@command(app, "list", json=True)
async def list_tasks(
    run: Run,
    filters: Filters,
    once: Annotated[str | None, typer.Option("--idempotency-key", metavar="KEY")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="No more tasks.")] = 50,
) -> None:
    """List tasks, newest first.

    A line has id, status, action, agent, time and, if the task failed, why.
    """
    chosen = filters.given()
    if once is not None:
        chosen["idempotency_key"] = once
    rows: list[tuple[str, ...]] = []
    count, cursor, unreadable = 0, None, 0
    async with tasks_of(run) as tasks:
        while count < limit:
            page = await tasks.list(limit=min(limit - count, 1000), cursor=cursor, **chosen)
            for record in page.records:
                if run.out.as_json:
                    run.out.item(record_fields(record))
                else:
                    rows.append(_row(record))
            count += len(page.records)
            unreadable += len(page.unreadable)
            if (cursor := page.cursor) is None:
                break
    if rows:
        run.out.table(("ID", "STATUS", "ACTION", "AGENT", "CREATED", "ERROR"), rows)
    if cursor is not None:
        run.note(f"There are more; --limit shows more than {limit}.")
    if unreadable:
        warn(f"{unreadable} records are damaged and left out")


def _row(record: "TaskRecord") -> tuple[str, ...]:
    error = "" if record.error is None else f"{record.error.code}: {record.error.message}"
    return (
        record.task_id,
        record.status.value,
        record.action,
        record.agent_id,
        time_text(record.created_at),
        error[:200],
    )


@command(app, "show", json=True)
async def show(run: Run, task_id: TaskId) -> None:
    """Show a task.

    That is its payload, result or error, progress, times and attempts.
    """
    async with tasks_of(run) as tasks:
        record = await tasks.get(task_id)
    fields = record_fields(record)
    if run.out.as_json:
        run.out.document(fields)
        return
    for name, value in fields.items():
        if value is None or value == ():
            continue
        title = name.replace("_", " ")
        if name == "history":
            for attempt in record.history:
                run.out.line(f"attempt {attempt.number}: {run.out.json(attempt)}")
        elif isinstance(value, datetime):
            run.out.line(f"{title}: {time_text(value)}")
        elif name == "error":
            run.out.line(f"{title}: {printable(f'{value["code"]}: {value["message"]}')}")
            if value["traceback"]:
                run.out.line(value["traceback"].rstrip("\n"))
        else:
            run.out.line(f"{title}: {printable(value if isinstance(value, str) else run.out.json(value))}")


@command(app, "watch", json=True)
async def watch(run: Run, task_ids: TaskIds, timeout: Timeout = None) -> None:
    """Follow tasks to their end.

    Each change is written. The exit code is 1 if one does not succeed, and 5 if one has not ended in time.
    """
    async with tasks_of(run) as tasks:
        await _follow(run, tasks, task_ids, timeout)


async def _follow(run: Run, tasks: Any, task_ids: list[str], timeout: str | None) -> None:
    until = None if timeout is None else time.monotonic() + duration(timeout)
    seen: dict[str, Any] = {}
    failed = False
    waiting = list(dict.fromkeys(task_ids))
    pause = _FIRST_POLL_SECONDS
    while True:
        for task_id in list(waiting):
            record = await tasks.get(task_id)
            state = (record.status, record.attempts, record.progress, record.children)
            if seen.get(task_id) != state:
                seen[task_id] = state
                pause = _FIRST_POLL_SECONDS
                _changed(run, record)
            if record.is_final:
                waiting.remove(task_id)
                failed = failed or record.status != "succeeded"
        run.out.flush()
        if not waiting:
            break
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            say(f"error: {', '.join(waiting)} has not ended within {timeout}", lines=True)
            raise EndError(Exit.UNAVAILABLE)
        await asyncio.sleep(pause if left is None else min(pause, left))
        pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)
    if failed:
        raise EndError(Exit.FAILED)


def _changed(run: Run, record: "TaskRecord") -> None:
    if run.out.as_json:
        run.out.item(record_fields(record))
        return
    more = ""
    if record.error is not None:
        more = f"{record.error.code}: {record.error.message}"
    elif record.is_final and record.result is not None:
        more = run.out.json(record.result)
    elif record.is_waiting and record.children is not None:
        more = f"{record.children.done.bit_count()} of {record.children.total} children have ended"
    elif record.progress is not None:
        more = run.out.json(record.progress)
    cells = [time_text(record.updated_at), record.task_id, record.status.value, printable(more)]
    run.out.line(("  " if run.out.is_terminal else "\t").join(cells).rstrip())


@command(app, "cancel", json=True)
async def cancel(run: Run, filters: Filters, task_ids: SomeIds = None, dry_run: DryRun = False) -> None:
    """Cancel tasks.

    One that has not started never will; a running one is asked to stop.
    """
    await _change(run, "cancel", task_ids, filters.given(), dry_run)


@command(app, "requeue", json=True)
async def requeue(run: Run, filters: Filters, task_ids: SomeIds = None, dry_run: DryRun = False) -> None:
    """Run ended tasks again.

    They have failed, were cancelled or are dead, and keep their history. Of those that filters find,
    cancelled ones run again only if --status names them.
    """
    await _change(run, "requeue", task_ids, filters.given(), dry_run)


async def _change(
    run: Run, how: str, task_ids: list[str] | None, filters: dict[str, Any], dry_run: bool
) -> None:
    if task_ids and (filters or dry_run):
        raise typer.BadParameter("give the ids of tasks, or filters, and not both")
    if not task_ids and not filters:
        raise typer.BadParameter("give the ids of tasks, or a filter such as --agent")
    async with tasks_of(run) as tasks:
        for task_id in task_ids or ():
            with run.several(task_id, len(task_ids or ())):
                _changed_by(run, await getattr(tasks, how)(task_id))
        cursor: str | None = ""
        while filters and cursor is not None:
            found = await getattr(tasks, f"{how}_matching")(
                limit=1000, cursor=cursor or None, dry_run=dry_run, **filters
            )
            for task_id, state in found.changed:
                if run.out.as_json:
                    run.out.item({"task_id": task_id, "status": state, "dry_run": dry_run})
                else:
                    run.out.line(f"{task_id}\t{state.value}")
            for task_id, error in found.failed:
                with run.several(task_id, 2):
                    raise error
            cursor = found.cursor


@command(app, "counts", json=True)
async def counts(
    run: Run,
    filters: Filters,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="Count no state further.")
    ] = 1000,
) -> None:
    """Count tasks by their states.

    A state of which there may be more than --limit has a + behind its number.
    """
    async with tasks_of(run) as tasks:
        found = await tasks.count(limit=limit, **filters.given())
    if run.out.as_json:
        run.out.document(
            {"counts": found.counts, "counted_up_to": found.counted_up_to, "at_least": found.at_least}
        )
        return
    for name, count in found.counts.items():
        run.out.line(f"{name}\t{count}{'+' if name in found.at_least else ''}")


@command(app, "delete", json=True)
async def delete(run: Run, task_ids: TaskIds) -> None:
    """Delete the records of ended tasks.

    With their payloads and results. What they did stays.
    """
    async with tasks_of(run) as tasks:
        for task_id in task_ids:
            with run.several(task_id, len(task_ids)):
                await tasks.delete(task_id)
                if run.out.as_json:
                    run.out.item({"task_id": task_id, "deleted": True})


@command(app, "actions", json=True)
async def actions(run: Run) -> None:
    """List what tasks can do.

    A line has name and description; --json also has the payload's JSON Schema.
    """
    async with tasks_of(run) as tasks:
        for each in await tasks.actions():
            if run.out.as_json:
                run.out.item(each)
            else:
                run.out.line(f"{each['name']}\t{printable(each['description'])}")


def _changed_by(run: Run, record: "TaskRecord") -> None:
    if run.out.as_json:
        run.out.item(record_fields(record))
    elif is_terminal(sys.stderr):
        asked = " (asked to stop)" if record.cancel_requested and not record.is_final else ""
        say(f"Task {record.task_id} is {record.status.value}{asked}.")
