"""An app as a store, through its HTTP API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import pickle
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage_lib.backends.http import HttpStorageBackend
from storage_lib.backends.http import objects as http_objects
from storage_lib.cli.diagnosis import diagnose
from storage_lib.config import (
    CachingOptions,
    CompressionOptions,
    EncryptionOptions,
    FallbackOptions,
    StorageConfig,
)
from storage_lib.errors import (
    AccessDeniedError,
    ConfigurationError,
    EncryptionError,
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectExistsError,
    ObjectTooLargeError,
    PreconditionFailedError,
    QuotaExceededError,
    RuleViolationError,
    SerializationError,
    StorageError,
    StorageUnavailableError,
    TransientStorageError,
    UnsupportedOperationError,
)
from storage_lib.layers.retry import RetryBackend, RetryOptions
from storage_lib.manager import StorageManager
from storage_lib.migration import Migration, MigrationOptions, check
from storage_lib.ports.backend import ByteRange
from storage_lib.ports.objects import ObjectStore, StoredObject
from storage_lib.testing import ObjectStoreContract
from storage_lib.urls import open_store
from tests.http_app import PlatformApp
from tests.http_store import ServedApp, served
from tests.stub_service import Answer, Request, StubService


@pytest.fixture(scope="module")
async def app() -> AsyncIterator[ServedApp]:
    async with served(StorageConfig(storage_type="memory")) as app:
        yield app


@pytest.fixture(scope="module")
async def backend(app: ServedApp) -> AsyncIterator[HttpStorageBackend]:
    async with HttpStorageBackend(app.url) as backend:
        # What a test does to the clock of the one it does to that of the other.
        app.app.storage.backend.objects.clock = lambda: backend.objects.clock()
        yield backend


class TestHttpObjects(ObjectStoreContract):
    # The app compares what it is sent with its content type.
    binary_types = ('application/x-csv; charset="utf-8"', "application/x-stream")
    # The app sweeps, and its store has passed these.
    test_a_sweep_goes_on_behind_objects_that_were_saved_anew_or_deleted = None  # type: ignore[assignment]
    test_an_object_that_appears_after_its_end_is_hidden_and_swept = None  # type: ignore[assignment]
    test_an_object_that_can_not_be_removed_does_not_hold_up_the_sweep = None  # type: ignore[assignment]
    test_an_object_that_is_saved_again_while_others_are_removed_stays = None  # type: ignore[assignment]
    test_a_clock_that_is_set_back_leaves_no_object_for_ever = None  # type: ignore[assignment]
    # What it has answered cannot be taken back.
    test_what_ends_while_a_listing_is_read_is_not_shown = None  # type: ignore[assignment]
    # No other program can put anything into memory.
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]

    @pytest.fixture
    def objects(
        self, app: ServedApp, backend: HttpStorageBackend, monkeypatch: pytest.MonkeyPatch
    ) -> ObjectStore:
        monkeypatch.setattr(backend.objects, "sweep_expired", app.app.storage.backend.objects.sweep_expired)
        return backend.objects

    @pytest.fixture(autouse=True)
    def _raw(self, app: ServedApp) -> None:
        self.stored = app.app.storage.backend.objects.driver._objects  # type: ignore[attr-defined]

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        self.stored[key] = replace(self.stored[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await objects.put(key, data, content_type="application/octet-stream")
        info = replace(self.stored[key].info, sha256=None, content_type=content_type)
        self.stored[key] = StoredObject(info, data)


def retrying(url: str) -> StorageManager:
    """A store whose answers may be lost."""
    return StorageManager(
        backend=RetryBackend(HttpStorageBackend(url), RetryOptions(attempts=4, base_seconds=0))
    )


@pytest.fixture
async def storage(app: ServedApp) -> AsyncIterator[StorageManager]:
    storage = retrying(app.url)
    yield storage
    await storage.backend.close()
    app.before, app.after = (lambda request: None), (lambda request, answer: answer)


def losing(app: ServedApp, method: str) -> list[int]:
    """Have the app's next answer to this method be lost; its status is then in the list."""
    lost: list[int] = []

    def after(request: Request, answer: Answer) -> Answer:
        if request.method != method or lost:
            return answer
        lost.append(answer.status)
        return Answer(502)

    app.after = after
    return lost


