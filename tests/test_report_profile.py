"""`analyze_report`'s profile: against independent computations on public data, and by laws."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import vega_datasets
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actions.report import profile as profile_file
from actions.stored import delimited, tables
from actions.stored.delimited import MISSING as MISSING_TEXT
from actions.stored.errors import MalformedReportError, UnsupportedReportError
from actions.stored.limits import Limits
from storage_lib.errors import InvalidArgumentError, SerializationError
from tests.effort import examples

DATA = Path(vega_datasets.__file__).parent / "_data"
SITE_PACKAGES = DATA.parent.parent
TABLES = sorted(path.name for path in DATA.iterdir() if path.suffix in (".csv", ".json"))
MARKDOWN = SITE_PACKAGES / "pyright" / "dist" / "dist" / "typeshed-fallback" / "README.md"
QUANTILES = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


def profile(data: bytes, *, content_type: str | None = None, name: str = "", **limits: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report"
        path.write_bytes(data)
        return profile_file(path, content_type, name, Limits(**limits))


def table(data: bytes | str, content_type: str | None = "text/csv", **options: Any) -> dict[str, Any]:
    return report(data, content_type, **options)["table"]


def report(data: bytes | str, content_type: str | None = "text/csv", **options: Any) -> dict[str, Any]:
    encoded = data.encode() if isinstance(data, str) else data
    result = profile(encoded, content_type=content_type, **options)
    # Every answer must survive a strict JSON encoder and come back the same.
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return result


def columns(data: bytes | str, content_type: str | None = "text/csv") -> dict[str, dict[str, Any]]:
    return {column["name"]: column for column in table(data, content_type)["columns"]}


def types(data: bytes | str, content_type: str | None = "text/csv") -> dict[str, str]:
    return {name: column["type"] for name, column in columns(data, content_type).items()}


def column_of(values: list[Any]) -> dict[str, Any]:
    return columns("v\n" + "".join(f"{value}\n" for value in values), "text/csv; header=present")["v"]


# --- public data -------------------------------------------------------------------------------------------


def raw_columns(name: str) -> tuple[list[str], list[list[Any]]]:
    """The file's cells as its own format has them, with None for a missing one."""
    if name.endswith(".json"):
        records = json.loads((DATA / name).read_text("utf-8"))
        names = list(dict.fromkeys(key for record in records for key in record))
        return names, [[record.get(key) for record in records] for key in names]
    with (DATA / name).open(encoding="utf-8", newline="") as stream:
        names, *rows = csv.reader(stream)
    return names, [
        [None if cell in MISSING_TEXT else cell for cell in column] for column in zip(*rows, strict=True)
    ]


def as_numbers(cells: list[Any]) -> list[float] | None:
    if not cells or any(isinstance(cell, bool) for cell in cells):
        return None
    if all(isinstance(cell, int | float) for cell in cells):
        return cells
    frame = pd.read_csv(io.StringIO("v\n" + "\n".join(f'"{cell}"' for cell in cells)), keep_default_na=False)
    from_text = all(isinstance(cell, str) for cell in cells) and pd.api.types.is_numeric_dtype(frame["v"])
    return frame["v"].tolist() if from_text else None


@pytest.mark.parametrize("name", TABLES)
def test_public_tables_agree_with_numpy_and_pandas(name: str) -> None:
    result = table((DATA / name).read_bytes(), None, name=f"datasets/{name}")
    names, expected = raw_columns(name)
    assert [column["name"] for column in result["columns"]] == names
    assert result["rows"] == len(expected[0])
    assert result["duplicate_rows"] == len(expected[0]) - len({*zip(*map(map_repr, expected), strict=True)})
    assert result["complete_rows"] == sum(None not in row for row in zip(*expected, strict=True))
    numeric: dict[str, list[float]] = {}
    for column, cells in zip(result["columns"], expected, strict=True):
        present = [cell for cell in cells if cell is not None]
        assert column["count"] == len(present)
        assert column["missing"] == len(cells) - len(present)
        numbers = None if name.endswith(".json") and isinstance(present[0], str) else as_numbers(present)
        assert (column["type"] in ("integer", "number")) == (numbers is not None), column["name"]
        if numbers is None:
            check_text(column, present)
        else:
            check_numbers(column, numbers)
            numeric[column["name"]] = [math.nan if cell is None else float(cell) for cell in cells]
    check_correlations(result["correlations"], numeric)


