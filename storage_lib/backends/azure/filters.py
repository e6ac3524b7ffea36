"""What of a filter the service is asked, so that it leaves out nothing that the filter holds for.

The service's answer is judged once more by the filter itself (odata.py), so it may be more than the filter
holds for, but never less. Asked is what is documented ("Querying tables and entities": a constant of the
property's type) and what the service and Azurite do alike; the rest is judged here:

* a time is compared by Azurite to the millisecond: ``gt`` is asked as ``ge``;
* order between bytes, UUIDs and booleans is not documented (Azurite has that of their Base64): not asked;
* ``not`` is pushed down to the comparisons, and asked of an equality only: what the service thinks of
  another type, negated, would leave rows out;
* an Int64 constant does not meet an Int32 property (at Azurite the two together are an error 500). As an int
  is stored as the smaller where it fits, the two meet all the time: ``n lt 5000000000`` is asked as
  ``(n le 2147483647 or n lt 5000000000L)``, which says the same and never compares the two.

What can not be made up for here: Int64 and Edm.Double in one property (a double constant may not meet an
Int64, nor the other way about). Keep the numbers of a property of one kind.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final
from urllib.parse import quote

from storage_lib.odata import Compare, Filter, Junction, Node, Not, literal

MAX_QUESTION_BYTES: Final = 8 * 1024
"""Of its part of the URL: servers and proxies refuse a long one (Azurite at 16 KiB with all headers)."""

_INT32 = (-(2**31), 2**31 - 1)
_HOW: Final = {"=": "eq", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
_FALSE = "PartitionKey lt ''"
_SYSTEM: dict[str, type] = {"PartitionKey": str, "RowKey": str, "Timestamp": datetime}


def question(filter: Filter) -> str | None:
    """The filter for the service, None to ask for every entity. One that is too long for a URL is asked by
    what it says of the keys."""
    asked = None if filter.node is None else _wide(filter.node)
    if asked is not None and len(quote(asked)) > MAX_QUESTION_BYTES:
        bounds = (f"{name} {_HOW[how]} {literal(value)}" for name, how, value in filter.key_bounds)
        asked = " and ".join(bounds)
        return asked if asked and len(quote(asked)) <= MAX_QUESTION_BYTES else None
    return asked


def _wide(node: Node) -> str | None:
    """Text that holds wherever ``node`` does; None where that is everywhere."""
    match node:
        case Junction():
            return _joined(node, [_wide(term) for term in node.nodes], every=node.every)
        case Not():
            return _wide_not(node.node)
        case Compare():
            return _wide_comparison(node)


def _wide_not(node: Node) -> str | None:
    """Text that holds wherever ``node`` does not; None where that is everywhere."""
    match node:
        case Junction():
            return _joined(node, [_wide_not(term) for term in node.nodes], every=not node.every)
        case Not():
            return _wide(node.node)
        case Compare(operator="eq", value=str() | bool() | int() | float()) if _fits(node):
            return f"not ({_wide_comparison(node)})"
        case Compare():
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


def _wide_comparison(node: Compare) -> str | None:
    name, how, value = node.name, node.operator, node.value
    if not _fits(node):
        return _FALSE
    match value:
        case bool() | bytes() if how not in ("eq", "ne"):
            return None
        case int() if not _INT32[0] <= value <= _INT32[1]:
            return _wide_int64(node)
        case datetime() if how == "ne":
            return f"({name} le {literal(value)} or {name} ge {literal(value)})"
        case datetime():
            return f"{name} {how.replace('t', 'e') if how in ('lt', 'gt') else how} {literal(value)}"
        case str() | float() | int() | bytes():
            return f"{name} {how} {literal(value)}"
        case _:
            return f"{name} {how} {literal(value)}" if how in ("eq", "ne") else None


def _wide_int64(node: Compare) -> str:
    """Every Int32 is on one side of the constant: that is asked first, so that none is compared with it."""
    name, how, value = node.name, node.operator, node.value
    above = value > 0
    if how == "eq" or how in (("gt", "ge") if above else ("lt", "le")):
        beyond = f"{name} gt {_INT32[1]}" if above else f"{name} lt {_INT32[0]}"
        return f"({beyond} and {name} {how} {literal(value)})"
    within = f"{name} le {_INT32[1]}" if above else f"{name} ge {_INT32[0]}"
    return f"({within} or {name} {how} {literal(value)})"
