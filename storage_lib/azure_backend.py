"""`AzureStorageBackend` by its name, with the layers that `StorageManager` puts around it."""

from __future__ import annotations

from typing import Unpack

from storage_lib.backends import azure
from storage_lib.backends.azure.backend import AzureOptions
from storage_lib.backends.azure.blobs import MAX_CONTAINERS, AccessLevel, BlobNames
from storage_lib.backends.cloud.recent import Recent
from storage_lib.config import DEFAULT_RETRY_ATTEMPTS
from storage_lib.factory import Retrying
from storage_lib.ports.objects import ObjectStore

__all__ = ["AzureStorageBackend"]


class AzureStorageBackend(BlobNames, Retrying[azure.AzureStorageBackend]):
    """Blob, Queue and Table Storage of one account. Transient failures are retried.

    Nothing is imported from a vendor before the first operation needs it. A backend can be used from several
    event loops, one after the other or at the same time. The options are:

    - ``account_url``: the URL of any of its services, instead of a connection string; ``blob_endpoint``,
      ``queue_endpoint``, ``table_endpoint``: that of one service.
    - ``credential``: anything with ``get_token`` (azure-identity, sync or async), an account key or SAS as
      text, an AzureNamedKeyCredential or AzureSasCredential. None uses what the connection string or URL
      contains, or DefaultAzureCredential. It is not closed here.
    - ``container``: of `objects`; names that Azure refuses are mapped by names.py.
    - ``message_encoding``: of queue messages, ``base64`` or ``none``.
    - ``client_id``: of the user-assigned managed identity, if no credential is given.
    - ``verify``: path of a CA certificate to trust (for tests over TLS).
    - ``concurrent_requests``: how many requests this process has under way to each service; more wait.

    :param connection_string: of the account (``UseDevelopmentStorage=true`` means Azurite on its default
        ports).
    :param retry_attempts: attempts in all for an operation that fails transiently; 1 means no retries.
    :param options: see above.
    :raises ConfigurationError: the arguments cannot work.
    """

    portable = True

    def __init__(
        self,
        connection_string: str | None = None,
        *,
        retry_attempts: int = DEFAULT_RETRY_ATTEMPTS,
        **options: Unpack[AzureOptions],
    ) -> None:
        super().__init__(azure.AzureStorageBackend(connection_string, **options), retry_attempts)
        self._containers: Recent[ObjectStore, ObjectStore] = Recent(MAX_CONTAINERS)

    def container(self, name: str) -> ObjectStore:
        store = self._driver.container(name)
        if store is self._driver.objects:
            return self.objects
        return self._containers.get(store, lambda: ObjectStore(self._layers.also(store.driver)))

    async def create_container(self, name: str, access_level: AccessLevel | None = None) -> bool:
        return await self._layers.repeat(
            f"create container {name!r}", lambda: self._driver.create_container(name, access_level)
        )