def map_repr(cells: list[Any]) -> list[str]:
    return [repr(cell) for cell in cells]


def check_text(column: dict[str, Any], present: list[Any]) -> None:
    counts = Counter(present)
    assert column["distinct"] == len(counts)
    assert column["unique"] == (len(counts) == len(present) and not column["missing"])
    if not column["unique"]:
        assert [item["count"] for item in column["top"]] == [n for _, n in counts.most_common(10)]
        shown = Counter(str(cell) if column["type"] == "string" else pd.Timestamp(cell) for cell in present)
        of = str if column["type"] == "string" else pd.Timestamp
        assert all(shown[of(item["value"])] == item["count"] for item in column["top"])
    if column["type"] == "string":
        lengths = [len(cell) for cell in present]
        assert column["length"] == {
            "min": min(lengths),
            "max": max(lengths),
            "mean": pytest.approx(statistics.mean(lengths)),
        }
    else:
        moments = pd.to_datetime(pd.Series(present), format="mixed")
        assert column["type"] in ("date", "datetime")
        assert pd.Timestamp(column["min"]) == moments.min()
        assert pd.Timestamp(column["max"]) == moments.max()


def check_numbers(column: dict[str, Any], numbers: list[float]) -> None:
    values = np.array(numbers, dtype=float)
    assert column["distinct"] == len(np.unique(values))
    assert column["min"] == values.min()
    assert column["max"] == values.max()
    assert column["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert column["stdev"] == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert column["sum"] == pytest.approx(values.sum(), rel=1e-12)
    assert column["zeros"] == np.count_nonzero(values == 0)
    assert column["negatives"] == np.count_nonzero(values < 0)
    for name, q in QUANTILES.items():
        assert column["quantiles"][name] == pytest.approx(np.quantile(values, q), rel=1e-12), name
    q1, q3 = np.quantile(values, [0.25, 0.75])
    outside = (values < q1 - 1.5 * (q3 - q1)) | (values > q3 + 1.5 * (q3 - q1))
    assert column["outliers"]["count"] == np.count_nonzero(outside)


def check_correlations(found: dict[str, Any], numeric: dict[str, list[float]]) -> None:
    expected = pd.DataFrame(numeric).corr(min_periods=3)
    strong = [
        (abs(expected.loc[a, b]), a, b)
        for i, a in enumerate(numeric)
        for b in list(numeric)[i + 1 :]
        if abs(expected.loc[a, b]) >= 0.5
    ]
    assert [abs(pair["r"]) for pair in found["pairs"]] == pytest.approx(
        sorted((r for r, *_ in strong), reverse=True)[:10]
    )
    for pair in found["pairs"]:
        assert pair["r"] == pytest.approx(expected.loc[pair["columns"][0], pair["columns"][1]])


def test_known_columns_of_public_data_have_the_type_a_reader_expects() -> None:
    def of(name: str) -> dict[str, str]:
        return types((DATA / name).read_bytes(), "application/json" if name.endswith("json") else "text/csv")

    assert of("seattle-weather.csv")["date"] == "date"
    assert of("sf-temps.csv") == {"temp": "number", "date": "datetime"}
    assert of("stocks.csv") == {"symbol": "string", "date": "date", "price": "number"}
    assert of("airports.csv")["iata"] == "string"
    assert of("wheat.json") == {"year": "string", "wheat": "number", "wages": "number"}
    assert of("cars.json")["Year"] == "date"


def test_the_same_table_has_the_same_profile_in_every_delimited_format() -> None:
    rows = list(csv.reader(io.StringIO((DATA / "la-riots.csv").read_text("utf-8"), newline="")))
    profiles: list[dict[str, Any]] = []
    for delimiter in ",\t;|":
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter).writerows(rows)
        for data in (
            out.getvalue().encode(),
            out.getvalue().encode("utf-8-sig"),
            out.getvalue().encode("utf-16"),
        ):
            result = table(data, None)
            assert result.pop("delimiter") == delimiter
            profiles.append(result)
    assert all(result == profiles[0] for result in profiles)


def test_records_have_the_same_profile_as_json_and_as_json_lines() -> None:
    records = json.loads((DATA / "cars.json").read_text("utf-8"))
    lines = "".join(json.dumps(record) + "\r\n" for record in records)
    assert table(lines, "application/x-ndjson") == table(json.dumps(records), "application/json")
    assert report(lines, None)["format"] == "jsonl"


