"""obstore's clients for a container: made when first needed, with our endpoints, credentials and timeouts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from storage_lib.backends.azure.clients import CONNECT_SECONDS, READ_SECONDS, Clients
from storage_lib.backends.settling import settle_at_exit

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig

Use = Literal["request", "upload", "stream"]
"""What a client is for. The time of a whole request is limited, and how long the service may be silent. An
``upload`` is answered only at its end, so that only the whole is; the reader of a ``stream`` may be slow, so
that only the silence is."""

_WHOLE_REQUEST: dict[Use, str] = {"request": "1h", "upload": "1h", "stream": "30d"}


class ByteClients:
    """The clients that move objects' bytes, with their connections."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._stores: dict[Use, AzureStore] = {}

    def get(self, use: Use = "request") -> AzureStore:
        """:raises StorageError: the backend is closed."""
        store = self._stores.get(use)
        if store is None:
            self._clients.check_open()
            store = self._stores[use] = self._make(use)
        return store

    def close(self) -> None:
        """Drop the connections."""
        self._stores.clear()

    def _make(self, use: Use) -> AzureStore:
        from obstore.store import AzureStore

        settle_at_exit()
        endpoints = self._clients.endpoints
        client: dict[str, Any] = {
            "allow_http": endpoints.blob.startswith("http:"),
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "timeout": _WHOLE_REQUEST[use],
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
    """What obstore asks for tokens. It does not know the `ByteClients`: the collector does not see into
    obstore, and would never find the two of them dead."""

    async def token() -> Any:
        token = await clients.token()
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}

    return token
