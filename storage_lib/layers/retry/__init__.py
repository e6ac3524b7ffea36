"""Trying again what a store could not do at the moment."""

from storage_lib.layers.retry.backend import RetryBackend
from storage_lib.layers.retry.options import RetryOptions

__all__ = ["RetryBackend", "RetryOptions"]
