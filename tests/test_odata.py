"""Filters of Azure Tables: their meaning, their literals, and what is refused."""

from __future__ import annotations

import itertools
import operator
import sqlite3
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_lib.backends.file.tables import _encode, prefilter
from storage_lib.errors import InvalidArgumentError
from storage_lib.ports.odata import bind, compile_filter
from storage_lib.ports.tables import Entity
from tests.effort import examples

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
FULL = Entity(
    "p",
    "full",
    {
        "s": "it's",
        "i": 5,
        "big": 2**40,
        "f": 5.0,
        "g": 2.5,
        "yes": True,
        "d": MOMENT,
        "x": b"\x01\x02",
        "u": uuid.UUID(int=7),
        "allowed": 1,
        "trueish": 1,
        "nullable": 1,
        "notes": 1,
        "anything": 1,
        "x1": 1,
    },
    "etag",
    MOMENT,
)
BARE = Entity("p", "bare", {}, "etag", MOMENT)


def rows(filter: str | None, **parameters: Any) -> list[str]:
    holds = compile_filter(filter, parameters)
    return [entity.row_key for entity in (BARE, FULL) if holds(entity)]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (None, ["bare", "full"]),
        ("  ", ["bare", "full"]),
        ("s eq 'it''s'", ["full"]),
        ("s ne 'it''s'", []),
        ("not (s eq 'it''s')", ["bare"]),
        ("not s eq 'it''s'", ["bare"]),
        ("not(s eq 'it''s')", ["bare"]),
        ("nope eq 1", []),
        ("nope ne 1", []),
        ("not (nope ne 1)", ["bare", "full"]),
        ("i eq 5", ["full"]),
        ("i eq 5L", ["full"]),
        ("i eq 5.0", ["full"]),
        ("f eq 5", ["full"]),
        ("g gt 2 and g lt 2.6", ["full"]),
        ("g eq 25e-1", ["full"]),
        ("big eq 1099511627776L", ["full"]),
        ("i gt -6", ["full"]),
        ("i eq '5'", []),
        ("i ne '5'", []),
        ("yes eq true", ["full"]),
        ("yes eq 1", []),
        ("i eq true", []),
        ("yes", ["full"]),
        ("not yes", ["bare"]),
        ("d eq datetime'2026-01-02T03:04:05.678901Z'", ["full"]),
        ("d eq datetime'2026-01-02T03:04:05.6789010Z'", ["full"]),
        ("d eq datetime'2026-01-02T05:04:05.678901+02:00'", ["full"]),
        ("d gt datetime'2026-01-01'", ["full"]),
        ("d eq '2026-01-02T03:04:05.678901Z'", []),
        ("x eq X'0102' and x eq binary'0102'", ["full"]),
        ("u eq guid'00000000-0000-0000-0000-000000000007'", ["full"]),
        ("5 eq i and 'it''s' eq s", ["full"]),
        ("PartitionKey eq 'p' and RowKey lt 'c'", ["bare"]),
        ("Timestamp le datetime'2026-01-02T03:04:05.678901Z'", ["bare", "full"]),
        ("i eq 9 or s eq 'it''s' and yes eq false", []),
        ("(i eq 9 or s eq 'it''s') and yes eq true", ["full"]),
        ("i eq 5 and not yes eq false", ["full"]),
        ("allowed eq 1 and trueish eq 1 and nullable eq 1 and notes eq 1 and anything eq 1", ["full"]),
        ("x1 eq 1", ["full"]),
        ("s EQ 'it''s' AND yes eq TRUE", ["full"]),
        ("  i eq 5\n and   g gt 2 ", ["full"]),
        ("s eq '@name'", []),
        ("true", ["bare", "full"]),
        ("false", []),
        ("not false", ["bare", "full"]),
        ("not true", []),
        ("1 eq 1", ["bare", "full"]),
        ("1 eq 1.0 and 1L eq 1", ["bare", "full"]),
        ("1 eq 2", []),
        ("1 ne 2 and 'a' lt 'b' and 2 ge 2", ["bare", "full"]),
        ("1 eq '1' or 1 ne '1'", []),
        ("'🙂' lt '\uff5e'", ["bare", "full"]),
        ("true and RowKey eq 'full'", ["full"]),
        ("RowKey eq 'full' and (1 eq 1)", ["full"]),
        ("false or RowKey eq 'full'", ["full"]),
        ("true or RowKey eq 'full'", ["bare", "full"]),
        ("false and RowKey eq 'full'", []),
        ("not (1 eq 2) and (RowKey eq 'full' or not (2 gt 1))", ["full"]),
        ("not (true and not (i eq 5))", ["full"]),
        ("(true)", ["bare", "full"]),
        ("not not yes", ["full"]),
        ("datetime'2026-01-01' lt datetime'2026-01-02T00:00:00Z' and i eq 5", ["full"]),
    ],
)
def test_meaning(filter: str | None, expected: list[str]) -> None:
    assert rows(filter) == expected


