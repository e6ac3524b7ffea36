"""Pearson correlations between numeric columns, over the rows where both have a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

MAX_COLUMNS = 100
STRONG = 0.5
TOP = 10
_COMPARED = 4_000_000
"""Rows that are compared one by one over all pairs of columns, which takes a second or two."""


def strong_pairs(columns: Mapping[str, Sequence[float]], warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """The ten strongest pairs with ``|r| >= 0.5``, strongest first; nan marks a missing value.

    Each pair with missing values has rows of its own to compare. Where that are many, only every nth row is.
    """
    whole = {name: _centred(values) for name, values in columns.items() if not any(map(math.isnan, values))}
    length = max(map(len, columns.values()), default=0)
    step = math.ceil((math.comb(len(columns), 2) - math.comb(len(whole), 2)) * length / _COMPARED) or 1
    if step > 1:
        warn(f"correlations of columns with missing values are over one row in {step}")
    thinned = columns if step == 1 else {name: values[::step] for name, values in columns.items()}
    found: list[dict[str, Any]] = []
    for a, b in combinations(columns, 2):
        if a in whole and b in whole:
            rows, r = len(columns[a]), _r(whole[a], whole[b])
        else:
            both = [(x, y) for x, y in zip(thinned[a], thinned[b], strict=True) if x == x and y == y]
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
