"""What every backend is, and what it raises."""

from storage_lib.backends.base import StorageBackend
from storage_lib.errors import StorageError

__all__ = ["StorageBackend", "StorageError"]
