"""The adapter of py-key-value. What its protocol promises is asked of the package's own store in memory and
of ours, by the same calls: all that the suite of its repository asks, which none of its packages has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_value.aio.errors import DeserializationError, InvalidTTLError, SerializationError
from key_value.aio.protocols.key_value import (
    AsyncCullProtocol,
    AsyncDestroyCollectionProtocol,
    AsyncDestroyStoreProtocol,
    AsyncEnumerateCollectionsProtocol,
    AsyncEnumerateKeysProtocol,
    AsyncKeyValue,
)
from key_value.aio.stores.memory import MemoryStore
from key_value.aio.wrappers.prefix_collections import PrefixCollectionsWrapper

from integrations.key_value import KeyValueStore
from storage_lib import (
    InvalidArgumentError,
    KeyNotFoundError,
    MemoryBackend,
    PreconditionFailedError,
    StorageManager,
)
from tests.http_app import config_of

KINDS = ["memory", "file", "azurite", "moto"]
TIMES = {"created": datetime(2026, 1, 1, tzinfo=UTC), "day": date(2026, 1, 1), "id": UUID(int=1), "raw": b"x"}
NAMES = [
    "plain",
    "a/b/../c",
    "../../etc/passwd",
    ".system",
    "ends.",
    "%2F",
    "=2F",
    "==",
    "back\\slash",
    "tab\tline\n",
    "!@#$%^&*()",
    "\u00e9",
    "e\u0301",
    "日本語 🌍",
    "\ud800",
    "k" * 255,
    "k" * 256,
    "世" * 300,
    "long/" * 1000,
]
"""Of keys and of collections, of which each is another one."""


VALUES: list[dict[str, Any]] = [
    {"null": None, "nested": {"null": None}, "list": [None, None]},
    {"bool": True, "nested": {"bool": False}, "list": [True, False, True]},
    {"int": 1, "negative": -42, "large": 10**18, "nested": {"int": 0}, "list": [1, 2, 3]},
    {"float": 1.0, "scientific": 1.5e-300, "large": 1.0e63, "list": [0.1, -2.5]},
    {"text": "value", "empty": "", "lines": "a\nb\r\n\tc", "quotes": "\"'\\", "world": "世界 🌍 é"},
    {"null": "text", "true": "text", "1": "text", "": "text", "世": "text", "text": "null"},
    {"json": '{"a": [1]}', "number": "1", "boolean": "true", "moment": "2025-01-01T00:00:00+00:00"},
    {"list": [], "dict": {}, "deep": {"a": {"b": {"c": [{"d": [[1, "x", None, {"e": 1.5}]]}]}}}},
    {"text": "a" * 10_000, "list": list(range(1000)), "dict": {f"key {at}": at for at in range(100)}},
    {"type": "AnyUrl", "$ref": "#/x", "__proto__": 1, "value": 1, "version": 1, "expires_at": "never"},
]
"""Of each kind of JSON, also in the names, and what a store may take for its own marks."""


class Colour(StrEnum):
    RED = "red"


class Level(Enum):
    HIGH = 1


@pytest.fixture
async def storage(kind: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*kind, tmp_path)) as manager:
        yield manager


@pytest.fixture
def store(storage: StorageManager) -> KeyValueStore:
    return KeyValueStore(storage)


@pytest.fixture(params=["reference", *KINDS])
def place(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A kind of store, and its server if it has one."""
    name: str = request.param
    return name, request.getfixturevalue(name) if name in ("azurite", "moto") else None


@pytest.fixture
async def any_of_them(place: tuple[str, Any], tmp_path: Path) -> AsyncIterator[AsyncKeyValue]:
    """The package's own store, and ours on each kind of storage."""
    if place[0] == "reference":
        yield MemoryStore()
        return
    async with StorageManager(await config_of(*place, tmp_path)) as manager:
        yield KeyValueStore(manager)