# --- delimited text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "delimiter", "names"),
    [
        ("a;b;c\n1,5;2,5;x\n3,5;4,1;y\n", ";", ["a", "b", "c"]),
        ("1,5;2,5\n3,5;4,5\n", ";", ["column_1", "column_2"]),
        ('a;b\n"x, y, z";1\n"u, v, w";2\n', ";", ["a", "b"]),
        ("a|b\n1;2|3\n4;5|6\n", "|", ["a", "b"]),
        ("sep=;\na;b\n1;2\n", ";", ["a", "b"]),
        ('a, b\n"x, y", 1\n"z", 2\n', ",", ["a", "b"]),
        ('a, b\n1, "x, y"\n2, "z"\n', ",", ["a", "b"]),
        ("a,b\r1,2\r3,4\r", ",", ["a", "b"]),
        ("only\n1\n2\n", ",", ["only"]),
    ],
)
def test_delimiters_are_found(text: str, delimiter: str, names: list[str]) -> None:
    result = table(text)
    assert result["delimiter"] == delimiter
    assert [column["name"] for column in result["columns"]] == names


@pytest.mark.parametrize(
    ("text", "content_type", "header", "names", "rows"),
    [
        ("day,n\n2024-01-01,1\n", "text/csv", "detected", ["day", "n"], 1),
        ("1,2\n3,4\n", "text/csv", "none", ["column_1", "column_2"], 2),
        ("bob,1\njim,2\n", "text/csv", "none", ["column_1", "column_2"], 2),
        ("name,city\nbob,rome\njim,oslo\n", "text/csv", "assumed", ["name", "city"], 2),
        ("x,y\ny,x\nx,x\n", "text/csv", "none", ["column_1", "column_2"], 3),
        ("x,y\nx,z\n", "text/csv; header=present", "declared", ["x", "y"], 1),
        ("n\n1\n", 'text/csv; header="absent"', "declared", ["column_1"], 2),
        ("land,2001,2002,2003\nDE,1,2,3\n", "text/csv", "detected", ["land", "2001", "2002", "2003"], 1),
        (",n\nr1,1\nr2,2\n", "text/csv", "detected", ["column_1", "n"], 2),
        ("n,m\nr1,1,2\nr2,3,4\n", "text/csv", "detected", ["column_1", "n", "m"], 2),
        ("Sales 2024\n\nn,m\n1,2\n3,4\n", "text/csv", "detected", ["n", "m"], 2),
    ],
)
def test_headers(text: str, content_type: str, header: str, names: list[str], rows: int) -> None:
    result = table(text, content_type)
    assert result["header"] == header
    assert [column["name"] for column in result["columns"]] == names
    assert result["rows"] == rows


def test_repeated_names_are_told_apart_and_reported() -> None:
    result = report("a,a,a_2,a\n1,2,3,4\n")
    assert [column["name"] for column in result["table"]["columns"]] == ["a", "a_3", "a_2", "a_4"]
    assert sum("the name 'a' again" in warning for warning in result["warnings"]) == 2


def test_ragged_rows_are_counted_with_their_lines_and_kept() -> None:
    result = report('a,b\n1,"x\ny"\n2\n\n3,4,5,6\n7,8\n')
    assert result["table"]["rows"] == 4
    assert result["table"]["ragged_rows"] == 2
    assert result["table"]["blank_lines"] == 1
    assert result["table"]["columns"][1]["missing"] == 1
    (ragged,) = [warning for warning in result["warnings"] if "do not have 2 cells" in warning]
    assert "missing) in lines [4];" in ragged
    assert "surplus cells left out) in lines [6]" in ragged


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "+3"], "integer"),
        (["1", "2.5", "-1e-3", ".5"], "number"),
        (["00123", "12345"], "string"),
        (["+49170123456", "+49170123457"], "string"),
        (["true", "FALSE", "Yes", "no"], "boolean"),
        (["yes", "no", "maybe"], "string"),
        (["2024-02-29", "2023/12/31", "01.03.2024", "Feb 3 2024", "March 4, 2024", "5 Apr 2024"], "date"),
        (["2024-02-29T10:00", "2024-02-29 10:00:01.5Z", "2024-02-29 10:00:00+02:00"], "datetime"),
        (["2024-02-29", "2024-02-29T10:00"], "datetime"),
        (["03/04/2024", "05/06/2024"], "string"),
        (["1,000", "2,000"], "string"),
        (["€5", "$6"], "string"),
        (["1_000", "٣", "inf", "0x10"], "string"),
        (["1", "2", "three"], "mixed"),
        (["2023-02-29", "2024-02-29"], "mixed"),
        (["", "NA", "N/A", "null", "NaN"], "empty"),
        (["9" * 310, "8" * 310], "string"),
    ],
)
def test_types(values: list[str], kind: str) -> None:
    text = "v,w\n" + "".join(f'"{value}",x\n' for value in values)
    assert columns(text, "text/csv; header=present")["v"]["type"] == kind


