"""The instruments of a registry as instruments of OpenTelemetry.

Counters and gauges are observed when they are exported, and cost nothing when they are recorded. Each value
of a histogram is recorded twice, which without an SDK costs a tenth of a microsecond.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from storage_lib.errors import ConfigurationError
from storage_lib.metrics.instruments import Distribution, Histogram, Instrument, SeriesKey
from storage_lib.metrics.registry import Registry, Source

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ImportError as error:
    raise ConfigurationError(
        "metrics need OpenTelemetry's API, which is not installed",
        field="metrics",
        remedy="pip install agent-storage[metrics], or set AGENT_STORAGE_METRICS_OPENTELEMETRY=false",
    ) from error

SCOPE = "agent_storage"
"""The name of the meter."""

_exported: weakref.WeakSet[Registry] = weakref.WeakSet()

type _Callback = Callable[[CallbackOptions], Iterable[Observation]]


def export(registry: Registry, meter: Meter | None = None) -> None:
    """Show everything in ``registry`` to OpenTelemetry, also what is added later. It is done once for each
    registry.

    :param meter: None means that of the global meter provider, whenever that is set.
    """
    if registry not in _exported:
        _exported.add(registry)
        exporter = _Exporter(registry, meter or get_meter(SCOPE))
        registry.on_instrument(exporter.instrument)
        registry.on_source(exporter.source)


class _Exporter:
    def __init__(self, registry: Registry, meter: Meter) -> None:
        self._registry = registry
        self._meter = meter
        self._statistics: set[str] = set()

    def instrument(self, instrument: Instrument[Any]) -> None:
        if isinstance(instrument, Histogram):
            self._histogram(instrument)
        else:
            callback = partial(_observed, instrument)
            self._observable(
                instrument.kind, instrument.name, callback, instrument.unit, instrument.description
            )

    def source(self, source: Source) -> None:
        for each in source.measured():
            if each.name not in self._statistics:
                self._statistics.add(each.name)
                callback = partial(self._told, each.name)
                self._observable(each.kind, each.name, callback, each.unit, each.description)

    def _histogram(self, histogram: Histogram) -> None:
        real = self._meter.create_histogram(
            histogram.name,
            histogram.unit,
            histogram.description,
            explicit_bucket_boundaries_advisory=list(histogram.bounds),
        )

        def forward(key: SeriesKey, series: Distribution) -> None:
            series.attributes = dict(key)
            series.forward = real.record

        histogram.on_series = forward
        for key, series in histogram.series().items():
            forward(key, series)

    def _observable(self, kind: str, name: str, callback: _Callback, unit: str, description: str) -> None:
        creators = {
            "counter": self._meter.create_observable_counter,
            "updowncounter": self._meter.create_observable_up_down_counter,
            "gauge": self._meter.create_observable_gauge,
        }
        creators[kind](name, [callback], unit, description)

    def _told(self, name: str, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(each.value, dict(each.tags))
            for each in self._registry.statistics()
            if each.name == name
        ]


def _observed(instrument: Instrument[Any], _: CallbackOptions) -> list[Observation]:
    return [Observation(series.value, dict(key)) for key, series in instrument.series().items()]
