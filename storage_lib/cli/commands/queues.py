"""``queues``: messages that wait."""

from typing import Annotated, Any

import typer

from storage_lib.cli.amounts import duration
from storage_lib.cli.command import Run, command, group
from storage_lib.cli.local_files import all_of_stdin
from storage_lib.cli.text import count_text, printable, time_text

app = group("queues", "Queues of messages.")

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Such as agent-tasks or agent-tasks-poison.")]


@command(app, "list", json=True)
async def list_queues(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only names that begin so.")] = "",
) -> None:
    """Write the names of queues, and what of the library those belong to that are not its users'."""
    from storage_lib.reserved_names import owner_of_queue

    async with run.open() as storage:
        names = await storage.list_queues(prefix)
    run.out.each(
        names,
        ("QUEUE", "OF"),
        lambda name: (name, owner) if (owner := owner_of_queue(name)) else (name,),
        lambda name: {"name": name, "owner": owner_of_queue(name)},
    )


@command(app, "peek", json=True)
async def peek(
    run: Run,
    queue: Queue,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=32, help="How many.")] = 1,
) -> None:
    """Show messages without taking them.

    A line has id, how often it was delivered, when it was sent, and the body. Hidden ones are not seen.
    """
    async with run.open() as storage:
        found = await storage.backend.queues.peek(queue, max_messages=count)
    run.out.each(
        found,
        ("ID", "DELIVERED", "SENT", "BODY"),
        lambda each: (
            each.id,
            str(each.dequeue_count),
            time_text(each.inserted_at),
            _shown(each.body, each.text),
        ),
        lambda each: {
            "id": each.id,
            "dequeue_count": each.dequeue_count,
            "inserted_at": each.inserted_at,
            "expires_at": each.expires_at,
            **_body(each.body, each.text),
        },
    )


def _body(body: bytes | None, text: str) -> dict[str, Any]:
    """As text if it is some; else ``base64``. What is in another encoding is shown as it is sent."""
    if body is None:
        return {"text": text}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"base64": body}


def _shown(body: bytes | None, text: str) -> str:
    try:
        return text if body is None else body.decode()
    except UnicodeDecodeError:
        return repr(body)


@command(app, "length", json=True)
async def length(
    run: Run,
    queue: Annotated[
        str | None, typer.Argument(metavar="QUEUE", help="By default those of tasks, and their sum.")
    ] = None,
) -> None:
    """Write how many messages there are.

    Hidden ones are counted; on Azure it is an approximation, never too low.
    """
    if queue is None:
        await _lengths(run)
        return
    async with run.open() as storage:
        count = await storage.backend.queues.length(queue)
    run.out.answer({"queue": queue, "length": count}, str(count))


async def _lengths(run: Run) -> None:
    from storage_lib.tasks.queues import lengths

    async with run.open() as storage:
        found = await lengths(storage.backend.queues)
    total = sum(found.values())
    if run.out.as_json:
        run.out.document({"queues": found, "length": total})
    else:
        rows = [(queue, str(count)) for queue, count in (*found.items(), ("together", total))]
        run.out.table(("QUEUE", "MESSAGES"), rows)


@command(app, "send", json=True)
async def send(
    run: Run,
    queue: Queue,
    body: Annotated[str, typer.Argument(metavar="BODY", help="The text of the message; - is stdin.")] = "-",
    delay: Annotated[
        str, typer.Option("--delay", metavar="TIME", help="When it can be received: 90 (seconds), 15m.")
    ] = "0",
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="TIME", help="When it is dropped unread; by default never.")
    ] = None,
) -> None:
    """Send a message. The queue is created if there is none."""
    data = all_of_stdin() if body == "-" else body
    lifetime = None if ttl is None else duration(ttl)
    async with run.open(creating=True) as storage:
        sent = await storage.backend.queues.send(queue, data, delay=duration(delay), ttl=lifetime)
    run.out.answer({"queue": queue, "id": sent}, sent)


@command(app, "clear", json=True, yes=True)
async def clear(run: Run, queue: Queue) -> None:
    """Remove every message, after a confirmation."""
    async with run.open() as storage:
        count = await storage.backend.queues.length(queue)
        run.confirm(f"Remove {count_text(count, 'message')} from {printable(queue)}?")
        await storage.backend.queues.clear(queue)
    run.out.answer({"queue": queue, "cleared": count})
    run.note(f"Removed {count_text(count, 'message')}.")
