"""How long a reader may take, on the services whose bytes obstore moves."""

from __future__ import annotations

from typing import Any

import obstore.store
import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.errors import StorageUnavailableError
from storage_lib.ports.backend import StorageBackend
from tests.stub_service import Answer, StubService

BODY = bytes(range(256)) * 8192
HEADERS = {
    "ETag": '"0x1"',
    "Last-Modified": "Wed, 25 Nov 2026 03:28:15 GMT",
    "x-ms-blob-type": "BlockBlob",
}


def azure(url: str) -> StorageBackend:
    return AzureStorageBackend(blob_endpoint=url, queue_endpoint=url, table_endpoint=url, credential="a2V5")


def s3(url: str) -> StorageBackend:
    return S3StorageBackend("bucket", endpoint=url, access_key_id="a", secret_access_key="b")


@pytest.mark.parametrize(("make", "store"), [(azure, "AzureStore"), (s3, "S3Store")], ids=["azure", "s3"])
async def test_a_stream_is_not_cut_off_by_the_limit_of_a_request(
    monkeypatch: pytest.MonkeyPatch, make: Any, store: str
) -> None:
    real = getattr(obstore.store, store)

    def hurried(*arguments: Any, client_options: dict[str, Any], **options: Any) -> Any:
        """The store, whose hour takes a second."""
        if client_options["timeout"] == "1h":
            client_options["timeout"] = "1s"
        return real(*arguments, client_options=client_options, **options)

    monkeypatch.setattr(obstore.store, store, hurried)
    answer = Answer(200, BODY, HEADERS, pause=1.5)
    async with StubService(lambda _: answer) as service:
        backend = make(f"{service.endpoint}/dev")
        with pytest.raises(StorageUnavailableError):
            await backend.objects.get("k")
        async with backend.objects.open_reader("k") as reader:
            assert b"".join([chunk async for chunk in reader]) == BODY
        await backend.close()
