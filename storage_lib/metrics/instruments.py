"""Instruments: what is counted or measured under one name, in a series for each set of tags.

Recording takes no lock: each thread adds to cells of its own, which are summed when they are read. So no
increment is lost between threads and event loops, and nothing is held when a process forks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from threading import get_ident
from typing import Any, Literal

from storage_lib.errors import InvalidArgumentError
from storage_lib.patterns import pattern

type Tags = Mapping[str, str | int | float | bool]
type SeriesKey = tuple[tuple[str, str], ...]
"""Tags as text, ordered by name."""
type Kind = Literal["counter", "updowncounter", "gauge", "histogram"]

MAX_SERIES = 1000
"""Of one instrument. More sets of tags share one series, tagged `OVERFLOW`: tags with ids or keys would
otherwise use memory without end."""
OVERFLOW: SeriesKey = (("otel.metric.overflow", "true"),)
"""What OpenTelemetry's SDK tags such a series with."""

SECONDS = tuple(float(f"{digit}e{decade}") for decade in range(-5, 2) for digit in ("1", "2.5", "5"))
"""10 µs to 50 s: the bounds of a duration's buckets that are shown."""
BYTES = tuple(float(4**power) for power in range(3, 17))
"""64 B to 4 GiB: bounds for sizes."""
_STEPS = 4
"""How many buckets each of those is divided into, so that quantiles are within about 10 %."""

_TAG = pattern(r"[A-Za-z_][A-Za-z0-9_.\-]{0,99}")
_RESERVED_TAGS = ("le", "quantile")


class Instrument[S]:
    """What is recorded under one name. ``unit`` is in the notation of UCUM, as OpenTelemetry has it: ``s``,
    ``ms``, ``By``, ``{operation}``."""

    kind: Kind

    def __init__(self, name: str, unit: str = "", description: str = "") -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.on_series: Callable[[SeriesKey, S], None] | None = None
        """Called with each new series."""
        self._series: dict[SeriesKey, S] = {}

    def _made(self) -> S:
        raise NotImplementedError

    def bound(self, tags: Tags | None = None) -> S:
        """The series of these tags, to record into again and again.

        :raises InvalidArgumentError: a tag's name or value is not valid.
        """
        key = _key(tags) if tags else ()
        found = self._series.get(key)
        return self._added(key) if found is None else found

    def adopt(self, tags: Tags, series: S) -> None:
        """Show ``series`` under these tags."""
        self._series[_key(tags)] = series

    def series(self) -> dict[SeriesKey, S]:
        """What there is now."""
        return self._series.copy()

    def forget(self, tags: Tags | None = None) -> None:
        """Remove the series of these tags, if there is one: what it measured is gone."""
        self._series.pop(_key(tags) if tags else (), None)

    def _added(self, key: SeriesKey) -> S:
        for name, _ in key:
            if not _TAG.fullmatch(name) or name in _RESERVED_TAGS or name.startswith("__"):
                raise InvalidArgumentError(
                    f"tag {name[:100]!r} is not valid",
                    field="tags",
                    limit="letters, digits, _ . and -, at most 100, and not le or quantile",
                )
        if len(self._series) >= MAX_SERIES:
            key = OVERFLOW
        made = self._made()
        found = self._series.setdefault(key, made)
        if found is made and self.on_series is not None:
            self.on_series(key, made)
        return found


class Cells:
    """A number that every thread adds to."""

    __slots__ = ("_of_threads",)

    def __init__(self) -> None:
        self._of_threads: dict[int, float] = {}

    def add(self, amount: float = 1) -> None:
        thread = get_ident()
        try:
            self._of_threads[thread] += amount
        except KeyError:
            self._of_threads[thread] = amount

    @property
    def value(self) -> float:
        return sum(self._of_threads.copy().values())


class Observed(Cells):
    """A number that is counted elsewhere, by what ``read`` returns, and added to here."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], float]) -> None:
        super().__init__()
        self._read = read

    @property
    def value(self) -> float:
        return self._read() + super().value


class UpDownCounter(Instrument[Cells]):
    """A number that rises and falls."""

    kind = "updowncounter"

    def _made(self) -> Cells:
        return Cells()

    def add(self, amount: float = 1, tags: Tags | None = None) -> None:
        self.bound(tags).add(amount)


class Counter(UpDownCounter):
    """A number that only rises, from 0 at the start of the process."""

    kind = "counter"

    def add(self, amount: float = 1, tags: Tags | None = None) -> None:
        """:raises InvalidArgumentError: ``amount`` is negative."""
        if not amount >= 0:
            raise InvalidArgumentError(
                f"counter {self.name} cannot fall by {amount}", field="amount", limit="0 or more"
            )
        self.bound(tags).add(amount)


class Level:
    """A value that is set."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        self.value = value


