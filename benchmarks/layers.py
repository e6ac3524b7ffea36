"""What each layer costs, against the library that it uses and against the store without it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import audit_layer

Rows = list[tuple[str, str, str]]

LAYERS: dict[str, Callable[[int], Rows]] = {
    "audit": audit_layer.measure,
}
"""The rows of each layer, measured with so many turns."""


def measure(runs: int) -> Rows:
    return [row for rows in LAYERS.values() for row in rows(runs)]
