"""What conditions, ranges and ends of lives mean in an object store, whatever is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib.errors import (
    InvalidArgumentError,
    KeyNotFoundError,
    PreconditionFailedError,
)
from storage_lib.ports.backend import ByteRange, ObjectStore
from storage_lib.testing.explained import explained

NO_ETAGS = [
    "",
    '""',
    '"*"',
    "**",
    " ",
    "*, *",
    "*,*",
    "a,b",
    'W/"x"',
    '"a", "b"',
    '"',
    'a"b',
    "line\nbreak",
    "nul\x00",
    "tab\t",
    "ü",
    "\ud800",
    "x" * 100_000,
]
"""Texts that no object has as its ETag."""

HOLLOW_RANGES: list[Any] = [
    ByteRange(5, 2),
    ByteRange(3, 3),
    ByteRange(0, 0),
    ByteRange(0, -1),
    ByteRange(-3, 5),
    ByteRange(-5, -2),
    ByteRange(2**70, 2**69),
    ByteRange(1.5),  # pyright: ignore[reportArgumentType]
    ByteRange(0, "3"),  # pyright: ignore[reportArgumentType]
    ByteRange(None),  # pyright: ignore[reportArgumentType]
    (0, 3),
]
"""Ranges that can hold no byte of any object."""

HUGE = [2**31, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 + 1, 10**30, 10**5000]


class ConditionContract:
    """Part of `ObjectStoreContract`."""

    small_part = 256 * 1024
    """A part size for tests; S3 needs 5 MiB."""

    tells_created = True
    """Whether a store that reports what was created always does, by the clock that a test gives it."""

    async def test_a_star_is_any_version_and_there_must_be_one(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        long = [b"x" * self.small_part] * 2
        gone, key = f"{unique}/gone", f"{unique}/k"
        for save in (
            objects.put(gone, b"1", if_match="*"),
            objects.put_stream(gone, [b"1"], if_match="*"),
            objects.put_stream(gone, long, if_match="*"),
        ):
            with pytest.raises(PreconditionFailedError) as unmet:
                await save
            assert (str(unmet.value), unmet.value.field) == (f"object {gone!r} does not exist", "if_match")
        for call in (
            objects.get(gone, if_match="*"),
            objects.get(gone, if_none_match="*"),
            objects.delete(gone, if_match="*"),
        ):
            with pytest.raises(KeyNotFoundError):
                await call
        with pytest.raises(KeyNotFoundError):
            async with objects.open_reader(gone, if_match="*"):
                pass

        first = await objects.put(key, b"1")
        second = await objects.put(key, b"2", if_match="*")
        assert second.etag != first.etag
        assert second.created in (False, None)
        third = await objects.put_stream(key, long, if_match="*")
        assert (await objects.head(key)).etag == third.etag
        found = await objects.get(key, if_match="*")
        assert found is not None
        assert found.data == b"".join(long)
        async with objects.open_reader(key, if_match="*") as reader:
            assert await reader.read() == b"".join(long)
        assert await objects.get(key, if_none_match="*") is None
        with pytest.raises(PreconditionFailedError):
            await objects.get(key, if_match=first.etag, if_none_match="*")
        with pytest.raises(InvalidArgumentError):
            await objects.put(key, b"x", if_match="*", if_absent=True)
        await objects.delete(key, if_match="*")
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)

    async def test_a_star_never_brings_back_what_was_deleted(self, objects: ObjectStore, unique: str) -> None:
        """Whoever deletes meets no save that was to replace what is there."""
        key = f"{unique}/k"
        await objects.put(key, b"0")

        async def replace(n: int) -> bool:
            try:
                await objects.put(key, b"%d" % n, if_match="*")
            except PreconditionFailedError:
                return False
            return True

        await asyncio.gather(*map(replace, range(6)), objects.delete(key))
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)
        await objects.put(key, b"0")
        assert all(await asyncio.gather(*map(replace, range(6))))

    async def test_what_no_object_has_as_its_etag_is_never_met(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        await objects.put(f"{unique}/k", b"there")
        for etag in NO_ETAGS:
            with explained(etag[:20]):
                await self._is_never_met(objects, f"{unique}/gone", f"{unique}/k", etag)

    async def _is_never_met(self, objects: ObjectStore, gone: str, key: str, etag: str) -> None:
        async def read(key: str) -> None:
            async with objects.open_reader(key, if_match=etag):
                pass

        for call in (objects.put(gone, b"1", if_match=etag), objects.put_stream(gone, [b"1"], if_match=etag)):
            with pytest.raises(PreconditionFailedError) as unmet:
                await call
            assert unmet.value.field == "if_match"
        for call in (objects.get(gone, if_match=etag), objects.delete(gone, if_match=etag), read(gone)):
            with pytest.raises(KeyNotFoundError):
                await call
        for call in (
            objects.put(key, b"1", if_match=etag),
            objects.put_stream(key, [b"x" * self.small_part] * 2, if_match=etag),
            objects.get(key, if_match=etag),
            objects.get(key, byte_range=ByteRange(-2), if_match=etag),
            objects.delete(key, if_match=etag),
            read(key),
        ):
            with pytest.raises(PreconditionFailedError) as unmet:
                await call
            assert unmet.value.field == "if_match"
        found = await objects.get(key, if_none_match=etag)
        assert found is not None
        assert found.data == b"there"

    async def test_an_etag_may_be_in_quotes_and_is_text(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        etag = (await objects.put(key, b"1")).etag
        assert await objects.get(key, if_match=f'"{etag}"') is not None
        assert await objects.get(key, if_none_match=f'"{etag}"') is None
        assert await objects.get(key, if_none_match=f'W/"{etag}"') is None
        with pytest.raises(PreconditionFailedError):
            await objects.get(key, if_match=f'W/"{etag}"')
        etag = (await objects.put(key, b"2", if_match=f'"{etag}"')).etag
        for wrong in (5, b"x", ["a"], True):
            calls: list[Callable[[Any], Any]] = [
                lambda wrong: objects.put(key, b"3", if_match=wrong),
                lambda wrong: objects.put_stream(key, [b"3"], if_match=wrong),
                lambda wrong: objects.get(key, if_match=wrong),
                lambda wrong: objects.delete(key, if_match=wrong),
            ]
            for call in calls:
                with pytest.raises(InvalidArgumentError) as refused:
                    await call(wrong)
                assert refused.value.field == "if_match"
            with pytest.raises(InvalidArgumentError) as refused:
                await objects.get(key, if_none_match=wrong)  # pyright: ignore[reportArgumentType]
            assert refused.value.field == "if_none_match"
        await objects.delete(key, if_match=f'"{etag}"')

    # -- ranges

    async def test_a_range_that_holds_nothing_is_refused(self, objects: ObjectStore, unique: str) -> None:
        for byte_range in HOLLOW_RANGES:
            for key in (f"{unique}/k", f"{unique}/gone"):
                with explained(byte_range), pytest.raises(InvalidArgumentError) as refused:
                    await objects.get(key, byte_range=byte_range)
                assert refused.value.field == "range"
                with explained(byte_range), pytest.raises(InvalidArgumentError) as refused:
                    async with objects.open_reader(key, byte_range=byte_range):
                        pass
                assert refused.value.field == "range"

    async def test_a_range_of_huge_numbers_is_a_range(self, objects: ObjectStore, unique: str) -> None:
        key, empty = f"{unique}/k", f"{unique}/empty"
        await objects.put(key, b"0123456789")
        await objects.put(empty, b"")

        async def read(key: str, byte_range: ByteRange) -> tuple[bytes, bytes]:
            found = await objects.get(key, byte_range=byte_range)
            assert found is not None
            async with objects.open_reader(key, byte_range=byte_range) as reader:
                return found.data, await reader.read()

        for number in HUGE:
            assert await read(key, ByteRange(4, number)) == (b"456789", b"456789")
            assert await read(key, ByteRange(-number)) == (b"0123456789", b"0123456789")
            behind = [ByteRange(number), ByteRange(number, number + 1), ByteRange(number, number * 2)]
            for name, ranges in ((key, behind), (empty, [*behind, ByteRange(0), ByteRange(-number)])):
                for byte_range in ranges:
                    with pytest.raises(InvalidArgumentError) as refused:
                        await read(name, byte_range)
                    assert refused.value.field == "range"

    # -- ends of lives

    async def test_what_has_expired_is_not_there_for_any_operation(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        long = [b"x" * self.small_part] * 2
        names = ("put", "stream", "long", "absent", "copy", "copy_absent", "move", "left")
        etags = {name: (await objects.put(f"{unique}/{name}", b"old", ttl=5)).etag for name in names}
        source, moved = f"{unique}/source", f"{unique}/moved"
        await objects.put(source, b"new")
        await objects.put(moved, b"new")
        listed = await objects.list_page(f"{unique}/left", details=True)
        assert [entry.etag for entry in listed.entries] == [etags["left"]]
        now += 5
        left, etag = f"{unique}/left", etags["left"]

        async def read(**condition: Any) -> None:
            async with objects.open_reader(left, **condition):
                pass

        for condition in (None, "*", etag, f'"{etag}"', "other"):
            for call in (
                objects.delete(left, if_match=condition),
                objects.get(left, if_match=condition),
                read(if_match=condition),
            ):
                with pytest.raises(KeyNotFoundError):
                    await call
        for condition in ("*", etag):
            with pytest.raises(KeyNotFoundError):
                await objects.get(left, if_none_match=condition)
            for save in (
                objects.put(left, b"new", if_match=condition),
                objects.put_stream(left, [b"new"], if_match=condition),
                objects.put_stream(left, long, if_match=condition),
            ):
                with pytest.raises(PreconditionFailedError):
                    await save
        for call in (
            objects.copy(left, f"{unique}/t"),
            objects.move(left, f"{unique}/t"),
            objects.touch(left, ttl=60),
            objects.touch(left, ttl=60, if_match=etag),
        ):
            with pytest.raises(KeyNotFoundError):
                await call

        created = {
            "put": await objects.put(f"{unique}/put", b"new"),
            "stream": await objects.put_stream(f"{unique}/stream", [b"new"]),
            "long": await objects.put_stream(f"{unique}/long", long),
            "absent": await objects.put(f"{unique}/absent", b"new", if_absent=True),
            "copy": await objects.copy(source, f"{unique}/copy"),
            "copy_absent": await objects.copy(source, f"{unique}/copy_absent", if_absent=True),
            "move": await objects.move(moved, f"{unique}/move"),
        }
        for name, result in created.items():
            if self.tells_created:
                tells = name.endswith("absent") or objects.reports_created
                assert result.created in ((True,) if tells else (True, None)), name
        again = await objects.put(f"{unique}/put", b"newer")
        assert again.created is not True or not self.tells_created
        assert (await objects.get(f"{unique}/long")) is not None
        monkeypatch.setattr(objects, "clock", lambda: now - 5)
        # Refused is refused: the one whose life was over is as it was.
        found = await objects.get(left)
        assert found is not None
        assert (found.data, found.info.etag) == (b"old", etag)
        monkeypatch.setattr(objects, "clock", lambda: now)
        await objects.sweep_expired()  # Nothing is left to other tests of the store.

    # -- content types

    async def test_a_content_type_is_normalised_in_one_way(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        for given, kept in (
            ("text/plain ", "text/plain"),
            ("  text/plain\t", "text/plain"),
            ("text/plain; ", "text/plain"),
            ("text/plain;", "text/plain"),
            ("text/plain ;\t charset=utf-8  ", "text/plain ; charset=utf-8"),
            ("text/plain;charset=utf-8", "text/plain;charset=utf-8"),
            ('text/csv; a="b  c"; d=e', 'text/csv; a="b c"; d=e'),
        ):
            await objects.put(key, b"x", content_type=given)
            assert (await objects.head(key)).content_type == kept
            found = await objects.get(key)
            assert found is not None
            assert found.info.content_type == kept
        copied = await objects.copy(key, f"{unique}/copied")
        assert (await objects.head(f"{unique}/copied")).etag == copied.etag
        await objects.put_stream(key, [b"x" * self.small_part] * 2, content_type=" text/x-long ")
        assert (await objects.head(key)).content_type == "text/x-long"
        wrong: list[Any] = [
            *("text/plain\r\nX: y", "text /plain", "text/plain;;", "", " ", None, 5, ["a/b"]),
            "text/plain\n",
            "text/plain\x00",
            "text/pläin",
            "text/plain; a=ü",
            "\u00a0text/plain",
        ]
        for content_type in wrong:
            with pytest.raises(InvalidArgumentError) as refused:
                await objects.put(key, b"x", content_type=content_type)
            assert refused.value.field == "content_type"
