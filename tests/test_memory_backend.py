from __future__ import annotations

from dataclasses import replace

import pytest

from storage_lib.backends.memory import MemoryBackend, MemoryObjectStore
from storage_lib.backends.objects import ObjectStore, StoredObject
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract


@pytest.fixture(scope="module")
def backend() -> MemoryBackend:
    return MemoryBackend()


class TestMemoryObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, backend: MemoryBackend) -> ObjectStore:
        return backend.objects

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        assert isinstance(objects, MemoryObjectStore)
        objects._objects[key] = replace(objects._objects[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        assert isinstance(objects, MemoryObjectStore)
        await objects.put(key, data, content_type=content_type)
        info = replace(objects._objects[key].info, sha256=None)
        objects._objects[key] = StoredObject(info, data)


class TestMemoryQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: MemoryBackend) -> object:
        return backend.queues


class TestMemoryTables(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: MemoryBackend) -> object:
        return backend.tables
