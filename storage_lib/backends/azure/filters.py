"""What of a filter the service is asked, so that it leaves out nothing that the filter holds for.

The service's answer is judged once more by the filter itself (odata.py), so it may be more than the filter
holds for, but never less. Asked is what is documented ("Querying tables and entities": a constant of the
property's type) and what the service and Azurite do alike; the rest is judged here:

* a time is kept to 100 ns by the service, of which we see the microseconds: ``le v`` is asked up to the next
  microsecond. Azurite compares to the millisecond: ``gt`` and ``lt`` are asked as ``ge`` and ``le``;
* order between bytes, UUIDs and booleans is not documented (Azurite has that of their Base64): not asked;
* ``not`` is pushed down to the comparisons, and asked of an equality only: what the service thinks of
  another type, negated, would leave rows out;
* an int constant does not meet an Edm.Double property, nor a double constant an integer: each is asked with
  its twin, ``n gt 5`` as ``(n gt 5.0 or n gt 5)``;
* an Int64 constant does not meet an Int32 property (at Azurite the two together are an error 500), though an
  Int32 constant meets an Int64 property. As an int is stored as the smaller where it fits, the two meet all
  the time: ``n lt 5000000000`` is asked as ``(n le 2147483647 or n lt 5000000000L)``, which says the same and
  never compares the two.

What cannot be made up for here: at Azurite an Int64 constant and an Edm.Double beyond Int32 together are an
error 500 too.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote
from uuid import UUID

from storage_lib.patterns import pattern
from storage_lib.ports.odata import (
    NOTHING,
    Compare,
    Constants,
    Filter,
    Junction,
    Node,
    Not,
    Operator,
    literal,
)

MAX_QUESTION_BYTES: Final = 8 * 1024
"""Of its part of the URL: servers and proxies refuse a long one (Azurite at 16 KiB with all headers)."""
MAX_COMPARISONS: Final = 15
"""In one filter ("Querying tables and entities"). Azurite takes more."""

_TEXT = pattern(r"'[^']*'")
_COMPARISON = pattern(r" (?:eq|ne|lt|le|gt|ge) ")
_INT32 = (-(2**31), 2**31 - 1)
_HOW: Final = {"=": "eq", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_MICROSECOND = timedelta(microseconds=1)
_FALSE = "PartitionKey lt ''"
_SYSTEM: dict[str, type] = {"PartitionKey": str, "RowKey": str, "Timestamp": datetime}


def question(filter: Filter) -> str | None:
    """The filter for the service, None to ask for every entity. Of one that is too long for it is asked what
    there is room for: first what it says of the keys, then the terms that all have to hold."""
    if filter.node is None:
        return None
    if filter.node == NOTHING:
        return _FALSE
    asked = _wide(filter.node)
    if asked is None or _has_room(asked):
        return asked
    terms: list[str | None] = [
        f"{name} {_HOW[how]} {literal(value)}" for name, how, value in filter.key_bounds
    ]
    if isinstance(filter.node, Junction) and filter.node.every:
        terms += [_wide(node) for node in filter.node.nodes]
    kept: list[str] = []
    for term in terms:
        if term is not None and term not in kept and _has_room(" and ".join([*kept, term])):
            kept.append(term)
    return " and ".join(kept) or None


def _has_room(asked: str) -> bool:
    count = len(_COMPARISON.findall(_TEXT.sub("''", asked)))
    return count <= MAX_COMPARISONS and len(quote(asked)) <= MAX_QUESTION_BYTES


def _wide(node: Node) -> str | None:
    """Text that holds wherever ``node`` does; None where that is everywhere."""
    match node:
        case Junction():
            return _joined(node, [_wide(term) for term in node.nodes], every=node.every)
        case Not():
            return _wide_not(node.node)
        case Compare():
            return _wide_comparison(node)
        case Constants():
            return None  # There is none in a bound filter.


def _wide_not(node: Node) -> str | None:
    """Text that holds wherever ``node`` does not; None where that is everywhere."""
    match node:
        case Junction():
            return _joined(node, [_wide_not(term) for term in node.nodes], every=not node.every)
        case Not():
            return _wide(node.node)
        case Compare(operator="eq", value=str() | bool() | int() | float()) if _fits(node):
            # Without the twins of `_wide_comparison`: what equals fewer is unequal to more.
            return f"not ({_comparison(node)})"
        case Compare() | Constants():
            return None


def _joined(node: Junction, terms: list[str | None], *, every: bool) -> str | None:
    asked = [term for term in terms if term is not None]
    if not asked or (not every and len(asked) < len(terms)):
        return None
    return asked[0] if len(asked) == 1 else f"({(' and ' if every else ' or ').join(asked)})"


def _fits(node: Compare) -> bool:
    """Whether the service can compare them at all: it refuses a key with a number."""
    kind = _SYSTEM.get(node.name)
    return kind is None or isinstance(node.value, kind)


def _comparison(node: Compare) -> str:
    """The comparison as it is, for a constant that the service can compare."""
    if isinstance(node.value, int) and not _INT32[0] <= node.value <= _INT32[1]:
        return _int64(node)
    return f"{node.name} {node.operator} {literal(node.value)}"


def _wide_comparison(node: Compare) -> str | None:
    how, value = node.operator, node.value
    if not _fits(node):
        return _FALSE
    match value:
        case bool() | bytes() | UUID() if how not in ("eq", "ne"):
            return None
        case datetime():
            return _wide_time(node.name, how, value.astimezone(UTC))
        case int() | float() if not isinstance(value, bool):
            # The double first: an Edm.Double that it holds for is not compared with an Int64.
            terms = [*_doubles(node.name, how, value), *_integers(node, value)]
            return terms[0] if len(terms) == 1 else f"({' or '.join(terms)})"
        case _:
            return _comparison(node)


def _wide_time(name: str, how: Operator, value: datetime) -> str | None:
    at = literal(value)
    if how in ("gt", "ge"):
        return f"{name} ge {at}"
    if how == "lt":
        return f"{name} le {at}"
    if how == "ne":
        return f"({name} le {at} or {name} ge {at})"
    try:
        until = f"{name} le {literal(value + _MICROSECOND)}"
    except OverflowError:
        return f"{name} ge {at}" if how == "eq" else None
    return f"({name} ge {at} and {until})" if how == "eq" else until


def _doubles(name: str, how: Operator, value: float) -> list[str]:
    """What holds for every Edm.Double that the comparison holds for."""
    double = float(value)
    if double == value:
        return [f"{name} {how} {literal(double)}"]
    # The nearest double: no other one is between it and the int.
    match how:
        case "eq":
            return []
        case "ne":
            return [f"{name} le {literal(double)}", f"{name} ge {literal(double)}"]
        case _:
            return [f"{name} {how[0]}e {literal(double)}"]


def _integers(node: Compare, value: float) -> list[str]:
    """What holds for every Int32 and Int64 that the comparison holds for."""
    name, how = node.name, node.operator
    if isinstance(value, int):
        return [_comparison(node)]
    if how in ("eq", "ne"):
        if not value.is_integer():
            return [] if how == "eq" else [f"{name} ge 0", f"{name} lt 0"]
        bound = int(value)
    else:
        bound = math.floor(value) if how in ("gt", "le") else math.ceil(value)
    least, most = _INT32
    if least <= bound <= most:
        return [f"{name} {how} {bound}"]
    # No more than the side of Int32 is asked, by an Int32: Azurite cannot compare an Int64 with a double.
    if how == "eq" or how in (("gt", "ge") if bound > 0 else ("lt", "le")):
        return [f"{name} gt {most}" if bound > 0 else f"{name} lt {least}"]
    return [f"{name} ge 0", f"{name} lt 0"]


def _int64(node: Compare) -> str:
    """Every Int32 is on one side of the constant: that is asked first, so that none is compared with it."""
    name, how, value = node.name, node.operator, node.value
    above = value > 0
    if how == "eq" or how in (("gt", "ge") if above else ("lt", "le")):
        beyond = f"{name} gt {_INT32[1]}" if above else f"{name} lt {_INT32[0]}"
        return f"({beyond} and {name} {how} {literal(value)})"
    within = f"{name} le {_INT32[1]}" if above else f"{name} ge {_INT32[0]}"
    return f"({within} or {name} {how} {literal(value)})"
