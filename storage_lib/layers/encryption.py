"""The encryption layer."""

from __future__ import annotations

from storage_lib.config.encryption import EncryptionOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class EncryptionLayer(Layer):
    """A layer that stores objects encrypted."""

    portable = True

    def __init__(self, inner: StorageBackend, options: EncryptionOptions) -> None:
        super().__init__(inner)
        self.options = options
