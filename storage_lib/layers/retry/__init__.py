"""Retries of transient failures."""

from storage_lib.layers.retry.backend import RetryBackend
from storage_lib.layers.retry.options import RetryOptions

__all__ = ["RetryBackend", "RetryOptions"]
