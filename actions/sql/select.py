"""Running one statement over files, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from actions.stored.errors import AnalysisLimitError, StatementRefusedError, UnsupportedReportError
from actions.stored.limits import Limits
from storage_lib.errors import StorageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

    from actions.stored.tables import Source

MAX_ROWS = 1_000
MAX_INLINE_BYTES = 256 * 1024
_RESULT = "result of the statement"


def select(
    sql: str, files: Mapping[str, tuple[Path, str | None, str]], output: Path | None, limits: Limits
) -> dict[str, Any]:
    """
    :param files: by the name of a table, where its bytes are, their content type, and their key.
    :param output: a file to write all rows to: Parquet if its name ends so, else JSON Lines.
    :raises StatementRefusedError: see `actions.sql.guard`; or DuckDB cannot run it.
    :raises AnalysisLimitError: it is too much for ``limits``.
    """
    from actions.sql.guard import check
    from actions.sql.rows import rows
    from actions.stored.database import database, name
    from actions.stored.tables import load, prepare

    warnings: list[str] = []
    sources: dict[str, Source] = {}
    for table, (path, content_type, key) in files.items():
        with _field(table):
            source = sources[table] = prepare(path, content_type, key, _told(table, warnings))
            if source.format in ("text", "markdown"):
                raise UnsupportedReportError(
                    f"{key!r} is {source.format}", limit="CSV, JSON, JSON Lines or Parquet"
                )
    folder = next(iter(files.values()))[0].parent
    opened = [source.path for source in sources.values()]
    with database(folder, limits, *opened, *([output] if output else [])) as connection:
        check(connection, sql, sources.keys())
        for table, source in sources.items():
            with _field(table):
                load(connection, table, source, _told(table, warnings))
            source.path.unlink()
        _run(connection, sql)
        relation = connection.table(name(_RESULT))
        columns = [{"name": c, "type": str(t)} for c, t in zip(relation.columns, relation.types, strict=True)]
        (count,) = connection.execute(f"SELECT count(*) FROM {name(_RESULT)}").fetchall()[0]
        shown: list[Any] = []
        size = 0
        for row in rows(connection, _RESULT, MAX_ROWS):
            size += len(msgspec.json.encode(row))
            if size > MAX_INLINE_BYTES:
                break
            shown.append(row)
        if output is not None:
            _write(connection, output, limits)
    result = {"columns": columns, "row_count": count, "rows": shown, "truncated": len(shown) < count}
    return {**result, "warnings": warnings}


def _run(connection: Database, sql: str) -> None:
    import duckdb

    from actions.stored.database import name

    try:
        # It is known to be one SELECT: there is no way out of the statement around it.
        connection.execute(f"CREATE TABLE {name(_RESULT)} AS {sql}")
    except (duckdb.OutOfMemoryException, duckdb.InterruptException):
        raise
    except duckdb.Error as error:
        told = str(error).partition("\n")[0]
        raise StatementRefusedError(told[:1000], field="sql") from error


def _write(connection: Database, output: Path, limits: Limits) -> None:
    from actions.sql.rows import rows
    from actions.stored.database import name, text

    if output.suffix == ".parquet":
        connection.execute(f"COPY {name(_RESULT)} TO {text(str(output))} (FORMAT parquet, COMPRESSION zstd)")
        return
    with output.open("wb") as file:
        for row in rows(connection, _RESULT):
            file.write(msgspec.json.encode(row) + b"\n")
            if file.tell() > limits.disk_bytes:
                raise AnalysisLimitError(
                    "the result needs more temporary disk than it may have",
                    limit=f"{limits.disk_bytes >> 20} MiB",
                    remedy="select less, write Parquet, or raise AGENT_ANALYSIS_DISK_MB",
                )


@contextlib.contextmanager
def _field(table: str) -> Generator[None]:
    """An error of an object says which table it was to be."""
    try:
        yield
    except StorageError as error:
        error.field = f"tables.{table}"
        error.message = f"table {table!r}: {error.message}"
        raise


def _told(table: str, warnings: list[str]) -> Callable[[str], None]:
    return lambda warning: warnings.append(f"{table}: {warning}")
