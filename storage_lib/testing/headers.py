"""What an `ObjectStore` does with the headers that an object is kept with, whatever is behind the store."""

from __future__ import annotations

from typing import Any

import pytest

from storage_lib.errors import InvalidArgumentError, KeyNotFoundError
from storage_lib.ports.backend import ObjectStore
from storage_lib.ports.kept_headers import MAX_BYTES

_HEADERS = {
    "Cache-Control": 'public, max-age=60, x="a  b%20"',
    "Content-Disposition": "attachment; filename=\"a  b.json\"; filename*=UTF-8''%c3%bc.json",
    "Content-Language": "de, en-GB",
}
_LONGEST = {"Content-Disposition": "attachment; filename=" + "x" * (MAX_BYTES - 40)}
_WRONG: list[tuple[Any, Any]] = [
    ("Cache-Control", "no-store\r\nx-evil: 1"),
    ("Cache-Control", "a\nb"),
    ("Cache-Control", "a\tb"),
    ("Cache-Control", "\x00"),
    ("Cache-Control", ""),
    ("Cache-Control", " "),
    ("Cache-Control", 60),
    ("Cache-Control", "x" * MAX_BYTES),
    ("Content-Disposition", 'attachment; filename="ü.txt"'),
    ("Content-Disposition", ";filename=a"),
    ("Content-Language", "de;en"),
    ("Content-Language", "deutschsprachig"),
    ("Content-Encoding", "gzip"),
    ("Content-Type", "text/plain"),
    ("x-other", "1"),
    (1, "1"),
]


class HeadersContract:
    """Part of `ObjectStoreContract`."""

    async def test_headers_come_back_wherever_an_object_is_seen(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key = f"{unique}/a"
        await objects.put(key, b"x", headers=_HEADERS, metadata={"m": "1"}, ttl=600)
        await self._has(objects, key, _HEADERS)
        await objects.put_stream(key, [b"x"], headers={name.lower(): _HEADERS[name] for name in _HEADERS})
        await self._has(objects, key, _HEADERS)
        async with objects.open_writer(key, headers=_LONGEST) as writer:
            await writer.write(b"x")
        await self._has(objects, key, _LONGEST)
        copied = f"{unique}/copied"
        await objects.copy(key, copied)
        await self._has(objects, copied, _LONGEST)
        await objects.put(key, b"x")
        await self._has(objects, key, {})

    async def test_a_stream_of_many_parts_keeps_its_headers(
        self, objects: ObjectStore, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = getattr(self, "small_part", 256 * 1024)
        monkeypatch.setattr(objects, "part_bytes", size)
        key = f"{unique}/large"
        await objects.put_stream(key, [b"x" * size, b"y" * size, b"z"], headers=_HEADERS)
        info = await objects.head(key)
        assert (info.headers, info.size) == (_HEADERS, 2 * size + 1)

    async def _has(self, objects: ObjectStore, key: str, headers: dict[str, str]) -> None:
        found = await objects.get(key)
        assert found is not None
        assert found.info.headers == headers
        assert (await objects.head(key)).headers == headers
        async with objects.open_reader(key) as reader:
            assert reader.info.headers == headers
        (listed,) = (await objects.list_page(key, details=True)).entries
        assert listed.info is not None
        assert listed.info.headers == headers
        assert not any(name.startswith("aos-") for name in found.info.metadata)

    async def test_a_touch_changes_the_headers_that_it_names(self, objects: ObjectStore, unique: str) -> None:
        key = f"{unique}/a"
        await objects.put(key, b"x", headers=_HEADERS, metadata={"m": "ü"}, content_type="text/plain")
        touched = await objects.touch(key, headers={"cache-control": "no-store", "Content-Language": None})
        left = {**_HEADERS, "Cache-Control": "no-store"}
        del left["Content-Language"]
        await self._has(objects, key, left)
        found = await objects.get(key, if_match=touched.etag)
        assert found is not None
        assert (found.data, found.info.content_type) == (b"x", "text/plain")
        assert dict(found.info.metadata) == {"m": "ü"}
        await objects.touch(key, metadata={}, ttl=600)
        await self._has(objects, key, left)
        await objects.touch(key, headers=dict.fromkeys(_HEADERS), metadata={"n": "1"})
        await self._has(objects, key, {})
        info = await objects.head(key)
        assert (dict(info.metadata), info.expires_at is not None) == ({"n": "1"}, True)
        await objects.delete(key)  # Sweeps of other tests, which are later, would meet it.

    async def test_what_cannot_be_kept_is_refused_and_changes_nothing(
        self, objects: ObjectStore, unique: str
    ) -> None:
        key, kept = f"{unique}/a", f"{unique}/kept"
        etag = (await objects.put(kept, b"x")).etag
        for name, value in _WRONG:
            given: Any = {name: value}
            writes = [objects.put(key, b"x", headers=given), objects.put_stream(key, [b"x"], headers=given)]
            for write in [*writes, objects.touch(kept, headers=given)]:
                with pytest.raises(InvalidArgumentError) as refused:
                    await write
                assert refused.value.field in (name, "headers"), given
                assert refused.value.limit, given
        with pytest.raises(KeyNotFoundError):
            await objects.head(key)
        assert (await objects.head(kept)).etag == etag
