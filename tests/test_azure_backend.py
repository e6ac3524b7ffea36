"""The Azure backend against Azurite: the contracts, and what only this backend can get wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import (
    AccountSasPermissions,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
)
from azure.storage.blob.aio import BlobServiceClient, ContainerClient
from azure.storage.queue.aio import QueueServiceClient

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.azure import objects as azure_objects
from storage_lib.backends.azure.endpoints import DEVELOPMENT_KEY
from storage_lib.backends.azure.listing import Page, in_key_order
from storage_lib.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    KeyNotFoundError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.manager import StorageManager
from storage_lib.names import given_name
from storage_lib.ports.link_model import MAX_LINK_SECONDS
from storage_lib.ports.objects import ListEntry, ObjectStore
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract
from tests.certificates import self_signed
from tests.layers import PassThrough
from tests.plain_http import fetch

pytestmark = [
    # azure-data-tables reads error bodies so, and hands batches of several MB to aiohttp as bytes.
    pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning"),
]

Call = Callable[[AzureStorageBackend], Awaitable[object]]


async def _put_stream(backend: AzureStorageBackend) -> None:
    backend.objects.part_bytes = 4
    await backend.objects.put_stream("k", [b"parts of four"])


async def _read_stream(backend: AzureStorageBackend) -> None:
    async with backend.objects.open_reader("k") as reader:
        await reader.read()


OBJECT_CALLS: dict[str, Call] = {
    "open": lambda backend: backend.open(),
    "get": lambda backend: backend.objects.get("k"),
    "head": lambda backend: backend.objects.head("k"),
    "put": lambda backend: backend.objects.put("k", b"x"),
    "put if absent": lambda backend: backend.objects.put("k", b"x", if_absent=True),
    "put if match": lambda backend: backend.objects.put("k", b"x", if_match="0x1"),
    "delete": lambda backend: backend.objects.delete("k"),
    "delete if match": lambda backend: backend.objects.delete("k", if_match="0x1"),
    "list": lambda backend: backend.objects.list_page(),
    "put stream": _put_stream,
    "read stream": _read_stream,
    "copy": lambda backend: backend.objects.copy("k", "k2"),
    "touch": lambda backend: backend.objects.touch("k", ttl=60),
}
OTHER_CALLS: dict[str, Call] = {
    "send": lambda backend: backend.queues.send("queue-1", "x"),
    "receive": lambda backend: backend.queues.receive("queue-1"),
    "count": lambda backend: backend.queues.length("queue-1"),
    "insert": lambda backend: backend.tables.insert("table1", "p", "r", {}),
    "get entity": lambda backend: backend.tables.get("table1", "p", "r"),
    "delete entity": lambda backend: backend.tables.delete("table1", "p", "r"),
    "query": lambda backend: backend.tables.query("table1"),
    "list tables": lambda backend: backend.list_tables(),
    "list queues": lambda backend: backend.list_queues(),
}
Pages = AsyncIterator[Page]
ALL_CALLS = OBJECT_CALLS | OTHER_CALLS


def a_container() -> str:
    return f"c-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
async def backend(azurite: Any) -> AsyncIterator[AzureStorageBackend]:
    async with AzureStorageBackend(azurite.connection_string, container=a_container()) as backend:
        yield backend


@pytest.fixture
async def fresh(azurite: Any) -> AsyncIterator[AzureStorageBackend]:
    """A backend that has not been opened, of a container that does not exist."""
    backend = AzureStorageBackend(azurite.connection_string, container=a_container())
    yield backend
    await backend.close()


@pytest.fixture(scope="module")
async def blobs(azurite: Any, backend: AzureStorageBackend) -> AsyncIterator[ContainerClient]:
    """The container of `backend` as the vendor's own client sees it."""
    async with _container(azurite, backend) as client:
        yield client


def _container(azurite: Any, backend: AzureStorageBackend) -> ContainerClient:
    name = repr(backend).rpartition("/")[2].rstrip(")")
    return ContainerClient.from_connection_string(azurite.connection_string, name)


