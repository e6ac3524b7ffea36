"""Listings of tables and queues, through managers and layers; their contract is storage_lib.testing.named."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from pathlib import Path

import pytest

from storage_lib import StorageConfig, StorageManager, SyncStorageManager
from storage_lib.config import AuditOptions
from storage_lib.errors import UnsupportedOperationError
from storage_lib.names import MappedName, listed_name, queue_name, table_name
from storage_lib.ports.absent import no_queues, no_tables
from storage_lib.ports.backend import StorageBackend


async def test_a_manager_lists_them_and_so_does_its_backend(tmp_path: Path) -> None:
    async with StorageManager(StorageConfig(base_path=str(tmp_path))) as storage:
        assert await storage.list_tables() == await storage.list_queues() == []
        await storage.backend.insert_entity("agent_metrics", {"PartitionKey": "p", "RowKey": "r"})
        await storage.backend.insert_entity("People", {"PartitionKey": "p", "RowKey": "r"})
        await storage.backend.send_message("agent_work", "x")
        await storage.backend.send_message("b", "x")
        for lister in (storage, storage.backend):
            assert await lister.list_tables() == ["People", "agent_metrics"]
            assert await lister.list_queues() == ["agent_work", "b"]
            assert await lister.list_tables("agent_") == ["agent_metrics"]
            assert [name async for name in lister.list_queues("agent_")] == ["agent_work"]


def test_the_synchronous_twin_lists_them(tmp_path: Path) -> None:
    with SyncStorageManager(StorageConfig(base_path=str(tmp_path))) as storage:
        assert list(storage.list_tables()) == list(storage.list_queues()) == []


async def test_what_has_no_tables_and_queues_says_so() -> None:
    class Objects(StorageBackend):
        tables = no_tables("this")
        queues = no_queues("this")

    storage = StorageManager(backend=Objects())
    for listing in (storage.list_tables(), storage.list_queues()):
        with pytest.raises(UnsupportedOperationError, match="this has no"):
            await listing


async def test_a_listing_is_audited_as_a_read(tmp_path: Path) -> None:
    options = AuditOptions(sink="table", operations="all")
    async with StorageManager(StorageConfig(base_path=str(tmp_path), audit=options)) as storage:
        await storage.list_tables()
        await storage.list_queues()
    async with StorageManager(StorageConfig(base_path=str(tmp_path))) as storage:
        found = [entity.properties.get("action") async for entity in storage.backend.tables.iterate("audit")]
        assert {"tables.list_tables", "queues.list_queues"} <= {*found}


async def test_a_database_of_an_older_version_lists_its_names_and_learns_new_ones(tmp_path: Path) -> None:
    config = StorageConfig(base_path=str(tmp_path))
    async with StorageManager(config) as storage:
        await storage.backend.tables.create_table("agent_metrics")
    database = tmp_path / "system" / "store.db"
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE given_names")
    connection.close()
    async with StorageManager(config) as storage:
        assert await storage.list_tables() == [f"={table_name('agent_metrics')}"]
        await storage.backend.tables.create_table("agent_metrics")
        assert await storage.list_tables() == ["agent_metrics"]


@pytest.mark.parametrize("mapping", [table_name, queue_name])
def test_a_mapped_name_keeps_what_was_given(mapping: type[str]) -> None:
    name = mapping("agent_tasks")
    assert isinstance(name, MappedName)
    assert mapping(f"={name}") == str(name)
    assert listed_name(name, mapping) == "agent_tasks"
    assert listed_name(str(name), mapping) == f"={name}"
    # What a store says of a name is believed only if it is true.
    assert listed_name(MappedName(str(name), "other"), mapping) == f"={name}"
    for twin in (copy.copy(name), pickle.loads(pickle.dumps(name))):  # noqa: S301
        assert (twin, twin.given) == (name, "agent_tasks")


@pytest.mark.parametrize("name", ["=users", "==agent-tasks-x0123456789", "=a_b-x0123456789"])
def test_an_equals_sign_is_mapped_like_any_other(name: str) -> None:
    assert isinstance(queue_name(name), MappedName)
    assert isinstance(table_name(name), MappedName)
