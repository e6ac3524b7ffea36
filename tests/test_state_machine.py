"""Every object store against a dict: random sequences of operations must give what the dict says."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.errors import InvalidArgumentError, KeyNotFoundError, PreconditionFailedError
from storage_lib.keys import SYSTEM_PREFIX
from storage_lib.ports.backend import ByteRange, ListEntry, ObjectStore, StorageBackend
from tests.s3_servers import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

SOAK = os.environ.get("SOAK") == "1"
Request = pytest.FixtureRequest
Open = Callable[[], AbstractAsyncContextManager[StorageBackend]]


def _memory(request: Request) -> Open:
    return MemoryBackend


def _file(request: Request) -> Open:
    folder: Path = request.getfixturevalue("tmp_path")
    return lambda: FileStorageBackend(folder / uuid4().hex)


def _azure(request: Request) -> Open:
    server: Any = request.getfixturevalue("azurite")
    from storage_lib.backends.azure import AzureStorageBackend

    return lambda: AzureStorageBackend(server.connection_string, container=f"c-{uuid4().hex[:12]}")


def _s3(request: Request) -> Open:
    server: Any = request.getfixturevalue("moto")
    from storage_lib.backends.s3 import S3StorageBackend

    return lambda: S3StorageBackend(
        f"b-{uuid4().hex[:12]}",
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        create_bucket=True,
    )


class Store(NamedTuple):
    """How a backend is opened, empty, and how much of it is tried."""

    opener: Callable[[Request], Open]
    examples: int
    steps: int
    part_bytes: int = 64
    """Of streams: small, so that they have several parts."""
    content_etags: bool = False
    """Whether the same bytes have the same ETag, as in S3."""


STORES = {
    "memory": Store(_memory, examples=60, steps=50),
    "file": Store(_file, examples=50, steps=40),
    "azure": Store(_azure, examples=10, steps=15),
    # "Amazon S3 multipart upload limits": no part but the last is smaller.
    "s3": Store(_s3, examples=10, steps=15, part_bytes=5 * 1024 * 1024, content_etags=True),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_behaves_as_a_dict_would(name: str, request: Request) -> None:
    store = STORES[name]
    opened = store.opener(request)
    run_state_machine_as_test(
        lambda: StoreMachine(opened, store.part_bytes, store.content_etags),
        settings=settings(
            max_examples=store.examples * 10 if SOAK else max(10, store.examples // 2),
            stateful_step_count=store.steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


KEYS = [
    "a",
    "a/b",
    "a/b/c",
    "a-b",
    "a.obj",
    "a0",
    "b/x y",
    "b/%41",
    "é/🙂",
    "x" * 210,
    ".h/.i",
    "CASE",
    "case",
]
# Few enough that operations meet, some of them nested.
key_of = st.one_of(st.sampled_from(KEYS[:4]), st.sampled_from(KEYS))
prefix_of = st.sampled_from(["", "", "a", "a/", "a/b", "b/", "é", "é/", "x" * 9, "zz", ".h/"])
data_of = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 64, b"y" * 65, b"z" * 200]))
type_of = st.sampled_from(["text/plain", "application/json", 'text/csv; charset="utf-8"'])
metadata_of = st.sampled_from([{}, {"n": "1"}, {"name": "Zoë  %"}])
ttl_of = st.sampled_from([None, None, None, 0, 5, 20])
condition_of = st.sampled_from(["current", "stale", "other"])
range_of = st.builds(ByteRange, st.integers(-30, 30), st.one_of(st.none(), st.integers(0, 70))).filter(
    lambda found: found.start >= 0 or found.end is None
)


@dataclass
class Saved:
    data: bytes
    content_type: str
    metadata: dict[str, str]
    etag: str
    end: float | None
    """When it is gone, in seconds since the epoch."""


@dataclass
class Model:
    now: float = 1_700_000_000.0
    saved: dict[str, Saved] = field(default_factory=dict)
    """Also what has expired and was not swept away yet."""
    old_etags: list[str] = field(default_factory=list)

    def find(self, key: str) -> Saved | None:
        found = self.saved.get(key)
        return None if found is None or (found.end is not None and found.end <= self.now) else found

    def keep(self, key: str, new: Saved) -> None:
        if (old := self.saved.get(key)) is not None:
            self.old_etags.append(old.etag)
        self.saved[key] = new

    def visible(self, prefix: str = "") -> list[str]:
        return sorted((k for k in self.saved if k.startswith(prefix) and self.find(k)), key=str.encode)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self, opened: Open, part_bytes: int, content_etags: bool) -> None:
        super().__init__()
        self.model = Model()
        self.content_etags = content_etags
        self.runner = asyncio.Runner()
        self.context = opened()
        backend = self.runner.run(self.context.__aenter__())
        self.objects: ObjectStore = backend.objects
        self.objects.clock = lambda: self.model.now
        self.objects.part_bytes = part_bytes

    def teardown(self) -> None:
        try:
            self.runner.run(self.everything())
        finally:
            self.runner.run(self.context.__aexit__(None, None, None))
            self.runner.close()

    async def everything(self) -> None:
        for key in self.model.visible():
            await self.check(key)
        listed = [entry async for entry in self.objects.iterate(skip=SYSTEM_PREFIX)]
        assert [entry.key for entry in listed if isinstance(entry, ListEntry)] == self.model.visible()

    async def check(self, key: str) -> None:
        expected = self.model.find(key)
        if expected is None:
            for read in (self.objects.get, self.objects.head):
                with pytest.raises(KeyNotFoundError):
                    await read(key)
            with pytest.raises(KeyNotFoundError):
                async with self.objects.open_reader(key):
                    pass
            return
        found = await self.objects.get(key)
        assert found is not None
        assert found.data == expected.data
        info = found.info
        assert (info.key, info.size, info.etag) == (key, len(expected.data), expected.etag)
        assert (info.content_type, dict(info.metadata)) == (expected.content_type, expected.metadata)
        assert info.sha256 == hashlib.sha256(expected.data).hexdigest()
        assert (info.expires_at.timestamp() if info.expires_at else None) == expected.end
        assert await self.objects.head(key) == info
        assert await self.objects.get(key, if_none_match=expected.etag) is None
        async with self.objects.open_reader(key, if_match=expected.etag) as reader:
            assert reader.info == info
            assert await reader.read() == expected.data

    def etag(self, key: str, condition: str) -> str:
        """An ETag that the object has (also if it has expired), had, or never had."""
        if condition == "current" and key in self.model.saved:
            return self.model.saved[key].etag
        if condition == "stale" and self.model.old_etags:
            return self.model.old_etags[-1]
        return "other"

    # -- saving

    @initialize(filled=st.dictionaries(key_of, data_of, min_size=3, max_size=8))
    def fill(self, filled: dict[str, bytes]) -> None:
        for key, data in filled.items():
            self.runner.run(self.save(key, data, "text/plain", {}, None, streamed=len(data) > 64))

    async def save(
        self,
        key: str,
        data: bytes,
        content_type: str,
        metadata: dict[str, str],
        ttl: float | None,
        *,
        streamed: bool,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> None:
        before = self.model.find(key)
        allowed = (
            before is None
            if if_absent
            else if_match is None or (before is not None and before.etag == if_match)
        )
        options: dict[str, Any] = {
            "content_type": content_type,
            "metadata": metadata,
            "ttl": ttl,
            "if_match": if_match,
            "if_absent": if_absent,
        }
        if streamed:
            saving = self.objects.put_stream(key, _pieces(data), **options)
        else:
            saving = self.objects.put(key, data, **options)
        if not allowed:
            with pytest.raises(PreconditionFailedError):
                await saving
            return
        result = await saving
        assert (result.key, result.size) == (key, len(data))
        if not self.content_etags:
            assert result.etag not in {saved.etag for saved in self.model.saved.values()}
        if if_absent or (self.objects.reports_created and (before or key not in self.model.saved)):
            assert result.created is (before is None)
        end = None if ttl is None else self.model.now + ttl
        self.model.keep(key, Saved(data, content_type, metadata, result.etag, end))

    @rule(
        key=key_of,
        data=data_of,
        content_type=type_of,
        metadata=metadata_of,
        ttl=ttl_of,
        streamed=st.booleans(),
    )
    def put(self, **saved: Any) -> None:
        self.runner.run(self.save(**saved))

    @rule(key=key_of, data=data_of, ttl=ttl_of, streamed=st.booleans())
    def put_if_absent(self, key: str, data: bytes, ttl: float | None, streamed: bool) -> None:
        self.runner.run(self.save(key, data, "text/plain", {}, ttl, streamed=streamed, if_absent=True))

    @rule(key=key_of, data=data_of, condition=condition_of, streamed=st.booleans())
    def put_if_match(self, key: str, data: bytes, condition: str, streamed: bool) -> None:
        etag = self.etag(key, condition)
        self.runner.run(self.save(key, data, "text/plain", {}, None, streamed=streamed, if_match=etag))

    @rule(key=key_of, length=st.sampled_from([0, 70, 150]))
    def put_stream_that_breaks(self, key: str, length: int) -> None:
        def broken() -> Iterable[bytes]:
            yield b"x" * length
            raise RuntimeError("the source broke")

        async def save() -> None:
            with pytest.raises(RuntimeError, match="the source broke"):
                await self.objects.put_stream(key, broken())
            await self.check(key)

        self.runner.run(save())

    # -- reading

    @rule(key=key_of)
    def get(self, key: str) -> None:
        self.runner.run(self.check(key))

    @rule(key=key_of, byte_range=range_of)
    def get_range(self, key: str, byte_range: ByteRange) -> None:
        async def read() -> None:
            expected = self.model.find(key)
            assert expected is not None
            try:
                start, end = byte_range.resolve(len(expected.data))
            except InvalidArgumentError:
                with pytest.raises(InvalidArgumentError):
                    await self.objects.get(key, byte_range=byte_range)
                with pytest.raises(InvalidArgumentError):
                    async with self.objects.open_reader(key, byte_range=byte_range):
                        pass
                return
            found = await self.objects.get(key, byte_range=byte_range)
            assert found is not None
            assert (found.start, found.data) == (start, expected.data[start:end])
            async with self.objects.open_reader(key, byte_range=byte_range) as reader:
                assert (reader.start, await reader.read()) == (start, expected.data[start:end])

        if self.model.find(key) is not None:
            self.runner.run(read())

    @rule(key=key_of, condition=condition_of)
    def get_if_match(self, key: str, condition: str) -> None:
        async def read() -> None:
            expected, etag = self.model.find(key), self.etag(key, condition)
            if expected is None:
                with pytest.raises((KeyNotFoundError, PreconditionFailedError)):
                    await self.objects.get(key, if_match=etag)
            elif expected.etag != etag:
                with pytest.raises(PreconditionFailedError):
                    await self.objects.get(key, if_match=etag)
                with pytest.raises(PreconditionFailedError):
                    async with self.objects.open_reader(key, if_match=etag):
                        pass
            else:
                found = await self.objects.get(key, if_match=etag)
                assert found is not None
                assert found.data == expected.data

        self.runner.run(read())

    # -- removing, copying

    @rule(key=key_of)
    def delete(self, key: str) -> None:
        async def remove() -> None:
            if self.model.find(key) is not None:
                await self.objects.delete(key)
                self.model.old_etags.append(self.model.saved.pop(key).etag)
            else:
                with pytest.raises(KeyNotFoundError):  # Also where one has expired: the sweep removes it.
                    await self.objects.delete(key)

        self.runner.run(remove())

    @rule(key=key_of, condition=condition_of)
    def delete_if_match(self, key: str, condition: str) -> None:
        async def remove() -> None:
            found, etag = self.model.find(key), self.etag(key, condition)
            if found is None or found.etag != etag:
                with pytest.raises((KeyNotFoundError, PreconditionFailedError)):
                    await self.objects.delete(key, if_match=etag)
            else:
                await self.objects.delete(key, if_match=etag)
                del self.model.saved[key]
                self.model.old_etags.append(etag)

        self.runner.run(remove())

    @rule(pair=st.tuples(key_of, key_of), if_absent=st.booleans(), move=st.booleans())
    def copy_or_move(self, pair: tuple[str, str], if_absent: bool, move: bool) -> None:
        source, target = pair

        async def copy() -> None:
            call = self.objects.move if move else self.objects.copy
            there = self.model.find(source)
            copying = call(source, target, if_absent=if_absent)
            if there is None or source == target:
                with pytest.raises((KeyNotFoundError, InvalidArgumentError)):
                    await copying
            elif if_absent and self.model.find(target) is not None:
                with pytest.raises(PreconditionFailedError):
                    await copying
            else:
                result = await copying
                assert (result.key, result.size) == (target, len(there.data))
                self.model.keep(
                    target, Saved(there.data, there.content_type, there.metadata, result.etag, there.end)
                )
                if move:
                    del self.model.saved[source]
                    self.model.old_etags.append(there.etag)
            await self.check(source)
            await self.check(target)

        self.runner.run(copy())

    # -- time

    @rule(seconds=st.sampled_from([1, 5, 30]))
    def let_time_pass(self, seconds: int) -> None:
        self.model.now += seconds

    @rule()
    def sweep(self) -> None:
        expired = {key for key in self.model.saved if self.model.find(key) is None}
        assert self.runner.run(self.objects.sweep_expired()) == len(expired)
        for key in expired:
            self.model.old_etags.append(self.model.saved.pop(key).etag)

    # -- listing

    @rule(
        prefix=prefix_of,
        delimiter=st.sampled_from([None, "/"]),
        limit=st.integers(1, 5),
        details=st.booleans(),
    )
    def list_in_pages(self, prefix: str, delimiter: str | None, limit: int, details: bool) -> None:
        expected: list[str] = []
        for key in self.model.visible(prefix):
            cut = key.find("/", len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[: cut + 1]
            if not expected or expected[-1] != name:
                expected.append(name)

        async def pages() -> None:
            seen: list[str] = []
            cursor = None
            while True:
                page = await self.objects.list_page(
                    prefix,
                    delimiter=delimiter,
                    limit=limit,
                    cursor=cursor,
                    details=details,
                    skip=SYSTEM_PREFIX,
                )
                names = [entry.key for entry in page.entries] + page.prefixes
                assert len(names) <= limit
                assert len(names) == limit or page.cursor is None
                seen += sorted(names, key=str.encode)
                for entry in page.entries if details else ():
                    saved = self.model.saved[entry.key]
                    assert entry.size == len(saved.data)
                if (cursor := page.cursor) is None:
                    break
            assert seen == sorted(expected, key=str.encode)

        self.runner.run(pages())

    @rule(prefix=prefix_of)
    def stats(self, prefix: str) -> None:
        visible = self.model.visible(prefix)
        found = self.runner.run(self.objects.stats(prefix, skip=SYSTEM_PREFIX))
        assert (found.count, found.bytes) == (
            len(visible),
            sum(len(self.model.saved[key].data) for key in visible),
        )


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 25):
        yield data[start : start + 25]
