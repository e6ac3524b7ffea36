"""All layers, and each alone that does not let through what it is given, on files: the whole contract.
`make soak` adds the others and every pair."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.ports.backend import ObjectStore
from tests import test_file_backend as files
from tests.layer_stacks import FULL, SOAK, STACKS, STORING, Stack, named, stacked

shared = files.shared
ON_FILES = STACKS if SOAK else [*((name,) for name in STORING), FULL]
pytestmark = pytest.mark.parametrize("stack", ON_FILES, ids=named)


class TestObjects(files.TestFileObjects):
    race_rounds = 5

    @pytest.fixture
    def objects(self, shared: FileStorageBackend, stack: Stack) -> ObjectStore:
        self.folder = Path(shared.base_path, "objects")
        return stacked(shared, stack).objects
