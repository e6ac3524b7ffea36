"""A cheap test in SQLite's own code for rows that may pass a filter, so that the others are never decoded.

Properties are stored as a MessagePack map, in which a name stands directly before its value and both have
one shortest form: an entity whose ``status`` is ``'done'`` has the bytes of the two in its row. A row without
them cannot pass ``status eq 'done'``; a row with them is decoded and judged by the filter itself. Only
equality is worth it. Needs no index and no other layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage_lib.ports.odata import Node

MAX_TERMS = 200
"""SQLite refuses an expression that is 1,000 levels deep; so long a filter is not the common one."""

_OUTSIDE = frozenset({"PartitionKey", "RowKey", "Timestamp"})
"""What is not in the map of properties."""

type Encode = Callable[[Any], bytes]


def prefilter(node: Node | None, encode: Encode) -> tuple[str, list[bytes]] | None:
    """An SQL condition on ``props`` that holds for every row that passes the filter, with its values; None
    where there is none that would leave out anything.

    :param encode: a property's name or value as it stands in the map.
    """
    found = None if node is None else _condition(node, encode)
    return None if found is None or len(found[1]) > MAX_TERMS else found


def _condition(node: Node, encode: Encode) -> tuple[str, list[bytes]] | None:
    from storage_lib.ports.odata import Compare, Junction

    if isinstance(node, Junction):
        parts = [_condition(term, encode) for term in node.nodes]
        useful = [part for part in parts if part is not None]
        if not useful or (not node.every and len(useful) < len(parts)):
            return None
        condition = (" AND " if node.every else " OR ").join(sql for sql, _ in useful)
        return f"({condition})", [value for _, values in useful for value in values]
    if not isinstance(node, Compare) or node.operator != "eq" or node.name in _OUTSIDE:
        return None
    name = encode(node.name)
    wanted = [name + encode(form) for form in _forms(node.value)]
    return f"({' OR '.join(['instr(props, ?)'] * len(wanted))})", wanted


def _forms(value: Any) -> Iterator[Any]:
    """Every value that is equal to it and stored in another way: numbers are int or float."""
    if type(value) not in (int, float):
        yield value
        return
    yield value
    if type(value) is int:
        try:
            other = float(value)
        except OverflowError:
            return
        if other == value:
            yield other
    elif value.is_integer() and -(2**63) <= value < 2**63:
        yield int(value)
    if value == 0:
        yield from (0.0, -0.0)