async def test_what_is_put_is_what_comes_back(any_of_them: AsyncKeyValue) -> None:
    store = any_of_them
    value = {
        "text": "Zeile\n世界 🌍",
        "int": -(10**18),
        "float": 1.5e63,
        "null": None,
        "deep": [{"a": [True]}],
    }
    assert isinstance(store, AsyncKeyValue)
    assert await store.get("k") is None
    assert await store.ttl("k") == (None, None)
    await store.put("k", value)
    await store.put("k", {"other": 1}, collection="other")
    assert await store.get("k") == value
    assert await store.get("k", collection="other") == {"other": 1}
    assert await store.ttl("k") == (value, None)
    await store.put("k", {})
    assert await store.get("k") == {}
    assert await store.delete("k") is True
    assert await store.delete("k") is False
    assert await store.get("k") is None
    assert await store.get("k", collection="other") == {"other": 1}
    assert await store.delete("nothing", collection="nowhere") is False


async def test_each_kind_of_json_comes_back(any_of_them: AsyncKeyValue) -> None:
    for value in VALUES:
        await any_of_them.put("k", value)
        found = await any_of_them.get("k")
        assert found == value
        # 1 is no 1.0, and no True. The reference sorts the names.
        assert json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)
    await any_of_them.put_many([str(index) for index in range(len(VALUES))], VALUES, collection="many")
    names = [str(index) for index in range(len(VALUES))]
    assert await any_of_them.get_many(names, collection="many") == VALUES


async def test_callers_at_the_same_time_do_not_disturb_each_other(any_of_them: AsyncKeyValue) -> None:
    async def caller(number: int) -> None:
        for turn in range(5):
            key = f"{number} {turn}"
            assert await any_of_them.get(key) is None
            for value in ({"n": turn}, {"n": -turn, "again": True}):
                await any_of_them.put(key, value)
                assert await any_of_them.get(key) == value
            assert await any_of_them.delete(key) is True
            assert await any_of_them.get(key) is None

    await asyncio.gather(*map(caller, range(8)))
    names = ["c!@#$%^&*()" * 60, "k!@#$%^&*()" * 60]
    await any_of_them.put(names[1], {"long": True}, collection=names[0])
    assert await any_of_them.get(names[1], collection=names[0]) == {"long": True}
    assert await any_of_them.get(names[1], collection=names[0] + "x") is None


async def test_many_at_once_are_as_one_by_one(any_of_them: AsyncKeyValue) -> None:
    store = any_of_them
    keys = [f"k{index}" for index in range(20)]
    await store.put_many(keys, [{"n": index} for index in range(20)], collection="c", ttl=100)
    assert await store.get_many([*keys, "no", "k0"], collection="c") == [
        *({"n": index} for index in range(20)),
        None,
        {"n": 0},
    ]
    found = await store.ttl_many(["k1", "no"], collection="c")
    assert found[0][0] == {"n": 1}
    assert found[0][1] == pytest.approx(100, abs=60)
    assert found[1] == (None, None)
    assert await store.delete_many([*keys[:5], "no"], collection="c") == 5
    assert await store.delete_many(keys, collection="c") == 15
    assert await store.get_many(keys, collection="c") == [None] * 20
    assert await store.get_many([], collection="c") == []
    assert await store.delete_many([], collection="c") == 0
    with pytest.raises(ValueError, match="values"):
        await store.put_many(["a", "b"], [{}])
    await store.put_many(["twice", "twice"], ({"n": 1}, {"n": 2}))
    assert await store.get("twice") == {"n": 2}


@pytest.mark.parametrize(
    ("place", "ttl"),
    [
        *((place, ttl) for place in ("reference", "memory", "file") for ttl in (0, -1, True)),
        # The reference ends with other errors.
        *((place, ttl) for place in ("memory", "file") for ttl in ("soon", float("nan"))),
    ],
    ids=str,
    indirect=["place"],
)
async def test_a_life_that_cannot_be_is_refused(any_of_them: AsyncKeyValue, ttl: Any) -> None:
    with pytest.raises(InvalidTTLError):
        await any_of_them.put("k", {"a": 1}, ttl=ttl)
    assert await any_of_them.get("k") is None


@pytest.mark.parametrize("place", ["reference", "memory", "file"], indirect=True)
@pytest.mark.parametrize("name", sorted(TIMES))
async def test_what_json_does_not_hold_is_refused(any_of_them: AsyncKeyValue, name: str) -> None:
    with pytest.raises(SerializationError):
        await any_of_them.put("k", {"nested": [{name: TIMES[name]}]})
    assert await any_of_them.get("k") is None


