"""JSON Patches (RFC 6902) of values that are too large to look for the shortest one: in time that grows with
their size alone. Of a list the items are compared from both ends, and by their places where it has kept its
length; one that has changed in more places is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from storage_lib.comparison import difference

_MOST_STEPS = 1000
"""In the items of one list; with more of them the list is replaced."""


def steps(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The steps from one plain JSON value to another, in their order.

    :param path: the JSON Pointer of both.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _of_members(cast("dict[str, Any]", before), cast("dict[str, Any]", after), path)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _of_items(cast("list[Any]", before), cast("list[Any]", after), path)
    elif difference(before, after, 0) is not None:
        yield {"op": "replace", "path": path, "value": after}


def _of_members(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    for name, value in before.items():
        at = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if name in after:
            yield from steps(value, after[name], at)
        else:
            yield {"op": "remove", "path": at}
    for name, value in after.items():
        if name not in before:
            at = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            yield {"op": "add", "path": at, "value": value}


def _of_items(before: list[Any], after: list[Any], path: str) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in _of_places(before, after, path):
        if len(found) == _MOST_STEPS:
            yield {"op": "replace", "path": path, "value": after}
            return
        found.append(step)
    yield from found


def _of_places(before: list[Any], after: list[Any], path: str) -> Iterator[dict[str, Any]]:
    """The steps between what both begin and end with. What is descended into is not compared before: with
    each level of nested lists that would take as long again."""
    both, is_trimmed = min(len(before), len(after)), len(before) == len(after)
    n = 0
    while n < both:
        for step in steps(before[n], after[n], f"{path}/{n}"):
            if not is_trimmed:
                both, is_trimmed = both - _same_at_end(before, after, both - n), True
                if n == both:
                    break
            yield step
        n += 1
    ends = min(len(before), len(after)) - both
    for n in range(len(before) - ends - 1, both - 1, -1):
        yield {"op": "remove", "path": f"{path}/{n}"}
    for n in range(both, len(after) - ends):
        yield {"op": "add", "path": f"{path}/{n}", "value": after[n]}


def _same_at_end(before: list[Any], after: list[Any], most: int) -> int:
    """With how many items, up to ``most``, both end."""
    found = 0
    while found < most and difference(before[-1 - found], after[-1 - found], 0) is None:
        found += 1
    return found
