"""obstore as its documentation has it, for Azurite; the container that all benchmarks use."""

from __future__ import annotations

from typing import Any

from obstore.store import AzureStore

from devhost.azurite import ACCOUNT_KEY, ACCOUNT_NAME

CONTAINER = "bench"


def bare_store(endpoint: str) -> AzureStore:
    options: dict[str, Any] = {
        "account_name": ACCOUNT_NAME,
        "account_key": ACCOUNT_KEY,
        "endpoint": endpoint,
    }
    return AzureStore(
        CONTAINER, client_options={"allow_http": True}, retry_config={"max_retries": 0}, **options
    )
