"""The configuration of the library: `StorageConfig`."""

from storage_lib.config.storage import (
    CONNECTION,
    DEFAULT_CONTAINER,
    MAX_RETRY_ATTEMPTS,
    StorageConfig,
    StorageType,
)

__all__ = ["CONNECTION", "DEFAULT_CONTAINER", "MAX_RETRY_ATTEMPTS", "StorageConfig", "StorageType"]
