"""The compression layer: objects are stored compressed where that helps, and come back as they were saved."""

from __future__ import annotations

from storage_lib.config.compression import CompressionOptions
from storage_lib.layers.base import Layer
from storage_lib.layers.compression.objects import CompressedObjects
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import ObjectDriver

__all__ = ["CompressionLayer"]


class CompressionLayer(Layer):
    """A layer that stores objects compressed.

    What is small, is compressed already or does not shrink is stored as it is. Objects that were stored
    without this layer, or with another codec or level, are read as well.
    """

    portable = True

    def __init__(self, inner: StorageBackend, options: CompressionOptions | None = None) -> None:
        self.options = options or CompressionOptions()
        super().__init__(inner)

    def object_layer(self, inner: ObjectDriver) -> ObjectDriver:
        return CompressedObjects(inner, self.around, self.options)
