"""Objects that other programs made: their headers, encodings, snapshots, types and tiers."""

from __future__ import annotations

import gzip
import json
import uuid
import zlib
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient
from obstore.store import S3Store

from functions.answers import object_headers
from storage_lib import codings
from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.backends.azure.endpoints import DEVELOPMENT_KEY
from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.backends.s3 import S3StorageBackend
from storage_lib.errors import (
    AccessDeniedError,
    KeyNotFoundError,
    SerializationError,
    StorageError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.manager import StorageManager
from storage_lib.ports.backend import StorageBackend
from storage_lib.ports.drivers import PutOptions
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from tests.stub_service import Answer, Request, StubService

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly with raw bytes:ResourceWarning")

VALUE = {"model": "large", "tools": ["search"] * 100}
PACKED = gzip.compress(json.dumps(VALUE).encode(), mtime=0)
HEADERS = {
    "Content-Encoding": "gzip",
    "Cache-Control": "public, max-age=60",
    "Content-Disposition": 'attachment; filename="a  b.json"',
    "Content-Language": "de, en",
}


class Foreign:
    """A cloud backend, and its container as another program sees it."""

    def __init__(self, backend: StorageBackend, raw: Any) -> None:
        self.backend = backend
        self.raw = raw
        self.storage = StorageManager(backend=backend)

    async def put(self, key: str, data: bytes, **headers: str) -> None:
        if isinstance(self.raw, ContainerClient):
            settings = ContentSettings(
                content_type=headers.get("Content-Type"),
                content_encoding=headers.get("Content-Encoding"),
                cache_control=headers.get("Cache-Control"),
                content_disposition=headers.get("Content-Disposition"),
                content_language=headers.get("Content-Language"),
            )
            await self.raw.upload_blob(key, data, content_settings=settings, overwrite=True)
        else:
            await self.raw.put_async(key, data, attributes=headers)

    async def headers(self, key: str) -> dict[str, str]:
        if isinstance(self.raw, ContainerClient):
            settings = (await self.raw.get_blob_client(key).get_blob_properties()).content_settings
            found = {name: getattr(settings, name.lower().replace("-", "_")) for name in HEADERS}
        else:
            found = dict((await self.raw.get_async(key, options={"head": True})).attributes)
        return {name: found[name] for name in HEADERS if found.get(name)}


@pytest.fixture(params=["azurite", "moto", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
async def foreign(server: Any) -> AsyncIterator[Foreign]:
    name = f"c-{uuid.uuid4().hex[:12]}"
    if hasattr(server, "connection_string"):
        async with (
            AzureStorageBackend(server.connection_string, container=name) as backend,
            ContainerClient.from_connection_string(server.connection_string, name) as raw,
        ):
            yield Foreign(backend, raw)
        return
    keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
    place: dict[str, Any] = {"endpoint": server.endpoint, "region": REGION, **keys}
    async with S3StorageBackend(name, create_bucket=True, **place) as backend:
        yield Foreign(backend, S3Store(name, client_options={"allow_http": True}, **place))


async def test_headers_of_others_are_seen_and_their_encodings_taken_off(foreign: Foreign) -> None:
    await foreign.put("in/config.json", PACKED, **HEADERS, **{"Content-Type": "application/json"})
    info = await foreign.storage.info("in/config.json")
    assert info.content_encoding == "gzip"
    assert info.cache_control == "public, max-age=60"
    assert info.content_disposition == 'attachment; filename="a  b.json"'
    assert info.content_language == "de, en"
    assert dict(info.metadata) == {}
    found = await foreign.storage.read("in/config.json")
    assert (found.data, found.info.content_encoding) == (PACKED, "gzip"), "read gives what is stored"
    assert await foreign.storage.load("in/config.json") == VALUE
    assert await foreign.storage.load("in/config.json", dict[str, Any]) == VALUE
    async with foreign.storage.open_reader("in/config.json") as reader:
        assert (await reader.read(), reader.info.content_encoding) == (PACKED, "gzip")
    # An update saves a plain value, and says so.
    assert await foreign.storage.update("in/config.json", lambda value: {**value, "n": 1}) == {
        **VALUE,
        "n": 1,
    }
    assert (await foreign.storage.info("in/config.json")).content_encoding is None
    assert await foreign.storage.load("in/config.json") == {**VALUE, "n": 1}


async def test_copies_and_moves_keep_the_headers(foreign: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    await foreign.put("a.json", PACKED, **HEADERS, **{"Content-Type": "application/json"})
    etag = (await foreign.storage.info("a.json")).etag
    await foreign.storage.copy("a.json", "b.json")
    await foreign.storage.copy("b.json", "c.json", if_absent=True)
    await foreign.storage.move("c.json", "d.json")
    await foreign.storage.move("d.json", "e.json", if_absent=True)
    # A copy whose bytes pass through here, in parts.
    monkeypatch.setattr(foreign.backend.objects, "part_bytes", 5 * 1024 * 1024)
    large = gzip.compress(bytes(1), mtime=0) + b"\0" * (6 * 1024 * 1024)
    await foreign.put("large", large, **HEADERS)
    info = await foreign.backend.objects.driver.head("large")
    await foreign.storage.copy("large", "large2", if_absent=True)
    for key in ("b.json", "e.json", "large2"):
        assert await foreign.headers(key) == HEADERS, key
    assert info.size == len(large)
    assert await foreign.storage.load("e.json") == VALUE
    assert await foreign.storage.load("large2") == bytes(1)
    assert (await foreign.storage.info("a.json")).etag == etag
    with pytest.raises(KeyNotFoundError):
        await foreign.storage.info("d.json")


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_backend_without_headers_keeps_them_all_the_same(kind: str, tmp_path: Any) -> None:
    """A copy from elsewhere brings them as drivers have them."""
    backend = MemoryBackend() if kind == "memory" else FileStorageBackend(tmp_path)
    kept = {"aos-content-encoding": "gzip", "aos-cache-control": "no-store", "own": "1"}
    options = PutOptions("application/json", kept, sha256(PACKED).hexdigest())
    await backend.objects.driver.put("a", PACKED, options)
    storage = StorageManager(backend=backend)
    await storage.copy("a", "b")
    info = await storage.info("b")
    assert (info.content_encoding, info.cache_control, dict(info.metadata)) == (
        "gzip",
        "no-store",
        {"own": "1"},
    )
    await backend.close()


async def test_http_serves_the_headers(foreign: Foreign) -> None:
    await foreign.put("a.json", PACKED, **HEADERS, **{"Content-Type": "application/json"})
    headers = object_headers(await foreign.storage.info("a.json"))
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["Content-Type"] == "application/json"
    await foreign.put("b.json", b"1", **{"Content-Type": "application/json"})
    headers = object_headers(await foreign.storage.info("b.json"))
    assert headers["Cache-Control"] == "private, no-cache"
    assert "Content-Encoding" not in headers


# -- codings


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        (None, b"x"),
        ("", b"x"),
        ("identity", b"x"),
        ("aws-chunked", b"x"),
        ("gzip", gzip.compress(b"x", mtime=0)),
        ("GZIP , identity", gzip.compress(b"x", mtime=0)),
        ("x-gzip", gzip.compress(b"x", mtime=0)),
        ("aws-chunked,gzip", gzip.compress(b"x", mtime=0)),
        ("gzip", gzip.compress(b"x", mtime=0) + gzip.compress(b"", mtime=0)),
        ("gzip", gzip.compress(b"", mtime=0) + gzip.compress(b"x", mtime=0) + bytes(512)),
        ("deflate", zlib.compress(b"x")),
        ("deflate", zlib.compress(b"x")[2:-4]),
        ("deflate, gzip", gzip.compress(zlib.compress(b"x"), mtime=0)),
    ],
)
def test_codings_are_taken_off(encoding: str | None, data: bytes) -> None:
    assert codings.decoded(data, codings.codings_of(encoding)) == b"x"


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("br", b"x"),
        ("zstd", b"x"),
        ("gzip, br", gzip.compress(b"x", mtime=0)),
        ("compress", b"x"),
        ("gzip", b"not gzip"),
        ("gzip", b""),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-3]),
        ("gzip", gzip.compress(b"x", mtime=0)[:-8] + b"\xff" * 8),
        ("gzip", gzip.compress(b"x", mtime=0) + b"rest"),
        ("deflate", b"\xff\xff"),
        ("gzip, gzip", gzip.compress(b"x", mtime=0)),
    ],
)
def test_what_can_not_be_taken_off_is_named(encoding: str, data: bytes) -> None:
    with pytest.raises(SerializationError) as refused:
        codings.decoded(data, codings.codings_of(encoding))
    assert any(name.strip() in str(refused.value) for name in encoding.split(","))
    assert "read()" in (refused.value.remedy or "")