class Gauge(Instrument[Level]):
    """The latest value of something."""

    kind = "gauge"

    def _made(self) -> Level:
        return Level()

    def set(self, value: float, tags: Tags | None = None) -> None:
        self.bound(tags).set(value)


class Distribution:
    """How often which values were recorded."""

    __slots__ = ("_of_threads", "attributes", "fine", "forward")

    def __init__(self, fine: Sequence[float]) -> None:
        self.fine = fine
        self._of_threads: dict[int, list[Any]] = {}
        self.forward: Callable[[float, Mapping[str, str]], None] | None = None
        """Told of each value, too, with ``attributes``."""
        self.attributes: Mapping[str, str] = {}

    def record(self, value: float) -> None:
        cells = self.cells()
        cells[bisect_left(self.fine, value)] += 1
        cells[-1] += value
        if self.forward is not None:
            self.forward(value, self.attributes)

    def cells(self) -> list[Any]:
        """What this thread counts: values by fine bucket, and their sum at the end. No other thread may
        change it."""
        thread = get_ident()
        try:
            return self._of_threads[thread]
        except KeyError:
            cells = self._of_threads[thread] = [*[0] * (len(self.fine) + 1), 0.0]
            return cells

    def snapshot(self) -> tuple[list[int], float]:
        """The number of values in each fine bucket, the last of which has no upper bound, and their sum."""
        sums = [0.0] * (len(self.fine) + 2)
        for cells in self._of_threads.copy().values():
            sums = [one + other for one, other in zip(sums, cells.copy(), strict=True)]
        return [int(count) for count in sums[:-1]], sums[-1]

    def quantile(self, part: float) -> float:
        """The value that this part of the recorded ones does not exceed, estimated within its bucket; NaN if
        there is none."""
        counts, _ = self.snapshot()
        return quantile(self.fine, counts, part)


class Histogram(Instrument[Distribution]):
    """How values are distributed.

    :param bounds: the upper bounds of the buckets that are shown, ascending.
    """

    kind = "histogram"

    def __init__(
        self, name: str, unit: str = "", description: str = "", bounds: Sequence[float] = SECONDS
    ) -> None:
        super().__init__(name, unit, description)
        self.bounds = tuple(bounds)
        self.fine = _divided(self.bounds)

    def _made(self) -> Distribution:
        return Distribution(self.fine)

    def record(self, value: float, tags: Tags | None = None) -> None:
        self.bound(tags).record(value)

    def buckets(self, counts: Sequence[int]) -> list[int]:
        """How many values are at most each of ``bounds``, from the counts of a snapshot."""
        ends = [self.fine.index(bound) for bound in self.bounds]
        return [sum(counts[: end + 1]) for end in ends]


def quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float:
    """The value below which this part of all lies, estimated in proportion within its bucket."""
    total = sum(counts)
    if not total:
        return math.nan
    rank, before = part * total, 0
    for index, count in enumerate(counts):
        if count and before + count >= rank:
            if index == len(bounds):
                return bounds[-1]
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * max(rank - before, 0) / count
        before += count
    return bounds[-1]


def _divided(bounds: tuple[float, ...]) -> tuple[float, ...]:
    fine = [bounds[0]]
    for lower, upper in pairwise(bounds):
        ratio = upper / lower
        fine += [lower * ratio ** (step / _STEPS) for step in range(1, _STEPS)]
        fine.append(upper)
    return tuple(fine)


def _key(tags: Tags) -> SeriesKey:
    try:
        return tuple(sorted([(_name(name), _text(value)) for name, value in tags.items()]))
    except (AttributeError, TypeError) as error:
        raise InvalidArgumentError(
            "the tags are not a mapping of names to text, numbers or booleans",
            field="tags",
            remedy='pass them as {"operation": "write"}',
        ) from error


def _name(name: object) -> str:
    if isinstance(name, str):
        return name
    raise TypeError


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise TypeError
