"""From a configuration to a backend: the one place where backends are chosen and layers are ordered."""

from __future__ import annotations

from typing import assert_never

from storage_lib.backends.base import MessageEncoding, StorageBackend
from storage_lib.config import StorageConfig


def build(config: StorageConfig, *, message_encoding: MessageEncoding | None = None) -> StorageBackend:
    """The backend of ``config``, unopened. Only what the chosen backend needs is imported.

    :param message_encoding: overrides the configured one (a queue listener reads what is on the wire).
    """
    encoding = message_encoding or config.message_encoding
    match config.storage_type:
        case "memory":
            from storage_lib.backends.memory import MemoryBackend

            return MemoryBackend(message_encoding=encoding)
        case "file":
            from storage_lib.backends.file import FileStorageBackend

            return FileStorageBackend(config.base_path, message_encoding=encoding)
        case "azure":
            from storage_lib.backends.azure import AzureStorageBackend

            return AzureStorageBackend(
                config.connection_string,
                account_url=config.account_url,
                blob_endpoint=config.blob_endpoint,
                queue_endpoint=config.queue_endpoint,
                table_endpoint=config.table_endpoint,
                client_id=config.client_id,
                container=config.container,
                message_encoding=encoding,
            )
        case _:
            assert_never(config.storage_type)
