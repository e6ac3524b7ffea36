"""Which statements are run: one SELECT over the given tables.

The statement is judged by DuckDB's own syntax tree of it, not by its text. That is the first of several
defences: the database has no access to files (`actions.stored.database`), holds nothing but the tables, and
runs in a process without settings or secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Any

from actions.stored.errors import StatementRefusedError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Database

MAX_CHARACTERS = 100_000
_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_SOURCES = frozenset(
    {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EMPTY", "EXPRESSION_LIST", "PIVOT", "COLUMN_DATA"}
)
_TABLE_FUNCTIONS = frozenset(
    {
        "range",
        "generate_series",
        "unnest",
        "json_each",
        "json_tree",
        "repeat",
        "repeat_row",
        "regexp_split_to_table",
    }
)
# They tell of the process or the session, wait, or write.
_FUNCTION_NAMES = """
    current_setting getenv getvariable nextval currval setval setseed write_log sleep_ms pg_sleep
    current_query json_execute_serialized_sql which_secret inet_client_addr inet_client_port
    inet_server_addr inet_server_port user current_user session_user current_role in_search_path
    create_sort_key
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_FIRST = re.compile(r"(?:\s++|--[^\n]*+\n|/\*(?:[^*]|\*(?!/))*+\*/)*+([A-Za-z]+)")
_OTHER = "a single SELECT over the tables of the payload"


def check(connection: Database, sql: str, tables: Set[str]) -> None:
    """
    :param tables: the names of the given tables.
    :raises StatementRefusedError: the statement is, or holds, something else; names it.
    """
    if len(sql) > MAX_CHARACTERS:
        raise _refused(f"the statement has {len(sql)} characters", f"{MAX_CHARACTERS} characters")
    if "\0" in sql:
        raise _refused("the statement holds a NUL character")
    (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0]
    found = json.loads(text)
    if found["error"]:
        first = _FIRST.match(sql)
        if found.get("error_type") == "parser" or first is None:
            raise _refused(str(found["error_message"])[:500])
        if first[1].upper() == "PIVOT":
            raise _refused("PIVOT without its values is several statements", "PIVOT … ON … IN (…)")
        if first[1].upper() in ("SELECT", "WITH", "FROM", "VALUES"):
            raise _refused("there are several statements")
        raise _refused(f"{first[1].upper()[:100]} is not allowed")
    statements = found["statements"]
    if len(statements) != 1:
        raise _refused(f"there are {len(statements)} statements")
    common = {name.casefold() for name in _common(statements)}
    own = connection.execute(
        "SELECT lower(view_name) FROM duckdb_views() UNION SELECT lower(table_name) FROM duckdb_tables()"
    )
    if taken := common & {name for (name,) in own.fetchall()} - {name.casefold() for name in tables}:
        # Where it is not in scope, the name means what DuckDB knows by it.
        raise _refused(f"WITH {min(taken)[:100]!r}: the name is DuckDB's own", "another name")
    known = {name.casefold() for name in tables} | common
    for part in _parts(statements[0]["node"]):
        _check_part(part, known)


def _check_part(part: dict[str, Any], known: Set[str]) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        return
    if kind.endswith("_NODE") and kind not in _QUERIES:
        raise _refused(
            f"{kind.removesuffix('_NODE').removesuffix('_QUERY').replace('_', ' ')} is not allowed"
        )
    # A source of rows has an alias and a sample, and no class, as expressions have.
    if "sample" in part and "class" not in part and "select_list" not in part and kind not in _SOURCES:
        raise _refused(f"{kind.removesuffix('_REF').replace('_', ' ')} is not allowed")
    if kind == "BASE_TABLE":
        path = part.get("qualified_name", {}).get("path") or [part.get("table_name", "")]
        if part.get("at_clause") is not None or len(path) != 1 or str(path[0]).casefold() not in known:
            raise _refused(f"there is no table {'.'.join(map(str, path))[:200]!r} in the payload")
    elif kind == "TABLE_FUNCTION":
        name = str(part.get("function", {}).get("function_name", "?")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise _refused(f"the table function {name[:100]}() is not allowed")
    elif kind == "FUNCTION" or "function_name" in part:
        name = str(part.get("function_name", "?")).lower()
        if name in _FUNCTIONS or name.startswith(("pg_", "has_", "duckdb_", "pragma_")):
            raise _refused(f"the function {name[:100]}() is not allowed")


def _parts(node: Any) -> Iterator[dict[str, Any]]:
    stack = [node]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield found
            stack.extend(found.values())
        elif isinstance(found, list):
            stack.extend(found)


def _common(node: Any) -> Iterator[str]:
    """The names of common table expressions, wherever they are made."""
    for part in _parts(node):
        for each in (part.get("cte_map") or {}).get("map", ()):
            yield str(each["key"])
        if part.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
            yield str(part.get("cte_name", ""))


def _refused(problem: str, limit: str = _OTHER) -> StatementRefusedError:
    return StatementRefusedError(problem, field="sql", limit=limit)