def test_mixed_columns_say_what_is_in_them() -> None:
    column = column_of([1, 2, 3, "n.a.", 4.5])
    assert column["types"] == {"integer": 3, "string": 1, "number": 1}


def test_every_way_of_being_missing_is_counted() -> None:
    column = columns("v,w\n1,a\n,b\nNA,c\nNA,d\n null ,e\nNaN,f\n")["v"]
    assert (column["type"], column["count"], column["missing"]) == ("integer", 1, 5)
    assert column["missing_values"] == {"NA": 2, "": 1, "null": 1, "NaN": 1}


def test_numbers_are_distinct_as_values_and_large_integers_exact() -> None:
    column = column_of(["1.0", "1.00", "2.5"])
    assert (column["distinct"], column["top"][0]) == (2, {"value": 1.0, "count": 2})
    column = column_of([2**80, 2**80 + 1, -(10**30)])
    assert (column["min"], column["max"], column["sum"]) == (-(10**30), 2**80 + 1, 2 * 2**80 + 1 - 10**30)
    column = column_of([10**40, -(10**60)])  # beyond 128 bits: as doubles
    assert (column["type"], column["min"], column["max"]) == ("integer", -1e60, 1e40)


def test_numbers_beyond_a_double_never_make_a_figure_that_is_no_json() -> None:
    column = column_of(["1e308", "-1e308", "1.5e308"])
    assert (column["max"], column["stdev"]) == (1.5e308, None)
    column = column_of(["1e308", "1e400"])
    assert column["types"] == {"number": 1, "string": 1}


def test_offsets_and_naive_times_are_ordered_as_utc() -> None:
    column = column_of(["2024-01-01T00:30:00+01:00", "2024-01-01T00:00:00", "2024-01-01"])
    assert (column["min"], column["max"]) == ("2023-12-31T23:30:00Z", "2024-01-01T00:00:00Z")
    column = column_of(["2024-01-01T00:30:00", "2024-01-01"])
    assert (column["min"], column["max"]) == ("2024-01-01T00:00:00", "2024-01-01T00:30:00")


def test_duplicates_complete_rows_and_candidate_keys() -> None:
    result = table("id,a,b\n1,x,1\n2,x,\n3,y,2\n3,y,2\n3,y,2\n")
    assert (result["rows"], result["duplicate_rows"], result["complete_rows"]) == (5, 2, 4)
    assert [column["unique"] for column in result["columns"]] == [False, False, False]
    assert columns("id,a\n1,x\n2,x\n")["id"]["unique"]


def test_correlations_use_the_rows_where_both_have_a_value() -> None:
    result = table("a,b,c\n1,2,5\n2,,5\n3,6,5\n4,8,5\n,1,5\n")
    (pair,) = result["correlations"]["pairs"]
    assert pair["columns"] == ["a", "b"]
    assert pair["rows"] == 3
    assert pair["r"] == pytest.approx(1.0)


# --- many values -------------------------------------------------------------------------------------------


def test_figures_of_many_values_are_exact() -> None:
    source = np.random.default_rng(7)
    n = 60_000
    values: dict[str, list[Any]] = {
        "key": [f"user-{i:07}" for i in range(n)],
        "real": [round(float(source.normal(100, 15)), 6) for _ in range(n)],
        "word": [f"w{min(int(source.pareto(0.35)), 4_000_000)}" for _ in range(n)],
    }
    values["double"] = [2 * x + float(source.random()) for x in values["real"]]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(values)
    writer.writerows(zip(*values.values(), strict=True))
    result = table(out.getvalue())
    found = {column["name"]: column for column in result["columns"]}
    assert (found["key"]["unique"], found["key"]["distinct"]) == (True, n)
    check_numbers(found["real"], values["real"])
    check_text(found["word"], values["word"])
    assert result["correlations"]["pairs"][0]["columns"] == ["real", "double"]


