"""obstore's clients for containers: made when first needed, with our endpoints, credentials and timeouts.

Each has connections of its own, so that only those of the containers used last are kept. A client that is let
go while it carries out a request closes its connections after that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from storage_lib.backends.azure.clients import Clients
from storage_lib.backends.cloud.byte_stores import Use, new_store
from storage_lib.backends.cloud.connections import MAX_IDLE
from storage_lib.backends.cloud.recent import Recent

if TYPE_CHECKING:
    from obstore.store import AzureStore

_MAX_CLIENTS = 6
"""That are kept, of all containers together."""

type KeptClients = Recent[tuple[str, Use], AzureStore]
"""Those of a backend, for each container and use. The `Clients` do not know them: see `_tokens`."""


def kept_clients() -> KeptClients:
    return Recent(_MAX_CLIENTS)


class ByteClients:
    """The clients that move objects' bytes, with their connections."""

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
