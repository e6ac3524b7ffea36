"""Storage of Strands Agents: its own and ours, by the same calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strands import Agent
from strands.models import Model
from strands.session import SnapshotSessionManager
from strands.storage import InMemoryStorage, LocalFileStorage, Storage
from strands.types.exceptions import StorageError

from integrations.strands import AgentStorage
from storage_lib import MemoryBackend, StorageConfig, StorageManager
from tests.framework_stores import Place, on, storage_on


@pytest.fixture(params=["memory", "file", "azurite"])
def place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture(params=["InMemory", "LocalFile", "memory", "file", "azurite"])
def any_place(request: pytest.FixtureRequest) -> Place:
    return on(request)


@pytest.fixture
async def storage(place: Place, tmp_path: Path) -> AsyncIterator[StorageManager]:
    async with storage_on(place, tmp_path) as storage:
        yield storage


@pytest.fixture
async def stored(any_place: Place, tmp_path: Path) -> AsyncIterator[Storage]:
    match any_place[0]:
        case "InMemory":
            yield InMemoryStorage()
        case "LocalFile":
            yield LocalFileStorage(str(tmp_path))
        case _:
            async with storage_on(any_place, tmp_path) as storage:
                yield AgentStorage(storage)


async def test_bytes_come_back(stored: Storage) -> None:
    assert isinstance(stored, Storage)
    assert await stored.read("a/b.json") is None
    await stored.delete("a/b.json")
    await stored.write("a/b.json", b"\x00\xff{}")
    await stored.write("/a//c/", b"")
    assert await stored.read("a/b.json") == b"\x00\xff{}"
    assert await stored.read("a/c") == b""
    await stored.write("a/b.json", b"again")
    assert await stored.read("//a/b.json") == b"again"
    await stored.delete("a/b.json")
    await stored.delete("a/b.json")
    assert await stored.read("a/b.json") is None
    large = bytes(range(256)) * 20_000
    await stored.write("large", large)
    assert await stored.read("large") == large


async def test_keys_are_listed_by_their_beginning(stored: Storage) -> None:
    keys = ["a/one", "a/two", "a/deep/three", "ab", "b/one", "ü/x y", "é.e"]
    for key in reversed(keys):
        await stored.write(key, key.encode())
    assert await stored.list("") == sorted(keys)
    for query in ("a", "a/", "a/t", "a/deep/", "/a//o", "b", "ü/x", "c", "a/one", "a/one/"):
        wanted = query.replace("//", "/").lstrip("/")
        assert await stored.list(query) == sorted(key for key in keys if key.startswith(wanted))


async def test_what_leads_outside_is_refused(stored: Storage) -> None:
    for key in ("", "/", "a/../b", "..", "a\\b"):
        for call in (stored.read(key), stored.write(key, b""), stored.delete(key)):
            with pytest.raises(StorageError):
                await call
    for query in ("..", "a/../", "a\\"):
        with pytest.raises(StorageError):
            await stored.list(query)


KEYS = [
    "a b",
    ".hidden",
    "dots...",
    "u\u0308",
    "漢字🎉",
    "a%2Fb",
    "x=2Fy",
    "=",
    "q?*#&+",
    "t\tn",
    "A",
    "a",
    "in/a./=/x",
]


async def test_keys_are_any_text(storage: StorageManager) -> None:
    stored = AgentStorage(storage, prefix="agents/ceo/")
    for key in KEYS:
        await stored.write(key, key.encode())
    for key in KEYS:
        assert await stored.read(key) == key.encode()
        assert key in await stored.list(key)
    assert await stored.list() == sorted(KEYS)
    assert all(key.startswith("agents/ceo/") for key in await storage.list_keys())
    with pytest.raises(StorageError, match="255"):
        await stored.write("k" * 256, b"")


async def test_what_others_stored_is_there(storage: StorageManager) -> None:
    await storage.write("strands/notes/plan a.md", b"# Plan")
    await storage.write("strands/odd=name", b"")
    stored = AgentStorage(storage)
    assert await stored.read("notes/plan a.md") == b"# Plan"
    assert await stored.list() == ["notes/plan a.md", "odd=name"]
    assert [each.key for each in await stored.search("plan")] == ["notes/plan a.md"]


async def test_a_failure_is_an_error_of_strands(tmp_path: Path) -> None:
    storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
    stored = AgentStorage(storage)
    await stored.write("a", b"")
    await storage.close()
    for call in (stored.read("a"), stored.write("a", b""), stored.delete("a"), stored.list()):
        with pytest.raises(StorageError, match="closed"):
            await call


async def test_bytes_end_with_their_time_to_live() -> None:
    now = [1_000_000.0]
    async with StorageManager(backend=MemoryBackend(clock=lambda: now[0])) as storage:
        stored = AgentStorage(storage, ttl=60)
        await stored.write("a", b"1")
        now[0] += 61
        assert await stored.read("a") is None
        assert await stored.list() == []


CALLS = st.tuples(
    st.sampled_from(["write", "read", "delete", "list"]), st.text(st.sampled_from("ab/.=_ "), max_size=6)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(CALLS, max_size=15))
def test_any_calls_have_the_results_of_strands_own(calls: list[tuple[str, str]]) -> None:
    async def outcome(stored: Any, call: str, key: str, number: int) -> Any:
        try:
            more = (str(number).encode(),) if call == "write" else ()
            return await getattr(stored, call)(key, *more)
        except StorageError:
            return "refused"

    async def compare() -> None:
        async with StorageManager(StorageConfig(storage_type="memory")) as storage:
            theirs, ours = InMemoryStorage(), AgentStorage(storage)
            for number, call in enumerate(calls):
                assert await outcome(ours, *call, number) == await outcome(theirs, *call, number), call

    asyncio.run(compare())


class Scripted(Model):
    """Says how many messages it was given."""

    def update_config(self, **more: Any) -> None: ...

    def get_config(self) -> Any:
        return {}

    def structured_output(self, *arguments: Any, **more: Any) -> Any:
        raise NotImplementedError

    async def stream(self, messages: Any, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": f"{len(messages)} messages"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def test_an_agent_remembers_in_another_process(tmp_path: Path) -> None:
    """Its session manager calls the storage in several event loops."""
    for turn, expected in enumerate(("1 messages", "3 messages", "5 messages")):
        storage = StorageManager(StorageConfig(storage_type="file", base_path=tmp_path))
        session = SnapshotSessionManager("ann", storage=AgentStorage(storage))
        agent = Agent(model=Scripted(), session_manager=session, callback_handler=None)
        assert str(agent(f"turn {turn}")).strip() == expected
        asyncio.run(storage.close())
