"""Storage for agents: objects, tables and queues with one meaning on files, Azure, S3 and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage_lib.azure_backend import AzureStorageBackend
    from storage_lib.backends.memory import MemoryBackend
    from storage_lib.config import StorageConfig
    from storage_lib.encrypted_storage import EncryptedStorage
    from storage_lib.errors import StorageError
    from storage_lib.file_backend import FileStorageBackend
    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import StorageBackend
    from storage_lib.s3_backend import S3StorageBackend
    from storage_lib.sync import SyncStorageManager

__all__ = [
    "AzureStorageBackend",
    "EncryptedStorage",
    "FileStorageBackend",
    "MemoryBackend",
    "S3StorageBackend",
    "StorageBackend",
    "StorageConfig",
    "StorageError",
    "StorageManager",
    "SyncStorageManager",
]

_MODULES = {
    "AzureStorageBackend": "azure_backend",
    "EncryptedStorage": "encrypted_storage",
    "FileStorageBackend": "file_backend",
    "MemoryBackend": "backends.memory",
    "S3StorageBackend": "s3_backend",
    "StorageBackend": "ports.backend",
    "StorageConfig": "config",
    "StorageError": "errors",
    "StorageManager": "manager",
    "SyncStorageManager": "sync",
}


def __getattr__(name: str) -> Any:
    # Imported when it is named: a cold start pays for what it uses.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"storage_lib.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
