"""Answers in a content coding (RFC 9110, 8.4 and 12.5.3): which are, and what their ETags mean."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import azure.functions as func
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions import codings, digests, ranges
from functions.codings import coded, without_coding
from storage_lib.ports.object_model import ObjectInfo
from storage_lib.zstandard import zstd
from tests.http_app import AppAnswer, PlatformApp
from tests.test_http_digests import sf

TEXT = json.dumps([{"name": "ü", "notes": "n" * 20, "n": n} for n in range(100)]).encode()
JSON = {"Content-Type": "application/json"}


def decoded(answer: AppAnswer) -> bytes:
    match answer.headers.get("content-encoding"):
        case None:
            return answer.body
        case "gzip":
            return gzip.decompress(answer.body)
        case "zstd":
            return zstd.decompress(answer.body)
        case other:
            raise AssertionError(other)


async def get(app: PlatformApp, accept: str | None, method: str = "GET", **headers: str) -> AppAnswer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if accept is not None:
        sent["Accept-Encoding"] = accept
    return await app(method, "/api/objects/a", headers=sent)


ACCEPTED = [
    (None, None),
    ("", None),
    ("identity", None),
    ("gzip", "gzip"),
    ("GZip", "gzip"),
    ("x-gzip", "gzip"),
    ("zstd", "zstd"),
    ("gzip, deflate, br, zstd", "zstd"),
    ("gzip, deflate, br", "gzip"),
    ("gzip;q=1.0, zstd;q=0.5", "gzip"),
    ("gzip ; q=0.5,zstd; q=0.50", "zstd"),
    ("gzip;q=0, zstd;q=0.000", None),
    ("gzip;q=0", None),
    ("gzip;q=0, *", None),
    ("*", "gzip"),
    ("*;q=0.1", "gzip"),
    ("*;q=0", None),
    ("*;q=0, gzip", "gzip"),
    ("br, deflate", None),
    ("gzip;q=0.5, identity", None),
    ("gzip;q=0.5, identity;q=0.4", "gzip"),
    ("identity;q=0.5, gzip;q=0.5", "gzip"),
    ("identity;q=0, gzip", "gzip"),
    ("identity;q=0", None),
    ("gzip;q=2", None),
    ("gzip;level=9", None),
    ("gzip;q=", None),
    (";;,gzip,,", "gzip"),
    ("gzip" * 5000, None),
]


@pytest.mark.parametrize(("accept", "coding"), ACCEPTED, ids=lambda each: str(each)[:30])
async def test_what_the_client_likes_best(
    platform: PlatformApp, accept: str | None, coding: str | None
) -> None:
    await platform("PUT", "/api/objects/a", TEXT, JSON)
    answer = await get(platform, accept)
    assert answer.headers.get("content-encoding") == coding
    assert decoded(answer) == TEXT
    assert answer.headers["content-length"] == str(len(answer.body))
    assert coding is None or len(answer.body) < len(TEXT) / 2
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"] == "application/json"
    head = await get(platform, accept, "HEAD")
    unlike = {"content-length"} if coding else set[str]()
    assert {name: value for name, value in answer.headers.items() if name not in unlike} == head.headers


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_each_coding_has_an_etag_and_both_mean_the_version(platform: PlatformApp, coding: str) -> None:
    for ttl in ({}, {"x-ttl-seconds": "600"}):
        own = (await platform("PUT", "/api/objects/a", TEXT, JSON | ttl)).headers["etag"]
        tag = (await get(platform, coding)).headers["etag"]
        assert tag == f'{own[:-1]}+{coding}"'
        for accept in (coding, None, "gzip, zstd"):
            for known in (tag, own):
                answer = await get(platform, accept, If_None_Match=f'"x", {known}')
                assert (answer.status, answer.headers["etag"], answer.body) == (304, known, b"")
                assert "content-encoding" not in answer.headers
                assert (await get(platform, accept, "HEAD", If_None_Match=known)).status == 304
                assert (await get(platform, accept, If_Match=known)).status == 200
        since = (await get(platform, coding)).headers["last-modified"]
        answer = await get(platform, coding, If_Modified_Since=since)
        assert (answer.status, answer.headers["etag"]) == (304, tag)

        # A client that got it encoded writes under that condition, and no other one does.
        target = "/api/objects/a"
        for wrong in (f"W/{tag}", f'"x+{coding}"', f'{own[:-1]}+br"', f'{own[:-1]}+"'):
            assert (await platform("PUT", target, b"1", JSON | {"If-Match": wrong})).status == 412
        assert (await platform("PUT", target, b"1", JSON | {"If-None-Match": tag})).status == 412
        saved = await platform("PUT", target, b"[2]", JSON | {"If-Match": tag})
        assert saved.status == 200
        assert (await platform("PUT", target, b"[3]", JSON | {"If-Match": tag})).status == 412
        touch = json.dumps({"metadata": {"m": "1"}}).encode()
        encoded = f'{saved.headers["etag"][:-1]}+{coding}"'
        touched = await platform("PATCH", target, touch, JSON | {"If-Match": encoded})
        assert touched.status == 200
        encoded = f'{touched.headers["etag"][:-1]}+{coding}"'
        assert (await platform("DELETE", target, headers={"If-Match": encoded})).status == 204


@pytest.mark.parametrize("ttl", [{}, {"x-ttl-seconds": "600"}], ids=["lasting", "ending"])
async def test_ranges_are_of_what_was_saved(platform: PlatformApp, ttl: Mapping[str, str]) -> None:
    own = (await platform("PUT", "/api/objects/a", TEXT, {**JSON, **ttl})).headers["etag"]
    answer = await get(platform, "gzip, zstd", Range="bytes=3-7")
    assert (answer.status, answer.body, answer.headers["etag"]) == (206, TEXT[3:8], own)
    assert "content-encoding" not in answer.headers
    assert (await get(platform, "gzip", Range="bytes=3-7", If_Range=own)).status == 206
    # It has a part of the encoded bytes, to which no part of the others fits.
    tag = f'{own[:-1]}+gzip"'
    answer = await get(platform, "gzip", Range="bytes=3-7", If_Range=tag)
    assert (answer.status, decoded(answer)) == (200, TEXT)
    for several in ("bytes=3-7", "bytes=3-7,20-30"):
        answer = await get(platform, "gzip, identity;q=0", Range=several)
        assert (answer.status, answer.headers["content-encoding"]) == (200, "gzip")
        assert decoded(answer) == TEXT
        assert answer.headers["etag"] == tag


async def test_a_version_that_is_replaced_meanwhile_is_no_failed_condition(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    await platform("PUT", "/api/objects/a", TEXT, JSON)
    read, other = platform.storage.read, TEXT.replace(b"n", b"m")

    async def replaced_after(key: str, **options: Any) -> Any:
        found = await read(key, **options)
        monkeypatch.setattr(platform.storage, "read", read)
        await platform.storage.write("a", other, content_type="application/json")
        return found

    monkeypatch.setattr(platform.storage, "read", replaced_after)
    answer = await get(platform, "gzip, identity;q=0", Range="bytes=3-7")
    assert (answer.status, decoded(answer)) == (200, other)


KINDS = [
    ("application/json", True),
    ("application/json; charset=utf-8", True),
    ("Application/LD+JSON", True),
    ("text/csv", True),
    ("text/html; charset=utf-8", True),
    ("image/svg+xml", True),
    ("application/x-ndjson", True),
    ("image/png", False),
    ("application/gzip", False),
    ("application/zip", False),
    ("application/octet-stream", False),
    ("application/vnd.apache.parquet", False),
    ("text/event-stream", False),
]


@pytest.mark.parametrize(("kind", "is_encoded"), KINDS)
async def test_only_what_becomes_shorter_is_encoded(
    platform: PlatformApp, kind: str, is_encoded: bool
) -> None:
    await platform.storage.backend.objects.put("a", TEXT, content_type=kind)
    answer = await get(platform, "gzip")
    assert ("content-encoding" in answer.headers) == is_encoded
    assert decoded(answer) == TEXT
    answer = await get(platform, "gzip, identity;q=0")
    assert answer.headers["content-encoding"] == "gzip", "it takes nothing else"
    assert decoded(answer) == TEXT


async def test_small_and_very_large_ones_are_sent_as_they_are(
    platform: PlatformApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codings, "MAX_BYTES", 4096)
    for size in (0, 1, codings.MIN_BYTES - 1, codings.MIN_BYTES, 4096, 4097):
        await platform("PUT", "/api/objects/a", b"x" * size, {"Content-Type": "text/plain"})
        answer = await get(platform, "gzip")
        assert ("content-encoding" in answer.headers) == (codings.MIN_BYTES <= size <= 4096), size
        assert decoded(answer) == b"x" * size
        head = await get(platform, "gzip", "HEAD")
        assert head.headers.get("content-length") == (
            None if "content-encoding" in head.headers else str(size)
        )


async def test_no_transform_is_heeded_from_either_side(platform: PlatformApp) -> None:
    await platform("PUT", "/api/objects/a", TEXT, JSON)
    answer = await get(platform, "gzip", Cache_Control="max-age=0, No-Transform")
    assert "content-encoding" not in answer.headers
    await platform("PUT", "/api/objects/a", TEXT, JSON | {"Cache-Control": "public, no-transform"})
    assert "content-encoding" not in (await get(platform, "gzip")).headers
    assert "content-encoding" not in (await get(platform, "gzip, identity;q=0")).headers


async def test_what_is_encoded_already_is_sent_as_it_is(platform: PlatformApp) -> None:
    packed = gzip.compress(TEXT)
    await platform.storage.backend.objects.adopt(
        "a", packed, "application/json", {"aos-content-encoding": "gzip"}
    )
    for accept in ("gzip, zstd", None, "identity"):
        answer = await get(platform, accept)
        assert (answer.headers["content-encoding"], answer.body) == ("gzip", packed)
        assert "vary" not in answer.headers
        assert (await get(platform, accept, "HEAD")).headers["content-length"] == str(len(packed))


async def test_digests_are_of_what_is_sent(platform: PlatformApp) -> None:
    await platform("PUT", "/api/objects/a", TEXT, JSON)
    plain = await get(platform, "gzip")
    assert "repr-digest" not in plain.headers, "the stored one is of the bytes without the coding"
    for accept in ("gzip", "zstd", None):
        wants = {"Want_Repr_Digest": "sha-512=1", "Want_Content_Digest": "sha-256=1"}
        answer = await get(platform, accept, **wants)
        assert answer.headers["repr-digest"] == sf("sha-512", answer.body)
        assert answer.headers["content-digest"] == sf("sha-256", answer.body)


async def test_what_shows_more_than_one_object_is_never_encoded(platform: PlatformApp) -> None:
    """What an attacker wrote or sent must not be compressed together with others' secrets (BREACH)."""
    for n in range(40):
        await platform("PUT", f"/api/objects/secrets/{n}", b"x")
    for target in ("/api/objects?limit=1000", "/api/objects/" + "k" * 1100, "/api/tasks", "/api/health/live"):
        answer = await platform("GET", target, headers={"Accept-Encoding": "gzip, zstd, *"})
        assert "content-encoding" not in answer.headers, target


