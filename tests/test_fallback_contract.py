"""The fallback layer keeps the whole contract of objects with a mirror, and during an outage."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage_lib.backends.file import FileStorageBackend
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config import StorageConfig
from storage_lib.config.fallback import FallbackOptions
from storage_lib.layers.fallback import FallbackLayer
from storage_lib.ports.backend import ObjectStore
from tests import test_file_backend as files
from tests.effort import SOAK
from tests.outages import Switched, refused
from tests.test_layers import MemoryBehindALayer

SECONDARY = StorageConfig(storage_type="memory")


def options(**more: object) -> FallbackOptions:
    chosen = {"secondary": SECONDARY, "writes": "secondary", "complete": True, "check_seconds": 0, **more}
    return FallbackOptions(**chosen)  # type: ignore[arg-type]


class TestMirror(MemoryBehindALayer):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        return FallbackLayer(MemoryBackend(), MemoryBackend(), options(mode="mirror")).objects


class _OnTheSecondStore(MemoryBehindALayer):
    """What other programs do, they do to the store that answers."""

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        await super().tamper(ObjectStore(objects.driver.secondary.driver), key, data)  # type: ignore[attr-defined]

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        second = ObjectStore(objects.driver.secondary.driver)  # type: ignore[attr-defined]
        await super().put_foreign(second, key, data, content_type)


class TestDuringAnOutage(_OnTheSecondStore):
    @pytest.fixture
    def objects(self) -> ObjectStore:
        primary = Switched(MemoryBackend())
        primary.away = True
        primary.error = refused
        return FallbackLayer(primary, MemoryBackend(), options()).objects


if SOAK:  # On memory above; the layer and files together in tests/test_layers_files.py.

    class TestFilesDuringAnOutage(files.TestFileObjects):
        race_rounds = 5

        @pytest.fixture
        def objects(self, shared: FileStorageBackend) -> ObjectStore:
            self.folder = Path(shared.base_path, "objects")
            primary = Switched(MemoryBackend())
            primary.away = True
            primary.error = refused
            return FallbackLayer(primary, shared, options()).objects


shared = files.shared
