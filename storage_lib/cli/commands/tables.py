"""``tables``: their names, and entities, found by a filter."""

from typing import Annotated, Any

import typer

from storage_lib.cli.amounts import pairs
from storage_lib.cli.command import Run, command, group

app = group("tables", "Tables of entities.")


@command(app, "list", json=True)
async def list_tables(
    run: Run,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only names that begin so.")] = "",
) -> None:
    """Write the names of tables, and what of the library those belong to that are not its users'."""
    from storage_lib.reserved_names import owners_of_tables

    async with run.open() as storage:
        names = await storage.list_tables(prefix)
        owners = owners_of_tables(names, storage)
    run.out.each(
        names,
        ("TABLE", "OF"),
        lambda name: (name, owner) if (owner := owners.get(name)) else (name,),
        lambda name: {"name": name, "owner": owners.get(name)},
    )


@command(app, "query", json=True)
async def query(
    run: Run,
    table: Annotated[str, typer.Argument(metavar="TABLE")],
    condition: Annotated[
        str,
        typer.Argument(metavar="FILTER", help="OData, such as \"PartitionKey eq 'eu' and budget gt 10\"."),
    ] = "",
    select: Annotated[
        list[str] | None,
        typer.Option("--select", "-s", metavar="NAME", help="Only this property; repeatable."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="NAME=VALUE", help="A text for @NAME in FILTER; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="No more entities.")] = None,
) -> None:
    """Write entities that match a filter, or all.

    Into a pipe a line is PartitionKey, RowKey and the other properties as JSON, separated by tabs.
    """
    rows: list[dict[str, Any]] = []
    count = 0
    async with run.open() as storage:
        tables = storage.backend.tables
        cursor = None
        while limit is None or count < limit:
            page = await tables.query(
                table,
                condition or None,
                parameters=pairs(parameter or [], "--param") or None,
                select=[each for each in select or [] if each not in ("PartitionKey", "RowKey")]
                if select
                else None,
                limit=1000 if limit is None else min(1000, limit - count),
                cursor=cursor,
            )
            for entity in page.entities:
                count += 1
                row = {"PartitionKey": entity.partition_key, "RowKey": entity.row_key, **entity.properties}
                if run.out.as_json:
                    run.out.item(row)
                elif run.out.is_terminal:
                    rows.append(row)
                else:
                    more = run.out.json(dict(entity.properties))
                    run.out.table((), [(entity.partition_key, entity.row_key, more)])
            if (cursor := page.cursor) is None:
                break
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        run.out.table(names, ([_text(run, row.get(name)) for name in names] for row in rows))


def _text(run: Run, value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else run.out.json(value).strip('"')


@command(app, "get", json=True)
async def get(
    run: Run,
    table: Annotated[str, typer.Argument(metavar="TABLE")],
    partition_key: Annotated[str, typer.Argument(metavar="PARTITION_KEY")],
    row_key: Annotated[str, typer.Argument(metavar="ROW_KEY")],
) -> None:
    """Write one entity as JSON."""
    async with run.open() as storage:
        run.out.document(await storage.backend.get_entity(table, partition_key, row_key))
