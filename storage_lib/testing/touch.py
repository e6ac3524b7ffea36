"""What `ObjectStore.touch` does, whatever is behind the store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import pytest

from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, PreconditionFailedError
from storage_lib.ports.backend import ListEntry, ObjectInfo, ObjectStore

_LONGEST = {f"name-{n}": "ü" * 20 for n in range(8)}


class TouchContract:
    """Part of `ObjectStoreContract`."""

    small_part = 256 * 1024

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 5, 300_000])
    async def test_a_touch_changes_what_it_says_and_nothing_else(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        monkeypatch.setattr(objects, "part_bytes", self.small_part)
        key, data = f"{unique}/a b%/ü", b"x1y2z" * (size // 5)
        old = await objects.put_stream(key, [data], content_type="text/x-a", metadata={"m": "ü  1"}, ttl=60)

        async def is_now(metadata: dict[str, str], ttl: float | None, call: Awaitable[Any]) -> None:
            nonlocal old
            before = await objects.head(key)
            touched = await call
            assert (touched.key, touched.size, touched.created) == (key, size, False)
            assert touched.etag not in (old.etag, before.etag)
            found = await objects.get(key, if_match=touched.etag)
            assert found is not None
            info = found.info
            assert (found.data, info.content_type, dict(info.metadata)) == (data, "text/x-a", metadata)
            assert info.size == size
            assert info.sha256 == hashlib.sha256(data).hexdigest()
            ends = None if info.expires_at is None else info.expires_at.timestamp() - now
            assert ends == (None if ttl is None else pytest.approx(ttl, abs=0.002))
            assert await objects.head(key) == info
            (listed,) = (await objects.list_page(key, details=True)).entries
            assert (listed.etag, listed.size) == (touched.etag, size)
            async with objects.open_reader(key, if_match=touched.etag) as reader:
                assert await reader.read() == data
            with pytest.raises(PreconditionFailedError):
                await objects.get(key, if_match=old.etag)
            old = touched

        kept = {"m": "ü  1"}
        await is_now(kept, 60, objects.touch(key))
        await is_now(kept, 600, objects.touch(key, ttl=600))
        await is_now({"n": "100%", "empty": ""}, 600, objects.touch(key, metadata={"n": "100%", "empty": ""}))
        await is_now({}, None, objects.touch(key, metadata={}, ttl=None))
        await is_now(_LONGEST, 5, objects.touch(key, metadata=_LONGEST, ttl=5, if_match=old.etag))
        copied = await objects.copy(key, f"{unique}/copied")
        found = await objects.get(f"{unique}/copied", if_match=copied.etag)
        assert found is not None
        assert (found.data, dict(found.info.metadata)) == (data, _LONGEST)
        replaced = await objects.put(key, b"newer", if_match=old.etag)
        assert replaced.created is not True
        now += 6
        await objects.sweep_expired()

    async def test_a_touch_decides_when_an_object_goes(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = float(int(datetime.now(UTC).timestamp()))
        monkeypatch.setattr(objects, "clock", lambda: now)
        names = ("longer", "shorter", "never", "later", "left")
        for name in names:
            await objects.put(f"{unique}/{name}", b"x", ttl=None if name == "later" else 10)
        await objects.touch(f"{unique}/longer", ttl=100)
        await objects.touch(f"{unique}/shorter", ttl=1)
        await objects.touch(f"{unique}/never", ttl=None)
        await objects.touch(f"{unique}/later", ttl=20)

        async def listed() -> set[str]:
            found = objects.iterate(f"{unique}/")
            return {entry.key.rpartition("/")[2] async for entry in found if isinstance(entry, ListEntry)}

        for seconds, left in (
            (1, set(names) - {"shorter"}),
            (10, {"longer", "never", "later"}),
            (20, {"longer", "never"}),
            (100, {"never"}),
        ):
            begun, now = now, now + seconds
            assert await listed() == left
            await objects.sweep_expired()
            assert await listed() == left
            now = begun
        assert await objects.sweep_expired() == 0

    async def test_a_touch_is_refused_like_any_other_write(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        for condition in (None, "*", "other"):
            with pytest.raises(KeyNotFoundError):
                await objects.touch(key, ttl=1, if_match=condition)
        etag = (await objects.put(key, b"x", metadata={"m": "1"})).etag
        for condition in ("other", "W/nothing", '"*"', ""):
            with pytest.raises(PreconditionFailedError):
                await objects.touch(key, ttl=1, if_match=condition)
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"ttl": -1}, "ttl"),
            ({"ttl": float("nan")}, "ttl"),
            ({"ttl": "60"}, "ttl"),
            ({"metadata": {"Upper": "1"}}, "metadata"),
            ({"metadata": {"aos-expires": "1"}}, "metadata"),
            ({"metadata": {"m": 1}}, "metadata"),
            ({"metadata": ["m"]}, "metadata"),
        ]
        for options, field in wrong:
            with pytest.raises(InvalidArgumentError) as refused:
                await objects.touch(key, **options)
            assert refused.value.field == field
        info = await objects.head(key)
        assert (info.etag, dict(info.metadata), info.expires_at) == (etag, {"m": "1"}, None)
        touched = await objects.touch(key, metadata={"m": "2"}, if_match=f'"{etag}"')
        assert (await objects.touch(key, if_match="*")).etag != touched.etag

    async def test_of_touches_of_one_version_one_succeeds(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/k"
        etag = (await objects.put(key, b"x")).etag
        touching = (objects.touch(key, metadata={"by": str(n)}, if_match=etag) for n in range(4))
        outcomes = await asyncio.gather(*touching, return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, PreconditionFailedError)]
        assert len(refused) == 3, outcomes
        (by,) = [n for n, each in enumerate(outcomes) if each not in refused]
        assert dict((await objects.head(key)).metadata) == {"by": str(by)}

    async def test_a_touch_never_brings_back_what_was_replaced_meanwhile(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key, driver = f"{unique}/k", objects.driver.core
        head = driver.head  # Between it and the touch is the gap.

        async def replacing(asked: str) -> ObjectInfo:
            info = await head(asked)
            monkeypatch.setattr(driver, "head", head)
            await objects.put(key, b"newer", metadata={"m": "newer"})
            return info

        etag = (await objects.put(key, b"older", metadata={"m": "older"})).etag
        monkeypatch.setattr(driver, "head", replacing)
        with pytest.raises(PreconditionFailedError):
            await objects.touch(key, ttl=600, if_match=etag)
        monkeypatch.setattr(driver, "head", replacing)
        touched = await objects.touch(key, ttl=600)
        found = await objects.get(key, if_match=touched.etag)
        assert found is not None
        assert (found.data, dict(found.info.metadata)) == (b"newer", {"m": "newer"})
        assert found.info.expires_at is not None
        await objects.delete(key)

    async def test_a_touch_of_another_programs_object_keeps_its_bytes_and_type(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/report.csv"
        await self.put_foreign(objects, key, b"a,b\n1,2\n", "text/csv")
        for metadata in ({"m": "plain"}, {"m": "ü 100%", "empty": ""}):
            touched = await objects.touch(key, ttl=600, metadata=metadata)
            found = await objects.get(key, if_match=touched.etag)
            assert found is not None
            assert (found.data, found.info.content_type) == (b"a,b\n1,2\n", "text/csv")
            assert dict(found.info.metadata) == metadata
            assert found.info.expires_at is not None
        await objects.delete(key)
