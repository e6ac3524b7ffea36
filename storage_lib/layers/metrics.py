"""The metrics layer."""

from __future__ import annotations

from storage_lib.config.metrics import MetricsOptions
from storage_lib.layers.base import Layer
from storage_lib.metrics.registry import Registry, default_registry
from storage_lib.ports.backend import StorageBackend


class MetricsLayer(Layer):
    """A layer that measures each operation.

    :param registry: where; None means the registry of this process.
    """

    portable = True

    def __init__(
        self, inner: StorageBackend, options: MetricsOptions, registry: Registry | None = None
    ) -> None:
        super().__init__(inner)
        self.options = options
        self.metrics = default_registry() if registry is None else registry
