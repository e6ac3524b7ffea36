"""Conversations on memory, on files and on Azure, with and without layers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage_lib import AzureStorageBackend, FileStorageBackend, MemoryBackend, StorageManager
from storage_lib.testing.conversations import ConversationsContract
from tests import test_azure_backend as azure
from tests.layer_stacks import FULL, stacked

backend = azure.backend


class TestInMemory(ConversationsContract):
    @pytest.fixture
    def storage(self) -> StorageManager:
        return StorageManager(backend=MemoryBackend())


class TestBehindAllLayers(ConversationsContract):
    @pytest.fixture
    def storage(self) -> StorageManager:
        return StorageManager(backend=stacked(MemoryBackend(), FULL))


class TestOnFiles(ConversationsContract):
    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[StorageManager]:
        async with FileStorageBackend(tmp_path / "data") as backend:
            yield StorageManager(backend=backend)


class TestOnAzure(ConversationsContract):
    pytestmark = azure.pytestmark

    @pytest.fixture
    def storage(self, backend: AzureStorageBackend) -> StorageManager:
        return StorageManager(backend=backend)
