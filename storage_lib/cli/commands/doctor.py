"""``doctor`` and ``sweep``: what is wrong with a store, and what mends some of it."""

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text

if TYPE_CHECKING:
    from storage_lib.cli.diagnosis import Check

app = commands()

_STYLES = {"ok": "32", "warning": "33", "error": "31;1", "skipped": "2"}


@command(app, "doctor", json=True)
async def doctor(
    run: Run,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing into the store.")] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="List the whole store, however long it takes.")
    ] = False,
) -> None:
    """Check the configuration, whether the store answers, what may be done there, tables and queues, the
    clock, names, disk and expired objects, and say what mends what is wrong.

    It writes one small object and deletes it. A line has the verdict, what was checked, what was found and
    the remedy.
    The exit code is 1 if something is wrong; warnings do not count.
    """
    from storage_lib.cli.diagnosis import diagnose

    found: list[Check] = []
    async for check in diagnose(lambda: run.config, read_only=read_only, thorough=thorough):
        found.append(check)
        if not run.out.as_json:
            _show(run, check)
    if run.out.as_json:
        run.out.document(found)
    run.end(ok=all(check.verdict != "error" for check in found))


def _show(run: Run, check: "Check") -> None:
    if run.out.is_terminal:
        run.out.line(
            f"{check.name}: {check.message}", mark=f"{check.verdict:8}", style=_STYLES[check.verdict]
        )
        if check.remedy is not None:
            run.out.line(f"{'':9}{check.remedy}")
    else:
        run.out.table((), [(check.verdict, check.name, check.message, check.remedy or "")])
    run.out.flush()


@command(app, "sweep", json=True)
async def sweep(run: Run) -> None:
    """Remove expired objects, and write how many there were; and what is over of conversations. An app that
    runs does this every minute."""
    from storage_lib.conversations import Conversations
    from storage_lib.errors import UnsupportedOperationError

    total = 0
    async with run.open() as storage:
        with Progress("Removing", unit="objects") as progress:
            while removed := await storage.sweep_expired(1000):
                total += removed
                progress.advance(removed)
        with suppress(UnsupportedOperationError):  # Without tables there are none.
            await Conversations(storage).sweep(1_000_000, seconds=3600)
    run.out.answer({"removed": total}, str(total))
    run.note(f"Removed {count_text(total, 'object')}.")