@pytest.mark.parametrize("kind", ["memory", "file"], indirect=True)
@pytest.mark.parametrize(
    ("given", "back"),
    [
        ({"a": (1, ("x",))}, {"a": [1, ["x"]]}),
        ({"a": Colour.RED}, {"a": "red"}),
        ({"a": {1: "x"}}, {"a": {"1": "x"}}),
        ({"a": 10**30}, {"a": 10**30}),
        ({"a": float("inf")}, {"a": float("inf")}),
    ],
    ids=["tuple", "enum of texts", "key that is a number", "large number", "infinite"],
)
async def test_values_come_back_as_by_json(store: KeyValueStore, given: Any, back: Any) -> None:
    await store.put("k", given)
    assert await store.get("k") == back


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_what_is_no_value_is_refused(store: KeyValueStore, storage: StorageManager) -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    for wrong in ([1], "text", None, {"a": Level.HIGH}, {"a": {1, 2}}, circle, {("a",): 1}, {"a": "\ud800"}):
        with pytest.raises(SerializationError):
            await store.put("k", wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SerializationError):
        await store.put_many(["fine", "k"], [{}, {"a": b""}])
    assert await storage.list_keys() == []
    for wrong in (1, None, b"k"):
        with pytest.raises(InvalidArgumentError) as refused:
            await store.get(wrong)  # pyright: ignore[reportArgumentType]
        assert refused.value.field == "key"
    with pytest.raises(InvalidArgumentError) as refused:
        await store.get("k", collection=5)  # pyright: ignore[reportArgumentType]
    assert refused.value.field == "collection"
    await storage.save("key-value/c/k", [1, 2])
    with pytest.raises(DeserializationError, match="key-value/c/k"):
        await store.get("k", collection="c")


@pytest.mark.parametrize("kind", ["memory", "file", "moto", "azurite"], indirect=True)
async def test_keys_and_collections_are_any_text(store: KeyValueStore, kind: tuple[str, Any]) -> None:
    names = NAMES if kind[0] in ("memory", "file") else NAMES[-5:]
    for name in names:
        await store.put(name, {"name": names.index(name)}, collection="keys")
        await store.put("k", {"name": names.index(name)}, collection=name)
    for name in names:
        assert await store.get(name, collection="keys") == {"name": names.index(name)}
        assert await store.get("k", collection=name) == {"name": names.index(name)}
        assert await store.keys(name) == ["k"]
    assert sorted(await store.keys("keys")) == sorted(names)
    assert sorted(await store.collections()) == sorted([*names, "keys"])
    for name in names:
        assert await store.delete(name, collection="keys")
        assert await store.destroy_collection(name)
    assert await store.collections() == []


@given(collection=st.text(min_size=1), key=st.text())
async def test_any_collection_and_any_key_are_found_and_told(collection: str, key: str) -> None:
    store = KeyValueStore(StorageManager(backend=MemoryBackend()))
    await store.put(key, {"a": 1}, collection=collection)
    assert await store.get(key, collection=collection) == {"a": 1}
    assert await store.collections() == [collection]
    assert await store.keys(collection) == [key]
    assert await store.get(key + "x", collection=collection) is None


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_what_is_there_is_told_and_destroyed(store: KeyValueStore, storage: StorageManager) -> None:
    for protocol in (
        AsyncCullProtocol,
        AsyncDestroyCollectionProtocol,
        AsyncDestroyStoreProtocol,
        AsyncEnumerateCollectionsProtocol,
        AsyncEnumerateKeysProtocol,
    ):
        assert isinstance(store, protocol)
    await storage.save("mine", 1)
    await storage.save("key-value/foreign", 1)
    await storage.save("key-value/a/not=ours", {})
    assert await store.collections() == ["a"]
    assert await store.keys("a") == []
    for collection in ("a", "b", "c"):
        await store.put_many(["1", "2", "3"], [{}] * 3, collection=collection)
    assert await store.collections() == ["a", "b", "c"]
    assert await store.collections(limit=2) == ["a", "b"]
    assert await store.keys("b") == ["1", "2", "3"]
    assert await store.keys("b", limit=2) == ["1", "2"]
    assert await store.keys("b", limit=0) == []
    assert await store.keys() == []
    assert await store.destroy_collection("b") is True
    assert await store.destroy_collection("b") is False
    assert await store.collections() == ["a", "c"]
    assert await store.destroy() is True
    assert await store.destroy() is False
    assert await storage.list_keys() == ["mine"]


