"""The configuration of the library: `StorageConfig`."""

from storage_lib.config.storage import (
    CONNECTION,
    DEFAULT_CONCURRENT_REQUESTS,
    DEFAULT_CONTAINER,
    DEFAULT_RETRY_ATTEMPTS,
    MAX_CONCURRENT_REQUESTS,
    MAX_RETRY_ATTEMPTS,
    StorageConfig,
    StorageType,
    check_concurrent_requests,
    check_retry_attempts,
    without_secrets,
)

__all__ = [
    "CONNECTION",
    "DEFAULT_CONCURRENT_REQUESTS",
    "DEFAULT_CONTAINER",
    "DEFAULT_RETRY_ATTEMPTS",
    "MAX_CONCURRENT_REQUESTS",
    "MAX_RETRY_ATTEMPTS",
    "StorageConfig",
    "StorageType",
    "check_concurrent_requests",
    "check_retry_attempts",
    "without_secrets",
]