@pytest.mark.parametrize("times", [1, 2, 3])
def test_expansion_is_bounded(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr(codings, "SMALL_BYTES", 1_000_000)
    bomb = bytes(4_000_000)
    for _ in range(times):
        bomb = gzip.compress(bomb)
    with pytest.raises(SerializationError, match="1000000 bytes"):
        codings.decoded(bomb, ["gzip"] * times)
    assert codings.decoded(gzip.compress(bytes(1_000_000)), ["gzip"]) == bytes(1_000_000)
    assert len(codings.decoded(gzip.compress(bytes(2000)) * 2000, ["gzip"])) == 4_000_000, (
        "100 times is usual"
    )


async def test_load_names_the_object_and_its_coding(foreign: Foreign) -> None:
    await foreign.put("a.json", b"x", **{"Content-Encoding": "br", "Content-Type": "application/json"})
    for call in (foreign.storage.load("a.json"), foreign.storage.update("a.json", lambda value: value)):
        with pytest.raises(SerializationError) as refused:
            await call
        assert "'a.json'" in str(refused.value)
        assert "br" in str(refused.value)
    assert (await foreign.storage.read("a.json")).data == b"x"


# -- snapshots, types, tiers, leases, locks


@pytest.fixture
async def azure(azurite: Any) -> AsyncIterator[Foreign]:
    name = f"c-{uuid.uuid4().hex[:12]}"
    async with (
        AzureStorageBackend(azurite.connection_string, container=name) as backend,
        ContainerClient.from_connection_string(azurite.connection_string, name) as raw,
    ):
        yield Foreign(backend, raw)


async def test_a_blob_with_snapshots_is_a_blob(azure: Foreign, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = azure.backend.objects
    now = 2_000_000_000.0
    monkeypatch.setattr(objects, "clock", lambda: now)

    async def with_snapshot(key: str, **options: Any) -> str:
        etag = (await objects.put(key, b"x", **options)).etag
        await azure.raw.get_blob_client(key).create_snapshot()
        return etag

    await with_snapshot("deleted")
    await objects.delete("deleted")
    etag = await with_snapshot("matched")
    await objects.delete("matched", if_match=etag)
    await with_snapshot("moved")
    await objects.move("moved", "target")
    await with_snapshot("replaced")
    await objects.put("replaced", b"y")
    await with_snapshot("expired", ttl=5)
    now += 5
    assert await objects.sweep_expired() == 1
    now -= 5
    assert [entry.key async for entry in objects.iterate()] == ["replaced", "target"]  # type: ignore[union-attr]


async def test_append_and_page_blobs_can_be_read_copied_and_deleted(azure: Foreign) -> None:
    objects = azure.backend.objects
    append = azure.raw.get_blob_client("append")
    await append.create_append_blob()
    await append.append_block(b"log")
    page = azure.raw.get_blob_client("page")
    await page.create_page_blob(512)
    await objects.put("block", b"x")
    for key, data in (("append", b"log"), ("page", bytes(512))):
        found = await objects.get(key)
        assert found is not None
        assert found.data == data
        await objects.copy(key, f"{key}-copy")
        await objects.delete(key)
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "remedy"),
    [
        (
            409,
            "InvalidBlobType",
            "The blob type is invalid.",
            UnsupportedOperationError,
            "append or page blob",
        ),
        (409, "BlobArchived", "Not permitted on an archived blob.", UnsupportedOperationError, "tier to Hot"),
        (409, "BlobBeingRehydrated", "Being rehydrated.", UnsupportedOperationError, "hours"),
        (412, "LeaseIdMissing", "There is currently a lease.", TransientStorageError, "lease"),
        (409, "BlobImmutableDueToPolicy", "Immutable.", AccessDeniedError, "immutability"),
        (
            409,
            "CannotVerifyCopySource",
            "This operation is not permitted on an archived blob.",
            UnsupportedOperationError,
            "tier to Hot",
        ),
    ],
)
async def test_what_azure_refuses_for_the_state_of_a_blob_has_a_remedy(
    status: int, code: str, message: str, kind: type[StorageError], remedy: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    def answer(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, headers={"ETag": '"0x1"', "Last-Modified": "Sun, 29 Nov 2026 10:00:00 GMT"})
        return Answer(status, body, {"x-ms-error-code": code, "Content-Type": "application/xml"})

    async with StubService(answer) as service:
        backend = AzureStorageBackend(
            f"AccountName=dev;AccountKey={DEVELOPMENT_KEY};BlobEndpoint={service.endpoint}/dev;"
            f"QueueEndpoint={service.endpoint}/dev;TableEndpoint={service.endpoint}/dev"
        )
        calls = [
            backend.objects.put("k", b"x"),
            backend.objects.get("k"),
            backend.objects.put("k", b"x", if_match="0x1"),
            backend.objects.delete("k"),
            backend.objects.delete("k", if_match="0x1"),
            backend.objects.copy("k", "t"),
        ]
        for call in calls:
            with pytest.raises(kind) as refused:
                await call
            assert remedy in (refused.value.remedy or "")
        await backend.close()


@pytest.mark.parametrize(
    ("status", "code", "message", "kind", "remedy"),
    [
        (
            403,
            "InvalidObjectState",
            "The operation is not valid for the object's storage class",
            UnsupportedOperationError,
            "restore it",
        ),
        (
            403,
            "AccessDenied",
            "Access Denied because object protected by object lock.",
            AccessDeniedError,
            "Object Lock",
        ),
        (
            400,
            "InvalidRequest",
            "Object is WORM protected and cannot be overwritten",
            AccessDeniedError,
            "legal hold",
        ),
        (403, "AccessDenied", "Access Denied", AccessDeniedError, "s3:GetObject"),
    ],
)
async def test_what_s3_refuses_for_the_state_of_an_object_has_a_remedy(
    status: int, code: str, message: str, kind: type[StorageError], remedy: str
) -> None:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()

    def answer(request: Request) -> Answer:
        if request.method == "HEAD":
            return Answer(200, headers={"ETag": '"0x1"', "Last-Modified": "Sun, 29 Nov 2026 10:00:00 GMT"})
        return Answer(status, body, {"Content-Type": "application/xml"})

    async with StubService(answer) as service:
        backend = S3StorageBackend(
            "bucket", endpoint=service.endpoint, access_key_id="a", secret_access_key="b"
        )
        for call in (
            backend.objects.get("k"),
            backend.objects.put("k", b"x"),
            backend.objects.put("k", b"x", if_match="0x1"),
            backend.objects.copy("k", "t"),
        ):
            with pytest.raises(kind) as refused:
                await call
            assert remedy in (refused.value.remedy or "")
        await backend.close()
