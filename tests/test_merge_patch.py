"""JSON merge patches, held against RFC 7396: its algorithm and its table, and what a change needs besides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.merging import merged
from storage_lib.config import StorageConfig
from storage_lib.config.validation import Rule, ValidationOptions
from tests.http_app import PlatformApp, config_of, serve
from tests.test_access_http import policy_file  # noqa: F401

PATCH = {"Content-Type": "application/merge-patch+json"}
JSON = {"Content-Type": "application/json"}
TABLE = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""RFC 7396, appendix A: the original, the patch and the result."""


def by_the_letter(target: Any, patch: Any) -> Any:
    """RFC 7396, 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = by_the_letter(result.get(name), value)
    return result


@pytest.fixture(params=["memory", "file"])
async def app(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlatformApp]:
    async with serve(monkeypatch, await config_of(request.param, None, tmp_path)) as app:
        yield app


async def put(app: PlatformApp, key: str, body: bytes, **headers: str) -> str:
    saved = await app("PUT", f"/api/objects/{key}", body, JSON | headers)
    assert saved.status in (200, 201), saved.body
    return saved.headers["etag"]


@pytest.mark.parametrize("row", range(len(TABLE)))
async def test_the_table_of_the_standard(app: PlatformApp, row: int) -> None:
    original, patch, result = TABLE[row]
    for n, (target, query) in enumerate((("/api/objects/table", ""), ("/api/objects", "?key=table"))):
        await put(app, "table", json.dumps(original, indent=n).encode())
        answer = await app("PATCH", target + query, json.dumps(patch).encode(), PATCH)
        assert answer.status == 200, answer.body
        loaded = await app("GET", "/api/objects/table")
        assert loaded.json == result
        assert answer.headers["etag"] == loaded.headers["etag"]
        told = {"key": "table", "etag": loaded.headers["etag"].strip('"'), "size": len(loaded.body)}
        assert answer.json == told


_PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=4)
JSONS = st.recursive(
    _PLAIN | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(JSONS, JSONS, st.sampled_from([None, 0, 2]))
def test_it_is_the_algorithm_of_the_standard(target: Any, patch: Any, indent: int | None) -> None:
    texts = [json.dumps(each, indent=indent).encode() for each in (target, patch)]
    once = merged(*texts)
    assert json.loads(once) == by_the_letter(target, patch)
    assert merged(once, texts[1]) == once  # A patch that comes again changes nothing, not even a byte.
    assert json.loads(merged(None, texts[1])) == by_the_letter(None, patch)


async def test_what_the_patch_does_not_name_keeps_every_digit(app: PlatformApp) -> None:
    kept = (
        b'"pi":3.14159265358979323846264,"big":123456789012345678901234567890,"one":1.0,"e":1E2,"u":"\\u00e9"'
    )
    await put(app, "digits", b'{"gone": 1, ' + kept + b"}")
    answer = await app("PATCH", "/api/objects/digits", b'{"gone": null, "new": 0.10000}', PATCH)
    assert answer.status == 200
    assert (await app("GET", "/api/objects/digits")).body == b"{" + kept + b',"new":0.10000}'


async def test_type_metadata_and_life_stay(app: PlatformApp) -> None:
    sent = {"x-meta-owner": "Zo%C3%AB", "x-expires-at": "2099-01-02T03:04:05.678Z"}
    await put(app, "kept", b'\xef\xbb\xbf {"a": 1} ', **sent, **{"Content-Type": "application/geo+json"})
    assert (await app("PATCH", "/api/objects/kept", b'{"b": 2}', PATCH)).status == 200
    found = await app("GET", "/api/objects/kept")
    assert found.body == b'{"a":1,"b":2}'
    assert found.headers["content-type"] == "application/geo+json"
    assert {name: found.headers[name] for name in sent} == sent
    typed = {"Content-Type": "Application/Merge-Patch+JSON; charset=utf-8"}
    assert (await app("PATCH", "/api/objects/kept", b"{}", typed)).status == 200


async def test_conditions(app: PlatformApp) -> None:
    target = "/api/objects/conditions"
    missing = await app("PATCH", target, b"{}", PATCH | {"If-Match": "*"})
    assert (missing.status, missing.problem["code"]) == (404, "key-not-found")
    first = await put(app, "conditions", b'{"n": 0}')
    for headers, status in (
        ({"If-Match": first}, 200),
        ({"If-Match": first}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"x", ' + first}, 412),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": first}, 200),
        ({"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}, 412),
        ({"If-Match": "broken"}, 400),
    ):
        before = (await app("GET", target)).headers["etag"]
        answer = await app("PATCH", target, b'{"n": 1}', PATCH | headers)
        assert answer.status == status, headers
        after = (await app("GET", target)).headers["etag"]
        assert (before == after) == (status != 200), headers


async def test_a_patch_whose_answer_was_lost_may_come_again(platform_anywhere: PlatformApp) -> None:
    app, target = platform_anywhere, "/api/objects/again"
    change = PATCH | {"If-Match": await put(app, "again", b'{"n": 0}'), "Idempotency-Key": "call-1"}
    first = await app("PATCH", target, b'{"n": 1}', change)
    again = await app("PATCH", target, b'{"n": 1}', change)
    assert (first.status, again.status) == (200, 200)
    assert first.headers["etag"] == again.headers["etag"]
    for other in (
        (b'{"n": 2}', change),
        (b'{"n": 1}', change | {"Idempotency-Key": "call-2"}),
        (b'{"n": 1}', {name: change[name] for name in ("Content-Type", "If-Match")}),
    ):
        assert (await app("PATCH", target, *other)).status == 412, other
    # Somebody else has saved the very same since, or something that is no JSON.
    await put(app, "again", b'{"n":1}')
    assert (await app("PATCH", target, b'{"n": 1}', change)).status == 412
    await put(app, "again", b"x", **{"Content-Type": "text/plain"})
    assert (await app("PATCH", target, b'{"n": 1}', change)).status == 412


async def test_no_change_is_lost_where_many_patch_at_once(platform_anywhere: PlatformApp) -> None:
    await put(platform_anywhere, "many", b'{"kept": true}')
    answers = await asyncio.gather(
        *(
            platform_anywhere("PATCH", "/api/objects/many", json.dumps({f"n{n}": {"v": n}}).encode(), PATCH)
            for n in range(8)
        )
    )
    assert {each.status for each in answers} == {200}
    found = (await platform_anywhere("GET", "/api/objects/many")).json
    assert found == {"kept": True} | {f"n{n}": {"v": n} for n in range(8)}


async def test_what_is_no_patch_or_no_target_of_one(app: PlatformApp) -> None:
    await app.storage.save("text", "hello")
    await app.storage.save("packed", {"b": b"x"})
    for key in ("text", "packed"):
        answer = await app("PATCH", f"/api/objects/{key}", b"{}", PATCH)
        assert (answer.status, answer.problem["field"]) == (415, "Content-Type")
        assert answer.headers["accept-patch"] == answer.problem["limit"] == "application/json"
    # What another program has put there.
    objects = app.storage.backend.objects
    await objects.put("broken", b"{", content_type="application/json")
    answer = await app("PATCH", "/api/objects/broken", b"{}", PATCH)
    assert (answer.status, answer.problem["code"], answer.problem["field"]) == (409, "not-json", "key")
    await put(app, "json", b'{"a": 1}')
    for body in (
        b"",
        b"{",
        b"{]",
        b'{"a": NaN}',
        b'"\xff"',
        b'{"a": 1} {}',
        b'{"a":' * 101 + b"1" + b"}" * 101,
    ):
        answer = await app("PATCH", "/api/objects/json", body, PATCH)
        assert (answer.status, answer.problem["code"]) == (400, "serialization-error"), body[:20]
        assert answer.problem["field"].startswith("body")
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json-patch+json"},
        {},
        PATCH | {"Content-Encoding": "gzip"},
    ):
        answer = await app("PATCH", "/api/objects/json", b"{}", headers)
        assert answer.status == 415, headers
        assert answer.headers["accept-patch"] == "application/json, application/merge-patch+json"
    assert answer.problem["field"] == "Content-Encoding"
    assert (await app("GET", "/api/objects/json")).json == {"a": 1}
    touched = await app("PATCH", "/api/objects/json", b'{"metadata": {"m": "1"}}', JSON)
    assert (touched.status, (await app("GET", "/api/objects/json")).json) == (200, {"a": 1})


async def test_limits(app: PlatformApp) -> None:
    app.state.max_json_bytes = 100  # type: ignore[misc]
    await put(app, "limits", b'{"a": "' + b"a" * 60 + b'"}')
    await app.storage.write("large", b'["' + b"a" * 200 + b'"]', content_type="application/json")
    for key, patch, field in (
        ("limits", b'{"b": "' + b"b" * 60 + b'"}', "key"),
        ("limits", b'["' + b"b" * 120 + b'"]', "body"),
        ("large", b'{"b": 1}', "key"),
    ):
        answer = await app("PATCH", f"/api/objects/{key}", patch, PATCH)
        assert (answer.status, answer.problem["code"], answer.problem["field"]) == (
            413,
            "object-too-large",
            field,
        )
        assert "AGENT_STORAGE_MAX_JSON_BYTES" in answer.problem["limit"]


async def test_a_rule_of_the_prefix_holds_for_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Rule(prefix="configs/", schema={"type": "object", "required": ["model"]})
    config = StorageConfig(storage_type="memory", validation=ValidationOptions(rules=[rule]))
    async with serve(monkeypatch, config) as app:
        await put(app, "configs/ceo", b'{"model": "large"}')
        refused = await app("PATCH", "/api/objects/configs/ceo", b'{"model": null}', PATCH)
        assert (refused.status, refused.problem["code"]) == (422, "rule-violation")
        assert (await app("GET", "/api/objects/configs/ceo")).json == {"model": "large"}
        assert (await app("PATCH", "/api/objects/configs/ceo", b'{"n": 1}', PATCH)).status == 200


async def test_a_patch_needs_the_rights_to_load_and_to_save(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    async with serve(monkeypatch, StorageConfig(storage_type="memory")) as app:
        for key in ("agents/ceo/a", "agents/cto/a", "shared/a", "agents/ceo2/a", "tenants/acme/a"):
            await app.storage.save(key, {"a": 1})
        for who, key, status in (
            ("ceo", "agents/ceo/a", 200),
            ("ceo", "shared/a", 403),  # may load, not save
            ("cto", "agents/cto/a", 403),  # may save, not load
            ("ceo", "agents/ceo2/a", 403),
            ("ceo", "agents/nobody", 403),
            ("acme", "a", 200),
            ("acme", "tenants/acme/a", 404),
        ):
            headers = PATCH | {"x-functions-key": f"k-{who}"}
            assert (await app("PATCH", f"/api/objects/{key}", b'{"b": 2}', headers)).status == status, (
                who,
                key,
            )
        assert await app.storage.load("tenants/acme/a") == {"a": 1, "b": 2}
        assert await app.storage.load("agents/cto/a") == {"a": 1}