def test_a_column_that_changes_after_many_rows_is_not_misjudged() -> None:
    rows = "".join(f"{i},{i}\n" for i in range(30_000))
    found = columns("a,b\n" + rows + "0001,x\n")
    assert found["a"]["type"] == "string"
    assert found["b"]["types"] == {"integer": 30_000, "string": 1}


def test_more_columns_than_the_limit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_COLUMNS", 20)
    result = report(",".join(f"c{i}" for i in range(30)) + "\n" + ",".join("1" * 30) + "\n")
    assert result["table"]["column_count"] == 20
    assert any("30 columns" in warning for warning in result["warnings"])


def test_years_before_the_first_are_iso_8601() -> None:
    column = table("day,n\n0000-01-02,1\n2024-01-01,2\n")["columns"][0]
    assert (column["type"], column["min"], column["max"]) == ("date", "0000-01-02", "2024-01-01")


def test_a_table_without_rows_has_no_complete_ones() -> None:
    found = table("a,b\n", "text/csv; header=present")
    assert (found["rows"], found["complete_rows"], found["duplicate_rows"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("ä,ö\n1,ß\n2,x\n", "cp1252"), ("name;prix\nCafé;3\nThé;2\n", "cp1252")],
)
def test_a_guess_is_an_encoding_that_is_in_use(content: str, encoding: str) -> None:
    result = report(content.encode(encoding))
    assert result["encoding"] == encoding
    assert any("a guess" in warning for warning in result["warnings"])


# --- JSON --------------------------------------------------------------------------------------------------


def test_records_with_few_keys_in_common_have_columns() -> None:
    found = table(
        json.dumps([{"id": n, f"k{n}": n, "of": {f"x{n}": n}} for n in range(60)]), "application/json"
    )
    assert {each["name"]: each["count"] for each in found["columns"]} == {
        "id": 60,
        **{f"k{n}": 1 for n in range(60)},
        **{f"of.x{n}": 1 for n in range(60)},
    }


def test_records_with_too_many_keys_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_COLUMNS", 20)
    result = report(json.dumps([{f"k{n}": n} for n in range(60)]), "application/json")
    assert [each["name"] for each in result["table"]["columns"]] == ["json"]
    assert any("one column, 'json'" in warning for warning in result["warnings"])


def test_objects_in_records_are_flattened_one_level() -> None:
    records = [
        {"a": {"b": 1, "c": {"d": 1}}, "a.b": "x", "list": [1], "flag": True, "one": 1},
        {"a": {"b": 2.5}, "flag": None, "one": 1.0, "late": "2024-01-01"},
    ]
    result = report(json.dumps(records), "application/json")
    found = {column["name"]: column for column in result["table"]["columns"]}
    assert {name: column["type"] for name, column in found.items()} == {
        "a.b": "number",
        "a.c": "object",
        "a.b_2": "string",
        "list": "array",
        "flag": "boolean",
        "one": "number",
        "late": "date",
    }
    assert (found["flag"]["missing"], found["late"]["missing"]) == (1, 1)
    assert result["table"]["complete_rows"] == 0


def test_true_is_not_one_and_text_is_no_number_in_json() -> None:
    found = columns('[{"v": true, "w": "1"}, {"v": 1, "w": "2"}]', "application/json")
    assert found["v"]["types"] == {"boolean": 1, "integer": 1}
    assert found["w"]["type"] == "string"


def test_structure_of_a_document() -> None:
    document = {"name": "x", "parts": [{"n": 1}, {"n": 10**30}, {"n": None}], "odd key": {"deep": {"er": []}}}
    result = report(json.dumps(document), "application/json")["structure"]
    paths = {item["path"]: item for item in result["paths"]}
    assert result["depth"] == 4
    assert paths["$.parts"]["size"] == {"min": 3, "max": 3}
    assert paths["$.parts[].n"]["types"] == {"integer": 2, "null": 1}
    assert paths["$.parts[].n"]["max"] == 10**30
    assert paths["$.parts[].n"]["example"] == 1
    assert "$['odd key'].deep.er" in paths


def test_a_column_that_appears_in_a_later_batch_is_missing_before() -> None:
    lines = '{"a":1}\n' * 3_000 + '{"a":1,"b":2}\n'
    result = table(lines, "application/jsonl")
    assert result["columns"][1]["missing"] == 3_000
    assert result["complete_rows"] == 1
    assert result["duplicate_rows"] == 2_999


