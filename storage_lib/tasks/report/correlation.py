"""Pearson correlations between numeric columns, over the rows where both have a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

MAX_COLUMNS = 100
STRONG = 0.5
TOP = 10


def strong_pairs(columns: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The ten strongest pairs with ``|r| >= 0.5``, strongest first; nan marks a missing value."""
    whole = {name: _centred(values) for name, values in columns.items() if not any(map(math.isnan, values))}
    found: list[dict[str, Any]] = []
    for a, b in combinations(columns, 2):
        if a in whole and b in whole:
            rows, r = len(columns[a]), _r(whole[a], whole[b])
        else:
            both = [(x, y) for x, y in zip(columns[a], columns[b], strict=True) if x == x and y == y]
            rows, r = len(both), _r(_centred([x for x, _ in both]), _centred([y for _, y in both]))
        # Two points always lie on a line.
        if r is not None and rows > 2 and abs(r) >= STRONG:
            found.append({"columns": [a, b], "r": r, "rows": rows})
    found.sort(key=lambda pair: -abs(pair["r"]))
    return found[:TOP]


def _centred(values: Sequence[float]) -> list[float] | None:
    """Deviations from the mean, scaled to a sum of squares of 1; None for a constant or empty column."""
    if not values:
        return None
    largest = max(map(abs, values))
    if not 0.0 < largest < math.inf:
        return None
    scaled = [value / largest for value in values]
    mean = math.fsum(scaled) / len(scaled)
    deviations = [value - mean for value in scaled]
    norm = math.sqrt(math.sumprod(deviations, deviations))
    # What is left of a constant column after subtracting its mean is rounding, not variation.
    if norm <= 1e-14 * math.sqrt(len(scaled)):
        return None
    return [deviation / norm for deviation in deviations]


def _r(x: list[float] | None, y: list[float] | None) -> float | None:
    if x is None or y is None:
        return None
    return max(-1.0, min(1.0, math.sumprod(x, y)))
