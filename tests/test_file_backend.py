from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.objects import ObjectStore
from storage_lib.testing import ObjectStoreContract, QueueStoreContract, TableStoreContract


@pytest.fixture(scope="module")
async def backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FileStorageBackend]:
    async with FileStorageBackend(tmp_path_factory.mktemp("data")) as backend:
        yield backend


class TestFileObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, backend: FileStorageBackend) -> ObjectStore:
        return backend.objects

    @pytest.fixture(autouse=True)
    def _folder(self, backend: FileStorageBackend) -> None:
        self.folder = Path(backend.base_path, "objects")

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        path = self.folder / f"{key}.obj"
        stored = path.read_bytes()
        path.write_bytes(stored[: stored.index(b"\n", stored.index(b"\n") + 1) + 1] + data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class TestFileQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: FileStorageBackend) -> object:
        return backend.queues


class TestFileTables(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: FileStorageBackend) -> object:
        return backend.tables
