"""Storage for agents: objects, tables and queues with one meaning on files, Azure, S3 and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from storage_lib.azure_backend import AzureStorageBackend
    from storage_lib.backends.memory import MemoryBackend
    from storage_lib.codecs import register_codec
    from storage_lib.config import StorageConfig
    from storage_lib.config.audit import AuditOptions
    from storage_lib.config.caching import CachingOptions
    from storage_lib.config.compression import CompressionOptions
    from storage_lib.config.encryption import EncryptionOptions
    from storage_lib.config.fallback import FallbackOptions
    from storage_lib.config.metrics import MetricsOptions
    from storage_lib.config.validation import Rule, ValidationOptions
    from storage_lib.conversations import Conversations
    from storage_lib.encrypted_storage import EncryptedStorage
    from storage_lib.errors import (
        AccessDeniedError,
        BackendClosedError,
        ConfigurationError,
        EncryptionError,
        ForbiddenError,
        IntegrityError,
        InvalidArgumentError,
        InvalidKeyError,
        KeyNotFoundError,
        NotPortableError,
        ObjectExistsError,
        ObjectTooLargeError,
        PreconditionFailedError,
        QuotaExceededError,
        RangeNotSatisfiableError,
        RuleViolationError,
        SerializationError,
        StorageError,
        StorageUnavailableError,
        TransientStorageError,
        UnsupportedOperationError,
    )
    from storage_lib.file_backend import FileStorageBackend
    from storage_lib.manager import StorageManager
    from storage_lib.ports.backend import (
        ByteRange,
        Delete,
        Entity,
        EntityPage,
        Insert,
        Listed,
        ListEntry,
        ListPage,
        ObjectInfo,
        ObjectReader,
        ObjectStats,
        ObjectStore,
        ObjectWriter,
        PutResult,
        QueueMessage,
        QueueStore,
        StorageBackend,
        StoredObject,
        TableStore,
        Update,
        Upsert,
    )
    from storage_lib.ports.object_model import Loaded
    from storage_lib.s3_backend import S3StorageBackend
    from storage_lib.segments import (
        from_path,
        from_segment,
        from_table_key,
        moment_of,
        newest_first,
        to_path,
        to_segment,
        to_table_key,
    )
    from storage_lib.sync import SyncStorageManager
    from storage_lib.urls import config_of, open_store
    from storage_lib.versioning import Version

__all__ = [
    "AccessDeniedError",
    "AuditOptions",
    "AzureStorageBackend",
    "BackendClosedError",
    "ByteRange",
    "CachingOptions",
    "CompressionOptions",
    "ConfigurationError",
    "Conversations",
    "Delete",
    "EncryptedStorage",
    "EncryptionError",
    "EncryptionOptions",
    "Entity",
    "EntityPage",
    "FallbackOptions",
    "FileStorageBackend",
    "ForbiddenError",
    "Insert",
    "IntegrityError",
    "InvalidArgumentError",
    "InvalidKeyError",
    "KeyNotFoundError",
    "ListEntry",
    "ListPage",
    "Listed",
    "Loaded",
    "MemoryBackend",
    "MetricsOptions",
    "NotPortableError",
    "ObjectExistsError",
    "ObjectInfo",
    "ObjectReader",
    "ObjectStats",
    "ObjectStore",
    "ObjectTooLargeError",
    "ObjectWriter",
    "PreconditionFailedError",
    "PutResult",
    "QueueMessage",
    "QueueStore",
    "QuotaExceededError",
    "RangeNotSatisfiableError",
    "Rule",
    "RuleViolationError",
    "S3StorageBackend",
    "SerializationError",
    "StorageBackend",
    "StorageConfig",
    "StorageError",
    "StorageManager",
    "StorageUnavailableError",
    "StoredObject",
    "SyncStorageManager",
    "TableStore",
    "TransientStorageError",
    "UnsupportedOperationError",
    "Update",
    "Upsert",
    "ValidationOptions",
    "Version",
    "config_of",
    "from_path",
    "from_segment",
    "from_table_key",
    "moment_of",
    "newest_first",
    "open_store",
    "register_codec",
    "to_path",
    "to_segment",
    "to_table_key",
]

_NAMES = {
    "azure_backend": "AzureStorageBackend",
    "backends.memory": "MemoryBackend",
    "codecs": "register_codec",
    "config": "StorageConfig",
    "config.audit": "AuditOptions",
    "config.caching": "CachingOptions",
    "config.compression": "CompressionOptions",
    "config.encryption": "EncryptionOptions",
    "config.fallback": "FallbackOptions",
    "config.metrics": "MetricsOptions",
    "config.validation": "Rule ValidationOptions",
    "conversations": "Conversations",
    "encrypted_storage": "EncryptedStorage",
    "errors": (
        "AccessDeniedError BackendClosedError ConfigurationError EncryptionError ForbiddenError "
        "IntegrityError InvalidArgumentError InvalidKeyError KeyNotFoundError NotPortableError "
        "ObjectExistsError ObjectTooLargeError PreconditionFailedError QuotaExceededError "
        "RangeNotSatisfiableError RuleViolationError SerializationError StorageError "
        "StorageUnavailableError TransientStorageError UnsupportedOperationError"
    ),
    "file_backend": "FileStorageBackend",
    "manager": "StorageManager",
    "ports.backend": (
        "ByteRange Delete Entity EntityPage Insert ListEntry ListPage Listed ObjectInfo "
        "ObjectReader ObjectStats ObjectStore ObjectWriter PutResult QueueMessage QueueStore "
        "StorageBackend StoredObject TableStore Update Upsert"
    ),
    "ports.object_model": "Loaded",
    "s3_backend": "S3StorageBackend",
    "segments": (
        "from_path from_segment from_table_key moment_of newest_first to_path to_segment to_table_key"
    ),
    "sync": "SyncStorageManager",
    "urls": "config_of open_store",
    "versioning": "Version",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    # Imported when it is named: a cold start pays for what it uses.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"storage_lib.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
