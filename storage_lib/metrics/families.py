"""What a registry holds, as metric families: names, labels and numbers in the terms of Prometheus.

Names follow OpenTelemetry's rules for Prometheus: ``db.client.operation.duration`` in seconds becomes
``db_client_operation_duration_seconds``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from storage_lib.metrics.instruments import Distribution, Histogram, Instrument, quantile
from storage_lib.metrics.registry import Registry
from storage_lib.patterns import pattern

QUANTILES = (0.5, 0.95, 0.99)

type Labels = tuple[tuple[str, str], ...]

_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": "ratio", "%": "percent"}
_NOT_IN_NAMES = pattern(r"[^A-Za-z0-9_]")


@dataclass(slots=True)
class Family:
    """The samples of one name; each has the end of its name, its labels and its value."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "summary"]
    unit: str = ""
    description: str = ""
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)


class Told:
    """Numbers that are asked for, not recorded: by name, with the same tags and unit as an instrument."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}

    def add(
        self,
        name: str,
        value: float,
        tags: Iterable[tuple[str, str]] = (),
        *,
        kind: Literal["counter", "gauge"] = "gauge",
        unit: str = "",
        description: str = "",
    ) -> None:
        made = _family(name, kind, unit, description)
        found = self.families.setdefault(made.name, made)
        found.samples.append(("_total" if kind == "counter" else "", labels(tags), value))


def families(registry: Registry) -> list[Family]:
    """Everything in ``registry``, and what follows from it: quantiles of each histogram, the part of
    operations that fail, and the part of reads that a cache answers."""
    found = list(_recorded(registry.instruments()))
    told = Told()
    for each in registry.statistics():
        told.add(
            each.name,
            each.value,
            each.tags,
            kind=each.kind,
            unit=each.unit,
            description=each.description,
        )
    _add_error_ratios(registry, told)
    _add_hit_ratio(registry, told)
    return [*found, *told.families.values()]


def labels(tags: Iterable[tuple[str, str]]) -> Labels:
    """Tags as labels. Values of tags whose names become the same label are joined by ``;``."""
    named: dict[str, str] = {}
    for name, value in tags:
        label = _NOT_IN_NAMES.sub("_", name)
        if label.startswith("__"):  # Prometheus keeps such labels for itself.
            label = f"tag{label}"
        named[label] = f"{named[label]};{value}" if label in named else value
    return tuple(named.items())


def _recorded(instruments: Sequence[Instrument[Any]]) -> Iterable[Family]:
    for instrument in instruments:
        kind = "gauge" if instrument.kind == "updowncounter" else instrument.kind
        family = _family(instrument.name, kind, instrument.unit, instrument.description)
        if isinstance(instrument, Histogram):
            summary = Family(f"{family.name}_summary", "summary", "", f"Quantiles of {family.name}")
            for key, series in instrument.series().items():
                _add_distribution(family, summary, instrument, labels(key), series)
            yield family
            yield summary
        else:
            end = "_total" if kind == "counter" else ""
            for key, series in instrument.series().items():
                family.samples.append((end, labels(key), series.value))
            yield family


def _add_distribution(
    family: Family, summary: Family, histogram: Histogram, shown: Labels, series: Distribution
) -> None:
    counts, total = series.snapshot()
    count = sum(counts)
    for bound, below in zip(histogram.bounds, histogram.buckets(counts), strict=True):
        family.samples.append(("_bucket", (*shown, ("le", repr(float(bound)))), below))
    family.samples.append(("_bucket", (*shown, ("le", "+Inf")), count))
    for part in QUANTILES:
        value = quantile(series.fine, counts, part)
        if not math.isnan(value):
            summary.samples.append(("", (*shown, ("quantile", str(part))), value))
    for each in (family, summary):
        each.samples += [("_sum", shown, total), ("_count", shown, count)]


def _family(name: str, kind: Any, unit: str, description: str) -> Family:
    exposed = _NOT_IN_NAMES.sub("_", name).removesuffix("_total")
    word = _UNITS.get(unit, "")
    if word and not exposed.endswith(f"_{word}"):
        exposed = f"{exposed}_{word}"
    return Family(exposed, kind, word, description)


def _add_error_ratios(registry: Registry, told: Told) -> None:
    operations: dict[Labels, float] = {}
    failed: dict[Labels, float] = {}
    shown = ("backend", "operation", "port")
    for instrument in registry.instruments():
        if instrument.name == "agent_storage.operations":
            for key, series in instrument.series().items():
                tags = tuple(each for each in key if each[0] in shown)
                operations[tags] = operations.get(tags, 0) + series.value
                if ("outcome", "error") in key:
                    failed[tags] = failed.get(tags, 0) + series.value
    for tags, count in operations.items():
        if count:
            told.add(
                "agent_storage.error_ratio",
                failed.get(tags, 0) / count,
                tags,
                description="The part of operations that failed, since the start",
            )


def _add_hit_ratio(registry: Registry, told: Told) -> None:
    reads = {"hits": 0.0, "misses": 0.0, "stale": 0.0}
    for each in registry.statistics():
        if each.name.startswith("agent_storage.cache.") and (end := each.name.rpartition(".")[2]) in reads:
            reads[end] += each.value
    if total := sum(reads.values()):
        told.add(
            "agent_storage.cache.hit_ratio",
            reads["hits"] / total,
            description="The part of reads that were answered from memory, since the start",
        )
