"""`AzureStorageBackend` by its name, with the layers that `StorageManager` puts around it."""

from __future__ import annotations

from typing import Any

from storage_lib.backends import azure
from storage_lib.backends.azure.blobs import MAX_CONTAINERS, AccessLevel, BlobNames
from storage_lib.backends.cloud.recent import Recent
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS, DEFAULT_CONTAINER, DEFAULT_RETRY_ATTEMPTS
from storage_lib.factory import retrying
from storage_lib.ports.backend import MessageEncoding, ObjectStore, StorageBackend

__all__ = ["AzureStorageBackend"]


class AzureStorageBackend(BlobNames, StorageBackend):
    """Blob, Queue and Table Storage of one account. Transient failures are retried.

    Nothing is imported from a vendor before the first operation needs it. A backend can be used from several
    event loops, one after the other or at the same time.

    :param connection_string: of the account (``UseDevelopmentStorage=true`` means Azurite on its default
        ports).
    :param account_url: the URL of any of its services, instead of a connection string.
    :param credential: anything with ``get_token`` (azure-identity, sync or async), an account key or SAS
        as text, an AzureNamedKeyCredential or AzureSasCredential. None uses what the connection string
        or URL contains, or DefaultAzureCredential. It is not closed here.
    :param container: of `objects`; names that Azure refuses are mapped by names.py.
    :param client_id: of the user-assigned managed identity, if no credential is given.
    :param verify: path of a CA certificate to trust (for tests over TLS).
    :param retry_attempts: attempts in all for an operation that fails transiently; 1 means no retries.
    :param concurrent_requests: how many requests this process has under way to each service; more wait.
    :raises ConfigurationError: the arguments cannot work.
    """

    portable = True

    def __init__(
        self,
        connection_string: str | None = None,
        *,
        account_url: str | None = None,
        credential: Any = None,
        blob_endpoint: str | None = None,
        queue_endpoint: str | None = None,
        table_endpoint: str | None = None,
        container: str = DEFAULT_CONTAINER,
        message_encoding: MessageEncoding = "base64",
        client_id: str | None = None,
        verify: str | None = None,
        retry_attempts: int = DEFAULT_RETRY_ATTEMPTS,
        concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    ) -> None:
        self._driver = azure.AzureStorageBackend(
            connection_string,
            account_url=account_url,
            credential=credential,
            blob_endpoint=blob_endpoint,
            queue_endpoint=queue_endpoint,
            table_endpoint=table_endpoint,
            container=container,
            message_encoding=message_encoding,
            client_id=client_id,
            verify=verify,
            concurrent_requests=concurrent_requests,
        )
        self._layers = retrying(self._driver, retry_attempts)
        self.objects = self._layers.objects
        self.tables = self._layers.tables
        self.queues = self._layers.queues
        self._containers: Recent[ObjectStore, ObjectStore] = Recent(MAX_CONTAINERS)

    def __repr__(self) -> str:
        return repr(self._driver)

    async def open(self) -> None:
        await self._layers.open()

    async def close(self) -> None:
        await self._layers.close()

    def container(self, name: str) -> ObjectStore:
        store = self._driver.container(name)
        if store is self._driver.objects:
            return self.objects
        return self._containers.get(store, lambda: ObjectStore(self._layers.also(store.driver)))

    async def create_container(self, name: str, access_level: AccessLevel | None = None) -> bool:
        return await self._layers.repeat(
            f"create container {name!r}", lambda: self._driver.create_container(name, access_level)
        )
