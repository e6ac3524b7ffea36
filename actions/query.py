"""`query`: SQL over stored objects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from actions.stored.workspace import put, workspace
from storage_lib import values
from storage_lib.errors import InvalidArgumentError
from storage_lib.keys import validate_user_key
from storage_lib.tasks.context import TaskContext
from storage_lib.tasks.registry import task

MAX_TABLES = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_OUTPUTS = {
    ".parquet": "application/vnd.apache.parquet",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
}


@dataclass(frozen=True, slots=True)
class Query:
    """:param sql: one SELECT, of DuckDB's SQL.
    :param tables: the key of a stored CSV, JSON, JSON Lines or Parquet object for each table's name.
    :param output: the key of an object for all rows: Parquet if it ends in ``.parquet``, JSON Lines if in
        ``.jsonl`` or ``.ndjson``.
    :param overwrite: whether ``output`` may replace an object that is no result of a query.
    """

    sql: str
    tables: dict[str, str]
    output: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.sql.strip():
            raise InvalidArgumentError("sql is empty", field="sql")
        if not 0 < len(self.tables) <= MAX_TABLES or len({name.lower() for name in self.tables}) < len(
            self.tables
        ):
            raise InvalidArgumentError(
                f"{len(self.tables)} tables",
                field="tables",
                limit=f"1 to {MAX_TABLES} tables, with names that differ by more than their case",
            )
        for name, key in self.tables.items():
            if not _NAME.fullmatch(name):
                raise InvalidArgumentError(
                    f"table name {name[:100]!r}", field="tables", limit="letters, digits and _, at most 63"
                )
            validate_user_key(key)
        if self.output is not None:
            validate_user_key(self.output)
            if self.output in self.tables.values():
                raise InvalidArgumentError("output is one of the tables", field="output")
            if self.suffix not in _OUTPUTS:
                raise InvalidArgumentError(
                    f"output {self.output[-100:]!r} says no format",
                    field="output",
                    limit=f"one of: {', '.join(_OUTPUTS)}",
                )

    @property
    def suffix(self) -> str:
        """Of the output, with its point, in lower case."""
        return "." + (self.output or "").rpartition("/")[2].rpartition(".")[2].lower()


@task("query", payload=Query)
async def query(context: TaskContext, payload: Query) -> dict[str, Any]:
    """Run a SELECT over stored objects, read-only. The result has the columns with their SQL types, how many
    rows there are, and the first of them: at most 1,000, and 256 KiB of JSON. All go to ``output``.

    :raises StatementRefusedError: the statement is something else, or wrong.
    :raises AnalysisLimitError: it needs more memory, disk or time than it may have (``AGENT_ANALYSIS_…``).
    """
    from actions.sql.select import select

    async with workspace(context) as place:
        files: dict[str, tuple[Any, str | None, str]] = {}
        for name, key in payload.tables.items():
            path, info = await place.fetch(key, name.lower(), f"tables.{name}")
            files[name] = path, None if info.content_type == values.BYTES else info.content_type, key
        output = place.folder / f"output of it{payload.suffix}" if payload.output else None
        result = await place.run(select, payload.sql, files, output, place.limits)
        if payload.output and output:
            await put(
                context,
                payload.output,
                output,
                "query",
                overwrite=payload.overwrite,
                content_type=_OUTPUTS[payload.suffix],
            )
            result = {"output": payload.output, **result}
    return result
