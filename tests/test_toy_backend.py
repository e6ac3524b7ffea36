"""A backend of objects takes a newcomer fewer than 80 lines, and keeps the whole contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage_lib.errors import UnsupportedOperationError
from storage_lib.layers.retry import RetryBackend
from storage_lib.manager import StorageManager
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import ObjectStore, StorageBackend
from storage_lib.ports.object_model import StoredObject
from storage_lib.testing import ObjectStoreContract
from tests import toy_backend
from tests.toy_backend import ToyObjects


class TestToyObjects(ObjectStoreContract):
    # No other program can put anything into a dict.
    test_decomposed_names_are_listed_or_told = None  # type: ignore[assignment]

    @pytest.fixture
    def objects(self) -> ObjectStore:
        return ObjectStore(ToyObjects())

    async def tamper(self, objects: ObjectStore, key: str, data: bytes) -> None:
        stored = objects.driver.stored  # type: ignore[attr-defined]
        stored[key] = replace(stored[key], data=data)

    async def put_foreign(self, objects: ObjectStore, key: str, data: bytes, content_type: str) -> None:
        await objects.put(key, data, content_type=content_type)
        stored: Any = objects.driver.stored  # type: ignore[attr-defined]
        stored[key] = StoredObject(replace(stored[key].info, sha256=None), data)


def test_it_is_short() -> None:
    assert len(Path(toy_backend.__file__).read_text().splitlines()) < 80


async def test_the_manager_and_layers_take_it_as_any_other() -> None:
    class Toy(StorageBackend):
        def __init__(self) -> None:
            self.objects = ObjectStore(ToyObjects())
            self.tables, self.queues = no_tables("Toy"), no_queues("Toy")

        async def open(self) -> None:
            return

    async with StorageManager(backend=Toy()) as storage:
        await storage.save("k", {"a": [1, b"2"]}, ttl=60)
        assert await storage.load("k") == {"a": [1, b"2"]}
        assert await storage.list_keys() == ["k"]
        with pytest.raises(UnsupportedOperationError, match="Toy has no tables"):
            await RetryBackend(storage.backend).tables.create_table("t")
