"""The shape of a JSON document: which paths there are, what they hold, how large and how deep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from storage_lib.tasks.report.column import shown

MAX_PATHS = 500
_PLAIN_KEY = re.compile(r"[^\W\d]\w*(?:-\w+)*")


@dataclass(slots=True)
class _Path:
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

    def summary(self, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {"path": path, "count": self.types.total(), "types": dict(self.types)}
        if self.low is not None:
            result |= {"min": self.low, "max": self.high}
        if self.smallest is not None:
            result["size"] = {"min": self.smallest, "max": self.largest}
        if self.example is not None:
            result["example"] = self.example
        return result


def summarise(document: Any, warn: Callable[[str], None]) -> dict[str, Any]:
    """Walk a decoded document. Array items share the path ``…[]``; sizes are keys, items or characters."""
    paths: dict[str, _Path] = {}
    totals: Counter[str] = Counter()
    depth = omitted = 0
    # Iterators, not items, wait on the stack: it is as deep as the document, not as wide.
    stack: list[tuple[Iterator[tuple[str, Any]], int]] = [(iter([("$", document)]), 0)]
    while stack:
        children, level = stack[-1]
        path, value = next(children, ("", None))
        if not path:
            stack.pop()
            continue
        kind = _kind(value)
        totals[kind] += 1
        if path in paths or len(paths) < MAX_PATHS:
            paths.setdefault(path, _Path()).measure(kind, value)
        else:
            omitted += 1
        if kind in ("object", "array"):
            depth = max(depth, level + 1)
            stack.append((_children(path, value), level + 1))
    if omitted:
        warn(f"only the first {MAX_PATHS} paths are listed; {omitted} values lie under others")
    return {
        "root": _kind(document),
        "depth": depth,
        "totals": dict(totals),
        "paths": [measured.summary(path) for path, measured in paths.items()],
    }


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((_below(path, key), item) for key, item in value.items())
    return zip(repeat(path + "[]"), value, strict=False)


def _below(path: str, key: str) -> str:
    if len(key) > 100:
        key = key[:100] + "…"
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{key!r}]"


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
