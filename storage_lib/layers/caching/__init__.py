"""The caching layer: objects in memory, never staler than their time."""

from storage_lib.layers.caching.backend import CachingLayer
from storage_lib.layers.caching.cache import CacheCounts

__all__ = ["CacheCounts", "CachingLayer"]
