"""`AgentStorageStore` answers as LangGraph's own `InMemoryStore` does, and keeps times to live."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from integrations.langgraph import AgentStorageStore, store
from storage_lib import (
    InvalidArgumentError,
    InvalidKeyError,
    KeyNotFoundError,
    SerializationError,
    StorageConfig,
    StorageManager,
)
from tests.http_app import config_of

# azure-data-tables reads error bodies so.
pytestmark = pytest.mark.filterwarnings("ignore:Testing an element's truth value:DeprecationWarning")


@pytest.fixture(params=["memory", "file"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(StorageConfig(storage_type=request.param, base_path=tmp_path)) as opened:
        yield opened


@pytest.fixture
async def any_storage(kind: tuple[str, Any], tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with StorageManager(await config_of(*kind, tmp_path)) as opened:
        yield opened


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time on by minutes."""
    passed = timedelta()

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + passed

    def move(minutes: float) -> None:
        nonlocal passed
        passed += timedelta(minutes=minutes)

    monkeypatch.setattr(store, "datetime", Moved)
    return move


def embed(texts: list[str]) -> list[list[float]]:
    """Words that two texts share bring them near to each other."""
    vectors: list[list[float]] = []
    for text in texts:
        vector = [0.01] * 32
        for word in text.lower().split():
            vector[hashlib.sha256(word.encode()).digest()[0] % 32] += 1.0
        vectors.append(vector)
    return vectors


INDEX: Any = {"dims": 32, "embed": embed, "fields": ["text", "notes[*].text"]}

ITEMS: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("users", "ann"), "tea", {"text": "Ann drinks green tea", "rank": 1, "tags": ["a", "b"]}),
    (("users", "ann"), "cat", {"text": "Ann has a grey cat", "rank": 2, "by": {"name": "bob", "age": 4}}),
    (("users", "ann", "work"), "job", {"text": "Ann builds green houses", "rank": 3.5, "done": True}),
    (("users", "bob"), "tea", {"text": "Bob hates tea", "rank": 4, "done": None}),
    (
        ("users", "bobby"),
        "x/y?#",
        {"text": "Bobby ☃", "rank": 5, "notes": [{"text": "grey cat"}, {"text": "no"}]},
    ),
    (("teams", "ann"), "", {"note": "no text", "rank": "six"}),
    (("a!b", "c/d", "é\u0301"), "k" * 400, {"text": "odd names", "rank": -7}),
]


async def filled(target: BaseStore) -> BaseStore:
    for namespace, key, value in ITEMS:
        await target.aput(namespace, key, value)
    return target


def seen(items: Any) -> list[Any]:
    """What can be compared of a store's answer, in one order."""
    return sorted((item.namespace, item.key, json.dumps(item.value)) for item in items)


FILTERS: list[Any] = [
    None,
    {},
    {"rank": 2},
    {"rank": {"$eq": 2}},
    {"rank": {"$ne": 2}},
    {"tags": ["a", "b"]},
    {"tags": ["a"]},
    {"tags": ("a", "b")},
    {"by": {"name": "bob"}},
    {"by": {"name": "bob", "age": {"$gte": 4}}},
    {"by": {"age": 5}},
    {"done": True},
    {"done": None},
    {"text": "Bob hates tea", "rank": 4},
    {"absent": 1},
]
RANGES: list[Any] = [
    {"rank": {"$gt": 2}},
    {"rank": {"$gte": 2, "$lt": 4}},
    {"rank": {"$lte": 3.5}},
    {"rank": {"$gt": "1"}},
]


