"""The configuration of the library: `StorageConfig`."""

from typing import Any

from storage_lib.config.http import check_http_key, check_http_url
from storage_lib.config.layers import LAYERS, options_class
from storage_lib.config.storage import (
    CONNECTION,
    DEFAULT_CONCURRENT_REQUESTS,
    DEFAULT_CONTAINER,
    DEFAULT_RETRY_ATTEMPTS,
    MAX_CONCURRENT_REQUESTS,
    MAX_RETRY_ATTEMPTS,
    NOT_OVER_HTTP,
    StorageConfig,
    StorageType,
    check_count,
    without_secrets,
)

__all__ = [
    "CONNECTION",
    "DEFAULT_CONCURRENT_REQUESTS",
    "DEFAULT_CONTAINER",
    "DEFAULT_RETRY_ATTEMPTS",
    "LAYERS",
    "MAX_CONCURRENT_REQUESTS",
    "MAX_RETRY_ATTEMPTS",
    "NOT_OVER_HTTP",
    "StorageConfig",
    "StorageType",
    "check_count",
    "check_http_key",
    "check_http_url",
    "without_secrets",
]


def __getattr__(name: str) -> Any:
    # The options of a layer are imported when they are named.
    layer = name.removesuffix("Options").lower()
    if name.endswith("Options") and layer in LAYERS:
        return options_class(layer)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
