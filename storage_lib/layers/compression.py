"""The compression layer."""

from __future__ import annotations

from storage_lib.config.compression import CompressionOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class CompressionLayer(Layer):
    """A layer that stores objects compressed."""

    portable = True

    def __init__(self, inner: StorageBackend, options: CompressionOptions) -> None:
        super().__init__(inner)
        self.options = options