@pytest.mark.parametrize("ttl", [None, 600])
async def test_a_conditional_save_whose_answer_was_lost_is_no_conflict(
    app: ServedApp, storage: StorageManager, ttl: float | None
) -> None:
    key = f"lost/{ttl}"
    lost = losing(app, "PUT")
    created = await storage.save(key, {"n": 1}, if_absent=True, ttl=ttl)
    assert (lost, created.created) == ([201], True)
    assert created.etag == (await storage.info(key)).etag
    lost = losing(app, "PUT")
    replaced = await storage.save(key, {"n": 2}, if_match=created.etag, ttl=ttl)
    assert (lost, replaced.created) == ([200], False)
    assert replaced.etag == (await storage.info(key)).etag
    assert await storage.load(key) == {"n": 2}
    assert dict((await storage.info(key)).metadata) == {}


async def test_a_conflict_with_another_is_one(app: ServedApp, storage: StorageManager) -> None:
    first = await storage.save("conflict/a", 1, if_absent=True)
    with pytest.raises(ObjectExistsError):
        await storage.save("conflict/a", 2, if_absent=True)
    await storage.save("conflict/a", 3)
    with pytest.raises(PreconditionFailedError):
        await storage.save("conflict/a", 4, if_match=first.etag)
    # Lost on its way there, and another was faster: nobody can say "conflict", and nobody says "saved".
    sent: list[Request] = []

    def before(request: Request) -> Answer | None:
        if request.method != "PUT" or sent:
            return None
        sent.append(request)
        return Answer(502)

    app.before = before
    with pytest.raises(TransientStorageError, match="not known whether"):
        await storage.save("conflict/a", 5, if_absent=True)
    assert await storage.load("conflict/a") == 3


async def test_a_delete_whose_answer_was_lost(app: ServedApp, storage: StorageManager) -> None:
    put = await storage.save("deleted", 1)
    losing(app, "DELETE")
    await storage.delete("deleted")
    put = await storage.save("deleted", 1)
    losing(app, "DELETE")
    with pytest.raises(TransientStorageError, match="not known whether"):
        await storage.delete("deleted", if_match=put.etag)


