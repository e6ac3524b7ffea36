"""The shape of a JSON document: which paths there are, what they hold, how large and how deep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from actions.report.column import shown

MAX_PATHS = 500
MAX_PATH_CHARACTERS = 1_000
_PLAIN_KEY = re.compile(r"[^\W\d]\w*+(?:-\w++)*+")
_ITEMS = "[]"


@dataclass(slots=True)
class _Path:
    """One path, as a node below that of what it lies in: written out only at the end, so that a deep document
    is no longer than it is."""

    above: _Path | None = None
    step: str = "$"
    below: dict[str, _Path] = field(default_factory=dict[str, "_Path"])
    types: Counter[str] = field(default_factory=Counter[str])
    low: float | None = None
    high: float | None = None
    smallest: int | None = None
    largest: int | None = None
    example: Any = None

    def measure(self, kind: str, value: Any) -> None:
        self.types[kind] += 1
        if kind in ("integer", "number"):
            self.low = value if self.low is None else min(self.low, value)
            self.high = value if self.high is None else max(self.high, value)
        elif kind in ("object", "array", "string"):
            self.smallest = len(value) if self.smallest is None else min(self.smallest, len(value))
            self.largest = len(value) if self.largest is None else max(self.largest, len(value))
        if self.example is None and kind not in ("object", "array"):
            self.example = shown(value)

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "path": self._written(),
            "count": self.types.total(),
            "types": dict(self.types),
        }
        if self.low is not None:
            result |= {"min": self.low, "max": self.high}
        if self.smallest is not None:
            result["size"] = {"min": self.smallest, "max": self.largest}
        if self.example is not None:
            result["example"] = self.example
        return result

    def _written(self) -> str:
        steps: list[str] = []
        node: _Path | None = self
        while node is not None:
            steps.append(node.step)
            node = node.above
        text = "".join(reversed(steps))
        return text if len(text) <= MAX_PATH_CHARACTERS else f"…{text[-MAX_PATH_CHARACTERS:]}"


def summarise(document: Any, warn: Callable[[str], None]) -> dict[str, Any]:
    """Walk a decoded document. Array items share the path ``…[]``; sizes are keys, items or characters."""
    root = _Path()
    paths: list[_Path] = [root]
    totals: Counter[str] = Counter()
    depth = omitted = 0
    # Iterators, not items, wait on the stack: it is as deep as the document, not as wide.
    stack: list[tuple[_Path | None, Iterator[tuple[str, Any]]]] = [(None, iter([("", document)]))]
    while stack:
        above, children = stack[-1]
        step, value = next(children, (None, None))
        if step is None:
            stack.pop()
            continue
        kind = _kind(value)
        totals[kind] += 1
        node = root if len(stack) == 1 else None
        if above is not None:
            node = above.below.get(step)
            if node is None and len(paths) < MAX_PATHS:
                node = above.below[step] = _Path(above, _written(step))
                paths.append(node)
        if node is None:
            omitted += 1
        else:
            node.measure(kind, value)
        if kind in ("object", "array"):
            depth = max(depth, len(stack))
            stack.append((node, _children(value)))
    if omitted:
        warn(f"only the first {MAX_PATHS} paths are listed; {omitted} values lie under others")
    return {
        "root": _kind(document),
        "depth": depth,
        "totals": dict(totals),
        "paths": [path.summary() for path in paths],
    }


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What lies in an object or an array, each by the step that leads to it."""
    if isinstance(value, dict):
        return ((_step(key), item) for key, item in value.items())
    return zip(repeat(_ITEMS), value, strict=False)


def _step(key: str) -> str:
    """A key as a step: no array has one that begins with a point."""
    return "." + (key[:100] + "…" if len(key) > 100 else key)


def _written(step: str) -> str:
    if step == _ITEMS:
        return step
    return step if _PLAIN_KEY.fullmatch(step, 1) else f"[{step[1:]!r}]"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
        case _:
            return "array"
