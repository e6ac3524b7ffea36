"""A backend that is built by its name holds what `StorageManager` promises: it tries again, once over."""

from __future__ import annotations

import asyncio
import http.client
import io
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from storage_lib import (
    AzureStorageBackend,
    FileStorageBackend,
    S3StorageBackend,
    StorageConfig,
    StorageManager,
    values,
)
from storage_lib.errors import (
    ConfigurationError,
    KeyNotFoundError,
    SerializationError,
    StorageUnavailableError,
)
from storage_lib.ports.shortcuts import value_of
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.stub_service import Answer, Request, StubService

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")

BUSY = Answer(503, b"", {"x-ms-error-code": "ServerBusy"})


class Flaky(StubService):
    """In front of a service: answers the next ``faults`` requests itself, that it is busy."""

    def __init__(self, upstream: str) -> None:
        super().__init__(self._forward)
        self._upstream = urlsplit(upstream).netloc
        self.faults = 0

    def _forward(self, request: Request) -> Answer:
        if self.faults:
            self.faults -= 1
            return BUSY
        upstream = http.client.HTTPConnection(self._upstream, timeout=120)
        try:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name and " " not in name and name not in ("transfer-encoding", "content-length"):
                    upstream.putheader(name, value)
            upstream.putheader("content-length", str(len(request.body)))
            upstream.endheaders(request.body)
            response = upstream.getresponse()
            given = {
                name.title(): value
                for name, value in response.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "keep-alive")
            }
            return Answer(response.status, response.read(), given)
        finally:
            upstream.close()


class Services:
    """Azurite's three behind a `Flaky` each, as one."""

    def __init__(self, connection_string: str) -> None:
        parts = dict(part.split("=", 1) for part in connection_string.strip(";").split(";"))
        self._names = ("Blob", "Queue", "Table")
        self._flaky = [Flaky(parts[f"{name}Endpoint"]) for name in self._names]
        self._parts = parts

    async def __aenter__(self) -> Services:
        for name, flaky in zip(self._names, self._flaky, strict=True):
            await flaky.__aenter__()
            self._parts[f"{name}Endpoint"] = flaky.endpoint + urlsplit(self._parts[f"{name}Endpoint"]).path
        self.connection_string = ";".join(f"{name}={value}" for name, value in self._parts.items())
        return self

    async def __aexit__(self, *_: object) -> None:
        for flaky in self._flaky:
            await flaky.__aexit__()

    def fail(self, times: int) -> None:
        for flaky in self._flaky:
            flaky.faults = times
            flaky.seen.clear()

    @property
    def faults(self) -> int:
        return sum(flaky.faults for flaky in self._flaky)

    @property
    def asked(self) -> int:
        return sum(len(flaky.seen) for flaky in self._flaky)


@pytest.fixture(scope="module")
async def services(azurite: Any) -> AsyncIterator[Services]:
    async with Services(azurite.connection_string) as services:
        yield services


@pytest.fixture(scope="module")
async def azure(services: Services) -> AsyncIterator[AzureStorageBackend]:
    services.fail(0)
    async with AzureStorageBackend(
        services.connection_string, container=f"c-{uuid.uuid4().hex[:8]}"
    ) as azure:
        await azure.upload_blob("models", "k", b"x")
        await azure.insert_entity("states", {"PartitionKey": "p", "RowKey": "r"})
        yield azure


async def _streamed(azure: AzureStorageBackend) -> object:
    async with azure.container("models").open_reader("k") as reader:
        return await reader.read()


async def _a_message(azure: AzureStorageBackend) -> object:
    return await azure.receive_message("tasks", visibility_timeout=1)


def _row() -> dict[str, Any]:
    return {"PartitionKey": "p", "RowKey": uuid.uuid4().hex}