class TestAzureObjects(ObjectStoreContract):
    @pytest.fixture(autouse=True)
    def _raw(self, blobs: ContainerClient) -> None:
        self.blobs = blobs

    @pytest.fixture
    def objects(self, backend: AzureStorageBackend) -> ObjectStore:
        return backend.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        blob = self.blobs.get_blob_client(key)
        was = await blob.get_blob_properties()
        settings = ContentSettings(content_type=was.content_settings.content_type)
        await blob.upload_blob(data, overwrite=True, metadata=was.metadata, content_settings=settings)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        settings = ContentSettings(content_type=content_type)
        await self.blobs.upload_blob(key, data, overwrite=True, content_settings=settings)


class TestAzureQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: AzureStorageBackend) -> object:
        return backend.queues


class TestAzureTables(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: AzureStorageBackend) -> object:
        return backend.tables


class TestAzureObjectsBehindALayer(TestAzureObjects):
    @pytest.fixture
    def objects(self, backend: AzureStorageBackend) -> ObjectStore:
        return PassThrough(backend).objects


class TestAzureQueuesBehindALayer(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: AzureStorageBackend) -> object:
        return PassThrough(backend).queues


class TestAzureTablesBehindALayer(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: AzureStorageBackend) -> object:
        return PassThrough(backend).tables


# -- other programs on the same account


async def test_ours_is_an_ordinary_blob(backend: AzureStorageBackend, blobs: ContainerClient) -> None:
    await backend.objects.put(
        "configs/ceo.json",
        json.dumps({"model": "gpt"}).encode(),
        content_type="application/json",
        metadata={"agent-id": "ceo", "note": "two  spaces", "empty": "", "storage-class": "ä"},
    )
    downloaded = await blobs.get_blob_client("configs/ceo.json").download_blob()
    assert json.loads(await downloaded.readall()) == {"model": "gpt"}
    assert downloaded.properties.content_settings.content_type == "application/json"
    assert downloaded.properties.metadata["agent_id"] == "ceo"
    assert len(downloaded.properties.metadata["aos_sha256"]) == 64
    info = await backend.objects.head("configs/ceo.json")
    assert dict(info.metadata) == {
        "agent-id": "ceo",
        "note": "two  spaces",
        "empty": "",
        "storage-class": "ä",
    }


async def test_metadata_of_other_programs_is_given_as_far_as_it_has_a_name(
    backend: AzureStorageBackend, blobs: ContainerClient
) -> None:
    theirs = {"Build_Number": "7", "_private": "y", "file": "caf%E9.txt", "rate": "100%25", "none": "%00"}
    await blobs.upload_blob("foreign", b"x", metadata=theirs)
    found = await backend.objects.get("foreign")
    assert found is not None
    kept = {"build-number": "7", "file": "caf%E9.txt", "rate": "100%25", "none": "%00"}
    assert dict(found.info.metadata) == kept
    # Added to one of ours.
    await backend.objects.put("ours", b"x", metadata={"a": "ü"})
    ours = await blobs.get_blob_client("ours").get_blob_properties()
    await blobs.get_blob_client("ours").set_blob_metadata({**ours.metadata, "file": "caf%E9.txt"})
    assert dict((await backend.objects.head("ours")).metadata) == {"a": "ü", "file": "caf%E9.txt"}
    assert found.info.content_type == "application/octet-stream"


async def test_names_that_are_no_keys_are_left_out_of_listings(
    backend: AzureStorageBackend, blobs: ContainerClient
) -> None:
    for name in ("odd/a//b", "odd/dir/", "odd/dot.", "odd/ok", "odd/x%2Fy"):
        await blobs.upload_blob(name, b"x")
    page = await backend.objects.list_page("odd/")
    assert [entry.key for entry in page.entries] == ["odd/ok"]
    page = await backend.objects.list_page("odd/", delimiter="/")
    assert [entry.key for entry in page.entries] == ["odd/ok"]


