"""`/api/versions/{key}`: what the library knows of versions, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from functions import versions as routes
from storage_lib.config import StorageConfig
from storage_lib.versioning import Versions
from tests.http_app import AppAnswer, PlatformApp, config_of, serve
from tests.test_access_http import policy_file  # noqa: F401

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}


@pytest.fixture(params=["memory", "file"])
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as app:
        yield app


async def saved(app: PlatformApp, key: str, body: bytes, query: str = "", **headers: str) -> AppAnswer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    answer = await app("POST", f"/api/versions/{key}{query}", body, TEXT | named)
    assert answer.status == 201, answer.body
    return answer


async def changed(app: PlatformApp, key: str, change: Any) -> AppAnswer:
    return await app("PATCH", f"/api/versions/{key}", json.dumps(change).encode(), JSON)


async def numbers(app: PlatformApp, key: str) -> list[int]:
    return [each["number"] for each in (await app("GET", f"/api/versions/{key}")).json["versions"]]


async def test_a_life_of_versions(platform_anywhere: PlatformApp) -> None:
    app, at = platform_anywhere, "/api/versions/models/ceo"
    assert (await app("GET", at)).json == {
        "key": "models/ceo",
        "current": None,
        "versions": [],
        "cursor": None,
    }
    assert (await app("GET", f"{at}?version=current")).problem["code"] == "key-not-found"
    first = await saved(app, "models/ceo", b"one", x_meta_note="Zo%C3%AB")
    assert first.headers["location"] == f"{at}?version=1"
    assert first.json == {
        "key": "models/ceo",
        "version": 1,
        "etag": first.headers["etag"].strip('"'),
        "size": 3,
    }
    await saved(app, "models/ceo", b"two", "?label=production", Content_Language="en")
    assert (await app("GET", f"{at}?version=2")).headers["content-language"] == "en"
    third = await app("POST", at, b'{"n": 3.10}', JSON)
    assert third.json["version"] == 3
    # Each is loaded as it was saved, by number, label and as the current one.
    for query, body, number in (
        ("1", b"one", 1),
        ("v2", b"two", 2),
        ("production", b"two", 2),
        ("current", b'{"n": 3.10}', 3),
    ):
        found = await app("GET", f"{at}?version={query}")
        assert (found.status, found.body) == (200, body)
        assert found.headers["content-location"] == f"{at}?version={number}"
        head = await app("HEAD", f"{at}?version={query}")
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", found.headers["etag"])
        same = {"If-None-Match": found.headers["etag"]}
        assert (await app("GET", f"{at}?version={query}", headers=same)).status == 304
        other = {"If-Match": '"other"'}
        assert (await app("GET", f"{at}?version={query}", headers=other)).status == 412
    part = await app("GET", f"{at}?version=1", headers={"Range": "bytes=1-"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"ne", "bytes 1-2/3")
    assert (await app("GET", f"{at}?version=1", headers={"Range": "bytes=9-"})).status == 416
    assert (await app("GET", first.headers["location"])).headers["x-meta-note"] == "Zo%C3%AB"
    # As does the library.
    assert await app.storage.load_version("models/ceo") == {"n": 3.1}
    page = (await app("GET", at)).json
    assert (page["current"], [each["number"] for each in page["versions"]]) == (3, [3, 2, 1])
    shown = page["versions"][1]
    assert (shown["labels"], shown["is_current"], shown["size"]) == (["production"], False, 3)
    # Labels and the current version move in one step.
    done = await changed(app, "models/ceo", {"current": "production", "labels": {"old": 1, "production": 3}})
    assert done.json == {"key": "models/ceo", "current": 2, "labels": {"old": 1, "production": 3}}
    assert (await app("GET", f"{at}?version=current")).body == b"two"
    done = await changed(app, "models/ceo", {"labels": {"old": None, "now": "current"}})
    assert done.json == {"key": "models/ceo", "current": 2, "labels": {"now": 2, "old": None}}
    assert (await app("GET", f"{at}?version=old")).status == 404
    # What is old goes, except what is current or has a label.
    for query, left in (("&dry_run=true", [3, 2, 1]), ("", [3, 2])):
        pruned = await app("DELETE", f"{at}?keep_last=0{query}")
        assert pruned.json == {"key": "models/ceo", "deleted": [1], "dry_run": bool(query)}
        assert await numbers(app, "models/ceo") == left
    assert (await app("GET", f"{at}?version=1")).problem["field"] == "version"
    assert (await saved(app, "models/ceo", b"four")).json["version"] == 4


async def test_bodies_are_checked_and_answered_like_those_of_objects(app: PlatformApp) -> None:
    wrong = {"Content-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}
    refused = await app("POST", "/api/versions/k", b"x", TEXT | wrong)
    assert (refused.status, refused.problem["code"]) == (400, "digest-mismatch")
    assert await numbers(app, "k") == []
    await saved(app, "k", b"text " * 1000)
    target = "/api/versions/k?version=current"
    sent = await app("GET", target, headers={"Accept-Encoding": "gzip", "Want-Content-Digest": "sha-256=1"})
    assert gzip.decompress(sent.body) == b"text " * 1000
    assert sent.headers["content-location"] == "/api/versions/k?version=1"
    digest = base64.b64encode(hashlib.sha256(sent.body).digest()).decode()
    assert sent.headers["content-digest"] == f"sha-256=:{digest}:"


async def test_a_page_is_of_the_newest(app: PlatformApp) -> None:
    for n in range(1, 13):
        await app.storage.save_versioned("k", n, saved_by=f"agent-{n}")
    seen: list[int] = []
    query = "?limit=5"
    for _ in range(4):
        page = (await app("GET", f"/api/versions/k{query}")).json
        seen += [each["number"] for each in page["versions"]]
        assert all(each["saved_by"] == f"agent-{each['number']}" for each in page["versions"])
        assert page["current"] == 12
        if page["cursor"] is None:
            break
        await app.storage.save_versioned("later", 1)
        query = f"?limit=5&cursor={page['cursor']}"
    assert seen == [*range(12, 0, -1)]


async def test_a_key_that_a_path_cannot_carry(app: PlatformApp) -> None:
    answer = await app("POST", "/api/versions?key=a%25FFb", b"x", TEXT)
    assert answer.headers["location"] == "/api/versions?key=a%25FFb&version=1"
    assert (await app("GET", answer.headers["location"])).body == b"x"
    assert (await app("GET", "/api/versions?key=a%25FFb")).json["key"] == "a%FFb"
    assert await app.storage.load_version("a%FFb") == "x"
    both = await app("GET", "/api/versions/a?key=b")
    assert (both.status, both.problem["field"]) == (400, "key")
    labelled = await app("PATCH", "/api/versions?key=a%25FFb", b'{"labels": {"x": 1}}', JSON)
    assert labelled.json == {"key": "a%FFb", "current": 1, "labels": {"x": 1}}
    assert (await app("DELETE", "/api/versions?key=a%25FFb&keep_last=1")).json["deleted"] == []


async def test_a_number_of_ones_own(app: PlatformApp) -> None:
    assert (await saved(app, "k", b"seven", "?number=7")).json["version"] == 7
    taken = await app("POST", "/api/versions/k?number=7", b"x", TEXT)
    assert (taken.status, taken.problem["field"]) == (412, "number")
    await saved(app, "k", b"three", "?number=3")
    assert (await app("GET", "/api/versions/k?version=current")).body == b"seven"
    assert (await saved(app, "k", b"eight")).json["version"] == 8


async def test_nothing_is_changed_unless_all_of_it_is(app: PlatformApp) -> None:
    for body in (b"1", b"2"):
        await saved(app, "k", body)
    await changed(app, "k", {"labels": {"a": 1}})
    for change, status, field in (
        ({"labels": {"a": 2, "b": 9}}, 404, "version"),
        ({"labels": {"a": 2, "none": None}}, 404, "label"),
        ({"labels": {"a": 2}, "current": "none"}, 404, "version"),
        ({"labels": {"a": 2}, "current": 0}, 400, "version"),
        ({"labels": {"a": 2}, "current": None}, 400, "current"),
        ({"labels": {"a": 2, "v3": 1}}, 400, "label"),
        ({"labels": {"current": 1}}, 400, "label"),
        ({"labels": {"a": True}}, 400, "labels.a"),
        ({"labels": {"a": 1.5}}, 400, "labels.a"),
        ({"labels": ["a"]}, 400, "labels"),
        ({"label": {"a": 2}}, 400, "label"),
    ):
        answer = await changed(app, "k", change)
        assert (answer.status, answer.problem["field"]) == (status, field), change
    assert (await app("GET", "/api/versions/k?version=a")).body == b"1"
    assert (await app("GET", "/api/versions/k?version=current")).body == b"2"
    assert (await changed(app, "k", {"labels": {"a": 1.0}})).json["labels"] == {"a": 1}
    for nothing in ({}, {"labels": {}}, {"current": "current"}):
        assert (await changed(app, "k", nothing)).json == {"key": "k", "current": 2, "labels": {}}
        missing = await changed(app, "none", nothing)
        assert (missing.status, missing.problem["code"]) == (404, "key-not-found")
    missing = await changed(app, "none", {"labels": {"a": "current"}})
    assert (missing.status, missing.problem["code"]) == (404, "key-not-found")


async def test_labels_are_moved_by_many_at_once(app: PlatformApp) -> None:
    for n in range(3):
        await saved(app, "k", b"%d" % n)
    changes = [{"labels": {"a": n % 3 + 1, "b": n % 3 + 1}} for n in range(12)]
    done = await asyncio.gather(*(changed(app, "k", each) for each in changes))
    assert {each.status for each in done} == {200}
    found = [(await app("GET", f"/api/versions/k?version={label}")).body for label in "ab"]
    assert found[0] == found[1]  # They were given together each time.


async def test_a_version_whose_answer_was_lost_is_saved_once(platform_anywhere: PlatformApp) -> None:
    app, once = platform_anywhere, {"Idempotency_Key": "call-1"}
    first = await saved(app, "k", b"one", **once)
    await saved(app, "k", b"other")
    again = await saved(app, "k", b"one", **once)
    assert again.json == first.json
    assert again.headers["location"] == first.headers["location"]
    assert await numbers(app, "k") == [2, 1]
    assert (await app("GET", "/api/versions/k?version=current")).body == b"other"
    # Anything else is another call.
    for body, query, headers in (
        (b"two", "", once),
        (b"one", "?label=x", once),
        (b"one", "", {"Idempotency_Key": "call-2"}),
        (b"one", "", once | {"x_meta_m": "1"}),
        (b"one", "", {}),
    ):
        before = len(await numbers(app, "k"))
        await saved(app, "k", body, query, **headers)
        assert len(await numbers(app, "k")) == before + 1, (body, query, headers)


async def test_a_call_that_comes_again_for_a_version_that_was_removed_is_told_so(app: PlatformApp) -> None:
    once = {"Idempotency_Key": "call-1"}
    await saved(app, "k", b"one", **once)
    await saved(app, "k", b"two")
    assert (await app("DELETE", "/api/versions/k?keep_last=1")).json["deleted"] == [1]
    again = await app("POST", "/api/versions/k", b"one", TEXT | {"Idempotency-Key": "call-1"})
    assert (again.status, again.problem["field"]) == (404, "key")
    assert "saved version 1" in again.problem["detail"]
    assert await numbers(app, "k") == [2]


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[]",
        "{}",
        '{"version":"x"}',
        '{"version":0}',
        '{"version":-1}',
        '{"version":1,"labels":{"a":-5}}',
        '{"version":99999999999999999999}',
        '{"version":1,"highest":9007199254740993}',
        '{"version":1,"removing":[0]}',
    ],
)
async def test_an_object_of_ones_own_in_the_place_of_the_record_is_a_conflict(
    app: PlatformApp, text: str
) -> None:
    await app.storage.save("k/v1", "one")
    await app.storage.save("k/current", text.encode(), content_type="application/octet-stream")
    for method, query, body, headers in (
        ("GET", "", b"", {}),
        ("GET", "?version=current", b"", {}),
        ("GET", "?version=a", b"", {}),
        ("GET", "?diff=1", b"", {}),
        ("POST", "", b"two", TEXT),
        ("PATCH", "", b'{"current": 1}', JSON),
        ("DELETE", "?keep_last=0", b"", {}),
    ):
        answer = await app(method, f"/api/versions/k{query}", body, headers)
        assert (answer.status, answer.problem["code"]) == (409, "not-versions"), (method, query)
        assert answer.problem["field"] == "key"
    assert (await app("GET", "/api/versions/k?version=1")).status == 200
    assert await app.storage.list_keys("k/v") == ["k/v1"]


async def test_numbers_end(app: PlatformApp) -> None:
    await saved(app, "k", b"one")
    await app.storage.save("k/current", {"version": 1, "highest": 10**15})
    refused = await app("POST", "/api/versions/k", b"two", TEXT)
    assert (refused.status, refused.problem["field"]) == (400, "version")
    assert await numbers(app, "k") == [1]


async def test_the_same_call_at_the_same_time_leaves_one_version(app: PlatformApp) -> None:
    storage = app.storage
    # As by several instances, which know nothing of each other's turns.
    made = await asyncio.gather(
        *(
            Versions(storage if n == 0 else type(storage)(backend=storage.backend)).add(
                "k", b"x", is_bytes=True, content_type="text/plain", once="mark"
            )
            for n in range(6)
        )
    )
    assert len({number for number, _ in made}) == 1
    assert await numbers(app, "k") == [made[0][0]]
    record = await storage.load("k/current")
    assert (record["version"], record["calls"]) == (made[0][0], {"mark": made[0][0]})


async def test_no_more_calls_are_remembered_than_needed(app: PlatformApp) -> None:
    for n in range(105):
        await Versions(app.storage).add("k", n, once=f"call-{n}")
    calls = (await app.storage.load("k/current"))["calls"]
    assert list(calls) == [f"call-{n}" for n in range(5, 105)]


async def test_what_changes_between_versions(app: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b'{"a": 1, "b": 2}', b'{"a": 1, "c": 3}', b'{"a": 4}'):
        assert (await app("POST", "/api/versions/k", body, JSON)).status == 201
    await changed(app, "k", {"labels": {"first": 1}})
    found = await app("GET", "/api/versions/k?diff=first&version=2")
    assert found.headers["content-type"] == "application/json-patch+json"
    assert sorted(found.json, key=lambda each: each["op"]) == [
        {"op": "add", "path": "/c", "value": 3},
        {"op": "remove", "path": "/b"},
    ]
    assert (await app("GET", "/api/versions/k?diff=3")).json == []
    await saved(app, "k", b"text")
    refused = await app("GET", "/api/versions/k?diff=1")
    assert refused.status == 200 or refused.problem["code"] == "not-json"
    await app.storage.save_versioned("k", b"bytes")
    refused = await app("GET", "/api/versions/k?diff=1")
    assert (refused.status, refused.problem["code"]) == (409, "not-json")
    assert (await app("GET", "/api/versions/k?diff=9&version=1")).status == 404
    monkeypatch.setattr(routes, "MAX_DIFF_BYTES", 10)
    refused = await app("GET", "/api/versions/k?diff=1&version=2")
    assert (refused.status, refused.problem["code"]) == (413, "object-too-large")


@pytest.mark.parametrize(
    ("method", "query", "headers", "field"),
    [
        ("GET", "?version=0", {}, "label"),
        ("GET", "?version=1&limit=5", {}, "limit"),
        ("GET", "?limit=0", {}, "limit"),
        ("GET", "?cursor=x", {}, "cursor"),
        ("GET", "?versions=1", {}, "versions"),
        ("POST", "?number=x", {}, "number"),
        ("POST", "?label=v3", {}, "label"),
        ("POST", "?label=current", {}, "label"),
        ("POST", "", {"If-Match": "*"}, "If-Match"),
        ("POST", "", {"x-ttl-seconds": "5"}, "x-ttl-seconds"),
        ("POST", "", {"Content-Type": "application/json"}, "body"),
        ("POST", "", {"Idempotency-Key": ""}, "Idempotency-Key"),
        ("PATCH", "", JSON | {"If-Match": "*"}, "If-Match"),
        ("DELETE", "", {}, "keep_last"),
        ("DELETE", "?keep_last=-1", {}, "keep_last"),
        ("DELETE", "?younger_than_seconds=5", {}, "keep_last"),
        ("DELETE", "?keep_last=1&younger_than_seconds=x", {}, "younger_than_seconds"),
        ("DELETE", "?keep_last=0&dry_run=perhaps", {}, "dry_run"),
    ],
    ids=range(18),
)
async def test_what_makes_no_sense_is_refused(
    app: PlatformApp, method: str, query: str, headers: dict[str, str], field: str
) -> None:
    await saved(app, "k", b"one")
    body = b"{" if method in ("POST", "PATCH") else b""
    answer = await app(
        method, f"/api/versions/k{query}", body, TEXT | headers if method == "POST" else headers
    )
    assert (answer.status, answer.problem["field"]) == (400, field)
    assert await numbers(app, "k") == [1]


@pytest.mark.parametrize("key", ["", "a//b", "../a", ".system/a", "a/"])
async def test_keys_have_their_grammar(app: PlatformApp, key: str) -> None:
    for method in ("GET", "POST", "PATCH", "DELETE"):
        answer = await app(method, f"/api/versions?key={key}", b"", JSON)
        assert (answer.status, answer.problem["code"]) == (400, "invalid-key"), method


async def test_a_prune_ends_in_time_and_goes_on(app: PlatformApp, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await saved(app, "k", b"x")
    monkeypatch.setattr(routes, "PRUNE_SECONDS", -1.0)
    ended = await app("DELETE", "/api/versions/k?keep_last=1")
    assert (ended.status, ended.problem["code"]) == (503, "transient-storage-error")
    monkeypatch.undo()
    await Versions(app.storage).prune("k", keep_last=1, younger_than=None, dry_run=False)
    assert [each.number for each in await app.storage.list_versions("k")] == [3]


async def test_a_prune_that_is_not_allowed_marks_nothing(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = json.loads(policy_file.read_text())
    policy["principals"]["key:cto"]["may"] = {right: ["m"] for right in ("load", "list", "save")}
    policy_file.write_text(json.dumps(policy))
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        for n in range(3):
            await app.storage.save_versioned("m", n)
        record = await app.storage.load("m/current")
        for query in ("&dry_run=true", ""):
            target = f"/api/versions/m?keep_last=1{query}"
            refused = await app("DELETE", target, headers={"x-functions-key": "k-cto"})
            assert (refused.status, refused.problem["code"]) == (403, "forbidden")
        assert await app.storage.load("m/current") == record
        assert [each.number for each in await app.storage.list_versions("m")] == [1, 2, 3]
        assert await app.storage.prune_versions("m", keep_last=3) == []


async def test_versions_need_the_rights_to_their_objects(
    policy_file: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        for key in ("agents/ceo/m", "agents/ceo2/m", "shared/m", "tenants/acme/m"):
            for n in range(2):
                await app.storage.save_versioned(key, n)

        async def asked(who: str, method: str, target: str, body: bytes = b"") -> AppAnswer:
            kind = TEXT if method == "POST" else JSON
            return await app(method, f"/api/versions/{target}", body, kind | {"x-functions-key": f"k-{who}"})

        for who, key, reads, writes in (
            ("ceo", "agents/ceo/m", 200, True),
            ("ceo", "shared/m", 200, False),
            ("ceo", "agents/ceo2/m", 403, False),
            ("ceo", "agents/none", 403, False),
            ("cto", "agents/ceo/m", 403, False),
            ("acme", "m", 200, True),
            ("acme", "tenants/acme/m", 404, True),
        ):
            for query in ("?version=current", "?version=1", "?diff=1", ""):
                status = 200 if reads == 404 and not query else reads
                assert (await asked(who, "GET", key + query)).status == status, (who, key, query)
            post = await asked(who, "POST", f"{key}?label=mine", b"x")
            assert post.status == (201 if writes else 403), (who, key)
            patch = await asked(who, "PATCH", key, b'{"labels": {"x": 1}}')
            assert patch.status == (200 if writes else 403), (who, key)
            pruned = await asked(who, "DELETE", f"{key}?keep_last=0")
            assert pruned.status == (200 if writes else 403), (who, key)
        for key in ("agents/ceo2/m", "shared/m"):
            assert [each.number for each in await app.storage.list_versions(key)] == [1, 2]
        ceo = await app.storage.list_versions("agents/ceo/m", details=True)
        assert [(each.number, each.saved_by) for each in ceo] == [(1, None), (3, "key:ceo")]
        assert [each.number for each in await app.storage.list_versions("tenants/acme/m")] == [1, 3]
        assert [each.number for each in await app.storage.list_versions("m")] == []
        found = await asked("acme", "GET", "m?version=current")
        assert "tenants" not in repr(found)
