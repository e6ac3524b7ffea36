"""The metrics layer."""

from __future__ import annotations

from storage_lib.config.metrics import MetricsOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class MetricsLayer(Layer):
    """A layer that measures each operation."""

    portable = True

    def __init__(self, inner: StorageBackend, options: MetricsOptions) -> None:
        super().__init__(inner)
        self.options = options
