"""The caching layer."""

from __future__ import annotations

from storage_lib.config.caching import CachingOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class CachingLayer(Layer):
    """A layer that keeps objects in memory."""

    portable = True

    def __init__(self, inner: StorageBackend, options: CachingOptions) -> None:
        super().__init__(inner)
        self.options = options
