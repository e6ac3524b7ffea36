"""The Azure SDK's clients, made when first needed, one set for each event loop; and the credential.

An aiohttp session belongs to the loop it was made in, so a second loop gets its own. All clients of a loop
share one session (one pool of connections). The SDK's own retries are off: retries are a layer's task.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from storage_lib import threads
from storage_lib.backends.azure.endpoints import Endpoints
from storage_lib.backends.cloud.dropped import when_dropped
from storage_lib.backends.cloud.lookups import Resolver, has_proxy
from storage_lib.backends.cloud.requests import Requests
from storage_lib.errors import StorageError

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.data.tables.aio import TableClient, TableServiceClient
    from azure.storage.blob.aio import ContainerClient
    from azure.storage.queue.aio import QueueClient, QueueServiceClient

CONNECT_SECONDS = 5
READ_SECONDS = 60
SCOPE = "https://storage.azure.com/.default"
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
        self.needs_token = endpoints.account_key is None and endpoints.sas is None
        self._given_credential = credential
        self._client_id = client_id
        self.blob_requests = Requests("blob", concurrent_requests)
        self.queue_requests = Requests("queue", concurrent_requests)
        self.table_requests = Requests("table", concurrent_requests)
        self._loops: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
        self._end = _End()

    def at(self, container: str) -> Clients:
        """The same clients, sessions and end, for another container."""
        other = copy.copy(self)
        other.container_name = container
        return other

    async def container(self) -> ContainerClient:
        here = await self._here()
        client = here.containers.get(self.container_name)
        if client is None:
            from azure.storage.blob.aio import ContainerClient

            client = ContainerClient(
                self.endpoints.blob, self.container_name, credential=self._key(here), **self._options(here)
            )
            _remember(here.containers, self.container_name, client)
        return client

    async def queue(self, name: str) -> QueueClient:
        here = await self._here()
        client = here.queues.get(name)
        if client is None:
            if here.queue_service is None:
                from azure.storage.queue.aio import QueueServiceClient

                here.queue_service = QueueServiceClient(
                    self.endpoints.queue, credential=self._key(here), **self._options(here)
                )
            client = here.queue_service.get_queue_client(name)
            _remember(here.queues, name, client)
        return client

    async def table(self, name: str) -> TableClient:
        here = await self._here()
        client = here.tables.get(name)
        if client is None:
            if here.table_service is None:
                from azure.data.tables.aio import TableServiceClient

                here.table_service = TableServiceClient(
                    self.endpoints.table, credential=self._key(here), **self._options(here)
                )
            client = here.table_service.get_table_client(name)
            _remember(here.tables, name, client)
        return client

    async def token(self) -> AccessToken:
        """A token for Azure Storage, of the given credential or of the identity there is."""
        return await (await self._here()).credential.get_token(SCOPE)

    def check_open(self) -> None:
        if self._end.reached:
            raise StorageError("the storage backend is closed", remedy="make a new one")

    async def close(self) -> None:
        """Close what was made in this loop; a loop that is run to its end by asyncio closes its own."""
        self._end.reached = True
        for requests in (self.blob_requests, self.queue_requests, self.table_requests):
            await requests.settle()
        here = self._loops.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.lifetime.aclose()

    async def _here(self) -> _LoopClients:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            self.check_open()
            for other in [other for other in self._loops if other.is_closed()]:
                del self._loops[other]
            here = self._loops[loop] = self._make()
            # No await until here: two tasks cannot make two sets. asyncio finishes async generators
            # before it closes a loop, and with this one the session.
            await anext(here.lifetime)
        return here

    def _make(self) -> _LoopClients:
        import aiohttp
        from azure.core.pipeline.transport import AioHttpTransport

        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, resolver=cast("Any", Resolver())
            ),  # `Requests` bounds how many there are.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=has_proxy(),
        )
        options: dict[str, Any] = {"connection_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        if self.verify is not None:
            options["connection_verify"] = self.verify
        transport = AioHttpTransport(session=session, session_owner=False, **options)
        credential = _Credential(self._given_credential, self._client_id, transport)
        every = (self.blob_requests, self.queue_requests, self.table_requests)

        async def close() -> None:
            # What goes on without its caller needs its connection.
            for requests in every:
                await requests.settle()
            await credential.close()
            await session.close()

        return _LoopClients(self._lifetime(close), transport, credential)

    async def _lifetime(self, close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
        dropped = when_dropped(self._end, close)
        try:
            yield
        finally:
            self._loops.pop(asyncio.get_running_loop(), None)
            await close()
            dropped.detach()

    def _options(self, here: _LoopClients) -> dict[str, Any]:
        options: dict[str, Any] = {"transport": here.transport, "retry_total": 0}
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


@dataclass(slots=True, weakref_slot=True)
class _End:
    """Whether the backend has been closed, for all its containers."""

    reached: bool = False


@dataclass(slots=True)
class _LoopClients:
    lifetime: AsyncGenerator[None]
    transport: Any
    credential: _Credential
    queue_service: QueueServiceClient | None = None
    table_service: TableServiceClient | None = None
    containers: dict[str, ContainerClient] = field(default_factory=dict[str, "ContainerClient"])
    queues: dict[str, QueueClient] = field(default_factory=dict[str, "QueueClient"])
    tables: dict[str, TableClient] = field(default_factory=dict[str, "TableClient"])


def _remember[T](cache: dict[str, T], name: str, client: T) -> None:
    if len(cache) >= _MAX_CACHED:
        cache.clear()
    cache[name] = client


class _Credential:
    """The given credential, or one of our own, as the async clients want it."""

    def __init__(self, given: Any, client_id: str | None, transport: Any) -> None:
        self._given = given
        self._client_id = client_id
        self._transport = transport
        self._own: Any = None

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        credential = self._given
        if credential is None:
            if self._own is None:
                from azure.identity.aio import DefaultAzureCredential

                self._own = DefaultAzureCredential(
                    managed_identity_client_id=self._client_id, transport=self._transport
                )
            credential = self._own
        if inspect.iscoroutinefunction(credential.get_token):
            return await credential.get_token(*scopes, **options)
        token = await threads.waiting.run(credential.get_token, *scopes, **options)
        return await token if inspect.isawaitable(token) else token

    async def close(self) -> None:
        """Close the credential that was made here; a given one is its giver's."""
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> _Credential:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The clients leave it open: it is shared."""
