"""Counters, gauges and histograms of this process.

The metrics layer, tasks and functions record into one `Registry`; ``StorageBackend.metrics`` of a manager's
backend is that registry, and None if metrics are off. `MetricsCollector` is for measurements of your own.
"""

from storage_lib.metrics.collector import MetricsCollector
from storage_lib.metrics.instruments import Counter, Gauge, Histogram, Tags, UpDownCounter
from storage_lib.metrics.registry import Registry, default_registry

__all__ = [
    "Counter",
    "Gauge",
    "Histogram",
    "MetricsCollector",
    "Registry",
    "Tags",
    "UpDownCounter",
    "default_registry",
]