async def test_an_encoded_load_on_every_backend(platform_anywhere: PlatformApp) -> None:
    app = platform_anywhere
    await app("PUT", "/api/objects/a", TEXT, JSON | {"Cache-Control": "public, max-age=5"})
    answer = await get(app, "gzip")
    assert decoded(answer) == TEXT
    assert answer.headers["vary"].startswith("Accept-Encoding, ")
    tag = answer.headers["etag"]
    assert (await get(app, "gzip", If_None_Match=tag)).status == 304
    assert (await app("PUT", "/api/objects/a", b"[]", JSON | {"If-Match": tag})).status == 200


@given(st.from_regex(r"[!#-+\--~]{1,60}", fullmatch=True), st.sampled_from([None, *codings.CODINGS]))
def test_a_coding_is_taken_off_an_etag_again(etag: str, coding: codings.Coding | None) -> None:
    if not etag.endswith(("+gzip", "+zstd")):
        assert without_coding(coded(etag, coding)) == etag


async def test_the_same_bytes_each_time() -> None:
    assert len({await codings.encoded("gzip", TEXT * 20) for _ in range(3)}) == 1
    assert len({await codings.encoded("zstd", TEXT * 20) for _ in range(3)}) == 1


_ANY = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=80),
    st.lists(
        st.sampled_from(
            [
                "gzip",
                "zstd",
                "*",
                "identity",
                ";q=",
                "0",
                "1",
                ".5",
                ",",
                " ",
                "bytes=",
                "-",
                "9",
                "sha-256",
                "=",
                ":",
            ]
        ),
        max_size=20,
    ).map("".join),
)


@given(_ANY)
def test_no_text_of_a_header_is_too_strange(text: str) -> None:
    now = datetime.now(UTC)
    info = ObjectInfo("a", 5000, "e", now, "text/plain", cache_control=text)
    names = (
        "Accept-Encoding",
        "Range",
        "If-Range",
        "Want-Content-Digest",
        "Want-Repr-Digest",
        "Cache-Control",
    )
    request = func.HttpRequest(
        "GET", "http://app/api/objects/a", headers=dict.fromkeys(names, text), body=b""
    )
    assert codings.chosen(request, info) in (None, *codings.CODINGS)
    assert digests.wanted(request, digests.CONTENT) in (None, "sha-256", "sha-512")
    assert len(ranges.byte_ranges(request)) <= ranges.MAX_RANGES
    assert ranges.range_holds(request, info) in (True, False)
