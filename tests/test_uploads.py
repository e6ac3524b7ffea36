"""Uploads in parts: over HTTP on each backend, behind each layer, and what becomes of those that are left."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from functions import access
from storage_lib.config import StorageConfig
from storage_lib.errors import KeyNotFoundError, PreconditionFailedError, TransientStorageError
from storage_lib.manager import StorageManager
from storage_lib.ports.objects import ObjectStore
from storage_lib.uploads import MAX_PARTS, UPLOADS, DigestMismatchError, Uploads, UploadStateError
from tests.http_app import AppAnswer, PlatformApp, config_of, serve
from tests.test_http_digests import sf
from tests.test_links import JSON, LAYERS, as_, each_of

KEY = "models/large ü.bin"


KEPT = {"cache_control": "public, max-age=60", "content_disposition": 'attachment; filename="a b.png"'}


class Sent:
    """An upload over HTTP."""

    def __init__(self, app: PlatformApp, key: str = KEY, headers: dict[str, str] | None = None) -> None:
        self.app, self.key, self.headers = app, key, headers or {}
        self.id = ""

    async def __call__(
        self, method: str, query: str = "", body: Any = None, headers: dict[str, str] | None = None
    ) -> AppAnswer:
        given = {**self.headers, **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body, given = json.dumps(body).encode(), given | JSON
        return await self.app(
            method, f"/api/uploads/{quote(self.key)}?upload_id={self.id}{query}", body or b"", given
        )

    async def create(self, **wanted: Any) -> dict[str, Any]:
        answer = await self.app(
            "POST", f"/api/uploads/{quote(self.key)}", json.dumps(wanted).encode(), self.headers | JSON
        )
        assert answer.status == 201, answer.body
        self.id = answer.json["upload_id"]
        return answer.json

    async def put(self, part: int, data: bytes, headers: dict[str, str] | None = None) -> AppAnswer:
        return await self("PUT", f"&part={part}", data, headers)

    async def complete(self, body: Any = None, **headers: str) -> AppAnswer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self("POST", "", body, named)


async def own_objects(storage: StorageManager) -> list[str]:
    """What is left of uploads in the store."""
    return [
        entry.key async for entry in storage.backend.objects.iterate(UPLOADS) if not isinstance(entry, str)
    ]


async def test_parts_become_an_object(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    upload = Sent(app)
    begun = await upload.create(
        content_type="image/png", metadata={"agent": "ceo"}, ttl_seconds=3600, **KEPT, content_language=None
    )
    assert begun["max_parts"] == MAX_PARTS
    assert begun["part_bytes"] <= begun["max_part_bytes"] == app.state.max_body_bytes
    parts = {1: os.urandom(100_000), 2: b"", 3: b"{" + b"x" * 10}
    # In any order, and again; what is sent last counts.
    assert (await upload.put(3, b"wrong")).status == 200
    for number in (2, 3, 1):
        answer = await upload.put(number, parts[number])
        assert answer.json == {
            "part": number,
            "size": len(parts[number]),
            "sha256": hashlib.sha256(parts[number]).hexdigest(),
        }
    listed = (await upload("GET")).json
    assert [each["part"] for each in listed["parts"]] == [1, 2, 3]
    assert listed["parts"][0]["sha256"] == hashlib.sha256(parts[1]).hexdigest()
    assert (listed["key"], listed["content_type"]) == (KEY, "image/png")
    # Nothing is to be seen before.
    assert await app.storage.list_keys() == []
    assert (await app("GET", f"/api/objects/{quote(KEY)}")).status == 404

    whole = b"".join(parts.values())
    done = await upload.complete({"sha256": hashlib.sha256(whole).hexdigest()})
    assert (done.status, done.json["size"]) == (201, len(whole)), done.body
    assert done.headers["location"] == f"/api/objects/{quote(KEY)}"
    got = await app("GET", done.headers["location"])
    assert (got.body, got.headers["content-type"]) == (whole, "image/png")
    assert got.headers["x-meta-agent"] == "ceo"
    assert "x-expires-at" in got.headers
    assert got.headers["cache-control"] == KEPT["cache_control"]
    assert got.headers["content-disposition"] == KEPT["content_disposition"]
    assert "content-language" not in got.headers
    assert got.headers["etag"] == done.headers["etag"]
    # The answer may have been lost.
    again = await upload.complete()
    assert (again.status, again.json, again.headers["etag"]) == (201, done.json, done.headers["etag"])
    assert (await upload.put(1, b"x")).status == 409
    assert len(await own_objects(app.storage)) == 1
    assert (await app("GET", "/api/uploads")).json == {"uploads": [], "cursor": None}


async def test_an_upload_heeds_conditions(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    first, second = Sent(app), Sent(app)
    for upload in (first, second):
        await upload.create()
        await upload.put(1, b"x" * 10)
    created = await first.complete(If_None_Match="*")
    assert created.status == 201
    assert (await second.complete(If_None_Match="*")).status == 412
    assert (await second.complete(If_Match='"other"')).status == 412
    replaced = await second.complete(If_Match=created.headers["etag"])
    assert replaced.status == 200
    # Sent again, each is told what it has done, though the condition no longer holds.
    assert (await first.complete(If_None_Match="*")).json == created.json
    assert (await second.complete(If_Match=created.headers["etag"])).json == replaced.json


async def test_what_is_missing_is_told(platform: PlatformApp) -> None:
    upload = Sent(platform)
    await upload.create()
    empty = await upload.complete()
    assert (empty.status, empty.problem["code"]) == (409, "upload-state")
    for number in (1, 3, 6):
        await upload.put(number, b"%d" % number)
    gaps = await upload.complete()
    assert gaps.status == 409
    assert "2, 4, 5" in gaps.problem["detail"]
    assert (await upload.complete({"parts": [1, 2]})).status == 409
    for wrong in ([3, 1], [1, 1], [0], ["1"], [True], "1", [MAX_PARTS + 1]):
        assert (await upload.complete({"parts": wrong})).status == 400, wrong
    assert (await upload.complete({"sha256": "0" * 63})).problem["field"] == "sha256"
    mismatch = await upload.complete({"parts": [1, 3], "sha256": "0" * 64})
    assert (mismatch.status, mismatch.problem["code"]) == (400, "digest-mismatch")
    assert await platform.storage.list_keys() == []
    assert (await upload.complete({"parts": [1, 6]})).status == 201
    assert (await platform.storage.read(KEY)).data == b"16"


async def test_a_part_that_is_refused(platform: PlatformApp) -> None:
    upload = Sent(platform)
    await upload.create()
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    wrong = await upload.put(1, b"x", {"Repr-Digest": f"sha-256=:{digest}:"})
    assert (wrong.status, wrong.problem["code"]) == (400, "digest-mismatch")
    for number in ("0", str(MAX_PARTS + 1), "x", ""):
        answer = await upload("PUT", f"&part={number}", b"x")
        assert (answer.status, answer.problem["field"]) == (400, "part"), number
    assert (await upload("PUT", "", b"x")).problem["field"] == "part"
    too_large = await upload.put(1, b"{" + b" " * platform.state.max_json_bytes)
    assert too_large.status == 413
    assert "a part of their own" in too_large.problem["remedy"]
    assert (await platform("PUT", f"/api/uploads/{quote(KEY)}?part=1", b"x")).problem["field"] == "upload_id"
    assert (await upload("GET")).json["parts"] == []


async def test_what_begins_no_upload(platform: PlatformApp) -> None:
    for key in (".system/x", "a..", "a%00"):
        assert (await platform("POST", f"/api/uploads/{key}", b"{}", JSON)).status == 400
    for wanted, field in (
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2000-01-01T00:00:00Z", "ttl_seconds": 1}, "expires_at"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 8 * 24 * 3600}, "expires_in"),
        ({"content_type": "x"}, "body.content_type"),
        ({"metadata": {"A B": "1"}}, "body.metadata"),
        ({"metadata": 5}, "body.metadata"),
        ({"contenttype": "text/plain"}, "contenttype"),
        ({"cache_control": ""}, "cache_control"),
        ({"cache_control": "a\r\nx-evil: 1"}, "cache_control"),
        ({"content_disposition": 'attachment; filename="ü"'}, "content_disposition"),
        ({"content_language": 5}, "content_language"),
        ({"cache_control": "x" * 2000}, "headers"),
    ):
        answer = await platform("POST", "/api/uploads/k", json.dumps(wanted).encode(), JSON)
        assert (answer.status, answer.problem["field"]) == (400, field), wanted
    assert await own_objects(platform.storage) == []


@pytest.mark.parametrize("target", ["/api/uploads/k", "/api/uploads/k?upload_id={id}", "/api/links/k"])
async def test_a_body_that_did_not_arrive_is_not_none(platform: PlatformApp, target: str) -> None:
    """The host passes no chunked body on: without what it says, an upload would have another type, a
    completion no checksum, and a link no bounds."""
    upload = Sent(platform, "k")
    await upload.create()
    await upload.put(1, b"x")
    await platform.storage.save("k", 1)
    before = await own_objects(platform.storage)
    chunked = JSON | {"Transfer-Encoding": "chunked"}
    answer = await platform("POST", target.format(id=upload.id), b'{"expires_in": 60}', chunked)
    assert (answer.status, answer.problem["code"]) == (411, "length-required")
    digested = {"Content-Digest": sf("sha-256", b"{}")}
    answer = await platform("POST", target.format(id=upload.id), b"", digested)
    assert (answer.status, answer.problem["code"]) == (400, "digest-mismatch")
    assert await own_objects(platform.storage) == before
    assert (await platform.storage.read("k")).data == b"1"


async def test_an_upload_is_given_up(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    upload = Sent(app)
    await upload.create()
    await upload.put(1, b"x")
    assert (await upload("DELETE")).status == 204
    for answer in (
        await upload("DELETE"),
        await upload("GET"),
        await upload.put(1, b"x"),
        await upload.complete(),
    ):
        assert answer.status == 404
    assert await own_objects(app.storage) == []


async def test_uploads_are_listed(platform: PlatformApp) -> None:
    begun: dict[str, str] = {}
    for key in ("a/1", "a/2", "b/1", "x%FF"):
        answer = await platform("POST", f"/api/uploads?key={quote(key)}", b"{}", JSON)
        begun[key] = answer.json["upload_id"]
        # What a path cannot carry, `Location` has in the query.
        assert (await platform("GET", answer.headers["location"])).json["key"] == key

    async def listed(query: str = "") -> dict[str, str]:
        found: dict[str, str] = {}
        cursor = ""
        for _ in range(10):
            page = (await platform("GET", f"/api/uploads?{query}{cursor}")).json
            found |= {each["key"]: each["upload_id"] for each in page["uploads"]}
            if page["cursor"] is None:
                return found
            cursor = f"&cursor={page['cursor']}"
        raise AssertionError("the list does not end")

    assert await listed() == await listed("limit=1") == await listed("limit=2") == begun
    assert await listed("prefix=a/") == {key: begun[key] for key in ("a/1", "a/2")}
    assert (await platform("GET", "/api/uploads?cursor=x")).status == 400
    assert (await platform("GET", "/api/uploads?key=a/1&prefix=a")).status == 400
    # An id belongs to its key.
    assert (await platform("GET", f"/api/uploads/a/1?upload_id={begun['a/2']}")).status == 404
    by_query = f"/api/uploads?key=x%25FF&upload_id={begun['x%FF']}"
    assert (await platform("PUT", f"{by_query}&part=1", b"x")).status == 200
    assert (await platform("POST", by_query)).headers["location"] == "/api/objects?key=x%25FF"
    assert await platform.storage.list_keys() == ["x%FF"]
    assert (await platform("DELETE", f"/api/uploads?key=b/1&upload_id={begun['b/1']}")).status == 204


@pytest.mark.parametrize("layer", LAYERS)
async def test_parts_go_through_all_layers(
    layer: str, moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(await config_of("moto", moto, tmp_path), **LAYERS[layer](tmp_path))
    async with serve(monkeypatch, config) as app:
        upload = Sent(app)
        await upload.create(content_type="text/plain")
        for number in (1, 2):
            await upload.put(number, b"secret " * 500)
        done = await upload.complete(If_None_Match="*")
        assert done.status == 201, done.body
        assert await app.storage.load(KEY) == "secret " * 1000
        if layer == "validation":
            upload = Sent(app, "k")
            await upload.create()
            await upload.put(1, b"x" * 10_001)
            refused = await upload.complete()
            assert (refused.status, refused.problem["code"]) == (413, "rule-violation")
            assert not await app.storage.exists("k")
        if layer == "encryption":
            upload = Sent(app)
            await upload.create()
            await upload.put(1, b"secret")
            inner = StorageManager(backend=app.storage.backend.inside()[""])
            async for entry in inner.backend.objects.iterate(UPLOADS):
                from storage_lib.ports.drivers import PLAIN_GET

                assert not isinstance(entry, str)
                stored = await inner.backend.objects.driver.get(entry.key, PLAIN_GET)
                assert stored is not None
                assert b"secret" not in stored.data


POLICY = {
    "principals": {
        "aad:acme": {"root": "tenants/acme/", "may": {"save": [""], "load": [""]}},
        "aad:ceo": {"may": {"save": ["agents/ceo"]}},
        "aad:reader": {"may": {"load": [""], "list": [""]}},
        "aad:all": {"may": {"*": [""]}},
    },
}


@pytest.fixture
async def governed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PlatformApp]:
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    monkeypatch.setenv(access.SETTING, str(tmp_path / "policy.json"))
    monkeypatch.setenv("WEBSITE_AUTH_ENABLED", "true")
    async with serve(monkeypatch, await config_of("file", None, tmp_path)) as app:
        yield app


async def test_an_upload_belongs_to_its_sender(governed: PlatformApp) -> None:
    for who, key in (("ceo", "agents/ceo2"), ("reader", "k"), ("nobody", "k")):
        answer = await governed("POST", f"/api/uploads/{key}", b"{}", as_(who))
        assert (answer.status, answer.problem["code"]) == (403, "forbidden")
    upload = Sent(governed, "k", as_("acme"))
    await upload.create()
    await upload.put(1, b"mine")
    others = Sent(governed, "k", as_("all"))
    others.id = upload.id
    for answer in (
        await others.put(1, b"x"),
        await others("GET"),
        await others("DELETE"),
        await others.complete(),
    ):
        assert answer.status == 404
    assert (await governed("GET", "/api/uploads", headers=as_("all"))).json["uploads"] == []
    own = (await governed("GET", "/api/uploads", headers=as_("acme"))).json["uploads"]
    assert [each["key"] for each in own] == ["k"]
    done = await upload.complete()
    assert (done.status, done.json["key"]) == (201, "k")
    assert await governed.storage.list_keys() == ["tenants/acme/k"]
    # Nobody reaches the parts as objects.
    assert (await governed("GET", f"/api/objects/{UPLOADS}x", headers=as_("all"))).status == 400


# -- what happens meanwhile


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(StorageConfig(base_path=tmp_path)) as found:
        yield found


async def test_another_host_goes_on(storage: StorageManager, tmp_path: Path) -> None:
    upload = await Uploads(storage).create("k", metadata={"m": "1"})
    await Uploads(storage).put(upload.id, 1, b"one ")
    async with StorageManager(StorageConfig(base_path=tmp_path)) as other:
        await Uploads(other).put(upload.id, 2, b"two")
        assert [part.size for part in await Uploads(other).parts(upload.id)] == [4, 3]
        await Uploads(other).complete(upload.id, other)
    assert (await storage.read("k")).data == b"one two"


async def test_what_nobody_completes_goes(storage: StorageManager) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k", expires_in=60)
    await uploads.put(upload.id, 1, b"x")
    objects = storage.backend.objects
    end = upload.expires_at.timestamp()
    objects.clock = lambda: end
    with pytest.raises(KeyNotFoundError):
        await uploads.put(upload.id, 2, b"x")
    assert await uploads.list() == ([], None)
    assert await storage.sweep_expired() == 2
    assert await own_objects(storage) == []


async def test_a_completed_upload_is_forgotten(storage: StorageManager) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, b"x")
    await uploads.complete(upload.id, storage)
    assert len(await own_objects(storage)) == 1
    objects = storage.backend.objects
    end = upload.created_at.timestamp() + 3700
    objects.clock = lambda: end
    await storage.sweep_expired()
    assert await own_objects(storage) == []
    assert await storage.exists("k")


class _Died(BaseException):
    """As SIGKILL ends a host, from the next line on."""


@pytest.mark.parametrize("size", [10, 9_000_000])
@pytest.mark.parametrize(
    "condition", [{}, {"if_absent": True}, {"if_match": "*"}], ids=["none", "absent", "match"]
)
async def test_a_host_dies_after_it_has_saved_the_object(
    size: int, condition: dict[str, Any], storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sent the completion sends it again, and it is no conflict with itself."""
    if "if_match" in condition:
        condition = {"if_match": (await storage.save("k", 0)).etag}
    uploads = Uploads(storage)
    upload = await uploads.create("k", ttl=3600)
    await uploads.put(upload.id, 1, b"x" * size)

    async def dies(*_: object) -> None:
        raise _Died

    with monkeypatch.context() as patch:
        patch.setattr(Uploads, "_end", dies)
        with pytest.raises(_Died):
            await uploads.complete(upload.id, storage, **condition)
    saved = await storage.info("k")
    result = await uploads.complete(upload.id, storage, **condition)
    assert result.size == size
    if condition:
        assert result.etag == saved.etag
    assert (await uploads.complete(upload.id, storage, **condition)).etag == result.etag
    # To others it is a conflict.
    other = await uploads.create("k")
    await uploads.put(other.id, 1, b"x" * size)
    if condition:
        with pytest.raises(PreconditionFailedError):
            await uploads.complete(other.id, storage, **condition)


