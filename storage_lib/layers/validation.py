"""The validation layer."""

from __future__ import annotations

from storage_lib.config.validation import ValidationOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class ValidationLayer(Layer):
    """A layer that refuses what the rules of a prefix do not allow."""

    portable = True

    def __init__(self, inner: StorageBackend, options: ValidationOptions) -> None:
        super().__init__(inner)
        self.options = options
