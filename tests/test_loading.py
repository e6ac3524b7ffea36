"""Defaults for what is missing, values with their info, and many at once that raise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage_lib import MemoryBackend, StorageConfig, StorageManager
from storage_lib.errors import (
    IntegrityError,
    InvalidKeyError,
    KeyNotFoundError,
    PreconditionFailedError,
    SerializationError,
    StorageError,
    StorageUnavailableError,
)
from tests.layer_stacks import FULL, stacked


@dataclass
class Agent:
    name: str


@pytest.fixture(params=["memory", "file", "layers"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageManager]:
    match request.param:
        case "file":
            manager = StorageManager(StorageConfig(base_path=tmp_path))
        case "layers":
            manager = StorageManager(backend=stacked(MemoryBackend(), FULL))
        case _:
            manager = StorageManager(backend=MemoryBackend())
    async with manager:
        yield manager


@pytest.mark.parametrize("default", [None, 0, "", {}, KeyNotFoundError, ...], ids=repr)
async def test_what_is_missing_is_the_default_itself(storage: StorageManager, default: Any) -> None:
    assert await storage.load("a", default=default) is default
    assert await storage.load("a", Agent, default=default) is default
    assert await storage.load("a", default=default, fresh=True) is default
    assert await storage.load_version("a", default=default) is default
    assert await storage.load_many(["a"], default=default) == {"a": default}
    await storage.save("a", None)
    assert await storage.load("a", default=default) is None
    await storage.delete("a")
    assert await storage.load("a", default=default) is default


async def test_a_default_is_only_for_what_is_missing(storage: StorageManager) -> None:
    await storage.save("a", {"nom": "ceo"})
    with pytest.raises(SerializationError):
        await storage.load("a", Agent, default=None)
    for key in ("", "../a", ".system/a"):
        with pytest.raises(InvalidKeyError):
            await storage.load(key, default=None)
    await storage.save_versioned("v", 1)
    assert await storage.load_version("v", 1, default=None) == 1
    assert await storage.load_version("v", 7, default=None) is None


@pytest.mark.parametrize("error", [StorageUnavailableError, IntegrityError])
async def test_no_other_error_becomes_the_default(
    monkeypatch: pytest.MonkeyPatch, error: type[StorageError]
) -> None:
    storage = StorageManager(backend=MemoryBackend())

    async def fail(*_: Any, **__: Any) -> Any:
        raise error("not now")

    for method in ("get", "head", "delete"):
        monkeypatch.setattr(storage.backend.objects.driver, method, fail)
    with pytest.raises(error):
        await storage.load("a", default=None)
    with pytest.raises(error):
        await storage.delete("a", missing_ok=True)
    with pytest.raises(error):
        await storage.load_many(["a"], default=None, raise_errors=True)


async def test_a_value_comes_with_the_etag_of_its_version(storage: StorageManager) -> None:
    put = await storage.save("a", Agent("ceo"), metadata={"author": "me"}, ttl=60)
    loaded = await storage.load_with_info("a", Agent)
    assert loaded.value == Agent("ceo")
    assert loaded.etag == loaded.info.etag == put.etag
    assert dict(loaded.info.metadata) == {"author": "me"}
    assert loaded.info.expires_at is not None
    await storage.save("a", {"name": "cto"}, if_match=loaded.etag)
    with pytest.raises(PreconditionFailedError):
        await storage.save("a", {"name": "late"}, if_match=loaded.etag)
    again = await storage.load_with_info("a", fresh=True)
    assert (again.value, again.etag) == ({"name": "cto"}, (await storage.info("a")).etag)
    with pytest.raises(KeyNotFoundError):
        await storage.load_with_info("b")


async def test_many_raise_the_first_error_once_all_have_been_tried(storage: StorageManager) -> None:
    items = {"a": 1, "../b": 2, "c": object(), "d": 4}
    with pytest.raises(InvalidKeyError) as refused:
        await storage.save_many(items, raise_errors=True)
    first, second = refused.value.__notes__
    assert first == "2 of 4 failed; this is the error of '../b'"
    assert second.startswith("'c': SerializationError: ")
    assert await storage.load_many(["a", "d"], raise_errors=True) == {"a": 1, "d": 4}
    for many in (
        storage.load_many(["a", "x", "d"], raise_errors=True),
        storage.info_many(["a", "x", "d"], raise_errors=True),
        storage.delete_many(["a", "x", "d"], raise_errors=True),
    ):
        with pytest.raises(KeyNotFoundError):
            await many
    assert await storage.list_keys() == []
    assert await storage.delete_many(["a", "x"], missing_ok=True, raise_errors=True) == {"a": None, "x": None}
    results = await storage.save_many({"a": 1}, raise_errors=True)
    assert results["a"].etag == (await storage.info_many(["a"], raise_errors=True))["a"].etag


async def test_notes_about_many_errors_are_few(storage: StorageManager) -> None:
    with pytest.raises(KeyNotFoundError) as missing:
        await storage.load_many([f"{n}" for n in range(100)], raise_errors=True)
    assert len(missing.value.__notes__) < 20


async def test_what_is_missing_may_be_deleted(storage: StorageManager) -> None:
    put = await storage.save("a", 1)
    await storage.delete("a", missing_ok=True)
    await storage.delete("a", missing_ok=True, if_match=put.etag)
    with pytest.raises(KeyNotFoundError):
        await storage.delete("a")
    with pytest.raises(InvalidKeyError):
        await storage.delete(".system/a", missing_ok=True)