# --- text --------------------------------------------------------------------------------------------------


def test_plain_text() -> None:
    text = (
        "This is Dr. Smith's report, e.g. a short one. It has three sentences! Really?\n\n"
        "Das Straßenfest war schön.\nSTRASSENFEST heute: 北京欢迎你。हिन्दी भाषा।\n"
    )
    result = report(text, "text/plain")["text"]
    assert result["characters"] == len(text)
    assert (result["lines"], result["paragraphs"], result["sentences"]) == (4, 2, 6)
    assert result["words"] == 10 + 4 + 1 + 4 + 2 + 5 + 2
    assert result["longest_sentences"][0] == {
        "words": 10,
        "line": 1,
        "text": "This is Dr. Smith's report, e.g. a short one.",
    }
    assert result["longest_sentences"][1]["line"] == 4
    assert result["top_words"][0] == {"word": "strassenfest", "count": 2}
    assert all(item["word"] not in ("this", "is", "a") for item in result["top_words"])
    assert result["reading_minutes"] == result["words"] / 200


def test_markdown() -> None:
    text = """---
title: x
---
# One `code` #

Prose with **bold**, a [link](http://a.example/x_(y)), ![image](i.png) and `[no](link)`.
<!-- # hidden
[no](no) -->

```python
# not a heading
- [ ] not a task
```

1. first
   ```sh
   ## still code
   ```
- [ ] open
- [x] done, see [ref] and [text][REF]

    continued

    # indented within the list

Setext
======

    # indented code

| a | b |
|---|--:|
| 1 | 2 |
| 3 | 4 |

> quoted <https://auto.example> and https://bare.example/.

[ref]: http://ref.example
"""
    result = report(text, "text/markdown; charset=utf-8")["text"]
    found = result["markdown"]
    assert found["headings"]["outline"] == [
        {"level": 1, "text": "One code", "line": 4},
        {"level": 1, "text": "indented within the list", "line": 24},
        {"level": 1, "text": "Setext", "line": 26},
    ]
    assert [(link["url"], link["line"]) for link in found["links"]["items"]] == [
        ("http://a.example/x_(y)", 6),
        ("http://ref.example", 20),
        ("http://ref.example", 20),
        ("https://auto.example", 36),
        ("https://bare.example/", 36),
    ]
    assert found["images"]["items"] == [{"text": "image", "url": "i.png", "line": 6}]
    assert found["code_blocks"]["languages"] == {"python": 1, "sh": 1}
    assert found["code_blocks"]["count"] == 3
    assert found["tables"] == {"count": 1, "rows": 2}
    assert found["tasks"] == {"open": 1, "done": 1}
    assert found["list_items"] == 3
    assert found["front_matter_lines"] == 3
    assert "hidden" not in {item["word"] for item in result["top_words"]}


def test_the_readme_of_a_real_package() -> None:
    data = MARKDOWN.read_bytes()
    lines = data.decode().splitlines()
    result = report(data, None, name="docs/README.md")["text"]
    assert result["characters"] == len(data.decode())
    assert result["lines"] == len(lines)
    headings = [(i, line) for i, line in enumerate(lines, start=1) if line.startswith("#")]
    outline = result["markdown"]["headings"]["outline"]
    assert [(h["line"], "#" * h["level"]) for h in outline] == [(i, line.split()[0]) for i, line in headings]
    fences = [line for line in lines if line.startswith("```")]
    assert result["markdown"]["code_blocks"]["count"] == len(fences) // 2
    assert result["markdown"]["code_blocks"]["languages"] == {"bash": 1}
    assert result["markdown"]["list_items"] == sum(
        line.startswith(("1. ", "2. ", "3. ", "- ", "* ")) for line in lines
    )
    assert result["markdown"]["images"]["count"] == data.count(b"![")
    assert result["top_words"][0]["word"] in ("version", "stubs", "typeshed", "package")
    # What is left out of the prose is headings, code, targets of links and markup: most words stay.
    assert 0.8 < result["words"] / len(data.split()) < 1.2