async def test_a_lease_of_another_program_is_no_conflict(
    backend: AzureStorageBackend, blobs: ContainerClient
) -> None:
    put = await backend.objects.put("leased", b"x")
    lease = await blobs.get_blob_client("leased").acquire_lease(15)
    for call in (
        backend.objects.put("leased", b"y"),
        backend.objects.put("leased", b"y", if_match=put.etag),
        backend.objects.delete("leased"),
        backend.objects.delete("leased", if_match=put.etag),
    ):
        with pytest.raises(TransientStorageError, match=r"[Ll]ease"):
            await call
    await lease.release()
    await backend.objects.delete("leased", if_match=put.etag)


async def test_a_message_is_base64_on_the_wire(azurite: Any, backend: AzureStorageBackend) -> None:
    async with QueueServiceClient.from_connection_string(azurite.connection_string) as service:
        client = service.get_queue_client(f"q-{uuid.uuid4().hex[:12]}")
        await backend.queues.send(client.queue_name, '{"task_id": "1"}')
        (message,) = [message async for message in client.receive_messages()]
        assert base64.b64decode(message.content) == b'{"task_id": "1"}'
        await client.send_message("no base64, is it?")
        (received,) = await backend.queues.receive(client.queue_name)
        assert (received.body, received.text) == (None, "no base64, is it?")


async def test_plain_text_messages_come_back_to_the_character(azurite: Any) -> None:
    backend = AzureStorageBackend(azurite.connection_string, message_encoding="none")
    queue = f"q-{uuid.uuid4().hex[:12]}"
    for text in ("a\r\nb\tc\n", "\r", "&#13;", "  ", "", "<a>&amp;]]>\"'", "päck 🙂"):
        await backend.queues.send(queue, "before")
        (before,) = await backend.queues.receive(queue)
        await backend.queues.update(queue, before, visibility_timeout=0, body=text)
        await backend.queues.send(queue, text)
        await backend.queues.send_text(queue, text)
        for message in await backend.queues.receive(queue, max_messages=3):
            assert (message.text, message.body) == (text, text.encode())
            await backend.queues.delete(queue, message)
        assert await backend.queues.length(queue) == 0
    with pytest.raises(InvalidArgumentError, match=r"U\+0001"):
        await backend.queues.send(queue, "a\x01")
    await backend.close()


# -- listings longer than a page of the service