@pytest.mark.parametrize(
    "filter",
    [
        "i eq",
        "eq 5",
        "i eq 5 and",
        "i == 5",
        "i eq 5 5",
        "(i eq 5",
        "s eq 'open",
        "startswith(s, 'a')",
        "i add 1 eq 6",
        "-(i) eq 5",
        "s in ('a', 'b')",
        "tags/any(t: t eq 'a')",
        "a/b eq 1",
        "s eq null",
        "null eq null",
        "1",
        "'true'",
        "1 and i eq 5",
        "s eq s",
        "PartitionKey lt RowKey",
        "1 eq",
        "true true",
        "d eq 2026-01-02",
        "d eq datetime'yesterday'",
        "x eq X'0'",
        "u eq guid'7'",
        "i eq 9223372036854775808L",
        "f eq 1e999",
        "i eq 5; drop",
        "i eq @",
        "i eq @1",
        "(i eq 5) eq (i eq 5)",
        "(" * 100 + "not " * 100 + "i eq 5" + ")" * 100,
        "s eq '" + "x" * 40_000 + "'",
    ],
    ids=lambda text: text[:30],
)
def test_what_azure_does_not_know_is_refused(filter: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        compile_filter(filter, {})
    assert refused.value.field == "filter"


def test_constants_may_be_parameters_and_leave_nothing_behind() -> None:
    """As generated filters have them: what does not depend on the entity is decided once."""
    assert rows("@a eq @b and i eq 5", a=1, b=1.0) == ["full"]
    assert rows("@on and i eq 5", on=True) == ["full"]
    assert rows("@on and i eq 5", on=False) == []
    assert compile_filter("1 eq @n or i eq 5", {"n": 1}).node is None
    assert bind("1 eq 1 and i eq 5 and not false", {}) == "i eq 5"
    assert bind("1 eq 2 and i eq 5", {}) == "false"
    assert rows(bind("1 eq 2 and i eq 5", {})) == []
    assert compile_filter("1 eq 1 and i eq 5", {}).names == {"i"}


def test_parameters_must_be_exactly_those_of_the_filter() -> None:
    for arguments in (("i eq @n", {}), ("i eq 5", {"n": 5}), ("s eq '@n'", {"n": 5})):
        for function in (compile_filter, bind):
            with pytest.raises(InvalidArgumentError) as refused:
                function(*arguments)
            assert refused.value.field == "parameters"


@pytest.mark.parametrize(
    "value", [None, float("nan"), 2**63, datetime(2026, 1, 1), "\ud800", [1], ...], ids=repr
)
def test_values_without_a_literal_are_refused(value: object) -> None:
    for function in (compile_filter, bind):
        with pytest.raises(InvalidArgumentError):
            function("i eq @value", {"value": value})


def test_literals() -> None:
    parameters = {
        "text": "it's @n' or 'a' eq 'a",
        "n": 5,
        "big": 2**31,
        "least": -(2**31),
        "f": 5.0,
        "tiny": 1e-7,
        "huge": 1e22,
        "yes": True,
        "d": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5))),
        "x": b"\x0a\xff",
        "u": uuid.UUID(int=7),
    }
    template = " and ".join(f"p eq @{name}" for name in parameters) + " and q eq '@n it''s @big'"
    assert bind(template, parameters).split(" and ") == [
        "p eq 'it''s @n'' or ''a'' eq ''a'",
        "p eq 5",
        "p eq 2147483648L",
        "p eq -2147483648",
        "p eq 5.0",
        "p eq 0.0000001",
        "p eq 10000000000000000000000.0",
        "p eq true",
        "p eq datetime'2026-01-01T07:00:00.000000Z'",
        "p eq X'0aff'",
        "p eq guid'00000000-0000-0000-0000-000000000007'",
        "q eq '@n it''s @big'",
    ]


VALUES = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    st.sampled_from(["'", "''", "@a", "' or 1 eq 1 or 'a' eq '", "\n", " and "]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.binary(max_size=8),
    st.uuids(),
    st.datetimes(
        datetime(1, 1, 3),
        datetime(9999, 12, 29),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5))]),
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(value=VALUES, stored=VALUES, operator=st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]))
def test_a_parameter_is_its_literal_and_nothing_more(value: Any, stored: Any, operator: str) -> None:
    template = f"v {operator} @value and w eq 'kept'"
    for held in (stored, value):
        entity = Entity("p", "r", {"v": held, "w": "kept"}, "etag", MOMENT)
        direct = compile_filter(template, {"value": value})(entity)
        assert compile_filter(bind(template, {"value": value}), {})(entity) == direct
    assert direct == (operator in ("eq", "le", "ge"))


