"""Links: URLs by which somebody without credentials loads or saves one object for a while."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from msgspec.structs import replace as with_options

from functions import access
from storage_lib.config import StorageConfig
from storage_lib.config.audit import AuditOptions
from storage_lib.config.compression import CompressionOptions
from storage_lib.config.encryption import EncryptionOptions
from storage_lib.config.fallback import FallbackOptions
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.errors import (
    ConfigurationError,
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
    StorageError,
    UnsupportedOperationError,
)
from storage_lib.links import KNOWN_SECONDS, SECRETS, InvalidLinkError, Link, Signer, options_of
from storage_lib.manager import StorageManager
from storage_lib.ports.drivers import PLAIN_GET
from storage_lib.ports.link_model import MAX_LINK_SECONDS, NoStoreLink, StoreLink, ip_range
from tests.http_app import AppAnswer, PlatformApp, config_of, serve
from tests.plain_http import Plain, fetch

JSON = {"Content-Type": "application/json"}
KEY = "models/a b/ü+%25.txt"
APP = "https://app.example/api"


def target(url: str) -> str:
    """What a request for a URL of the app asks for."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def changed(url: str, name: str, value: str | None) -> str:
    """The URL with another value of a parameter, or without it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query.pop(name, None)
    if value is not None:
        query[name] = value
    return parts._replace(query=urlencode(query, quote_via=quote)).geturl()


async def use(link: Link, body: bytes | None = None, method: str | None = None) -> Plain:
    return await fetch(method or link.method, link.url, body, link.headers)


# -- of the stores themselves


type Kind = tuple[str, object]


def each_of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", names, indirect=True)


@pytest.fixture
async def direct(kind: Kind, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*kind, tmp_path)) as storage:
        yield storage


each_cloud = each_of("azurite", "moto", "seaweedfs")


@each_cloud
async def test_a_link_of_the_store_saves_and_loads(direct: StorageManager) -> None:
    to_save = await direct.link(KEY, method="PUT", content_type="text/plain; charset=utf-8")
    assert to_save.through == "store"
    assert to_save.headers["Content-Type"] == "text/plain; charset=utf-8"
    sent = await use(to_save, "grüße".encode())
    assert sent.status in (200, 201), sent.body
    # As by a save: with its type, listed, and readable.
    assert await direct.load(KEY) == "grüße"
    assert await direct.list_keys() == [KEY]
    info = await direct.info(KEY)
    assert (info.size, info.content_type) == (7, "text/plain; charset=utf-8")
    (entry,) = await direct.list_objects()
    assert entry.info is not None
    assert entry.info.content_type == info.content_type
    assert await direct.update(KEY, lambda text: text + "!") == "grüße!"

    to_load = await direct.link(KEY)
    got = await use(to_load)
    assert (got.status, got.body) == (200, "grüße!".encode())
    part = await fetch("GET", to_load.url, headers={"Range": "bytes=0-1"})
    assert (part.status, part.body) == (206, b"gr")


@each_cloud
async def test_a_link_to_load_shows_what_was_saved(direct: StorageManager) -> None:
    await direct.save("a.json", {"n": 1})
    await direct.write_stream("large", [b"x" * 9_000_000], content_type="image/png", metadata={"m": "1"})
    assert json.loads((await use(await direct.link("a.json"))).body) == {"n": 1}
    got = await use(await direct.link("large"))
    assert (got.status, len(got.body)) == (200, 9_000_000)
    assert got.headers.get("Content-Type", got.headers.get("content-type")) == "image/png"
    with pytest.raises(KeyNotFoundError):
        await direct.link("none")


@each_cloud
async def test_a_link_ends_with_the_life_of_the_object(direct: StorageManager) -> None:
    await direct.save("short", 1, ttl=60)
    link = await direct.link("short", expires_in=3600)
    until = (await direct.info("short")).expires_at
    assert until is not None
    assert link.expires_at <= until
    direct.backend.objects.clock = lambda: until.timestamp() + 1
    with pytest.raises(KeyNotFoundError):
        await direct.link("short")


@each_of("azurite", "seaweedfs")
async def test_a_link_of_the_store_does_nothing_else(direct: StorageManager) -> None:
    await direct.save("mine", 1)
    await direct.save("other", 2)
    to_load, to_save = await direct.link("mine"), await direct.link("mine", method="PUT")
    assert (await fetch("PUT", to_load.url, b"x", to_save.headers)).status == 403
    assert (await use(to_save, None, "GET")).status == 403
    assert (await use(to_load, None, "DELETE")).status == 403
    for link in (to_load, to_save):
        body = None if link.method == "GET" else b"x"
        elsewhere = link.url.replace("/mine", "/other")
        assert (await fetch(link.method, elsewhere, body, link.headers)).status == 403
        for name, value in parse_qsl(urlsplit(link.url).query):
            wrong = changed(link.url, name, f"{'2' if value[0] != '2' else '3'}{value[1:]}")
            assert (await fetch(link.method, wrong, body, link.headers)).status in (400, 403), name
    assert await direct.load_many(["mine", "other"]) == {"mine": 1, "other": 2}


@each_of("moto", "seaweedfs")
async def test_what_is_saved_by_a_link_has_nothing_of_what_was_there(direct: StorageManager) -> None:
    async def long() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(1024 * 1024)

    # A stream has its checksum beside it.
    was = await direct.write_stream("k", long(), metadata={"a": "b"}, ttl=600)
    link = await direct.link("k", method="PUT")
    assert (await use(link, b"other bytes")).status == 200
    info = await direct.info("k")
    assert (info.size, info.sha256, info.metadata, info.expires_at) == (11, None, {}, None)
    assert await direct.load("k") == b"other bytes"
    (entry,) = await direct.list_objects()
    assert (entry.size, entry.etag) == (11, info.etag)
    with pytest.raises(PreconditionFailedError):
        await direct.save("k", 1, if_match=was.etag)
    await direct.copy("k", "copy")
    assert await direct.load("copy") == b"other bytes"
    await direct.save("k", "a text", if_match=info.etag)
    assert await direct.load("k") == "a text"
    await direct.delete("k")
    assert await direct.list_keys() == ["copy"]


@each_of("moto")  # Others refuse headers that were not signed.
@pytest.mark.parametrize("mark", ["../../k", "links/secrets.json", "0" * 15, "A" * 16, "0" * 17])
async def test_metadata_of_an_upload_name_no_other_object(direct: StorageManager, mark: str) -> None:
    link = await direct.link("mine", method="PUT")
    forged = {"x-amz-meta-aos-write": mark, "x-amz-meta-aos-streamed": "2"}
    assert (await fetch("PUT", link.url, b"mine", link.headers | forged)).status == 200
    assert await direct.load("mine") == b"mine"
    info = await direct.info("mine")
    await direct.save("mine", b"other", if_match=info.etag)
    assert await direct.load("mine") == b"other"


async def test_s3_takes_only_the_content_type_that_was_signed(seaweedfs: Any, tmp_path: Path) -> None:
    async with StorageManager(await config_of("seaweedfs", seaweedfs, tmp_path)) as storage:
        link = await storage.link("k", method="PUT", content_type="image/png")
        assert link.unenforced == ()
        refused = await fetch("PUT", link.url, b"<script>", {"Content-Type": "text/html"})
        assert refused.status == 403
        assert not await storage.exists("k")


async def test_azure_says_that_it_does_not_check_the_content_type(azurite: Any, tmp_path: Path) -> None:
    async with StorageManager(await config_of("azurite", azurite, tmp_path)) as storage:
        link = await storage.link("k", method="PUT", content_type="image/png")
        assert link.unenforced == ("content_type",)
        assert (await storage.link("k", method="PUT")).unenforced == ()


async def test_azure_refuses_a_link_after_its_end_and_from_elsewhere(azurite: Any, tmp_path: Path) -> None:
    async with StorageManager(await config_of("azurite", azurite, tmp_path)) as storage:
        await storage.save("k", 1)
        objects = storage.backend.objects
        now = datetime.now(UTC).timestamp()
        past = with_options(options_of(now), expires_at=datetime.now(UTC) - timedelta(minutes=1))
        ended = await objects.link("k", past)
        assert isinstance(ended, StoreLink)
        assert (await fetch("GET", ended.url)).status == 403
        here = await storage.link("k", ip="127.0.0.0/8")
        assert "sip=127.0.0.0-127.255.255.255" in here.url
        assert isinstance(await objects.link("k", options_of(now, ip="2001:db8::1")), NoStoreLink)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("azurite", {"method": "PUT", "max_bytes": 10}),
        ("moto", {"method": "PUT", "max_bytes": 10}),
        ("moto", {"ip": "127.0.0.1"}),
        ("moto", {"ip": "127.0.0.1", "method": "PUT"}),
    ],
    indirect=["kind"],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
async def test_what_a_store_cannot_enforce_is_left_to_the_app(
    direct: StorageManager, options: dict[str, Any]
) -> None:
    await direct.save("k", 1)
    with pytest.raises(UnsupportedOperationError, match=r"does not bound|does not bind") as refused:
        await direct.link("k", **options)
    assert "app_url" in (refused.value.remedy or "")
    link = await direct.link("k", **options, app_url=APP)
    assert (link.through, link.unenforced) == ("app", ())
    assert link.url.startswith(f"{APP}/signed/k?")


# -- of the app


@pytest.fixture(params=["file", "memory"])
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as found:
        yield found


async def made(app: PlatformApp, key: str = "k", **wanted: Any) -> dict[str, Any]:
    answer = await app("POST", f"/api/links?key={quote(key)}", json.dumps(wanted).encode(), JSON)
    assert answer.status == 201, answer.body
    return answer.json


@pytest.mark.parametrize("key", ["k", KEY, "a/%FF/b", "x%41", "ü/ö", "!'()*;:@&=$,", "a?b#c"])
async def test_a_link_of_the_app_saves_and_loads(app: PlatformApp, key: str) -> None:
    found = await made(app, key, method="PUT", content_type="text/plain")
    assert found["through"] == "app"
    assert found["max_bytes"] == app.state.max_body_bytes
    sent = await app("PUT", target(found["url"]), b"hello", found["headers"] | {"x-meta-m": "1"})
    assert sent.status == 201, sent.body
    assert (await app("GET", sent.headers["location"])).body == b"hello"
    assert await app.storage.load(key) == "hello"
    assert (await app.storage.info(key)).metadata == {"m": "1"}
    loads = target((await made(app, key))["url"])
    got = await app("GET", loads)
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"hello", "text/plain")
    assert (await app("GET", loads, headers={"Range": "bytes=1-2"})).body == b"el"
    head = await app("HEAD", loads)
    assert (head.status, head.headers["content-length"]) == (200, "5")
    assert (await app("GET", loads, headers={"If-None-Match": got.headers["etag"]})).status == 304


async def test_a_link_is_used_as_often_as_it_takes(app: PlatformApp) -> None:
    found = target((await made(app, method="PUT"))["url"])
    assert [(await app("PUT", found, b"%d" % n)).status for n in range(3)] == [201, 200, 200]
    # Conditions hold for it as for any save.
    assert (await app("PUT", found, b"3", {"If-None-Match": "*"})).status == 412
    assert await app.storage.read("k")


LIMITED = {"method": "PUT", "content_type": "text/plain", "max_bytes": 5, "ip": "10.0.0.0/8"}
INSIDE = {"Content-Type": "text/plain", "X-Forwarded-For": "10.1.2.3:4711"}


@pytest.fixture
def one_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_STORAGE_PROXIES", "1")


def refused(answer: AppAnswer, status: int = 403, code: str = "invalid-link") -> None:
    assert (answer.status, answer.problem["code"]) == (status, code), answer.body


@pytest.mark.usefixtures("one_proxy")
async def test_each_part_of_a_link_is_signed(app: PlatformApp) -> None:
    url = (await made(app, **LIMITED))["url"]
    assert (await app("PUT", target(url), b"hello", INSIDE)).status == 201
    names = [name for name, _ in parse_qsl(urlsplit(url).query)]
    assert names == ["expires", "ip", "type", "max", "kid", "sig"]
    for name, value in parse_qsl(urlsplit(url).query):
        others = [None, "1", value[:-1] + ("A" if value[-1] != "A" else "B"), value + "0", value.swapcase()]
        for other in others:
            if other != value:
                refused(await app("PUT", target(changed(url, name, other)), b"hello", INSIDE))
    refused(await app("PUT", target(changed(url, "maker", "key:ceo")), b"hello", INSIDE))
    for other_key in ("k2", "K", "k/l", "l"):
        refused(await app("PUT", target(url).replace("/k?", f"/{other_key}?"), b"hello", INSIDE))
    assert (await app("PUT", target(changed(url, "more", "1")), b"hello", INSIDE)).status == 400
    assert await app.storage.list_keys() == ["k"]


@pytest.mark.usefixtures("one_proxy")
async def test_a_link_allows_what_it_says_and_no_more(app: PlatformApp) -> None:
    to_save = target((await made(app, **LIMITED))["url"])
    for method in ("GET", "HEAD"):
        assert (await app(method, to_save, headers=INSIDE)).status == 403
    assert (await app("PUT", to_save, b"hello!", INSIDE)).problem["limit"] == "5 bytes"
    refused(await app("PUT", to_save, b"hello!", INSIDE), 413, "object-too-large")
    refused(
        await app("PUT", to_save, b"x", INSIDE | {"Content-Type": "text/html"}), 415, "unsupported-media-type"
    )
    refused(await app("PUT", to_save, b"x", {"X-Forwarded-For": "10.1.2.3"}), 415, "unsupported-media-type")
    for told in ("11.0.0.1", "", "10.1.2.3, 11.0.0.1", "::1", "nowhere"):
        refused(await app("PUT", to_save, b"x", INSIDE | {"X-Forwarded-For": told}))
    # What the sender claims stands before what the proxy adds.
    allowed = await app("PUT", to_save, b"x", INSIDE | {"X-Forwarded-For": "1.1.1.1,10.0.0.0"})
    assert allowed.status == 201
    to_load = target((await made(app))["url"])
    refused(await app("PUT", to_load, b"x"))
    assert (await app.storage.read("k")).data == b"x"


async def test_a_refused_body_is_not_looked_at(app: PlatformApp) -> None:
    """The signature comes before the size, the type and the content of a body."""
    url = target((await made(app, method="PUT"))["url"])
    body = b"{" + b" " * (app.state.max_json_bytes + 1)
    refused(await app("PUT", url.replace("sig=", "sig=A"), body, {"Content-Type": "application/json"}))


async def test_a_link_has_an_end(app: PlatformApp) -> None:
    objects = app.storage.backend.objects
    await app.storage.save("k", 1)
    begun = datetime.now(UTC).timestamp()
    objects.clock = lambda: begun
    urls = [target((await made(app, method=method, expires_in=10))["url"]) for method in ("GET", "PUT")]
    objects.clock = lambda: begun + 8
    assert (await app("GET", urls[0])).status == 200
    objects.clock = lambda: begun + 10
    refused(await app("GET", urls[0]))
    refused(await app("PUT", urls[1], b"x"))
    assert (await app("GET", urls[0])).problem["field"] == "expires"


async def test_a_link_of_the_app_ends_with_the_life_of_the_object(app: PlatformApp) -> None:
    await app.storage.save("k", 1, ttl=60)
    found = await made(app, expires_in=3600)
    until = (await app.storage.info("k")).expires_at
    assert until is not None
    assert datetime.fromisoformat(found["expires_at"]) <= until
    await app.storage.save("k", 1, ttl=5)
    objects = app.storage.backend.objects
    objects.clock = lambda: until.timestamp() - 30
    assert (await app("GET", target(found["url"]))).status == 404


async def test_what_makes_no_link(app: PlatformApp) -> None:
    await app.storage.save("k", 1)
    for wanted, field in (
        ({"method": "DELETE"}, "method"),
        ({"method": "get"}, "method"),
        ({"method": ["GET"]}, "method"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": MAX_LINK_SECONDS + 1}, "expires_in"),
        ({"expires_in": "60"}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"ip": "10.0.0"}, "ip"),
        ({"ip": "10.0.0.2-10.0.0.1"}, "ip"),
        ({"ip": "10.0.0.1-::1"}, "ip"),
        ({"ip": 5}, "ip"),
        ({"content_type": "text/plain"}, "body.content_type"),
        ({"method": "PUT", "content_type": "text"}, "body.content_type"),
        ({"max_bytes": 1}, "max_bytes"),
        ({"method": "PUT", "max_bytes": 0}, "max_bytes"),
        ({"method": "PUT", "max_bytes": app.state.max_body_bytes + 1}, "max_bytes"),
        ({"methods": "PUT"}, "methods"),
    ):
        answer = await app("POST", "/api/links/k", json.dumps(wanted).encode(), JSON)
        assert answer.status == 400, wanted
        assert answer.problem["field"] == field, answer.body
    assert (await app("POST", "/api/links/none", b"{}", JSON)).status == 404
    assert (await app("POST", "/api/links/.system/x", b"{}", JSON)).status == 400
    assert (await app("POST", "/api/links/a..", b"{}", JSON)).status == 400
    too_large = await app("POST", "/api/links/k", b'{"method":"PUT","max_bytes":1000000000}', JSON)
    assert "/api/uploads" in too_large.problem["remedy"]


async def test_addresses_that_nobody_knows_make_no_link(app: PlatformApp) -> None:
    await app.storage.save("k", 1)
    answer = await app("POST", "/api/links/k", b'{"ip":"10.0.0.1"}', JSON)
    assert (answer.status, answer.problem["field"]) == (501, "ip")
    assert "AGENT_STORAGE_PROXIES" in answer.problem["remedy"]


async def test_the_secret_is_shared_and_replaced(app: PlatformApp) -> None:
    await app.storage.save("k", 1)
    url = target((await made(app, expires_in=MAX_LINK_SECONDS))["url"])
    other = Signer(app.storage)  # Of another host.
    begun = datetime.now(UTC).timestamp()
    objects = app.storage.backend.objects
    given = dict(parse_qsl(urlsplit(url).query))
    assert (await other.check("GET", "k", given)).key == "k"
    objects.clock = lambda: begun + 31 * 24 * 3600
    # Hosts that have looked just now do not know a new one: it signs a minute later.
    between = await other.url(APP, "k", options_of(objects.clock()))
    assert dict(parse_qsl(urlsplit(between).query))["kid"] == given["kid"]
    assert (await app("GET", target(between))).status == 200
    objects.clock = lambda: begun + 31 * 24 * 3600 + KNOWN_SECONDS
    later = await other.url(APP, "k", options_of(objects.clock()))
    new = dict(parse_qsl(urlsplit(later).query))
    assert new["kid"] != given["kid"]
    app.state.link_signer._looked -= KNOWN_SECONDS
    assert (await app("GET", target(later))).status == 200
    # What the old one signed is accepted until it has ended, and is then forgotten.
    kept = json.loads((await objects.get(SECRETS)).data)["secrets"]  # type: ignore[union-attr]
    assert [each["id"] for each in kept] == [new["kid"], given["kid"]]
    objects.clock = lambda: begun + 70 * 24 * 3600
    await other.url(APP, "k", options_of(objects.clock()))
    kept = json.loads((await objects.get(SECRETS)).data)["secrets"]  # type: ignore[union-attr]
    assert given["kid"] not in [each["id"] for each in kept]


async def test_no_shared_cache_keeps_what_a_link_shows(app: PlatformApp) -> None:
    for given, shown in (
        ("public, max-age=60, s-maxage=600, Proxy-Revalidate", "private, max-age=60"),
        ("max-age=60", "private, max-age=60"),
        ('PUBLIC, no-cache="a, b"', 'private, no-cache="a, b"'),
        ("private, no-store", "private, no-store"),
    ):
        await app("PUT", "/api/objects/k", b"x", {"Cache-Control": given})
        assert (await app("GET", "/api/objects/k")).headers["cache-control"] == given
        url = target((await made(app))["url"])
        for method in ("GET", "HEAD"):
            answer = await app(method, url)
            assert (answer.status, answer.headers["cache-control"]) == (200, shown)
    await app("PUT", "/api/objects/k", b"x")
    assert (await app("GET", url)).headers["cache-control"] == "private, no-cache"


async def test_hosts_that_begin_together_agree_on_a_secret(app: PlatformApp) -> None:
    import asyncio

    signers = [Signer(app.storage) for _ in range(8)]
    options = options_of(app.storage.backend.objects.clock())
    urls = await asyncio.gather(*(signer.url(APP, "k", options) for signer in signers))
    assert len({dict(parse_qsl(urlsplit(url).query))["kid"] for url in urls}) == 1


async def test_secrets_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "o" * 32, "n" * 40
    config = await config_of("file", None, tmp_path)
    monkeypatch.setenv("AGENT_STORAGE_LINK_SECRETS", old)
    async with serve(monkeypatch, config) as app:
        await app.storage.save("k", 1)
        url = target((await made(app))["url"])
        with pytest.raises(KeyNotFoundError):
            await app.storage.backend.objects.get(SECRETS)
    monkeypatch.setenv("AGENT_STORAGE_LINK_SECRETS", f"{new}, {old}")
    async with serve(monkeypatch, config) as app:
        assert (await app("GET", url)).status == 200
        later = (await made(app))["url"]
        assert parse_qsl(urlsplit(later).query)[-2] != parse_qsl(urlsplit(url).query)[-2]
    monkeypatch.setenv("AGENT_STORAGE_LINK_SECRETS", new)
    async with serve(monkeypatch, config) as app:
        refused(await app("GET", url))
        assert (await app("GET", target(later))).status == 200
    with pytest.raises(ConfigurationError, match="too short"):
        Signer(StorageManager(config), ["short"])


async def test_links_can_be_kept_to_the_app(
    moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_STORAGE_LINKS", "app")
    monkeypatch.setenv("AGENT_STORAGE_PUBLIC_URL", "https://proxy.example/some/prefix/api/")
    async with serve(monkeypatch, await config_of("moto", moto, tmp_path)) as app:
        found = await made(app, "a/b", method="PUT")
        assert found["through"] == "app"
        prefix = "https://proxy.example/some/prefix"
        assert found["url"].startswith(f"{prefix}/api/signed/a/b?")
        sent = await app("PUT", target(found["url"].removeprefix(prefix)), b"hello")
        assert (sent.status, sent.headers["location"]) == (201, "/api/objects/a/b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AGENT_STORAGE_LINKS", "both"),
        ("AGENT_STORAGE_PROXIES", "-1"),
        ("AGENT_STORAGE_PUBLIC_URL", "host/api"),
        ("AGENT_STORAGE_LINK_MAX_BYTES", "100000000"),  # Only the local host takes so much.
    ],
)
async def test_a_setting_that_makes_no_sense(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    async with serve(monkeypatch, await config_of("file", None, tmp_path)) as app:
        with pytest.raises(ConfigurationError) as refused:
            app.state.check_numbers()
        assert refused.value.field == name


# -- behind layers

LAYERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "encryption": lambda _: {"encryption": EncryptionOptions(keys={"1": b"k" * 32})},
    "compression": lambda _: {"compression": CompressionOptions()},
    "audit": lambda folder: {
        "audit": AuditOptions(sink="file", path=folder / "audit", heads=folder / "heads", operations="all")
    },
    "validation": lambda _: {
        "validation": ValidationOptions(rules=(Rule(prefix="", max_bytes=10_000, on_read=True),))
    },
    "fallback": lambda folder: {
        "fallback": FallbackOptions(
            secondary=StorageConfig(storage_type="file", base_path=folder / "second"), mode="mirror"
        )
    },
}


@pytest.mark.parametrize("layer", LAYERS)
async def test_no_link_goes_around_a_layer(
    layer: str, moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(await config_of("moto", moto, tmp_path), **LAYERS[layer](tmp_path))
    async with serve(monkeypatch, config) as app:
        found = await made(app, "a/k", method="PUT", content_type="text/plain")
        assert found["through"] == "app"
        text = b"hello " * 1000
        sent = await app("PUT", target(found["url"]), text, found["headers"])
        assert sent.status == 201, sent.body
        found = await made(app, "a/k")
        assert found["through"] == "app"
        got = await app("GET", target(found["url"]))
        assert (got.body, got.headers["content-type"]) == (text, "text/plain")
        if layer == "validation":
            to_save = await made(app, "a/k", method="PUT")
            refused(await app("PUT", target(to_save["url"]), b"x" * 10_001), 413, "rule-violation")
        if layer == "encryption":
            sealed = await app.storage.backend.inside()[""].objects.driver.get(SECRETS, PLAIN_GET)
            assert sealed is not None
            assert b'"secrets"' not in sealed.data
    with pytest.raises(UnsupportedOperationError, match=r"app_url|no link to the store"):
        async with StorageManager(config) as storage:
            await storage.link("a/k")


async def test_what_is_sealed_is_not_shown_once_the_layer_is_off(moto: Any, tmp_path: Path) -> None:
    config = await config_of("moto", moto, tmp_path)
    for layer in ("compression", "encryption"):
        async with StorageManager(replace(config, **LAYERS[layer](tmp_path))) as storage:
            await storage.write(layer, b"hello " * 10_000, content_type="text/plain")
    async with StorageManager(config) as storage:
        with pytest.raises(UnsupportedOperationError, match="compressed"):
            await storage.link("compression")
        with pytest.raises(StorageError, match="encrypted"):
            await storage.link("encryption")


async def test_a_link_is_audited_and_its_secrets_are_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    config = replace(await config_of("file", None, tmp_path), **LAYERS["audit"](tmp_path))
    async with serve(monkeypatch, config) as app:
        await app.storage.save("k", 1)
        loads = await made(app)
        url = target(loads["url"])
        assert (await app("GET", url)).status == 200
        refused(await app("PUT", url, b"x"))
        secret = json.loads((await app.storage.backend.objects.get(SECRETS)).data)  # type: ignore[union-attr]
        link = await app.storage.link("k", app_url=APP)
        assert dict(parse_qsl(urlsplit(link.url).query))["sig"] not in repr(link)
    files = [file for file in (tmp_path / "audit").glob("*") if file.is_file()]
    entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    seen = [
        (each["action"], each["resource"], each["outcome"], each["actor"])
        for each in entries
        if "action" in each
    ]
    assert ("objects.link", "objects/k", "success", "function-key") in seen
    assert ("objects.get", "objects/k", "success", "link") in seen
    assert ("access.link", "objects/k", "invalid-link", "link") in seen
    signature = dict(parse_qsl(urlsplit(url).query))["sig"]
    told = caplog.text + "".join(map(str, entries))
    assert signature not in told
    assert secret["secrets"][0]["secret"] not in told


# -- under a policy

POLICY = {
    "keys": {},
    "principals": {
        "aad:acme": {"root": "tenants/acme/", "may": {"load": [""], "save": ["in/"]}},
        "aad:ceo": {"may": {"load": ["agents/ceo"], "save": ["agents/ceo"]}},
    },
}


@pytest.fixture
async def governed(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(POLICY))
    monkeypatch.setenv(access.SETTING, str(policy))
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "true")
    async with serve(monkeypatch, await config_of(*kind, tmp_path)) as app:
        yield app


def as_(who: str) -> dict[str, str]:
    return {"X-MS-CLIENT-PRINCIPAL-IDP": "aad", "X-MS-CLIENT-PRINCIPAL-ID": who, **JSON}


@each_of("file", "azurite")
async def test_a_caller_gets_links_for_what_it_may(governed: PlatformApp) -> None:
    await governed.storage.save("tenants/acme/k", "mine")
    await governed.storage.save("k", "of another")
    await governed.storage.save("agents/ceo2", "of another")

    async def ask(who: str, key: str, **wanted: Any) -> AppAnswer:
        return await governed("POST", f"/api/links/{key}", json.dumps(wanted).encode(), as_(who))

    for who, key, method in (
        ("acme", "k", "PUT"),
        ("ceo", "k", "GET"),
        ("ceo", "agents/ceo2", "GET"),
        ("ceo", "agents/ceo2", "PUT"),
        ("ceo", "tenants/acme/k", "GET"),
        ("nobody", "k", "GET"),
    ):
        answer = await ask(who, key, method=method)
        assert (answer.status, answer.problem["code"]) == (403, "forbidden"), (who, key)
    loads, saves = (await ask("acme", "k")).json, (await ask("acme", "in/k", method="PUT")).json

    async def send(found: dict[str, Any], body: bytes | None = None) -> tuple[int, bytes]:
        if found["through"] == "store":
            got = await fetch(found["method"], found["url"], body, found["headers"])
            return got.status, got.body
        answer = await governed(found["method"], target(found["url"]), body or b"", found["headers"])
        return answer.status, answer.body

    assert await send(loads) == (200, b"mine")
    assert (await send(saves, b"new"))[0] == 201
    assert await governed.storage.list_keys() == ["agents/ceo2", "k", "tenants/acme/in/k", "tenants/acme/k"]


async def test_a_link_of_the_app_has_the_rights_of_its_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = await config_of("file", None, tmp_path)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(POLICY))
    async with serve(monkeypatch, config) as app:
        await app.storage.save("k", "of another")
        without = target((await made(app))["url"])
    monkeypatch.setenv(access.SETTING, str(policy))
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "true")
    async with serve(monkeypatch, config) as app:
        await app.storage.save("tenants/acme/k", "mine")
        url = target((await app("POST", "/api/links/k", b"{}", as_("acme"))).json["url"])
        assert "tenants" not in url
        assert (await app("GET", url)).body == b"mine"
        # Of whoever uses it nothing is asked, and nothing is believed.
        assert (await app("GET", url, headers=as_("ceo"))).body == b"mine"
        refused(await app("GET", without))
        refused(await app("GET", changed(f"https://h{url}", "maker", "aad:ceo").removeprefix("https://h")))
    # The rights are looked at again.
    less = {"principals": {"aad:acme": {"root": "tenants/acme/", "may": {"load": ["other"]}}}}
    policy.write_text(json.dumps(less))
    async with serve(monkeypatch, config) as app:
        answer = await app("GET", url)
        assert (answer.status, answer.problem["code"]) == (403, "forbidden")
    # Without the policy nobody knows what the key means.
    monkeypatch.delenv(access.SETTING)
    async with serve(monkeypatch, config) as app:
        refused(await app("GET", url))
        assert (await app("GET", without)).body == b"of another"


# -- arguments


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1-10.0.0.9", "10.0.0.1", "10.0.0.9"),
        ("10.1.2.3/16", "10.1.0.0", "10.1.255.255"),
        ("2001:db8::/127", "2001:db8::", "2001:db8::1"),
    ],
)
def test_an_ip_range(text: str, first: str, last: str) -> None:
    found = ip_range(text)
    assert (found.first, found.last) == (first, last)
    assert first in found
    assert last in found
    assert "9.9.9.9" not in found
    assert ("::ffff:10.0.0.1" in found) is ("10.0.0.1" in found)


async def test_a_link_without_an_app_says_what_to_do(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as storage:
        await storage.save("k", 1)
        with pytest.raises(UnsupportedOperationError) as refused_link:
            await storage.link("k")
        assert "app_url" in str(refused_link.value.remedy)
        link = await storage.link("k", app_url=f"{APP}/")
        assert re.match(rf"{APP}/signed/k\?", link.url)
        signer = Signer(storage)
        parameters = dict(parse_qsl(urlsplit(link.url).query))
        assert (await signer.check("GET", "k", parameters)).by is None
        with pytest.raises(InvalidLinkError):
            await signer.check("PUT", "k", parameters)
        with pytest.raises(InvalidArgumentError):
            await storage.link("k", method="POST")  # type: ignore[arg-type]
