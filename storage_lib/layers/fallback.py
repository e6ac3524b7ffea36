"""The fallback layer."""

from __future__ import annotations

from storage_lib.config.fallback import FallbackOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class FallbackLayer(Layer):
    """A layer with a second store for when the first is unavailable."""

    portable = True

    def __init__(self, primary: StorageBackend, secondary: StorageBackend, options: FallbackOptions) -> None:
        super().__init__(primary)
        self.secondary = secondary
        self.options = options