@pytest.mark.parametrize("kind", ["memory", "file", "azurite"], indirect=True)
async def test_it_answers_as_the_store_in_memory_does(any_storage: StorageManager) -> None:
    ours = await filled(AgentStorageStore(any_storage))
    theirs = await filled(InMemoryStore())
    for namespace, key, _ in [*ITEMS, (("users",), "tea", {}), (("users", "ann"), "none", {})]:
        mine, other = await ours.aget(namespace, key), await theirs.aget(namespace, key)
        assert (mine is None) == (other is None)
        assert mine is None or seen([mine]) == seen([other])
    for prefix in [
        (),
        ("users",),
        ("users", "ann"),
        ("users", "bob"),
        ("us",),
        ("a!b",),
        ("users", "ann", "x"),
    ]:
        for wanted in FILTERS:
            asked = {"filter": wanted, "limit": 100}
            assert seen(await ours.asearch(prefix, **asked)) == seen(await theirs.asearch(prefix, **asked)), (
                prefix,
                wanted,
            )
    for wanted in RANGES:  # The store in memory fails at texts that are no numbers.
        asked = {"filter": wanted, "limit": 100}
        assert seen(await ours.asearch(("users",), **asked)) == seen(
            await theirs.asearch(("users",), **asked)
        )
    theirs = await filled(InMemoryStore())  # Reading from a namespace makes it one there.
    for conditions in [
        {},
        {"prefix": ("users",)},
        {"prefix": ("users", "*")},
        {"prefix": ("*", "ann")},
        {"suffix": ("ann",)},
        {"suffix": ("ann", "*")},
        {"prefix": ("users",), "suffix": ("work",)},
        {"prefix": ("users", "ann", "work", "more")},
        {"prefix": ("us",)},
    ]:
        for more in [{}, {"max_depth": 1}, {"max_depth": 2}, {"limit": 2}, {"limit": 2, "offset": 1}]:
            asked = conditions | more
            assert await ours.alist_namespaces(**asked) == await theirs.alist_namespaces(**asked), asked


async def test_reads_of_a_batch_come_first_and_its_last_write_counts(storage: StorageManager) -> None:
    ops: list[Any] = [
        PutOp(("n",), "a", {"v": 2}),
        GetOp(("n",), "a"),
        PutOp(("n",), "a", {"v": 3}),
        SearchOp(("n",)),
        ListNamespacesOp((MatchCondition("prefix", ("n",)),)),
        PutOp(("n",), "b", None),
    ]
    answers = []
    for each in (AgentStorageStore(storage), InMemoryStore()):
        await each.aput(("n",), "a", {"v": 1})
        await each.aput(("n",), "b", {"v": 1})
        found = await each.abatch(ops)
        answers.append(
            (
                [None if item is None else type(item).__name__ for item in found],
                seen([found[1]]),
                seen(found[3]),
                found[4],
                seen(await each.asearch(("n",))),
            )
        )
    assert answers[0] == answers[1]


def test_it_works_without_async_and_in_a_running_loop(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(base_path=tmp_path))
    ours = AgentStorageStore(storage, index=INDEX)
    ours.put(("users", "ann"), "tea", {"text": "green tea"})
    assert [item.key for item in ours.search(("users",), query="tea")] == ["tea"]

    async def notebook() -> Any:
        return ours.get(("users", "ann"), "tea")

    assert asyncio.run(notebook()).value == {"text": "green tea"}
    ours.delete(("users", "ann"), "tea")
    assert ours.list_namespaces() == []
    ours.close()
    asyncio.run(storage.close())


async def test_an_item_keeps_its_beginning_and_large_ones_leave_nothing_behind(
    storage: StorageManager,
) -> None:
    ours = AgentStorageStore(storage)
    large = {"text": hashlib.shake_256(b"x").hexdigest(500_000)}
    await ours.aput(("n",), "k", large)
    first = await ours.aget(("n",), "k")
    assert first is not None
    assert first.value == large
    assert len(await storage.list_keys("langgraph-store/")) == 1
    await ours.aput(("n",), "k", large | {"more": 1})
    second = await ours.aget(("n",), "k")
    assert second is not None
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    assert len(await storage.list_keys("langgraph-store/")) == 1
    await ours.adelete(("n",), "k")
    assert await storage.list_keys("langgraph-store/") == []
    await ours.adelete(("n",), "k")


