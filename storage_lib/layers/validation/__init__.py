"""Validation: what may be stored under a prefix, and how much of it."""

from storage_lib.layers.validation.layer import ValidationLayer

__all__ = ["ValidationLayer"]
