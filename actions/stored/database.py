"""DuckDB as a sandbox: one in memory, with limits, that can open the files it is given and nothing else."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actions.stored.errors import AnalysisLimitError, MalformedReportError
from actions.stored.limits import Limits

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

_PATHS = re.compile(r"""(?: in| of|at end of)? file ["'][^"']*["']|["'][^"']*/[^"']*["']""")


@contextlib.contextmanager
def database(folder: Path, limits: Limits, *files: Path) -> Generator[Database]:
    """
    :param folder: for what does not fit into memory; nobody else reads it.
    :param files: what it may open, to read or to write.
    :raises AnalysisLimitError: something was too much for its memory or disk.
    """
    import duckdb

    most, _ = resource.getrlimit(resource.RLIMIT_DATA)  # DuckDB does not count all that it allocates
    memory = limits.memory_bytes if most == resource.RLIM_INFINITY else min(limits.memory_bytes, most // 2)
    config: dict[str, Any] = {
        "memory_limit": f"{memory}B",
        "threads": limits.threads,
        "temp_directory": str(folder / "spilled by the database"),
        "max_temp_directory_size": f"{limits.disk_bytes}B",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
        "enable_external_file_cache": False,
        "python_enable_replacements": False,
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET allowed_paths = [{', '.join(text(str(file)) for file in files)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise AnalysisLimitError(
            "it needs more memory, or more temporary disk, than it may have",
            limit=f"{memory >> 20} MiB of memory, {limits.disk_bytes >> 20} MiB of disk",
            remedy="ask for less, split the object, or raise AGENT_ANALYSIS_MEMORY_MB and _DISK_MB",
        ) from error
    finally:
        connection.close()


@contextlib.contextmanager
def reading(what: str) -> Generator[None]:
    """:raises MalformedReportError: DuckDB cannot read the bytes; says why, without the path of a file."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        problem = _PATHS.sub("", str(error).partition("\n")[0].partition("Error: ")[2]).strip(" .,")
        raise MalformedReportError(
            f"{what} cannot be read: {problem[:500]}", field="data", remedy="store it again, whole and valid"
        ) from error


def name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
