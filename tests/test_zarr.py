"""The adapter of zarr, by zarr's own tests of a store."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.testing.store import StoreTests

from integrations.zarr import AgentStorageStore
from storage_lib import NotPortableError, StorageConfig, StorageManager
from tests.http_app import config_of

PREFIX = "arrays/weather"


class Contract(StoreTests[AgentStorageStore, cpu.Buffer]):
    store_cls = AgentStorageStore
    buffer_cls = cpu.Buffer

    async def get(self, store: AgentStorageStore, key: str) -> Buffer:
        found = await store._storage.backend.objects.get(f"{PREFIX}/{key}")
        assert found is not None
        return cpu.Buffer.from_bytes(found.data)

    async def set(self, store: AgentStorageStore, key: str, value: Buffer) -> None:
        await store._storage.backend.objects.put(f"{PREFIX}/{key}", value.to_bytes())

    @pytest.fixture
    def store_kwargs(self, place: Any) -> dict[str, Any]:
        return {"storage": place, "prefix": PREFIX}

    def test_store_repr(self, store: AgentStorageStore) -> None:
        assert repr(store).endswith(f", {PREFIX!r})")

    def test_store_supports_writes(self, store: AgentStorageStore) -> None:
        assert store.supports_writes

    def test_store_supports_listing(self, store: AgentStorageStore) -> None:
        assert store.supports_listing

    @pytest.mark.parametrize(
        "wanted",
        [SuffixByteRequest(0), RangeByteRequest(2, 2), RangeByteRequest(3, 1), RangeByteRequest(9, 9)],
    )
    async def test_a_range_of_nothing_is_empty(self, store: AgentStorageStore, wanted: Any) -> None:
        prototype = default_buffer_prototype()
        for each in (store, zarr.storage.MemoryStore()):
            await each.set("key", prototype.buffer.from_bytes(b"0123"))
            found = await each.get("key", prototype, wanted)
            assert found is not None
            assert found.to_bytes() == b""
            assert await each.get("none", prototype, wanted) is None


async def test_a_store_in_memory_is_the_same_when_it_is_read_only() -> None:
    prototype = default_buffer_prototype()
    store = AgentStorageStore(StorageConfig(storage_type="memory"))
    await store.set("key", prototype.buffer.from_bytes(b"0123"))
    other = store.with_read_only(True)
    found = await other.get("key", prototype)
    assert found is not None
    assert (found.to_bytes(), other.read_only, store.read_only) == (b"0123", True, False)
    with pytest.raises(ValueError, match="read-only"):
        await other.set("key", prototype.buffer.from_bytes(b""))


class TestMemory(Contract):
    @pytest.fixture
    async def place(self, tmp_path: Path) -> StorageManager:
        return StorageManager(await config_of("memory", None, tmp_path))

    async def test_serializable_store(self, store: AgentStorageStore) -> None:
        """What is in memory does not leave its process."""
        with pytest.raises(NotPortableError):
            pickle.dumps(store)


class TestFiles(Contract):
    @pytest.fixture
    async def place(self, tmp_path: Path) -> StorageConfig:
        return await config_of("file", None, tmp_path)


class TestAzurite(Contract):
    @pytest.fixture
    async def place(self, azurite: Any, tmp_path: Path) -> StorageConfig:
        return await config_of("azurite", azurite, tmp_path)


class TestS3(Contract):
    @pytest.fixture
    async def place(self, moto: Any, tmp_path: Path) -> StorageConfig:
        return await config_of("moto", moto, tmp_path)


@pytest.mark.parametrize("kind", ["file", "azurite", "moto"], indirect=True)
async def test_arrays_and_groups(kind: tuple[str, Any], tmp_path: Path) -> None:
    config = await config_of(*kind, tmp_path)
    values = np.arange(10_000, dtype="f4").reshape(100, 100)

    root = await zarr.api.asynchronous.open_group(AgentStorageStore(config, PREFIX), mode="w")
    array = await root.create_array("t", shape=(100, 100), chunks=(30, 30), dtype="f4")
    await array.setitem(slice(None), values)
    again = await zarr.api.asynchronous.open_group(
        AgentStorageStore(config, PREFIX, read_only=True), mode="r"
    )
    assert [name async for name in again.array_keys()] == ["t"]
    read = await again.getitem("t")
    np.testing.assert_array_equal(await read.getitem((slice(5, 50), 7)), values[5:50, 7])
    with pytest.raises(ValueError, match="read-only"):
        await read.setitem(0, 1)
    async with StorageManager(config) as storage:
        assert len(await storage.list_keys(f"{PREFIX}/t/c/")) == 16
        await root.delitem("t")
        assert await storage.list_keys(f"{PREFIX}/t/") == []


def test_zarr_without_an_event_loop_of_the_caller(tmp_path: Path) -> None:
    store = AgentStorageStore(f"file:{tmp_path}/data")
    array = zarr.create_array(store, shape=10, dtype="i4")
    array[3:5] = 7
    assert zarr.open_array(AgentStorageStore(f"file:{tmp_path}/data"), mode="r")[:].sum() == 14