@pytest.mark.parametrize("kind", ["memory", "file"], indirect=True)
async def test_what_has_expired_is_gone_and_culled(store: KeyValueStore, storage: StorageManager) -> None:
    objects = storage.backend.objects
    now = objects.clock()
    await store.put("short", {"a": 1}, ttl=10)
    await store.put("long", {"a": 1}, ttl=1000)
    objects.clock = lambda: now + 4
    assert (await store.ttl("short"))[1] == pytest.approx(6, abs=5)
    objects.clock = lambda: now + 100
    assert await store.get("short") is None
    assert await store.ttl("short") == (None, None)
    assert await store.get_many(["short", "long"]) == [None, {"a": 1}]
    assert await store.keys() == ["long"]
    assert await store.delete("short") is False
    await store.cull()
    objects.clock = lambda: now
    assert await store.get("short") is None
    assert await store.get("long") == {"a": 1}
    await store.put("long", {"a": 2})
    assert await store.ttl("long") == ({"a": 2}, None)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_compare_and_set(store: KeyValueStore) -> None:
    assert await store.entry("k") is None
    etag = await store.compare_and_set("k", {"n": 1}, etag=None, ttl=1000)
    with pytest.raises(PreconditionFailedError):
        await store.compare_and_set("k", {"n": 0}, etag=None)
    found = await store.entry("k")
    assert found is not None
    assert (found.value, found.etag) == ({"n": 1}, etag)
    assert found.ttl == pytest.approx(1000, abs=100)
    second = await store.compare_and_set("k", {"n": 2}, etag=etag)
    with pytest.raises(PreconditionFailedError):
        await store.compare_and_set("k", {"n": 3}, etag=etag)
    with pytest.raises(PreconditionFailedError):
        await store.compare_and_delete("k", etag=etag)
    assert await store.ttl("k") == ({"n": 2}, None)
    await store.compare_and_delete("k", etag=second)
    with pytest.raises(KeyNotFoundError):
        await store.compare_and_delete("k", etag=second)
    with pytest.raises(PreconditionFailedError):
        await store.compare_and_set("k", {"n": 3}, etag=second)
    assert await store.get("k") is None


@pytest.mark.parametrize("key", ["n", "n" * 300])
@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_no_update_is_lost(kind: tuple[str, Any], key: str, tmp_path: Path) -> None:
    """By stores that know nothing of each other, as of two processes."""
    config = await config_of(*kind, tmp_path)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(StorageManager(config))
        alike = StorageManager(config) if kind[0] != "memory" else StorageManager(backend=first.backend)
        second = await stack.enter_async_context(alike)
        stores = [KeyValueStore(manager) for manager in (first, second)]
        with pytest.raises(KeyNotFoundError):
            await stores[0].update(key, dict)

        async def count(store: KeyValueStore) -> None:
            for _ in range(5):
                await store.update(key, lambda value: {"n": value["n"] + 1}, initial={"n": 0})

        await asyncio.gather(*(count(store) for store in stores * 2))
        assert await stores[1].get(key) == {"n": 20}
        assert await stores[1].keys() == [key]


@pytest.mark.parametrize("kind", ["file"], indirect=True)
async def test_an_entry_is_an_object_that_people_can_read(
    store: KeyValueStore, storage: StorageManager
) -> None:
    await store.put("ann@example.com/eu", {"theme": "dark"}, collection="users")
    assert await storage.load("key-value/users/ann@example.com=2Feu") == {"theme": "dark"}
    info = await storage.info("key-value/users/ann@example.com=2Feu")
    assert info.content_type == "application/json"
    apart = KeyValueStore(storage, prefix="apps/mcp", default_collection="state")
    await apart.put("k", {"a": 1})
    assert await storage.load("apps/mcp/state/k") == {"a": 1}
    assert await store.collections() == ["users"]
    wrapped = PrefixCollectionsWrapper(apart, prefix="tenant")
    await wrapped.put("k", {"a": 2}, collection="c")
    assert await wrapped.get("k", collection="c") == {"a": 2}
