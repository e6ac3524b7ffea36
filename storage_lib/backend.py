"""What every backend is, and what it raises."""

from storage_lib.errors import StorageError
from storage_lib.ports.backend import StorageBackend

__all__ = ["StorageBackend", "StorageError"]
