"""Filters that every table store must answer alike: varied rows, filters with the rows they hold for, and as
many more as one likes from a seed.

One property never mixes Int64 and Edm.Double, nor text that looks like a number with numbers: there Azurite
compares as JavaScript does, and what Azure does is not documented.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from storage_lib.ports.odata import literal

MOMENT: Final = datetime(2026, 1, 2, 3, 4, 5, 678_000, UTC)
_TICK = timedelta(microseconds=1)
LOW, MIDDLE, HIGH = uuid.UUID(int=7), uuid.UUID(int=2**100), uuid.UUID(int=2**127 + 1)

ROWS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("p", "bare"): {},
    ("p", "int"): {"n": 5, "mixed": 5, "s": "done"},
    ("p", "minus"): {"n": -5, "mixed": -5, "s": "it's"},
    ("p", "zero"): {"n": 0, "f": -0.0, "s": ""},
    ("p", "edge"): {"n": 2**31 - 1, "f": 0.0, "b": True},
    ("p", "long"): {"n": 2**31, "f": 5.0, "b": False},
    ("p", "longer"): {"n": 2**62 + 1, "f": 2.5, "s": "Done"},
    ("p", "least"): {"n": -(2**63), "f": -1e-300, "s": "done\n"},
    ("p", "real"): {"mixed": 5.5, "f": 1e22, "s": "päck 🙂"},
    ("q", "text"): {"mixed": "done", "s": "\uff5e", "d": MOMENT},
    ("q", "true"): {"mixed": True, "b": True, "d": MOMENT + _TICK},
    ("q", "moment"): {"mixed": MOMENT, "d": MOMENT - _TICK, "g": LOW},
    ("q", "guid"): {"mixed": MIDDLE, "g": MIDDLE, "x": b""},
    ("q", "bytes"): {"mixed": b"\x00\xff", "g": HIGH, "x": b"\x00\xff"},
    ("r'r", "ö"): {"s": "🙂", "x": b"\xff", "d": datetime(1601, 1, 1, tzinfo=UTC)},
    ("r'r", "json"): {"j": {"a": [1, None]}, "s": 'say "x" and y'},
    ("~", "z"): {"j": [], "d": datetime(9999, 12, 31, tzinfo=UTC), "b": False},
}
"""Properties by (partition key, row key). Row keys are unique by themselves."""

_N = {"int", "minus", "zero", "edge", "long", "longer", "least"}
_ALL = {row for _, row in ROWS}

CORPUS: Final[list[tuple[str, dict[str, Any], set[str]]]] = [
    ("n eq 5", {}, {"int"}),
    ("n eq 5L and n eq 5.0", {}, {"int"}),
    ("5 eq n", {}, {"int"}),
    ("7 gt n and n ge -5", {}, {"int", "minus", "zero"}),
    ("n lt 0", {}, {"minus", "least"}),
    ("n ne 5", {}, _N - {"int"}),
    ("not (n eq 5)", {}, _ALL - {"int"}),
    ("not n ne 5", {}, _ALL - _N | {"int"}),
    ("not (not (n eq 5))", {}, {"int"}),
    ("n gt @n", {"n": 2**31 - 1}, {"long", "longer"}),
    ("n ge @n", {"n": 2**31}, {"long", "longer"}),
    ("n gt @n", {"n": 2**31}, {"longer"}),
    ("n lt @n", {"n": 2**31}, _N - {"long", "longer"}),
    ("n le @n", {"n": 2**31}, _N - {"longer"}),
    ("n ne @n", {"n": 2**31}, _N - {"long"}),
    ("not (n eq @n)", {"n": 2**31}, _ALL - {"long"}),
    ("n eq @n", {"n": 2**62 + 1}, {"longer"}),
    ("n eq @n", {"n": 2**62}, set()),
    ("n ge @n", {"n": -(2**63)}, _N),
    ("n gt @n", {"n": -(2**63)}, _N - {"least"}),
    ("n lt @n", {"n": -(2**40)}, {"least"}),
    ("n lt 5.5 and n gt -5.5", {}, {"int", "minus", "zero"}),
    ("f eq 0", {}, {"zero", "edge"}),
    ("f eq @f", {"f": -0.0}, {"zero", "edge"}),
    ("f lt 0", {}, {"least"}),
    ("f lt -1e-300", {}, set()),
    ("f gt -1e-299 and f lt 1e-299", {}, {"zero", "edge", "least"}),
    ("f ge 25e-1", {}, {"long", "longer", "real"}),
    ("f eq 1e22", {}, {"real"}),
    ("f gt @f", {"f": 9.999e21}, {"real"}),
    ("s eq 'done'", {}, {"int"}),
    ("s eq 'DONE'", {}, set()),
    ("s eq 'it''s'", {}, {"minus"}),
    ("s eq @s", {"s": "it's"}, {"minus"}),
    ("s eq ''", {}, {"zero"}),
    ("s gt '' and s lt 'a'", {}, {"longer"}),
    ("s gt 'done' and s le 'it''s'", {}, {"minus", "least"}),
    ("s eq @s", {"s": "done\n"}, {"least"}),
    ("s ge 'p' and s lt 'q'", {}, {"real"}),
    ("s eq 'say \"x\" and y'", {}, {"json"}),
    # UTF-16: the units of an emoji (D83D DE42) come before U+FF5E, its code point (1F642) would come behind.
    ("s gt '🙂'", {}, {"text"}),
    ("s ge '🙂' and s lt @s", {"s": "\uff5e"}, {"ö"}),
    ("b", {}, {"edge", "true"}),
    ("not b", {}, _ALL - {"edge", "true"}),
    ("b eq false", {}, {"long", "z"}),
    ("b ne true", {}, {"long", "z"}),
    ("not (b eq true) and not (b eq false)", {}, _ALL - {"edge", "true", "long", "z"}),
    ("b lt true", {}, {"long", "z"}),
    ("b eq 1", {}, set()),
    ("d eq @d", {"d": MOMENT}, {"text"}),
    ("d ne @d", {"d": MOMENT}, {"true", "moment", "ö", "z"}),
    ("d gt @d", {"d": MOMENT}, {"true", "z"}),
    ("d ge @d", {"d": MOMENT + _TICK}, {"true", "z"}),
    ("d lt @d", {"d": MOMENT}, {"moment", "ö"}),
    ("d le @d", {"d": MOMENT - _TICK}, {"moment", "ö"}),
    ("not (d gt @d)", {"d": MOMENT}, _ALL - {"true", "z"}),
    ("not (d ne @d)", {"d": MOMENT}, _ALL - {"true", "moment", "ö", "z"}),
    ("d eq datetime'2026-01-02T05:04:05.678+02:00'", {}, {"text"}),
    ("d eq @d", {"d": MOMENT.astimezone(timezone(timedelta(hours=-7)))}, {"text"}),
    ("d eq '2026-01-02T03:04:05.678Z'", {}, set()),
    ("g eq @g", {"g": MIDDLE}, {"guid"}),
    ("g ne @g", {"g": MIDDLE}, {"moment", "bytes"}),
    ("g gt @g", {"g": LOW}, {"guid", "bytes"}),
    ("not (g le @g)", {"g": MIDDLE}, _ALL - {"moment", "guid"}),
    ("g eq '00000000-0000-0000-0000-000000000007'", {}, set()),
    ("x eq X'00ff'", {}, {"bytes"}),
    ("x eq @x", {"x": b""}, {"guid"}),
    ("x gt binary'00'", {}, {"bytes", "ö"}),
    ("x ne X'00FF'", {}, {"guid", "ö"}),
    ("mixed eq 5", {}, {"int"}),
    ("mixed gt 5", {}, {"real"}),
    ("mixed gt -6L", {}, {"int", "minus", "real"}),
    ("mixed lt @n", {"n": 2**40}, {"int", "minus", "real"}),
    ("mixed ne 5", {}, {"minus", "real"}),
    ("mixed ne 'x'", {}, {"text"}),
    ("not (mixed ne 'x')", {}, _ALL - {"text"}),
    ("mixed", {}, {"true"}),
    ("mixed ne false", {}, {"true"}),
    ("mixed ge @d", {"d": MOMENT}, {"moment"}),
    ("mixed eq @g or mixed eq @x", {"g": MIDDLE, "x": b"\x00\xff"}, {"guid", "bytes"}),
    ("j eq 'json:{\"a\":[1,null]}'", {}, {"json"}),
    ("j ge 'json:' and j lt 'json;'", {}, {"json", "z"}),
    ("missing ne 1", {}, set()),
    ("not (missing ne 1)", {}, _ALL),
    ("PartitionKey eq 'q'", {}, {"text", "true", "moment", "guid", "bytes"}),
    ("PartitionKey eq @p", {"p": "r'r"}, {"ö", "json"}),
    ("PartitionKey ge 'q' and PartitionKey lt 'r'", {}, {"text", "true", "moment", "guid", "bytes"}),
    ("PartitionKey eq 'p' and RowKey gt 'l' and RowKey le 'minus'", {}, {"least", "long", "longer", "minus"}),
    ("RowKey eq 'ö'", {}, {"ö"}),
    ("RowKey ne 'bare' and PartitionKey eq 'p' and not (n le 5 or n gt 5)", {}, {"real"}),
    ("PartitionKey eq 5", {}, set()),
    ("PartitionKey ne 5", {}, set()),
    ("not (PartitionKey eq 5)", {}, _ALL),
    ("Timestamp gt datetime'2020-01-01T00:00:00Z'", {}, _ALL),
    ("Timestamp gt '2020'", {}, set()),
    ("n eq 5 or n eq 0 and s eq 'no'", {}, {"int"}),
    ("(n eq 5 or n eq 0) and s eq ''", {}, {"zero"}),
    (
        "not n eq 5 and not s eq '' and (b or g gt @g or missing)",
        {"g": LOW},
        {"edge", "true", "guid", "bytes"},
    ),
    ("true", {}, _ALL),
    ("false", {}, set()),
    ("1 eq 1", {}, _ALL),
    ("'a' gt 'b'", {}, set()),
    ("true and RowKey eq 'int'", {}, {"int"}),
    ("RowKey eq 'int' and not (1 eq 2) and @on", {"on": True}, {"int"}),
    ("(1 eq @one and n eq 5) or (2 lt 1 and n eq 0)", {"one": 1}, {"int"}),
    ("not (true and not (n eq 5))", {}, {"int"}),
    ("not not n eq 5", {}, {"int"}),
    ("'p' eq PartitionKey and 'int' eq RowKey and true eq true", {}, {"int"}),
    ("S EQ 'done' OR N GT 0 OR s EQ 'done' AND NOT (n LT 0)", {}, {"int"}),
]
"""Filters, their parameters, and the row keys of `ROWS` they hold for."""

_POOLS: dict[str, list[Any]] = {
    "n": [5, -5, 0, 2**31 - 1, 2**31, -(2**31) - 1, 2**62, 2**62 + 1, -(2**63), 2.5, 5.0],
    "f": [0, 5, 2.5, -0.0, 5.0, 1e22, -1e-300],
    "s": ["done", "Done", "", "it's", "päck", "🙂", "\uff5e", "x and y eq 'z'"],
    "b": [True, False],
    "d": [MOMENT, MOMENT + _TICK, MOMENT - _TICK, datetime(2000, 1, 1, tzinfo=UTC)],
    "g": [LOW, MIDDLE, HIGH],
    "x": [b"", b"\x00", b"\x00\xff", b"\xff"],
    "mixed": [5, 5.5, "done", "x", True, MOMENT, MIDDLE, b"\x00\xff"],
    "missing": [1, "a", True],
    "PartitionKey": ["p", "q", "r'r", "zz"],
    "RowKey": ["bare", "int", "ö", "m"],
}
_OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge")
_MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def generated(seed: int, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """So many filters with their parameters; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        parameters: dict[str, Any] = {}
        yield _any(chance, parameters, 3), parameters


def _any(chance: random.Random, parameters: dict[str, Any], levels: int) -> str:
    kind = chance.randrange(8) if levels else 0
    if kind < 4:
        return _comparison(chance, parameters)
    if kind == 4:
        return f"not ({_any(chance, parameters, levels - 1)})"
    terms = [_any(chance, parameters, levels - 1) for _ in range(chance.randint(2, 3))]
    return f"({(' and ' if kind < 7 else ' or ').join(terms)})"


def _comparison(chance: random.Random, parameters: dict[str, Any]) -> str:
    name = chance.choice(list(_POOLS))
    if chance.random() < 0.05:
        return chance.choice(["b", "mixed", "missing"])
    # Now and then a constant of another type. The keys are always text, and say so.
    pool = name if chance.random() < 0.85 else chance.choice(["s", "b", "d", "g", "x", "mixed"])
    value, how = chance.choice(_POOLS[pool]), chance.choice(_OPERATORS)
    if chance.random() < 0.5:
        constant = f"@p{len(parameters)}"
        parameters[constant[1:]] = value
    else:
        constant = literal(value)
    if chance.random() < 0.2:
        return f"{constant} {_MIRRORED[how]} {name}"
    return f"{name} {how} {constant}"
