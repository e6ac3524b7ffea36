"""The Azure SDK's clients, made when first needed, one set for each event loop; and the credential.

All clients of a loop
share one session (one pool of connections). The SDK's own retries are off: retries are a layer's task.
"""

from __future__ import annotations

import copy
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from storage_lib.azure_credential import Credential
from storage_lib.backends.azure.bounded import bounded_response
from storage_lib.backends.azure.endpoints import Endpoints
from storage_lib.backends.cloud.byte_stores import Use, new_store
from storage_lib.backends.cloud.connections import MAX_IDLE, Connections
from storage_lib.backends.cloud.recent import Recent
from storage_lib.backends.cloud.requests import Requests
from storage_lib.backends.cloud.sessions import CONNECT_SECONDS, READ_SECONDS, PerLoop, has_proxy, new_session

if TYPE_CHECKING:
    import aiohttp
    from azure.core.credentials import AccessToken
    from azure.data.tables.aio import TableClient, TableServiceClient
    from azure.storage.blob.aio import ContainerClient
    from azure.storage.queue.aio import QueueClient, QueueServiceClient
    from obstore.store import AzureStore

SCOPE = "https://storage.azure.com/.default"
_TOKEN_LEFT_SECONDS = 300
"""A token that has them left is valid while its request is under way."""
_MAX_CACHED = 256


