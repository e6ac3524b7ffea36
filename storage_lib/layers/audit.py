"""The audit layer."""

from __future__ import annotations

from storage_lib.config.audit import AuditOptions
from storage_lib.layers.base import Layer
from storage_lib.ports.backend import StorageBackend


class AuditLayer(Layer):
    """A layer that records who did what."""

    portable = True

    def __init__(self, inner: StorageBackend, options: AuditOptions) -> None:
        super().__init__(inner)
        self.options = options