async def test_a_time_to_live_begins_anew_when_an_item_is_read(
    storage: StorageManager, clock: Callable[[float], None]
) -> None:
    ours = AgentStorageStore(storage, ttl={"default_ttl": 10})
    await ours.aput(("n",), "read", {"v": 1})
    await ours.aput(("n",), "left", {"v": 2})
    await ours.aput(("n",), "found", {"v": 3}, ttl=9)
    await ours.aput(("m",), "looked", {"v": 4}, ttl=10)
    await ours.aput(("n",), "ever", {"v": 5}, ttl=None)
    clock(8)
    assert await ours.aget(("n",), "read")
    assert await ours.aget(("m",), "looked", refresh_ttl=False)
    assert [item.key for item in await ours.asearch(("n",), filter={"v": 3})] == ["found"]
    clock(8)
    assert await ours.aget(("n",), "left") is None
    assert await ours.aget(("m",), "looked") is None
    assert sorted(item.key for item in await ours.asearch((), refresh_ttl=False)) == ["ever", "found", "read"]
    assert await ours.alist_namespaces() == [("n",)]
    assert await ours.asweep() == 2
    clock(60)
    assert await ours.asweep() == 2
    assert [item.key for item in await ours.asearch(())] == ["ever"]
    await ours.aput(("n",), "read", {"v": 6})
    item = await ours.aget(("n",), "read")
    assert item is not None
    assert item.created_at > datetime.now(UTC) + timedelta(minutes=70)


async def test_reading_need_not_begin_a_time_to_live_anew(
    storage: StorageManager, clock: Callable[[float], None]
) -> None:
    ours = AgentStorageStore(storage, ttl={"default_ttl": 10, "refresh_on_read": False})
    await ours.aput(("n",), "k", {"v": 1})
    clock(8)
    assert await ours.aget(("n",), "k")
    clock(3)
    assert await ours.aget(("n",), "k") is None


@pytest.mark.parametrize(
    "minutes",
    [1e9, 4.1e9, 1e12, 1e300, float("inf"), 10**400],
    ids=lambda minutes: f"{len(str(minutes))} digits",
)
async def test_a_time_to_live_beyond_all_dates_is_none(storage: StorageManager, minutes: float) -> None:
    ours = AgentStorageStore(storage)
    await ours.aput(("n",), "k", {"v": 1}, ttl=minutes)
    for _ in range(2):
        assert await ours.aget(("n",), "k") is not None
        assert len(await ours.asearch(())) == 1
    assert await ours.asweep() == 0


QUERIES: list[dict[str, Any]] = [
    {"query": "green tea"},
    {"query": "grey cat", "limit": 3},
    {"query": "grey cat", "limit": 2, "offset": 1},
    {"query": "green", "filter": {"rank": {"$gte": 2}}},
    {"query": "nothing at all", "limit": 100},
]


@pytest.mark.parametrize("prefix", [(), ("users",), ("users", "ann")])
async def test_a_search_by_meaning_finds_what_the_store_in_memory_finds(
    storage: StorageManager, prefix: tuple[str, ...]
) -> None:
    pairs = []
    for target in (AgentStorageStore(storage, index=INDEX), InMemoryStore(index=INDEX)):
        for namespace, key, value in ITEMS[:5]:
            await target.aput(namespace, key, value)
        await target.aput(("users", "ann"), "hidden", {"text": "green tea", "rank": 9}, index=False)
        await target.aput(("users", "ann"), "other", {"title": "grey tea", "rank": 9}, index=["title"])
        pairs.append([await target.asearch(prefix, **query) for query in QUERIES])
    for query, mine, others in zip(QUERIES, *pairs, strict=True):
        assert [item.score for item in mine] == pytest.approx([item.score for item in others], abs=1e-5), (
            query
        )
        best = {item.score: (item.namespace, item.key) for item in others if item.score is not None}
        ties = len({round(score, 6) for score in best}) < len(others)
        if not ties:
            assert [(item.namespace, item.key) for item in mine] == list(best.values()), query


