"""All layers on Azure: the whole contract."""

from __future__ import annotations

import pytest

from storage_lib.backends.azure import AzureStorageBackend
from storage_lib.ports.backend import ObjectStore, QueueStore, TableStore
from storage_lib.testing import QueueStoreContract, TableStoreContract
from tests import test_azure_backend as azure
from tests.layer_stacks import FULL, stacked

pytestmark = azure.pytestmark

backend = azure.backend
blobs = azure.blobs


class TestObjects(azure.TestAzureObjects):
    @pytest.fixture
    def objects(self, backend: AzureStorageBackend) -> ObjectStore:
        return stacked(backend, FULL).objects


class TestTables(TableStoreContract):
    @pytest.fixture
    def tables(self, backend: AzureStorageBackend) -> TableStore:
        return stacked(backend, FULL).tables


class TestQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, backend: AzureStorageBackend) -> QueueStore:
        return stacked(backend, FULL).queues