async def test_a_request_of_any_client_may_come_again(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    target, create = "/api/objects?key=again", {"Content-Type": "text/plain", "If-None-Match": "*"}
    first = await app("PUT", target, b"1", create | {"Idempotency-Key": '"call-1"'})
    again = await app("PUT", target, b"1", create | {"Idempotency-Key": "call-1"})
    other = await app("PUT", target, b"1", create | {"Idempotency-Key": "call-2"})
    without = await app("PUT", target, b"1", create)
    assert [each.status for each in (first, again, other, without)] == [201, 201, 412, 412]
    assert first.headers["etag"] == again.headers["etag"]
    replace = {"Content-Type": "text/plain", "If-Match": first.headers["etag"], "Idempotency-Key": "call-3"}
    assert [(await app("PUT", target, b"2", replace)).status for _ in range(2)] == [200, 200]
    await app("PUT", target, b"3", {"Content-Type": "text/plain"})
    assert (await app("PUT", target, b"2", replace)).status == 412
    wrong = await app("PUT", target, b"1", create | {"Idempotency-Key": ""})
    assert (wrong.status, wrong.problem["field"]) == (400, "Idempotency-Key")


async def test_a_change_by_any_client_may_come_again(platform_anywhere: PlatformApp) -> None:
    app, target, text = platform_anywhere, "/api/objects?key=changed", {"Content-Type": "text/plain"}
    put = await app("PUT", target, b"1", text | {"x-meta-m": "1"})
    change = {
        "Content-Type": "application/json",
        "If-Match": put.headers["etag"],
        "Idempotency-Key": "call-1",
    }
    body = b'{"metadata": {"m": "2"}, "ttl_seconds": 600}'
    first = await app("PATCH", target, body, change)
    again = await app("PATCH", target, body, change)
    other = await app("PATCH", target, b'{"metadata": {"m": "3"}}', change)
    assert [each.status for each in (first, again, other)] == [200, 200, 412]
    assert first.headers["etag"] == again.headers["etag"]
    assert (await app("HEAD", target)).headers["x-meta-m"] == "2"


async def test_a_key_that_is_used_for_something_else_hides_no_conflict(app: ServedApp) -> None:
    send, text = app.app, {"Content-Type": "text/plain", "If-None-Match": "*", "Idempotency-Key": "k"}
    assert (await send("PUT", "/api/objects?key=reused", b"1", text)).status == 201
    for body, headers in (
        (b"2", {}),
        (b"1", {"Content-Type": "text/csv"}),
        (b"1", {"x-meta-m": "1"}),
        (b"1", {"x-ttl-seconds": "60"}),
        (b"1", {"x-expires-at": "2030-01-01T00:00:00Z"}),
    ):
        assert (await send("PUT", "/api/objects?key=reused", body, text | headers)).status == 412, headers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBSITE_AUTH_ENABLED", "true")
        caller = text | {"X-MS-CLIENT-PRINCIPAL-ID": "another"}
        assert (await send("PUT", "/api/objects?key=reused", b"1", caller)).status == 412
    await app.app.storage.copy("reused", "reused-copy")
    assert (await send("PUT", "/api/objects?key=reused-copy", b"1", text)).status == 412
    change = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    assert (await send("PATCH", "/api/objects?key=reused", b'{"metadata": {"m": "2"}}', change)).status == 200
    assert dict((await app.app.storage.info("reused")).metadata) == {"m": "2"}
    # Another has changed it since: who saved it has to learn that.
    assert (await send("PUT", "/api/objects?key=reused", b"1", text)).status == 412


async def test_a_save_over_what_has_expired_since_may_come_again(
    app: ServedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, text, objects = app.app, {"Content-Type": "text/plain"}, app.app.storage.backend.objects
    put = await send("PUT", "/api/objects?key=ended", b"1", text | {"x-ttl-seconds": "60"})
    change = text | {"If-Match": put.headers["etag"], "Idempotency-Key": "k"}
    assert (await send("PUT", "/api/objects?key=ended", b"2", change)).status == 200
    now = objects.clock()
    monkeypatch.setattr(objects, "clock", lambda: now + 61)
    assert (await send("PUT", "/api/objects?key=ended", b"2", change)).status == 200
    other = await send("PUT", "/api/objects?key=ended", b"3", change | {"Idempotency-Key": "another"})
    assert other.status == 412


async def test_names_that_no_caller_may_give_are_kept_by_a_touch(
    app: ServedApp, storage: StorageManager
) -> None:
    await storage.write("foreign", b"x")
    stored: dict[str, StoredObject] = app.app.storage.backend.objects.driver.core._objects  # type: ignore[attr-defined]
    found = stored["foreign"]
    info = replace(found.info, metadata={**found.info.metadata, "hdi_isfolder": "true"})
    stored["foreign"] = replace(found, info=info)
    await storage.touch("foreign", ttl=600)
    info = await storage.info("foreign")
    assert (dict(info.metadata), info.expires_at is not None) == ({"hdi_isfolder": "true"}, True)


async def test_bytes_that_change_on_their_way_are_not_stored(app: ServedApp, storage: StorageManager) -> None:
    headers = {"Content-Type": "text/plain", "Repr-Digest": f"sha-256=:{'A' * 43}=:"}
    refused = await app.app("PUT", "/api/objects?key=digest", b"1", headers)
    assert (refused.status, refused.problem["code"]) == (400, "digest-mismatch")
    await storage.write("digest", b"12", content_type="text/plain")
    app.after = lambda request, answer: Answer(answer.status, b"13", answer.headers)
    with pytest.raises(IntegrityError):
        await storage.read("digest")


async def test_a_large_object_is_read_in_parts_of_one_version(
    app: ServedApp, storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_objects, "PART_BYTES", 1000)
    data = bytes(range(256)) * 20
    await storage.write("large", data, content_type="application/octet-stream")
    seen = len(app.seen)
    async with storage.open_reader("large") as reader:
        assert b"".join([chunk async for chunk in reader]) == data
    assert len(app.seen) - seen == 6
    for part in (ByteRange(10, 4000), ByteRange(-3000), ByteRange(2000)):
        async with storage.open_reader("large", byte_range=part) as reader:
            start, end = part.resolve(len(data))
            assert (reader.start, await reader.read()) == (start, data[start:end])
    async with storage.open_reader("large") as reader:
        chunks = aiter(reader)
        await anext(chunks)
        await storage.write("large", data, content_type="application/octet-stream")
        with pytest.raises(TransientStorageError, match="replaced or deleted"):
            async for _ in chunks:
                pass


async def test_a_listing_goes_on_behind_its_pages(
    app: ServedApp, storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_objects, "MAX_PAGE", 3)
    keys = [f"pages/{n}" for n in range(8)] + ["pages/a/b", "pages/a/c", "pages/b"]
    for key in keys:
        await storage.save(key, 1)
    losing(app, "GET")
    found = [entry.key async for entry in storage.backend.objects.iterate("pages/")]
    assert found == sorted(keys)
    page = await storage.list_page("pages/", delimiter="/", limit=9)
    assert (len(page.entries), page.prefixes) == (8, ["pages/a/"])
    page = await storage.list_page("pages/", delimiter="/", limit=9, cursor=page.cursor)
    assert [entry.key for entry in page.entries] == ["pages/b"]


PROBLEM = {"Content-Type": "application/problem+json"}


def a_problem(code: str, **members: str) -> bytes:
    return json.dumps({"type": f"urn:agent-storage:problem:{code}", "detail": "why", **members}).encode()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (Answer(404, a_problem("key-not-found"), PROBLEM), KeyNotFoundError, {}),
        (Answer(404), ConfigurationError, {"field": "http_url"}),
        (Answer(404, b"<h1>nginx</h1>", {"Content-Type": "text/html"}), ConfigurationError, {}),
        (Answer(405), ConfigurationError, {}),
        (Answer(302, headers={"Location": "https://login.example"}), ConfigurationError, {}),
        (Answer(401), AccessDeniedError, {"remedy": "AGENT_STORAGE_HTTP_KEY"}),
        (Answer(403), AccessDeniedError, {"remedy": "AGENT_STORAGE_HTTP_KEY"}),
        (Answer(413), ObjectTooLargeError, {}),
        (
            Answer(413, a_problem("object-too-large", field="body", limit="9 bytes"), PROBLEM),
            ObjectTooLargeError,
            {"field": "data", "limit": "9 bytes"},
        ),
        (Answer(400, a_problem("invalid-key", field="key"), PROBLEM), InvalidKeyError, {"field": "key"}),
        (Answer(400, a_problem("serialization-error"), PROBLEM), SerializationError, {}),
        (Answer(400, a_problem("digest-mismatch"), PROBLEM), TransientStorageError, {"refused": True}),
        (Answer(422, a_problem("rule-violation", rule="r"), PROBLEM), RuleViolationError, {"rule": "r"}),
        (Answer(507, a_problem("quota-exceeded", rule="r"), PROBLEM), QuotaExceededError, {"rule": "r"}),
        (Answer(500, a_problem("integrity-error"), PROBLEM), IntegrityError, {}),
        (Answer(500, a_problem("encryption-error"), PROBLEM), EncryptionError, {}),
        (Answer(500, a_problem("internal-error"), PROBLEM), StorageError, {}),
        (Answer(500), StorageUnavailableError, {"refused": False}),
        (
            Answer(429, headers={"Retry-After": "7"}),
            StorageUnavailableError,
            {"retry_after": 7, "refused": True},
        ),
        (
            Answer(503, a_problem("storage-unavailable"), PROBLEM | {"Retry-After": "3"}),
            StorageUnavailableError,
            {"retry_after": 3, "refused": False},
        ),
        (Answer(503, a_problem("transient-storage-error"), PROBLEM), TransientStorageError, {}),
        (Answer(503, a_problem("backend-closed"), PROBLEM), StorageUnavailableError, {}),
        (Answer(503, a_problem("a-newer-code"), PROBLEM), StorageUnavailableError, {}),
        (Answer(501, a_problem("unsupported-operation"), PROBLEM), UnsupportedOperationError, {}),
        (Answer(200, b"hello"), StorageUnavailableError, {"remedy": "proxy"}),
        (Answer(503, b"[]", PROBLEM), StorageUnavailableError, {}),
        (Answer(503, b"\xff", PROBLEM), StorageUnavailableError, {}),
    ],
    ids=lambda value: (
        "" if isinstance(value, dict) else getattr(value, "__name__", None) or str(value.status)
    ),
)
async def test_answers_become_errors(answer: Answer, error: type[StorageError], says: dict[str, Any]) -> None:
    async with StubService(lambda request: answer) as service:
        backend = HttpStorageBackend(f"{service.endpoint}/api", key="secret-key")
        for call in (backend.objects.get("a b"), backend.objects.put("a b", b"x")):
            with pytest.raises(error) as raised:
                await call
            assert type(raised.value) is error
            assert "secret-key" not in raised.value.explained()
            for name, value in says.items():
                found = getattr(raised.value, name)
                assert value in found if isinstance(value, str) else value == found
        await backend.close()
        assert {request.headers["x-functions-key"] for request in service.seen} == {"secret-key"}


