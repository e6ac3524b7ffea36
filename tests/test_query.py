"""`query`: what runs, what is refused, what SQL's types are in JSON, and the limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actions.query import Query
from actions.sql.select import select
from actions.stored.errors import AnalysisLimitError, StatementRefusedError
from actions.stored.limits import Limits
from storage_lib.config import StorageConfig
from storage_lib.errors import InvalidArgumentError, StorageError
from storage_lib.manager import StorageManager
from storage_lib.tasks.engine import TaskEngine
from storage_lib.tasks.model import TASK_QUEUE, TaskRecord, TaskStatus
from storage_lib.tasks.registry import Registry
from tests.task_stores import opened

REPORT = b"day,city,rain\n2024-01-01,Oslo,1.5\n2024-01-02,Rome,0\n2024-01-03,Oslo,NA\n"


def answered(
    tmp_path: Path,
    sql: str,
    data: bytes = REPORT,
    content_type: str = "text/csv",
    output: str = "",
    **limits: int,
) -> dict[str, Any]:
    folder = tmp_path / "place"
    folder.mkdir(exist_ok=True)
    path = folder / "report"
    path.write_bytes(data)
    files = {"report": (path, content_type, "report")}
    return select(sql, files, folder / output if output else None, Limits(**limits))


def rows(tmp_path: Path, sql: str, *args: Any, **named: Any) -> list[dict[str, Any]]:
    return answered(tmp_path, sql, *args, **named)["rows"]


# -- what runs


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select city, count(*) as n from report group by city order by city", [("Oslo", 2), ("Rome", 1)]),
        ("from REPORT select sum(rain)", [(1.5,)]),
        ("with x as (select * from report) select count(*) from x join report using (day)", [(3,)]),
        (
            "with recursive t(n) as (select 1 union all select n + 1 from t where n < 3) from t",
            [(1,), (2,), (3,)],
        ),
        ("select max(day) from report qualify row_number() over () = 1", [("2024-01-03",)]),
        ("select * from (values (1, 'a')) order by 1", [(1, "a")]),
        ("select count(*) from generate_series(1, 5)", [(5,)]),
        (
            "from (pivot report on city in ('Oslo', 'Rome') using count(*) group by rain) select count(*)",
            [(3,)],
        ),
        ("select 1 as a, 2 as a; -- the end", [(1, 2)]),
        ("select list_transform([1, 2], lambda x: x + 1)", [([2, 3],)]),
        ("(select 1) union all (select 2)", [(1,), (2,)]),
    ],
)
def test_what_a_select_finds(tmp_path: Path, sql: str, expected: list[tuple[Any, ...]]) -> None:
    assert [tuple(row.values()) for row in rows(tmp_path, sql)] == expected


@pytest.mark.parametrize(
    ("data", "content_type", "types"),
    [
        (REPORT, "text/csv", ["DATE", "VARCHAR", "DOUBLE"]),
        (
            b'[{"a":1,"t":"2024-01-01T10:00:00Z"},{"a":null}]',
            "application/json",
            ["BIGINT", "TIMESTAMP WITH TIME ZONE"],
        ),
        (b'{"a":1}\n{"a":2.5,"b":{"c":[1]}}\n', "application/x-ndjson", ["DOUBLE", "STRUCT(c BIGINT[])"]),
        (b"zip;yes\n00123;yes\n00456;no\n", "text/csv; header=present", ["VARCHAR", "BOOLEAN"]),
    ],
)
def test_tables_have_the_types_of_their_values(
    tmp_path: Path, data: bytes, content_type: str, types: list[str]
) -> None:
    found = answered(tmp_path, "select * from report", data, content_type)
    assert [column["type"] for column in found["columns"]] == types


def test_every_type_has_a_form_in_json(tmp_path: Path) -> None:
    expected: dict[str, tuple[str, Any]] = {
        "decimal": ("1.50::DECIMAL(30, 2)", "1.50"),
        "hugeint": ("170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
        "ubigint": ("18446744073709551615::UBIGINT", 2**64 - 1),
        "nan": ("'nan'::DOUBLE", "NaN"),
        "infinite": ("'-inf'::FLOAT", "-Infinity"),
        "instant": ("TIMESTAMPTZ '2024-01-01 10:00+02'", "2024-01-01T08:00:00Z"),
        "timestamp": ("TIMESTAMP '2024-01-01 10:00:00.5'", "2024-01-01T10:00:00.5"),
        "nanoseconds": ("TIMESTAMP_NS '2024-01-01 10:00:00.123456789'", "2024-01-01T10:00:00.123456789"),
        "far": ("DATE '12345-01-01'", "12345-01-01"),
        "time": ("TIME '10:00'", "10:00:00"),
        "interval": ("INTERVAL '1 month 2 days'", "1 month 2 days"),
        "blob": ("'\\xAA\\x00'::BLOB", "qgA="),
        "uuid": ("UUID '6f0b5a2c-0000-4000-8000-000000000000'", "6f0b5a2c-0000-4000-8000-000000000000"),
        "list": ("[1, NULL, 3]", [1, None, 3]),
        "struct": ("{'a': 1.5::DECIMAL(3, 1), 'b': [DATE '2024-02-29']}", {"a": "1.5", "b": ["2024-02-29"]}),
        "map": ("MAP {'k': INTERVAL '1 day'}", {"k": "1 day"}),
        "map of numbers": ("MAP {1: 'x'}", [{"key": 1, "value": "x"}]),
        "json": ("""'{"a": [1, 2.5, null]}'::JSON""", {"a": [1, 2.5, None]}),
        "enum": ("'x'::ENUM('x', 'y')", "x"),
        "union": ("union_value(k := 5)", 5),
        "boolean": ("true", True),
        "null": ("NULL", None),
    }
    columns = ", ".join(f'{sql} AS "{column}"' for column, (sql, _) in expected.items())
    (row,) = rows(tmp_path, f"SELECT {columns}")
    assert row == {column: value for column, (_, value) in expected.items()}
    assert json.loads(json.dumps(row, allow_nan=False)) == row


# -- what is refused


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        *[
            (sql, f"{sql.split()[0].upper()} is not allowed")
            for sql in (
                "ATTACH 'x.db'",
                "detach memory",
                "COPY report TO 'x.csv'",
                "copy (select 1) to 'x.csv'",
                "INSTALL httpfs",
                "load httpfs",
                "set threads = 9",
                "reset threads",
                "PRAGMA database_list",
                "call pragma_version()",
                "CREATE TABLE x AS SELECT 1",
                "create macro f() as 1",
                "create secret (type s3)",
                "insert into report values (1)",
                "update report set rain = 1",
                "delete from report",
                "drop table report",
                "alter table report rename to x",
                "export database 'x'",
                "import database 'x'",
                "checkpoint",
                "vacuum",
                "begin",
                "use memory",
                "prepare x as select 1",
                "execute x",
                "explain analyze select 1",
            )
        ],
        ("/* c */ -- d\n attach 'x'", "ATTACH is not allowed"),
        ("with x as (insert into report values (1) returning *) select * from x", "INSERT is not allowed"),
        ("with x as (delete from report returning *) select * from x", "DELETE is not allowed"),
        ("select * from (show tables)", "SHOW is not allowed"),
        ("describe report", "SHOW is not allowed"),
        ("pivot report on city using count(*)", "PIVOT without its values"),
        ("select 1; select 2", "there are 2 statements"),
        ("select 1; attach 'x'", "there are several statements"),
        ("-- nothing", "there are 0 statements"),
        *[
            (f"select * from {function}", f"the table function {function.split('(')[0]}() is not allowed")
            for function in (
                "read_csv('/etc/passwd')",
                "read_text('/proc/self/environ')",
                "read_blob('/etc/passwd')",
                "read_parquet('s3://x/y')",
                "read_json('http://127.0.0.1/')",
                "glob('/*')",
                "sniff_csv('/etc/passwd')",
                "parquet_metadata('x')",
                "query('select 1')",
                "query_table('report')",
                "duckdb_settings()",
                "duckdb_secrets()",
                "which_secret('s3://x', 's3')",
                "json_execute_serialized_sql('x')",
                "arrow_scan(1, 2, 3)",
                "pandas_scan(1)",
                "python_map_function(1)",
            )
        ],
        ("select (select content from read_text('/etc/passwd'))", "read_text() is not allowed"),
        ("select exists (from glob('*'))", "glob() is not allowed"),
        ("select * from report, lateral (from read_csv('/etc/passwd'))", "read_csv() is not allowed"),
        ("with x as (from read_csv('/etc/passwd')) select 1", "read_csv() is not allowed"),
        ("select 1 union all select 2 from read_csv('/etc/passwd')", "read_csv() is not allowed"),
        (
            "select 1 order by (select max(content) from read_text('/etc/passwd'))",
            "read_text() is not allowed",
        ),
        ("select getenv('HOME')", "getenv() is not allowed"),
        ("select current_setting('temp_directory')", "current_setting() is not allowed"),
        ("select list_transform(['x'], lambda x: getvariable(x))", "getvariable() is not allowed"),
        ("select sum(sleep_ms(1)) over () from report", "sleep_ms() is not allowed"),
        ("select 'x'.write_log()", "write_log() is not allowed"),
        ("select * from '/etc/passwd'", "no table '/etc/passwd'"),
        ("select * from 'https://127.0.0.1/x.csv'", "no table 'https://127.0.0.1/x.csv'"),
        ("select * from information_schema.tables", "no table 'information_schema.tables'"),
        ("select * from memory.main.report", "no table 'memory.main.report'"),
        ("select * from sqlite_master", "no table 'sqlite_master'"),
        ("select * from files", "no table 'files'"),
        (
            "select (with sqlite_master as (select 1) from sqlite_master), 1 from sqlite_master",
            "own",
        ),
        ("select nothing from report", "nothing"),
        ("selec 1", "syntax error"),
        ("select 1 \0", "NUL"),
        ("select ?", "parameters"),
        ("select " + "1+" * 60_000 + "1", "100000 characters"),
        ("select " + "(" * 3_000 + "1" + ")" * 3_000, "depth"),
    ],
)
def test_what_is_no_select_over_the_tables_is_refused(tmp_path: Path, sql: str, words: str) -> None:
    with pytest.raises(StatementRefusedError) as refused:
        answered(tmp_path, sql)
    assert refused.value.field == "sql"
    assert words in refused.value.explained()


def test_the_database_refuses_it_too(tmp_path: Path) -> None:
    """Behind the check of the statement."""
    import duckdb

    from actions.stored.database import database

    (tmp_path / "given").write_text("a\n1\n")
    with database(tmp_path, Limits(), tmp_path / "given") as connection:
        assert connection.execute(f"FROM read_csv('{tmp_path / 'given'}')").fetchall() == [(1,)]
        for sql in (
            "FROM read_text('/etc/passwd')",
            f"FROM read_text('{tmp_path}/given/../../../../../etc/passwd')",
            "FROM glob('/*')",
            "COPY (SELECT 1) TO '/tmp/x.csv'",
            "ATTACH '/tmp/x.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
            "SET allowed_paths = ['/etc/passwd']",
            "SET memory_limit = '1TB'",
            "FROM limits",  # a variable of Python
            "SELECT getenv('HOME')",
        ):
            with pytest.raises(duckdb.Error):
                connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"sql": " ", "tables": {"a": "k"}}, "sql"),
        ({"sql": "select 1", "tables": {}}, "tables"),
        ({"sql": "select 1", "tables": {f"t{n}": "k" for n in range(21)}}, "tables"),
        ({"sql": "select 1", "tables": {"a": "k", "A": "k"}}, "tables"),
        ({"sql": "select 1", "tables": {'a"b': "k"}}, "tables"),
        ({"sql": "select 1", "tables": {"a": "../x"}}, "key"),
        ({"sql": "select 1", "tables": {"a": "k.jsonl"}, "output": "k.jsonl"}, "output"),
        ({"sql": "select 1", "tables": {"a": "k"}, "output": "x.csv"}, "output"),
        ({"sql": "select 1", "tables": {"a": "k"}, "output": "x.jsonl/y"}, "output"),
    ],
)
def test_a_payload_that_cannot_work(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(StorageError) as refused:
        Query(**payload)
    assert isinstance(refused.value, InvalidArgumentError | ValueError)
    assert refused.value.field == field


# -- limits


def test_rows_in_the_result_are_capped(tmp_path: Path) -> None:
    found = answered(tmp_path, "select range as n from range(5000)", output="all.jsonl")
    assert (found["row_count"], len(found["rows"]), found["truncated"]) == (5000, 1000, True)
    lines = (tmp_path / "place" / "all.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(5000))
    found = answered(tmp_path, "select repeat('x', 100000) as x from range(5)")
    assert (found["row_count"], len(found["rows"]), found["truncated"]) == (5, 2, True)


@pytest.mark.parametrize(
    "sql",
    ["select * from range(10000000000)", "select string_agg(repeat('x', 1000000), '') from range(1000)"],
)
def test_memory_and_disk_are_limited(tmp_path: Path, sql: str) -> None:
    with pytest.raises(AnalysisLimitError) as refused:
        answered(tmp_path, sql, memory_bytes=128 << 20, disk_bytes=32 << 20)
    assert "128 MiB of memory, 32 MiB of disk" in refused.value.explained()


async def ran(storage: StorageManager, payload: dict[str, Any]) -> TaskRecord:
    engine = TaskEngine(storage, Registry(["actions"]))
    submitted = await engine.submit("query", "agent", payload)
    (message,) = await storage.backend.queues.receive(TASK_QUEUE)
    await engine.worker.process(message.text, queue=TASK_QUEUE)
    return await engine.records.get(submitted.task_id)


async def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_ANALYSIS_SECONDS", "3")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sql = "select count(*) from range(10000000) a, range(10000000) b where a.range + b.range < 0"
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        await storage.save("r.csv", REPORT.decode(), content_type="text/csv")
        record = await ran(storage, {"sql": sql, "tables": {"report": "r.csv"}})
        assert record.error is not None
        assert (record.status, record.error.code) == (TaskStatus.FAILED, "analysis-limit")
        assert "3 seconds" in record.error.message
        assert list((tmp_path / "temporary").iterdir()) == []


# -- as a task, on every store


async def test_results_are_objects(task_store: tuple[str, Any], tmp_path: Path) -> None:
    async with opened(task_store, tmp_path) as storage:
        await storage.save("reports/r.csv", REPORT.decode(), content_type="text/csv")
        await storage.save("cities.json", [{"city": "Oslo", "land": "NO"}, {"city": "Rome", "land": "IT"}])
        payload: dict[str, Any] = {
            "sql": "select land, sum(rain)::decimal(9, 1) as rain"
            " from report join cities using (city) group by 1 order by 1",
            "tables": {"report": "reports/r.csv", "cities": "cities.json"},
        }
        expected = [{"land": "IT", "rain": "0.0"}, {"land": "NO", "rain": "1.5"}]
        record = await ran(storage, payload)
        assert record.error is None
        assert record.result["rows"] == expected
        for output, content_type in (
            ("o.jsonl", "application/x-ndjson"),
            ("o.parquet", "application/vnd.apache.parquet"),
        ):
            for _ in range(2):  # Its own result it may replace.
                record = await ran(storage, {**payload, "output": output})
                assert record.status is TaskStatus.SUCCEEDED
            assert (await storage.info(output)).content_type == content_type
            again = await ran(storage, {"sql": "from r order by land", "tables": {"r": output}})
            assert again.result["rows"] == expected
        await storage.save("mine.jsonl", "mine")
        record = await ran(storage, {**payload, "output": "mine.jsonl"})
        assert record.error is not None
        assert record.error.code == "precondition-failed"
        assert await storage.load("mine.jsonl") == "mine"


@pytest.mark.parametrize(
    ("payload", "code", "words"),
    [
        ({"sql": "attach 'x'", "tables": {"a": "r.csv"}}, "statement-refused", "ATTACH is not allowed"),
        ({"sql": "from a", "tables": {"a": "none.csv"}}, "key-not-found", "none.csv"),
        (
            {"sql": "from a", "tables": {"a": "note.txt"}},
            "unsupported-report",
            "table 'a': 'note.txt' is text",
        ),
        (
            {"sql": "from a", "tables": {"a": "broken.csv"}},
            "malformed-report",
            "table 'a': line 2: a quote is",
        ),
    ],
)
async def test_a_query_that_cannot_work_says_why_and_is_not_tried_again(
    payload: dict[str, Any], code: str, words: str
) -> None:
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        await storage.save("r.csv", REPORT.decode(), content_type="text/csv")
        await storage.save("broken.csv", 'a,b\n1,"x', content_type="text/csv")
        await storage.save("note.txt", "hello")
        record = await ran(storage, payload)
        assert record.error is not None
        assert (record.status, record.attempts, record.error.code) == (TaskStatus.FAILED, 1, code)
        assert words in record.error.message


# -- names, numbers and places of errors


@pytest.mark.parametrize("table", ["cells", "spilled", "one", "output", "pg_tables", "order"])
async def test_a_table_may_have_any_name(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_ANALYSIS_MEMORY_MB", "128")
    async with StorageManager(StorageConfig(storage_type="memory")) as storage:
        await storage.save("r.csv", REPORT.decode(), content_type="text/csv")
        # More than fits into memory, so that the database writes temporary files.
        sql = f'select count(*) as n from (from "{table}", "x", range(300000) order by hash(range))'
        record = await ran(storage, {"sql": sql, "tables": {table: "r.csv", "x": "r.csv"}})
        assert record.error is None
        assert record.result["rows"] == [{"n": 2_700_000}]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("MAP {{'a': 1}: 2}", [{"key": {"a": 1}, "value": 2}]),
        ("MAP {[DATE '2024-02-29']: 'x'}", [{"key": ["2024-02-29"], "value": "x"}]),
        ("{'a': [1, 2]}::VARIANT", {"a": [1, 2]}),
        ("'[1e400, -1e400, 1.5]'::JSON", ["1e400", "-1e400", 1.5]),
        ("DATE '0044-03-15 (BC)'", "-0043-03-15"),
        ("TIMESTAMP '0044-03-15 (BC) 10:00:00'", "-0043-03-15T10:00:00"),
        ("TIMESTAMPTZ '0001-03-15 (BC) 10:00:00+00'", "0000-03-15T10:00:00Z"),
    ],
)
def test_values_without_a_form_of_their_own(tmp_path: Path, sql: str, expected: Any) -> None:
    found = rows(tmp_path, f"SELECT {sql} AS v")
    assert found == [{"v": expected}]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b'[{"a":9007199254740993},{"a":1.5}]', "application/json"),
        (b'[{"a":123456789012345678901234567890}]', "application/json"),
        (b"a,b\n9007199254740993,1\n1.5,2\n", "text/csv"),
    ],
)
def test_rounded_integers_are_a_warning(tmp_path: Path, data: bytes, content_type: str) -> None:
    (warning,) = answered(tmp_path, "from report", data, content_type)["warnings"]
    assert warning.startswith("report: column 'a' has numbers over 2**53")
    assert answered(tmp_path, "from report", b'[{"a":1.5},{"a":2}]', "application/json")["warnings"] == []


def test_records_with_few_keys_in_common_are_columns(tmp_path: Path) -> None:
    data = json.dumps([{"id": n, f"k{n}": n} for n in range(300)]).encode()
    found = answered(tmp_path, "select id, k299 from report order by id desc", data, "application/json")
    assert found["rows"][:2] == [{"id": 299, "k299": 299}, {"id": 298, "k299": None}]


@pytest.mark.parametrize(
    ("data", "content_type", "words"),
    [
        (b'{"a":1}\n\nx\n', "application/x-ndjson", "line 3: "),
        (b'{"a":1} {"a":2}\n', "application/x-ndjson", "line 1: "),
        (b'{"a":1}\n{"a":2', "application/x-ndjson", "line 2: "),
        (b'[{"a":1},]', "application/json", "byte 9"),
    ],
)
def test_malformed_json_names_its_place(tmp_path: Path, data: bytes, content_type: str, words: str) -> None:
    with pytest.raises(StorageError) as refused:
        answered(tmp_path, "from report", data, content_type)
    assert words in str(refused.value)
