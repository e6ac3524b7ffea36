"""``query``: SQL over stored objects."""

import re
from typing import Annotated, Any

import typer

from storage_lib.cli.amounts import pairs
from storage_lib.cli.command import Run, command, commands
from storage_lib.cli.commands.task_access import registry, tasks_of
from storage_lib.cli.exits import warn
from storage_lib.cli.interrupts import interruptible
from storage_lib.cli.text import count_text

app = commands()

# Literals, quoted names and comments, which hold no keyword.
_PARTS = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/)""", re.DOTALL)
_BEFORE_A_TABLE = re.compile(r"\b(?:from|join)\s*$", re.IGNORECASE)


@command(app, "query", json=True)
async def query(
    run: Run,
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="One SELECT, of DuckDB's SQL; - reads it from stdin.")
    ],
    table: Annotated[
        list[str] | None,
        typer.Option("--table", "-t", metavar="NAME=KEY", help="The object that a name means; repeatable."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="KEY", help="Save all rows: .parquet, .jsonl or .ndjson."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Whether --output may replace what is no result of a query.")
    ] = False,
) -> None:
    """Run SQL over stored CSV, JSON, JSON Lines and Parquet objects, read-only, and write the rows.

    After FROM and JOIN, a key in quotes is an object: SELECT count(*) FROM 'reports/weather.csv'. Its name is
    the last part of the key, here weather. At most 1,000 rows are written; --output saves all.
    """
    if sql == "-":
        import sys

        with interruptible():
            sql = sys.stdin.read()
    tables = pairs(table or [], "--table")
    statement = with_names(sql, tables)
    if not tables:
        raise typer.BadParameter(
            "it reads no object: write FROM 'KEY', or name one with --table", param_hint="SQL"
        )
    payload = {"sql": statement, "tables": tables, "output": output, "overwrite": overwrite}
    result = await (_through_the_app(run, payload) if run.is_remote else _here(run, payload))
    for each in result["warnings"]:
        warn(each)
    names = [column["name"] for column in result["columns"]]
    if run.out.as_json:
        for row in result["rows"]:
            run.out.item(row)
    else:
        run.out.table(names, ([_cell(run, row.get(name)) for name in names] for row in result["rows"]))
    if result["truncated"] and output is None:
        shown = count_text(len(result["rows"]), "row")
        warn(f"{shown} of {result['row_count']:,}; --output KEY.parquet or KEY.jsonl saves all")


def with_names(sql: str, tables: dict[str, str]) -> str:
    """``sql`` with a name in place of each key in quotes after FROM or JOIN; they are added to ``tables``."""
    by_key = {key: name for name, key in tables.items()}
    parts = _PARTS.split(sql)
    for n in range(1, len(parts), 2):
        if parts[n].startswith("'") and _BEFORE_A_TABLE.search(parts[n - 1]):
            key = parts[n][1:-1].replace("''", "'")
            if key not in by_key:
                by_key[key] = _name_for(key, tables)
                tables[by_key[key]] = key
            parts[n] = f'"{by_key[key]}"'
    return "".join(parts)


def _name_for(key: str, taken: dict[str, str]) -> str:
    base = re.sub(r"[^A-Za-z0-9_]", "_", key.rpartition("/")[2].partition(".")[0])[:50]
    if not re.match(r"[A-Za-z_]", base):
        base = f"t_{base}"
    lower = {name.lower() for name in taken}
    name, n = base, 1
    while name.lower() in lower:
        n += 1
        name = f"{base}_{n}"
    return name


async def _here(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    from storage_lib.errors import UnsupportedOperationError
    from storage_lib.tasks.inline import run_here

    known = registry()
    if not known.knows("query"):
        raise UnsupportedOperationError(
            "the app's actions, which run SQL, are not installed here",
            remedy="run this in the folder of the app, or through it: --store http://HOST/api",
        )
    async with run.open() as storage:
        return await run_here(storage, known, "query", payload)


async def _through_the_app(run: Run, payload: dict[str, Any]) -> dict[str, Any]:
    from storage_lib.errors import StorageError

    async with tasks_of(run) as tasks:
        record = await tasks.submit("query", "cli", payload)
        while not record.is_final:
            record = await tasks.wait_for(record.task_id, 30)
    if record.error is not None:
        raise StorageError(f"{record.error.code}: {record.error.message}")
    return record.result


def _cell(run: Run, value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else run.out.json(value)
