"""Every layer alone, and all of them, on memory: the whole contract. `make soak` adds every pair."""

from __future__ import annotations

import pytest

from storage_lib.backends.memory import MemoryBackend
from storage_lib.ports.backend import ObjectStore, QueueStore, TableStore
from storage_lib.testing import QueueStoreContract, TableStoreContract
from tests.layer_stacks import STACKS, Stack, named, stacked
from tests.test_layers import MemoryBehindALayer

pytestmark = pytest.mark.parametrize("stack", STACKS, ids=named)


class TestObjects(MemoryBehindALayer):
    @pytest.fixture
    def objects(self, stack: Stack) -> ObjectStore:
        return stacked(MemoryBackend(), stack).objects


class TestTables(TableStoreContract):
    @pytest.fixture
    def tables(self, stack: Stack) -> TableStore:
        return stacked(MemoryBackend(), stack).tables


class TestQueues(QueueStoreContract):
    @pytest.fixture
    def queues(self, stack: Stack) -> QueueStore:
        return stacked(MemoryBackend(), stack).queues
