"""Conversations in a backup, a migration and a comparison: their large messages, which are objects, too."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageConfig, StorageManager
from storage_lib.archive import backup, restore
from storage_lib.conversations import Conversations
from storage_lib.migration import Migration, MigrationOptions, check
from storage_lib.reserved_names import MESSAGES

LARGE = {"role": "user", "content": "x" * 1_000_000}
SMALL = {"role": "user", "content": "y"}


def config_of(kind: str, request: pytest.FixtureRequest, path: Path) -> StorageConfig:
    if kind != "azurite":
        return StorageConfig(storage_type=kind, base_path=str(path))  # type: ignore[arg-type]
    name = f"t{os.urandom(6).hex()}"  # The tables of a namespace are listed alone.
    text = request.getfixturevalue("azurite").connection_string
    return StorageConfig(storage_type="azure", connection_string=text, container=name, namespace=name)


@pytest.fixture(params=["memory-file", "file-azurite", "azurite-file"])
def configs(request: pytest.FixtureRequest, tmp_path: Path) -> list[StorageConfig]:
    kinds = enumerate(request.param.split("-"))
    return [config_of(kind, request, tmp_path / str(n)) for n, kind in kinds]


@pytest.fixture
async def two(configs: list[StorageConfig]) -> AsyncGenerator[tuple[StorageManager, StorageManager]]:
    async with StorageManager(configs[0]) as first, StorageManager(configs[1]) as second:
        yield first, second


@pytest.fixture
async def memories() -> AsyncGenerator[tuple[StorageManager, StorageManager]]:
    config = StorageConfig(storage_type="memory")
    async with StorageManager(config) as first, StorageManager(config) as second:
        yield first, second


async def filled(storage: StorageManager, table: str = "conversationlog") -> None:
    await storage.save("notes/a", "a")
    await Conversations(storage, table=table).append("chats/1", [SMALL, LARGE, SMALL])


async def messages(storage: StorageManager, table: str = "conversationlog") -> list[Any]:
    return [each.message for each in await Conversations(storage, table=table).read("chats/1")]


async def objects(storage: StorageManager) -> list[str]:
    return [str(entry) async for entry in storage.backend.objects.iterate(MESSAGES)]


async def test_a_migration_takes_large_messages_along(two: tuple[StorageManager, StorageManager]) -> None:
    source, target = two
    await filled(source)
    assert {each.name for each in (await check(source, target)).differences} >= {
        name async for name in _keys(source)
    }
    report = await Migration(source, target).run()
    assert report.ok, report.failed
    assert await messages(target) == [SMALL, LARGE, SMALL]
    found = await check(source, target, content=True)
    assert (found.differences, found.failed) == ([], [])
    assert (await Migration(source, target).run()).skipped == 2


async def _keys(storage: StorageManager) -> AsyncGenerator[str]:
    async for entry in storage.backend.objects.iterate(MESSAGES):
        assert not isinstance(entry, str)
        yield entry.key


@pytest.mark.parametrize(
    ("options", "is_there"),
    [
        ({"tables": ["conversationlog"], "objects": False}, True),
        ({"tables": ["conversation*"], "prefix": "notes/", "target_prefix": "others/"}, True),
        ({"tables": ()}, False),
        ({"prefix": "notes/"}, False),
    ],
)
async def test_large_messages_go_with_their_table(
    memories: tuple[StorageManager, StorageManager], options: dict[str, Any], is_there: bool
) -> None:
    source, target = memories
    await filled(source)
    chosen = MigrationOptions(**options)
    assert (await Migration(source, target, chosen).run()).ok
    assert bool(await objects(target)) is is_there
    assert (await check(source, target, chosen)).differences == []
    if is_there:
        assert await messages(target) == [SMALL, LARGE, SMALL]


async def test_a_mirror_has_no_messages_of_its_own(
    memories: tuple[StorageManager, StorageManager],
) -> None:
    source, target = memories
    await filled(source)
    assert (await Migration(source, target).run()).ok
    await Conversations(target).append("chats/2", [LARGE])
    assert len(await objects(target)) == 2
    assert (await Migration(source, target, MigrationOptions(delete=True)).run()).ok
    assert len(await objects(target)) == 1
    assert await messages(target) == [SMALL, LARGE, SMALL]


async def test_a_backup_takes_large_messages_along(two: tuple[StorageManager, StorageManager]) -> None:
    source, target = two
    await filled(source)
    file = io.BytesIO()
    assert (await backup(source, file)).objects == 2
    report = await restore(target, io.BytesIO(file.getvalue()))
    assert report.ok
    assert await messages(target) == [SMALL, LARGE, SMALL]
    assert (await check(source, target, content=True)).differences == []


@pytest.mark.parametrize(
    ("saved", "restored", "is_there"),
    [
        ({"tables": ["conversationlog"]}, {}, True),
        ({}, {"tables": ["conversationlog"], "prefix": "none/", "into": "others/"}, True),
        ({}, {"tables": False}, False),
        ({}, {"tables": ["people"]}, False),
        ({"prefix": "notes/"}, {}, False),
    ],
)
async def test_large_messages_are_restored_with_their_table(
    memories: tuple[StorageManager, StorageManager],
    saved: dict[str, Any],
    restored: dict[str, Any],
    is_there: bool,
) -> None:
    source, target = memories
    await filled(source)
    await source.backend.tables.insert("people", "eu", "1", {"n": 1})
    file = io.BytesIO()
    await backup(source, file, **saved)
    await restore(target, io.BytesIO(file.getvalue()), **restored)
    assert bool(await objects(target)) is is_there
    if is_there:
        assert await messages(target) == [SMALL, LARGE, SMALL]


async def test_a_table_of_another_name_goes_with_all_tables(
    memories: tuple[StorageManager, StorageManager],
) -> None:
    source, target = memories
    await filled(source, "chats")
    file = io.BytesIO()
    await backup(source, file)
    await restore(target, io.BytesIO(file.getvalue()))
    assert await messages(target, "chats") == [SMALL, LARGE, SMALL]
    async with StorageManager(StorageConfig(storage_type="memory")) as third:
        assert (await Migration(source, third).run()).ok
        assert await messages(third, "chats") == [SMALL, LARGE, SMALL]


async def test_messages_whose_table_is_gone_go_with_the_whole_store(
    memories: tuple[StorageManager, StorageManager],
) -> None:
    """What a comparison of whole stores sees, a copy of a whole store has."""
    source, target = memories
    await source.backend.objects.put(f"{MESSAGES}of/none", b"{}")
    file = io.BytesIO()
    await backup(source, file)
    assert (await restore(target, io.BytesIO(file.getvalue()))).ok
    assert (await check(source, target)).differences == []
