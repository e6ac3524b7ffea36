"""Listings: where they begin, and what they tell of each object."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from storage_lib.errors import InvalidKeyError
from storage_lib.ports.objects import ListEntry, ObjectInfo, ObjectStore
from storage_lib.testing.explained import explained

_NAMES = ("a", "a/1", "a/2/x", "a-1", "a.b", "a0", "b/x/y", "b/z", "c", "é", "😀")
_STARTS = (
    "",
    "0",
    "a",
    "a!",
    "a-",
    "a/",
    "a/1",
    "a/2/",
    "a/2/x",
    "a0/q",
    "b",
    "b/",
    "b/x/y",
    "é",
    "\uffee",
    "😀",
)
_TEXT = b"as often as it takes. " * 500


class ListingContract:
    """Part of `ObjectStoreContract`."""

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        raise NotImplementedError

    async def test_a_listing_begins_behind_a_name(self, objects: ObjectStore, unique: str) -> None:
        for name in _NAMES:
            await objects.put(f"{unique}/{name}", b"")
        for below, delimiter in (("", None), ("", "/"), ("a", None), ("a/", "/"), ("b/", None)):
            prefix = f"{unique}/{below}"
            everything = [_name(found) for found in await objects.iterate(prefix, delimiter=delimiter)]
            assert len(everything) > 1
            for start in (*(f"{unique}/{start}" for start in _STARTS), unique, f"{unique}0"):
                expected = [name for name in everything if name > start]
                listed = objects.iterate(prefix, delimiter=delimiter, start_after=start)
                assert [_name(found) for found in await listed] == expected, (prefix, delimiter, start)

    async def test_pages_begin_behind_a_name_and_go_on_behind_their_cursor(
        self, objects: ObjectStore, unique: str
    ) -> None:
        for name in ("a/1", "a/2", "b", "c", "d"):
            await objects.put(f"{unique}/{name}", b"")
        first = await objects.list_page(f"{unique}/", limit=2, start_after=f"{unique}/a/")
        assert [entry.key for entry in first.entries] == [f"{unique}/a/1", f"{unique}/a/2"]
        for start in (None, f"{unique}/a/"):
            page = await objects.list_page(f"{unique}/", cursor=first.cursor, start_after=start)
            assert [entry.key for entry in page.entries] == [f"{unique}/{name}" for name in "bcd"]
        page = await objects.list_page(f"{unique}/", cursor=first.cursor, start_after=f"{unique}/c")
        assert [entry.key for entry in page.entries] == [f"{unique}/d"]

    async def test_a_start_that_no_key_can_have_is_refused(self, objects: ObjectStore) -> None:
        starts: list[Any] = [5, b"a", "a//b", "/a", "\ud800", "a/../b", "tab\t", "a" * 2000]
        for start in starts:
            for refused in (objects.list_page(start_after=start), objects.iterate(start_after=start)):
                with explained(start), pytest.raises(InvalidKeyError) as raised:
                    await refused
                assert raised.value.field == "start_after"

    async def test_a_listing_with_details_has_the_info_of_each_object(
        self, objects: ObjectStore, unique: str
    ) -> None:
        told = {"author": "Zoë", "empty": "", "percent": "100%", "a-b": "two  spaces"}
        await objects.put(f"{unique}/1", _TEXT, content_type="text/plain; charset=utf-8", metadata=told)
        await objects.put(f"{unique}/2", b"{}", content_type="application/json", metadata=told, ttl=3600)
        await objects.put_stream(f"{unique}/3", [_TEXT] * 3, content_type="text/markdown", metadata=told)
        await objects.put(f"{unique}/4", b"")
        await objects.put(f"{unique}/5/x", b"")
        page = await objects.list_page(f"{unique}/", delimiter="/", details=True)
        assert page.prefixes == [f"{unique}/5/"]
        assert len(page.entries) == 4
        for entry in page.entries:
            _agrees(entry, await objects.head(entry.key))
        assert [entry.info for entry in (await objects.list_page(unique)).entries] == [None] * 5
        await objects.delete(f"{unique}/2")  # or it would expire in another test of the same store

    async def test_a_listing_has_the_info_of_objects_of_other_programs(
        self, objects: ObjectStore, unique: str
    ) -> None:
        await self.put_foreign(objects, f"{unique}/report.csv", b"a,b\n1,2\n", "text/csv")
        (entry,) = (await objects.list_page(unique, details=True)).entries
        _agrees(entry, await objects.head(entry.key))
        assert entry.info is not None
        assert entry.info.content_type == "text/csv"


def _agrees(entry: ListEntry, info: ObjectInfo) -> None:
    assert entry.info is not None
    assert (entry.size, entry.etag, entry.last_modified) == (
        entry.info.size,
        entry.info.etag,
        entry.info.last_modified,
    )
    assert abs(entry.info.last_modified - info.last_modified) < timedelta(seconds=1)
    assert entry.info.sha256 in (None, info.sha256)
    assert replace(entry.info, last_modified=info.last_modified, sha256=info.sha256) == info


def _name(found: ListEntry | str) -> str:
    return found if isinstance(found, str) else found.key
