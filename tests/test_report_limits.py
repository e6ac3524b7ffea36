"""Reports that are made to be too much: each gives a profile or an error that says what is wrong, within its
memory and time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actions.report import profile
from actions.stored.limits import Limits
from storage_lib.errors import ConfigurationError, StorageError
from storage_lib.tasks.isolation import run
from tests.effort import SOAK

MOST_SECONDS = 600.0
LIMITS = Limits(memory_bytes=256 << 20, disk_bytes=128 << 20)
MANY = 10_000 if SOAK else 500
COLUMNS = ",".join(f"c{i}" for i in range(MANY))


async def profiled(tmp_path: Path, data: bytes, content_type: str, limits: Limits = LIMITS) -> Any:
    path = tmp_path / "report"
    path.write_bytes(data)
    started = time.monotonic()
    try:
        return await run(profile, path, content_type, "report", limits)
    except StorageError as error:
        return error
    finally:
        assert time.monotonic() - started < MOST_SECONDS


def bomb(tmp_path: Path) -> bytes:
    """A gigabyte of the same letters in a few kilobytes."""
    import duckdb

    path = tmp_path / "bomb.parquet"
    with duckdb.connect() as connection:
        rows = "SELECT range AS id, repeat('x', 2000) || range AS text FROM range(500000)"
        connection.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    assert path.stat().st_size < 16 << 20
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "content_type", "words"),
    [
        pytest.param(
            lambda _: f"{COLUMNS}\n".encode() + b"1," * (MANY - 1) + b"1\n", "text/csv", None, id="columns"
        ),
        pytest.param(lambda _: b"x" * 40_000_000, "text/csv", "line 1: it has over", id="one line"),
        pytest.param(lambda _: b"x " * (4_000 * MANY), "text/plain", None, id="one paragraph"),
        pytest.param(
            lambda _: b'a,b\n1,2\n3,"x\n4,5\n', "text/csv", "line 3: a quote is never closed", id="open quote"
        ),
        pytest.param(lambda _: b"a,b\n1,\0\n", "text/csv", "NUL character near byte 6", id="NUL"),
        pytest.param(
            lambda _: b"[" * 100_000 + b"]" * 100_000, "application/json", "100 levels", id="deep JSON"
        ),
        pytest.param(
            lambda _: b"[" + b",".join(b'{"k%d":1}' % n for n in range(2 * MANY)) + b"]",
            "application/json",
            None,
            id="keys",
        ),
        pytest.param(lambda _: b"[" * 50_000, "text/markdown", None, id="brackets"),
        pytest.param(lambda _: b"# a\n" * 600_000, "text/markdown", "2097152 bytes", id="long Markdown"),
        pytest.param(bomb, "application/vnd.apache.parquet", "256 MiB of memory, 128 MiB of disk", id="bomb"),
    ],
)
async def test_a_report_is_bounded(
    tmp_path: Path, make: Callable[[Path], bytes], content_type: str, words: str | None
) -> None:
    found = await profiled(tmp_path, make(tmp_path), content_type)
    if words is None:
        assert isinstance(found, dict)
        return
    assert isinstance(found, StorageError)
    assert words in found.explained()


async def test_names_are_names(tmp_path: Path) -> None:
    name = 'a""; DROP TABLE report; -- \''
    found = await profiled(tmp_path, f'"{name}",b\n1,2\n'.encode(), "text/csv")
    assert [each["name"] for each in found["table"]["columns"]] == [name.replace('""', '"'), "b"]
    found = await profiled(tmp_path, b'[{"a\\"; DROP TABLE x": {"b\'c": 2}}]', "application/json")
    assert [each["name"] for each in found["table"]["columns"]] == ["a\"; DROP TABLE x.b'c"]


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "9" * 30])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AGENT_ANALYSIS_THREADS", value)
    with pytest.raises(ConfigurationError, match="AGENT_ANALYSIS_THREADS") as refused:
        Limits.from_env()
    assert refused.value.field == "AGENT_ANALYSIS_THREADS"