async def test_a_completion_that_is_cut_off_leaves_nothing(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    for number in (1, 2, 3):
        await uploads.put(upload.id, number, b"x" * 4_000_000)
    real = ObjectStore.open_reader
    reads = 0

    def breaks(self: ObjectStore, key: str, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 3:
            raise TransientStorageError("the store is away")
        return real(self, key, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "open_reader", breaks)
        with pytest.raises(TransientStorageError):
            await uploads.complete(upload.id, storage)
    assert not await storage.exists("k")
    await uploads.complete(upload.id, storage)
    assert (await storage.info("k")).size == 12_000_000


async def test_two_complete_at_once(storage: StorageManager) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, b"x" * 1000)
    completions = (uploads.complete(upload.id, storage, if_absent=True) for _ in range(4))
    done = await asyncio.gather(*completions, return_exceptions=True)
    results = [each for each in done if not isinstance(each, BaseException)]
    # One that finds the parts gone may say so, and is told the result when it asks again.
    assert results
    assert all(isinstance(each, UploadStateError) for each in done if isinstance(each, BaseException)), done
    assert len({each.etag for each in results}) == 1
    assert (await uploads.complete(upload.id, storage)).etag == results[0].etag
    assert (await storage.read("k")).data == b"x" * 1000


async def test_a_part_that_is_replaced_meanwhile(storage: StorageManager) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, b"old" * 3_000_000)
    await uploads.put(upload.id, 2, b"old")
    real = uploads._parts

    async def then_replaced(upload_id: str) -> Any:
        found = await real(upload_id)
        await uploads.put(upload.id, 2, b"new")
        uploads._parts = real  # type: ignore[method-assign]
        return found

    uploads._parts = then_replaced  # type: ignore[method-assign]
    with pytest.raises(UploadStateError, match="replaced"):
        await uploads.complete(upload.id, storage)
    assert not await storage.exists("k")
    await uploads.complete(upload.id, storage)
    assert (await storage.read("k")).data.endswith(b"new")


