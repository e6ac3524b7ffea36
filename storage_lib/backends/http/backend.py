"""`HttpStorageBackend`: the objects of an app, for those who may call it and have no key of its account."""

from __future__ import annotations

from storage_lib.backends.http.client import HttpClient
from storage_lib.backends.http.objects import HttpObjects
from storage_lib.config import DEFAULT_CONCURRENT_REQUESTS
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import ObjectStore, StorageBackend

_DIRECTLY = "open the store that the app uses; tasks are reached with storage_lib.tasks.remote.RemoteTasks"


class HttpStorageBackend(StorageBackend):
    """Objects through the HTTP API of an app; the API has no tables and queues, and these say so.

    It asks the app once; `StorageConfig(storage_type="http")` has retries around it.

    :param url: of the API, such as ``https://NAME.azurewebsites.net/api``.
    :param key: a function key of the app.
    :param concurrent_requests: how many requests this process has under way at a time.
    :raises ConfigurationError: the URL is not one of an API.
    """

    portable = True

    def __init__(
        self, url: str, *, key: str | None = None, concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS
    ) -> None:
        self._client = HttpClient(url, key, concurrent_requests)
        self.objects = ObjectStore(HttpObjects(self._client))
        self.tables = no_tables("an app's HTTP API", _DIRECTLY)
        self.queues = no_queues("an app's HTTP API", _DIRECTLY)

    def __repr__(self) -> str:
        return f"HttpStorageBackend({self._client.url})"

    async def open(self) -> None:
        # Whether the app answers, lets us in and has its store; that it is ready says more than its objects.
        await self.objects.list_page(limit=1)

    async def close(self) -> None:
        await self._client.close()
