"""Every layer alone, and all of them, on files: the whole contract. `make soak` adds every pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.ports.backend import ObjectStore
from tests import test_file_backend as files
from tests.layer_stacks import STACKS, Stack, named, stacked

shared = files.shared
pytestmark = pytest.mark.parametrize("stack", STACKS, ids=named)


class TestObjects(files.TestFileObjects):
    race_rounds = 5

    @pytest.fixture
    def objects(self, shared: FileStorageBackend, stack: Stack) -> ObjectStore:
        self.folder = Path(shared.base_path, "objects")
        return stacked(shared, stack).objects