@pytest.mark.parametrize("page", [1, 2, 3, 7])
async def test_listings_go_on_over_the_pages_of_the_service(
    backend: AzureStorageBackend, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(azure_objects, "MAX_PAGE", page)
    root = f"pages-{page}"
    keys = [f"{root}/{name}" for name in ("a", "a/1", "a/2", "a/3", "a0", "b/1", "b/2", "c", "d/e/f", "é")]
    for key in keys:
        await backend.objects.put(key, b"x")
    assert [found async for found in _names(backend.objects.iterate(root + "/"))] == keys
    folded = [f"{root}/{name}" for name in ("a", "a/", "a0", "b/", "c", "d/", "é")]
    assert [found async for found in _names(backend.objects.iterate(root + "/", delimiter="/"))] == folded
    rest = [key for key in keys if not key.startswith(f"{root}/a/")]
    skipped = backend.objects.iterate(root + "/", skip=f"{root}/a/")
    assert [found async for found in _names(skipped)] == rest


@pytest.mark.parametrize("units", [True, False], ids=["by UTF-16 units", "by code points"])
@pytest.mark.parametrize("knows_start", [True, False], ids=["startFrom", "no startFrom"])
async def test_names_are_in_the_order_of_utf8_whatever_the_order_of_the_service(
    units: bool, knows_start: bool
) -> None:
    def order(name: str) -> bytes:
        return name.encode("utf-16-be" if units else "utf-8")

    rng = random.Random(7)
    for _ in range(60):
        alphabet = "aｱ\ue000é🙂🎉/" if knows_start else "aｱ\ue000é0/"
        names = {"".join(rng.choices(alphabet, k=rng.randint(1, 4))) for _ in range(40)}
        prefix = rng.choice(["", "a", "🙂", "ｱ"])
        stored = sorted((name for name in names if name.startswith(prefix)), key=order)
        size = rng.choice([1, 2, 5, 100])

        async def fetch(start: str | None, stored: list[str] = stored, size: int = size) -> Pages:
            wanted = stored
            if start is not None and knows_start:
                wanted = [name for name in stored if order(name) >= order(start)]
            for at in range(0, max(len(wanted), 1), size):
                found: list[ListEntry | str] = [ListEntry(name) for name in wanted[at : at + size]]
                yield Page(found, at + size >= len(wanted))

        expected = sorted(stored, key=str.encode)
        assert [name async for name in _names(in_key_order(fetch, prefix, None))] == expected
        for at, after in enumerate(expected):
            behind = [
                name for name in expected[at + 1 :] if not (after[-1] == "/" and name.startswith(after))
            ]
            assert [name async for name in _names(in_key_order(fetch, prefix, after))] == behind


async def test_a_listing_makes_no_request_more_than_its_pages() -> None:
    asked: list[str | None] = []

    async def fetch(start: str | None) -> Pages:
        asked.append(start)
        yield Page([ListEntry(f"notes/{n:03}/{icon}") for n in range(500) for icon in "aé🙂"], False)
        yield Page([ListEntry("notes/ｱ")], True)

    assert len([found async for found in in_key_order(fetch, "notes/", None)]) == 1501
    assert asked == [None, "notes/499/\ue000"], "one for what the first page could not tell"


async def _names(found: AsyncIterator[ListEntry | str]) -> AsyncIterator[str]:
    async for each in found:
        yield each if isinstance(each, str) else each.key


# -- the container


async def test_nothing_saved_yet_is_not_found_and_the_first_save_makes_the_container(
    fresh: AzureStorageBackend,
) -> None:
    for call in (fresh.objects.get, fresh.objects.head, fresh.objects.delete):
        with pytest.raises(KeyNotFoundError):
            await call("k")
    assert (await fresh.objects.list_page()).entries == []


@pytest.mark.parametrize("name", [name for name in OBJECT_CALLS if not name.endswith("match")])
async def test_the_first_operation_may_be_any(fresh: AzureStorageBackend, name: str) -> None:
    try:
        await OBJECT_CALLS[name](fresh)
    except KeyNotFoundError:
        assert name in ("get", "head", "delete", "read stream", "copy", "touch")
    await fresh.objects.put("k", b"x")
    assert await fresh.objects.get("k") is not None


@pytest.mark.parametrize("name", [name for name in OBJECT_CALLS if name != "open"])
async def test_a_container_deleted_underneath_is_never_a_missing_key(
    azurite: Any, fresh: AzureStorageBackend, name: str
) -> None:
    await fresh.objects.put("k", b"x")
    async with _container(azurite, fresh) as client:
        await client.delete_container()
    with pytest.raises(StorageUnavailableError, match="container"):
        await OBJECT_CALLS[name](fresh)
    await fresh.open()
    assert (await fresh.objects.list_page()).entries == []


# -- refused, unreachable, broken


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_a_wrong_key_is_denied(azurite: Any, name: str) -> None:
    wrong = base64.b64encode(b"wrong" * 10).decode()
    backend = AzureStorageBackend(azurite.connection_string.replace(DEVELOPMENT_KEY, wrong))
    with pytest.raises(AccessDeniedError) as denied:
        await ALL_CALLS[name](backend)
    assert denied.value.remedy
    shown = "".join(traceback.format_exception(denied.value))
    assert wrong not in shown
    await backend.close()


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_nobody_at_the_address_is_unavailable(unused_tcp_port: int, name: str) -> None:
    backend = _at(unused_tcp_port)
    with pytest.raises(StorageUnavailableError):
        await ALL_CALLS[name](backend)
    await backend.close()


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_a_busy_service_is_asked_once(name: str) -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with _server(answer) as (port, requests):
        backend = _at(port)
        with pytest.raises(StorageUnavailableError) as busy:
            await ALL_CALLS[name](backend)
        await backend.close()
    assert len(requests) == 1
    if name in OTHER_CALLS:
        assert busy.value.retry_after == 7


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_a_404_of_something_else_is_not_a_missing_key(name: str) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    async with _server(answer) as (port, _):
        backend = _at(port)
        with pytest.raises(StorageUnavailableError):
            await ALL_CALLS[name](backend)
        await backend.close()


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_a_clock_that_is_wrong_is_denied_and_named(name: str) -> None:
    body = (
        b"<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server failed to authenticate"
        b" the request.</Message><AuthenticationErrorDetail>Request date header too old: 'Wed, 25 Nov 2026"
        b" 02:34:56 GMT'</AuthenticationErrorDetail></Error>"
    )
    answer = (
        b"HTTP/1.1 403 Forbidden\r\nx-ms-error-code: AuthenticationFailed\r\n"
        b"Content-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (len(body), body)
    )
    async with _server(answer) as (port, _):
        backend = _at(port)
        with pytest.raises(AccessDeniedError) as denied:
            await ALL_CALLS[name](backend)
        await backend.close()
    assert "clock" in (denied.value.remedy or "")


async def test_an_answer_cut_short_is_not_data() -> None:
    answer = (
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "0x1"\r\n'
        b"Last-Modified: Wed, 25 Nov 2026 02:34:56 GMT\r\nConnection: close\r\n\r\nabc"
    )
    async with _server(answer) as (port, _):
        backend = _at(port)
        with pytest.raises(StorageUnavailableError):
            await backend.objects.get("k")
        with pytest.raises(StorageUnavailableError):
            await _read_stream(backend)
        await backend.close()


def _at(port: int) -> AzureStorageBackend:
    url = f"http://127.0.0.1:{port}/dev"
    return AzureStorageBackend(
        blob_endpoint=url,
        queue_endpoint=url,
        table_endpoint=url,
        credential=base64.b64encode(b"key" * 10).decode(),
    )


@asynccontextmanager
async def _server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every request alike; the list has their heads."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


# -- credentials


def _sas(expires_in: timedelta) -> str:
    return generate_account_sas(
        "devstoreaccount1",
        DEVELOPMENT_KEY,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(
            read=True, write=True, delete=True, list=True, add=True, create=True, update=True, process=True
        ),
        datetime.now(UTC) + expires_in,
        services="bqt",
    )


def _with_sas(azurite: Any, sas: str) -> AzureStorageBackend:
    ports = (azurite.blob_port, azurite.queue_port, azurite.table_port)
    blob, queue, table = (azurite.url(port) for port in ports)
    return AzureStorageBackend(
        f"BlobEndpoint={blob};QueueEndpoint={queue};TableEndpoint={table};SharedAccessSignature={sas}",
        container=a_container(),
    )


async def test_a_shared_access_signature_opens_all_three(azurite: Any) -> None:
    async with _with_sas(azurite, _sas(timedelta(hours=1))) as backend:
        put = await backend.objects.put("a b/ü%", b"x")
        assert [entry.key for entry in (await backend.objects.list_page("a")).entries] == ["a b/ü%"]
        await backend.objects.delete("a b/ü%", if_match=put.etag)
        await backend.objects.put("k", b"x")
        await _streams_and_copies(backend)
        await backend.objects.delete("k")
        queue = f"q-{uuid.uuid4().hex[:12]}"
        await backend.queues.send(queue, "x")
        assert await backend.queues.length(queue) == 1
        table = f"t{uuid.uuid4().hex[:12]}"
        await backend.tables.insert(table, "p", "r", {"n": 1})
        assert (await backend.tables.get(table, "p", "r")).properties == {"n": 1}


async def _streams_and_copies(backend: AzureStorageBackend) -> None:
    await _put_stream(backend)
    await backend.objects.copy("k", "a copy/ü%41", if_absent=True)
    async with backend.objects.open_reader("a copy/ü%41") as reader:
        assert await reader.read() == b"parts of four"


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_an_expired_signature_is_denied_and_not_shown(azurite: Any, name: str) -> None:
    sas = _sas(timedelta(hours=-1))
    backend = _with_sas(azurite, sas)
    with pytest.raises(AccessDeniedError) as denied:
        await ALL_CALLS[name](backend)
    signature = sas.partition("sig=")[2].partition("&")[0]
    shown = "".join(traceback.format_exception(denied.value))
    assert signature not in shown
    await backend.close()


class _Identity:
    """A credential as azure-identity's: counts what it is asked for."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.scopes: list[tuple[str, ...]] = []

    async def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes.append(scopes)
        if self.failure is not None:
            raise self.failure
        return AccessToken(_token(), int(datetime.now(UTC).timestamp()) + 3600)


class _SyncIdentity(_Identity):
    def get_token(self, *scopes: str, **_: object) -> AccessToken:  # pyright: ignore
        self.scopes.append(scopes)
        return AccessToken(_token(), int(datetime.now(UTC).timestamp()) + 3600)


def _token() -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    now = int(datetime.now(UTC).timestamp())
    claims = {
        "aud": "https://storage.azure.com",
        "iss": "https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/",
        "oid": "23657296-5cd5-45b0-a809-d972a7f4dfe1",
        "tid": "ab1f708d-50f6-404c-a006-d71b2ac7a606",
        "iat": now - 60,
        "nbf": now - 60,
        "exp": now + 3600,
    }
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}.c2ln"


@pytest.fixture(scope="module")
async def azurite_tls(
    azurite: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Any, Path]]:
    from devhost.azurite import Azurite

    folder = tmp_path_factory.mktemp("azurite-tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    self_signed(cert, key)
    async with Azurite(folder / "data", oauth=True, cert=cert, key=key) as server:
        yield server, cert


def _with_identity(azurite: Any, cert: Path, credential: Any) -> AzureStorageBackend:
    return AzureStorageBackend(
        blob_endpoint=azurite.url(azurite.blob_port),
        queue_endpoint=azurite.url(azurite.queue_port),
        table_endpoint=azurite.url(azurite.table_port),
        credential=credential,
        container=a_container(),
        verify=str(cert),
    )


@pytest.mark.parametrize("identity", [_Identity, _SyncIdentity])
async def test_an_identity_opens_all_three(azurite_tls: tuple[Any, Path], identity: type[_Identity]) -> None:
    credential = identity()
    async with _with_identity(*azurite_tls, credential) as backend:
        put = await backend.objects.put("k", b"x")
        assert len((await backend.objects.list_page()).entries) == 1
        await backend.objects.delete("k", if_match=put.etag)
        await backend.objects.put("k", b"x")
        await _streams_and_copies(backend)
        await backend.objects.delete("k")
        await backend.queues.send("queue-1", "x")
        await backend.tables.upsert("table1", "p", "r", {"n": 1})
        for n in range(5):
            await backend.objects.put(f"k/{n}", b"x")
    assert {scope for scopes in credential.scopes for scope in scopes} == {
        "https://storage.azure.com/.default"
    }
    assert len(credential.scopes) <= 5, "each client keeps its token until it expires"


async def test_an_identity_signs_links(azurite_tls: tuple[Any, Path]) -> None:
    """By a user delegation key, which serves many of them."""
    cafile = str(azurite_tls[1])
    async with _with_identity(*azurite_tls, _Identity()) as backend:
        storage = StorageManager(backend=backend)
        to_save = await storage.link("a/k", method="PUT", content_type="text/plain")
        sent = await fetch("PUT", to_save.url, b"hello", to_save.headers, cafile=cafile)
        assert sent.status == 201, sent.body
        assert await storage.load("a/k") == "hello"
        to_load = await storage.link("a/k", expires_in=MAX_LINK_SECONDS)
        got = await fetch("GET", to_load.url, cafile=cafile)
        assert (got.status, got.body) == (200, b"hello")
        # It ends with the key, which begins a little earlier.
        left = to_load.expires_at - datetime.now(UTC)
        assert timedelta(days=6, hours=23) < left < timedelta(days=7)
        keys = {parse_qs(urlsplit(link.url).query)["ske"][0] for link in (to_save, to_load)}
        assert len(keys) == 1
        for wrong in (to_load.url.replace("sp=r", "sp=rw"), to_load.url.replace("/a/k", "/a/l")):
            assert (await fetch("GET", wrong, cafile=cafile)).status == 403


async def test_a_shared_access_signature_signs_no_links(azurite: Any) -> None:
    async with AzureStorageBackend(azurite.connection_string, container=a_container()) as backend:
        await backend.objects.put("k", b"x")
        link = await StorageManager(backend=backend).link("k")
    sas = urlsplit(link.url).query
    given = AzureStorageBackend(
        blob_endpoint=azurite.url(azurite.blob_port),
        queue_endpoint=azurite.url(azurite.queue_port),
        table_endpoint=azurite.url(azurite.table_port),
        credential=sas,
        container=urlsplit(link.url).path.split("/")[2],
    )
    with pytest.raises(UnsupportedOperationError, match="shared access signature") as refused:
        await StorageManager(backend=given).link("k")
    assert "sig=" not in str(refused.value)
    await given.close()


@pytest.mark.parametrize("name", ALL_CALLS)
async def test_an_identity_without_a_token_is_denied(azurite_tls: tuple[Any, Path], name: str) -> None:
    backend = _with_identity(*azurite_tls, _Identity(ClientAuthenticationError("no identity here")))
    with pytest.raises(AccessDeniedError, match="no identity here"):
        await ALL_CALLS[name](backend)
    await backend.close()


async def test_settings_of_obstore_in_the_environment_are_not_obeyed(
    azurite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AZURE_STORAGE_SAS_KEY": "sv=1&sig=abc",
        "AZURE_STORAGE_ACCOUNT_NAME": "other",
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1",
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURE_SKIP_SIGNATURE": "true",
        "AZURE_CLIENT_ID": "x",
        "AZURE_CLIENT_SECRET": "y",
        "AZURE_TENANT_ID": "z",
    }.items():
        monkeypatch.setenv(name, value)
    async with AzureStorageBackend(azurite.connection_string, container=a_container()) as backend:
        await backend.objects.put("k", b"x")


# -- loops, imports, closing


async def test_several_event_loops_one_after_the_other(azurite: Any, fresh: AzureStorageBackend) -> None:
    async def everything(n: int) -> int:
        await fresh.objects.put(f"loops/{n}", b"x")
        await fresh.queues.send("loops", "x")
        await fresh.tables.upsert("loops", "p", f"r{n}", {"n": n})
        return len((await fresh.objects.list_page("loops/")).entries)

    for n in range(3):
        assert await asyncio.to_thread(lambda n=n: asyncio.run(everything(n))) == n + 1
    assert await everything(3) == 4


async def test_a_closed_backend_says_so(azurite: Any) -> None:
    async with AzureStorageBackend(azurite.connection_string, container=a_container()) as backend:
        await backend.queues.send("closing", "x")
    for call in ALL_CALLS.values():
        with pytest.raises(StorageError, match="closed"):
            await call(backend)


async def test_other_containers_of_the_account_are_left_alone(azurite: Any) -> None:
    async with BlobServiceClient.from_connection_string(azurite.connection_string) as service:
        before = {container.name async for container in service.list_containers()}
        name = a_container()
        async with AzureStorageBackend(azurite.connection_string, container=name):
            pass
        after = {container.name async for container in service.list_containers()}
    assert after - before == {name}


def test_vendor_packages_are_imported_when_they_are_needed() -> None:
    script = """
import asyncio, sys
def loaded():
    names = ("obstore", "azure.core", "azure.storage.blob", "azure.storage.queue", "azure.data.tables",
             "azure.identity", "aiohttp")
    return [name for name in names if name in sys.modules]
from storage_lib.backends.azure import AzureStorageBackend
backend = AzureStorageBackend("UseDevelopmentStorage=true")
print(loaded())
backend = AzureStorageBackend(blob_endpoint="http://127.0.0.1:1/d", queue_endpoint="http://127.0.0.1:1/d",
                              table_endpoint="http://127.0.0.1:1/d", credential="a2V5")
async def main():
    for call in (backend.objects.get("k"), backend.objects.put("k", b"")):
        try:
            await call
        except Exception as error:
            print(type(error).__name__)
    print(loaded())
    try:
        await backend.queues.receive("queue-1")
    except Exception as error:
        print(type(error).__name__)
    print(loaded())
    await backend.close()
asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "[]",
        "StorageUnavailableError",
        "StorageUnavailableError",
        "['obstore']",
        "StorageUnavailableError",
        "['obstore', 'azure.core', 'azure.storage.queue', 'aiohttp']",
    ], run.stderr


