"""`AzureStorageBackend`: Blob, Queue and Table Storage of one account."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict

from storage_lib.backends.azure.blobs import MAX_CONTAINERS, Containers
from storage_lib.backends.azure.clients import Clients, kept_clients
from storage_lib.backends.azure.endpoints import Endpoints, check_key, check_sas, resolve
from storage_lib.backends.azure.objects import AzureObjects
from storage_lib.backends.azure.queues import AzureQueues
from storage_lib.backends.azure.tables import AzureTables
from storage_lib.backends.cloud.recent import Recent
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS
from storage_lib.errors import ConfigurationError, InvalidKeyError
from storage_lib.names import container_name
from storage_lib.ports.backend import MessageEncoding, ObjectStore, QueueStore, StorageBackend, TableStore

DEFAULT_CONTAINER = "agent-storage"


class AzureOptions(TypedDict, total=False):
    """The arguments beside the connection string, as `storage_lib.azure_backend.AzureStorageBackend` has
    them."""

    account_url: str | None
    credential: Any
    blob_endpoint: str | None
    queue_endpoint: str | None
    table_endpoint: str | None
    container: str
    message_encoding: MessageEncoding
    client_id: str | None
    verify: str | None
    concurrent_requests: int


class AzureStorageBackend(Containers, StorageBackend):
    """Objects in one blob container, others by `container`; tables and queues of the account by their names.

    It asks the service once; `storage_lib.azure_backend` has it with the layers around it, and tells what the
    parameters mean.
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
        concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    ) -> None:
        endpoints = resolve(
            connection_string,
            account_url=account_url,
            blob_endpoint=blob_endpoint,
            queue_endpoint=queue_endpoint,
            table_endpoint=table_endpoint,
        )
        try:
            container = container_name(container)
        except InvalidKeyError as error:
            raise ConfigurationError(str(error), field="container", limit=error.limit) from error
        endpoints = _with_secret(endpoints, credential)
        self.endpoints = endpoints
        self._clients = Clients(
            endpoints,
            container,
            credential=credential,
            client_id=client_id,
            verify=verify,
            concurrent_requests=concurrent_requests,
        )
        self._kept = kept_clients()
        self._objects = AzureObjects(self._clients, self._kept)
        self._containers = Recent(MAX_CONTAINERS)
        self.objects = ObjectStore(self._objects)
        self.queues = QueueStore(AzureQueues(self._clients, message_encoding))
        self.tables = TableStore(AzureTables(self._clients))

    def __repr__(self) -> str:
        return f"AzureStorageBackend({self.endpoints.blob}/{self._clients.container_name})"

    def place(self, port: str) -> str:
        # Tables and queues are the account's, whatever the container.
        return {"tables": self.endpoints.table, "queues": self.endpoints.queue}.get(port) or repr(self)

    async def open(self) -> None:
        await self._objects.open()

    async def close(self) -> None:
        self._kept.clear()
        await self._clients.close()


def _with_secret(endpoints: Endpoints, credential: Any) -> Endpoints:
    """``endpoints`` with the key or SAS of ``credential``, or without any where it gives tokens."""
    key, sas, name = endpoints.account_key, endpoints.sas, endpoints.account_name
    if isinstance(credential, str):
        key, sas = (None, credential) if "sig=" in credential else (credential, None)
    elif hasattr(credential, "named_key"):
        (name, key), sas = credential.named_key, None
    elif hasattr(credential, "signature"):
        key, sas = None, credential.signature
    elif hasattr(credential, "get_token"):
        key = sas = None
    elif credential is not None:
        raise ConfigurationError(
            f"credential is a {type(credential).__name__}",
            field="credential",
            limit="a token credential, an account key or a SAS",
        )
    if key is None and sas is None:
        for service in ("blob", "queue", "table"):
            if getattr(endpoints, service).startswith("http:"):
                raise ConfigurationError(
                    f"a token must not be sent to the {service} service over http",
                    field=f"{service}_endpoint",
                    remedy="use https, or an account key",
                )
    return replace(
        endpoints,
        account_name=name,
        account_key=None if key is None else check_key(key, "credential"),
        sas=None if sas is None else check_sas(sas, "credential"),
    )
