"""``conversations``: list, show, append to, fork, export and delete them."""

import json
import os
import sys
from typing import Annotated, Any

import msgspec
import typer

from storage_lib.cli.command import Run, command, group
from storage_lib.cli.interrupts import interruptible
from storage_lib.cli.text import count_text, time_text
from storage_lib.conversations import Conversations
from storage_lib.errors import InvalidArgumentError

app = group("conversations", "Conversations of agents.")

Id = Annotated[str, typer.Argument(metavar="ID")]


@command(app, "list", json=True)
async def list_conversations(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only ids that begin so.")] = "",
    participant: Annotated[str | None, typer.Option("--participant", "-p", metavar="NAME")] = None,
    topic: Annotated[str | None, typer.Option("--topic", "-t", metavar="TOPIC")] = None,
) -> None:
    """Write conversations; the one that was created last comes first."""
    rows: list[tuple[str, ...]] = []
    async with run.open() as storage:
        async for each in Conversations(storage).list(participant=participant, topic=topic, prefix=prefix):
            if run.out.as_json:
                run.out.item(msgspec.to_builtins(each))
            else:
                updated = time_text(each.updated_at)
                rows.append(
                    (each.id, str(each.count), updated, each.topic or "", ", ".join(each.participants))
                )
    if not run.out.as_json:
        run.out.table(("ID", "MESSAGES", "CHANGED", "TOPIC", "PARTICIPANTS"), rows)


@command(app, "show", json=True)
async def show(
    run: Run,
    conversation: Id,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest messages.")] = 20,
) -> None:
    """Write the newest messages, oldest first."""
    async with run.open() as storage:
        entries = await Conversations(storage).read(conversation, last=last)
    run.out.each(
        entries,
        ("POSITION", "ID", "MESSAGE"),
        lambda each: (str(each.position), each.id, run.out.json(each.message)),
        msgspec.to_builtins,
    )


@command(app, "append", json=True)
async def append(
    run: Run,
    conversation: Id,
    message: Annotated[
        str, typer.Argument(metavar="MESSAGE", help="A JSON object, or a list of them; - is stdin.")
    ] = "-",
    position: Annotated[
        int | None, typer.Option("--if-position", metavar="N", min=0, help="Only at this position.")
    ] = None,
) -> None:
    """Append messages, all or none; the conversation is created if there is none."""
    with interruptible():
        text = sys.stdin.read() if message == "-" else message
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(
            f"the message is not JSON: {error}", field="MESSAGE", remedy="""such as '{"role": "user"}'"""
        ) from error
    async with run.open(creating=True) as storage:
        messages: Any = found if isinstance(found, list) else [found]
        objects = os.environ.get("AGENT_CONVERSATION_MESSAGES") == "objects"
        log = Conversations(storage, messages_as_objects=objects)
        appended = await log.append(conversation, messages, if_position=position)
    run.out.answer(msgspec.to_builtins(appended), str(appended.position))


@command(app, "fork")
async def fork(
    run: Run,
    conversation: Id,
    to: Annotated[str, typer.Argument(metavar="TO")],
    until: Annotated[
        int | None, typer.Option("--until", metavar="N", min=0, help="The last position.")
    ] = None,
) -> None:
    """Copy a conversation."""
    async with run.open() as storage:
        copy = await Conversations(storage).fork(conversation, to, until=until)
    run.note(f"Copied {count_text(copy.count, 'message')} to {to}.")


@command(app, "export")
async def export(run: Run, conversation: Id) -> None:
    """Write a conversation as one JSON document."""
    async with run.open() as storage:
        run.out.document(await Conversations(storage).export(conversation))


@command(app, "delete", yes=True)
async def delete(run: Run, conversation: Id) -> None:
    """Delete a conversation with its messages."""
    async with run.open() as storage:
        log = Conversations(storage)
        found = await log.describe(conversation)
        run.confirm(f"Delete {conversation} with {count_text(found.count, 'message')}?")
        await log.delete(conversation, if_match=found.etag)
    run.note(f"Deleted {conversation}.")