# --- formats and errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "content_type", "name", "expected"),
    [
        (b"a\tb\n1\t2\n", "text/tab-separated-values", "", "csv"),
        (b"a,b\n1,2\n", "application/octet-stream", "reports/x.CSV", "csv"),
        (b"a,b\n1,2\n", "text/plain; charset=utf-8", "x.csv", "csv"),
        (b"a,b\n1,2\n", "text/plain", "", "text"),
        (b"a,b\n1,2\n", None, "", "csv"),
        (b'[{"a":1}]', None, "", "json"),
        (b'{"type":"x"}', "application/geo+json", "", "json"),
        (b'{"a":1}\n{"a":2}\n', None, "", "jsonl"),
        (b"# Title\n\nSome text.\n", None, "", "markdown"),
        (b"Some text, and more.\nThat is it.\n", None, "v1.2/notes", "text"),
    ],
)
def test_formats(data: bytes, content_type: str | None, name: str, expected: str) -> None:
    assert report(data, content_type, name=name)["format"] == expected


@pytest.mark.parametrize(
    ("data", "content_type", "name", "words"),
    [
        (b"<p>", "text/html", "", "text/html"),
        (b"x", "image/png", "x.csv", "image/png"),
        (b"x", None, "a/b.xlsx", ".xlsx"),
        (b"<!DOCTYPE html><p>", None, "", "HTML"),
        (b"PK\x03\x04rest", "text/csv", "", "ZIP"),
        (b"x", "text/csv; charset=klingon", "", "klingon"),
        (b"x", "text/csv; charset=base64", "", "base64"),
    ],
)
def test_unsupported(data: bytes, content_type: str | None, name: str, words: str) -> None:
    with pytest.raises(UnsupportedReportError, match=words) as caught:
        profile(data, content_type=content_type, name=name)
    assert isinstance(caught.value, InvalidArgumentError)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("data", "content_type", "words"),
    [
        (b"", "text/csv", "report is empty"),
        (b"\xef\xbb\xbf \n", "text/plain", "report is empty"),
        (b"a,b\n1,\xe4\n", "text/csv; charset=utf-8", "byte 6 .0xe4. is not utf-8"),
        (b"x" * (1 << 20) + b"\xff", "text/plain; charset=utf-8", "byte 1048576 "),
        (b"x" * ((1 << 20) - 1) + b"\xe2\x82", "text/plain; charset=utf-8", "byte 1048575 "),
        (b"a\x00,\x00", "text/csv", "NUL character near byte 1"),
        (b"a,b", "text/csv; charset=utf-16", "no byte order mark"),
        (b"a,b\n1," + b"2" * (1 << 24), "text/csv", "line 2: it has over 16,777,216 characters"),
        (b'a,b\n1,2\n3,"x\n4,5\n', "text/csv", "line 3: .* never closed"),
        (b'a,b\n"x\ny",2\n"x"y,5\n', "text/csv", "line 4: "),
        (b"a,b\n1," + b"x" * 140_000 + b"\n", "text/csv", "line 2: .* 131,072 characters"),
        (b'{"a":\n tru}', "application/json", r"byte \d+"),
        (b'{"a": [1, 2', "application/json", "truncated"),
        (b'{"a": 1e999}', "application/json", "out of range"),
        (b'{"a":1}{"a":2}', "application/json", "byte 8"),
        (b'[{"a":1},{"b":}]', "application/json", "invalid character .byte 14"),
        (b'{"a":1}\n\n{"b":}\n{"c":}\n', "application/jsonl", "line 3: .*byte 5"),
        (
            b"PAR1" + b"\xff" * 100 + b"PAR1",
            "application/vnd.apache.parquet",
            "the Parquet file cannot be read",
        ),
        (b"not Parquet", "application/parquet", "the Parquet file cannot be read"),
    ],
)
def test_malformed(data: bytes, content_type: str, words: str) -> None:
    with pytest.raises(MalformedReportError, match=words) as caught:
        profile(data, content_type=content_type)
    assert isinstance(caught.value, SerializationError)
    assert caught.value.remedy


def test_charsets() -> None:
    text = "größe,n\nklein,1\n"
    for data, content_type, encoding in [
        (text.encode("cp1252"), "text/csv; charset=windows-1252", "cp1252"),
        (text.encode("utf-16-be"), "text/csv; charset=UTF-16BE", "utf-16-be"),
        (text.encode("utf-16"), "text/csv; charset=utf-16", "utf-16-le"),
        (text.encode("utf-32"), "text/csv", "utf-32-le"),
        (text.encode("utf-8-sig"), 'text/csv; charset="utf-8"', "utf-8"),
    ]:
        result = report(data, content_type)
        assert result["encoding"] == encoding
        assert result["table"]["columns"][0]["name"] == "größe"
        assert result["bytes"] == len(data)
    result = report(text.encode("utf-8-sig"), "text/csv; charset=latin-1")
    assert result["encoding"] == "utf-8"
    assert "byte order mark" in result["warnings"][0]