A_PART = {"ETag": '"e"', "Last-Modified": "Mon, 30 Nov 2026 08:00:00 GMT", "Content-Type": "text/plain"}


@pytest.mark.parametrize(
    ("status", "body", "content_range"),
    [
        (206, b"ab", "bytes 0-1/9"),
        (206, b"c", "bytes 2-2/9"),
        (206, b"cdef", "bytes 2-5/9"),
        (206, b"cd", ""),
        (206, b"cd", "bytes 2-3/*"),
        (304, b"", ""),
        (416, b"", "bytes */9"),
    ],
)
async def test_a_part_that_was_not_asked_for_is_no_answer(
    status: int, body: bytes, content_range: str
) -> None:
    answer = Answer(status, body, A_PART | {"Content-Range": content_range})
    async with StubService(lambda request: answer) as service:
        backend = HttpStorageBackend(f"{service.endpoint}/api")
        with pytest.raises(StorageUnavailableError, match="not one of this app's API"):
            await backend.objects.get("k", byte_range=ByteRange(2, 4))
        await backend.close()


async def test_a_listing_that_never_ends_is_no_answer() -> None:
    answer = Answer(200, b'{"objects": [{"key": "a"}], "prefixes": [], "cursor": "same"}')
    async with StubService(lambda request: answer) as service:
        backend = HttpStorageBackend(f"{service.endpoint}/api")
        with pytest.raises(StorageUnavailableError, match="not one of this app's API"):
            await backend.objects.iterate()
        assert len(service.seen) == 2
        await backend.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/api", "http://nowhere.invalid/api"])