async def test_a_delete_that_was_given_up_before_its_batch_began_does_not_come_later(
    fresh: AzureStorageBackend,
) -> None:
    objects = fresh.objects
    driver: Any = objects.driver.core
    container = driver._container
    for key in "abk":
        await objects.put(key, b"old")
    free = asyncio.Event()
    writing = asyncio.ensure_future(container.write("a", free.wait))
    await asyncio.sleep(0)
    deletes = {key: asyncio.ensure_future(driver.delete(key, None)) for key in "abk"}
    for _ in range(5):
        await asyncio.sleep(0)
    deletes["k"].cancel()
    await asyncio.gather(deletes.pop("k"), return_exceptions=True)
    await objects.put("k", b"new")
    free.set()
    await asyncio.gather(writing, *deletes.values())
    assert (await objects.get("k")).data == b"new"
    assert [entry.key async for entry in objects.iterate() if isinstance(entry, ListEntry)] == ["k"]


async def test_a_touch_moves_no_bytes(fresh: AzureStorageBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh.objects.put("k", b"x", metadata={"m": "1"})
    monkeypatch.delattr(type(fresh.objects.driver), "read_stream")
    monkeypatch.delattr(type(fresh.objects.driver), "get")
    await fresh.objects.touch("k", metadata={"m": "2"})
    assert dict((await fresh.objects.head("k")).metadata) == {"m": "2"}


async def test_names_come_in_pages_and_by_prefix(
    backend: AzureStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = uuid.uuid4().hex[:8]
    tables = sorted(f"n{tail}{name}" for name in ("a", "B", "c", "other_", "Zz"))
    queues = sorted(f"n{tail}{name}" for name in ("a", "b", "c", "other_", "zz"))
    for table in tables:
        await backend.tables.create_table(table)
    for queue in queues:
        await backend.queues.create_queue(queue)
    assert [name for name in await backend.list_tables() if tail in name] == tables
    assert [name for name in await backend.list_queues() if tail in name] == queues
    # The whole of a server that others use too would be too many pages.
    monkeypatch.setattr("storage_lib.backends.azure.tables.NAMES_A_PAGE", 2)
    monkeypatch.setattr("storage_lib.backends.azure.queues.NAMES_A_PAGE", 2)

    async def below(pages: Any, prefix: str) -> list[str]:
        found: list[str] = []
        cursor = None
        for _ in range(100):
            page = await pages(prefix, cursor)
            assert len(page.names) <= 2
            found += [given_name(name) for name in page.names]
            if (cursor := page.cursor) is None:
                return sorted(found)
        raise AssertionError("the pages do not end")

    assert await below(backend.tables.driver.list_tables, f"n{tail}") == tables
    assert await below(backend.queues.driver.list_queues, f"n{tail}") == queues
    assert await below(backend.tables.driver.list_tables, f"n{tail}B") == [f"n{tail}B"]
    assert await below(backend.tables.driver.list_tables, f"n{tail}other") == [f"n{tail}other_"]
    assert await below(backend.queues.driver.list_queues, f"n{tail}other") == [f"n{tail}other_"]
    assert await below(backend.queues.driver.list_queues, f"none{tail}") == []
