"""What an object store does, whatever is behind it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage_lib.errors import (
    IntegrityError,
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectExistsError,
    ObjectTooLargeError,
    PreconditionFailedError,
    RangeNotSatisfiableError,
    TransientStorageError,
)
from storage_lib.ports import sweeping
from storage_lib.ports.backend import ByteRange, ListEntry, ObjectInfo, ObjectStore
from storage_lib.ports.drivers import PutOptions
from storage_lib.testing.buffers import NOT_BYTES, buffers
from storage_lib.testing.cancellation import CancelledObjectWrites
from storage_lib.testing.conditions import ConditionContract
from storage_lib.testing.explained import explained
from storage_lib.testing.foreign_names import ForeignNameContract
from storage_lib.testing.headers import HeadersContract
from storage_lib.testing.listings import ListingContract
from storage_lib.testing.sweeps import SweepContract
from storage_lib.testing.touch import TouchContract
from storage_lib.testing.writers import WriterContract

AWKWARD_KEYS = [
    "a",
    "a/b",
    "a.json",
    "a_b",
    "a-b/c",
    "a b/c d",
    "a+b",
    "100%",
    "%41",
    "%2e%2e",
    "q?x=1&y=2#frag",
    "~tilde!*'();:@=,[]{}|^`\"<>$",
    ".hidden/.dot",
    "a/.b",
    "x.obj",
    "x.obj/y",
    "x",
    "CON",
    "Case",
    "case",
    "naïve/über/日本語",
    "emoji/🙂",
    "\uffee",
    "trailing space ",
    " leading",
    "s" * 255,
    "/".join(["d" * 60] * 16),
    "ü" * 127,
    "a" * 240 + "/" + "b" * 240,
]
"""Keys that some store or path on the way is known to change, merge or refuse."""

MISLEADING_NAMES = [
    " (code: 500)",
    "non-2xx status code: 500",
    ": The specified blob",
    "got x-ms-resource-type: directory",
    "redirect without LOCATION",
    "<Code>ServerBusy</Code>",
]
"""What vendors' errors say, in keys that these errors name."""

INVALID_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a/..",
    "dot.",
    "dot./a",
    "nul\x00",
    "tab\t",
    "line\n",
    "del\x7f",
    "c1\x85",
    "back\\slash",
    "\ud800",
    "\ufffe",
    "\U0001ffff",
    "e\u0301",  # not in normalisation form C
    "a%2Fb",
    "a%2fb",
    "s" * 256,
    "ü" * 128,
    "/".join(["d" * 60] * 17),
    "/".join(["d"] * 129),
]


