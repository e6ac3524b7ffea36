"""obstore's clients for containers: made when first needed, with our endpoints, credentials and timeouts.

Each has connections of its own, so that only those of the containers used last are kept. A client that is let
go while it carries out a request closes its connections after that.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from storage_lib.backends.azure.clients import CONNECT_SECONDS, READ_SECONDS, Clients
from storage_lib.backends.cloud.forks import use_process
from storage_lib.backends.cloud.recent import Recent
from storage_lib.backends.cloud.settling import settle_at_exit

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig

Use = Literal["request", "upload", "stream"]
"""What a client is for. The time of a whole request is limited, and how long the service may be silent. An
``upload`` is answered only at its end, so that only the whole is; the reader of a ``stream`` may be slow, so
that only the silence is."""

_MAX_CLIENTS = 6
"""That are kept, of all containers together."""
_IDLE_CONNECTIONS = {"request": 64, "upload": 4, "stream": 4}
"""That each keeps between its requests."""
_WHOLE_REQUEST: dict[Use, str] = {"request": "1h", "upload": "1h", "stream": "30d"}


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
        """:raises StorageError: the backend is closed."""
        name = (self._clients.container_name, use)
        return self._kept.get(name, lambda: self._make(use))

    def _make(self, use: Use) -> AzureStore:
        from obstore.store import AzureStore

        use_process()
        self._clients.check_open()
        settle_at_exit()
        endpoints = self._clients.endpoints
        client: dict[str, Any] = {
            "allow_http": endpoints.blob.startswith("http:"),
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "timeout": _WHOLE_REQUEST[use],
            "pool_max_idle_per_host": str(_IDLE_CONNECTIONS[use]),
        }
        if use != "upload":
            client["read_timeout"] = f"{READ_SECONDS}s"
        if self._clients.verify is not None:
            client["root_certificate"] = Path(self._clients.verify).read_bytes()
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
        return AzureStore(
            self._clients.container_name,
            client_options=cast("ClientConfig", client),
            retry_config={"max_retries": 0},
            **options,
        )


def _tokens(clients: Clients) -> Any:
    """What obstore asks for tokens. It does not know the `KeptClients`: the collector does not see into
    obstore, and would never find the two of them dead."""

    async def token() -> Any:
        token = await clients.token()
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    return token
