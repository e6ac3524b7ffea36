"""Texts as segments and table keys, and moments that sort newest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_lib import MemoryBackend, StorageManager
from storage_lib.errors import InvalidArgumentError, InvalidKeyError
from storage_lib.keys import validate_user_key
from storage_lib.ports.entities import check_keys
from storage_lib.segments import (
    from_path,
    from_segment,
    from_table_key,
    moment_of,
    newest_first,
    to_path,
    to_segment,
    to_table_key,
)

_TEXTS = st.text(st.characters(), max_size=20) | st.text(
    "./=%\\ ~e\u0301\u1100\u1161\ud800\U0001ffff", max_size=9
)


@given(st.lists(_TEXTS, max_size=3))
def test_any_text_is_a_segment_and_a_table_key_and_comes_back(texts: list[str]) -> None:
    for text in texts:
        segment = to_segment(text)
        assert "/" not in segment
        for key in (segment, f"a/{segment}", f"{segment}/a"):
            validate_user_key(key)
        assert from_segment(segment) == text
        assert check_keys(to_table_key(text), segment)
        assert from_table_key(to_table_key(text)) == text
    assert len({to_segment(text) for text in texts}) == len(set(texts))


@given(st.lists(_TEXTS, max_size=3))
def test_any_path_is_a_key_and_comes_back(paths: list[str]) -> None:
    for path in paths:
        key = to_path(path)
        validate_user_key(key)
        assert from_path(key) == path
        assert key.count("/") == path.count("/")
        if "=" not in key:
            assert key == path
    assert len({to_path(path) for path in paths}) == len(set(paths))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("reports/q4 2026.md", "reports/q4 2026.md"),
        ("a.b/C (1)/ü#?&", "a.b/C (1)/ü#?&"),
        ("", "="),
        ("/a//b/", "=/a/=/b/="),
        ("../up", "=2E=2E/up"),
        ("a=b/c", "a=3Db/c"),
        ("x./a\\b", "x=2E/a=5Cb"),
        (".system/a", "=2Esystem/a"),
        ("a%2Fb", "a=252Fb"),
        ("u\u0308/\ud800", "u=CC=88/=ED=A0=80"),
    ],
)
def test_paths_are_these(path: str, key: str) -> None:
    assert to_path(path) == key
    assert from_path(key) == path


@pytest.mark.parametrize("key", ["a=b", "=41", "a/=2", "x/a=/b", 1])
def test_what_no_path_gives_is_refused(key: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="to_"):
        from_path(key)


def test_a_part_of_a_path_that_is_too_long_is_refused() -> None:
    to_path("a" * 255)
    for path in ("a" * 256, "x/" + "=" * 86):
        with pytest.raises(InvalidKeyError) as refused:
            to_path(path)
        assert refused.value.limit is not None
        assert "255" in refused.value.limit


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("", "="),
        ("=", "=3D"),
        ("ann@example.com/eu", "ann@example.com=2Feu"),
        (".system", "=2Esystem"),
        ("..", "=2E=2E"),
        (".", "=2E"),
        ("Zoë 😀", "Zoë=20😀"),
        ("e\u0301", "e=CC=81"),
        ("100%", "100=25"),
        ("\ud800", "=ED=A0=80"),
    ],
)
def test_segments_are_these(text: str, segment: str) -> None:
    assert to_segment(text) == segment
    assert from_segment(segment) == text


@pytest.mark.parametrize(
    "segment", ["", "a/b", "=4", "=2f", "=41", "==", "a=", "=FF", ".a", "é=CC=81", 5, None]
)
def test_what_no_text_gives_is_refused(segment: Any) -> None:
    for decode in (from_segment, from_table_key):
        with pytest.raises(InvalidArgumentError) as refused:
            decode(segment)
        assert refused.value.field == "segment"


def test_a_text_that_is_too_long_is_refused() -> None:
    assert from_segment(to_segment("a" * 255)) == "a" * 255
    assert from_table_key(to_table_key("/" * 170)) == "/" * 170
    for encode, text in ((to_segment, "a" * 256), (to_segment, "/" * 86), (to_table_key, "/" * 171)):
        with pytest.raises(InvalidKeyError) as refused:
            encode(text)
        assert refused.value.field == "text"
        assert refused.value.remedy


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1, 1, 2),
            max_value=datetime(9999, 12, 30),
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7)), timezone(timedelta(hours=9))]),
        ),
        max_size=5,
    )
)
def test_the_newest_moment_sorts_first(moments: list[datetime]) -> None:
    segments = sorted(newest_first(moment) for moment in moments)
    assert [moment_of(segment) for segment in segments] == sorted(moments, reverse=True)
    assert {len(segment) for segment in segments} <= {18}


async def test_a_listing_begins_with_the_newest() -> None:
    storage = StorageManager(backend=MemoryBackend())
    for day in (3, 1, 2):
        await storage.save(f"log/{newest_first(datetime(2026, 1, day, tzinfo=UTC))}", day)
    page = await storage.list_page("log/", limit=2)
    assert [await storage.load(entry.key) for entry in page.entries] == [3, 2]


@pytest.mark.parametrize(
    "when",
    [
        datetime(2026, 1, 1),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-7))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=7))),
        "2026-01-01",
        None,
        5,
    ],
    ids=str,
)
def test_what_is_no_moment_is_refused(when: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        newest_first(when)


@pytest.mark.parametrize("segment", ["", "1", "9" * 18, "9" * 19, "٣" * 18, None])
def test_what_no_moment_gives_is_refused(segment: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        moment_of(segment)


def test_a_table_key_may_have_every_character_but_those_that_azure_refuses() -> None:
    refused = {*"/\\#?\ufffe\uffff", *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0))}
    refused |= set(map(chr, range(0xD800, 0xE000)))
    for code in (*range(0x3000), *range(0xD700, 0xE100), *range(0xFFF0, 0x10010), 0x1F642, 0x10FFFF):
        for key in (chr(code), f"a{chr(code)}b"):
            try:
                assert check_keys(key, "") == check_keys("", key)[::-1] == (key, "")
            except InvalidKeyError:
                assert chr(code) in refused
            else:
                assert chr(code) not in refused
