"""The shape of JSON that is no table: which paths there are, what they hold, how large and how deep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actions.stored.tables import parsed
from storage_lib.json_text import check_room

MAX_PATHS = 500
SHOWN = 200
_PLAIN_KEY = re.compile(r"[^\W\d]\w*+(?:-\w++)*+")
_KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}


@dataclass(slots=True)
class _Path:
    written: str = "$"
    types: Counter[str] = field(default_factory=Counter[str])
    values: tuple[Any, Any] | None = None
    """Least and greatest number."""
    sizes: tuple[int, int] | None = None
    example: Any = None
    below: dict[str | None, _Path] = field(default_factory=dict[str | None, "_Path"])

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {"path": self.written, "count": self.types.total(), "types": dict(self.types)}
        if self.values:
            found |= {"min": self.values[0], "max": self.values[1]}
        if self.sizes:
            found["size"] = {"min": self.sizes[0], "max": self.sizes[1]}
        return found if self.example is None else {**found, "example": self.example}


class _Walk:
    def __init__(self) -> None:
        self.root = _Path()
        self.paths = [self.root]
        self.totals: Counter[str] = Counter()
        self.depth = self.omitted = 0

    def visit(self, node: _Path, value: Any, level: int) -> None:
        """No deeper than `storage_lib.json_text.check_depth` lets it be."""
        kind = _KINDS.get(type(value), "null")
        node.types[kind] += 1
        self.totals[kind] += 1
        if kind in ("integer", "number"):
            node.values = _widened(node.values, value)
        elif kind in ("object", "array", "string"):
            node.sizes = _widened(node.sizes, len(value))
        if kind not in ("object", "array"):
            if node.example is None:
                node.example = value[:SHOWN] if isinstance(value, str) else value
            return
        self.depth = max(self.depth, level)
        children: Iterable[tuple[str | None, Any]] = (
            value.items() if isinstance(value, dict) else ((None, item) for item in value)
        )
        for key, item in children:
            child = node.below.get(key)
            if child is None:
                child = _Path(node.written + _step(key))
                if len(self.paths) < MAX_PATHS:
                    node.below[key] = child
                    self.paths.append(child)
                else:
                    self.omitted += 1
            self.visit(child, item, level + 1)


def summary(source: Path, lines: bool, warn: Callable[[str], None]) -> dict[str, Any]:
    """Items of an array share the path ``…[]``; sizes are keys, items or characters.

    :param lines: whether it is JSON Lines, which are looked at as one array.
    :raises MalformedReportError: it is no JSON; names the line and the byte.
    :raises SerializationError: it would take far more memory than its size.
    """
    data = source.read_bytes()
    check_room(data)
    if lines:
        document = [parsed(line, n) for n, line in enumerate(data.splitlines(), start=1) if line.strip()]
    else:
        document = parsed(data, 0)
    walk = _Walk()
    walk.visit(walk.root, document, 1)
    if walk.omitted:
        warn(f"only the first {MAX_PATHS} paths are listed; {walk.omitted} values lie directly under others")
    return {
        "root": next(iter(walk.root.types)),
        "depth": walk.depth,
        "totals": dict(walk.totals),
        "paths": [path.summary() for path in walk.paths],
    }


def _widened(ends: tuple[Any, Any] | None, value: Any) -> tuple[Any, Any]:
    return (value, value) if ends is None else (min(ends[0], value), max(ends[1], value))


def _step(key: str | None) -> str:
    if key is None:
        return "[]"
    shown = key if len(key) <= 100 else key[:100] + "…"
    return f".{shown}" if _PLAIN_KEY.fullmatch(key) else f"[{shown!r}]"