def test_conditions_on_the_keys_are_told_to_the_store() -> None:
    filter = compile_filter(
        "PartitionKey eq @day and ('a' le RowKey and n eq 1) and RowKey ne 'x'", {"day": "d"}
    )
    assert filter.key_bounds == [("PartitionKey", "=", "d"), ("RowKey", ">=", "a")]
    assert compile_filter("PartitionKey eq 'a' or n eq 1", {}).key_bounds == []
    assert compile_filter("not (PartitionKey eq 'a')", {}).key_bounds == []
    assert compile_filter("PartitionKey eq 1", {}).key_bounds == []


_HELD_AT = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_KEYS = ("", "a", "a~", "b", "\u00e9", "\uff5e", "\U0001f642")


@pytest.mark.parametrize(
    ("text", "is_of_keys"),
    [
        (None, True),
        ("PartitionKey eq 'a' and (RowKey ge 'a' and RowKey lt 'b')", True),
        ("RowKey gt '~'", True),
        ("RowKey eq '\uff5e' and PartitionKey le 'b'", True),
        ("RowKey gt '\uff5e'", False),
        ("RowKey ne 'a'", False),
        ("PartitionKey eq 1", False),
        ("PartitionKey eq 'a' or RowKey eq 'a'", False),
        ("not (PartitionKey eq 'a')", False),
        ("PartitionKey eq 'a' and n eq 1", False),
        ("PartitionKey eq 'a' and true", True),
        ("false", False),
    ],
)
def test_where_the_bounds_of_the_keys_say_all_of_a_filter_rows_within_them_need_not_be_asked(
    text: str | None, is_of_keys: bool
) -> None:
    filter = compile_filter(text, {})
    assert filter.of_keys is is_of_keys
    for pk, rk in itertools.product(_KEYS, _KEYS):
        keys = {"PartitionKey": pk.encode(), "RowKey": rk.encode()}
        within = all(_HELD_AT[how](keys[name], value.encode()) for name, how, value in filter.key_bounds)
        holds = filter(Entity(pk, rk, {}, "etag", MOMENT))
        assert holds <= within
        assert holds == within or not filter.of_keys


def test_hundreds_of_terms_are_fine() -> None:
    assert rows(" or ".join(f"i eq {n}" for n in range(900))) == ["full"]


def test_a_filter_is_sent_as_azure_wants_it() -> None:
    written = "5 LT n AND NOT(b OR 'x' ge s) and f eq 1E2"
    assert bind(written, {}) == "n gt 5 and not (b eq true or s le 'x') and f eq 100.0"
    assert bind(bind(written, {}), {}) == bind(written, {})
    assert compile_filter(written, {}).names == {"n", "b", "s", "f"}


def test_only_bounds_that_mean_the_same_in_both_orders_of_keys_are_told() -> None:
    # U+FF5E is behind an emoji in the order of UTF-16 units, before it in that of UTF-8 bytes.
    assert compile_filter("RowKey gt '\uff5e'", {}).key_bounds == []
    assert compile_filter("RowKey eq '\uff5e'", {}).key_bounds == [("RowKey", "=", "\uff5e")]
    keys = [Entity("p", key, {}, "etag", MOMENT) for key in ("a", "\uff5e", "🙂")]
    assert [e.row_key for e in keys if compile_filter("RowKey lt '\uff5e'", {})(e)] == ["a", "🙂"]


@settings(max_examples=examples(300), deadline=None)
@given(wanted=VALUES, stored=VALUES, same=st.booleans())
def test_sqlite_leaves_out_only_what_a_filter_would(wanted: Any, stored: Any, same: bool) -> None:
    held = wanted if same else stored
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE entities (props BLOB)")
        connection.execute("INSERT INTO entities VALUES (?)", (_encode({"a": "x", "v": held, "w": None}),))
        for template in ("v eq @v", "w eq 'no' or v eq @v", "v eq @v and not (a eq 'y')", "not (v ne @v)"):
            holds = compile_filter(template, {"v": wanted})
            condition = prefilter(holds.node, _encode)
            sql, values = condition or ("true", [])
            rows = connection.execute(f"SELECT 1 FROM entities WHERE {sql}", values).fetchall()
            assert rows or not holds(Entity("p", "r", {"a": "x", "v": held}, "etag", MOMENT))
            assert (condition is None) == template.startswith("not")
    connection.close()


def test_filters_load_no_other_package() -> None:
    code = (
        "import sys; from storage_lib.ports.odata import compile_filter; before = set(sys.modules);"
        "compile_filter('a eq 5L', {}); print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
