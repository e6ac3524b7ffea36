"""``migrate`` and ``check``: from one store to another."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from storage_lib.cli.amounts import byte_count
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.options import NoTables, Prefix, Sealed, TableNames
from storage_lib.cli.exits import say
from storage_lib.cli.progress import Progress
from storage_lib.cli.text import count_text, printable, size_text

if TYPE_CHECKING:
    from storage_lib.migration import MigrationOptions

app = commands()

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The URL of a store, such as file:./data.")]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="The URL of another, such as azure:.")]
Onto = Annotated[
    str | None,
    typer.Option("--target-prefix", metavar="PREFIX", help="What their keys begin with in TARGET."),
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only such keys: *.json, logs/**; repeatable."),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Not such keys; repeatable.")
]
NoObjects = Annotated[bool, typer.Option("--no-objects", help="No objects.")]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="How many objects at a time.")]


@dataclass(frozen=True, slots=True)
class Selection:
    """What of two stores is copied or compared, and how."""

    prefix: Prefix = ""
    target_prefix: Onto = None
    include: Include = None
    exclude: Exclude = None
    table: TableNames = None
    no_tables: NoTables = False
    no_objects: NoObjects = False
    sealed: Sealed = False
    jobs: Jobs = 32

    def options(self, **more: Any) -> "MigrationOptions":
        from storage_lib.migration import MigrationOptions

        if self.table and self.no_tables:
            raise typer.BadParameter("it does not go with --table", param_hint="--no-tables")
        return MigrationOptions(
            prefix=self.prefix,
            target_prefix=self.target_prefix,
            include=self.include or (),
            exclude=self.exclude or (),
            objects=not self.no_objects,
            tables=[] if self.no_tables else self.table,
            layers="sealed" if self.sealed else "open",
            concurrency=self.jobs,
            **more,
        )


@command(app, "migrate", json=True, yes=True, store=False)
async def migrate(
    run: Run,
    source: Source,
    target: Target,
    selected: Selection,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME", help="Move the messages of this queue; repeatable."),
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Replace what differs in TARGET.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Make TARGET a mirror: delete what SOURCE does not have.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write what would be done, and stop.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read back each object that was copied.")] = False,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", metavar="SIZE", help="No more bytes a second: 500K, 10M.")
    ] = None,
) -> None:
    """Copy all objects and tables from one store to another.

    Objects keep type, metadata, end of life and versions. With --prefix, --include or --exclude, tables are
    copied only if they are named. Messages are moved, and only out of queues that are named.

    Interrupted, it is run again and goes on, inside a large object too. What is in TARGET already, just the
    same, is skipped. Each key that something was done to is written, with what was done.
    """
    from storage_lib.migration import Migration
    from storage_lib.urls import open_store

    options = selected.options(
        queues=queue or (),
        update=update,
        delete=delete,
        dry_run=dry_run,
        verify=verify,
        bytes_per_second=None if bandwidth is None else byte_count(bandwidth),
    )
    run.check_exists(source)
    async with open_store(source) as first, open_store(target) as second:
        if delete and not dry_run:
            where = options.onto or "the whole store"
            run.confirm(f"Delete what {source} does not have from {target}, below {where}?")
        if queue and not dry_run:
            run.confirm(f"Move the messages of {', '.join(queue)} out of {source}?")
        with Progress(f"Migrating {selected.prefix}", unit="items") as progress:

            def told(key: str, outcome: str) -> None:
                progress.advance()
                if outcome == "skipped" or outcome == "failed":
                    return
                if run.out.as_json:
                    run.out.item({"key": key, "outcome": outcome})
                elif dry_run or not run.out.is_terminal:
                    run.out.table((), [(outcome, key)])

            report = await Migration(first, second, options, on_object=told).run()
    for failure in report.failed:
        say(f"error: {printable(f'{failure.name}: {failure.message}')}")
    if report.tables_left_out and selected.table is None and not run.out.as_json:
        say(f"Not copied, as they are the library's: {printable(', '.join(report.tables_left_out))}")
    if run.out.as_json:
        run.out.item({"report": report})
    else:
        would = "would be " if dry_run else ""
        parts = [
            f"{report.copied:,} {would}copied",
            f"{report.updated:,} updated",
            f"{report.skipped:,} skipped",
        ]
        for count, text in (
            (report.deleted, "deleted"),
            (report.vanished, "vanished"),
            (report.entities_copied, f"entities {would}copied"),
            (report.entities_updated, "entities updated"),
            (report.entities_skipped, "entities skipped"),
            (report.entities_deleted, "entities deleted"),
            (report.failures, "failed"),
        ):
            if count:
                parts.append(f"{count:,} {text}")
        if report.messages_moved:
            parts.append(f"{count_text(report.messages_moved, 'message')} {would}moved")
        resumed = f", {size_text(report.bytes_resumed)} resumed" if report.bytes_resumed else ""
        say(f"{', '.join(parts)}; {size_text(report.bytes_copied)}{resumed} in {report.seconds:.1f} s")
    run.end(ok=report.ok)


@command(app, "check", json=True, store=False)
async def check(
    run: Run,
    first: Source,
    second: Target,
    selected: Selection,
    content: Annotated[bool, typer.Option("--content", help="Read all bytes, and compare those.")] = False,
) -> None:
    """Compare two stores, key by key: size, checksum, type, metadata, end of life; and tables.

    Nothing is changed. Each difference is written: what it is, the key, and in what both differ. The exit
    code is 1 if there is one.
    """
    from storage_lib.migration import check as compare
    from storage_lib.urls import open_store

    options = selected.options()
    run.check_exists(first)
    run.check_exists(second)
    async with open_store(first) as one, open_store(second) as other:
        report = await compare(one, other, options, content=content)
    if run.out.as_json:
        run.out.document(report)
    else:
        for each in report.differences:
            run.out.table((), [(each.kind, each.name, ", ".join(each.fields))])
        for failure in report.failed:
            say(f"error: {printable(f'{failure.name}: {failure.message}')}")
        found = report.different + report.only_in_first + report.only_in_second
        say(
            f"{report.same:,} equal, {count_text(found, 'difference')}"
            + (f", {report.failures:,} failed" if report.failures else "")
        )
    run.end(ok=report.equal)