class ObjectStoreContract(
    CancelledObjectWrites,
    ConditionContract,
    SweepContract,
    TouchContract,
    HeadersContract,
    ForeignNameContract,
    ListingContract,
    WriterContract,
):
    """Subclass it and give the fixture ``objects``; override `tamper` and `put_foreign` with raw access
    that goes round the store, so that a mistake made on both ways cannot hide."""

    binary_types = ('text/csv; charset="utf-8"', "text/x-stream")
    """Content types that the store takes with any bytes."""

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        """Replace the stored bytes of ``key`` and leave everything else (checksum, type) as it is."""
        raise NotImplementedError

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        """Store an object as another program would: no checksum or mark of this library."""
        raise NotImplementedError

    @pytest.fixture
    def unique(self) -> str:
        """A prefix of its own for each test, so that tests may share a store."""
        return f"t-{uuid.uuid4().hex[:12]}"

    # -- what goes in comes out

    @pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
    async def test_bytes_come_back_with_type_and_metadata(
        self, objects: ObjectStore, unique: str, size: int
    ) -> None:
        data = hashlib.shake_128(b"seed").digest(size)
        before = datetime.now(UTC) - timedelta(seconds=5)
        put = await objects.put(
            f"{unique}/k",
            data,
            content_type=self.binary_types[0],
            metadata={"author-name": "Zoë  % \\ ", "n": "1"},
        )
        found = await objects.get(f"{unique}/k")
        assert found is not None
        assert found.data == data
        assert type(found.data) is bytes
        info = found.info
        assert (info.key, info.size, info.content_type) == (
            f"{unique}/k",
            size,
            self.binary_types[0],
        )
        assert dict(info.metadata) == {"author-name": "Zoë  % \\ ", "n": "1"}
        assert info.sha256 == hashlib.sha256(data).hexdigest()
        assert info.etag == put.etag
        assert not info.etag.startswith(('"', "W/"))
        assert put.size == size
        assert before < info.last_modified < datetime.now(UTC) + timedelta(seconds=5)
        assert await objects.head(f"{unique}/k") == info

    @pytest.mark.parametrize("given", [{}, {"m": "1"}])
    async def test_what_was_told_of_an_object_is_not_the_stored_thing(
        self, objects: ObjectStore, given: dict[str, str]
    ) -> None:
        kept = dict(given)
        await objects.put("told", b"x", metadata=given)
        given["later"] = "2"

        async def infos() -> list[ObjectInfo]:
            got = await objects.get("told")
            (entry,) = (await objects.list_page("told", details=True)).entries
            assert got is not None and entry.info is not None  # noqa: PT018 - told to the type checker
            return [await objects.head("told"), got.info, entry.info]

        for _ in range(2):  # What one has changed is not shown to the next.
            for info in await infos():
                assert dict(info.metadata) == kept
                if isinstance(info.metadata, dict):
                    info.metadata["changed"] = "3"

    async def test_overwriting_replaces_data_type_and_metadata(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/k"
        first = await objects.put(key, b"long first value", content_type="text/plain", metadata={"a": "1"})
        second = await objects.put(key, b"2", content_type="application/json", metadata={"b": "2"})
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"2"
        assert found.info.content_type == "application/json"
        assert dict(found.info.metadata) == {"b": "2"}
        assert first.etag != second.etag == found.info.etag
        if objects.reports_created:
            assert (first.created, second.created) == (True, False)

    async def test_writing_the_same_again_changes_the_etag(self, objects: ObjectStore, unique: str) -> None:
        first = await objects.put(f"{unique}/k", b"same")
        second = await objects.put(f"{unique}/k", b"same")
        assert first.etag != second.etag

    # -- every key survives

    async def test_every_key_has_its_own_object_and_is_listed(
        self, objects: ObjectStore, unique: str
    ) -> None:
        keys = [key if len(key) > 200 else f"{unique}/{key}" for key in AWKWARD_KEYS]
        for key in keys:
            await objects.put(key, key.encode(), content_type="text/plain")
        for key in keys:
            found = await objects.get(key)
            assert found is not None
            assert found.data.decode() == key
            assert found.info.key == key
        below = sorted((key for key in keys if key.startswith(unique)), key=str.encode)
        assert [entry.key async for entry in _entries(objects, unique + "/")] == below
        for key in keys:
            await objects.delete(key)
        assert [entry.key async for entry in _entries(objects, unique)] == []

    async def test_keys_outside_the_grammar_are_refused_everywhere(self, objects: ObjectStore) -> None:
        for key in INVALID_KEYS:
            with explained(key), pytest.raises(InvalidKeyError) as refused:
                await objects.put(key, b"x")
            assert refused.value.field == "key"
            for call in (objects.get, objects.head, objects.delete):
                with explained(key), pytest.raises(InvalidKeyError):
                    await call(key)

    # -- not found is its own answer

    async def test_a_missing_object_is_not_found(self, objects: ObjectStore, unique: str) -> None:
        for call in (objects.get, objects.head, objects.delete):
            with pytest.raises(KeyNotFoundError):
                await call(f"{unique}/missing")
        await objects.put(f"{unique}/parent/child", b"x")
        for key in (f"{unique}/parent", f"{unique}/parent/child/below"):
            with pytest.raises(KeyNotFoundError):
                await objects.get(key)

    async def test_a_key_is_not_taken_for_an_answer(self, objects: ObjectStore, unique: str) -> None:
        for key in [f"{unique}{name}" for name in MISLEADING_NAMES]:
            for call in (objects.get, objects.head, objects.delete):
                with pytest.raises(KeyNotFoundError) as missing:
                    await call(key)
                assert str(missing.value) == f"object {key!r} does not exist"
            await objects.put(key, b"1", if_absent=True)
            with pytest.raises(PreconditionFailedError):
                await objects.put(key, b"2", if_absent=True)
            with pytest.raises(PreconditionFailedError):
                await objects.put(key, b"2", if_match="0x0")
            found = await objects.get(key)
            assert found is not None
            assert found.data == b"1"
            await objects.delete(key)
            with pytest.raises(KeyNotFoundError):
                await objects.get(key)

    async def test_errors_read_alike_on_every_backend(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        gone, key = f"{unique}/gone 'ü'", f"{unique}/k"
        old = (await objects.put(key, b"1")).etag
        await objects.put(key, b"2")
        long = [b"x" * self.small_part] * 2

        async def read(key: str, **arguments: Any) -> None:
            async with objects.open_reader(key, **arguments):
                pass

        for call in (
            objects.get(gone),
            objects.get(gone, byte_range=ByteRange(0, 1)),
            objects.get(gone, if_match=old),
            objects.head(gone),
            objects.delete(gone),
            objects.delete(gone, if_match=old),
            objects.copy(gone, key),
            objects.move(gone, f"{unique}/new"),
            read(gone),
        ):
            with pytest.raises(KeyNotFoundError) as missing:
                await call
            assert str(missing.value) == f"object {gone!r} does not exist"
            assert missing.value.field == "key"
        for etag in (old, "0x0", "ü"):
            for call in (
                objects.put_stream(key, long, if_match=etag),
                objects.get(key, if_match=etag),
                objects.get(key, byte_range=ByteRange(-1), if_match=etag),
                objects.get(key, byte_range=ByteRange(0, 1), if_match=etag),
                objects.delete(key, if_match=etag),
                read(key, if_match=etag),
            ):
                with pytest.raises(PreconditionFailedError) as unmet:
                    await call
                assert str(unmet.value) == f"object {key!r} does not have the ETag {etag!r}"
                assert unmet.value.field == "if_match"
        with pytest.raises(PreconditionFailedError) as unmet:
            await objects.put(gone, b"1", if_match=old)
        assert str(unmet.value) == f"object {gone!r} does not have the ETag {old!r}"
        assert unmet.value.field == "if_match"
        await objects.put(f"{unique}/other", b"x")
        for call in (
            objects.put(key, b"3", if_absent=True),
            objects.put_stream(key, long, if_absent=True),
            objects.copy(f"{unique}/other", key, if_absent=True),
        ):
            with pytest.raises(PreconditionFailedError) as unmet:
                await call
            assert str(unmet.value) == f"object {key!r} exists"
            assert unmet.value.field == "if_absent"

    async def test_a_deleted_object_is_gone(self, objects: ObjectStore, unique: str) -> None:
        await objects.put(f"{unique}/k", b"x")
        await objects.delete(f"{unique}/k")
        with pytest.raises(KeyNotFoundError):
            await objects.get(f"{unique}/k")
        with pytest.raises(KeyNotFoundError):
            await objects.delete(f"{unique}/k")

    # -- compare and set

    async def test_what_is_missing_may_be_deleted(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        put = await objects.put(key, b"x")
        await objects.delete(key, missing_ok=True)
        for if_match in (None, "*", put.etag, "another"):
            await objects.delete(key, if_match=if_match, missing_ok=True)
        await objects.put(key, b"y")
        with pytest.raises(PreconditionFailedError):
            await objects.delete(key, if_match=put.etag, missing_ok=True)
        assert (await objects.head(key)).size == 1
        with pytest.raises(InvalidKeyError):
            await objects.delete("../a", missing_ok=True)

    async def test_many_that_are_deleted_together_are_gone_and_no_others(
        self, objects: ObjectStore, unique: str
    ) -> None:
        keys = [f"{unique}/{n:02} &<{chr(0xE4)}>" for n in range(20)]
        others = [f"{unique}/folder/kept", f"{unique}/kept"]
        await asyncio.gather(*(objects.put(key, b"x") for key in (*keys, *others)))
        missing = [f"{unique}/folder", f"{unique}/none"]
        done = await objects.delete_many([*keys, *missing, keys[0]], missing_ok=True)
        assert done == dict.fromkeys([*keys, *missing])
        page = await objects.list_page(f"{unique}/")
        assert [entry.key for entry in page.entries] == others
        done = await objects.delete_many([*keys, others[1]])
        told = {key: type(error) for key, error in done.items() if error is not None}
        assert told == dict.fromkeys(keys, KeyNotFoundError)

    async def test_if_absent_creates_once(self, objects: ObjectStore, unique: str) -> None:
        first = await objects.put(f"{unique}/k", b"1", if_absent=True)
        assert first.created is True
        with pytest.raises(PreconditionFailedError) as refused:
            await objects.put(f"{unique}/k", b"2", if_absent=True)
        assert refused.value.field == "if_absent"
        found = await objects.get(f"{unique}/k")
        assert found is not None
        assert found.data == b"1"

    async def test_if_match_replaces_only_what_was_read(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        first = await objects.put(key, b"1")
        second = await objects.put(key, b"2", if_match=first.etag)
        with pytest.raises(PreconditionFailedError) as refused:
            await objects.put(key, b"3", if_match=first.etag)
        assert refused.value.field == "if_match"
        assert str(refused.value) == f"object {key!r} does not have the ETag {first.etag!r}"
        with pytest.raises(PreconditionFailedError):
            await objects.put(f"{unique}/missing", b"3", if_match=first.etag)
        with pytest.raises(PreconditionFailedError):
            await objects.delete(key, if_match=first.etag)
        with pytest.raises(KeyNotFoundError):
            await objects.delete(f"{unique}/missing", if_match=first.etag)
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"2"
        await objects.delete(key, if_match=second.etag)
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)

    async def test_racing_creators_have_one_winner(self, objects: ObjectStore, unique: str) -> None:
        async def create(n: int) -> int | None:
            try:
                await objects.put(f"{unique}/k", b"%d" % n, if_absent=True)
            except PreconditionFailedError:
                return None
            return n

        winners = [n for n in await asyncio.gather(*map(create, range(12))) if n is not None]
        assert len(winners) == 1
        found = await objects.get(f"{unique}/k")
        assert found is not None
        assert found.data == b"%d" % winners[0]

    async def test_racing_updates_lose_nothing(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/counter"
        await objects.put(key, b"0")

        async def increment() -> None:
            while True:
                found = await objects.get(key)
                assert found is not None
                try:
                    await objects.put(key, b"%d" % (int(found.data) + 1), if_match=found.info.etag)
                except PreconditionFailedError:
                    continue
                return

        await asyncio.gather(*(increment() for _ in range(8)))
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"8"

    async def test_errors_are_those_of_files_too(self, objects: ObjectStore, unique: str) -> None:
        """What Python code expects that knows nothing of this library."""
        with pytest.raises(FileNotFoundError) as missing:
            await objects.get(f"{unique}/k")
        assert isinstance(missing.value, KeyError)
        await objects.put(f"{unique}/k", b"1")
        await objects.put(f"{unique}/l", b"2")
        for refused in (
            objects.put(f"{unique}/k", b"2", if_absent=True),
            objects.copy(f"{unique}/l", f"{unique}/k", if_absent=True),
        ):
            with pytest.raises(FileExistsError) as existing:
                await refused
            assert isinstance(existing.value, ObjectExistsError)

    # -- conditional and range reads

    async def test_conditional_reads(self, objects: ObjectStore, unique: str) -> None:
        put = await objects.put(f"{unique}/k", b"x")
        assert await objects.get(f"{unique}/k", if_none_match=put.etag) is None
        assert await objects.get(f"{unique}/k", if_none_match="other") is not None
        assert await objects.get(f"{unique}/k", if_match=put.etag) is not None
        with pytest.raises(PreconditionFailedError):
            await objects.get(f"{unique}/k", if_match="other")

    async def test_a_range_is_read(self, objects: ObjectStore, unique: str) -> None:
        await objects.put(f"{unique}/k", b"0123456789", content_type="text/plain")
        for byte_range, expected in (
            (ByteRange(0, 3), b"012"),
            (ByteRange(4), b"456789"),
            (ByteRange(9, 500), b"9"),
            (ByteRange(-3), b"789"),
            (ByteRange(-50), b"0123456789"),
        ):
            found = await objects.get(f"{unique}/k", byte_range=byte_range)
            assert found is not None
            assert found.data == expected
            assert found.info.size == 10
            assert found.info.content_type == "text/plain"
            assert found.start == b"0123456789".index(expected)

    async def test_a_range_outside_the_object_is_refused(self, objects: ObjectStore, unique: str) -> None:
        await objects.put(f"{unique}/k", b"0123456789")
        await objects.put(f"{unique}/empty", b"")
        for key, byte_range in ((f"{unique}/k", ByteRange(10, 20)), (f"{unique}/empty", ByteRange(0, 1))):
            with pytest.raises(RangeNotSatisfiableError) as refused:
                await objects.get(key, byte_range=byte_range)
            assert refused.value.field == "range"

    # -- integrity

    async def test_changed_bytes_are_never_returned(self, objects: ObjectStore, unique: str) -> None:
        await objects.put(f"{unique}/k", b"the original bytes")
        await self.tamper(objects, f"{unique}/k", b"the 0riginal bytes")
        with pytest.raises(IntegrityError):
            await objects.get(f"{unique}/k")

    async def test_objects_of_other_programs_load_by_their_content_type(
        self, objects: ObjectStore, unique: str
    ) -> None:
        await self.put_foreign(objects, f"{unique}/report.csv", b"a,b\n1,2\n", "text/csv")
        found = await objects.get(f"{unique}/report.csv")
        assert found is not None
        assert found.data == b"a,b\n1,2\n"
        assert found.info.content_type == "text/csv"
        assert found.info.sha256 is None
        assert [entry.key async for entry in _entries(objects, unique)] == [f"{unique}/report.csv"]
        replaced = await objects.put(f"{unique}/report.csv", b"ours", if_match=found.info.etag)
        again = await objects.get(f"{unique}/report.csv", if_match=replaced.etag)
        assert again is not None
        assert again.data == b"ours"
        assert [entry.key async for entry in _entries(objects, unique)] == [f"{unique}/report.csv"]
        await objects.delete(f"{unique}/report.csv")
        with pytest.raises(KeyNotFoundError):
            await objects.get(f"{unique}/report.csv")

    # -- listing

    async def test_a_prefix_is_a_beginning_of_text_not_a_folder(
        self, objects: ObjectStore, unique: str
    ) -> None:
        for key in ("ab", "abc", "ab/c", "b"):
            await objects.put(f"{unique}/{key}", b"")
        assert await _keys(objects, f"{unique}/ab") == [f"{unique}/{k}" for k in ("ab", "ab/c", "abc")]
        assert await _keys(objects, f"{unique}/ab/") == [f"{unique}/ab/c"]
        assert await _keys(objects, f"{unique}/zz") == []

    async def test_pages_give_every_key_once_in_order(self, objects: ObjectStore, unique: str) -> None:
        keys = [f"{unique}/{name}" for name in ("a", "a/1", "a/2", "a-1", "a.b", "a0", "b/x/y", "c", "é")]
        for key in keys:
            await objects.put(key, b"x")
        expected = sorted(keys, key=str.encode)
        for limit in (1, 2, len(keys), 100):
            seen: list[str] = []
            cursor = None
            while True:
                page = await objects.list_page(unique + "/", limit=limit, cursor=cursor)
                assert 1 <= len(page.entries) <= limit
                seen += [entry.key for entry in page.entries]
                if (cursor := page.cursor) is None:
                    break
            assert seen == expected

    async def test_a_delimiter_folds_what_lies_deeper(self, objects: ObjectStore, unique: str) -> None:
        for key in ("a", "a/1", "a/2/3", "a.b", "b/1", "b/2", "c"):
            await objects.put(f"{unique}/{key}", b"")
        page = await objects.list_page(unique + "/", delimiter="/")
        assert [entry.key for entry in page.entries] == [f"{unique}/{k}" for k in ("a", "a.b", "c")]
        assert page.prefixes == [f"{unique}/a/", f"{unique}/b/"]
        seen: list[str] = []
        cursor = None
        while True:
            page = await objects.list_page(unique + "/", delimiter="/", limit=1, cursor=cursor)
            seen += [entry.key for entry in page.entries] + page.prefixes
            if (cursor := page.cursor) is None:
                break
        assert seen == [f"{unique}/{k}" for k in ("a", "a.b", "a/", "b/", "c")]

    async def test_a_cursor_belongs_to_its_listing(self, objects: ObjectStore, unique: str) -> None:
        for name in ("a", "a/1", "a/2", "b/1", "c"):
            await objects.put(f"{unique}/{name}", b"")
        listings: list[tuple[str, str | None]] = [
            (f"{unique}/", None),
            (f"{unique}/", "/"),
            (f"{unique}/a", None),
            (f"{unique}/a", "/"),
            (unique, None),
            ("", None),
        ]
        given = {}
        for prefix, delimiter in listings:
            page = await objects.list_page(prefix, delimiter=delimiter, limit=1)
            given[prefix, delimiter] = page.cursor
            assert page.cursor
        for prefix, delimiter in listings:
            for listing, cursor in given.items():
                if listing == (prefix, delimiter):
                    for details in (True, False):
                        await objects.list_page(prefix, delimiter=delimiter, cursor=cursor, details=details)
                    continue
                with pytest.raises(InvalidArgumentError) as refused:
                    await objects.list_page(prefix, delimiter=delimiter, cursor=cursor)
                assert refused.value.field == "cursor"
                assert "prefix" in (refused.value.remedy or "")

    async def test_details_are_those_of_the_object(self, objects: ObjectStore, unique: str) -> None:
        put = await objects.put(f"{unique}/k", b"12345")
        info = await objects.head(f"{unique}/k")
        page = await objects.list_page(unique, details=True)
        (entry,) = page.entries
        assert (entry.key, entry.size, entry.etag) == (f"{unique}/k", 5, put.etag)
        assert entry.last_modified is not None
        assert abs(entry.last_modified - info.last_modified) < timedelta(seconds=1)

    async def test_listing_arguments_that_can_not_be_right(self, objects: ObjectStore) -> None:
        wrong: list[tuple[str, Any]] = [
            *(("limit", value) for value in (0, 5001)),
            ("delimiter", "-"),
            *(("cursor", value) for value in ("not a cursor", "", "\ud800", 5)),
        ]
        for field, value in wrong:
            with explained(field, value), pytest.raises(InvalidArgumentError) as refused:
                await objects.list_page("a", **{field: value})
            assert refused.value.field == field

    # -- buffers

    async def test_bytes_like_objects_are_their_bytes(self, objects: ObjectStore, unique: str) -> None:
        for number, (buffer, expected) in enumerate(buffers()):
            key = f"{unique}/{number}"
            put = await objects.put(key, buffer)
            assert put.size == len(expected)
            found = await objects.get(key)
            assert found is not None
            assert (type(found.data), found.data) == (bytes, expected)
            await objects.put_stream(f"{key}/s", [b"1", buffer, b"2"])
            found = await objects.get(f"{key}/s")
            assert found is not None
            assert found.data == b"1" + expected + b"2"

    async def test_a_buffer_may_be_changed_once_it_is_handed_over(
        self, objects: ObjectStore, unique: str
    ) -> None:
        for size in (1000, 3_000_000):  # hashed at once, and in a thread
            key, buffer = f"{unique}/{size}", bytearray(b"x" * size)
            saving = asyncio.create_task(objects.put(key, buffer))
            await asyncio.sleep(0)
            buffer[:] = b"y"  # its length too
            await saving
            found = await objects.get(key)
            assert found is not None
            assert found.data == b"x" * size

        async def reused() -> AsyncIterator[bytearray]:
            buffer = bytearray(1000)
            for n in range(20):
                buffer[:] = bytes([n]) * 1000
                yield buffer
                buffer[:] = b"?"

        await objects.put_stream(f"{unique}/s", reused())
        found = await objects.get(f"{unique}/s")
        assert found is not None
        assert found.data == b"".join(bytes([n]) * 1000 for n in range(20))

    async def test_what_is_not_bytes_is_refused_before_anything_is_touched(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/k"
        await objects.put(key, b"old")
        for wrong in NOT_BYTES:
            with pytest.raises(InvalidArgumentError) as refused:
                await objects.put(key, wrong)
            assert refused.value.field == "data"
            assert refused.value.remedy
            for source in ([b"x", wrong], wrong):
                if source == {}:
                    continue  # without items it is an empty stream
                with pytest.raises(InvalidArgumentError) as refused:
                    await objects.put_stream(key, source)
                assert refused.value.field == "source"
                assert refused.value.remedy
        with pytest.raises(InvalidArgumentError):
            await objects.put_stream(key, io.StringIO(""))  # pyright: ignore[reportArgumentType]
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"old"

    # -- streams

    async def test_a_stream_of_any_length_comes_back(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        part = self.small_part
        for length in (0, 10, part - 1, part, part + 1, 3 * part, 3 * part + 7):
            data = hashlib.shake_128(b"%d" % length).digest(length)

            async def chunks(data: bytes = data) -> AsyncIterator[bytes]:
                for start in range(0, len(data), 100_001):
                    yield data[start : start + 100_001]

            for source in (chunks(), [data], io.BytesIO(data)):
                put = await objects.put_stream(
                    f"{unique}/s", source, content_type=self.binary_types[1], metadata={"a": "ü  x"}
                )
                assert put.size == length
            async with objects.open_reader(f"{unique}/s") as reader:
                assert reader.info.size == length
                assert reader.info.etag == put.etag
                assert reader.info.sha256 == hashlib.sha256(data).hexdigest()
                assert reader.info.content_type == self.binary_types[1]
                assert dict(reader.info.metadata) == {"a": "ü  x"}
                assert b"".join([chunk async for chunk in reader]) == data
            found = await objects.get(f"{unique}/s")
            assert found is not None
            assert found.data == data
            if length > 20:
                async with objects.open_reader(f"{unique}/s", byte_range=ByteRange(5, 15)) as reader:
                    assert (reader.start, await reader.read()) == (5, data[5:15])

    small_part = 256 * 1024
    """A part size for tests; S3 needs 5 MiB."""

    async def test_a_stream_that_breaks_leaves_what_was_there(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        key = f"{unique}/k"

        async def breaking() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield b"x" * self.small_part
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            await objects.put_stream(key, breaking())
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)
        await objects.put(key, b"old")
        with pytest.raises(RuntimeError, match="the source broke"):
            await objects.put_stream(key, breaking())
        with pytest.raises(InvalidArgumentError):
            await objects.put_stream(key, ["text"])  # pyright: ignore[reportArgumentType]
        with pytest.raises(InvalidArgumentError):
            await objects.put_stream(key, b"bytes")  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(objects, "max_stream_bytes", 3 * self.small_part)
        with pytest.raises(ObjectTooLargeError):
            await objects.put_stream(key, [b"x" * self.small_part] * 4)
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"old"
        assert await _keys(objects, unique) == [key]

    async def test_streams_are_conditional(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        key, data = f"{unique}/k", [b"x" * self.small_part] * 3
        first = await objects.put_stream(key, data, if_absent=True)
        assert first.created is True
        with pytest.raises(PreconditionFailedError):
            await objects.put_stream(key, data, if_absent=True)
        second = await objects.put_stream(key, data, if_match=first.etag)
        for etag in (first.etag, "other"):
            with pytest.raises(PreconditionFailedError):
                await objects.put_stream(key, data, if_match=etag)
            with pytest.raises(PreconditionFailedError):
                async with objects.open_reader(key, if_match=etag):
                    pass
        assert (await objects.head(key)).etag == second.etag
        with pytest.raises(KeyNotFoundError):
            async with objects.open_reader(f"{unique}/missing"):
                pass
        with pytest.raises(InvalidArgumentError):
            async with objects.open_reader(key, byte_range=ByteRange(10**9)):
                pass

    async def test_a_stream_of_changed_bytes_raises_before_its_end(
        self, objects: ObjectStore, unique: str
    ) -> None:
        await objects.put(f"{unique}/k", b"the original bytes")
        await self.tamper(objects, f"{unique}/k", b"the 0riginal bytes")
        given: list[bytes] = []
        with pytest.raises(IntegrityError):  # at once, where the change is seen by the size of what is stored
            async with objects.open_reader(f"{unique}/k") as reader:
                given.extend([chunk async for chunk in reader])
        assert b"".join(given) != b"the 0riginal bytes"

    # -- copy, move, stats

    async def test_copy_and_move_keep_everything(self, objects: ObjectStore, unique: str) -> None:
        source, target = f"{unique}/a b%/ü", f"{unique}/t/ä%41"
        await objects.put(source, b"data", content_type="text/x-a", metadata={"m": "ü  1"})
        copied = await objects.copy(source, target)
        for key in (source, target):
            found = await objects.get(key)
            assert found is not None
            assert (found.data, found.info.content_type) == (b"data", "text/x-a")
            assert dict(found.info.metadata) == {"m": "ü  1"}
            assert found.info.sha256 == hashlib.sha256(b"data").hexdigest()
        assert (await objects.head(target)).etag == copied.etag
        with pytest.raises(PreconditionFailedError):
            await objects.copy(source, target, if_absent=True)
        await objects.put(source, b"newer")
        moved = await objects.move(source, target)
        found = await objects.get(target, if_match=moved.etag)
        assert found is not None
        assert found.data == b"newer"
        assert await _keys(objects, unique) == [target]
        for call in (objects.copy, objects.move):
            with pytest.raises(KeyNotFoundError):
                await call(source, target)
            with pytest.raises(InvalidArgumentError):
                await call(target, target)
        await objects.copy(target, source, if_absent=True)

    async def test_stats_count_objects_and_bytes(self, objects: ObjectStore, unique: str) -> None:
        for n in range(3):
            await objects.put(f"{unique}/{n}", b"x" * n)
        stats = await objects.stats(f"{unique}/")
        assert (stats.count, stats.bytes) == (3, 3)

    # -- time to live

    async def test_an_object_is_gone_the_moment_it_expires(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        long_key = f"{unique}/" + "/".join(["d" * 60] * 15)
        for key in (f"{unique}/a", f"{unique}/deep/b", long_key):
            put = await objects.put(key, b"short", metadata={"m": "1"}, ttl=10)
        await objects.put(f"{unique}/c", b"stays")
        await objects.put(f"{unique}/renewed", b"short", ttl=10)
        await objects.put(f"{unique}/renewed", b"stays")
        info = await objects.head(long_key)
        assert info.expires_at is not None
        assert abs(info.expires_at.timestamp() - now - 10) < 0.002
        assert dict(info.metadata) == {"m": "1"}
        assert info.etag == put.etag
        assert await objects.get(long_key, if_none_match=put.etag) is None
        assert await objects.get(long_key, if_match=put.etag) is not None
        everything = [f"{unique}/a", f"{unique}/c", long_key, f"{unique}/deep/b", f"{unique}/renewed"]
        assert sorted(await _keys(objects, unique)) == sorted(everything)

        now += 10
        for key in (f"{unique}/a", f"{unique}/deep/b", long_key):
            for call in (objects.get, objects.head):
                with pytest.raises(KeyNotFoundError):
                    await call(key)
            with pytest.raises(KeyNotFoundError):
                async with objects.open_reader(key):
                    pass
            with pytest.raises(KeyNotFoundError):
                await objects.copy(key, f"{unique}/copied")
        with pytest.raises(KeyNotFoundError):
            await objects.get(long_key, if_none_match=put.etag)
        with pytest.raises(PreconditionFailedError):
            await objects.put(long_key, b"x", if_match=put.etag)
        assert await _keys(objects, unique) == [f"{unique}/c", f"{unique}/renewed"]
        folded = await objects.list_page(f"{unique}/", delimiter="/")
        assert [entry.key for entry in folded.entries] == [f"{unique}/c", f"{unique}/renewed"]
        assert folded.prefixes == []
        created = await objects.put(f"{unique}/a", b"anew", if_absent=True)
        assert created.created is True

        await objects.sweep_expired()
        monkeypatch.setattr(objects, "clock", lambda: now - 10)
        assert await _keys(objects, unique) == [f"{unique}/a", f"{unique}/c", f"{unique}/renewed"]
        found = await objects.get(f"{unique}/a")
        assert found is not None
        assert found.data == b"anew"

    async def test_a_life_is_copied_and_can_not_be_negative(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        await objects.put(f"{unique}/a", b"x", ttl=60)
        copied = await objects.copy(f"{unique}/a", f"{unique}/b")
        info = await objects.head(f"{unique}/b")
        assert info.etag == copied.etag
        assert info.expires_at == (await objects.head(f"{unique}/a")).expires_at
        # Replaced while it is copied: what is copied is one version, with the life of that version.
        driver = objects.driver.core
        head = driver.head  # Between it and the copy is the gap.

        async def replacing(key: str) -> ObjectInfo:
            info = await head(key)
            monkeypatch.setattr(driver, "head", head)
            await objects.put(f"{unique}/c", b"newer", ttl=30)
            return info

        await objects.put(f"{unique}/c", b"older")
        monkeypatch.setattr(driver, "head", replacing)
        copied = await objects.copy(f"{unique}/c", f"{unique}/d")
        found = await objects.get(f"{unique}/d", if_match=copied.etag)
        assert found is not None
        assert found.data == b"newer"
        assert found.info.expires_at is not None
        monkeypatch.setattr(objects, "clock", lambda: now + 31)
        await objects.sweep_expired()
        monkeypatch.setattr(objects, "clock", lambda: now)
        assert await _keys(objects, unique) == [f"{unique}/a", f"{unique}/b"]
        for ttl in (-1, float("nan"), float("inf")):
            with pytest.raises(InvalidArgumentError) as refused:
                await objects.put(f"{unique}/c", b"x", ttl=ttl)
            assert refused.value.field == "ttl"

    async def test_an_object_that_appears_after_its_end_is_hidden_and_swept(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        key = f"{unique}/late"

        async def slow() -> AsyncIterator[bytes]:
            nonlocal now
            yield b"x" * self.small_part * 2
            now += 120
            await objects.sweep_expired()

        await objects.put_stream(key, slow(), ttl=60)
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)
        assert await _keys(objects, unique) == []
        assert await objects.sweep_expired() == 1
        with pytest.raises(KeyNotFoundError):
            await objects.driver.core.head(key)  # The driver knows no end.

        # The one who saved it is gone before the object appears.
        driver = objects.driver.core
        now += 1000
        await objects.put(key, b"x", ttl=1)
        metadata = dict((await driver.head(key)).metadata)
        await objects.delete(key)
        now += 2
        assert await objects.sweep_expired() == 0
        options = PutOptions("text/plain", metadata, hashlib.sha256(b"x").hexdigest())
        await driver.put(key, b"x", options)
        now += 25 * 3600
        assert await objects.sweep_expired() == 1
        now += 25 * 3600
        assert await objects.sweep_expired() == 0
        due = [key async for _, key in sweeping.due_markers(objects.driver.core, None)]
        assert due == []

    async def test_an_object_that_can_not_be_removed_does_not_hold_up_the_sweep(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        for n in range(6):
            await objects.put(f"{unique}/held{n}", b"x", ttl=n + 1)
        for n in range(40):
            await objects.put(f"{unique}/free{n}", b"x", ttl=10)
        now += 20
        driver = objects.driver.core
        delete = driver.delete

        async def refusing(key: str, if_match: str | None) -> None:
            if key.startswith(f"{unique}/held"):
                raise TransientStorageError("another program holds a lease")
            await delete(key, if_match)

        async def refusing_version(info: ObjectInfo) -> None:
            await refusing(info.key, info.etag)

        monkeypatch.setattr(driver, "delete", refusing)
        monkeypatch.setattr(driver, "remove", refusing_version)
        for _ in range(8):
            with pytest.raises(TransientStorageError, match="lease"):
                await objects.sweep_expired(5)
        assert await _keys(objects, unique) == []
        monkeypatch.undo()
        monkeypatch.setattr(objects, "clock", lambda: now)
        assert await objects.sweep_expired() == 6
        now -= 20
        assert await _keys(objects, unique) == []

    # -- limits

    async def test_as_many_metadata_as_are_accepted_come_back(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/k"
        metadata = {f"m{n}": f"value {n}" for n in range(50)}
        await objects.put(key, b"x", metadata=metadata, ttl=10_000_000, if_absent=True)
        assert dict((await objects.head(key)).metadata) == metadata
        found = await objects.get(key)
        assert found is not None
        assert dict(found.info.metadata) == metadata

    async def test_metadata_and_content_type_are_checked_before_anything_is_stored(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/k"
        for metadata in ({"Upper": "x"}, {"under_score": "x"}, {"aos-x": "x"}, {"a": "line\nbreak"}):
            with pytest.raises(InvalidArgumentError):
                await objects.put(key, b"x", metadata=metadata)
        with pytest.raises(ObjectTooLargeError):
            await objects.put(key, b"x", metadata={"a": "x" * 2000})
        with pytest.raises(ObjectTooLargeError):
            await objects.put(key, b"x", metadata={f"m{n}": "" for n in range(51)})
        for content_type in ("json", "text/", "text/plain\r\nX: y", "a/b" * 100, ""):
            with pytest.raises(InvalidArgumentError):
                await objects.put(key, b"x", content_type=content_type)
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)

    async def test_cancelling_a_save_leaves_the_old_or_the_new(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/k"
        old, new = b"old" * 1000, b"new!" * 50_000
        await objects.put(key, old, content_type="text/x-old")
        for hops in range(6):
            task = asyncio.ensure_future(objects.put(key, new, content_type="text/x-new"))
            for _ in range(hops):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            found = await objects.get(key)
            assert found is not None
            assert (found.data, found.info.content_type) in ((old, "text/x-old"), (new, "text/x-new"))


async def _entries(objects: ObjectStore, prefix: str) -> AsyncIterator[ListEntry]:
    async for entry in objects.iterate(prefix):
        assert isinstance(entry, ListEntry)
        yield entry


async def _keys(objects: ObjectStore, prefix: str) -> list[str]:
    return [entry.key async for entry in _entries(objects, prefix)]