def test_unbalanced_quotes_in_tab_separated_values_are_characters() -> None:
    result = report('name\tn\n"Weird Al" Yankovic\t1\n', "text/tab-separated-values")
    assert result["table"]["rows"] == 1
    assert result["table"]["columns"][0]["count"] == 1
    assert any("quotes are not balanced" in warning for warning in result["warnings"])


# --- laws --------------------------------------------------------------------------------------------------

CONTENT_TYPES = st.sampled_from(
    [
        None,
        "text/csv",
        "text/tab-separated-values",
        "application/json",
        "application/jsonl",
        "text/markdown",
        "text/plain",
    ]
)
SNIPPETS = st.lists(
    st.sampled_from(
        [
            ",",
            ";",
            "\n",
            "\r\n",
            '"',
            "1",
            "-0",
            "00",
            "1e5",
            "true",
            "NA",
            " ",
            "[",
            "]",
            "{",
            "}",
            '"a":',
            "a",
            "#",
            "```",
            "|",
            "-",
            "é",
            "北。",
            ". A",
            "](x)",
            "2024-01-01",
            "\t",
            "1e309",
            "`",
        ]
    ),
    max_size=40,
).map("".join)


@given(
    data=st.binary(max_size=200) | SNIPPETS.map(str.encode) | st.text().map(str.encode),
    content_type=CONTENT_TYPES,
)
@settings(max_examples=examples(200), deadline=None)
def test_any_bytes_give_a_json_profile_or_one_of_two_errors(data: bytes, content_type: str | None) -> None:
    try:
        result = profile(data, content_type=content_type)
    except (MalformedReportError, UnsupportedReportError):
        return
    json.dumps(result, allow_nan=False)
    assert msgspec.json.decode(msgspec.json.encode(result)) == result
    assert len({"table", "structure", "text"} & set(result)) == 1
    assert profile(data, content_type=content_type) == result


CELLS = st.text(alphabet='ab1.,;"\n \r|\t-0é', max_size=6)


@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=20),
    delimiter=st.sampled_from(",;|\t"),
)
@example(rows=[[""], ["", ";"], ["\r"], [";"]], delimiter=",")
@settings(max_examples=examples(150), deadline=None)
def test_rows_are_those_of_the_csv_module(rows: list[list[str]], delimiter: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    result = report(out.getvalue(), "text/csv; header=absent")["table"]
    expected = [
        row
        for row in csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=result["delimiter"])
        if row
    ]
    preamble = len(expected) - result["rows"]
    assert 0 <= preamble <= 20
    assert all(len(row) == 1 for row in expected[:preamble])
    if all(len(row) == len(rows[0]) > 1 for row in rows):
        assert (result["rows"], result["column_count"]) == (len(rows), len(rows[0]))
        for column, cells in zip(result["columns"], zip(*rows, strict=True), strict=True):
            assert column["missing"] == sum(cell.strip() in MISSING_TEXT for cell in cells)


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=60))
@settings(max_examples=examples(150), deadline=None)
def test_figures_of_any_numbers_agree_with_statistics(values: list[float]) -> None:
    column = column_of([repr(value) for value in values])
    scale = max(map(abs, values)) or 1.0
    assert column["min"] == min(values)
    assert column["max"] == max(values)
    assert column["mean"] == pytest.approx(statistics.mean(values), abs=1e-9 * scale)
    assert column["stdev"] == pytest.approx(statistics.stdev(values), abs=1e-9 * scale)
    for name, q in QUANTILES.items():
        assert column["quantiles"][name] == pytest.approx(float(np.quantile(values, q)), abs=1e-9 * scale)


@given(text=st.text(max_size=400))
@settings(max_examples=examples(200), deadline=None)
def test_sentences_and_words_account_for_all_text(text: str) -> None:
    if not text.strip() or "\0" in text:
        return
    result = report(text, "text/plain")["text"]
    assert result["characters"] == len(text)
    assert result["unique_words"] <= result["words"]
    assert result["sentences"] <= max(1, result["words"])
    assert bool(result["words"]) >= any(character.isalnum() for character in text)