async def test_who_does_not_answer_is_unavailable(url: str) -> None:
    backend = HttpStorageBackend(url)
    with pytest.raises(StorageUnavailableError, match="does not answer"):
        await backend.open()
    with pytest.raises(StorageUnavailableError):
        await backend.objects.get("a")
    await backend.close()


async def test_it_is_chosen_by_the_configuration(app: ServedApp) -> None:
    environ = {
        "AGENT_STORAGE_TYPE": "http",
        "AGENT_STORAGE_HTTP_URL": app.url,
        "AGENT_STORAGE_HTTP_KEY": "hush",
    }
    config = StorageConfig.from_env(environ)
    assert "hush" not in repr(config)
    async with StorageManager(config) as storage:
        assert "hush" not in repr(storage)
        await storage.save("configured", {"weights": b"\x00\xff"})
        assert await storage.load("configured") == {"weights": b"\x00\xff"}
        assert await pickle.loads(pickle.dumps(storage)).load("configured") == {"weights": b"\x00\xff"}  # noqa: S301
        with pytest.raises(UnsupportedOperationError, match="no tables"):
            await storage.backend.tables.get("t", "p", "r")
        with pytest.raises(InvalidKeyError, match="reserved"):
            await storage.backend.objects.put(".system/x", b"")
    async with open_store(app.url, environ) as storage:
        assert await storage.exists("configured")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "http_url"),
        ({"http_url": "app.example/api"}, "http_url"),
        ({"http_url": "ftp://app.example/api"}, "http_url"),
        ({"http_url": "https://[::1/api"}, "http_url"),
        ({"http_url": "https://app.example:99999/api"}, "http_url"),
        ({"http_url": "https://app.example/a pi"}, "http_url"),
        ({"http_url": "https://app.example/api?code=hush"}, "http_url"),
        ({"http_url": "https://user:hush@app.example/api"}, "http_url"),
        ({"http_url": "https://app.example/api", "http_key": "hush\n"}, "http_key"),
        ({"http_url": "https://app.example/api", "http_key": ""}, "http_key"),
        ({"http_url": "https://app.example/api", "compression": CompressionOptions()}, "compression"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        StorageConfig(storage_type="http", **options)
    assert refused.value.field == field
    assert "hush" not in refused.value.explained()


def test_an_app_is_no_second_store() -> None:
    app = StorageConfig(storage_type="http", http_url="https://app.example/api")
    with pytest.raises(ConfigurationError, match="second store"):
        FallbackOptions(secondary=app)


async def test_a_touch_whose_answer_was_lost_is_no_conflict(app: ServedApp, storage: StorageManager) -> None:
    await storage.write("touched", b"x" * 5_000_000, content_type="application/octet-stream", ttl=60)
    lost, seen = losing(app, "PATCH"), len(app.seen)
    touched = await storage.touch("touched", metadata={"m": "ü"}, ttl=600)
    info = await storage.info("touched")
    assert (lost, touched.etag, touched.size) == ([200], info.etag, 5_000_000)
    assert dict(info.metadata) == {"m": "ü"}
    assert sum(len(request.body) for request in app.seen[seen:]) < 1000  # The bytes stay where they are.
    with pytest.raises(PreconditionFailedError):
        await storage.touch("touched", ttl=None, if_match="other")
    lost = losing(app, "PATCH")
    again = await storage.touch("touched", ttl=900, if_match=touched.etag)
    assert (lost, again.etag) == ([200], (await storage.info("touched")).etag)


async def test_the_end_of_a_life_is_a_moment(app: ServedApp, storage: StorageManager) -> None:
    end = datetime.now(UTC).replace(microsecond=123_000) + timedelta(days=3)
    await storage.write("moment", b"x", ttl=end)
    assert (await storage.info("moment")).expires_at == end
    assert (await app.app.storage.info("moment")).expires_at == end
    target = "/api/objects/moment"
    for method, headers, body, field in (
        ("PUT", {"x-expires-at": "2030-01-01T00:00:00Z", "x-ttl-seconds": "1"}, b"x", "x-expires-at"),
        ("PUT", {"x-expires-at": "2030-01-01T00:00:00"}, b"x", "x-expires-at"),
        ("PUT", {"x-expires-at": "soon"}, b"x", "x-expires-at"),
        ("PUT", {"x-expires-at": "2999-01-01T00:00:00Z"}, b"x", "x-expires-at"),
        ("PATCH", {}, b'{"expires_at": "2999-01-01T00:00:00Z"}', "expires_at"),
        ("PATCH", {}, b'{"expires_at": 5}', "expires_at"),
        ("PATCH", {}, b'{"expires_at": null, "ttl_seconds": 5}', "expires_at"),
        ("PATCH", {}, b'{"ttl_seconds": -1}', "ttl_seconds"),
        ("PATCH", {}, b'{"metadata": 5}', "body.metadata"),
        ("PATCH", {}, b'{"metadata": {"aos-call": "x"}}', "body.metadata"),
        *(
            ("PATCH", {}, b'{"metadata": %s}' % wrong, "body.metadata")
            for wrong in (b"[]", b'""', b"0", b"false")
        ),
        ("PATCH", {}, b'{"ttl": 5}', "ttl"),
    ):
        kind = "application/json" if method == "PATCH" else "text/plain"
        refused = await app.app(method, target, body, {"Content-Type": kind, **headers})
        assert (refused.status, refused.problem["field"]) == (400, field), (headers, body)
        assert field == "x-ttl-seconds" or "x-ttl-seconds is" not in refused.problem["detail"]
    assert (await storage.info("moment")).expires_at == end
    kept = await app.app("PATCH", target, b'{"expires_at": null}', {"Content-Type": "application/json"})
    assert (kept.status, (await storage.info("moment")).expires_at) == (200, None)
    other = await app.app("PATCH", target, b"{}", {"Content-Type": "application/json", "If-Match": '"x"'})
    assert other.status == 412
    for kind in ("text/plain", "application/merge-patch+json"):  # That would keep what it does not name.
        assert (await app.app("PATCH", target, b"{}", {"Content-Type": kind})).status == 415
    missing = await app.app("PATCH", "/api/objects/no", b"{}", {"Content-Type": "application/json"})
    assert missing.status == 404


async def test_through_an_app_with_layers_of_its_own(tmp_path: Path) -> None:
    config = StorageConfig(
        base_path=tmp_path / "data",
        caching=CachingOptions(),
        compression=CompressionOptions(min_bytes=1),
        encryption=EncryptionOptions(keys=f"k:{base64.b64encode(bytes(32)).decode()}"),
    )
    async with served(config) as app:
        storage = retrying(app.url)
        text = "as often as it takes " * 1000
        losing(app, "PUT")
        put = await storage.save("a", text, if_absent=True, metadata={"m": "1"}, ttl=60)
        assert await storage.load("a") == text
        info = await storage.info("a")
        assert (info.size, info.etag, dict(info.metadata)) == (len(text), put.etag, {"m": "1"})
        assert info.sha256 == hashlib.sha256(text.encode()).hexdigest()
        async with storage.open_reader("a", byte_range=ByteRange(3, 9)) as reader:
            assert await reader.read() == b"often "
        losing(app, "PATCH")
        await storage.touch("a", metadata={"m": "2"})
        (entry,) = await storage.list_objects()
        assert entry.info is not None
        assert (entry.size, dict(entry.info.metadata), entry.info.expires_at) == (
            len(text),
            {"m": "2"},
            info.expires_at,
        )
        await storage.backend.close()


async def test_objects_of_any_store_are_migrated_to_an_app_and_back(tmp_path: Path) -> None:
    async with (
        served(StorageConfig(storage_type="memory")) as app,
        StorageManager(StorageConfig(base_path=tmp_path / "from")) as source,
        StorageManager(StorageConfig(storage_type="http", http_url=app.url)) as through,
        StorageManager(StorageConfig(base_path=tmp_path / "back")) as back,
    ):
        await source.save("a/ü", {"n": 1}, metadata={"m": "ü"}, ttl=600)
        await source.write("a/empty", b"", content_type="text/x-a")
        await source.write("large", b"x" * 9_000_000)
        await source.save_versioned("v", 1)
        for ours, theirs in ((source, through), (through, back)):
            done = await Migration(ours, theirs).run()
            assert (done.copied, done.failures) == (5, 0), done
            again = await Migration(ours, theirs, MigrationOptions(update=True)).run()
            assert (again.copied, again.failures) == (0, 0), again
            report = await check(ours, theirs, content=True)
            assert (report.same, report.differences) == (5, [])
        assert dict((await app.app.storage.info("a/ü")).metadata) == {"m": "ü"}


async def test_the_doctor_examines_it(app: ServedApp) -> None:
    config = StorageConfig(storage_type="http", http_url=app.url)
    before = await app.app.storage.list_keys()
    checks = [check async for check in diagnose(lambda: config)]
    assert {check.verdict for check in checks} == {"ok"}, checks
    assert "permissions" in [check.name for check in checks]
    assert await app.app.storage.list_keys() == before


async def test_versions_and_prefixes_are_those_of_any_store(app: ServedApp, storage: StorageManager) -> None:
    given = await asyncio.gather(*(storage.save_versioned("versioned/a", n) for n in range(10)))
    assert sorted(given) == list(range(1, 11))
    assert await app.app.storage.load_version("versioned/a", 10) == await storage.load_version(
        "versioned/a", 10
    )
    copied = await storage.copy_prefix("versioned/", "copied/")
    assert (copied.done, copied.failures) == (11, 0)
    assert len(await app.app.storage.list_keys("copied/")) == 11
