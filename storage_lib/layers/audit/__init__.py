"""The audit layer: who did what, when, and how it ended, in a chain that shows what was tampered with."""

from storage_lib.layers.audit.layer import AuditLayer

__all__ = ["AuditLayer"]
