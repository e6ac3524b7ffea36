"""``backup``, ``restore`` and ``import``: from files and to them."""

import sys
from typing import Annotated, Any

import typer

from storage_lib.cli.amounts import pairs
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.options import NoTables, Prefix, Sealed, TableNames
from storage_lib.cli.exits import is_terminal, say
from storage_lib.cli.many import JOBS, Jobs
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, printable, size_text

app = commands()

Archive = Annotated[str, typer.Argument(metavar="FILE", help="The archive, .tar.zst; - is stdin or stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]


@command(app, "backup", json=True)
async def backup(
    run: Run,
    archive: Archive,
    prefix: Prefix = "",
    tables: TableNames = None,
    no_tables: NoTables = False,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME", help="Also the messages of this queue; repeatable."),
    ] = None,
    sealed: Sealed = False,
    overwrite: Overwrite = False,
    level: Annotated[int, typer.Option("--level", min=1, max=19, help="1 is fast, 19 is small.")] = 3,
) -> None:
    """Write the objects of the store into one archive, with type, metadata, end of life and versions.

    Without --prefix all tables go with them. Messages are received to be read, and become visible again.
    Without --sealed they are in it as callers see them: who has the archive can read them.
    """
    from storage_lib.archive import backup as write

    if tables and no_tables:
        raise typer.BadParameter("it does not go with --table", param_hint="--no-tables")
    to_stdout = archive == "-"
    if to_stdout and run.out.is_terminal:
        raise typer.BadParameter("stdout is a terminal: name a file, or use a pipe", param_hint="FILE")
    target: Any = sys.stdout.buffer if to_stdout else archive
    async with run.open() as storage:
        with Progress(f"Backing up {prefix}", unit="objects") as progress:
            report = await write(
                storage,
                target,
                prefix=prefix,
                tables=() if no_tables else tables,
                queues=queues or (),
                layers="sealed" if sealed else "open",
                overwrite=overwrite,
                level=level,
                progress=lambda report: progress.reach(report.objects),
            )
    _tell_named("error", report.failed)
    for name in report.unlisted:
        say(f"error: {printable(name)}: no key, and therefore not in the archive")
    if run.out.as_json and not to_stdout:
        run.out.document(report)
    else:
        say(
            f"{count_text(report.objects, 'object')} of {size_text(report.bytes)}"
            + (f", {report.entities:,} entities" if report.entities else "")
            + (f", {count_text(report.messages, 'message')}" if report.messages else "")
            + f"; the archive has {size_text(report.archive_bytes)}"
        )
    run.end(ok=report.ok)


@command(app, "restore", json=True)
async def restore(
    run: Run,
    archive: Archive,
    prefix: Prefix = "",
    into: Annotated[
        str | None, typer.Option("--into", metavar="PREFIX", help="What the keys begin with instead.")
    ] = None,
    overwrite: Overwrite = False,
    no_tables: NoTables = False,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME", help="Also send the messages of this queue; repeatable."),
    ] = None,
    sealed: Sealed = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Store nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only look for damage; no store is needed.")
    ] = False,
) -> None:
    """Store what is in an archive of `backup`. What is there already, just the same, is left alone.

    What is damaged is named, and the rest is restored. What differs in the store is kept, unless there is
    --overwrite. The exit code is 1 if anything of it was not restored.
    """
    from storage_lib import archive as archives

    if archive == "-" and is_terminal(sys.stdin):
        raise typer.BadParameter("stdin is a terminal: name a file, or use a pipe", param_hint="FILE")
    source: Any = sys.stdin.buffer if archive == "-" else archive
    if verify:
        found = await archives.verify(source)
        _tell_damage(found.damage, found.damages)
        _tell_named("warning", found.missing)
        if run.out.as_json:
            run.out.document(found)
        else:
            say(
                f"{count_text(found.objects, 'object')} of {size_text(found.bytes)},"
                f" {count_text(found.damages, 'damage')}" + ("" if found.complete else "; it is cut off")
            )
        run.end(ok=found.ok)
        return
    async with run.open(creating=True) as storage:
        with Progress("Restoring", unit="objects") as progress:
            report = await archives.restore(
                storage,
                source,
                prefix=prefix,
                into=into,
                tables=not no_tables,
                queues=queues or (),
                layers="sealed" if sealed else "open",
                overwrite=overwrite,
                dry_run=dry_run,
                progress=lambda report: progress.reach(report.restored + report.unchanged),
            )
    _tell_damage(report.damage, report.damages)
    _tell_named("error", report.failed)
    _tell_named("error", report.kept, "is there and differs; --overwrite replaces it")
    _tell_named("warning", report.missing)
    if report.queues_left_out:
        say(f"Not sent, without --queue: {printable(', '.join(report.queues_left_out))}")
    if run.out.as_json:
        run.out.document(report)
    else:
        say(
            f"{report.restored:,} {'would be ' if dry_run else ''}restored ({size_text(report.bytes)}),"
            f" {report.unchanged:,} unchanged, {report.kept.count:,} kept, {report.failed.count:,} failed"
            + ("" if report.complete else "; the archive is cut off")
        )
    run.end(ok=report.ok)


def _tell_named(kind: str, named: Any, why: str = "") -> None:
    for name, reason in named.reasons.items():
        say(f"{kind}: {printable(f'{name}: {reason or why}')}")
    if (more := named.count - len(named.reasons)) > 0:
        say(f"{kind}: {more:,} more")


def _tell_damage(damage: list[Any], count: int) -> None:
    for each in damage:
        say(f"error: {printable(str(each))}")
    if (more := count - len(damage)) > 0:
        say(f"error: {more:,} more are damaged")


@command(app, "import", json=True)
async def import_aos(
    run: Run,
    source: Annotated[str, typer.Argument(metavar="FOLDER", help="What was its base_path.")],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="FILE=KEY", help="The key of a file whose name is ambiguous; repeatable."
        ),
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="What is put before all keys.")] = "",
    keep_envelopes: Annotated[
        bool, typer.Option("--keep-envelopes", help="Save {agent_id, data, …} as it is, not its data.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Save nothing.")] = False,
    jobs: Jobs = JOBS,
) -> None:
    """Save what AgentOperatingSystem's file backend stored.

    Each line has what has become of a file, its name and its key. A name that may be several keys is
    ambiguous, and is not guessed: --name says which. The exit code is 1 if a value is not in the store then.
    """
    from storage_lib import aos

    async with run.open(creating=True) as storage:
        report = await aos.import_aos(
            storage,
            source,
            names=pairs(names or [], "--name"),
            prefix=prefix,
            unwrap=not keep_envelopes,
            overwrite=overwrite,
            dry_run=dry_run,
            concurrency=jobs,
        )
    if run.out.as_json:
        run.out.document(report)
    else:
        for outcome in ("imported", "unchanged", "kept", "failed", "ignored"):
            found = getattr(report, outcome)
            run.out.table((), [(outcome, name, found[name]) for name in sorted(found)])
        ambiguous = [("ambiguous", name, ", ".join(keys)) for name, keys in sorted(report.ambiguous.items())]
        run.out.table((), ambiguous)
        if ambiguous:
            say("remedy: say which key is meant: --name FILE=KEY")
    run.end(ok=report.ok)
