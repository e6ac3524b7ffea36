"""Counting values in bounded memory: exact while few are distinct, then by documented sketches.

* distinct values: K minimum values (Bar-Yossef et al., 2002) over CRC-32, k = 8,192: the standard error is
  1/sqrt(k-2), about 1.1 %. CRC-32 rather than ``hash()``, so that every process gives the same answer.
* most frequent values: Misra and Gries (1982), 10,000 counters: a count is too low by at most ``error``.
* "is every value distinct?" and duplicate rows: 64-bit hashes, exact but for a collision (n²/2⁶⁵, about
  one in a million at 6 million rows). ``hash()`` is right here: keyed, and its value is never shown.
* samples: reservoir sampling, Li's algorithm L (1994), with a fixed seed.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from zlib import crc32

EXACT_DISTINCT = 10_000
_K = 8_192
_HASHES_KEPT = 1_000_000


class DistinctSketch:
    """The k smallest hashes seen; how densely they lie tells how many distinct values there were."""

    def __init__(self) -> None:
        self._smallest: set[int] = set()
        self._threshold = 1 << 32

    def add(self, values: Iterable[object]) -> None:
        threshold = self._threshold
        self._smallest.update(h for h in map(crc32, map(str.encode, map(str, values))) if h < threshold)
        if len(self._smallest) > 2 * _K:
            kept = sorted(self._smallest)[:_K]
            self._smallest = set(kept)
            self._threshold = kept[-1]

    def estimate(self) -> int:
        if len(self._smallest) < _K:
            return len(self._smallest)
        kth = sorted(self._smallest)[_K - 1]
        return round((_K - 1) * (1 << 32) / (kth + 1))


class HashSet:
    """How many distinct 64-bit hashes were added: a set for the first million, 8 bytes each beyond."""

    def __init__(self, kept: int = _HASHES_KEPT) -> None:
        self._kept = kept
        self._seen: set[int] = set()
        self._spilled = array("q")

    def add(self, hashes: Iterable[int]) -> None:
        if len(self._seen) < self._kept:
            self._seen.update(hashes)
        else:
            seen = self._seen
            self._spilled.extend([h for h in hashes if h not in seen])

    def distinct(self) -> int:
        # In parts, because one set over all of them would cost ten times the array.
        count = max(1, len(self._spilled) >> 20)
        if count == 1:
            return len(self._seen) + len(set(self._spilled))
        parts = [array("q") for _ in range(count)]
        for each in self._spilled:
            parts[each % count].append(each)
        return len(self._seen) + sum(len(set(part)) for part in parts)


class ValueCounter[T]:
    """Counts of values: exact up to ``limit`` distinct ones, sketched from then on."""

    def __init__(self, limit: int = EXACT_DISTINCT) -> None:
        self._limit = limit
        self._sketch: DistinctSketch | None = None
        self._hashes: HashSet | None = None
        self._total = 0
        self.counts: Counter[T] = Counter()
        self.error = 0
        """How much too low a count in ``counts`` may be; 0 while exact."""

    @property
    def exact(self) -> bool:
        return self._sketch is None

    def add(self, values: Sequence[T]) -> Counter[T] | None:
        """Count ``values``. The call that leaves the exact state returns the last exact counts."""
        self._total += len(values)
        self.counts.update(values)
        if self._sketch is None:
            if len(self.counts) <= self._limit:
                return None
            last = self.counts.copy()
            self._sketch = DistinctSketch()
            self._sketch.add(last)
            if len(last) == self._total:
                self._hashes = HashSet(kept=0)
                self._hashes.add(map(hash, last))
            self._prune()
            return last
        self._sketch.add(values)
        if self._hashes is not None:
            if len(set(values)) == len(values):
                self._hashes.add(map(hash, values))
            else:
                self._hashes = None
        self._prune()
        return None

    def distinct(self) -> tuple[int, bool]:
        """The number of distinct values, and whether it is an estimate."""
        if self._sketch is None:
            return len(self.counts), False
        if self._hashes is not None:
            return self._hashes.distinct(), False
        return min(self._sketch.estimate(), self._total), True

    def _prune(self) -> None:
        if len(self.counts) <= 2 * self._limit:
            return
        values = list(self.counts.values())
        cut = 1
        if len(values) - values.count(1) > self._limit:
            cut = sorted(values, reverse=True)[self._limit]
        self.counts = Counter({value: count - cut for value, count in self.counts.items() if count > cut})
        self.error += cut


class Reservoir[T]:
    """A uniform sample of at most ``size`` of the items added, in no particular order."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self._size = size
        self._random = random.Random(seed)  # noqa: S311 - a repeatable sample, not a secret
        self._weight = 1.0
        self._next = size - 1
        self.seen = 0
        self.items: list[T] = []

    @property
    def complete(self) -> bool:
        """Every item is in the sample."""
        return self.seen == len(self.items)

    def add(self, items: Sequence[T]) -> None:
        start = self.seen
        self.seen += len(items)
        room = self._size - len(self.items)
        if room > 0:
            self.items.extend(islice(items, room))
            if len(self.items) == self._size:
                self._skip()
        while self._next < self.seen and len(self.items) == self._size:
            self.items[int(self._random.random() * self._size)] = items[self._next - start]
            self._skip()

    def _skip(self) -> None:
        # 1 - random() is in (0, 1], whose logarithm exists.
        self._weight *= math.exp(math.log(1.0 - self._random.random()) / self._size)
        gap = math.log(1.0 - self._random.random()) / math.log1p(-self._weight) if self._weight < 1.0 else 0.0
        self._next += math.floor(gap) + 1