@pytest.mark.parametrize("end", ["complete", "abort"])
async def test_a_part_that_comes_behind_the_end_is_no_success(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, b"one")
    real = ObjectStore.put

    async def behind(self: ObjectStore, key: str, *args: Any, **options: Any) -> Any:
        if key.endswith("/parts/00002"):
            await (uploads.complete(upload.id, storage) if end == "complete" else uploads.abort(upload.id))
        return await real(self, key, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", behind)
        with pytest.raises(UploadStateError if end == "complete" else KeyNotFoundError):
            await uploads.put(upload.id, 2, b"two")
    assert not any("/parts/" in key for key in await own_objects(storage))
    if end == "complete":
        assert await storage.load("k") == b"one"


@each_of("file", "moto", "azurite")
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("size", [1000, 7_000_000])
async def test_a_completion_that_comes_late_replaces_nothing(
    kind: Any, tmp_path: Path, parts: int, size: int
) -> None:
    """A client that got no answer sends it again, while the first is still at work."""
    async with StorageManager(await config_of(*kind, tmp_path)) as storage:
        uploads, others = Uploads(storage), Uploads(storage)
        upload = await uploads.create("k")
        for number in range(parts):
            await uploads.put(upload.id, number + 1, bytes([number]) * size)
        real, first = uploads._chunks, []

        async def late(*args: Any) -> AsyncIterator[bytes]:
            async for chunk in real(*args):
                yield chunk
                if not first:
                    first.append(await others.complete(upload.id, storage))
                    await storage.save("k", "newer")

        uploads._chunks = late  # type: ignore[method-assign,assignment]
        again = await uploads.complete(upload.id, storage)
        assert (again.etag, again.size) == (first[0].etag, parts * size)
        assert await storage.load("k") == "newer"


@pytest.mark.parametrize("size", [1000, 20_000_000])
async def test_what_is_given_up_while_it_is_completed_is_not_saved(
    storage: StorageManager, size: int
) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, bytes(size))
    real, given_up = uploads._chunks, []

    async def late(*args: Any) -> AsyncIterator[bytes]:
        async for chunk in real(*args):
            yield chunk
            if not given_up:
                given_up.append(await uploads.abort(upload.id))

    uploads._chunks = late  # type: ignore[method-assign,assignment]
    for condition in ({}, {"if_absent": True}):
        with pytest.raises(KeyNotFoundError):
            await uploads.complete(upload.id, storage, **condition)
    assert await storage.list_keys() == await own_objects(storage) == []


