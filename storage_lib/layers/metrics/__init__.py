"""Measurements and logs of each operation."""

from storage_lib.layers.metrics.layer import MetricsLayer

__all__ = ["MetricsLayer"]
