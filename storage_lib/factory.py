"""From a configuration to a backend: where backends are chosen and layers are ordered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from storage_lib.config import MAX_RETRY_ATTEMPTS, StorageConfig, StorageType, check_count
from storage_lib.ports.backend import MessageEncoding, StorageBackend


def build(config: StorageConfig, *, message_encoding: MessageEncoding | None = None) -> StorageBackend:
    """The backend of ``config``, not yet open. Only what the chosen backend needs is imported.

    :param message_encoding: overrides the configured one (a queue listener reads what is on the wire).
    """
    backend = _stored(config, message_encoding or config.message_encoding)
    # Inner to outer: each layer sees what the ones below have made of the store.
    if config.encryption is not None:
        from storage_lib.layers.encryption import EncryptionLayer

        backend = EncryptionLayer(backend, config.encryption, client_id=config.client_id)
    if config.compression is not None:
        from storage_lib.layers.compression import CompressionLayer

        backend = CompressionLayer(backend, config.compression)
    if config.caching is not None:
        from storage_lib.layers.caching import CachingLayer

        backend = CachingLayer(backend, config.caching)
    if config.validation is not None:
        from storage_lib.layers.validation import ValidationLayer

        backend = ValidationLayer(backend, config.validation)
    if config.audit is not None:
        from storage_lib.layers.audit import AuditLayer

        backend = AuditLayer(backend, config.audit)
    if config.metrics is not None:
        from storage_lib.layers.metrics import MetricsLayer

        backend = MetricsLayer(backend, config.metrics)
        if config.metrics.traces:
            from storage_lib.layers.tracing import TracingLayer

            backend = TracingLayer(backend, config.storage_type, config.tables_and_queues)
    return backend


def _stored(config: StorageConfig, encoding: MessageEncoding) -> StorageBackend:
    """Where the bytes are, with retries, in a namespace, and with a second store, if there is one."""
    backend = _build_one(config.storage_type, config, encoding)
    if config.tables_and_queues not in (None, config.storage_type):
        from storage_lib.layers.combined import CombinedBackend

        backend = CombinedBackend(backend, _build_one(config.tables_and_queues, config, encoding))
    if config.namespace:
        from storage_lib.layers.namespace import NamespaceLayer

        backend = NamespaceLayer(backend, config.namespace)
    if config.fallback is not None:
        from storage_lib.layers.fallback import FallbackLayer

        backend = FallbackLayer(backend, _stored(config.fallback.secondary, encoding), config.fallback)
    return backend


def _build_one(kind: StorageType, config: StorageConfig, encoding: MessageEncoding) -> StorageBackend:
    match kind:
        case "memory":
            from storage_lib.backends.memory import MemoryBackend

            return MemoryBackend(message_encoding=encoding)
        case "file":
            from storage_lib.backends.file import FileStorageBackend

            return FileStorageBackend(
                config.base_path, message_encoding=encoding, shared_group=config.shared_group
            )
        case "azure":
            from storage_lib.backends.azure import AzureStorageBackend

            azure = AzureStorageBackend(
                config.connection_string,
                account_url=config.account_url,
                blob_endpoint=config.blob_endpoint,
                queue_endpoint=config.queue_endpoint,
                table_endpoint=config.table_endpoint,
                client_id=config.client_id,
                container=config.container,
                message_encoding=encoding,
                concurrent_requests=config.concurrent_requests,
            )
            return retrying(azure, config.retry_attempts)
        case "s3":
            from storage_lib.backends.s3 import S3StorageBackend

            s3 = S3StorageBackend(
                config.s3_bucket or "",
                endpoint=config.s3_endpoint,
                region=config.s3_region,
                access_key_id=config.s3_access_key_id,
                secret_access_key=config.s3_secret_access_key,
                concurrent_requests=config.concurrent_requests,
            )
            return retrying(s3, config.retry_attempts)
        case "http":
            from storage_lib.backends.http import HttpStorageBackend

            http = HttpStorageBackend(
                config.http_url or "",
                key=config.http_key,
                concurrent_requests=config.concurrent_requests,
            )
            return retrying(http, config.retry_attempts)
        case _:
            assert_never(kind)


def retrying(backend: StorageBackend, attempts: int) -> StorageBackend:
    """A backend behind a network, with ``attempts`` attempts in all for what fails transiently."""
    if check_count("retry_attempts", attempts, MAX_RETRY_ATTEMPTS) == 1:
        return backend
    from storage_lib.layers.retry import RetryBackend, RetryOptions

    return RetryBackend(backend, RetryOptions(attempts=attempts))


class Retrying[Driver: StorageBackend](StorageBackend):
    """A backend that is made by its name, ``driver``, in the layers that `build` gives it."""

    def __init__(self, driver: Driver, attempts: int) -> None:
        self._driver = driver
        self._layers = retrying(driver, attempts)
        self.objects = self._layers.objects
        self.tables = self._layers.tables
        self.queues = self._layers.queues

    def __repr__(self) -> str:
        return repr(self._driver)

    def inside(self) -> Mapping[str, StorageBackend]:
        return {"": self._layers}

    def system(self, port: str) -> str:
        return self._layers.system(port)

    def place(self, port: str) -> str:
        return self._layers.place(port)

    async def open(self) -> None:
        await self._layers.open()

    async def close(self) -> None:
        await self._layers.close()