async def test_a_search_that_would_compare_too_much_is_refused(storage: StorageManager) -> None:
    ours = AgentStorageStore(storage, index=INDEX, max_vectors=3)
    for number in range(4):
        await ours.aput(("n", str(number % 2)), str(number), {"text": f"number {number}"})
    with pytest.raises(InvalidArgumentError, match="more than 3 embeddings") as refused:
        await ours.asearch(("n",), query="number")
    assert refused.value.field == "query"
    assert len(await ours.asearch(("n", "0"), query="number")) == 2


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "soon"], ids=str)
async def test_a_life_that_cannot_be_is_refused(storage: StorageManager, ttl: Any) -> None:
    store = AgentStorageStore(storage)
    await store.aput(("a",), "k", {"a": 1})
    with pytest.raises(InvalidArgumentError) as refused:
        await store.aput(("a",), "k", {"a": 2}, ttl=ttl)
    assert refused.value.field == "ttl"
    with pytest.raises(SerializationError, match="list"):
        await store.aput(("a",), "k", [1])  # type: ignore[arg-type]
    found = await store.aget(("a",), "k")
    assert found is not None
    assert found.value == {"a": 1}


async def test_what_cannot_be_stored_is_refused_by_name(storage: StorageManager) -> None:
    ours = AgentStorageStore(storage, index=INDEX)
    with pytest.raises(SerializationError, match="not JSON"):
        await ours.aput(("n",), "k", {"v": object()})
    with pytest.raises(InvalidKeyError) as refused:
        await ours.aput(tuple("label" * 10 for _ in range(12)), "k", {})
    assert refused.value.field == "namespace"
    with pytest.raises(InvalidNamespaceError):
        await ours.abatch([PutOp(("a.b",), "k", {})])
    await ours.aput(("n",), "k", {"v": 1})
    with pytest.raises(InvalidArgumentError, match=r"\$like"):
        await ours.asearch(("n",), filter={"v": {"$like": "x"}})
    with pytest.raises(InvalidArgumentError, match="shape"):
        await AgentStorageStore(storage, index=INDEX | {"dims": 3}).aput(("n",), "k", {"text": "x"})
    await ours.aput(("v",), "k", {"text": "x"})
    halved = INDEX | {"dims": 16, "embed": lambda texts: [vector[:16] for vector in embed(texts)]}
    with pytest.raises(InvalidArgumentError, match="embeddings of 32 numbers") as other:
        await AgentStorageStore(storage, index=halved).asearch(("v",), query="x")
    assert other.value.field == "index.dims"


@pytest.mark.parametrize(
    "refused",
    [
        PutOp(("n",), "b", {"v": {1}}),
        PutOp(("n",), "b", {"deep": [{1: "a"}]}),
        PutOp(("n",), "b", {"v": "\ud800"}),
        PutOp(("x" * 600,), "b", {"v": 1}),
        PutOp(("n",), "b", {"v": 1}, ttl=float("nan")),
        PutOp(("n",), "b", {"text": ["x"] * 7000}, index=["text[*]"]),
    ],
    ids=["type", "name", "text", "namespace", "ttl", "embeddings"],
)
async def test_nothing_of_a_batch_is_written_where_a_part_is_refused(
    storage: StorageManager, refused: PutOp
) -> None:
    ours = AgentStorageStore(storage, index=INDEX)
    with pytest.raises((SerializationError, InvalidKeyError, InvalidArgumentError)):
        await ours.abatch([PutOp(("n",), "a", {"v": 1}), refused, PutOp(("n",), "c", {"v": 1})])
    assert await ours.asearch(()) == []


async def test_a_large_item_can_be_read_while_it_is_written_anew(
    storage: StorageManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = AgentStorageStore(storage)
    values = [
        {"n": number, "text": hashlib.shake_256(b"%d" % number).hexdigest(300_000)} for number in range(2)
    ]
    await ours.aput(("n",), "k", values[0])
    content = ours._rows.content
    others: list[Any] = []

    async def slow(*given: Any) -> Any:
        if others:
            await AgentStorageStore(storage).aput(("n",), "k", others.pop())
        return await content(*given)

    with monkeypatch.context() as patched:
        patched.setattr(ours._rows, "content", slow)
        others = [values[1]]
        found = await ours.aget(("n",), "k")
        assert found is not None
        assert found.value == values[1]
        others = [values[0]]
        assert [item.value for item in await ours.asearch((), filter={"n": {"$gte": 0}})] == [values[0]]
        others = [None]
        assert await ours.aget(("n",), "k") is None
    await ours.aput(("n",), "k", values[0])
    await storage.delete_prefix("langgraph-store/")
    with pytest.raises(KeyNotFoundError):
        await ours.aget(("n",), "k")
