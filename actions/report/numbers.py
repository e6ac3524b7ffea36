"""Numeric columns: moments in one pass, quantiles from all values or from a sample.

Mean and variance merge batch by batch (Chan, Golub and LeVeque's form of Welford's update), which does not
lose digits to large means. Quantiles interpolate linearly (type 7, numpy's default) over all values while
these are at most 100,000 or have at most 10,000 distinct ones, else over a uniform sample of 100,000.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

from actions.report.sketch import EXACT_DISTINCT, Reservoir

SAMPLE = 100_000
QUANTILES = (("p05", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p95", 0.95))
BINS = 10


class Numbers:
    """Accumulates numbers, each with a weight (how often it occurs)."""

    def __init__(self) -> None:
        self.count = 0
        self.beyond_double = 0
        self._mean = 0.0
        self._m2 = 0.0
        self._sum: float = 0
        self._low: float = math.inf
        self._high: float = -math.inf
        self._zeros = 0
        self._negatives = 0
        self._spread = _Spread()

    def add(self, values: Sequence[float], weights: Sequence[int]) -> None:
        """Add ``values`` (ints stay exact in sum, minimum and maximum); zero-length input is allowed."""
        floats = [_double(value) for value in values]
        if floats and not math.isfinite(max(map(abs, floats))):
            kept = [i for i, x in enumerate(floats) if math.isfinite(x)]
            self.beyond_double += sum(weights) - sum(weights[i] for i in kept)
            values, floats = [values[i] for i in kept], [floats[i] for i in kept]
            weights = [weights[i] for i in kept]
        if not floats:
            return
        n = sum(weights)
        # Large magnitudes are halved in range first, so that a sum of finite values stays finite.
        mean = math.sumprod(floats, [weight / n for weight in weights])
        deviations = [x - mean for x in floats]
        m2 = math.sumprod(map(mul, deviations, deviations), weights)
        delta = mean - self._mean
        total = self.count + n
        self._m2 += m2 + delta * delta * (self.count / total * n)
        self._mean += delta * (n / total)
        self.count = total
        if _all_int(values) and isinstance(self._sum, int):
            self._sum += sum(map(mul, values, weights))
        else:
            self._sum = _double(self._sum) + math.sumprod(floats, weights)
        self._low = min(self._low, min(values))
        self._high = max(self._high, max(values))
        self._zeros += sum(w for x, w in zip(floats, weights, strict=True) if x == 0.0)
        self._negatives += sum(w for x, w in zip(floats, weights, strict=True) if x < 0.0)
        self._spread.add(floats, weights)

    def summary(self) -> dict[str, Any]:
        """The column's numeric part as plain JSON values; figures that do not exist are None."""
        if not self.count:
            return {"beyond_double": self.beyond_double} if self.beyond_double else {}
        pairs = self._spread.sorted_pairs()
        values = [value for value, _ in pairs]
        ranks = list(accumulate(weight for _, weight in pairs))
        quantiles = {name: _finite(_quantile(values, ranks, q)) for name, q in QUANTILES}
        result: dict[str, Any] = {
            "min": self._low,
            "max": self._high,
            "mean": _finite(self._mean),
            "stdev": _finite(math.sqrt(self._m2 / (self.count - 1))) if self.count > 1 else None,
            "sum": _finite(self._sum),
            "quantiles": quantiles,
            "quantiles_are_sampled": not self._spread.complete,
            "zeros": self._zeros,
            "negatives": self._negatives,
            "outliers": self._outliers(quantiles["p25"], quantiles["p75"], values, ranks),
            "histogram": self._histogram(values, ranks),
        }
        if self.beyond_double:
            result["beyond_double"] = self.beyond_double
        return result

    def _outliers(
        self, q1: float | None, q3: float | None, values: list[float], ranks: list[int]
    ) -> dict[str, Any] | None:
        if q1 is None or q3 is None or not math.isfinite(1.5 * (q3 - q1)):
            return None
        low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
        outside = (
            _below(bisect_left(values, low), ranks) + ranks[-1] - _below(bisect_right(values, high), ranks)
        )
        return {"count": self._scaled(outside, ranks), "below": _finite(low), "above": _finite(high)}

    def _histogram(self, values: list[float], ranks: list[int]) -> dict[str, Any] | None:
        low, high = float(self._low), float(self._high)
        width = (high - low) / BINS
        if not 0.0 < width < math.inf:
            return None
        edges = [low + i * width for i in range(BINS)] + [high]
        below = [_below(bisect_left(values, edge), ranks) for edge in edges[:-1]] + [ranks[-1]]
        counts = [self._scaled(b - a, ranks) for a, b in pairwise(below)]
        return {"edges": edges, "counts": counts}

    def _scaled(self, count: int, ranks: list[int]) -> int:
        return count if ranks[-1] == self.count else round(count * self.count / ranks[-1])


class _Spread:
    """All values with their weights, or a uniform sample of them."""

    def __init__(self) -> None:
        self._counts: Counter[float] | None = Counter()
        self._sample: Reservoir[float] = Reservoir(SAMPLE)

    @property
    def complete(self) -> bool:
        return self._counts is not None or self._sample.complete

    def add(self, values: Sequence[float], weights: Sequence[int]) -> None:
        if self._counts is None:
            self._expand(values, weights)
            return
        for value, weight in zip(values, weights, strict=True):
            self._counts[value] += weight
        if len(self._counts) > EXACT_DISTINCT:
            counts, self._counts = self._counts, None
            self._expand(list(counts), list(counts.values()))

    def sorted_pairs(self) -> list[tuple[float, int]]:
        counts = self._counts if self._counts is not None else Counter(self._sample.items)
        return sorted(counts.items())

    def _expand(self, values: Sequence[float], weights: Sequence[int]) -> None:
        if len(values) == sum(weights):
            self._sample.add(values)
            return
        for value, weight in zip(values, weights, strict=True):
            self._sample.add([value] * weight)


def _quantile(values: list[float], ranks: list[int], q: float) -> float:
    position = q * (ranks[-1] - 1)
    index = math.floor(position)
    low = values[bisect_right(ranks, index)]
    high = values[bisect_right(ranks, min(index + 1, ranks[-1] - 1))]
    return low if low == high else low + (high - low) * (position - index)


def _below(index: int, ranks: list[int]) -> int:
    return ranks[index - 1] if index else 0


def _all_int(values: Sequence[float]) -> bool:
    return all(type(value) is int for value in values)


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _finite(value: float) -> float | None:
    return value if isinstance(value, int) or math.isfinite(value) else None