async def test_the_checksum_of_the_whole_is_compared(storage: StorageManager) -> None:
    uploads = Uploads(storage)
    upload = await uploads.create("k")
    await uploads.put(upload.id, 1, b"x" * 9_000_000)
    with pytest.raises(DigestMismatchError):
        await uploads.complete(upload.id, storage, sha256="0" * 64)
    assert not await storage.exists("k")
    right = hashlib.sha256(b"x" * 9_000_000).hexdigest()
    assert (await uploads.complete(upload.id, storage, sha256=right)).size == 9_000_000


async def test_others_sessions_are_not_found(storage: StorageManager) -> None:
    upload = await Uploads(storage, "a").create("k")
    for other in (Uploads(storage, "b"), Uploads(storage)):
        with pytest.raises(KeyNotFoundError):
            await other.get(upload.id)
    for wrong in ("", "../x", upload.id[:-1], upload.id.upper() + "0"):
        with pytest.raises(KeyNotFoundError):
            await Uploads(storage, "a").get(wrong)


MEGABYTES = 200 if os.environ.get("SOAK") else 40


@each_of("file", "azurite")
async def test_memory_is_bounded(
    kind: tuple[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the parts nor the object are held."""
    async with serve(monkeypatch, await config_of(*kind, tmp_path)) as app:
        upload = Sent(app)
        await upload.create()
        part = os.urandom(4_000_000)
        for number in range(1, MEGABYTES // 4 + 1):
            assert (await upload.put(number, part)).status == 200
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        done = await upload.complete()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert done.json["size"] == MEGABYTES * 1_000_000
        assert grown < 100_000, f"{grown} KiB"
        assert (await app.storage.info(KEY)).size == MEGABYTES * 1_000_000


async def test_an_app_as_a_store_takes_large_streams(tmp_path: Path) -> None:
    """With what belongs to the object, its conditions, and nothing left over."""
    from storage_lib.backends.http import HttpStorageBackend
    from tests.http_store import served

    data = b"{" + os.urandom(5_000_000) + b"{" * 35_000_000
    async with (
        served(StorageConfig(base_path=tmp_path / "data")) as app,
        StorageManager(backend=HttpStorageBackend(app.url)) as remote,
    ):
        pieces = [data[start : start + 1_000_000] for start in range(0, len(data), 1_000_000)]
        headers = {"Cache-Control": "no-store", "Content-Language": "de"}
        described: dict[str, Any] = {"content_type": "image/png", "metadata": {"m": "1"}, "ttl": 3600}
        described["headers"] = headers
        saved = await remote.write_stream("k", pieces, if_absent=True, **described)
        assert (saved.size, saved.created) == (len(data), True)
        there = app.app.storage
        info = await there.info("k")
        assert (info.size, info.content_type, info.metadata) == (len(data), "image/png", {"m": "1"})
        assert info.headers == headers
        assert info.sha256 == hashlib.sha256(data).hexdigest()
        assert info.expires_at is not None
        assert (await remote.info("k")).etag == saved.etag
        async with remote.open_reader("k") as reader:
            assert await reader.read() == data
        with pytest.raises(PreconditionFailedError):
            await remote.write_stream("k", pieces, if_absent=True)
        with pytest.raises(PreconditionFailedError):
            await remote.write_stream("k", pieces, if_match="other")

        async def breaks() -> AsyncIterator[bytes]:
            yield data
            raise TransientStorageError("the source is away")

        with pytest.raises(TransientStorageError, match="source"):
            await remote.write_stream("k2", breaks())
        assert await there.list_keys() == ["k"]
        assert len(await own_objects(there)) == 1  # That of the upload that was completed.