class Clients:
    """Where `AzureStorageBackend` and its stores get their SDK clients from.

    :param credential: anything with ``get_token``, sync or async; None makes a DefaultAzureCredential when
        a token is needed, for the user-assigned identity ``client_id`` where one is named.
    :param verify: path of the CA certificate to trust.
    :param concurrent_requests: to each of the services at a time.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        container: str,
        *,
        credential: Any = None,
        client_id: str | None = None,
        verify: str | None = None,
        concurrent_requests: int,
    ) -> None:
        self.endpoints = endpoints
        self.container_name = container
        self.verify = verify
        self._trusted: ssl.SSLContext | None = None
        self.needs_token = endpoints.account_key is None and endpoints.sas is None
        self._given_credential = credential
        self._client_id = client_id
        self.blob_requests = Requests("blob", concurrent_requests)
        self.queue_requests = Requests("queue", concurrent_requests)
        self.table_requests = Requests("table", concurrent_requests)
        self.loops = PerLoop(self._make, self.blob_requests, self.queue_requests, self.table_requests)

    def at(self, container: str) -> Clients:
        """The same clients, sessions and end, for another container."""
        other = copy.copy(self)
        other.container_name = container
        return other

    async def container(self) -> ContainerClient:
        here = await self.loops.get()
        return here.containers.get(self.container_name, lambda: self._container_client(here))

    async def queue(self, name: str) -> QueueClient:
        here = await self.loops.get()
        return here.queues.get(name, partial(self._queues(here).get_queue_client, name))

    async def queues(self) -> QueueServiceClient:
        return self._queues(await self.loops.get())

    async def table(self, name: str) -> TableClient:
        here = await self.loops.get()
        return here.tables.get(name, partial(self._tables(here).get_table_client, name))

    async def tables(self) -> TableServiceClient:
        return self._tables(await self.loops.get())

    def _queues(self, here: _LoopClients) -> QueueServiceClient:
        if here.queue_service is None:
            from azure.storage.queue.aio import QueueServiceClient

            here.queue_service = QueueServiceClient(self.endpoints.queue, **self._options(here))
        return here.queue_service

    def _tables(self, here: _LoopClients) -> TableServiceClient:
        if here.table_service is None:
            from azure.data.tables.aio import TableServiceClient

            here.table_service = TableServiceClient(self.endpoints.table, **self._options(here))
        return here.table_service

    def _container_client(self, here: _LoopClients) -> ContainerClient:
        from azure.storage.blob.aio import ContainerClient

        return ContainerClient(self.endpoints.blob, self.container_name, **self._options(here))

    async def session(self) -> aiohttp.ClientSession:
        """For requests of our own, where there is a proxy."""
        return (await self.loops.get()).opened.session()

    async def connections(self) -> Connections | None:
        """Connections to the blob service, for requests of our own; None where there is a proxy."""
        here = await self.loops.get()
        if here.opened.connections is None and self.is_direct:
            parts = urlsplit(self.endpoints.blob)
            context = self._context() if parts.scheme == "https" else None
            port = parts.port or (443 if context else 80)
            here.opened.connections = Connections(parts.hostname or "", port, context)
        return here.opened.connections

    def connected(self) -> Connections | None:
        """`connections`, if there are any yet in this event loop."""
        return None if (here := self.loops.here()) is None else here.opened.connections

    @cached_property
    def is_direct(self) -> bool:
        """Whether there is no proxy on the way."""
        return not has_proxy()

    def trust(self) -> Any:
        """What a session is to trust."""
        return True if self.verify is None else self._context()

    def _context(self) -> ssl.SSLContext:
        if self._trusted is None:
            self._trusted = ssl.create_default_context(cafile=self.verify)
        return self._trusted

    async def token(self) -> AccessToken:
        """A token for Azure Storage, of the given credential or of the identity there is."""
        here = await self.loops.get()
        if here.token is None or here.token.expires_on - time.time() < _TOKEN_LEFT_SECONDS:
            here.token = await here.credential.get_token(SCOPE)
        return here.token

    async def close(self) -> None:
        await self.loops.close()

    def _make(self) -> tuple[_LoopClients, Callable[[], Awaitable[None]]]:
        opened = _Opened()
        # The SDK and aiohttp are imported only where they are used.
        transport = self._transport(opened.session()) if self.needs_token else None
        credential = Credential(self._given_credential, self._client_id, transport)

        async def close() -> None:
            await credential.close()
            await opened.close()

        return _LoopClients(opened, credential, transport), close

    def _transport(self, session: aiohttp.ClientSession) -> Any:
        from azure.core.pipeline.transport import AioHttpTransport

        options: dict[str, Any] = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        if self.verify is not None:
            options["connection_verify"] = self.verify
        return AioHttpTransport(session=session, session_owner=False, **options)

    def _options(self, here: _LoopClients) -> dict[str, Any]:
        if here.transport is None:
            here.transport = self._transport(here.opened.session())
        options = {"transport": here.transport, "retry_total": 0, "credential": self._key(here)}
        if self.verify is not None:
            options["connection_verify"] = self.verify
        return options

    def _key(self, here: _LoopClients) -> Any:
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

        if self.endpoints.account_key is not None:
            return AzureNamedKeyCredential(self.endpoints.account_name, self.endpoints.account_key)
        if self.endpoints.sas is not None:
            return AzureSasCredential(self.endpoints.sas)
        return here.credential


@dataclass(slots=True)
class _Opened:
    """What is closed with the event loop."""

    connections: Connections | None = None
    _session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = new_session(response_class=bounded_response())
        return self._session

    async def close(self) -> None:
        if self.connections is not None:
            await self.connections.close()
        if self._session is not None:
            await self._session.close()


@dataclass(slots=True)
class _LoopClients:
    opened: _Opened
    credential: Credential
    transport: Any
    token: AccessToken | None = None
    queue_service: QueueServiceClient | None = None
    table_service: TableServiceClient | None = None
    containers: Recent[str, ContainerClient] = field(default_factory=lambda: Recent(_MAX_CACHED))
    queues: Recent[str, QueueClient] = field(default_factory=lambda: Recent(_MAX_CACHED))
    tables: Recent[str, TableClient] = field(default_factory=lambda: Recent(_MAX_CACHED))


_MAX_CLIENTS = 6
"""That are kept, of all containers together."""

type KeptClients = Recent[tuple[str, Use], AzureStore]
"""Those of a backend, for each container and use. The `Clients` do not know them: see `_tokens`."""


def kept_clients() -> KeptClients:
    return Recent(_MAX_CLIENTS)


class ByteClients:
    """obstore's clients for containers, which move the bytes: made when first needed, with our endpoints,
    credentials and timeouts.

    Each has connections of its own, so that only those of the containers used last are kept. A client that is
    let go while it carries out a request closes its connections after that.
    """

    def __init__(self, clients: Clients, kept: KeptClients) -> None:
        self._clients = clients
        self._kept = kept

    def get(self, use: Use = "request") -> AzureStore:
        """:raises BackendClosedError: it is."""
        name = (self._clients.container_name, use)
        return self._kept.get(name, lambda: self._make(use))

    def _make(self, use: Use) -> AzureStore:
        from obstore.store import AzureStore

        self._clients.loops.check_open()
        endpoints = self._clients.endpoints
        options: dict[str, Any] = {
            "account_name": endpoints.account_name,
            "endpoint": endpoints.blob,
            # obstore reads AZURE_… variables for what is not given, and would prefer some of them.
            "use_emulator": False,
            "use_fabric_endpoint": False,
            "skip_signature": False,
        }
        if endpoints.account_key is not None:
            options |= {"account_key": endpoints.account_key, "credential_type": "access_key"}
        elif endpoints.sas is not None:
            options |= {"sas_key": endpoints.sas, "credential_type": "sas_token"}
        else:
            options["credential_provider"] = _tokens(self._clients)
        name, verify = self._clients.container_name, self._clients.verify
        idle = MAX_IDLE if self._clients.is_direct else 2 * MAX_IDLE  # There are connections of our own, too.
        return new_store(AzureStore, name, endpoints.blob, use, idle=idle, verify=verify, **options)


def _tokens(clients: Clients) -> Any:
    """What obstore asks for tokens. It does not know the `KeptClients`: the collector does not see into
    obstore, and would never find the two of them dead."""

    async def token() -> Any:
        token = await clients.token()
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    return token