Call = Callable[[AzureStorageBackend], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "create_container": lambda azure: azure.create_container(f"new-{uuid.uuid4().hex[:8]}", "private"),
    "upload_blob": lambda azure: azure.upload_blob("models", "k", b"x"),
    "upload_blob: create": lambda azure: azure.upload_blob("models", uuid.uuid4().hex, b"x", overwrite=False),
    "upload_blob: stream": lambda azure: azure.upload_blob("models", "s", io.BytesIO(b"x")),
    "download_blob": lambda azure: azure.download_blob("models", "k"),
    "list_blobs": lambda azure: azure.list_blobs("models"),
    "container": _streamed,
    "objects": lambda azure: azure.objects.put("k", b"x"),
    "insert_entity": lambda azure: azure.insert_entity("states", _row()),
    "get_entity": lambda azure: azure.get_entity("states", "p", "r"),
    "query_entities": lambda azure: azure.query_entities("states", "PartitionKey eq 'p'"),
    "send_message": lambda azure: azure.send_message("tasks", "hello"),
    "receive_message": _a_message,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_moment_of_azure_is_survived(
    services: Services, azure: AzureStorageBackend, name: str
) -> None:
    services.fail(0)
    await azure.send_message("tasks", "hello")
    services.fail(1)
    result = await CALLS[name](azure)
    assert services.faults == 2, "one of three"
    assert result is not False
    services.fail(0)


async def test_a_message_is_deleted_though_azure_is_busy(
    services: Services, azure: AzureStorageBackend
) -> None:
    services.fail(0)
    queue = f"q-{uuid.uuid4().hex[:8]}"
    await azure.send_message(queue, "hello")
    message = await azure.receive_message(queue)
    assert message is not None
    services.fail(1)
    await azure.delete_message(queue, message)
    services.fail(0)
    with pytest.raises(KeyNotFoundError):
        await azure.delete_message(queue, message)


async def test_nothing_is_tried_more_often_than_it_was_told(services: Services) -> None:
    """Once over: the layers of a manager do not lie around those of a name."""
    config = StorageConfig(
        storage_type="azure", connection_string=services.connection_string, retry_attempts=2
    )
    named = [AzureStorageBackend(services.connection_string, retry_attempts=n) for n in (1, 2)]
    managers = [StorageManager(config), *(StorageManager(backend=backend) for backend in named)]
    for manager, expected in zip(managers, (2, 1, 2), strict=True):
        services.fail(100)
        with pytest.raises(StorageUnavailableError):
            await manager.load("k")
        assert services.asked == expected
        services.fail(0)
        await manager.close()
    for backend in named:
        services.fail(100)
        with pytest.raises(StorageUnavailableError):
            await backend.download_blob("models", "k")
        services.fail(0)
        await backend.close()


async def test_the_containers_share_what_is_known_of_the_service(azure: AzureStorageBackend) -> None:
    assert azure.container("models") is azure.container("models")
    assert azure.container("models") is not azure.container("others")
    models: Any = azure.container("models")
    objects: Any = azure.objects
    assert models.driver._retrier is objects.driver._retrier


async def test_a_moment_of_s3_is_survived(moto: Any) -> None:
    async with Flaky(moto.endpoint) as flaky:
        options: dict[str, Any] = {
            "endpoint": flaky.endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY_ID,
            "secret_access_key": SECRET_ACCESS_KEY,
        }
        bucket = f"b-{uuid.uuid4().hex[:12]}"
        async with S3StorageBackend(bucket, create_bucket=True, **options) as backend:
            for call in (
                lambda: backend.objects.put("k", b"x"),
                lambda: backend.objects.get("k"),
                lambda: backend.objects.head("k"),
                lambda: backend.objects.iterate(),
                lambda: backend.objects.copy("k", "l"),
                lambda: backend.objects.delete("l"),
            ):
                flaky.faults = 1
                await call()
                assert flaky.faults == 0
        async with S3StorageBackend(bucket, retry_attempts=1, **options) as backend:
            flaky.faults = 1
            with pytest.raises(StorageUnavailableError):
                await backend.objects.get("k")


@pytest.mark.parametrize("attempts", [0, 21, True, "4", 1.5, None])
def test_a_number_of_tries_that_is_none_is_refused(attempts: Any) -> None:
    for build in (
        lambda: AzureStorageBackend("UseDevelopmentStorage=true", retry_attempts=attempts),
        lambda: S3StorageBackend("bucket", retry_attempts=attempts),
        lambda: StorageConfig(retry_attempts=attempts),
    ):
        with pytest.raises(ConfigurationError) as refused:
            build()
        assert refused.value.field == "retry_attempts"


async def test_what_a_named_backend_cannot_read_is_told_as_by_the_manager(tmp_path: Path) -> None:
    """And other work goes on while it is looked at."""
    async with FileStorageBackend(tmp_path) as backend:
        packed = b"\xdd" + (30_000).to_bytes(4) + b"\x91\x01" * 29_999 + b"\xc1"
        await backend.objects.put("k", packed, content_type=values.PACKED)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        found = await backend.objects.get("k")
        assert found is not None
        running = asyncio.create_task(others())
        await asyncio.sleep(0)
        before = turns
        with pytest.raises(SerializationError, match="object 'k': "):
            await value_of(found)
        assert turns > before + 5
        running.cancel()
        with pytest.raises(SerializationError, match="object 'k': "):
            await backend.read("k")
