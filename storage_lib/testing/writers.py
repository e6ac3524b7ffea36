"""Writers: objects that are pushed into the store piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    ObjectExistsError,
    PreconditionFailedError,
)
from storage_lib.ports.objects import ObjectStore

_PIECE = bytes(range(256)) * 40


class WriterContract:
    """Part of `ObjectStoreContract`."""

    small_part: int
    binary_types: tuple[str, str]

    @pytest.mark.parametrize("pieces", [0, 1, 7])
    async def test_what_is_written_is_stored_at_the_end(
        self, objects: ObjectStore, unique: str, pieces: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        piece = bytearray(_PIECE * (self.small_part // len(_PIECE) + 1))
        key = f"{unique}/k"
        kind = self.binary_types[1]
        async with objects.open_writer(key, content_type=kind, metadata={"a": "b"}) as writer:
            for number in range(pieces):
                piece[0] = number
                assert await writer.write(piece) == len(piece)
                assert await writer.write(b"") == 0
            with pytest.raises(KeyNotFoundError):
                await objects.head(key)
        found = await objects.get(key)
        assert found is not None
        assert found.data == b"".join(bytes([number]) + piece[1:] for number in range(pieces))
        assert (found.info.content_type, dict(found.info.metadata)) == (kind, {"a": "b"})
        assert writer.result is not None
        assert (writer.result.etag, writer.result.size) == (found.info.etag, writer.size)
        with pytest.raises(InvalidArgumentError):
            await writer.write(b"late")

    @pytest.mark.parametrize("pieces", [0, 1, 5])
    async def test_a_block_that_raises_leaves_what_was_there(
        self, objects: ObjectStore, unique: str, pieces: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        for key, old in ((f"{unique}/new", None), (f"{unique}/old", b"as it was")):
            if old is not None:
                await objects.put(key, old)
            for error in (ZeroDivisionError, asyncio.CancelledError):
                with pytest.raises(error):
                    await self._interrupted(objects, key, pieces, error)
        assert [entry async for entry in objects.iterate(f"{unique}/new")] == []
        kept = await objects.get(f"{unique}/old")
        assert kept is not None
        assert kept.data == b"as it was"

    async def _interrupted(
        self, objects: ObjectStore, key: str, pieces: int, error: type[BaseException]
    ) -> None:
        async with objects.open_writer(key) as writer:
            for _ in range(pieces):
                await writer.write(bytes(self.small_part))
            raise error

    async def test_a_writer_keeps_conditions_and_a_time_to_live(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        key = f"{unique}/k"
        async with objects.open_writer(key, if_absent=True, ttl=3600) as writer:
            await writer.write(b"first")
        assert (await objects.head(key)).expires_at is not None
        assert writer.result is not None
        conditions: tuple[tuple[dict[str, Any], type[Exception]], ...] = (
            ({"if_absent": True}, ObjectExistsError),
            ({"if_match": "another"}, PreconditionFailedError),
        )
        for options, error in conditions:
            for size in (5, self.small_part * 3):
                with pytest.raises(error):
                    async with objects.open_writer(key, **options) as refused:
                        await refused.write(bytes(size))
        async with objects.open_writer(key, if_match=writer.result.etag) as second:
            await second.write(b"second")
        found = await objects.get(key)
        assert found is not None
        assert (found.data, found.info.expires_at) == (b"second", None)

    async def test_what_a_writer_cannot_take_is_refused_at_once(
        self, objects: ObjectStore, unique: str
    ) -> None:
        with pytest.raises(InvalidKeyError):
            async with objects.open_writer("../a"):
                pytest.fail("the block began")
        for options, field in (({"content_type": "x"}, "content_type"), ({"ttl": -1}, "ttl")):
            with pytest.raises(InvalidArgumentError) as refused:
                async with objects.open_writer(f"{unique}/k", **options):  # pyright: ignore[reportArgumentType]
                    pytest.fail("the block began")
            assert refused.value.field == field
        async with objects.open_writer(f"{unique}/k") as writer:
            for data in ("text", 5, None, [b"x"]):
                with pytest.raises(InvalidArgumentError):
                    await writer.write(data)  # pyright: ignore[reportArgumentType]
            await writer.write(b"good")
        found = await objects.get(f"{unique}/k")
        assert found is not None
        assert found.data == b"good"
