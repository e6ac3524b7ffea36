"""`delete_prefix`, `copy_prefix` and `move_prefix`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from storage_lib import StorageManager
from storage_lib.backends.memory import MemoryBackend
from storage_lib.config.validation import Rule, ValidationOptions
from storage_lib.errors import (
    InvalidArgumentError,
    InvalidKeyError,
    RuleViolationError,
    StorageError,
    StorageUnavailableError,
)
from storage_lib.layers.base import Layer, Operation
from storage_lib.layers.validation import ValidationLayer
from storage_lib.ports.backend import ListEntry, StorageBackend
from storage_lib.prefixes import PrefixResult
from tests.http_app import config_of
from tests.layer_stacks import FULL, stacked


class Faulty(Layer):
    """Refuses some operations. ``refused``: (operation, key): error."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.refused: dict[tuple[str, str], StorageError] = {}
        self.at_once = self.most = 0

    async def around[T](self, operation: Operation, call: Any, /) -> T:
        if (error := self.refused.get((operation.name, operation.target))) is not None:
            raise error
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            return await call()
        finally:
            self.at_once -= 1


@pytest.fixture
async def storage(any_store: tuple[str, object], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*any_store, tmp_path)) as storage:
        yield storage


@pytest.fixture
def faulty() -> Faulty:
    return Faulty(MemoryBackend())


@pytest.fixture
def memory(faulty: Faulty) -> StorageManager:
    return StorageManager(backend=faulty)


async def test_all_that_objects_have_goes_along(storage: StorageManager) -> None:
    await storage.save("a/config", {"n": 1}, metadata={"m": "ü"}, ttl=3600)
    await storage.write("a/deep/er/text", b"a,b", content_type="text/csv")
    for n in range(3):
        await storage.save_versioned("a/model", n, saved_by="ceo")
    await storage.label_version("a/model", 2, "production")
    await storage.rollback("a/model", 2)
    await storage.save("a2", "not below a/")
    await storage.save("t/old", "stays")
    dry = await storage.copy_prefix("a/", "t/", dry_run=True)
    assert (dry.done, dry.failed, dry.is_complete, dry.last) == (6, {}, True, "a/model/v3")
    assert await storage.list_keys("t/") == ["t/old"]

    copied = await storage.copy_prefix("a/", "t/")
    assert (copied.done, copied.skipped, copied.failures, copied.is_complete) == (6, 0, 0, True)
    again = await storage.copy_prefix("a/", "t/", if_absent=True)
    assert (again.done, again.skipped) == (0, 6)
    moved = await storage.move_prefix("t/", "a/b/moved/")
    assert (moved.done, moved.is_complete) == (7, True)
    assert await storage.list_keys("t/") == []
    for prefix in ("a/", "a/b/moved/"):
        info = await storage.info(f"{prefix}config")
        assert (dict(info.metadata), await storage.load(f"{prefix}config")) == ({"m": "ü"}, {"n": 1})
        assert info.expires_at == (await storage.info("a/config")).expires_at is not None
        assert (await storage.info(f"{prefix}deep/er/text")).content_type == "text/csv"
        versions = await storage.list_versions(f"{prefix}model", details=True)
        assert [(each.number, each.saved_by, each.labels) for each in versions] == [
            (1, "ceo", ()),
            (2, "ceo", ("production",)),
            (3, "ceo", ()),
        ]
        assert await storage.load_version(f"{prefix}model") == 1
    assert await storage.save_versioned("a/b/moved/model", 4) == 4

    would = await storage.delete_prefix("a/", dry_run=True)
    deleted = await storage.delete_prefix("a/")
    assert would.done == deleted.done == 14
    assert deleted.is_complete
    assert await storage.list_keys() == ["a2"]
    assert (await storage.delete_prefix("a/")).done == 0


async def test_all_that_objects_have_goes_along_through_every_layer() -> None:
    await test_all_that_objects_have_goes_along(StorageManager(backend=stacked(MemoryBackend(), FULL)))


async def test_a_prefix_that_is_copied_below_itself_is_copied_once(storage: StorageManager) -> None:
    await storage.save_many({"a": 1, "b/c": 2, "backup/old": 3})
    for _ in range(2):
        assert (await storage.copy_prefix("", "backup/")).done == 2
        assert await storage.list_keys() == ["a", "b/c", "backup/a", "backup/b/c", "backup/old"]
    assert (await storage.move_prefix("backup/b/", "backup/")).done == 1
    assert (await storage.move_prefix("backup/", "")).done == 3
    assert await storage.list_keys() == ["a", "b/c", "c", "old"]


async def test_a_target_below_the_source_itself_is_refused(memory: StorageManager) -> None:
    await memory.save_many({"a/a/x": 1, "a/b": 2})
    result = await memory.move_prefix("a/", "")
    assert (result.done, list(result.failed)) == (1, ["a/a/x"])
    assert isinstance(result.failed["a/a/x"], InvalidArgumentError)
    assert await memory.list_keys() == ["a/a/x", "b"]


async def test_failures_are_told_by_key_and_stop_nothing(memory: StorageManager, faulty: Faulty) -> None:
    await memory.save_many({f"a/{n}": n for n in range(5)} | {"a/" + "x" * 255: 0})
    errors = {"a/1": StorageError("one"), "a/3": StorageError("three")}
    for key, error in errors.items():
        faulty.refused |= {(name, key): error for name in ("delete", "copy")}
    result = await memory.copy_prefix("a/", "b")
    assert (result.done, result.failures, set(result.failed)) == (3, 3, {*errors, "a/" + "x" * 255})
    assert isinstance(result.failed["a/" + "x" * 255], InvalidKeyError)
    assert result.is_complete
    result = await memory.delete_prefix("a/")
    assert (result.done, result.failed) == (4, errors)
    assert await memory.list_keys("a/") == list(errors)


async def test_a_move_that_was_cut_off_is_ended(memory: StorageManager, faulty: Faulty) -> None:
    await memory.save_many({"a/1": 1, "a/2": 2, "a/3": 3, "b/3": "another"}, metadata={"m": "1"})
    faulty.refused = {("delete", "a/2"): StorageUnavailableError("away")}
    with pytest.raises(StorageUnavailableError):
        await memory.move_prefix("a/", "b/", concurrency=1, if_absent=True)
    assert await memory.list_keys() == ["a/2", "a/3", "b/1", "b/2", "b/3"]
    faulty.refused.clear()
    result = await memory.move_prefix("a/", "b/", if_absent=True)
    assert (result.done, result.skipped) == (1, 1)
    assert await memory.list_keys() == ["a/3", "b/1", "b/2", "b/3"]
    assert await memory.load_many(["b/1", "b/2", "b/3"]) == {"b/1": 1, "b/2": 2, "b/3": "another"}


@pytest.mark.parametrize("concurrency", [1, 3, 100])
async def test_a_part_at_a_time_is_all_of_it(
    memory: StorageManager, faulty: Faulty, concurrency: int
) -> None:
    await memory.save_many({f"a/{n}": n for n in range(10)})
    faulty.most = 0
    last, done = None, []
    while True:
        seen: list[str | None] = []
        result: PrefixResult = await memory.copy_prefix(
            "a/",
            "b/",
            after=last,
            limit=4,
            concurrency=concurrency,
            on_progress=lambda so_far, seen=seen: seen.append(so_far.last),
        )
        done.append(result.done)
        assert seen[-1] == result.last
        if result.is_complete:
            break
        last = result.last
    assert done == [4, 4, 2]
    assert len(await memory.list_keys("b/")) == 10
    assert faulty.most <= concurrency + 1  # and the listing
    nothing = await memory.delete_prefix("a/", seconds=0)
    assert (nothing.done, nothing.is_complete) == (0, False)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"source": "a/", "target": "a/"}, "target"),
        ({"source": ".system/", "target": "a/"}, "key"),
        ({"source": "a/", "target": ".system/"}, "key"),
        ({"source": "../", "target": "a/"}, "source"),
        ({"source": "a/", "target": "a//"}, "target"),
        ({"source": None, "target": "a/"}, "source"),
        ({"source": "a/", "target": "b/", "concurrency": 0}, "concurrency"),
        ({"source": "a/", "target": "b/", "limit": -1}, "limit"),
        ({"source": "a/", "target": "b/", "after": "a//b"}, "after"),
        ({"source": "a/", "target": "b/", "after": 3}, "after"),
        ({"source": "a/", "target": "b/", "seconds": "5"}, "seconds"),
    ],
    ids=str,
)
async def test_wrong_arguments_are_refused_before_anything_is_done(
    memory: StorageManager, options: dict[str, Any], field: str
) -> None:
    await memory.save("a/x", 1)
    for call in (memory.copy_prefix, memory.move_prefix):
        with pytest.raises((InvalidArgumentError, InvalidKeyError)) as refused:
            await call(**options)
        assert refused.value.field == field
    assert await memory.list_keys() == ["a/x"]


async def test_the_librarys_own_objects_stay(memory: StorageManager) -> None:
    await memory.save("a", 1, ttl=60)

    async def everything() -> list[str]:
        return [entry.key async for entry in memory.backend.objects.iterate() if isinstance(entry, ListEntry)]

    before = await everything()
    assert (await memory.delete_prefix("")).done == 1
    assert await everything() == [key for key in before if key != "a"] != []


async def test_rules_are_for_the_versions_and_not_for_what_tells_which_is_current() -> None:
    rules = ValidationOptions(rules=(Rule(prefix="t/", schema={"type": "array"}),))
    storage = StorageManager(backend=ValidationLayer(MemoryBackend(), rules))
    await storage.save_versioned("s/model", [1])
    await storage.save("s/other/current", {"version": 1, "more": True})
    await storage.save("s/value", {})
    copied = await storage.copy_prefix("s/", "t/")
    assert (copied.done, list(copied.failed)) == (2, ["s/other/current", "s/value"])
    assert all(isinstance(error, RuleViolationError) for error in copied.failed.values())
    assert await storage.load_version("t/model") == [1]
